"""Wan 2.1 and 2.2: latents, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import Example, _wan, video_inputs

EXAMPLE = Example(_wan.NARROW, video_inputs("text_dim"), layer=9, small=_wan.SMALL)

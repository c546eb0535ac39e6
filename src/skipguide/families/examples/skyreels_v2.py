"""SkyReels V2: Wan's inputs."""

from __future__ import annotations

from skipguide.families.examples import Example, _wan, video_inputs

EXAMPLE = Example(_wan.NARROW, video_inputs("text_dim"), layer=9, small=_wan.SMALL)

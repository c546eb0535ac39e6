"""The sound that a pipeline returns beside its videos (LTX-2), as a file keeps it."""

from __future__ import annotations

from typing import Any

from skipguide.files.sound import Sound
from skipguide.method.protocols import Pipeline


def sound_of(pipe: Pipeline, output: Any, index: int = 0) -> Sound | None:
    """Return the sound of one video of a batch; None for pipelines that make none.

    Args:
        pipe: has a vocoder, whose configuration states the sampling rate.
        output: what the pipeline returned; `audio` of it is `(B, C, N)` floats in [-1, 1].
        index: of the video.

    Raises:
        ValueError: if the sound is not finite, or nothing states its sampling rate.
    """
    audio = getattr(output, "audio", None)
    if audio is None:
        return None
    return Sound.from_floats(audio[index].detach().float().cpu().numpy(), sampling_rate(pipe))


def sampling_rate(pipe: Pipeline) -> int:
    """Return the samples per second of the sound that a pipeline makes.

    Raises:
        ValueError: if it has no vocoder that states them.
    """
    config = getattr(getattr(pipe, "vocoder", None), "config", None)
    rate = getattr(config, "output_sampling_rate", None)
    if rate is None:
        raise ValueError(
            "a pipeline that makes sound must have a vocoder with output_sampling_rate in its"
            f" configuration, but the {type(pipe).__name__} has none. Load it with its vocoder."
        )
    return int(rate)

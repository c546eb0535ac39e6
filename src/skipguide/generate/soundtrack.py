"""The sound that a pipeline returns beside its videos (LTX-2, Kandinsky 6), as a file keeps it."""

from __future__ import annotations

from typing import Any

import numpy as np

from skipguide.files.sound import Sound
from skipguide.method.protocols import Pipeline


def sound_of(pipe: Pipeline, output: Any, index: int = 0) -> Sound | None:
    """Return the sound of one video of a batch; None for pipelines that make none.

    Args:
        pipe: states the sampling rate, as `sampling_rate` finds it.
        output: what the pipeline returned; `audio` of it is `(B, C, N)` or `(B, N)` floats in
            [-1, 1].
        index: of the video.

    Raises:
        ValueError: if the sound is not finite, or nothing states its sampling rate.
    """
    audio = getattr(output, "audio", None)
    if audio is None:
        return None
    rate = sampling_rate(pipe)
    if rate is None:
        raise ValueError(f"a sound must have a sampling rate, but {missing_rate_note(pipe)}.")
    one = audio[index]
    samples = one if isinstance(one, np.ndarray) else one.detach().float().cpu().numpy()
    return Sound.from_floats(samples, rate)


def sampling_rate(pipe: Pipeline) -> int | None:
    """Return the samples per second of the sound that a pipeline makes; None if nothing says it."""
    config = getattr(getattr(pipe, "vocoder", None), "config", None)
    # LTX-2's vocoder makes another rate than its audio VAE has; Kandinsky 6 states that of both.
    rate = getattr(config, "output_sampling_rate", getattr(pipe, "audio_sample_rate", None))
    return None if rate is None else int(rate)


def missing_rate_note(pipe: Pipeline) -> str:
    """Say why a sound cannot be written."""
    return (
        f"nothing states the sampling rate of the sound of {type(pipe).__name__}, neither its"
        " vocoder's output_sampling_rate nor audio_sample_rate of its own"
    )

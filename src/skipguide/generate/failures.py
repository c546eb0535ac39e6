"""Say in words why a call failed, where its settings can mend it."""

from __future__ import annotations

import re

from skipguide.files.text import first_line
from skipguide.generate.settings import GenerationSettings
from skipguide.models.memory import is_out_of_memory

# What torch says of tensors that do not fit each other or a layer, in its own words.
_SHAPES = re.compile(
    r"shape '.*' is invalid|size of tensor a|[Ss]izes of tensors must match|cannot be multiplied"
    r"|greater than actual input size|Output size is too small|size mismatch"
    r"|must match the (?:existing )?size|expected size|Padding size should be less"
    r"|Input and output sizes should be greater"
    r"|unable to view|invalid for input of size",
)


def explain(error: BaseException, model: str, settings: GenerationSettings) -> ValueError | None:
    """Return the user's error behind one of torch; None for any other, which is a fault.

    Args:
        error: what a call of the pipeline raised.
        model: the class of the pipeline.
        settings: of the video.
    """
    if is_out_of_memory(error):
        return ValueError(
            f"memory must be enough for a {settings.noun} of {_size(settings)}, but it ran out"
            f" ({first_line(error)[:200]}). Take --offload model or group, --vae-tiling,"
            f" {_smaller(settings)}."
        )
    if type(error) is RuntimeError and _SHAPES.search(str(error)):
        return ValueError(
            f"{_sides(settings)} must be a size that {model} can run, but {_size(settings)} failed"
            f" ({first_line(error)[:200]}). Choose another size with {_options(settings)}."
        )
    return None


def _smaller(settings: GenerationSettings) -> str:
    if settings.makes_picture:
        return "or a smaller --height and --width"
    return "a smaller --height and --width, or fewer --num-frames"


def _sides(settings: GenerationSettings) -> str:
    return "height x width" if settings.makes_picture else "height x width x num_frames"


def _options(settings: GenerationSettings) -> str:
    if settings.makes_picture:
        return "--height or --width"
    return "--height, --width or --num-frames"


def _size(settings: GenerationSettings) -> str:
    numbers = [settings.height, settings.width]
    if not settings.makes_picture:
        numbers.append(settings.num_frames)
    return " x ".join("the model's own" if number is None else str(number) for number in numbers)

"""The names of the files that generate and compare write: an mp4, or a PNG or WebP of models that
make pictures."""

from __future__ import annotations

from pathlib import Path

from skipguide.cli import options
from skipguide.generate.settings import GenerationSettings

PICTURES = (".png", ".webp")
SUFFIXES = (".mp4", *PICTURES)


def is_clip_name(path: Path) -> bool:
    """Return whether a name is that of one clip, and not of a folder."""
    return path.suffix.lower() in SUFFIXES


def choose_suffix(settings: GenerationSettings, makes: str) -> str:
    """Return the suffix of the file of what is made.

    Args:
        makes: what the model makes, "video" or "image".
    """
    return f".{settings.picture_format or 'png'}" if makes == "image" else ".mp4"


def read_format(settings: GenerationSettings, out: Path, makes: str) -> GenerationSettings:
    """Return the settings with the picture format that the name of the file says.

    Raises:
        ValueError: if the file is named as something that the model does not make, or has another
            format than was asked for.
    """
    if makes == "video":
        options.check_suffix(out, ".mp4")
        return settings
    options.check_suffix(out, *PICTURES)
    named = out.suffix.lower().removeprefix(".")
    asked = settings.picture_format
    if asked not in (None, named):
        raise ValueError(
            f"--out must be named .{asked} with --picture-format {asked}, but got {str(out)!r}."
            " Leave one of them out."
        )
    if named == "png":
        return settings
    return settings.model_copy(update={"picture_format": named})


def check_made(settings: GenerationSettings, target: Path) -> None:
    """Check that a model makes what its configuration let expect.

    Args:
        settings: complete.

    Raises:
        ValueError: if the file is to be of another kind.
    """
    if settings.suffix != target.suffix.lower():
        raise ValueError(
            f"the output must be named {settings.suffix} for a model that makes a {settings.noun},"
            f" but got {str(target)!r}. Name it {target.with_suffix(settings.suffix).name}."
        )

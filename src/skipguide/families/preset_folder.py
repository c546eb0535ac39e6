"""The folder of one's own presets, and the files that names in it stand for.

What lies there is never applied by itself: only when it is named.
"""

from __future__ import annotations

import os
from pathlib import Path

from skipguide.method import validate

SUFFIX = ".toml"


def preset_folder() -> Path:
    """Return the folder: skipguide/presets in $XDG_CONFIG_HOME, or else in ~/.config."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # What is not absolute is to be ignored (XDG Base Directory Specification).
    home = Path(config) if Path(config).is_absolute() else Path.home() / ".config"
    return home / "skipguide" / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets of one's own, without ".toml"."""
    return sorted(
        path.stem
        for path in preset_folder().glob(f"*{SUFFIX}")
        if path.is_file() and is_preset_name(path.stem)
    )


def is_preset_name(text: str) -> bool:
    """Return whether a text may be the name of a preset in the folder, and names no other place."""
    separators = {"/", "\\", os.sep, os.altsep or os.sep}
    return (
        bool(text.strip())
        and not text.startswith(".")
        and not text.lower().endswith(SUFFIX)
        and not separators & set(text)
        and text.isprintable()
    )


def find_preset_file(given: str | Path, base: Path = Path()) -> Path:
    """Return the file that a path, or a name without ".toml", stands for.

    Args:
        given: a path; or a name, which is looked up in the folder of one's own.
        base: the folder from which a relative path counts.

    Raises:
        ValueError: if there is none.
    """
    text = str(given)
    if isinstance(given, str) and is_preset_name(text):
        return _find_by_name(text, base)
    path = base / Path(text).expanduser()
    if path.is_file():
        return path
    what = "a folder" if path.is_dir() else "there is none"
    known = Path(text).stem in preset_names() and Path(text).name == text
    advice = f"Name the one in {preset_folder()} {Path(text).stem!r}." if known else (
        "Check the name."
    )  # fmt: skip
    raise ValueError(f"the preset must be a file that is there, but {text}: {what}. {advice}")


def _find_by_name(name: str, base: Path) -> Path:
    path = preset_folder() / f"{name}{SUFFIX}"
    if path.is_file():
        return path
    known = preset_names()
    beside = base / f"{name}{SUFFIX}"
    if beside.is_file():
        advice = f"For the file {beside.name} write its name in full."
    else:
        advice = validate.did_you_mean(
            name, known, "`skipguide presets --add tune.toml` puts one there."
        )
    raise ValueError(
        f"the preset must be a file with its suffix {SUFFIX}, or the name of one in"
        f" {preset_folder()} ({', '.join(known) or 'which has none'}), but got {name!r}. {advice}"
    )

"""The folders of the packaged weights."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

NAMES = ("lab-mochi", "lab-svd", "lab-opensora")
JUDGES = ("judge", "open-judge")
WEIGHTS = Path(str(resources.files("skipguide.lab"))) / "weights"


def packaged_path(name: str) -> Path:
    """Return the folder of a packaged model: a lab pipeline in diffusers layout, or a judge.

    Raises:
        ValueError: if no packaged model has this name.
        FileNotFoundError: if this installation came without the weights.
    """
    if name not in (*NAMES, *JUDGES):
        raise ValueError(
            f"a packaged model must be one of {', '.join(NAMES)}, but got {name!r}. Choose one of"
            " them."
        )
    folder = WEIGHTS / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the weights of {name} must be in {folder}, but they are not there. Reinstall"
            " skipguide, or train them: `skipguide lab train`, `lab score`, `lab pack`."
        )
    return folder

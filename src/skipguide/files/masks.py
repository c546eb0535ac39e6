"""Read a mask of a video: grey values of a picture or of a video, black 0 and white 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from skipguide.files import hash_cache
from skipguide.files import image as image_file
from skipguide.files import video as video_file

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read(path: Path) -> tuple[npt.NDArray[np.float32], str]:
    """Return the mask in a file and the sha256 of the file.

    Args:
        path: a picture, by the end of its name, or a video. Of colours the mean counts.

    Returns:
        `(F, H, W)` from 0 to 1, with one frame for a picture; and the hash.

    Raises:
        ValueError: if there is no such file, or it can be read as neither.
    """
    if not path.is_file():
        raise ValueError(
            f"mask must be the name of a picture or video, but there is no file {str(path)!r}."
            " Check the name."
        )
    if path.suffix.lower() in _PICTURES:
        frames = np.asarray(image_file.read(path))[None]
    else:
        frames = video_file.read(path)[0]
    grey = frames.astype(np.float32).mean(-1) / 255
    return grey.clip(0, 1).astype(np.float32), hash_cache.read_sha256(path)

"""Picture files that a model made: PNG, or WebP without loss, with the record of how it was made.

A PNG has the record in an iTXt chunk, a WebP in its XMP packet. A file appears under its name only
when it is complete, and equal pixels and records give equal bytes.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.sax.saxutils import escape, unescape

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from skipguide.files import image
from skipguide.files.atomic import atomic_replace
from skipguide.files.frames import Frames
from skipguide.files.record_text import METADATA_TAG, parse_record, sidecar_path
from skipguide.files.text import dump_json
from skipguide.method.protocols import PlainData, ReadOnlyData

FORMATS = {".png": "PNG", ".webp": "WEBP"}  # by suffix
_WEBP_SIDE = 16_383  # pixels that the format takes
_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    ' rdf:about="" xmlns:skipguide="urn:skipguide"><skipguide:record>{}</skipguide:record>'
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_IN_XMP = re.compile(r"<skipguide:record>(.*?)</skipguide:record>", re.DOTALL)


def is_picture(path: Path) -> bool:
    """Return whether a clip of this name is a picture."""
    return path.suffix.lower() in FORMATS


def write(path: Path, frames: Frames, record: ReadOnlyData) -> None:
    """Write a picture with its record inside, and the same record beside it.

    Args:
        path: whose suffix says the format, .png or .webp.
        frames: `(1, H, W, 3)`.

    Raises:
        ValueError: if the frames have another shape or type, or the format cannot hold them.
    """
    text = dump_json(record, indent=2, allow_nan=False)
    content = encode(frames, path.suffix, text)
    with atomic_replace(path, sidecar_path(path)) as (picture_part, record_part):
        record_part.write_text(text + "\n", encoding="utf-8")
        picture_part.write_bytes(content)


def encode(frames: Frames, suffix: str, text: str | None) -> bytes:
    """Return the bytes of a picture file.

    Args:
        frames: `(1, H, W, 3)`.
        suffix: .png or .webp.
        text: what stands in the place of the record; None for a file without one.

    Raises:
        ValueError: as `write`.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != 1 or frames.shape[-1] != 3:
        raise ValueError(
            f"a picture must be (1, H, W, 3) uint8, but got {frames.shape} {frames.dtype}. Convert"
            " it first."
        )
    file, drawn = io.BytesIO(), Image.fromarray(np.ascontiguousarray(frames[0]))
    if FORMATS[suffix.lower()] == "PNG":
        chunks = PngInfo()
        if text is not None:
            chunks.add_itxt(METADATA_TAG, text)
        drawn.save(file, format="PNG", pnginfo=chunks)
        return file.getvalue()
    if max(drawn.size) > _WEBP_SIDE:
        raise ValueError(
            f"a WebP has at most {_WEBP_SIDE} pixels a side, but the picture is {drawn.width} x"
            f" {drawn.height}. Write a PNG: --picture-format png."
        )
    packet = {} if text is None else {"xmp": _XMP.format(escape(text)).encode()}
    drawn.save(file, format="WEBP", lossless=True, **packet)
    return file.getvalue()


def read(path: Path) -> Frames:
    """Read a picture as `(1, H, W, 3)`.

    Raises:
        ValueError: if there is no such file, it is not a picture, or a part of it is missing.
    """
    return np.asarray(image.read(path))[None]


def read_record(path: Path) -> PlainData:
    """Read the record of a picture from the file itself, or else from the sidecar.

    Raises:
        ValueError: if there is no such file, it is not a picture, or neither place has a readable
            record.
    """
    return parse_record(path, find_text(path), "picture")


def find_text(path: Path) -> str | None:
    """Return what stands in a picture as its record; None without one.

    Raises:
        ValueError: if there is no such file, or it is not a picture.
    """
    with image.opened(path) as picture:
        if isinstance(picture, PngImageFile):
            found = picture.info.get(METADATA_TAG)
            return found if isinstance(found, str) else None
        packet = picture.info.get("xmp")
    text = packet.decode(errors="replace") if isinstance(packet, bytes) else ""
    inside = _IN_XMP.search(text)
    return unescape(inside[1]) if inside else None

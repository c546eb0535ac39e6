"""Links as QR codes, for phones: in the terminal, as SVG and as PNG."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

MOST_LETTERS = 1000  # of a link; a phone cannot read finer codes from a screen
_QUIET = 4  # modules around the code, as ISO 18004 asks for
_HALVES = {(0, 0): " ", (0, 1): "▄", (1, 0): "▀", (1, 1): "█"}  # dark above, dark below
_INVERSE = str.maketrans(" ▄▀█", "█▀▄ ")
_BLACK_ON_WHITE, _AS_BEFORE = "\x1b[38;5;16;48;5;231m", "\x1b[0m"


def to_terminal(text: str, colours: bool) -> str:
    """Return a QR code of half blocks with its quiet zone.

    Args:
        colours: the terminal has them: black on white then, whatever its own are. Else what is
            light is drawn, for a dark terminal.
    """
    rows = [list(row) for row in _code(text).matrix_iter(border=_QUIET)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    lines = ["".join(_HALVES[a, b] for a, b in zip(*pair, strict=True)) for pair in pairs]
    if not colours:
        return "\n".join(lines).translate(_INVERSE)
    return "\n".join(f"{_BLACK_ON_WHITE}{line}{_AS_BEFORE}" for line in lines)


def to_svg(text: str) -> bytes:
    """Return a QR code as SVG, black on white."""
    return _saved(text, "svg", scale=6, light="#fff", svgclass=None, lineclass=None)


def to_png(text: str) -> bytes:
    """Return a QR code as PNG, black on white."""
    return _saved(text, "png", scale=10)


def _saved(text: str, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    _code(text).save(out, kind=kind, border=_QUIET, **how)
    return out.getvalue()


def _code(text: str) -> Any:
    """Return a QR code.

    Raises:
        ValueError: if segno is not installed.
    """
    try:
        segno = import_module("segno")
    except ImportError as error:
        raise ValueError(
            f"a QR code needs segno, but {error}. Run pip install 'skipguide[studio]'."
        ) from None
    return segno.make(text, error="m", micro=False)

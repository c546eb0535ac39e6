"""The comparison as a LaTeX table with booktabs, which pdflatex takes as it is.

Letters that pdflatex has no glyph for by itself are written with accents and symbols of LaTeX, or
as what Unicode calls them.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from skipguide.files.text import symbol_name, to_ascii
from skipguide.metrics.comparison.layout import (
    DASH,
    CellText,
    Heading,
    Panel,
    caption,
    headings,
    panels,
)
from skipguide.metrics.comparison.table import Comparison

MOST_NARROW, MOST_WIDE = 4, 6  # measures that one column and two columns of a page hold
_ARROWS = {"up": r"~$\uparrow$", "down": r"~$\downarrow$", "": ""}
_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': "''",  # straight ones have no glyph in LaTeX's oldest encoding, still its default
}  # fmt: skip
# which LaTeX joins: -- to a longer dash, '' to a quotation mark, ?` to a turned question mark
_JOINED = ("--", "''", "``", "?`", "!`")
_LETTERS = {
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}", "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}", "\N{LATIN SMALL LIGATURE OE}": r"\oe{}",
    "\N{LATIN CAPITAL LIGATURE OE}": r"\OE{}", "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}",
    "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}", "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MIDDLE DOT}": r"$\cdot$", "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{MINUS SIGN}": "$-$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}", "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''", "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LEFTWARDS ARROW}": r"$\leftarrow$", "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$", "\N{INFINITY}": r"$\infty$",
    "\N{NO-BREAK SPACE}": "~", "\N{MICRO SIGN}": r"$\mu$",
}  # fmt: skip
_GREEK = re.compile("GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)$")
# those that are letters of their own; the others look like Latin ones and have no command
_GREEK_CAPITALS = (
    "gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega",
)  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def write_latex(table: Comparison) -> str:
    """Return a `table` environment; the document needs the package booktabs.

    More measures than a page is wide for stand below each other.
    """
    place = "table*" if len(table.metrics) > MOST_NARROW else "table"
    lines = [
        "% Made by skipguide runs compare; needs \\usepackage{booktabs}.",
        *(f"% {_comment(note)}" for note in table.notes),
        rf"\begin{{{place}}}[t]",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        *_tabulars(table),
    ]
    said = " ".join(map(escape, caption(table)))
    lines += [rf"\caption{{{said}}}", r"\label{tab:comparison}", rf"\end{{{place}}}", ""]
    return "\n".join(lines)


def _tabulars(table: Comparison) -> Iterator[str]:
    titles, found = [_title(one) for one in headings(table)], panels(table)
    parts = -(-len(titles) // MOST_WIDE)
    for i, columns in enumerate(_divide(len(titles), parts)):
        yield from [r"\par\medskip"] if i else []
        yield rf"\begin{{tabular}}{{@{{}}l{'r' * len(titles[columns])}@{{}}}}"
        yield r"\toprule"
        yield _line(["", *titles[columns]])
        for panel in found:
            yield r"\midrule"
            yield from _panel(panel, columns, len(titles[columns]) + 1)
        yield r"\bottomrule"
        yield r"\end{tabular}"


def _divide(count: int, parts: int) -> Iterator[slice]:
    """Yield parts of `range(count)`, as even as they can be."""
    ends = [round(i * count / parts) for i in range(parts + 1)] if parts else [0, 0]
    yield from (slice(start, end) for start, end in itertools.pairwise(ends))


def _panel(panel: Panel, columns: slice, width: int) -> Iterator[str]:
    if panel.title:
        title = rf"\multicolumn{{{width}}}{{@{{}}l}}{{\emph{{{escape(panel.title)}}}}}"
        yield rf"{title} \\"
    for name, every in panel.rows:
        cells = every[columns]
        yield _line([escape(name), *map(_value, cells)])
        if any(cell.interval or cell.ratio for cell in cells):
            yield _line(["", *map(_below, cells)])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _title(heading: Heading) -> str:
    """Return a heading on as many lines as it has words, for narrow columns."""
    words = re.split(r"[ ]|(?<=[:/])(?=\S)", heading.title)
    lines = r"\\".join(map(escape, words)) + _ARROWS[heading.arrow]
    return rf"\shortstack[r]{{{lines}}}"


def _value(cell: CellText) -> str:
    text = cell.value if cell.value == DASH else _number(cell.value)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return text + ("$^{*}$" if cell.star else "")


def _number(text: str) -> str:
    """Return a number with signs as long as those of mathematics, also in bold."""
    return text.replace("-", r"$-$").replace("+", r"$+$")


def _below(cell: CellText) -> str:
    if cell.ratio:
        return rf"{{\scriptsize ($\times${cell.ratio})}}"
    return rf"{{\scriptsize [{_number(cell.interval)}]}}" if cell.interval else ""


def _comment(text: str) -> str:
    return " ".join(text.split())


def escape(text: str) -> str:
    """Return text of a name or sentence as LaTeX that prints it, all in ASCII."""
    composed = unicodedata.normalize("NFC", " ".join(text.split()))
    pairs = zip(composed, f" {composed}", strict=False)
    return "".join(("{}" if old + new in _JOINED else "") + _letter(new) for new, old in pairs)


def _letter(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    if letter.isascii():
        return letter if letter.isprintable() else ""
    if letter in _LETTERS:
        return _LETTERS[letter]
    if greek := _greek(letter):
        return greek
    first, *accents = unicodedata.normalize("NFD", letter)
    if first.isascii() and len(accents) == 1 and accents[0] in _ACCENTS:
        base = {"i": r"\i", "j": r"\j"}.get(first, first)
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    if plain := to_ascii(letter):
        return "".join(_SIGNS.get(one, one) for one in plain)
    if name := symbol_name(letter):
        return f"({name})"
    if unicodedata.category(letter) in ("Cf", "Mn", "Sk"):  # joiners, variants, skins
        return ""
    return f"U+{ord(letter):04X}"


def _greek(letter: str) -> str:
    """Return the command of a Greek letter that has one, else ""."""
    found = _GREEK.match(unicodedata.name(letter, ""))
    if not found:
        return ""
    name = found[2].lower().replace("lamda", "lambda")
    if found[1] == "CAPITAL":
        return rf"$\{name.capitalize()}$" if name in _GREEK_CAPITALS else ""
    return "o" if name == "omicron" else rf"$\{name}$"

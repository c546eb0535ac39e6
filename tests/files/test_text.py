"""Words of errors that become part of others."""

from __future__ import annotations

import pytest

from skipguide.files import text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("404 Client Error.\n\nmore"), "404 Client Error"),
        (ValueError("\n  no such layer. \n"), "no such layer"),
        (KeyError("blocks.0"), "'blocks.0'"),
        (OSError(), "OSError"),  # a list of no lines has no first
        (RuntimeError("..."), "RuntimeError"),
    ],
)
def test_the_first_line_of_an_error(error: BaseException, words: str) -> None:
    assert text.first_line(error) == words

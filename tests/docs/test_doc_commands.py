"""Every command line of skipguide in a page is one that the command line reads."""

from __future__ import annotations

import pytest

from support.doc_pages import command_lines, pages, parse, read

# Patterns of commands, and a sentence of a program's output.
NO_COMMANDS = ("VERB", "makes")
# What a mention of a verb or an option in a sentence may leave out.
LEFT_OUT = ("Missing parameter", "requires an argument", "Usage:")


@pytest.mark.parametrize("page", pages())
def test_command_lines_of_a_page_are_read(page: str) -> None:
    for place, words in command_lines(read(page), page):
        if any(word in NO_COMMANDS or word.startswith("[") for word in words):
            continue
        try:
            parse(words)
        except Exception as error:
            is_mention = place == page
            if not (is_mention and any(part in str(error) for part in LEFT_OUT)):
                pytest.fail(f"{place}: skipguide {' '.join(words)}: {error}")


def test_a_flag_that_does_not_exist_is_found() -> None:
    text = (
        "```sh\nskipguide generate x \\\n  --stg-scale 1  # a comment\n```\nand `skipguide runs ls`"
    )
    (_, good), (_, runs) = command_lines(text, "page.md")
    assert good == ["generate", "x", "--stg-scale", "1"]
    assert runs == ["runs", "ls"]
    parse(good)
    parse(runs)
    for words in (["generate", "x", "--stg-scales", "1"], ["runs", "lss"], ["layers", "svd", "x"]):
        with pytest.raises(Exception, match=r"No such|unexpected extra"):
            parse(words)

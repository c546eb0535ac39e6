"""The help in groups: nothing is left out, nothing is twice, and 80 columns are enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import skipguide
from skipguide.cli import app
from skipguide.cli.help_groups import GROUPS, group_of, help_sections
from support.options_page import options_page

VERBS = ("generate", "compare")
REPOSITORY = Path(skipguide.__file__).parents[2]


def command_of(verb: str) -> Any:
    group: Any = get_command(app)
    return group.commands[verb]


def sections_of(verb: str) -> dict[str, list[str]]:
    command = command_of(verb)
    context = command.make_context(verb, ["x"], resilient_parsing=True)
    return {title: [name for name, _ in rows] for title, rows in help_sections(command, context)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_in_one_group(verb: str) -> None:
    command = command_of(verb)
    context = command.make_context(verb, ["x"], resilient_parsing=True)
    options = [
        parameter for parameter in command.get_params(context)
        if parameter.param_type_name == "option" and not parameter.hidden
    ]  # fmt: skip
    listed = [name for title, rows in sections_of(verb).items() if title != "Arguments"
              for name in rows]  # fmt: skip
    for option in options:
        assert group_of(option.name) in GROUPS
        long = max(option.opts, key=len)
        (_,) = (name for name in listed if long in re.findall(r"--[a-z-]+", name)[:1])
    assert len(listed) == len(options)


@pytest.mark.parametrize("verb", VERBS)
def test_what_people_use_first_stands_first(verb: str) -> None:
    first = list(sections_of(verb).items())[1]
    assert first[0] == "Most used"
    assert len(first[1]) in (10, 11)
    for option in ("--model", "--layers", "--stg-scale", "--steps", "--seed"):
        assert any(name.startswith(option) for name in first[1])


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_fits_into_80_columns(verb: str) -> None:
    said = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, said.splitlines())) <= 80
    assert [line for line in said.splitlines() if line.endswith(":") and line[0] != " "] == [
        f"{title}:" for title in sections_of(verb)
    ]


def test_no_group_names_what_is_no_option() -> None:
    known = {parameter.name for verb in VERBS for parameter in command_of(verb).params} | {"help"}
    assert {name for names in GROUPS.values() for name in names} <= known


def test_the_page_of_the_options_is_up_to_date() -> None:
    """`make options-page` writes it."""
    assert (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8") == options_page()


def test_the_help_of_the_studio_has_raters_and_a_study_apart() -> None:
    command = command_of("studio")
    context = command.make_context("studio", ["x"], resilient_parsing=True)
    said = CliRunner().invoke(app, ["studio", "--help"]).stdout
    titles = re.findall(r"^(\w.*):$", said, re.MULTILINE)
    assert titles == ["Arguments", "Options", "Raters from outside", "A study"]
    outside, study = said.split("Raters from outside:\n")[1].split("A study:\n")
    first = re.compile(r"^  (--[a-z-]+)", re.MULTILINE)
    assert first.findall(outside) == ["--share", "--share-port", "--cert", "--key", "--no-tls"]
    assert {"--tasks", "--consent", "--checks", "--no-study"} <= set(first.findall(study))
    options = [one for one in command.get_params(context) if one.param_type_name == "option"]
    assert len(first.findall(said)) == len(options)

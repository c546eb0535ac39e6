"""Bars on a terminal: brackets of prompts and titles are no markup."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from skipguide.cli import batch_run, console
from skipguide.cli.batch import Item
from skipguide.generate.run import StepCallback, StepProgress
from skipguide.generate.settings import validate_settings
from skipguide.method.protocols import PlainData


class Terminal(io.StringIO):
    """Stderr where people look at it."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest sets stderr anew after these."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return found


STEP = StepProgress(1, 2, 2.25, 0.5)


def test_brackets_of_a_prompt_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    items = [Item(validate_settings({"prompt": "a [/b] fox [red]", "seed": 3}))]

    def make(item: Item, target: Path, on_step: StepCallback) -> tuple[batch_run.State, PlainData]:
        on_step(STEP)
        return "made", {}

    (outcome,) = batch_run.run_all(items, [Path("[/i].mp4")], make, quiet=False)
    assert outcome.state == "made", outcome.error
    said = terminal.getvalue()
    assert "a [/b] fox [red], seed 3" in said
    assert "1/1 [/i].mp4" in said


def test_brackets_of_a_title_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with console.progress("video 1/2, [/b]") as on_step:
        assert on_step is not None
        on_step(STEP)
    assert "video 1/2, [/b]" in terminal.getvalue()

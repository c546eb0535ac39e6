"""skipguide presets: those of one's own are put into their folder, listed and removed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skipguide.cli import app
from support.preset_files import CFG_FILE, STG_FILE, write_preset


def run(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["presets", *map(str, args)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str | Path) -> Any:
    return json.loads(run("--json", *args).stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    write_preset(tmp_path / "tune.toml", STG_FILE)
    write_preset(tmp_path / "cfg.toml", CFG_FILE)
    return tmp_path / "config" / "skipguide" / "presets"


def test_add_list_remove(folder: Path, tmp_path: Path) -> None:
    said = run("--add", "tune.toml", "--name", "night").stdout
    assert "--preset night uses it, and STG.preset(pipe, file='night')" in said
    assert (folder / "night.toml").read_bytes() == (tmp_path / "tune.toml").read_bytes()
    run("--add", "cfg.toml")
    found = output()
    assert len(found["presets"]) > 50
    assert [(row["name"], row["layers"], row["verdict"]) for row in found["own"]] == [
        ("cfg", [], "use CFG alone"), ("night", ["blocks:8"], "use"),
    ]  # fmt: skip
    (row,) = output("--model", "night")["own"]
    assert row["normalize"] is True
    assert output("--model", "wan")["own"] == []
    text = run().stdout.split("your own, in ")[1]
    assert re.search(r"\ncfg +none +CFG alone +2\n", text)
    assert re.search(r"\nnight +blocks:8 +attention +2 normalized +0%-75% +0\.5 +2\n", text)
    assert "gain +0.031 (+0.012 to +0.05) of sharpness" in text
    assert output("--remove", "night")["removed"] == "night"
    assert [path.name for path in folder.iterdir()] == ["cfg.toml"]


def test_another_is_not_replaced_unless_asked(folder: Path, tmp_path: Path) -> None:
    run("--add", "tune.toml")
    run("--add", "tune.toml")  # the same
    before = (folder / "tune.toml").read_bytes()
    said = run("--add", "cfg.toml", "--name", "tune", code=2).stderr
    assert "'tune' is there already, with another content" in said
    assert (folder / "tune.toml").read_bytes() == before
    run("--add", "cfg.toml", "--name", "tune", "--overwrite")
    assert (folder / "tune.toml").read_bytes() == (tmp_path / "cfg.toml").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["tune.toml"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [((12,), "must be from 0 to 11"), (("single:3",), "must be one that mochi has (blocks)")],
)
def test_layers_that_the_model_has_not_are_not_added(
    folder: Path, tmp_path: Path, layers: tuple[int | str, ...], message: str
) -> None:
    row = dataclasses.replace(STG_FILE.row, layers=layers)
    write_preset(tmp_path / "deep.toml", dataclasses.replace(STG_FILE, row=row))
    assert message in run("--add", "deep.toml", code=2).stderr
    assert not folder.exists()


def test_a_broken_file_is_listed_as_such(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "broken.toml").write_text("[preset]\n")
    assert "broken: [preset] must have model" in run().stdout
    assert output()["own"][0]["name"] == "broken"
    assert run("--remove", "broken").stdout.startswith("removed ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--add", "absent.toml"), "there is none. Check the name"),
        (("--add", "tune.toml", "--name", "../x"), "must be a word that is no path"),
        (("--add", "tune.toml", "--name", "x.toml"), "must be a word that is no path"),
        (("--remove", "x"), "which has none), but got 'x'"),
        (("--name", "x"), "--name is for --add, but there is none"),
        (("--overwrite",), "--overwrite is for --add, but there is none"),
        (("--add", "tune.toml", "--remove", "x"), "--add and --remove cannot be combined"),
        (
            ("--add", "tune.toml", "--model", "x"),
            "--model, --pipeline, --recommended and --steps say what is listed",
        ),
    ],
)
def test_what_is_wrong_is_said(folder: Path, args: tuple[str, ...], message: str) -> None:
    assert message in run(*args, code=2).stderr
    assert not folder.exists()

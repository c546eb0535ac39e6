"""Presets in files: what is written is read as the same, and what is wrong is said."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

from skipguide import SLG, STG
from skipguide.families import preset_files, preset_folder, presets
from skipguide.families.preset_files import PresetFile, Provenance, read_preset_file
from skipguide.families.preset_schema import OF_TERMS
from skipguide.families.presets import Preset
from skipguide.families.toml_text import to_toml
from skipguide.files import packaged
from skipguide.method.terms import Schedule

ROOT = Path(__file__).parents[2]

ROW = Preset(
    model="tiny-mochi", pipelines=("MochiPipeline",), depth=4, width=16, layers=("blocks:2",),
    scale=2.0, skip="attention", source="", stop=0.75, rescale=0.7, normalize=True,
    defaults={"guidance_scale": 4.5}, name="tune",
)  # fmt: skip
ANSWER = Provenance(
    skipguide="1.2.3", date="2026-11-30", weights={"sha256": "ab" * 32}, prompts=16,
    answer_prompts=8, prompts_sha256="cd" * 32, metric="sharpness", gain=0.031,
    gain_interval=(0.012, 0.05), sentence="STG is better.",
    command='skipguide tune --model m --prompts "a b.txt"',
)  # fmt: skip
CFG_ALONE = PresetFile(
    dataclasses.replace(ROW, layers=(), scale=0.0, skip="residual", stop=1.0, rescale=0.0,
                        normalize=False),
    dataclasses.replace(ANSWER, verdict="use CFG alone", gain=0.001, gain_interval=(-0.01, 0.012),
                        sentence="The interval holds 0, and STG costs 1.3 times as much."),
    dataclasses.replace(ROW, source=""),
)  # fmt: skip


def written(folder: Path, file: PresetFile, name: str = "tune.toml") -> Path:
    path = folder / name
    path.write_text(file.to_toml(), encoding="utf-8")
    return path


# --- TOML -----------------------------------------------------------------------------------------


def odd_value(draw: random.Random, depth: int = 2) -> Any:
    """A value that TOML has: texts of all planes and control characters, numbers of all sizes."""
    kind = draw.choice(["text", "text", "float", "int", "bool", "list", "table"][: 5 + depth])
    if kind == "text":
        codes = [draw.choice([*range(0x21), 0x22, 0x27, 0x5C, 0x7F, 0x85, 0x2028, 0xFEFF, 0x1F600,
                              draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])
                 for _ in range(draw.randrange(8))]  # fmt: skip
        return "".join(map(chr, codes))
    if kind == "float":
        return math.ldexp(draw.uniform(-1, 1), draw.randrange(-1070, 1024))
    if kind == "int":
        return draw.randrange(-(2**63), 2**63)
    if kind == "bool":
        return draw.random() < 0.5
    if kind == "list":
        return [odd_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {str(odd_text): odd_value(draw, depth - 1) for odd_text in ("a", "b c", "", 'é"\n')}


def test_what_is_written_is_read_by_tomllib_as_the_same() -> None:
    draw = random.Random(0)
    for _ in range(300):
        content = {f"k{number} .": odd_value(draw) for number in range(4)}
        assert tomllib.loads(to_toml(content)) == content


def test_numbers_of_numpy_and_none() -> None:
    content = {"a": np.float32(0.5), "b": np.int64(3), "c": None, "d": {"e": None}, "f": (1, 2.0)}
    assert tomllib.loads(to_toml(content)) == {"a": 0.5, "b": 3, "d": {}, "f": [1, 2.0]}
    assert math.isnan(tomllib.loads(to_toml({"a": math.nan}))["a"])


def test_a_text_that_is_no_unicode_is_shown_and_not_lost() -> None:
    assert tomllib.loads(to_toml({"command": "a\udcff.txt"})) == {"command": "a\\udcff.txt"}


def test_what_toml_does_not_have() -> None:
    with pytest.raises(TypeError, match=r"a value in TOML must be a text, .* but got b'x'"):
        to_toml({"a": b"x"})


# --- the same file again --------------------------------------------------------------------------


@pytest.mark.parametrize("file", [PresetFile(ROW, ANSWER), CFG_ALONE], ids=["stg", "cfg"])
def test_file_is_read_as_it_was_written(tmp_path: Path, file: PresetFile) -> None:
    found = read_preset_file(written(tmp_path, file))
    same = dataclasses.replace(found, name="", sha256="")
    assert same == file
    assert found.name == "tune"
    assert preset_files.from_plain(found.to_plain()) == found
    assert read_preset_file(written(tmp_path, found)) == found


@pytest.mark.parametrize("row", presets.load_presets(), ids=lambda row: row.name)
def test_every_built_in_row_can_be_a_file(row: Preset) -> None:
    off = not (row.scale or row.terms or row.schedule or row.kind == "slg")
    if not row.pipelines or off:  # a model without a pipeline here, a node whose default is off
        return
    content = tomllib.loads(PresetFile(row).to_toml())
    found = preset_files.from_plain(content)
    assert presets.to_terms(found.row) == presets.to_terms(row)
    again = dataclasses.replace(found.row, recommended=row.recommended)
    assert again == row


# --- a file that is wrong -------------------------------------------------------------------------

GOOD = {"model": "m", "pipelines": ["MochiPipeline"], "depth": 4, "layers": [2], "scale": 1.0}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no preset": ({"tool": {"name": "x"}}, r"no preset: it has tool\. Name a file that"),
    "misspelt table": ({"presets": GOOD}, r"Did you mean 'preset'\?"),
    "several": ({"preset": [GOOD]}, r"one table \[preset\].*Write \[preset\], with one setting"),
    "newer": ({"format": 2, "preset": GOOD}, "from 1 to 1, but got 2. A later version"),
    "unknown key": ({"preset": {**GOOD, "layer": [3]}}, r"preset. has .*Did you mean 'layers'\?"),
    "unknown table": ({"preset": GOOD, "provenanc": {}}, r"Did you mean 'provenance'\?"),
    "misspelt required": (
        {"preset": {"pipeline": ["x"], "model": "m", "depth": 4, "layers": [1], "scale": 1}},
        r"Did you mean 'pipelines'\?$",
    ),
    "missing": ({"preset": {"layers": [2], "scale": 1.0}}, r"must have depth, a whole number >= 0"),
    "kind of value": ({"preset": {**GOOD, "depth": "4"}}, r"depth of \[preset\] must be a whole n"),
    "skip": ({"preset": {**GOOD, "skip": "atention"}}, "skip of .*one of 'residual', 'attention'"),
    "scale": ({"preset": {**GOOD, "scale": -1}}, "scale of .* must be a finite number >= 0, but"),
    "no scale": ({"preset": {**GOOD, "scale": 0}}, "scale must be a finite number above 0"),
    "layers": ({"preset": {**GOOD, "layers": ["x"]}}, 'a layer must be an int or "stack:int"'),
    "window": ({"preset": {**GOOD, "start": 0.5, "stop": 0.5}}, "selects no step"),
    "no layers": ({"preset": {**GOOD, "layers": []}}, "must have layers, unless the verdict"),
    "layers of CFG": (
        {"preset": GOOD, "provenance": {"verdict": "use CFG alone"}}, "must have no layers",
    ),
    "verdict": ({"preset": GOOD, "provenance": {"verdict": "yes"}}, "one of 'use', 'not dist"),
    "interval": ({"preset": GOOD, "provenance": {"gain_interval": [1]}}, "a list of two numbers"),
    "defaults": (
        {"preset": {**GOOD, "defaults": {"guidance": 4}}}, r"Did you mean 'guidance_scale'\?",
    ),
    "slg": ({"preset": {**GOOD, "kind": "slg"}}, "SLG has no scale"),
    "too deep": (
        {"preset": {**GOOD, "layers": [4]}},
        r"\[preset\]: layers of this MochiTransformer3DModel must be from 0 to 3 \(4 blocks\), but",
    ),
    "too deep by its stack": (
        {"preset": {**GOOD, "layers": ["blocks:40"]}}, "must be from 0 to 3 .*, but got 40",
    ),
    "negative": ({"preset": {**GOOD, "layers": [-1]}}, r"must be a list of layers, .* got \[-1\]"),
    "stack": (
        {"preset": {**GOOD, "layers": ["single:1"]}},
        r"a layer's stack must be one that mochi has \(blocks\), but got single",
    ),
    "axis": ({"preset": {**GOOD, "axis": "temporal"}}, "axis must be one that mochi has"),
    "skip of the family": (
        {"preset": {**GOOD, "pipelines": ["SanaVideoPipeline"], "skip": "blur"}},
        "skip must be one that",
    ),
    "UNet": (
        {"preset": {**GOOD, "pipelines": ["StableVideoDiffusionPipeline"]}},
        "a layer of a UNet must be written with its part",
    ),
    "bin": (
        {"preset": {"model": "m", "pipelines": ["MochiPipeline"], "depth": 4,
                    "schedule": [{"sigma": [0, 1], "layers": [9], "scale": 1.0}]}},
        "must be from 0 to 3 .*, but got 9",
    ),
    "best": (
        {"preset": {"model": "m", "pipelines": ["MochiPipeline"], "depth": 4},
         "provenance": {"verdict": "use CFG alone"}, "best_stg": {"layers": [7], "scale": 1.0}},
        r"\[best_stg\]: layers of .* must be from 0 to 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    content, message = WRONG[case]
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(content), encoding="utf-8")
    if isinstance(content.get("preset"), list):
        path.write_text('[[preset]]\nmodel = "m"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        read_preset_file(path)
    assert "mine.toml" in str(raised.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[preset]\nmodel = 1\nlayrs = [1]\n[provenance]\ngain = "much"\n')
    with pytest.raises(ValueError, match=r"model of .*Did you mean 'layers'.*gain of .*depth"):
        read_preset_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[preset", "Expected"), (b"\xff\xfe", "utf-8"), (b"a" * 2**21, "2097152 bytes")],
)
def test_no_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"mine.toml cannot be read.*{message}.*Correct it"):
        read_preset_file(path)


# --- where it is looked for -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = tmp_path / "config" / "skipguide" / "presets"
    found.mkdir(parents=True)
    return found


def test_a_name_is_looked_up_in_the_folder_of_ones_own(folder: Path, tmp_path: Path) -> None:
    path = written(folder, PresetFile(ROW), "night.toml")
    assert preset_folder.preset_folder() == folder
    assert preset_folder.preset_names() == ["night"]
    assert read_preset_file("night").row.layers == ("blocks:2",)
    assert read_preset_file(str(path)) == read_preset_file("night")
    beside = written(tmp_path, CFG_ALONE)
    assert read_preset_file("tune.toml", tmp_path).is_cfg_alone
    assert read_preset_file(beside).is_cfg_alone


def test_no_such_preset(folder: Path, tmp_path: Path) -> None:
    written(folder, PresetFile(ROW), "night.toml")
    written(tmp_path, PresetFile(ROW), "mine.toml")
    for given, message in {
        "nigth": "which has|night.*Did you mean 'night'",
        "mine": "For the file mine.toml write its name in full",
        "other": "`skipguide presets --add tune.toml` puts one there",
        "night.toml": r"there is none\. Name the one in .* 'night'",
        "../night.toml": "there is none. Check the name",
        "": "a folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_preset_file(given, tmp_path)


def test_without_the_variable_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    assert preset_folder.preset_folder() == Path.home() / ".config" / "skipguide" / "presets"


# --- for a pipeline -------------------------------------------------------------------------------


def test_stg_of_a_file(pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, PresetFile(ROW, ANSWER))
    with caplog.at_level(logging.INFO, "skipguide"):
        found = STG.preset(pipe, file=path)
    assert found == STG(["blocks:2"], 2.0, "attention", stop=0.75, normalize=True)
    assert isinstance(found, STG)
    assert found.preset_rescale == 0.7
    assert found.source == "tune.toml measured by skipguide 1.2.3 on 2026-11-30"
    assert "CFG 4.5, gain +0.031 (+0.012 to +0.05) of sharpness" in caplog.text


def test_terms_and_schedule_of_a_file(pipe: Any, tmp_path: Path) -> None:
    bins = ({"sigma": [0.5, 1.1], "layers": [1], "scale": 2.0},)
    row = dataclasses.replace(ROW, layers=(), schedule=bins, rescale=0, normalize=False)
    path = written(tmp_path, PresetFile(dataclasses.replace(row, scale=0.0, skip="residual")))
    assert isinstance(STG.preset(pipe, file=path), Schedule)
    terms = ({"axis": "spatial", "scale": 2.0}, {"axis": "temporal", "scale": 0.5})
    latte = dataclasses.replace(
        ROW, scale=0.0, terms=terms, pipelines=("LattePipeline",), layers=(2,)
    )
    found = presets.to_terms(read_preset_file(written(tmp_path, PresetFile(latte))).row)
    assert isinstance(found, tuple)
    assert [(term.axis, term.scale, term.normalize) for term in found] == [
        ("spatial", 2.0, True), ("temporal", 0.5, True),
    ]  # fmt: skip


def test_cfg_alone_is_said_with_what_to_do(pipe: Any, tmp_path: Path) -> None:
    path = written(tmp_path, CFG_ALONE)
    with pytest.raises(ValueError, match="use CFG alone: The interval holds 0") as raised:
        STG.preset(pipe, file=path)
    code = str(raised.value).split("all the same: ")[1].split(" with rescale")[0]
    assert eval(code) == STG(["blocks:2"], 2.0, "attention", stop=0.75, normalize=True)
    assert "with guidance_scale=4.5" in str(raised.value)


def test_slg_of_a_file(pipe: Any, tmp_path: Path) -> None:
    row = dataclasses.replace(ROW, kind="slg", scale=0.0, rescale=0, normalize=False)
    slg, stg = written(tmp_path, PresetFile(row), "slg.toml"), written(tmp_path, PresetFile(ROW))
    assert SLG.preset(pipe, file=slg) == SLG(["blocks:2"], "attention", stop=0.75)
    with pytest.raises(ValueError, match=r"is one of SLG\. Write SLG.preset"):
        STG.preset(pipe, file=slg)
    with pytest.raises(ValueError, match=r"is one of STG\. Write STG.preset"):
        SLG.preset(pipe, file=stg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"depth": 5},
            r"is for tiny-mochi \(MochiPipeline of 5 blocks .*MochiPipeline of 4 blocks",
        ),
        ({"width": 3072}, "of 4 blocks and width 3072.*of 4 blocks and width 16"),
        ({"pipelines": ("WanPipeline", "LTXPipeline")}, "WanPipeline or LTXPipeline of 4 blocks"),
        ({"config": {"num_layers": 9}}, "with num_layers = 9.*with num_layers = 4"),
    ],
)
def test_a_preset_of_another_model(
    pipe: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, PresetFile(dataclasses.replace(ROW, **change)))
    with pytest.raises(ValueError, match=message):
        STG.preset(pipe, file=path)


def test_a_preset_without_a_width_is_for_all_widths(pipe: Any, tmp_path: Path) -> None:
    path = written(tmp_path, PresetFile(dataclasses.replace(ROW, width=0)))
    assert isinstance(STG.preset(pipe, file=path), STG)


def test_nothing_of_the_folder_is_applied_by_itself(
    pipe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(folder, PresetFile(ROW), "night.toml")
    with pytest.raises(ValueError, match="none is known for a MochiPipeline of 4 blocks"):
        STG.preset(pipe)


# --- the built-in models --------------------------------------------------------------------------


@pytest.mark.parametrize("model", packaged.NAMES)
def test_the_presets_of_the_built_in_models_are_what_tune_found(model: str) -> None:
    """The row is the best STG of the published tuning, and says its answer with its gain."""
    folder = ROOT / "docs" / "tune" / f"run-{model}"
    found = read_preset_file(folder / "tune.toml")
    row = next(row for row in presets.load_presets() if row.name == model)
    assert row.recommended
    best = found.best_stg or found.row
    assert [str(layer).removeprefix("blocks:") for layer in row.layers] == [
        str(layer).removeprefix("blocks:") for layer in best.layers
    ]
    same = [name for name in OF_TERMS if name != "layers"]
    assert {name: getattr(row, name) for name in same} == {
        name: getattr(best, name) for name in same
    }
    assert f"docs/tune/run-{model}" in row.source
    assert (folder / "report.html").is_file()
    if found.is_cfg_alone:
        assert row.note.startswith("Its answer is to use CFG alone: ")
        told = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        gain = told["best_stg"]["gain"]
        said = f"{gain['value']:+.2g} ({gain['low']:+.2g} to {gain['high']:+.2g})"
        assert said in row.note

"""The tables of families and presets: complete, the same in the docs, and printed by both verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from skipguide.cli import app
from skipguide.families import presets, tables
from skipguide.families import rows as family_rows
from skipguide.method import perturbations

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "families.md"


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str, code: int = 0) -> Any:
    result = run(*args, "--json", code=code)
    assert result.stderr == ""
    return json.loads(result.stdout)


# --- families -------------------------------------------------------------------------------------


def test_docs_are_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == tables.families_markdown(), (
        f"Run: {tables.REGENERATE_COMMAND}"
    )


def test_readme_counts_pipelines_and_families() -> None:
    """Open-Sora is not one of diffusers, and the README counts it apart."""
    ours = [row for row in tables.family_rows() if row["name"] != "opensora"]
    pipelines, families = tables.count_families(ours)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{pipelines} pipelines of {families} families of diffusers" in readme


def test_markdown_is_what_the_docs_are_made_from() -> None:
    assert run("families", "--markdown").stdout == tables.families_markdown()


def test_markdown_names_every_pipeline_once_in_its_place() -> None:
    known, refused = tables.families_markdown().split("## Refused")
    for family in family_rows.FAMILIES:
        assert all(known.count(f"`{pipeline}`") == 1 for pipeline in family.pipelines)
    assert all(refused.count(f"`{pipeline}`") == 1 for pipeline in family_rows.REFUSED_PIPELINES)


def test_markdown_tables_are_whole() -> None:
    lines = tables.families_markdown().splitlines()
    widths = [len(line.replace("\\|", "").split("|")) for line in lines if line.startswith("|")]
    assert set(widths) == {len(tables.FAMILY_COLUMNS) + 2, 4 + 2, 2 + 2}
    assert all(len(line) <= 120 for line in lines if not line.startswith("|"))


def test_markdown_says_how_layers_of_a_unet_are_written() -> None:
    text = " ".join(tables.families_markdown().split())
    assert (
        "of its down blocks, its mid block and its up blocks, and a bare number is refused there"
        in text
    )
    assert (
        "| 6 down, 1 mid, 9 up: stabilityai/stable-video-diffusion-img2vid-xt | residual,"
        ' attention, soft, blur, shuffle, axis="spatial"' in text
    )


def test_families_for_people() -> None:
    said = run("families").stdout
    for family in family_rows.FAMILIES:
        assert family.title in said
        assert ", ".join(family.pipelines) in said
    assert all(pipeline in said for pipeline in family_rows.REFUSED_PIPELINES)
    assert "20 dual, 40 single" in said
    assert "8 down, 1 mid, 12 up" in said
    assert (
        "hunyuan-double-2 (hunyuanvideo-community/HunyuanVideo): layer dual:2, residual, scale 1."
        in said
    )
    assert "\x1b" not in said


def test_families_json() -> None:
    said = output("families")
    rows = {row["name"]: row for row in said["families"]}
    assert list(rows) == [family.name for family in family_rows.FAMILIES]
    assert rows["hunyuan"]["stacks"] == {"dual": 20, "single": 40}
    assert rows["sana-wm"]["skips"] == ["residual", "shuffle"]
    assert rows["mochi"]["skips"] == list(perturbations.PERTURBATIONS)
    assert rows["cogview4"]["skips"] == [
        "residual", "attention", "soft", "blur", "tokens", "shuffle",
    ]  # fmt: skip
    assert rows["latte"]["axes"] == ["spatial", "temporal"]
    assert rows["svd"]["stacks"] == {"down": 6, "mid": 1, "up": 9}
    assert rows["svd"]["axes"] == ["spatial", "temporal"]
    assert rows["svd"]["presets"][0]["setting"].startswith(
        "layer up:0, attention, spatial scale 2, temporal scale 0.5"
    )
    assert rows["cosmos"]["cfg"] == "a call each for c and u, c + g (c - u)"
    assert rows["mochi"]["cfg"] == "one call on [u, c]"
    assert rows["motif-video"]["cfg"] == "by its guider"
    assert "needs is_cfg_zero_star=False (HeliosPyramidPipeline)" in rows["helios"]["cfg"]
    assert [preset["name"] for preset in rows["ltx"]["presets"]] == ["ltx-2b", "ltx-13b-dev"]
    assert sorted(name for names in said["refused"].values() for name in names) == sorted(
        family_rows.REFUSED_PIPELINES
    )


def test_one_form_at_a_time() -> None:
    assert output("families", "--markdown", code=2)["error"].startswith(
        "the output must be --markdown or --json"
    )


# --- presets --------------------------------------------------------------------------------------


def test_presets_for_people() -> None:
    said = run("presets").stdout
    for row in presets.load_presets():
        assert f"    {row.model}. {row.source}\n" in said
        assert row.note in said
    lines = {
        line.split("  ")[0]: line.split() for line in said.splitlines() if not line.startswith(" ")
    }
    assert lines["mochi *"] == ["mochi", "*", "34", "residual", "1", "4.5"]
    assert lines["wan-slg-10"] == ["wan-slg-10", "10", "residual", "of", "u", "20%-100%"]
    assert lines["wan-slg-9 *"][2] == "9"
    assert lines["hunyuan-single-2"][1] == "single:2"


def test_presets_of_several_terms() -> None:
    said = run("presets", "--pipeline", "StableVideo").stdout
    lines = [line.split() for line in said.splitlines()[1:] if not line.startswith(" ")]
    both = ["attention,", "spatial", "+", "temporal"]
    assert lines == [
        ["svd", "*", "up:0", *both, "2", "+", "0.5", "0.7", "3"],
        ["lab-svd", "*", "up:2", "residual,", "spatial", "2", "normalized", "5"],
        ["svd-paper", "up:0", *both, "2", "+", "2", "3"],
        ["svd-function-2024", "up:0", "residual,", *both[1:], "1", "+", "1"],
    ]


def test_a_schedule_has_a_line_for_each_range() -> None:
    said = run("presets", "--model", "ltx-13b-dev").stdout.splitlines()
    assert said[1].split() == ["ltx-13b-dev", "*", "a", "schedule"]
    assert said[2].split() == ["sigma", "0.996-1.1", "off"]
    assert said[3].split() == [
        "22,",
        "35,",
        "39",
        "attention",
        "4",
        "sigma",
        "0.9933-0.996",
        "0.5",
        "6",
    ]
    assert said[7].split() == ["28", "attention", "1", "sigma", "0-0.9008", "off"]


def test_presets_json() -> None:
    rows = {row["name"]: row for row in output("presets")["presets"]}
    assert list(rows) == [row.name for row in presets.load_presets()]
    assert rows["mochi"]["layers"] == [34]
    assert (rows["mochi"]["scale"], rows["wan-slg-9"]["scale"], rows["ltx-13b-dev"]["scale"]) == (
        1.0,
        None,
        None,
    )
    assert len(rows["ltx-13b-dev"]["schedule"]) == 6
    assert rows["cogview4"]["depth"] is None
    assert (rows["svd"]["scale"], rows["svd"]["axis"], rows["mochi"]["terms"]) == (None, None, [])
    assert rows["svd"]["terms"] == [
        {"axis": "spatial", "scale": 2.0},
        {"axis": "temporal", "scale": 0.5},
    ]


@pytest.mark.parametrize(
    ("option", "value", "some", "none"),
    [
        ("--model", "WAN-SLG", "wan-slg-9", "wan-14b"),
        ("--pipeline", "hunyuanvideo", "hunyuan-kijai", "ovi"),
    ],
)
def test_presets_are_filtered(option: str, value: str, some: str, none: str) -> None:
    names = [row["name"] for row in output("presets", option, value)["presets"]]
    assert some in names
    assert none not in names


def test_no_preset_matches() -> None:
    said = output("presets", "--model", "sora9", "--pipeline", "X", code=2)["error"]
    assert said.startswith(
        "no preset matches --model sora9 and --pipeline X. Pass a part of one of these names: "
    )
    assert "genmo/mochi-1-preview" in said

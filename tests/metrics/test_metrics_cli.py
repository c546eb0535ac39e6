"""`skipguide evaluate`, `skipguide metrics`, and the files of VBench."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from skipguide.cli import app
from skipguide.cli.runs import _format_interval, _set_metric_row
from skipguide.metrics import evaluate, results, vbench_files
from skipguide.metrics.catalog import METRICS, WEIGHTS
from skipguide.runs import Run, SetMetric
from skipguide.runs.ledger import Ledger
from support.measured import clips, spoiled, write

Tensor = torch.Tensor


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answer(*args: object) -> dict[str, Any]:
    output = run(*args, "--json")
    assert output.exit_code == 0, output.output
    return json.loads(output.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos, and three with which something is wrong."""
    return spoiled(tmp_path_factory.mktemp("videos"), clips(8, seed=1))


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    return clips(4, seed=1)


# --- command line ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name, clip in clips(8, seed=2).items():
        write(folder / f"{name}.mp4", clip)
    return folder


def test_evaluate_tells_all(folder: Path, real_folder: Path, tmp_path: Path) -> None:
    output = run(
        "evaluate", folder, "--reference", real_folder, "--metrics", "fvd:judge,temporal_flickering"
    )
    assert output.exit_code == 0, output.output
    shown = " ".join(re.sub("[│┃┏━┓┡┩└─┘]", " ", output.stdout).split())
    assert re.search(r"fvd:judge [\d.]+ [\d.]+ to [\d.]+ 8 8 lower", shown)
    assert "fvd:judge: 8 generated videos are few" in shown
    assert "broken.mp4" in shown
    assert "it is 64 x 48, but most are 64 x 64: generated small.mp4" in shown
    assert "licence: Apache-2.0" in shown


def test_parts_are_merged_on_the_command_line(
    folder: Path, real_folder: Path, tmp_path: Path
) -> None:
    args = (
        "evaluate",
        folder,
        "--reference",
        real_folder,
        "--metrics",
        "fvd:judge",
        "--metrics",
        "temporal_flickering",
    )
    once = answer(*args)
    for i in (1, 2):
        answer(*args, "--part", f"{i}/2", "--out", tmp_path / f"{i}.json")
    merged = answer(
        "evaluate",
        "--merge",
        tmp_path / "1.json",
        tmp_path / "2.json",
        "--out",
        tmp_path / "all.json",
    )
    assert [row["value"] for row in merged["metrics"]] == pytest.approx(
        [row["value"] for row in once["metrics"]], rel=1e-4
    )
    assert merged["skipped"] == once["skipped"]
    assert merged["weights"] == once["weights"]
    refused = run(*args, "--out", tmp_path / "all.json")
    assert refused.exit_code == 2
    assert "exists. Pass --overwrite" in refused.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--part", "2"], "--part must be written as 2/8, but got '2'"),
        (["--out", "a.txt"], "the output must be named .json, but got 'a.txt'. Name it a.json"),
        (["--out", "."], "the output must be a file, but . is a folder. Name a file in it."),
        (["more"], "evaluate measures one folder of videos at a time, but got 2"),
        (["--merge"], "a result must be a .json file with its .safetensors file beside it, but"),
        (["--device", "cuda:77"], "device must be one that torch has here, but got 'cuda:77'"),
    ],
)
def test_evaluate_refuses(folder: Path, args: Sequence[str], message: str) -> None:
    output = run("evaluate", folder, "--metrics", "temporal_flickering", *args)
    assert output.exit_code == 2
    assert message in " ".join(output.stderr.split())


def test_vbench_on_the_command_line(folder: Path, tmp_path: Path, made: dict[str, Tensor]) -> None:
    scored = tmp_path / "results.json"
    scored.write_text(json.dumps({"imaging_quality": [0.61, []]}))
    write(tmp_path / "made" / "a dog-0.mp4", made["000"])
    args = (
        "--metrics",
        "temporal_flickering",
        "--vbench-results",
        scored,
        "--vbench-export",
        tmp_path / "vbench",
    )
    assert answer("evaluate", tmp_path / "made", *args)["vbench"] == {"imaging_quality": 0.61}
    placed = tmp_path / "vbench" / "videos" / "a dog-0.mp4"
    assert placed.is_file()
    ours = json.loads(
        (tmp_path / "vbench" / "skipguide_eval_results.json").read_text(encoding="utf-8")
    )
    assert [row["video_path"] for row in ours["temporal_flickering"][1]] == [str(placed)]


def test_what_is_not_exported_for_vbench_is_said(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """A broken file is not exported, nor is what is no mp4; an ending in capitals is one."""
    folder = tmp_path / "made"
    write(folder / "a dog-0.mp4", made["000"])
    (folder / "a dog-1.mp4").write_text("this is no video")
    write(folder / "a dog-2.mp4", made["001"][:4]).rename(folder / "a dog-2.MP4")
    write(folder / "a cat-0.mp4", made["002"][:4]).rename(folder / "a cat-0.m4v")
    (folder / "frames").mkdir()
    for i in (1, 2):
        Image.fromarray(made["000"][i].permute(1, 2, 0).numpy()).save(
            folder / "frames" / f"{i}.png"
        )
    args = ("--metrics", "temporal_flickering", "--vbench-export", tmp_path / "vbench")
    told = answer("evaluate", folder, *args)
    skipped = {(one["video"], one["metric"]): one["reason"] for one in told["skipped"]}
    assert set(skipped) == {
        ("a dog-1.mp4", "all"), ("a cat-0.m4v", "export for VBench"),
        ("frames", "export for VBench"),
    }  # fmt: skip
    assert "only .mp4 files are exported" in skipped["frames", "export for VBench"]
    placed = {path.name: path.read_bytes() for path in (tmp_path / "vbench" / "videos").iterdir()}
    originals = [(folder / name).read_bytes() for name in ("a dog-0.mp4", "a dog-2.MP4")]
    assert set(placed) == {"a dog-0.mp4", "a dog-1.mp4"}
    assert sorted(placed.values()) == sorted(originals)
    ours = json.loads(
        (tmp_path / "vbench" / "skipguide_eval_results.json").read_text(encoding="utf-8")
    )
    assert len(ours["temporal_flickering"][1]) == 2


def test_a_refused_metric_leaves_no_export_behind(tmp_path: Path, made: dict[str, Tensor]) -> None:
    write(tmp_path / "made" / "a dog-0.mp4", made["000"][:3])
    export = ("--vbench-export", tmp_path / "vbench")
    assert run("evaluate", tmp_path / "made", "--metrics", "fvd:judge", *export).exit_code == 2
    assert not (tmp_path / "vbench").exists()
    out = ("--metrics", "temporal_flickering", "--out", tmp_path / "a.json")
    answer("evaluate", tmp_path / "made", *out, *export)
    again = run("evaluate", tmp_path / "made", *out, *export, "--overwrite")
    assert again.exit_code == 2
    assert "videos for VBench need a new folder" in again.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--merge"], "--vbench-export needs a folder of videos, but"),
        (["--part", "1/2"], "--vbench-export needs all videos, but got --part 1/2. Leave it out"),
    ],
)
def test_what_cannot_be_exported_for_vbench(tmp_path: Path, args: list[str], message: str) -> None:
    output = run("evaluate", tmp_path, "--vbench-export", tmp_path / "vbench", *args)
    assert output.exit_code == 2
    assert message in " ".join(output.stderr.split())


def test_metrics_lists_all() -> None:
    listed = answer("metrics")
    assert set(listed["metrics"]) == set(METRICS)
    assert listed["weights"]["amt"]["commercial"] is False
    shown = run("metrics", "consistency").stdout
    assert "subject_consistency" in shown
    assert "fvd " not in shown
    assert all(row.licence in shown for row in WEIGHTS.values())
    assert run("metrics", "none").exit_code == 2


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two settings with ten videos each, as a sweep leaves it, and one job that failed."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "videos").mkdir(parents=True)
    ledger = Ledger(folder, "create")
    with ledger.transaction():
        ledger.db.execute("INSERT INTO models VALUES (1, 'lab-mochi', '{}')")
        ledger.db.executemany(
            "INSERT INTO settings VALUES (?, 1, ?, '{}', '{}', 2)", [(1, "cfg"), (2, "stg")]
        )
        ledger.db.executemany(
            "INSERT INTO prompts VALUES (?, ?, NULL, NULL, '{}', ?)",
            [(i, f"prompt/{i}", i) for i in range(5)],
        )
        for setting in (1, 2):
            for i, clip in enumerate(clips(10, seed=setting).values()):
                key = f"{setting}{i:015d}"
                write(folder / "videos" / f"{key}.mp4", clip)
                _add(ledger, key, setting, i, f"videos/{key}.mp4")
        _add(ledger, "f" * 16, 1, 77, None)
        _add(ledger, "e" * 16, 2, 78, None, "pending")
    ledger.close()
    return folder


def _add(
    ledger: Ledger, key: str, setting: int, i: int, path: str | None, status: str = "failed"
) -> None:
    columns = "key, setting, prompt, seed, position, status, video, error, added"
    error = "out of memory\nlong story" if status == "failed" and not path else None
    values = (key, setting, i % 5, i // 5, i, "done" if path else status, path, error, "")
    ledger.db.execute(f"INSERT INTO jobs({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def test_each_setting_of_a_run_is_measured_and_kept(
    swept: Path, real_folder: Path, tmp_path: Path
) -> None:
    args = (
        "--reference",
        real_folder,
        "--metrics",
        "fvd:judge,temporal_flickering",
        "--out",
        tmp_path / "a.json",
    )
    told = answer("evaluate", swept, *args)["settings"]
    assert [one["setting"] for one in told] == ["lab-mochi cfg", "lab-mochi stg"]
    assert [
        [(row["video"], row["metric"], row["reason"]) for row in one["skipped"]] for one in told
    ] == [
        [("2 prompt/2-15", "all", "the sweep failed to make it: out of memory")],
        [("3 prompt/3-15", "all", "the sweep has not made it yet (pending)")],
    ]
    alone = evaluate(clips(10, seed=1), None, ["temporal_flickering"])
    assert told[0]["metrics"][1]["value"] == pytest.approx(
        alone["temporal_flickering"].value, abs=0.01
    )  # mp4 loses some
    with Run.open(swept) as run_:
        kept = {(row.setting, row.name): (row.value, row.count) for row in run_.set_metrics()}
        per_video = [clip.metrics for clip in run_.clips("done")]
    expected = {
        (i + 1, row["metric"]): (row["value"], 10)
        for i, one in enumerate(told)
        for row in one["metrics"]
    }
    assert kept == expected
    assert len(per_video) == 20
    assert all(set(row) == {"temporal_flickering"} for row in per_video)
    first = answer("runs", "show", swept)["settings"][0]["set_metrics"]
    row = told[0]["metrics"][0]
    assert first["fvd:judge"] == {name: row[name] for name in ("value", "low", "high", "videos")}
    interval = "no interval" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
    assert f"{row['value']:.4g} ({interval}, 10 clips)" in run("runs", "show", swept).stdout
    assert (
        results.load(tmp_path / "a-lab-mochi-stg.json")["fvd:judge"].value
        == kept[2, "fvd:judge"][0]
    )


def test_settings_whose_names_differ_in_signs_only_have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = evaluate(clips(2, seed=1), None, ["temporal_flickering"])
    titles = ("m a b", "m a-b", "m größe", "m größer", "m 大")
    monkeypatch.setattr(
        sys.modules["skipguide.cli.evaluate"],
        "_evaluate_folder",
        lambda *_: ((title, one) for title in titles),
    )
    answer("evaluate", tmp_path, "--out", tmp_path / "x.json")
    names = {path.stem for path in tmp_path.glob("*.json")}
    assert names == {"x-m-a-b", "x-m-a-b-1", "x-m-größe", "x-m-größer", "x-m-大"}


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (10.5, 14.25, "12.35 (10.5 to 14.25, 20 clips)"),
        (None, None, "12.35 (no interval, 20 clips)"),
    ],
)
def test_set_metrics_of_a_run_are_shown_with_interval_and_count(
    low: float | None, high: float | None, shown: str
) -> None:
    metric = SetMetric(1, "fvd", 12.3456, 20, low, high)
    assert _format_interval(_set_metric_row(metric)) == shown


def test_a_run_is_not_measured_in_parts(swept: Path) -> None:
    output = run("evaluate", swept, "--metrics", "temporal_flickering", "--part", "1/2")
    assert output.exit_code == 2
    assert "a run can only be evaluated as a whole, but got part=(1, 2)" in output.stderr


# --- VBench ---------------------------------------------------------------------------------------


def test_videos_for_vbench_lie_where_it_looks(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """As its build_full_info_json finds them: nothing but videos, named {prompt}-{index}.mp4."""
    prompts = ["a red star", "a red star", "a blue moon, orbiting"]
    for name, text in zip(list(made), prompts, strict=False):
        write(tmp_path / "made" / f"{name}.mp4", made[name], {"settings": {"prompt": text}})
    write(tmp_path / "made" / "a dog-7.mp4", made["003"])
    paths = list((tmp_path / "made").glob("*.mp4"))
    places = vbench_files.export(vbench_files.group_by_prompt(paths), tmp_path / "vbench")
    target = tmp_path / "vbench" / "videos"
    assert places[tmp_path / "made" / "a dog-7.mp4"] == target / "a dog-0.mp4"
    names = {"a red star-0.mp4", "a red star-1.mp4", "a blue moon, orbiting-0.mp4", "a dog-0.mp4"}
    assert {path.name for path in target.iterdir()} == names
    assert (target / "a red star-1.mp4").read_bytes() == (
        tmp_path / "made" / "001.mp4"
    ).read_bytes()
    known = json.loads((tmp_path / "vbench" / "prompts.json").read_text())
    assert known == {name: re.sub(r"-\d\.mp4", "", name) for name in names}


@pytest.mark.parametrize("text", ["a/b", "", ".hidden", "long " * 60])
def test_prompts_that_are_no_file_names(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="a prompt for VBench must be usable as a file name"):
        vbench_files.export({text: []}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vbenchs_results_are_read(tmp_path: Path) -> None:
    """The layout of VBench 45e79ec: imaging quality of one video in percent, dynamic degree of one
    as a boolean."""
    path = tmp_path / "results_eval_results.json"
    rows = {"imaging_quality": (70.0, 50.0), "dynamic_degree": (True, False)}
    entries = {
        dimension: [
            {"video_path": f"a/b-{i}.mp4", "video_results": value} for i, value in enumerate(found)
        ]
        for dimension, found in rows.items()
    }
    path.write_text(
        json.dumps(
            {
                "imaging_quality": [0.6, entries["imaging_quality"]],
                "dynamic_degree": [0.5, entries["dynamic_degree"]],
            }
        )
    )
    totals, ours = vbench_files.read_results(path)
    assert totals == {"imaging_quality": 0.6, "dynamic_degree": 0.5}
    assert ours == {
        "imaging_quality": {"b-0.mp4": 0.7, "b-1.mp4": 0.5},
        "dynamic_degree": {"b-0.mp4": 1.0, "b-1.mp4": 0.0},
    }
    vbench_files.write_results(tmp_path / "back.json", ours)
    back = json.loads((tmp_path / "back.json").read_text(encoding="utf-8"))
    assert back["imaging_quality"][0] == pytest.approx(0.6)
    assert [row["video_results"] for row in back["imaging_quality"][1]] == pytest.approx([70, 50])
    assert [row["video_results"] for row in back["dynamic_degree"][1]] == [True, False]
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"must be its \.\.\._eval_results\.json, but"):
        vbench_files.read_results(path)


def test_quality_score() -> None:
    """At VBench's published bounds it is 0 and 1; dynamic degree weighs half, 0.5 / 6.5."""
    bounds = {row.name: row.normalised for row in METRICS.values() if row.normalised}
    assert vbench_files.quality_score(
        {name: low for name, (low, _) in bounds.items()}
    ) == pytest.approx(0)
    best = {name: high for name, (_, high) in bounds.items()}
    assert vbench_files.quality_score(best) == pytest.approx(1)
    assert vbench_files.quality_score({**best, "dynamic_degree": 0.0}) == pytest.approx(6 / 6.5)
    assert vbench_files.quality_score({"imaging_quality": 1.0}) is None

"""Runs in MLflow's local store and in Weights & Biases offline, read back with their own readers:
`make test-track` installs both."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run, SetMetric
from skipguide.runs.tracking import Tracking, parse_targets
from support.painted import FRAMES, SETTINGS, painted

STG = {"name": "stg/8", "guidance_scale": 4.5, "stg": {"layers": [8, "single:3"], "scale": 1.0}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two settings, two prompts, one seed; measured. MLflow's store lies beside the run."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    # Of one process, MLflow keeps the first store of a name, whichever folder is the current one.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    folder = painted(tmp_path / "run", seeds=[0], settings=[SETTINGS[0], STG])
    with Run.open(folder, writable=True) as run:
        for i, clip in enumerate(run.clips()):
            run.record_metric(clip.key, "sharpness", i / 4)
        for setting in run.settings():
            metric = SetMetric(setting.id, "fvd:judge", 10.0 * setting.id, 2, 1.0, 99.0)
            run.record_set_metric(metric)
    return folder


def track(folder: Path, to: str) -> int:
    with Tracking(folder, parse_targets([to]), pytest.fail) as tracking:
        tracking.update()
    return sum(tracking.logged.values())


def add(folder: Path) -> None:
    """A new prompt, a new seed, a new metric and a new value of an old one."""
    with Run.open(folder, writable=True) as run:
        key = run.clips()[0].key
        run.record_metrics([(key, "motion", 3.0), (key, "sharpness", 0.125)])
    painted(folder, prompts=["a new one", "a red star"], seeds=[0, 1], settings=SETTINGS[:1])


# --- MLflow ---------------------------------------------------------------------------------------


@pytest.fixture
def client(folder: Path) -> Any:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    pytest.importorskip("sqlalchemy", reason="MLflow's local store needs all of mlflow")
    return importlib.import_module("mlflow.tracking").MlflowClient()


def mlflow_runs(client: Any) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("run")
    found = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in found}


def history(client: Any, run: Any) -> dict[str, list[tuple[int, float]]]:
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def test_mlflow_has_settings_clips_numbers_and_cost(folder: Path, client: Any) -> None:
    assert track(folder, "mlflow") == 4
    runs = mlflow_runs(client)
    assert set(runs) == {"cfg", "stg/8"}
    stg = runs["stg/8"]
    assert stg.info.status == "FINISHED"
    params = stg.data.params
    wanted = {"model": "lab-mochi", "layers": "8,single:3", "stg_scale": "1.0"}
    assert {name: params[name] for name in wanted} == wanted
    assert (params["num_frames"], params["guidance_scale"]) == (str(FRAMES), "4.5")
    found = history(client, stg)
    assert found["metrics/sharpness"] == [(0, 0.25), (1, 0.75)]
    assert found["cost/passes_per_step"] == [(0, 2.5), (1, 2.5)]
    assert found["mean/sharpness"] == [(2, 0.5)]
    assert [found[f"set/fvd_judge{end}"] for end in ("", "/low", "/high", "/videos")] == [
        [(2, 20.0)],
        [(2, 1.0)],
        [(2, 99.0)],
        [(2, 2.0)],
    ]


def test_mlflow_has_the_clips_themselves(folder: Path, client: Any, tmp_path: Path) -> None:
    track(folder, "mlflow")
    run = mlflow_runs(client)["cfg"]
    place = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    with Run.open(folder) as opened:
        ids = {setting.name: setting.id for setting in opened.settings()}
        clips = [clip for clip in opened.clips() if clip.setting == ids["cfg"]]
        for clip in clips:
            assert clip.video is not None
            logged = place / "clips" / f"{clip.key}.mp4"
            assert logged.read_bytes() == clip.video.read_bytes()
    assert len(list((place / "clips").iterdir())) == 2
    rows = list(csv.DictReader(io.StringIO((place / "clips.csv").read_text(encoding="utf-8"))))
    assert [(row["step"], row["prompt"], row["seed"]) for row in rows] == [
        ("0", "a red star", "0"),
        ("1", "a blue circle", "0"),
    ]
    assert [row["key"] for row in rows] == [clip.key for clip in clips]


def test_mlflow_gets_nothing_twice(
    folder: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(folder, "mlflow")
    before = {name: history(client, run) for name, run in mlflow_runs(client).items()}
    assert track(folder, "mlflow") == 0
    assert {name: history(client, run) for name, run in mlflow_runs(client).items()} == before
    add(folder)
    assert track(folder, "mlflow") == 3
    runs = mlflow_runs(client)
    assert set(runs) == {"cfg", "stg/8"}
    cfg = history(client, runs["cfg"])
    assert cfg["cost/passes_per_step"] == [(step, 2.0) for step in range(5)]
    assert cfg["metrics/motion"] == [(0, 3.0)]
    assert cfg["metrics/sharpness"] == [(0, 0.0), (0, 0.125), (1, 0.5)]
    assert history(client, runs["stg/8"]) == before["stg/8"]
    client.delete_run(runs["stg/8"].info.run_id)
    assert track(folder, "mlflow") == 2
    client.delete_experiment(client.get_experiment_by_name("run").experiment_id)
    assert track(folder, "mlflow") == 0
    assert set(mlflow_runs(client)) == {"cfg", "stg/8"}
    folder.rename(folder.with_name("moved"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "run")
    assert track(folder.with_name("moved"), "mlflow") == 0


def test_a_store_that_cannot_be_had_is_said_before_any_work(folder: Path, client: Any) -> None:
    with pytest.raises(ValueError, match="must have a store that it can write"):
        Tracking(folder, parse_targets(["mlflow:nonsense://x"]), print)


# --- Weights & Biases -----------------------------------------------------------------------------


@pytest.fixture
def offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return importlib.import_module("wandb.proto.wandb_internal_pb2")


def records(path: Path, messages: Any) -> Iterator[Any]:
    """What W&B has written, in its own messages; the file is a log of LevelDB in 32 KiB blocks."""
    content, position, whole = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, last
            yield messages.Record.FromString(whole)
            whole = b""


def _finished(path: Path, messages: Any) -> list[Any]:
    """All records of a run, once W&B's own process has written the last one."""
    end = time.monotonic() + 60
    while True:
        found = list(records(path, messages))
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.1)


def key_of(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def wandb_runs(folder: Path, messages: Any) -> dict[str, dict[str, Any]]:
    """Each run by its name: ids, config, rows of the history, summary."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        kept: dict[str, Any] = {"config": {}, "rows": [], "summary": {}, "ids": set(), "files": []}
        name = ""
        for record in _finished(path, messages):
            if record.HasField("run"):
                name = record.run.display_name
                kept = found.setdefault(name, kept)
                kept["ids"].add(record.run.run_id)
                kept["group"] = record.run.run_group
                kept["project"] = record.run.project
                kept["config"] |= {
                    i.key: json.loads(i.value_json) for i in record.run.config.update
                }
            elif record.HasField("history"):
                row = {key_of(i): json.loads(i.value_json) for i in record.history.item}
                kept["rows"].append({k: v for k, v in row.items() if not k.startswith("_")})
            elif record.HasField("summary"):
                kept["summary"] |= {
                    key_of(i): json.loads(i.value_json) for i in record.summary.update
                }
        if name:
            kept["files"] += list(path.parent.rglob("*.mp4"))
    return found


def test_wandb_has_settings_clips_numbers_and_cost(folder: Path, offline: Any) -> None:
    assert track(folder, "wandb:studies") == 4
    runs = wandb_runs(folder, offline)
    assert set(runs) == {"cfg", "stg/8"}
    stg = runs["stg/8"]
    assert (stg["group"], stg["project"]) == ("run", "studies")
    wanted = {"model": "lab-mochi", "layers": "8,single:3", "stg_scale": 1.0, "num_frames": FRAMES}
    assert {name: stg["config"][name] for name in wanted} == wanted
    clips = [row for row in stg["rows"] if "video/path" in row]
    assert [(r["clip"], r["metrics/sharpness"], r["cost/passes_per_step"]) for r in clips] == [
        (0, 0.25, 2.5),
        (1, 0.75, 2.5),
    ]
    assert [row["video/caption"] for row in clips] == [
        "a red star, seed 0",
        "a blue circle, seed 0",
    ]
    names = ("mean/sharpness", "set/fvd:judge", "set/fvd:judge/low", "set/fvd:judge/high", "count")
    assert [stg["summary"][name] for name in names] == [0.5, 20.0, 1.0, 99.0, 2]
    with Run.open(folder) as run:
        ours = {clip.video.read_bytes() for clip in run.clips() if clip.video is not None}
    theirs = {path.read_bytes() for run in runs.values() for path in run["files"]}
    assert theirs == ours


def test_wandb_gets_nothing_twice(folder: Path, offline: Any) -> None:
    track(folder, "wandb")
    before = wandb_runs(folder, offline)
    assert track(folder, "wandb") == 0
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2  # nothing was opened
    add(folder)
    assert track(folder, "wandb") == 3
    after = wandb_runs(folder, offline)
    assert after["stg/8"] == before["stg/8"]
    assert after["cfg"]["ids"] == before["cfg"]["ids"]
    assert len(after["cfg"]["ids"]) == 1
    rows = [row for row in after["cfg"]["rows"] if "clips/path" not in row]
    assert sorted(row["clip"] for row in rows if "video/path" in row) == [0, 1, 2, 3, 4]
    new = [row for row in rows if "video/path" not in row]
    assert new == [{"clip": 0, "metrics/motion": 3.0, "metrics/sharpness": 0.125}]


def test_a_line_that_a_killed_process_has_not_ended(folder: Path, offline: Any) -> None:
    track(folder, "wandb")
    log = folder / "wandb" / "skipguide-skipguide.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'["x", ["cl')
    assert track(folder, "wandb") == 0
    add(folder)
    assert track(folder, "wandb") == 3
    assert track(folder, "wandb") == 0


def test_wandb_without_a_key_is_said_before_any_work(folder: Path, offline: Any) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from skipguide.runs.tracking import Tracking, parse_targets\n"
        "Tracking(Path(sys.argv[1]), parse_targets(['wandb']), print)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"HOME": str(folder.parent), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", script, str(folder)]
    result = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == 1
    assert "ValueError: --track wandb must know who you are" in result.stderr

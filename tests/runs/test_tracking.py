"""Runs in TensorBoard, read back by TensorBoard's own readers; and what all trackers share."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import video
from skipguide.runs import Run, SetMetric
from skipguide.runs.tracking import Tracking, parse_targets, targets
from skipguide.runs.tracking.glance import LARGEST, MOST_FRAMES, make_gif
from skipguide.runs.tracking.subject import describe
from support.painted import FPS, FRAMES, SETTINGS, SIZE, STEP, Painter, grey, painted

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="tensorboard is not installed: pip install tensorboard",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two settings, two prompts, one seed; measured."""
    folder = painted(tmp_path / "run", seeds=[0], settings=[SETTINGS[0], {
        "name": "stg/8", "guidance_scale": 4.5, "stg": {"layers": [8], "scale": 1.0}}])  # fmt: skip
    with Run.open(folder, writable=True) as run:
        for i, clip in enumerate(run.clips()):
            run.record_metric(clip.key, "sharpness", i / 4)
        for setting in run.settings():
            run.record_set_metric(
                SetMetric(setting.id, "fvd:judge", 10.0 * setting.id, 2, 1.0, 99.0)
            )
    return folder


def track(folder: Path, to: str = "tensorboard") -> int:
    with Tracking(folder, parse_targets([to]), pytest.fail) as tracking:
        tracking.update()
    return sum(tracking.logged.values())


def read(logdir: Path) -> dict[str, Any]:
    """Each TensorBoard run, by TensorBoard's own reader, with nothing left out."""
    everything = dict.fromkeys(("scalars", "images", "tensors"), 0)
    found = {}
    for inner in sorted(path for path in logdir.iterdir() if path.is_dir()):
        found[inner.name] = event_accumulator.EventAccumulator(str(inner), everything).Reload()
    return found


def scalars(run: Any) -> dict[str, list[tuple[int, float]]]:
    return {
        tag: [(event.step, round(event.value, 6)) for event in run.Scalars(tag)]
        for tag in run.Tags()["scalars"]
    }


def test_tensorboard_has_settings_clips_numbers_and_cost(folder: Path) -> None:
    assert track(folder) == 4
    runs = read(folder / "tensorboard")
    assert list(runs) == ["cfg", "stg_8"]
    cfg, stg = (scalars(run) for run in runs.values())
    assert cfg["metrics/sharpness"] == [(0, 0.0), (1, 0.5)]
    assert stg["metrics/sharpness"] == [(0, 0.25), (1, 0.75)]
    assert cfg["cost/passes_per_step"] == [(0, 2.0), (1, 2.0)]
    assert stg["cost/seconds_per_step"] == [(0, 0.25), (1, 0.25)]
    assert stg["mean/sharpness"] == [(2, 0.5)]
    assert [stg[f"set/fvd:judge{end}"] for end in ("", "/low", "/high", "/videos")] == [
        [(2, 20.0)], [(2, 1.0)], [(2, 99.0)], [(2, 2.0)]]  # fmt: skip
    assert runs["cfg"].Tags()["images"] == [
        "clips/000 a red star, seed 0",
        "clips/001 a blue circle, seed 0",
    ]


def test_the_parameters_are_those_of_tensorboards_table_of_them(folder: Path) -> None:
    messages: Any = importlib.import_module("tensorboard.plugins.hparams.plugin_data_pb2")
    track(folder)
    run = read(folder / "tensorboard")["stg_8"]
    stored = run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    data = messages.HParamsPluginData.FromString(stored)
    found = {
        name: getattr(v, v.WhichOneof("kind"))
        for name, v in data.session_start_info.hparams.items()
    }
    wanted = {"model": "lab-mochi", "setting": "stg/8", "layers": "8", "stg_scale": 1.0}
    assert {name: found[name] for name in wanted} == wanted
    assert (found["guidance_scale"], found["steps"], found["num_frames"]) == (4.5, 2, FRAMES)


def test_the_clips_play_in_tensorboard(folder: Path) -> None:
    track(folder)
    image = read(folder / "tensorboard")["stg_8"].Images("clips/001 a blue circle, seed 0")
    assert len(image) == 1
    gif: Any = Image.open(io.BytesIO(image[0].encoded_image_string))
    assert (gif.format, gif.n_frames, gif.size) == ("GIF", FRAMES, (SIZE, SIZE))
    assert (image[0].width, image[0].height, image[0].step) == (SIZE, SIZE, 1)
    shown, taken = [], 0
    for frame in range(FRAMES):
        gif.seek(frame)
        taken += gif.info["duration"]
        shown.append(int(np.asarray(gif.convert("L"))[40, 40]))
    assert np.abs(np.subtract(shown, [grey(i) for i in range(FRAMES)])).max() <= 3
    assert taken == pytest.approx(1000 * FRAMES / FPS, abs=10)


def test_nothing_is_logged_twice_and_what_is_new_is_added(folder: Path) -> None:
    track(folder)
    first = {name: scalars(run) for name, run in read(folder / "tensorboard").items()}
    files = sorted((folder / "tensorboard").rglob("*"))
    assert track(folder) == 0
    assert sorted((folder / "tensorboard").rglob("*")) == files
    with Run.open(folder, writable=True) as run:
        key = run.clips()[0].key
        run.record_metrics([(key, "motion", 3.0), (key, "sharpness", 0.125)])
    painted(folder, prompts=["a new one", "a red star"], seeds=[0, 1], settings=SETTINGS[:1])
    assert track(folder) == 3
    cfg, other = (scalars(run) for run in read(folder / "tensorboard").values())
    assert cfg["cost/passes_per_step"] == [(step, 2.0) for step in range(5)]
    assert cfg["metrics/motion"] == [(0, 3.0)]
    assert cfg["metrics/sharpness"] == [(0, 0.0), (1, 0.5), (0, 0.125)]  # the new value as well
    assert other == first["stg_8"]


def test_a_deleted_folder_of_events_is_written_anew(folder: Path) -> None:
    track(folder, f"tensorboard:{folder.parent / 'events'}")
    assert not (folder / "tensorboard").exists()
    for path in (folder.parent / "events" / "cfg").iterdir():
        path.unlink()
    assert track(folder, f"tensorboard:{folder.parent / 'events'}") == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from skipguide.runs.tracking import Tracking, parse_targets
writes = [0]
before = os.replace
def replace(*paths):
    writes[0] += 1
    if writes[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    before(*paths)
os.replace = replace
with Tracking(Path(sys.argv[1]), parse_targets(["tensorboard"]), print) as tracking:
    tracking.update()
"""


@pytest.mark.long
def test_a_process_that_is_killed_while_it_logs(folder: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert track(folder) == 2
    for run in read(folder / "tensorboard").values():
        assert [step for step, _ in scalars(run)["cost/seconds"]] == [0, 1]


def test_a_long_video_is_shown_with_fewer_frames_and_pixels(tmp_path: Path) -> None:
    frames = np.zeros((100, 36, 512, 3), np.uint8)
    frames += np.arange(100, dtype=np.uint8)[:, None, None, None] * 2
    video.write(tmp_path / "x.mp4", frames, 25, {})
    made = make_gif(tmp_path / "x.mp4")
    gif: Any = Image.open(io.BytesIO(made.content))
    assert (gif.size, gif.n_frames) == ((LARGEST, 18), MOST_FRAMES)
    assert (made.width, made.height) == gif.size
    durations = []
    for frame in range(gif.n_frames):
        gif.seek(frame)
        durations.append(gif.info["duration"])
    assert sum(durations) == 4000


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verb_module = sys.modules["skipguide.cli.sweep"]  # the package has the function of that name
    monkeypatch.setattr(verb_module, "make_engine", lambda *_: Painter())
    monkeypatch.chdir(tmp_path)
    content = {"model": "lab-mochi", "prompts": ["a"], "seeds": [0, 1], "settings": SETTINGS[:1]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path / "plan.yaml"


def verb(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def test_a_sweep_logs_each_clip_when_it_is_made(plan: Path) -> None:
    result = verb("sweep", plan, "--track", "tensorboard")
    assert (
        "tensorboard: 2 clips logged; tensorboard --logdir runs/plan/tensorboard" in result.stdout
    )
    (run,) = read(Path("runs/plan/tensorboard")).values()
    assert scalars(run)["cost/seconds"] == [(0, 1.0), (1, 1.0)]
    assert len(list(Path("runs/plan/tensorboard/cfg").iterdir())) == 3  # two clips, and the whole
    again = json.loads(verb("sweep", plan, "--track", "tensorboard", "--json").stdout)
    assert (again["made"], again["tracked"], again["tracking_failed"]) == (
        0,
        {"tensorboard": 0},
        [],
    )
    told = json.loads(
        verb("runs", "track", "runs/plan", "--to", "tensorboard:logs", "--json").stdout
    )
    assert told == {"run": "runs/plan", "tracked": {"tensorboard:logs": 2}, "tracking_failed": []}


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ("wandb:bad/ent/x", "--track wandb must name PROJECT or ENTITY/PROJECT"),
        ("wandb:/x", "but got 'wandb:/x'. Correct it."),
        ("wandb:team/a:b", "but got 'wandb:team/a:b'. Correct it."),
        ("excel", "--track must be wandb, tensorboard or mlflow"),
        ("mlflow:", "mlflow:URI"),
        ("mlflow", "pip install 'skipguide[mlflow]'"),
        ("wandb:team/x", "pip install 'skipguide[wandb]'"),
    ],
)
def test_what_is_missing_is_said_before_any_work(
    plan: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, said: str
) -> None:
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    assert said in verb("sweep", plan, "--track", tracker, code=2).stderr
    assert not Path("runs").exists()


def test_a_tracker_that_fails_does_not_end_the_sweep(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = targets.open_tracker

    class Failing:
        place = "nowhere"

        def update(self, _: Any) -> int:
            raise ConnectionError("no route\nto host")

        def close(self) -> None:
            pass

    monkeypatch.setattr(
        "skipguide.runs.tracking.session.open_tracker",
        lambda target, folder: Failing() if target.where == "x" else opened(target, folder),
    )
    words = ["sweep", plan, "--track", "tensorboard:x", "--track", "tensorboard", "--json"]
    result = verb(*words, code=2)
    told = json.loads(result.stdout)
    assert (told["made"], told["tracked"]["tensorboard"]) == (2, 2)
    assert told["tracking_failed"] == ["tensorboard:x"]
    assert (
        result.stderr.count(
            "tracking with tensorboard:x has stopped (ConnectionError: no route to host)"
        )
        == 1
    )
    assert "skipguide runs track runs/plan --to tensorboard:x" in result.stderr


def test_a_run_is_known_again_in_another_folder(folder: Path) -> None:
    with Run.open(folder) as run:
        before = describe(run)
    os.rename(folder, folder.with_name("moved"))
    with Run.open(folder.with_name("moved")) as run:
        after = describe(run)
    assert (before.name, after.name) == ("run", "moved")
    assert before.identity == after.identity
    assert [s.identity for s in before.settings] == [s.identity for s in after.settings]


def test_an_evaluation_logs_what_it_has_measured(folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", folder, "--metrics", "temporal_flickering", "--track", "tensorboard"]
    assert "tensorboard: 4 clips logged" in verb(*words).stderr
    (cfg, _) = (scalars(run) for run in read(folder / "tensorboard").values())
    found = [value for _, value in cfg["metrics/temporal_flickering"]]
    assert found == pytest.approx([1 - STEP / 255] * 2, abs=2e-3)  # frames differ by STEP greys
    (mean,) = cfg["mean/temporal_flickering"]
    assert mean[1] == pytest.approx(sum(found) / 2, abs=1e-6)
    verb(*words)
    again, _ = (scalars(run) for run in read(folder / "tensorboard").values())
    assert again == cfg
    words[1] = tmp_path
    assert "--track must have a run" in verb(*words, code=2).stderr

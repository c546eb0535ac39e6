"""Sweeps with a real pipeline, what they share and keep, and what readers and the command line see
of them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import shutil
import sqlite3
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from skipguide import SLG, STG, Restart, guide
from skipguide.cli import app
from skipguide.files import video
from skipguide.generate import run as generation
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.models import loading
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning
from skipguide.runs import Plan, Run, SetMetric, Vote
from skipguide.runs.clip_table import table_cell
from skipguide.runs.engine import JobFailed
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import ClipPublished, SweepEstimate, estimate, sweep
from support.drawn import Drawn, plan_of, plan_with, swept
from support.saved import saved

PROMPTS = ["a red star", "a blue square moving left"]
SETTINGS = [
    {"name": "cfg", "guidance_scale": 4.5},
    {"name": "late", "guidance_scale": 4.5, "stg": {"layers": [2], "scale": 1.0, "start": 0.5}},
    {"name": "rare", "guidance_scale": 4.5, "stg": {"layers": [2], "scale": 1.0, "every": 3}},
    {
        "name": "alone",
        "guidance_scale": 1.0,
        "stg": {"layers": [1], "scale": 2.0, "skip": "attention"},
    },
]
SMALL = dict(
    height=32, width=32, num_frames=7, num_inference_steps=4, max_sequence_length=16, device="cpu"
)


def content(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "prompts": PROMPTS,
        "seeds": [0, 1],
        "settings": SETTINGS,
        **SMALL,
        **more,
    }


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def digest(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


def made(happenings: list[Any]) -> list[Any]:
    return [happening.job for happening in happenings if isinstance(happening, ClipPublished)]


# --- with a model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_mochi_dir: Path) -> dict[str, Any]:
    """A sweep of 16 clips with latents, and what its pipeline was asked for."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    plan = Plan.of(content(tiny_mochi_dir, save_latents=True))
    engine = LocalEngine(folder / "work")
    encoded: list[int] = []
    noise: list[torch.Tensor] = []
    sweeping = sweep(plan, folder, engine)
    planned = next(sweeping)
    assert engine._worker is not None
    pipe = engine._worker.pipe(plan.settings[0].generation)
    prepare = pipe.prepare_latents
    pipe.prepare_latents = lambda *args, **kwargs: (
        noise.append(prepare(*args, **kwargs)) or noise[-1].clone()
    )
    pipe.text_encoder.register_forward_hook(lambda *_: encoded.append(1))
    return {
        "folder": folder,
        "plan": plan,
        "planned": planned,
        "done": made(list(sweeping)),
        "encoded": len(encoded),
        "noise": noise,
        "pipe": pipe,
    }


def test_a_clip_of_a_run_is_what_generate_makes_bit_for_bit(
    told: dict[str, Any], tiny_mochi_dir: Path
) -> None:
    pipe = loading.load_pipeline(
        str(tiny_mochi_dir), device="cpu"
    )  # nothing is remembered here, nothing listens
    with Run.open(told["folder"]) as run:
        settings = {setting.id: setting.name for setting in run.settings()}
        clips = [clip for clip in run.clips("done") if clip.seed == 1 and clip.prompt == 2]
        environment = clips[0].environment
    assert [settings[clip.setting] for clip in clips] == ["cfg", "late", "rare", "alone"]
    for clip, setting in zip(clips, told["plan"].settings, strict=True):
        wanted = setting.generation.model_copy(update={"prompt": PROMPTS[1], "seed": 1})
        result = generation.generate(
            pipe, resolve_settings(validate_settings(wanted.model_dump()), pipe)
        )
        assert result.frames.shape == (clip.frames, clip.height, clip.width, 3)
        assert result.passes_per_step == clip.passes_per_step
        assert clip.video is not None
        record = video.read_record(clip.video)
        assert record["frames_sha256"] == clip.frames_sha256 == digest(result.frames)
    assert environment["versions"]["torch"] == environment["packages"]["torch"] == version("torch")
    assert len(environment["git"]["revision"]) == 40


def test_a_prompt_is_encoded_once_and_all_settings_start_from_one_noise(
    told: dict[str, Any],
) -> None:
    # The first prompt was encoded when the plan was checked. The second one is, with CFG and
    # without it, and so is "".
    assert told["encoded"] == 3
    assert len(told["noise"]) == 16
    by_seed = {seed: {told["noise"][i].numpy().tobytes() for i, job in enumerate(told["done"])
                      if job.generation.seed == seed} for seed in (0, 1)}  # fmt: skip
    assert [len(noises) for noises in by_seed.values()] == [1, 1]
    assert by_seed[0] != by_seed[1]


def test_the_cost_is_known_before_and_holds(told: dict[str, Any]) -> None:
    planned = told["planned"]
    assert isinstance(planned, SweepEstimate)
    assert (planned.clips, planned.missing, planned.workers) == (16, 16, 1)
    with Run.open(told["folder"]) as run:
        spent = sum((clip.passes_per_step or 0) * 4 for clip in run.clips("done"))
        assert [setting.passes_per_step for setting in run.settings()] == [
            row.passes_per_step for row in planned.rows
        ]
    assert planned.passes == pytest.approx(spent)
    assert planned.rows[0].passes_per_step == 2
    assert (
        planned.rows[1].passes_per_step == 2 + 0.5 * 1 / 4
    )  # half of the steps, one of four blocks
    assert planned.rows[2].passes_per_step == 2 + 2 / 4 * 1 / 4  # steps 0 and 3 of four
    assert planned.rows[3].passes_per_step == 1 + 3 / 4
    assert 0 < planned.seconds < 60


TERMS = {
    "terms": [
        {"layers": "1-2", "scale": [2.0, 1.0, 0.0, 0.0], "skip": "attention"},
        {"layers": 3, "scale": 0.5, "stop": 0.25},
        {"kind": "slg", "layers": [1], "start": 0.5},
    ],
    "restart": ["0.2:0.5", {"window": [0.5, 0.75]}],
}  # fmt: skip


def test_a_sweep_takes_what_guide_takes(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    """SLG, terms of different layers, a scale per step, several restarts; bit for bit."""
    different = [{"layers": [1]}, {"layers": [2], "scale": 0.5, "skip": "attention", "stop": 0.25}]
    settings = [
        {"name": "new", "guidance": TERMS}, {"name": "stg", "stg": different},
        {"name": "slg", "slg_layers": "1-2"},
    ]  # fmt: skip
    written = content(tiny_mochi_dir, seeds=[1], prompts=PROMPTS[:1], settings=settings)
    planned, *happenings = sweep(Plan.of(written), tmp_path, LocalEngine(tmp_path / "work"))
    assert len(made(happenings)) == 3
    new = [
        STG([1, 2], [2.0, 1.0, 0.0, 0.0], "attention"),
        STG([3], 0.5, stop=0.25),
        SLG([1], start=0.5),
    ]
    restarts = [Restart(window=(0.2, 0.5)), Restart(window=(0.5, 0.75))]
    calls: list[tuple[list[STG | SLG], dict[str, Any]]] = [
        (new, {"restart": restarts}),
        ([STG([1]), STG([2], 0.5, "attention", stop=0.25)], {}),
        ([SLG([1, 2])], {}),
    ]
    pipe = loading.load_pipeline(str(tiny_mochi_dir), device="cpu")
    with Run.open(tmp_path) as run:
        digests = [clip.frames_sha256 for clip in run.clips("done")]
        (first, *_) = run.settings()
        assert first.complete["guidance"]["restart"] == [
            {"window": [0.2, 0.5]},
            {"window": [0.5, 0.75]},
        ]
    assert isinstance(planned, SweepEstimate)
    # Blocks 2 and 3 of four at every step, and 2 and 3 again at one step of four.
    assert planned.rows[1].passes_per_step == 2 + 2 / 4 + 1 / 4 * 2 / 4
    with ignore_cpu_autocast_warning():
        for (terms, options), expected in zip(calls, digests, strict=True):
            with guide(pipe, *terms, **options):
                call = {k: v for k, v in SMALL.items() if k != "device"}
                generator = torch.Generator().manual_seed(1)
                frames = pipe(
                    PROMPTS[0], negative_prompt="", generator=generator, output_type="np", **call
                ).frames[0]
            assert digest((frames * 255).round().astype(np.uint8)) == expected


OLD = {
    "layers": [2],
    "stg_scale": 1.0,
    "spatial_scale": 0.0,
    "temporal_scale": 0.0,
    "skip": "residual",
    "orthogonalize": False,
    "start": 0.5,
    "stop": 1.0,
    "rescale": 0.0,
}


def test_a_ledger_with_flat_settings_is_read_and_gone_on_with(tmp_path: Path) -> None:
    """As they were stored before; the oldest of them knew fewer words."""
    late = {"name": "late", "stg": {"layers": [2], "start": 0.5}}
    swept(tmp_path, plan_with(late))
    ledger = sqlite3.connect(tmp_path / "ledger.sqlite")
    with ledger:
        ((stored,),) = ledger.execute("SELECT complete FROM settings").fetchall()
        flat = {name: value for name, value in json.loads(stored).items() if name != "guidance"}
        ledger.execute("UPDATE settings SET complete = ?", (json.dumps({**flat, **OLD}),))
    ledger.close()
    assert made(swept(tmp_path, plan_with(late))) == []
    assert made(swept(tmp_path, plan_with({**late, "name": "other name"}))) == []
    with Run.open(tmp_path) as run:
        (setting,) = run.settings()
    assert setting.name == "other name"
    assert setting.complete == json.loads(stored)
    other = {"name": "other name", "stg": {"layers": [1]}}
    with pytest.raises(ValueError, match=r"'other name' was guidance = .* it has 1 clip already"):
        swept(tmp_path, plan_with(other))


def test_latents_decode_to_the_frames_bit_for_bit(told: dict[str, Any]) -> None:
    pipe = told["pipe"]
    with Run.open(told["folder"]) as run:
        clip = run.clips("done")[5]
    assert clip.latents is not None
    with torch.no_grad():
        frames = pipe.vae.decode(load_file(clip.latents)["latents"], return_dict=False)[0]
    frames = pipe.video_processor.postprocess_video(frames, output_type="np")[0]
    assert digest((frames * 255).round().astype(np.uint8)) == clip.frames_sha256


@pytest.mark.long
def test_videos_of_pictures_are_swept_too(tmp_path: Path) -> None:
    model = saved("StableVideoDiffusionPipeline", tmp_path)
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (48, 40), colour).save(tmp_path / f"{name}.png")
    terms = [
        {"layers": ["up:0"], "scale": scale, "axis": axis}
        for axis, scale in (("spatial", 1.0), ("temporal", 0.5))
    ]
    settings = [{"name": "both", "stg": terms}]
    content = {
        "model": str(model),
        "prompts": [{"image": "red.png"}, {"image": "blue.png"}],
        "settings": settings,
        "height": 32,
        "width": 32,
        "num_frames": 3,
        "steps": 2,
        "device": "cpu",
    }
    folder = tmp_path / "run"
    assert (
        len(
            made(
                list(
                    sweep(
                        Plan.of(content, tmp_path),
                        folder,
                        LocalEngine(folder / "work"),
                        measure=False,
                    )
                )
            )
        )
        == 2
    )
    with Run.open(folder) as run:
        assert [prompt.image for prompt in run.prompts()] == ["red.png", "blue.png"]
        assert len({clip.frames_sha256 for clip in run.clips("done")}) == 2
    Image.new("RGB", (48, 40), (0, 200, 0)).save(
        tmp_path / "red.png"
    )  # the name is the same, the picture is not
    again = sweep(Plan.of(content, tmp_path), folder, LocalEngine(folder / "work"), measure=False)
    assert len(made(list(again))) == 1


def test_a_model_that_refuses_a_setting_says_so_before_anything_is_made(
    tmp_path: Path, tiny_mochi_dir: Path
) -> None:
    wrong = [
        {"name": "deep", "stg": {"layers": [99]}},
        {"name": "axis", "stg": {"layers": [1], "axis": "spatial"}},
        {"name": "window", "stg": {"layers": [1], "start": 0.9, "stop": 0.95}},
        *SETTINGS,
    ]
    plan = Plan.of(content(tiny_mochi_dir, settings=wrong))
    folder = tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"'deep' for .*99.*'axis' for .*'window' for .*selects none of the 4"
    ):
        list(sweep(plan, folder, LocalEngine(folder / "work")))
    assert not folder.exists()


def test_the_command_line_makes_shows_and_exports_a_run(
    tmp_path: Path, tiny_mochi_dir: Path
) -> None:
    plan, folder = tmp_path / "plan.yaml", tmp_path / "out" / "run"
    plan.write_text(yaml.safe_dump(content(tiny_mochi_dir, prompts=PROMPTS[:1])), encoding="utf-8")
    estimated = json.loads(run("sweep", plan, "--out", folder, "--dry-run", "--json").stdout)[
        "cost"
    ]
    assert not folder.parent.exists()
    result = run("sweep", plan, "--out", folder)
    assert "8 clips made" in result.stdout
    assert "8 of 8 clips to make, 64 denoiser passes" in result.stderr
    assert estimated["passes"] == pytest.approx(2 * 4 * (2 + 2.125 + 2.125 + 1.75))
    again = json.loads(run("sweep", plan, "--out", folder, "--json").stdout)
    assert (again["made"], again["cost"]["missing"], again["failures"]) == (0, 0, [])
    (listed,) = json.loads(run("runs", "ls", tmp_path / "out", "--json").stdout)["runs"]
    assert (listed["done"], listed["settings"], listed["seeds"], listed["sweeping"]) == (
        8,
        4,
        2,
        False,
    )
    with Run.open(folder, writable=True) as opened:
        opened.record_metrics([(clip.key, "sharpness", clip.seed) for clip in opened.clips()])
    shown = run("runs", "show", folder, "--clips").stdout
    assert "sharpness" in shown
    assert "0.5" in shown
    rows = list(csv.DictReader(io.StringIO(run("runs", "export", folder).stdout)))
    assert {(row["setting"], row["seed"], row["metric.sharpness"]) for row in rows} >= {
        ("late", "1", "1.0")
    }
    assert all((folder / row["video"]).is_file() for row in rows)
    assert {row["setting.stg_scale"] for row in rows} == {"0.0", "1.0", "2.0"}
    run("runs", "export", folder, "--out", tmp_path / "clips.csv")
    assert (
        list(csv.DictReader(io.StringIO((tmp_path / "clips.csv").read_text(encoding="utf-8"))))
        == rows
    )


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ([8, "single:3"], "8,single:3"),
        ({"name": "apg", "eta": 0.5}, '{"name": "apg", "eta": 0.5}'),
        ([{"start": 0.2}, {"start": 0.6}], '[{"start": 0.2}, {"start": 0.6}]'),
        (1.5, 1.5),
    ],
)
def test_cells_of_an_exported_table(value: Any, cell: Any) -> None:
    assert table_cell(value) == cell


# --- what a run does when it is swept again -------------------------------------------------------


def test_a_changed_plan_adds_and_the_rest_stays(tmp_path: Path) -> None:
    assert len(made(swept(tmp_path))) == 40
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    assert made(swept(tmp_path)) == []
    added = made(swept(tmp_path, plan_of(prompts=5, seeds=5, settings=3)))
    assert len(added) == 75 - 40
    assert (
        made(swept(tmp_path, plan_of(prompts=1, seeds=1, settings=1))) == []
    )  # a smaller one takes nothing away
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    assert {name: after[name] for name in before} == before
    with Run.open(tmp_path) as run:
        assert run.counts()["done"] == 75
        assert len(run.plans()) == 3
        assert [clip.status for clip in run.clips()] == ["done"] * 75


def test_latents_that_a_plan_asks_for_later_are_made(tmp_path: Path) -> None:
    swept(tmp_path, plan_of(1, 2, 1))
    planned, *happenings = swept(tmp_path, plan_of(1, 2, 1, save_latents=True))
    assert isinstance(planned, SweepEstimate)
    assert ["without latents" in note for note in planned.notes] == [True, True]
    assert len(made(happenings)) == 2
    with Run.open(tmp_path) as run:
        assert all(clip.latents is not None and clip.latents.is_file() for clip in run.clips())


def test_what_failed_is_left_alone_until_it_shall_be_tried(tmp_path: Path) -> None:
    first = swept(tmp_path, fails=3)
    assert len([h for h in first if isinstance(h, JobFailed)]) == 8
    second = swept(tmp_path)
    assert isinstance(second[0], SweepEstimate)
    assert (second[0].missing, second[0].failed) == (0, 8)
    with Run.open(tmp_path) as run:
        assert {clip.error for clip in run.clips("failed")} == {"ValueError: seed 3\nand where"}
        assert {clip.seed for clip in run.clips("failed")} == {3}
    shown = CliRunner().invoke(app, ["runs", "show", str(tmp_path)]).stdout
    assert shown.count("failed: ValueError: seed 3") == 8
    assert len(made(swept(tmp_path, retry_failed=True))) == 8
    with Run.open(tmp_path) as run:
        assert run.counts() == {"pending": 0, "running": 0, "done": 40, "failed": 0}
        assert {clip.attempts for clip in run.clips() if clip.seed == 3} == {2}


def test_only_failures_of_the_plan_are_tried_again(tmp_path: Path) -> None:
    """As a trial in the studio does, which is a plan of one clip."""
    swept(tmp_path, fails=3)
    swept(tmp_path, plan_of(1, 2, 1), retry_failed=True)
    with Run.open(tmp_path) as run:
        assert run.counts()["failed"] == 8
        assert all(clip.error for clip in run.clips("failed"))


def test_other_versions_make_other_clips_and_readers_get_the_newest(tmp_path: Path) -> None:
    swept(tmp_path, plan_of(1, 2, 1))
    assert len(made(swept(tmp_path, plan_of(1, 2, 1), version="2"))) == 2
    with Run.open(tmp_path) as run:
        assert run.counts()["done"] == 4
        assert [clip.environment["versions"] for clip in run.clips()] == [{"drawn": "2"}] * 2


def test_a_setting_keeps_its_parameters_and_may_change_its_name(tmp_path: Path) -> None:
    swept(tmp_path, plan_with({"name": "weak", "guidance_scale": 2}))
    with pytest.raises(
        ValueError, match=r"'weak' was guidance_scale = 2.0, now 3.0, and it has 1 clip already"
    ):
        swept(tmp_path, plan_with({"name": "weak", "guidance_scale": 3}))
    assert made(swept(tmp_path, plan_with({"name": "mild", "guidance_scale": 2}))) == []
    with Run.open(tmp_path) as run:
        assert [setting.name for setting in run.settings()] == ["mild"]
        assert run.counts()["done"] == 1


def test_settings_that_are_the_same_are_refused(tmp_path: Path) -> None:
    same = [{"name": "a", "guidance_scale": 2}, {"name": "b", "guidance_scale": 2.0}]
    with pytest.raises(ValueError, match=r"'a' and 'b' are the same"):
        swept(tmp_path / "run", plan_with(*same))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_sweep_that_is_left_can_be_gone_on_with_or_forgotten(tmp_path: Path, keep: bool) -> None:
    swept(tmp_path, plan_of(1, 1, 1))
    sweeping = sweep(plan_of(2, 2, 2), tmp_path, Drawn(tmp_path / "work"), keep_pending=keep)
    assert any(
        isinstance(happening, ClipPublished) for happening in sweeping
    )  # stops at the first one
    sweeping.close()
    with Run.open(tmp_path) as run:
        assert not run.is_sweeping
        assert run.counts() == {"pending": 6 if keep else 0, "running": 0, "done": 2, "failed": 0}
    assert len(made(swept(tmp_path, plan_of(2, 2, 2)))) == 6


@pytest.mark.parametrize("there", ["file", "stranger"])
def test_a_place_that_is_not_for_a_run_is_refused(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "run"
    if there == "file":
        folder.write_text("mine", encoding="utf-8")
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"a run needs (a folder, but|an empty folder.*thesis.tex)"
    ):
        swept(folder)


# --- pictures -------------------------------------------------------------------------------------


def pictured(folder: Path, *colours: str, **more: Any) -> Plan:
    """A plan of a picture per colour, in folders of their own, all of one name; those that are
    there stay."""
    paths = [folder / str(i) / more.pop("name", "first.png") for i in range(len(colours))]
    for path, colour in zip(paths, colours, strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(path)
    return plan_with(
        {"name": "cfg"}, prompts=[*({"image": str(path)} for path in paths), "a text"], **more
    )


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "images").rglob("*") if path.is_file())


def test_a_run_keeps_each_picture_once_by_content_and_name(tmp_path: Path) -> None:
    plan = pictured(tmp_path, "red", "blue", "red")
    assert len(made(swept(tmp_path / "run", plan))) == 3  # of the same picture one
    red, blue, _ = (prompt.image.read_bytes() for prompt in plan.prompts if prompt.image)
    names = {
        f"images/{hashlib.sha256(content).hexdigest()[:16]}/first.png" for content in (red, blue)
    }
    assert {
        path.relative_to(tmp_path / "run").as_posix() for path in kept(tmp_path / "run")
    } == names
    before = [path.stat().st_mtime_ns for path in kept(tmp_path / "run")]
    swept(tmp_path / "run", plan)
    assert [path.stat().st_mtime_ns for path in kept(tmp_path / "run")] == before
    with Run.open(tmp_path / "run") as run:  # one prompt per content and name too
        assert [run.image_of(prompt).read_bytes() for prompt in (1, 2)] == [red, blue]


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_picture_that_is_not_kept_is_told_and_the_next_sweep_keeps_it(
    tmp_path: Path, harm: str
) -> None:
    """So are all of a run of an older version, which is read as ever."""
    plan, folder = pictured(tmp_path, "red"), tmp_path / "run"
    swept(folder, plan)
    (picture,) = kept(folder)
    whole = picture.read_bytes()
    picture.write_bytes(whole[:-1]) if harm == "changed" else shutil.rmtree(folder / "images")
    with Run.open(folder) as run:
        assert len(run.clips("done")) == 2
        with pytest.raises(
            ValueError,
            match=r"first.png of prompt 1 is missing or was changed. Sweep its plan",
        ):
            run.image_of(1)
    assert made(swept(folder, plan)) == []
    assert picture.read_bytes() == whole


def test_prompts_without_a_picture_have_none(tmp_path: Path) -> None:
    swept(tmp_path / "run", pictured(tmp_path, "red"))
    with Run.open(tmp_path / "run") as run:
        with pytest.raises(
            ValueError, match=r"a prompt must have a picture .* but 2, 'a text', has none. Choose"
        ):
            run.image_of(2)
        with pytest.raises(
            ValueError, match=r"prompt must be the id of a prompt of the run, but got 3"
        ):
            run.image_of(3)


def test_a_picture_may_have_the_longest_name(tmp_path: Path) -> None:
    name = "p" * 251 + ".png"
    swept(tmp_path / "run", pictured(tmp_path, "red", name=name))
    assert [path.name for path in kept(tmp_path / "run")] == [name]


def test_an_estimate_copies_no_picture(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    swept(folder)
    estimate(pictured(tmp_path, "red"), folder, Drawn(folder / "work"))
    assert not (folder / "images").exists()


def test_an_estimate_writes_nothing_and_knows_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert estimate(plan_of(), folder, Drawn(folder / "work")).missing == 40
    assert not folder.exists()
    swept(folder, plan_of(prompts=1))
    names = sorted(path.name for path in folder.iterdir())
    assert estimate(plan_of(), folder, Drawn(folder / "work")).missing == 30
    assert sorted(path.name for path in folder.iterdir() if path.suffix in ("", ".sqlite")) == names


def test_an_estimate_is_what_the_sweep_then_does(tmp_path: Path) -> None:
    """Of a run with videos that are gone, damaged or changed, and of clips that failed; nothing is
    touched."""
    folder = tmp_path / "run"
    swept(folder, fails=2)
    lost, damaged, *_ = sorted((folder / "videos").glob("*.mp4"))
    lost.unlink()
    damaged.write_bytes(b"something else")
    before = {path: path.read_bytes() for path in folder.rglob("*.mp4")}
    for retry_failed in (False, True):
        engine = Drawn(folder / "work")
        wanted = estimate(plan_of(), folder, engine, retry_failed=retry_failed)
        assert {path: path.read_bytes() for path in folder.rglob("*.mp4")} == before
        with Run.open(folder) as run:
            assert run.counts()["failed"] == 8
        if retry_failed:
            assert (wanted.missing, wanted.failed) == (10, 0)
            with contextlib.closing(
                sweep(plan_of(), folder, engine, retry_failed=True)
            ) as happenings:
                assert next(happenings) == wanted
        else:
            assert (wanted.missing, wanted.failed) == (2, 8)
    assert sum("is missing: it is made again" in note for note in wanted.notes) == 1
    with pytest.raises(
        ValueError, match=r"must keep its parameters within a run, but 'cfg 0' was guidance_scale"
    ):
        estimate(
            plan_with({"name": "cfg 0", "guidance_scale": 9.0}), folder, Drawn(folder / "work")
        )


# --- metrics and votes ----------------------------------------------------------------------------


@pytest.fixture
def drawn_run(tmp_path: Path) -> Any:
    swept(tmp_path, plan_of(1, 2, 2))
    with Run.open(tmp_path, writable=True) as run:
        yield run


def test_metrics_of_clips_and_of_sets_are_kept(drawn_run: Run) -> None:
    clip, setting = drawn_run.clips()[0], drawn_run.settings()[0]
    drawn_run.record_metric(clip.key, "sharpness", 0.25)
    drawn_run.record_metric(clip.key, "sharpness", 0.5)
    assert drawn_run.clip(clip.key).metrics == {"sharpness": 0.5}
    fvd = SetMetric(setting.id, "fvd", 120.0, 2, 110.0, 130.0)
    drawn_run.record_set_metric(fvd)
    assert drawn_run.set_metrics() == [fvd]
    with pytest.raises(ValueError, match="Use clips and settings of this run"):
        drawn_run.record_metrics([(clip.key, "other", 1.0), ("0" * 16, "other", 1.0)])
    assert drawn_run.clip(clip.key).metrics == {"sharpness": 0.5}  # all of them or none


def test_votes_are_kept_once_per_rater_and_question(drawn_run: Run) -> None:
    first, second = sorted(clip.key for clip in drawn_run.clips()[:2])
    rating = Vote("ann", "rating", "visual quality", first, None, "4", seconds=2.5)
    pair = Vote("ann", "pair", "which is better?", first, second, "tie", left="second")
    for vote in (rating, pair, Vote("bob", "rating", "visual quality", first, None, "1")):
        drawn_run.vote(vote)
    drawn_run.vote(Vote("ann", "rating", "visual quality", first, None, "5"))
    found = [(vote.rater, vote.kind, vote.answer) for vote in drawn_run.votes()]
    assert sorted(found) == [("ann", "pair", "tie"), ("ann", "rating", "5"), ("bob", "rating", "1")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "6"}, "from 1 to 5"),
        ({"second": "x"}, "a rating neither"),
        ({"first": "none"}, "of this run"),
        ({"kind": "pair", "answer": "tie", "second": "0", "left": "first"}, "smaller key"),
    ],
)
def test_a_vote_that_means_nothing_is_refused(
    drawn_run: Run, change: dict[str, Any], said: str
) -> None:
    vote = {
        "rater": "ann",
        "kind": "rating",
        "question": "?",
        "first": drawn_run.clips()[0].key,
        "second": None,
        "answer": "3",
    }
    with pytest.raises(ValueError, match=said):
        drawn_run.vote(Vote(**{**vote, **change}))
    assert drawn_run.votes() == []


# --- the command line -----------------------------------------------------------------------------


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    assert (
        "a run must be a folder with a ledger.sqlite"
        in run("runs", "show", tmp_path, code=2).stderr
    )
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "ledger.sqlite").write_bytes(b"no database" * 1000)
    swept(tmp_path / "sound", plan_of(1, 1, 1))
    listed = run("runs", "ls", tmp_path).stdout
    assert "is damaged" in listed
    assert "sound" in listed
    assert "a folder of runs is needed" in run("runs", "ls", tmp_path / "none", code=2).stderr


@pytest.mark.parametrize(
    ("name", "said"), [("clips.txt", ".csv or .parquet"), ("clips.parquet", "pip install pyarrow")]
)
def test_a_table_that_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    swept(tmp_path / "run", plan_of(1, 1, 1))
    if name.endswith(".parquet"):
        try:
            import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
        except ImportError:
            assert (
                said
                in run("runs", "export", tmp_path / "run", "--out", tmp_path / name, code=2).stderr
            )
        else:
            run("runs", "export", tmp_path / "run", "--out", tmp_path / name)
            assert parquet.read_table(tmp_path / name).num_rows == 1
        return
    assert said in run("runs", "export", tmp_path / "run", "--out", tmp_path / name, code=2).stderr


def test_workers_without_ray_are_refused(tmp_path: Path) -> None:
    assert "Add --ray" in run("sweep", tmp_path / "plan.yaml", "--workers", "2", code=2).stderr
    alone = run("sweep", tmp_path / "plan.yaml", "--gpus-per-clip", "2", code=2)
    assert "--gpus-per-clip is for Ray" in alone.stderr

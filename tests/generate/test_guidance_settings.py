"""Rules, restarts, schedules and weak models on the command line: spelt, checked at once, recorded,
made again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from skipguide import APG, STG, Bin, Restart, Schedule, guide
from skipguide.cli import app
from skipguide.cli.compare import _describe_method
from skipguide.families import presets
from skipguide.files import video
from skipguide.generate import asked
from skipguide.generate import run as generation
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import perturbations
from skipguide.method.terms import Random
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

PROMPT = "a small red star orbiting over a blue background"
FEW = ("--steps", "5", "--seed", "3", "--device", "cpu", "--num-frames", "7")


def run(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str) -> Any:
    return json.loads(run(args[0], "--json", *args[1:]).stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bins.yaml").write_text(
        "- {sigma: [0.5, 1.1], layers: [2], scale: 2.0, skip: soft, strength: 0.3, guidance_scale:"
        " 6.0}\n- {sigma: [0.0, 0.5], layers: [5], scale: 1.0, rescale: 0.7}\n"
    )
    return tmp_path


# --- how they are spelt ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("apg", {"name": "apg", "eta": 0.0, "momentum": -0.5, "norm_threshold": 0.0, "space": "data"}),
        (
            "apg eta=0.2 space=prediction",
            {"name": "apg", "eta": 0.2, "momentum": -0.5, "norm_threshold": 0.0, "space": "prediction"},
        ),
        ({"name": "interval", "window": [0.2, 0.8]}, {"name": "interval", "window": [0.2, 0.8]}),
        ("interval window=0.2:0.8", {"name": "interval", "window": [0.2, 0.8]}),
        ("cfg-zero zero_steps=2", {"name": "cfg-zero", "zero_steps": 2}), ("tcfg", {"name": "tcfg"}),
    ],
)  # fmt: skip
def test_rules(given: Any, rule: dict[str, Any]) -> None:
    found = asked.completed(validate_settings({"prompt": "p", "cfg_rule": given}))
    assert found.cfg_rule == rule
    assert asked.completed(validate_settings(json.loads(found.model_dump_json()))) == found


@pytest.mark.parametrize(
    ("given", "restarts"),
    [
        ("0.4:0.6", [Restart(window=(0.4, 0.6))]), ("sigma=0.3:0.7 repeats=3", [Restart((0.3, 0.7), repeats=3)]),
        ({"window": [0.4, 0.6]}, [Restart(window=(0.4, 0.6))]),
        ([{"window": [0.1, 0.2]}, {"sigma": [0.3, 0.5]}], [Restart(window=(0.1, 0.2)), Restart((0.3, 0.5))]),
    ],
)  # fmt: skip
def test_restarts(given: Any, restarts: list[Restart]) -> None:
    found = asked.completed(validate_settings({"prompt": "p", "restart": given}))
    assert found.restart is not None
    assert [
        Restart(**{**row, **{k: tuple(v) for k, v in row.items() if isinstance(v, list)}})
        for row in found.restart
    ] == restarts
    assert asked.completed(validate_settings(json.loads(found.model_dump_json()))) == found


def test_a_schedule_is_read_into_the_settings(here: Path) -> None:
    found = asked.completed(validate_settings({"prompt": "p", "schedule": "bins.yaml"}))
    first = {
        "sigma": [0.5, 1.1],
        "layers": [2],
        "scale": 2.0,
        "skip": "soft",
        "guidance_scale": 6.0,
        "rescale": 0.0,
        "strength": 0.3,
    }
    assert found.schedule is not None
    assert found.schedule[0] == first
    assert asked.completed(validate_settings(json.loads(found.model_dump_json()))) == found


def test_terms_and_options(pipe: Any) -> None:
    given = {
        "random_share": 0.3,
        "skip": "blur",
        "strength": 0.7,
        "every": 2,
        "normalize": True,
        "seed": 9,
    }
    settings = resolve_settings(
        validate_settings({"prompt": "p", "restart": "0.4:0.6", "cfg_rule": "apg", **given}), pipe
    )
    assert asked.terms_of(settings) == [
        STG(Random(0.3), 1.0, "blur", strength=0.7, every=2, normalize=True, seed=9)
    ]
    assert settings.layers == ()
    options = {"rescale": 0.0, "rescale_space": "prediction", "orthogonalize": False}
    assert asked.options_of(settings) == {
        **options,
        "cfg": APG(),
        "restart": [Restart(window=(0.4, 0.6))],
    }


def test_a_published_schedule_is_filled_in(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        {"sigma": [0.5, 1.1], "layers": [1], "scale": 2.0},
        {"sigma": [0.0, 0.5], "guidance_scale": 3.0},
    )
    row = presets.Preset(
        "tiny",
        ("MochiPipeline",),
        4,
        layers=(),
        scale=0.0,
        skip="residual",
        source="here",
        schedule=rows,
    )
    monkeypatch.setattr(presets, "preset_for", lambda _: row)
    settings = resolve_settings(validate_settings({"prompt": "p"}), pipe)
    assert asked.terms_of(settings) == Schedule(
        [Bin((0.5, 1.1), [1], 2.0), Bin((0.0, 0.5), guidance_scale=3.0)]
    )
    assert resolve_settings(settings, pipe) == settings
    assert resolve_settings(validate_settings({"prompt": "p", "layers": 2}), pipe).schedule is None
    assert (
        resolve_settings(validate_settings({"prompt": "p", "stg_scale": 0.0}), pipe).schedule
        is None
    )


def test_strength_is_filled_in(pipe: Any) -> None:
    for skip in perturbations.PERTURBATIONS:
        settings = resolve_settings(
            validate_settings({"prompt": "p", "layers": 2, "skip": skip}), pipe
        )
        assert settings.strength == (0.5 if skip == "soft" else None)
    assert (
        resolve_settings(
            validate_settings({"prompt": "p", "layers": 2, "skip": "blur", "strength": 2.0}), pipe
        ).strength
        == 2.0
    )


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"skip": "soft", "layers": 2}, "CFG 4.5 + STG 1 (soft 0.5 2)"),
        ({"random_share": 0.2, "stg_scale": 0.25}, "CFG 4.5 + STG 0.25 (residual random 0.2)"),
        ({"stg_scale": 0.0, "cfg_rule": "apg", "restart": "0.4:0.6"}, "CFG 4.5 by apg + restart"),
        ({"schedule": [{"sigma": [0, 1]}]}, "CFG 4.5 + STG by noise level"),
    ],
)  # fmt: skip
def test_methods_have_names(pipe: Any, given: dict[str, Any], method: str) -> None:
    assert (
        _describe_method(resolve_settings(validate_settings({"prompt": "p", **given}), pipe))
        == method
    )


# --- on lab-mochi ---------------------------------------------------------------------------------


def by_guide(settings: GenerationSettings, terms: Any, **options: Any) -> np.ndarray:
    """The frames of a run under guide() from Python."""
    pipe = generation.load_pipeline("lab-mochi", "float32", "cpu")
    call = {
        "num_inference_steps": 5,
        "num_frames": 7,
        "output_type": "np",
        "height": settings.height,
    }
    call |= {
        "width": settings.width,
        "guidance_scale": settings.guidance_scale,
        "negative_prompt": "",
    }
    call |= {"max_sequence_length": settings.max_sequence_length}
    with guide(pipe, terms, **options), ignore_cpu_autocast_warning():
        frames = pipe(PROMPT, generator=torch.Generator().manual_seed(3), **call).frames[0]
    return (frames * 255).round().astype(np.uint8)


RUNS: list[tuple[tuple[str, ...], Any, dict[str, Any]]] = [
    (("--layers", "3", "--skip", "blur", "--strength", "0.8"), STG([3], 1.0, "blur", strength=0.8), {}),
    (("--layers", "3", "--skip", "shuffle", "--every", "2"), STG([3], 1.0, "shuffle", seed=3, every=2), {}),
    (("--random-share", "0.3", "--normalize"), STG(Random(0.3), 1.0, seed=3, normalize=True), {}),
    (
        ("--stg-scale", "0", "--cfg-rule", "apg eta=0.5", "--restart", "0.4:0.8 repeats=2", "--rescale", "0.5"),
        (), {"cfg": APG(0.5), "restart": Restart(window=(0.4, 0.8), repeats=2), "rescale": 0.5},
    ),
    (
        ("--schedule", "bins.yaml"),
        Schedule([Bin((0.5, 1.1), [2], 2.0, "soft", 6.0, strength=0.3), Bin((0.0, 0.5), [5], 1.0, rescale=0.7)]), {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "terms", "options"), RUNS, ids=["blur", "shuffle", "random", "restart", "schedule"]
)
def test_generate_is_guide_and_is_reproduced(
    here: Path, args: Any, terms: Any, options: Any
) -> None:
    if "--stg-scale" not in args and "--schedule" not in args:
        args = (*args, "--start", "0", "--stop", "1", "--rescale", "0", "--stg-scale", "1")
    made = output("generate", PROMPT, *FEW, *args, "--out", "a.mp4")["record"]
    assert "bins.yaml" not in json.dumps(made)
    settings = validate_settings(made["settings"])
    frames = by_guide(settings, terms, **options)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == made["frames_sha256"]
    (here / "bins.yaml").unlink()
    assert run("reproduce", "a.mp4").stdout == "bit-equal\n"
    assert video.read_record(here / "a.mp4")["settings"] == made["settings"]


def test_compare_with_a_rule_alone(here: Path) -> None:
    said = output("compare", PROMPT, *FEW, "--stg-scale", "0", "--cfg-rule", "apg")
    plain, ruled = said["runs"]
    assert plain["method"].startswith("CFG ")
    assert ruled["method"] == f"{plain['method']} by apg"
    assert plain["record"]["settings"]["cfg_rule"] is None
    assert plain["record"]["frames_sha256"] != ruled["record"]["frames_sha256"]


def test_steps_of_a_restart_are_counted() -> None:
    steps: list[generation.StepProgress] = []
    pipe = generation.load_pipeline("lab-mochi", "float32", "cpu")
    given = {"prompt": PROMPT, "steps": 5, "num_frames": 7, "restart": "0.4:0.8", "stg_scale": 0.0}
    generation.generate(pipe, resolve_settings(validate_settings(given), pipe), steps.append)
    assert [(step.number, step.steps) for step in steps] == [(i, 7) for i in range(1, 8)]


# --- refused before anything is loaded ------------------------------------------------------------

EARLY = [
    (
        ("--cfg-rule", "apgg"),
        "cfg_rule must begin with one of apg, cfg-zero, tcfg, interval, but got 'apgg'.",
    ),
    (
        ("--cfg-rule", "apg etta=1"),
        "cfg_rule has the parts eta, momentum, norm_threshold, space, but got etta.",
    ),
    (("--cfg-rule", "tcfg eta=1"), "cfg_rule has the parts none, but got eta."),
    (("--cfg-rule", "apg eta=-1"), "eta must be a finite number >= 0"),
    (("--restart", "0.6:0.4"), "window must be two numbers with 0 <="),
    (
        ("--restart", "0.4:0.6 sigma=0.1:0.2"),
        "a Restart needs sigma=(t_min, t_max) or window=(start, stop), but got 2",
    ),
    (
        ("--restart", "repeats=2"),
        "a Restart needs sigma=(t_min, t_max) or window=(start, stop), but got 0",
    ),
    (
        ("--schedule", "none.yaml"),
        "a schedule must be a YAML file that can be read, but none.yaml cannot",
    ),
    (
        ("--schedule", "bins.yaml", "--layers", "3"),
        "a schedule has what is skipped in its bins, but got layers beside",
    ),
    (("--schedule", "bins.yaml", "--every", "2"), "but got every beside it"),
    (
        ("--random-share", "0.1", "--layers", "3"),
        "random_share draws the layers, but layers=3 came too.",
    ),
    (("--random-share", "1"), "random_share must be a number above 0 and below 1, but got 1.0."),
    (
        ("--skip", "residual", "--strength", "2"),
        'strength must be left out for skip="residual", which has none',
    ),
    (("--skip", "soft", "--strength", "2"), "strength must be a number from 0 to 1"),
    (
        ("--skip", "smear"),
        "skip must be one of residual, attention, soft, blur, frames, shuffle, but got 'smear'.",
    ),
]


@pytest.mark.parametrize(("args", "message"), EARLY)
def test_refused_before_a_model_is_loaded(here: Path, args: tuple[str, ...], message: str) -> None:
    said = run("generate", "x", "--model", "no such model", *args, code=2)
    assert message in said.stderr
    assert said.stderr.count("\n") == 1


def test_what_the_model_cannot_is_refused_before_work_starts(here: Path) -> None:
    said = run(
        "generate", "x", *FEW, "--layers", "3", "--skip", "blur", "--spatial-scale", "1", code=2
    )
    assert "axis must be one that mochi has" in said.stderr
    said = run(
        "generate", "x", *FEW, "--layers", "3", "--guidance-scale", "1", "--cfg-rule", "apg", code=2
    )
    assert "APG needs CFG" in said.stderr


def test_a_bin_without_its_noise_levels(here: Path) -> None:
    (here / "c.yaml").write_text("schedule: [{layers: [1], scale: 2.0}]\n")
    said = run("generate", "x", "--model", "no such model", "--config", "c.yaml", code=2)
    assert "schedule lacks a part: " in said.stderr
    assert "'sigma'" in said.stderr


def test_layers_says_what_can_be_done_to_them() -> None:
    assert output("layers", "svd")["skips"] == ["residual", "attention", "soft", "blur", "shuffle"]
    assert "skips: residual, attention, shuffle\n" in run("layers", "sana-video").stdout


def test_the_settings_know_every_kind() -> None:
    for skip in perturbations.PERTURBATIONS:
        assert validate_settings({"prompt": "p", "skip": skip}).skip == skip

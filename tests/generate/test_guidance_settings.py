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
from PIL import Image
from typer.testing import CliRunner

from skipguide import APG, NAG, SLG, STG, TCFG, Bin, CFGZero, Interval, Restart, Schedule, guide
from skipguide.cli import app
from skipguide.families import presets
from skipguide.files import video
from skipguide.generate import run as generation
from skipguide.generate.describe import describe_method
from skipguide.generate.parsing import read_named_files
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import perturbations
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import Random
from skipguide.models import loading
from skipguide.models.places import without_places
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


OFF = {"prompt": "p", "stg_scale": 0.0}


@pytest.mark.parametrize(
    ("given", "rule", "plain"),
    [
        ("apg", APG(), {"name": "apg"}),
        (
            "apg eta=0.2 space=prediction",
            APG(0.2, space="prediction"),
            {"name": "apg", "eta": 0.2, "space": "prediction"},
        ),
        ({"name": "interval", "window": [0.2, 0.8]}, Interval((0.2, 0.8)), None),
        ("interval window=0.2:0.8", Interval((0.2, 0.8)), None),
        ("cfg-zero zero_steps=2", CFGZero(2), {"name": "cfg-zero", "zero_steps": 2}),
        ("tcfg", TCFG(), {"name": "tcfg"}),
    ],
)  # fmt: skip
def test_rules(pipe: Any, given: Any, rule: Any, plain: dict[str, Any] | None) -> None:
    found = resolve_settings(validate_settings({**OFF, "cfg_rule": given}), pipe)
    assert found.request == GuidanceRequest(cfg=rule)
    plain = plain or {"name": "interval", "window": [0.2, 0.8]}
    assert json.loads(found.model_dump_json())["guidance"] == {"cfg": plain}
    assert validate_settings(json.loads(found.model_dump_json())) == found


@pytest.mark.parametrize("given", ["5 stop=0.5", {"scale": 5.0, "stop": 0.5}])
def test_nag(pipe: Any, given: Any) -> None:
    found = resolve_settings(validate_settings({**OFF, "nag": given}), pipe)
    assert found.request == GuidanceRequest(nag=NAG(5.0, stop=0.5))
    plain = json.loads(found.model_dump_json())
    assert plain["guidance"] == {"nag": {"scale": 5.0, "stop": 0.5}}
    assert validate_settings(plain) == found
    block = {"guidance": {"terms": [{"layers": 2}], "nag": 5}}
    both = resolve_settings(validate_settings({"prompt": "p", **block, "nag": "7"}), pipe)
    assert both.request.nag == NAG(7.0)
    assert len(both.request.terms) == 1


@pytest.mark.parametrize(
    ("given", "restarts"),
    [
        ("0.4:0.6", [Restart(window=(0.4, 0.6))]),
        ("sigma=0.3:0.7 repeats=3", [Restart((0.3, 0.7), repeats=3)]),
        ({"window": [0.4, 0.6]}, [Restart(window=(0.4, 0.6))]),
        (
            [{"window": [0.1, 0.2]}, {"sigma": [0.3, 0.5]}],
            [Restart(window=(0.1, 0.2)), Restart((0.3, 0.5))],
        ),
        (["0.1:0.2", "sigma=0.3:0.5"], [Restart(window=(0.1, 0.2)), Restart((0.3, 0.5))]),
    ],
)
def test_restarts(pipe: Any, given: Any, restarts: list[Restart]) -> None:
    found = resolve_settings(validate_settings({**OFF, "restart": given}), pipe)
    assert found.request == GuidanceRequest(restart=tuple(restarts))
    assert validate_settings(json.loads(found.model_dump_json())) == found


BINS = Schedule(
    [Bin((0.5, 1.1), [2], 2.0, "soft", 6.0, strength=0.3), Bin((0.0, 0.5), [5], 1.0, rescale=0.7)]
)


@pytest.mark.parametrize(
    "given", [{"schedule": "bins.yaml"}, {"guidance": {"schedule": "bins.yaml"}}]
)
def test_a_schedule_is_read_into_the_settings(here: Path, pipe: Any, given: dict[str, Any]) -> None:
    read = validate_settings(read_named_files({"prompt": "p", **given}))
    found = resolve_settings(read, pipe)
    assert found.request.schedule == BINS
    assert validate_settings(json.loads(found.model_dump_json())) == found


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
    term = STG(Random(0.3), 1.0, "blur", strength=0.7, every=2, normalize=True)
    assert settings.request == GuidanceRequest(
        (term,), cfg=APG(), restart=(Restart(window=(0.4, 0.6)),)
    )
    assert settings.request.with_seed(9).terms[0].seed == 9


# --- guidance as guide() has it -------------------------------------------------------------------

WHOLE = {
    "terms": [
        {"layers": "1,2", "scale": 1, "skip": "attention"},
        {"layers": [3], "scale": [1.0, 0.5, 0.0, 0.0, 0.0], "normalize": True},
        "layers=random:0.3 scale=0.25 start=0.2",
        {"kind": "slg", "layers": "0-1", "stop": 0.5},
    ],
    "rescale": 0.7,
    "cfg": "apg eta=0.2",
    "restart": ["0.4:0.6 repeats=2", {"window": [0.7, 0.9]}],
    "share_prefix": False,
}


def test_guidance_is_a_request() -> None:
    settings = validate_settings({"prompt": "p", "guidance": WHOLE})
    terms = (
        STG([1, 2], 1, "attention"), STG([3], [1.0, 0.5, 0.0, 0.0, 0.0], normalize=True),
        STG(Random(0.3), 0.25, start=0.2), SLG([0, 1], stop=0.5),
    )  # fmt: skip
    restarts = (Restart(window=(0.4, 0.6), repeats=2), Restart(window=(0.7, 0.9)))
    expected = GuidanceRequest(
        terms, rescale=0.7, cfg=APG(0.2), restart=restarts, share_prefix=False
    )
    assert settings.request == expected
    plain = json.loads(settings.model_dump_json())["guidance"]
    assert GuidanceRequest.from_dict(plain) == expected
    assert plain["terms"][3] == {"kind": "slg", "layers": [0, 1], "stop": 0.5}
    assert plain["restart"][0] == {"window": [0.4, 0.6], "repeats": 2}


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ({"slg_layers": "1-2"}, GuidanceRequest((SLG([1, 2]),))),
        (
            {"slg_layers": 3, "layers": 2, "start": 0.1, "skip": "attention"},
            GuidanceRequest(
                (STG([2], 1.0, "attention", start=0.1), SLG([3], "attention", start=0.1))
            ),
        ),
        (
            {"term": ["layers=1 scale=2", "layers=2,3 scale=0.5 skip=blur"]},
            GuidanceRequest((STG([1], 2), STG([2, 3], 0.5, "blur"))),
        ),
        (
            {"term": "kind=slg layers=1", "stg_scale": 1.0, "layers": 2},
            GuidanceRequest((STG([2], 1.0), SLG([1]))),
        ),
    ],
)
def test_flags_of_more_terms(pipe: Any, given: Any, request_: GuidanceRequest) -> None:
    found = resolve_settings(validate_settings({"prompt": "p", **given}), pipe).request
    assert found.to_dict() == request_.to_dict()


def test_what_guidance_leaves_out_of_terms_is_the_preset(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = presets.Preset("tiny", ("MochiPipeline",), 4, (2, 3), 1.5, "attention", "here", start=0.1,
                         rescale=0.7)  # fmt: skip
    monkeypatch.setattr(presets, "preset_for", lambda _: row)

    def request(guidance: Any) -> GuidanceRequest:
        settings = validate_settings({"prompt": "p", "guidance": guidance})
        return resolve_settings(settings, pipe).request

    published = GuidanceRequest((STG([2, 3], 1.5, "attention", start=0.1),), rescale=0.7)
    assert request("preset") == request(None) == request({"terms": "preset"}) == published
    term = STG([2, 3], 3.0, "attention", start=0.0)
    assert request({"terms": [{"scale": 3.0, "start": 0}], "rescale": 0.5}) == GuidanceRequest(
        (term,), rescale=0.5
    )
    assert request({"cfg": "tcfg"}) == GuidanceRequest(cfg=TCFG())  # as guide(cfg=TCFG())
    assert request({"terms": [{"layers": [1]}]}) == GuidanceRequest((STG([1]),))
    assert request({"preset": {"layers": 1}}).terms == (STG([1], 1.5, "attention", start=0.1),)


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ({"term": []}, "guidance has the parts terms, schedule, .*, but got term"),
        ({"terms": [{"layer": [1]}]}, "a term has the parts layers, scale, .*, but got layer"),
        ({"terms": [{"kind": "pag", "layers": [1]}]}, "kind of a term must be one of stg, slg"),
        ({"terms": [{"kind": "slg"}]}, "a term must name its layers"),
        ({"terms": [3]}, "a term must have layers and a scale, but got 3"),
        ({"terms": [{"layers": [1], "weak": 1}]}, "weak must be .*, but got 1. Correct it"),
        ({"terms": [{"layers": {"share": 0.1}}]}, r"layers must be a list, or \{random: share\}"),
        ({"rescale": 0.7}, "rescale acts on steps with a term or a CFG rule"),
        ({"terms": [{"layers": [1]}], "schedule": [{"sigma": [0, 1]}]}, "but terms came too"),
        ("none", "guidance must be preset, or lines such as"),
    ],
)  # fmt: skip
def test_guidance_that_is_refused(guidance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_settings({"prompt": "p", "guidance": guidance})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"terms": [{"laers": 3, "scale": -1}]},
            r"must name its layers, .*\. Did you mean 'layers'\? scale must be",
        ),
        ({"terms": [{"laers": 3, "kind": "sgl"}]}, r"kind of a term .* Did you mean 'layers'\?"),
        (
            {"schedule": [{"sgima": [0, 1], "layers": [1]}]},
            r"but got sgima\. Did you mean 'sigma'\?$",
        ),
        ({"cfg": {"nam": "apg"}}, r"but got \{'nam': 'apg'\}\. Did you mean 'name'\?"),
        ({"cfg": "apg eta=0.2 eta=0.3"}, r"each name once, but eta stands more than once in 'apg"),
        (
            {"terms": "layers=8 layers=9 scale=1"},
            r"layers stands more than once in 'layers=8 layers=9 scale=1'\. Keep one of them\.$",
        ),
        ({"terms": "8 scale=1 9"}, r"layers stands .* \(a word without = is layers\)\. Keep one"),
    ],
)
def test_what_was_meant_and_what_stands_twice_is_said(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GuidanceRequest.from_dict(content)


def test_flags_over_the_guidance_of_a_file() -> None:
    file = {"prompt": "p", "guidance": {"terms": [{"layers": [1]}]}}
    found = validate_settings({**file, "rescale": 0.5, "cfg_rule": "tcfg"})
    assert found.request == GuidanceRequest((STG([1]),), rescale=0.5, cfg=TCFG())
    with pytest.raises(
        ValueError, match=r"already has the terms, so it cannot be combined with layers"
    ):
        validate_settings({**file, "layers": 3})


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
    assert settings.request.schedule == Schedule(
        [Bin((0.5, 1.1), [1], 2.0), Bin((0.0, 0.5), guidance_scale=3.0)]
    )
    assert resolve_settings(settings, pipe) == settings
    for given in ({"layers": 2}, {"stg_scale": 0.0}):
        other = resolve_settings(validate_settings({"prompt": "p", **given}), pipe)
        assert other.request.schedule is None


def test_strength_is_filled_in(pipe: Any) -> None:
    for skip in perturbations.PERTURBATIONS:
        for given in (
            {"layers": 2, "skip": skip}, {"guidance": {"terms": [{"layers": 2, "skip": skip}]}},
        ):  # fmt: skip
            settings = resolve_settings(validate_settings({"prompt": "p", **given}), pipe)
            assert settings.request.terms[0].strength == (0.5 if skip == "soft" else None)
    blur = validate_settings({"prompt": "p", "layers": 2, "skip": "blur", "strength": 2.0})
    assert resolve_settings(blur, pipe).request.terms[0].strength == 2.0


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"skip": "soft", "layers": 2}, "CFG 4.5 + STG 1 (soft 0.5 2)"),
        ({"random_share": 0.2, "stg_scale": 0.25}, "CFG 4.5 + STG 0.25 (residual random 0.2)"),
        ({"stg_scale": 0.0, "cfg_rule": "apg", "restart": "0.4:0.6"}, "CFG 4.5 by apg + restart"),
        ({"schedule": [{"sigma": [0, 1]}]}, "CFG 4.5 + STG by noise level"),
        ({"slg_layers": 1}, "CFG 4.5 + SLG (residual 1)"),
        ({"stg_scale": 0.0, "nag": 5}, "CFG 4.5 + NAG 5"),
        (
            {"layers": 2, "nag": "7 tau=1.5 layers=1,2 stop=0.5"},
            "CFG 4.5 + STG 1 (residual 2) + NAG 7 (tau 1.5, layers 1,2, 0-0.5)",
        ),
        (
            {"term": ["layers=1-2 scale=1,0.5", "layers=3 skip=attention", "kind=slg layers=0"]},
            "CFG 4.5 + STG 1,0.5 (residual 1,2) + STG 1 (attention 3) + SLG (residual 0)",
        ),
    ],
)  # fmt: skip
def test_methods_have_names(pipe: Any, given: dict[str, Any], method: str) -> None:
    assert (
        describe_method(resolve_settings(validate_settings({"prompt": "p", **given}), pipe))
        == method
    )


# --- on lab-mochi ---------------------------------------------------------------------------------


def by_guide(settings: GenerationSettings, terms: Any, **options: Any) -> np.ndarray:
    """The frames of a run under guide() from Python."""
    pipe = loading.load_pipeline("lab-mochi", "float32", "cpu")
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
    (
        ("--layers", "3", "--skip", "blur", "--strength", "0.8"),
        STG([3], 1.0, "blur", strength=0.8),
        {},
    ),
    (
        ("--layers", "3", "--skip", "shuffle", "--every", "2"),
        STG([3], 1.0, "shuffle", seed=3, every=2),
        {},
    ),
    (("--random-share", "0.3", "--normalize"), STG(Random(0.3), 1.0, seed=3, normalize=True), {}),
    (
        (
            "--stg-scale",
            "0",
            "--cfg-rule",
            "apg eta=0.5",
            "--restart",
            "0.4:0.8 repeats=2",
            "--rescale",
            "0.5",
        ),
        (),
        {"cfg": APG(0.5), "restart": Restart(window=(0.4, 0.8), repeats=2), "rescale": 0.5},
    ),
    (("--schedule", "bins.yaml"), BINS, {}),
    (("--slg-layers", "2,3"), SLG([2, 3]), {}),
    (
        (
            "--term",
            "layers=3 scale=1,0.5,0,0,2",
            "--term",
            "layers=5 scale=0.5 skip=attention",
            "--restart",
            "0.2:0.4",
            "--restart",
            "0.6:0.8",
            "--rescale",
            "0.3",
        ),
        [STG([3], [1.0, 0.5, 0.0, 0.0, 2.0]), STG([5], 0.5, "attention")],
        {"restart": [Restart(window=(0.2, 0.4)), Restart(window=(0.6, 0.8))], "rescale": 0.3},
    ),
]


NAMES = ("blur", "shuffle", "random", "restart", "schedule", "slg", "terms")
# Of one term, as "terms" has them for two; others are in test_settings.py.
LONG = ("blur", "shuffle", "random", "schedule", "slg")


@pytest.mark.parametrize(
    ("args", "terms", "options"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.long] if name in LONG else [])
        for name, case in zip(NAMES, RUNS, strict=True)
    ],
)
def test_generate_is_guide_and_is_reproduced(
    here: Path, args: Any, terms: Any, options: Any
) -> None:
    if not {"--stg-scale", "--schedule", "--slg-layers", "--term"} & set(args):
        args = (*args, "--start", "0", "--stop", "1", "--rescale", "0", "--stg-scale", "1")
    made = output("generate", PROMPT, *FEW, *args, "--out", "a.mp4")["record"]
    assert "bins.yaml" not in json.dumps(made)
    settings = validate_settings(made["settings"])
    frames = by_guide(settings, terms, **options)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == made["frames_sha256"]
    (here / "bins.yaml").unlink()
    assert run("reproduce", "a.mp4").stdout == "bit-equal\n"
    assert video.read_record(here / "a.mp4")["settings"] == made["settings"]


def test_compare_with_more_terms(here: Path) -> None:
    said = output("compare", PROMPT, *FEW, "--slg-layers", "2", "--term", "layers=7-8 scale=0.5")
    plain, guided = said["runs"]
    assert guided["method"] == f"{plain['method']} + STG 0.5 (residual 7,8) + SLG (residual 2)"
    assert plain["record"]["frames_sha256"] != guided["record"]["frames_sha256"]


def test_compare_with_a_rule_alone(here: Path) -> None:
    said = output("compare", PROMPT, *FEW, "--stg-scale", "0", "--cfg-rule", "apg")
    plain, ruled = said["runs"]
    assert plain["method"].startswith("CFG ")
    assert ruled["method"] == f"{plain['method']} by apg"
    assert plain["record"]["settings"]["guidance"] == {}
    assert plain["record"]["frames_sha256"] != ruled["record"]["frames_sha256"]


def test_steps_of_a_restart_are_counted() -> None:
    steps: list[generation.StepProgress] = []
    pipe = loading.load_pipeline("lab-mochi", "float32", "cpu")
    given = {"prompt": PROMPT, "steps": 5, "num_frames": 7, "restart": "0.4:0.8", "stg_scale": 0.0}
    generation.generate(pipe, resolve_settings(validate_settings(given), pipe), steps.append)
    assert [(step.number, step.steps) for step in steps] == [(i, 7) for i in range(1, 8)]


# --- refused before anything is loaded ------------------------------------------------------------

EARLY = [
    (
        ("--cfg-rule", "apgg"),
        "tcfg, but got 'apgg'. Did you mean 'apg'?",
    ),
    (
        ("--cfg-rule", "apg etta=1"),
        "cfg has the parts eta, momentum, norm_threshold, space, but got etta.",
    ),
    (("--cfg-rule", "tcfg eta=1"), "cfg has the parts none, but got eta."),
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
        "a schedule sets these per bin, so it cannot be combined with layers.",
    ),
    (("--schedule", "bins.yaml", "--every", "2"), "so it cannot be combined with every."),
    (
        ("--random-share", "0.1", "--layers", "3"),
        "random_share draws the layers, so it cannot be combined with layers=3.",
    ),
    (("--random-share", "1"), "random_share must be a number above 0 and below 1, but got 1.0."),
    (
        ("--skip", "residual", "--strength", "2"),
        'strength must be left out for skip="residual", which has none',
    ),
    (("--skip", "soft", "--strength", "2"), "strength must be a number from 0 to 1"),
    (
        ("--skip", "smear"),
        "skip must be one of residual, attention, soft, blur, frames, tokens, shuffle, but got"
        " 'smear'.",
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


@pytest.mark.long
def test_layers_says_what_can_be_done_to_them() -> None:
    assert output("layers", "svd")["skips"] == ["residual", "attention", "soft", "blur", "shuffle"]
    assert "skips: residual, attention, shuffle\n" in run("layers", "sana-video").stdout


def test_the_settings_know_every_kind() -> None:
    for skip in perturbations.PERTURBATIONS:
        assert validate_settings({"prompt": "p", "skip": skip}).guidance.skip == skip


@pytest.mark.parametrize(
    "given",
    [
        {"layers": 1, "stg_scale": 1.0, "mask": "m.png"},
        {"term": "layers=1 mask=m.png"},
        {"term": [{"layers": [1], "mask": "m.png"}]},
        {"guidance": {"terms": [{"layers": [1], "mask": "m.png"}]}},
        {"guidance": {"preset": {"layers": 1, "stg_scale": 1.0, "mask": "m.png"}}},
    ],
)
def test_a_mask_is_found_beside_its_file_and_told_apart_by_its_content(
    given: dict[str, Any], pipe: Any, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        Image.new("L", (16, 16), 255).save(folder / "m.png")
    complete = []
    for folder in folders:
        read = validate_settings(read_named_files({"prompt": "p", **given}, folder))
        complete.append(resolve_settings(read, pipe))
        (term,) = complete[-1].request.terms
        assert isinstance(term, STG)
        assert term.mask.file == str(folder / "m.png")
        written = complete[-1].model_dump(mode="json")
        assert validate_settings(json.loads(json.dumps(written))) == complete[-1]
        assert describe_method(complete[-1]).endswith("STG 1 (residual 1, mask m.png)")
    contents = [without_places(one.model_dump(mode="json")) for one in complete]
    assert contents[0] == contents[1]
    assert "m.png" not in json.dumps(contents[0])
    with pytest.raises(ValueError, match=r"there is no file 'm\.png'"):
        validate_settings({"prompt": "p", **given})

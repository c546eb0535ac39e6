"""Objectives on the clips of a run: what is measured, kept, refused, and left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from skipguide.files import video
from skipguide.metrics import pixels
from skipguide.metrics.evaluation import evaluate_run
from skipguide.metrics.inputs import Source, file_source
from skipguide.metrics.kernel import Grams, kernel_distance
from skipguide.runs import Run
from skipguide.tuning.objective import measuring
from skipguide.tuning.objective.kernel_scores import KernelScores
from skipguide.tuning.objective.objective import Objective, ObjectiveSpec
from support import measured
from support.drawn import plan_of, swept

SOURCE = """
def first_pixel(frames, prompt, fps):
    assert frames.dtype == "uint8" and frames.shape[3] == 3 and fps == 8
    return int(frames[0, 0, 0, 0]) + 1000 * int(prompt.split()[1])

def picky(frames, prompt, fps):
    if prompt == "prompt 1":
        raise KeyError("no such word")
    return float("nan") if prompt == "prompt 2" else 1.0

def leaving(frames, prompt, fps):
    if prompt == "prompt 1":
        raise {"exit": SystemExit, "own": Ending, "bare": GeneratorExit}[HOW]()
    if prompt == "prompt 2" and HOW == "exit":
        import sys
        sys.exit("no model")
    return 1.0

def stopped(frames, prompt, fps):
    raise KeyboardInterrupt

class Ending(BaseException):
    pass

HOW = "exit"

def never(frames, prompt, fps):
    raise RuntimeError("out of order")

def of_two(frames, prompt):
    return 0.0

NUMBER = 3
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run of two settings, four prompts and two seeds, with its videos."""
    swept(tmp_path / "run", plan_of(prompts=4, seeds=2, settings=2))
    with Run.open(tmp_path / "run", writable=True) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return str(tmp_path / "own.py")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the clips that are read, as they are."""
    keys: list[str] = []

    def noted(key: str, path: Path) -> Source:
        keys.append(key)
        return file_source(key, path)

    monkeypatch.setattr(measuring, "file_source", noted)
    return keys


def spec(*metrics: tuple[str, float], **more: object) -> ObjectiveSpec:
    return ObjectiveSpec(metrics, **more)  # type: ignore[arg-type]


# --- metrics --------------------------------------------------------------------------------------


def test_values_are_those_of_the_metrics_and_kept_in_the_ledger(run: Run, read: list[str]) -> None:
    objective = Objective(spec(("sharpness", 2.0), ("saturation", 1.0), floors=(("motion", 0.97),)))
    assert objective.label == "2 sharpness - saturation"
    assert objective.floors == (("motion", 0.97),)
    assert objective.lower == ()
    assert "of values as they are" in objective.check()[0]
    assert objective.scores(run).values == {}
    assert objective.measure(run) == []
    assert sorted(read) == sorted(clip.key for clip in run.clips())
    table = objective.scores(run)
    clips = [clip for clip in run.clips() if (clip.setting, clip.prompt) == (1, 2)]
    expected = []
    for clip in clips:
        assert clip.video is not None
        frames, fps = video.read(clip.video)
        tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
        own = 2 * pixels.sharpness(tensor) - pixels.saturation(tensor)
        expected.append(own)
        assert clip.metrics["motion"] == pytest.approx(pixels.motion(tensor, float(fps)))
    assert len(expected) == 2
    assert table.values["cfg 0"][2] == pytest.approx(np.mean(expected))
    assert set(table.parts) == {"sharpness", "saturation"}
    assert table.floors["motion"]["cfg 1"][1] > 0
    # Nothing is read twice.
    assert objective.measure(run) == []
    assert Objective(objective.spec).measure(run) == []
    assert len(read) == 16


def test_only_the_settings_that_are_named_are_measured(run: Run) -> None:
    objective = Objective(spec(("motion", 1.0)))
    objective.measure(run, ["cfg 1"])
    table = objective.scores(run)
    assert set(table.values) == {"cfg 1"}
    assert not table.is_known("cfg 0", 1)
    assert table.is_known("cfg 1", 1)


def test_failed_and_damaged_clips_are_said_and_not_waited_for(tmp_path: Path) -> None:
    swept(tmp_path / "run", plan_of(prompts=2, seeds=2, settings=1), fails=1)
    with Run.open(tmp_path / "run", writable=True) as run:
        broken = next(clip for clip in run.clips("done") if clip.prompt == 1)
        assert broken.video is not None
        broken.video.write_bytes(b"this is no video")
        objective = Objective(spec(("motion", 1.0)))
        (said,) = objective.measure(run)
        assert said.startswith("cfg 0, prompt 1, seed 0 has no value:")
        table = objective.scores(run)
        assert set(table.values["cfg 0"]) == {2}  # seed 1 of it failed, seed 0 counts
        assert table.lacking["cfg 0", 1] == said
        assert table.is_known("cfg 0", 1)
        # A later process says it too.
        assert Objective(objective.spec).measure(run) == [said]


def test_prompts_are_waited_for_until_all_their_seeds_are_there(run: Run) -> None:
    """A prompt with a clip that is not measured yet has no value."""
    objective = Objective(spec(("motion", 1.0)))
    clip = next(clip for clip in run.clips() if clip.seed == 0)
    run.record_metrics([(clip.key, "motion", 0.5)])
    assert objective.scores(run).values == {}


# --- functions ------------------------------------------------------------------------------------


def test_a_function_gets_frames_prompt_and_rate(run: Run, own: str) -> None:
    objective = Objective(spec((f"{own}:first_pixel", 1.0)))
    assert objective.label == "first_pixel"
    assert objective.check() == []
    assert objective.measure(run) == []
    clip = next(clip for clip in run.clips() if clip.prompt == 3)
    assert clip.video is not None
    frames, _ = video.read(clip.video)
    assert clip.metrics["first_pixel"] == int(frames[0, 0, 0, 0]) + 2000  # "prompt 2" is the third


def test_a_function_in_python_is_one_too(run: Run) -> None:
    def mean(frames: np.ndarray, prompt: str | None, fps: float | None) -> float:
        return float(frames.mean())

    objective = Objective(ObjectiveSpec(((mean, 1.0),)))
    objective.measure(run)
    assert set(objective.scores(run).values) == {"cfg 0", "cfg 1"}
    assert objective.spec.to_dict()["metrics"][0][0].endswith(":mean")


def test_a_module_with_a_function(run: Run) -> None:
    objective = Objective(spec(("skipguide.lab.prompt_metric:probability", 1.0)))
    assert objective.label == "probability"
    # Its prompts name nothing of the lab's world, which is said.
    with pytest.raises(
        ValueError, match=r"no probability: .* failed with ValueError: a prompt must"
    ):
        objective.measure(run)


def test_errors_and_nan_of_a_function_name_the_clip(run: Run, own: str) -> None:
    objective = Objective(spec((f"{own}:picky", 1.0)))
    said = objective.measure(run)
    of_each = "4 clips lack a value for one reason, the first of them: cfg 0, prompt"
    assert said == [
        f"{of_each} 2, seed 0 has no picky: {own}:picky failed with KeyError: 'no such word'",
        f"{of_each} 3, seed 0 has no picky: {own}:picky returned nan",
    ]
    assert objective.measure(run) == []  # told once, as long as it is of the same clips
    table = objective.scores(run)
    assert set(table.values["cfg 0"]) == {1, 4}
    assert "KeyError" in table.lacking["cfg 1", 2]
    kept = json.loads((run.folder / "tune" / "unmeasured.json").read_text())
    assert len(kept) == 8


def test_a_reason_is_told_again_when_more_clips_have_it(run: Run, own: str) -> None:
    objective = Objective(spec((f"{own}:picky", 1.0)))
    first = objective.measure(run, ["cfg 0"])
    assert [one[:7] for one in first] == ["2 clips", "2 clips"]
    assert [one[:7] for one in objective.measure(run, ["cfg 1"])] == ["4 clips", "4 clips"]


def test_reasons_that_differ_from_clip_to_clip_do_not_fill_the_screen(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "each.py").write_text(
        "count = []\ndef each(frames, prompt, fps):\n    count.append(0)\n"
        "    if len(count) > 2:\n        raise KeyError(len(count))\n    return 1.0\n"
    )
    said = Objective(spec((f"{tmp_path}/each.py:each", 1.0))).measure(run)
    assert len(said) == 6
    assert said[-1].startswith("9 more values are missing, each for a reason of its own")


@pytest.mark.parametrize(
    ("how", "words"),
    [("exit", "SystemExit"), ("own", "Ending"), ("bare", "GeneratorExit")],
)
def test_a_function_that_would_end_the_process_has_failed(
    run: Run, tmp_path: Path, how: str, words: str
) -> None:
    file = tmp_path / "ends.py"
    file.write_text(SOURCE.replace('HOW = "exit"', f'HOW = "{how}"'))
    said = Objective(spec((f"{file}:leaving", 1.0))).measure(run)
    assert said[0].endswith(f"has no leaving: {file}:leaving failed with {words}")
    assert how != "exit" or said[1].endswith("failed with SystemExit: no model")


def test_an_interrupt_at_the_keyboard_ends_the_measurement(run: Run, own: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Objective(spec((f"{own}:stopped", 1.0))).measure(run)


@pytest.mark.parametrize(("text", "words"), [("exit('no licence')", "SystemExit: no licence"),
                                             ("raise GeneratorExit", "GeneratorExit")])  # fmt: skip
def test_a_file_that_would_end_the_process_cannot_be_imported(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "ends.py").write_text(f"import sys\n{text.replace('exit(', 'sys.exit(')}\n")
    with pytest.raises(ValueError, match=f"failed with {words}"):
        Objective(spec((f"{tmp_path}/ends.py:f", 1.0)))


def test_a_function_that_never_has_a_value_ends_it(run: Run, own: str) -> None:
    with pytest.raises(ValueError, match=r"never must have a value for some clips, .* 16 that"):
        Objective(spec((f"{own}:never", 1.0))).measure(run)


def test_a_function_that_was_changed_is_refused(run: Run, own: str) -> None:
    Objective(spec((f"{own}:first_pixel", 1.0))).measure(run)
    Path(own).write_text(SOURCE.replace("1000", "2000"))
    with pytest.raises(ValueError, match="but it was changed since"):
        Objective(spec((f"{own}:first_pixel", 1.0))).measure(run)


def test_a_function_may_have_a_floor_and_two_of_one_name_are_refused(
    own: str, tmp_path: Path
) -> None:
    metric = f"{own}:first_pixel"
    both = Objective(spec((metric, 1.0), floors=((metric, 0.9),)))
    assert both.floors == (("first_pixel", 0.9),)
    (tmp_path / "other.py").write_text(SOURCE)
    other = f"{tmp_path / 'other.py'}:first_pixel"
    with pytest.raises(ValueError, match="functions need different names"):
        Objective(spec((metric, 1.0), floors=((other, 0.9),)))


# --- distance -------------------------------------------------------------------------------------


def test_the_distance_is_minus_the_mean_of_its_values(tmp_path: Path) -> None:
    swept(tmp_path / "run", plan_of(prompts=4, seeds=1, settings=1))
    with Run.open(tmp_path / "run", writable=True) as run:
        compare_distances(run, tmp_path)


def compare_distances(run: Run, tmp_path: Path) -> None:
    for name, clip in measured.clips(18, 3).items():
        measured.write(tmp_path / "real" / f"{name}.mp4", clip)
    objective = Objective(spec(features="judge", reference=tmp_path / "real"))
    assert objective.check() == []
    assert objective.measure(run) == []
    table = objective.scores(run)
    assert not table.values
    prompts = [1, 2, 3, 4]
    for setting, result in evaluate_run(run, tmp_path / "real", ["kvd:judge"]):
        assert table.has(setting.name, 1)
        found = table.column(setting.name, prompts)
        assert found.shape == (4,)
        assert found.mean() == pytest.approx(-result["kvd:judge"].value, rel=1e-4)
    # A second process reads neither the clips nor the reference again.
    (tmp_path / "real").rename(tmp_path / "gone")
    assert Objective(objective.spec).measure(run) == []


def features(rng: np.random.Generator, count: int, shift: float) -> np.ndarray:
    return rng.normal(shift, 1, (count, 6))


def test_values_of_prompts_are_the_jackknifes() -> None:
    """Against the distance computed anew without each prompt, by metrics.kernel."""
    rng = np.random.default_rng(0)
    real = features(rng, 20, 0.0)
    own = {prompt: features(rng, 1 + prompt % 3, 0.7) for prompt in range(9)}
    scores = KernelScores({"a": own}, real, "judge")

    def distance(chosen: list[int]) -> float:
        x = torch.from_numpy(np.concatenate([own[p] for p in chosen]))
        return kernel_distance(Grams.from_features(x, torch.from_numpy(real)))

    every = list(range(9))
    without = [distance([p for p in every if p != left]) for left in every]
    expected = [-(9 * distance(every) - 8 * one) for one in without]
    assert scores.column("a", every) == pytest.approx(np.asarray(expected))
    assert scores.distance("a", every).value == pytest.approx(distance(every))
    # Of one clip a prompt the mean is the distance itself, for it is unbiased.
    own = {prompt: features(rng, 1, 0.7) for prompt in every}
    scores = KernelScores({"a": own}, real, "judge")
    assert scores.column("a", every).mean() == pytest.approx(-distance(every))
    assert np.isnan(scores.column("a", [0, 99])).all()
    assert np.isnan(scores.column("a", [*every, 99])[-1])


def test_distances_are_said_above_real_to_real() -> None:
    rng = np.random.default_rng(0)
    real = features(rng, 60, 0.0)
    own = {prompt: features(rng, 1, 1.0) for prompt in range(12)}
    scores = KernelScores({"a": own}, real, "judge")
    first, second = (torch.from_numpy(half) for half in (real[::2], real[1::2]))
    between = kernel_distance(Grams.from_features(first, second))
    found = scores.real_to_real()
    assert found.value == pytest.approx(between)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high  # equal distributions
    said = scores.sentences(["a"], range(12))
    distance = kernel_distance(
        Grams.from_features(torch.from_numpy(np.concatenate(list(own.values()))),
                            torch.from_numpy(real))
    )  # fmt: skip
    assert said[0].startswith(
        "Real to real, one half of the 60 videos of the reference to the other, has a kernel"
        f" distance (judge) of {between:.4g} ("
    )
    assert said[1].startswith(f"a has {distance:.4g} (")
    assert said[1].endswith(f"on 12 prompts, {distance - between:.4g} above real to real.")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "more", "message"),
    [
        ([("beauty", 1)], {}, "a metric must be one of .*imaging_quality, .* or file.py:function"),
        ([("fvd:judge", 1)], {}, "of single clips, but 'fvd:judge' is of sets"),
        ([("motion", 0)], {}, "the weight of a metric must be a number other than 0"),
        ([("motion", 1), ("motion", 2)], {}, "named once, but got motion twice"),
        ([("motion", 1)], {"floors": (("sharpness", 97),)}, "above 0 and at most 1, but sharpness"),
        ([("motion", 1)], {"votes": True}, "one thing can be raised at a time, .* --metric and"),
        ([], {"features": "judge"}, "needs --features EXTRACTOR and --reference DIR"),
        ([], {"reference": Path("x")}, "there is no --features"),
        ([], {"features": "c3d", "reference": Path("x")}, "--features must be i3d or videomae"),
        ([("nowhere.py:f", 1)], {}, "needs the file nowhere.py, but there is none"),
        ([("no.such.module:f", 1)], {}, "importing 'no.such.module:f' failed with ModuleNot"),
        ([("OWN:missing", 1)], {}, "no function 'missing'. It has first_pixel, picky, leaving"),
        ([("OWN:NUMBER", 1)], {}, "has no function 'NUMBER'"),
        ([("OWN:of_two", 1)], {}, r"must be called as f\(frames, prompt, fps\), but"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    metrics: list[tuple[str, float]], more: dict[str, object], message: str, own: str
) -> None:
    given = [(name.replace("OWN", own), weight) for name, weight in metrics]
    with pytest.raises(ValueError, match=message):
        Objective(spec(*given, **more))


def test_missing_weights_and_small_references_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be requested, but it was not"):
        Objective(spec(("imaging_quality", 1.0))).check()
    measured.write(tmp_path / "real" / "a.mp4", measured.clips(1, 0)["000"])
    with pytest.raises(ValueError, match=r"must have 16 videos or more, .* has 1\. Add videos"):
        Objective(spec(features="judge", reference=tmp_path / "real")).check()
    with pytest.raises(ValueError, match="--reference must be a folder of real videos, but"):
        Objective(spec(features="judge", reference=tmp_path / "nothing")).check()


def test_specs_are_json(tmp_path: Path) -> None:
    given = spec(("motion", 2.0), floors=(("sharpness", 0.9),))
    assert ObjectiveSpec.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    given = spec(features="judge", reference=tmp_path)
    assert ObjectiveSpec.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_without_a_metric_nothing_is_measured(run: Run) -> None:
    objective = Objective(spec())
    assert not objective.spec.measures
    assert (objective.label, objective.check(), objective.measure(run)) == ("", [], [])
    assert objective.scores(run).values == {}

"""A whole tuning of a drawn model, of which it is known what is best."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipguide.families.preset_files import read_preset_file
from skipguide.runs import Run, storage
from skipguide.runs.engine import Cost
from skipguide.runs.jobs import Job
from skipguide.runs.prompt_rows import Prompt
from skipguide.tuning.events import Noted, Planned, RoundOver, StageBegan, TuneResult
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.run import Tuning
from skipguide.tuning.scan import map_picture
from skipguide.tuning.scan.record import ScanRecord
from support import drawn_tuning
from support.drawn_tuning import engine, options

BEST = {"blocks:6": 0.1}
PROMPTS, PASSES = 18, 4_500.0
DRAW, SAVE = map_picture.draw, map_picture.save


@pytest.fixture(autouse=True)
def nothing_is_forced_onto_the_disk_or_drawn() -> Iterator[None]:
    """The picture of a map is most of a tuning's time here; that of `best` is drawn."""
    blank = mock.Mock(side_effect=lambda figure, path: path.write_bytes(b""))
    with (
        mock.patch("os.fsync"),
        mock.patch.multiple(map_picture, draw=mock.Mock(), save=blank),
    ):
        yield


def tuned(
    folder: Path, asked: TuneOptions, made: drawn_tuning.DrawnModel
) -> tuple[TuneResult, list[Any]]:
    """The result and the events of a tuning."""
    found: list[Any] = []

    def follow() -> Iterator[Any]:
        found.append((yield from Tuning(asked, folder, made).run()))

    events = list(follow())
    return found[0], events


def clips_of(folder: Path) -> dict[str, int]:
    """How many clips each setting has."""
    with Run.open(folder) as run:
        names = {setting.id: setting.name for setting in run.settings()}
        found = dict.fromkeys(names.values(), 0)
        for clip in run.clips("done"):
            found[names[clip.setting]] += 1
    return found


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TuneResult, list[Any]]:
    """A tuning of a model whose layer 6 is the best."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    with mock.patch("os.fsync"), mock.patch.multiple(map_picture, draw=DRAW, save=SAVE):
        found = tuned(folder, options(PROMPTS, passes=PASSES), engine(folder, gains=BEST))
    return folder, *found


def test_the_best_layer_is_found_and_its_gain_measured(
    best: tuple[Path, TuneResult, list[Any]],
) -> None:
    folder, result, events = best
    answer = result.answer
    assert answer is not None
    assert answer.verdict == "use"
    assert answer.recommended is not None
    assert "blocks:6" in answer.recommended
    assert "cfg-4 " in answer.recommended
    assert answer.gain is not None
    estimate = answer.gain.difference.estimate
    assert estimate.low is not None
    assert estimate.high is not None
    step = 1 / 219  # of brightness in an mp4
    assert estimate.low - step < 0.1 < estimate.high + step  # what is known of it
    assert 0 < estimate.high - estimate.low < 0.05
    stages = [event.name for event in events if isinstance(event, StageBegan)]
    assert list(dict.fromkeys(stages)) == ["scan", "race", "scale", "window", "answer"]
    # CFG alone is there at the price of the winner, which has 10 steps of 2 + 1 / 4 passes.
    priced = [one for one in answer.contestants if one.role == "cfg-price" and one.held_back]
    cost = {one.name: one.passes for one in answer.contestants}
    assert [one.passes for one in priced] == [round(cost[answer.winner or ""] / 2) * 2]
    # The prompts that measured the answer chose nothing.
    asked = options(PROMPTS)
    kept = {asked.prompts[i].text for i in asked.split()[1]}
    with Run.open(folder) as run:
        texts = {prompt.id: prompt.text for prompt in run.prompts()}
        settings = {setting.id: setting.name for setting in run.settings()}
        finalists = {settings[c.setting] for c in run.clips("done") if texts[c.prompt] in kept}
    assert answer.recommended in finalists
    assert len(finalists) <= 4


def test_the_preset_is_the_answer(best: tuple[Path, TuneResult, list[Any]]) -> None:
    folder, result, _ = best
    assert result.preset is not None
    file = read_preset_file(result.preset)
    assert file.row.layers in (("blocks:6",), (6,))
    assert file.row.normalize
    assert file.row.scale == 2.0
    assert file.row.defaults["guidance_scale"] == 4.0
    assert file.provenance.verdict == "use"
    assert file.provenance.answer_prompts == PROMPTS // 3
    assert result.command.startswith("skipguide generate 'A PROMPT' --model lab-mochi --preset ")
    told = json.loads((folder / "tune" / "race.json").read_text())
    assert told["stage"] == "done"
    assert told["answer"]["verdict"] == "use"
    with Run.open(folder) as run:
        of_answer = [c for c in run.clips("done") if c.prompt in told["prompts"]["held_back"]]
    counted = {stage["name"]: (stage["done"], stage["of"]) for stage in told["stages"]}
    assert counted["scan"] == (4, 4)  # a clip of each of its prompts
    assert counted["answer"] == (len(of_answer), len(of_answer))
    assert (folder / "tune" / "map.csv").is_file()
    assert (folder / "tune" / "map.png").read_bytes()[1:4] == b"PNG"
    assert result.report is not None
    assert "<html" in result.report.read_text()[:200]


def test_what_the_scan_computed_is_in_what_is_spent(
    best: tuple[Path, TuneResult, list[Any]],
) -> None:
    folder, result, _ = best
    budget = json.loads((folder / "tune" / "race.json").read_text())["budget"]
    # The drawn scan writes 8 weak passes and a conditional one, 5 ms, for each of 4 levels.
    of_scan = 4 * 4 * (8 + 1)
    assert budget["scan_passes"] == of_scan
    with Run.open(folder) as run:
        steps = {entry.id: entry.complete["steps"] for entry in run.settings()}
        clips = run.clips("done")
    assert budget["passes_used"] == pytest.approx(
        of_scan + sum((clip.passes_per_step or 0) * steps[clip.setting] for clip in clips)
    )
    assert budget["seconds_used"] == pytest.approx(
        4 * 4 * 0.005 + sum(c.seconds or 0 for c in clips)
    )
    assert result.report is not None
    assert f"; {of_scan} of the passes are the scan&#x27;s own" in result.report.read_text()


def test_a_tuning_that_goes_on_plans_with_the_deviations_of_its_clips(
    best: tuple[Path, TuneResult, list[Any]],
) -> None:
    folder, _, events = best
    made = engine(folder, gains=BEST)
    more = Tuning(options(PROMPTS, passes=PASSES), folder, made).run(only_plan=True)
    plans = [event.sentences for event in (*events, *more) if isinstance(event, Planned)]
    first, again = (" ".join(sentences) for sentences in plans)
    assert "standard deviations of the paired differences" in first
    # The weak pass of a scan costs 8 passes over 16 cells, and no clock says so.
    assert "and a weak pass of the scan is 0.50 of one on average" in first
    assert "differences of grey above .0" in again
    assert "lab models" not in again


def test_where_nothing_helps_the_answer_is_cfg_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result, events = tuned(folder, options(12, passes=3_000.0), engine(folder))
    assert result.answer is not None
    assert result.answer.verdict == "use CFG alone"
    assert result.answer.recommended == "cfg-4"
    assert result.preset is not None
    assert read_preset_file(result.preset).is_cfg_alone
    assert result.report is not None
    told = json.loads((folder / "tune" / "race.json").read_text())
    noted = [event.text for event in events if isinstance(event, Noted)]
    for stage in ("scale", "window"):
        said = f"The {stage} of STG was not searched: CFG alone"
        (text,) = (one for one in noted if one.startswith(said))
        assert text.endswith(" leads the race, and has none.")
        assert text in told["notes"]
        assert text in result.report.read_text()


def test_a_race_drops_what_is_clearly_worse(best: tuple[Path, TuneResult, list[Any]]) -> None:
    folder, _, events = best
    race = [event for event in events if isinstance(event, RoundOver) and event.stage == "race"]
    gone = {exit.name for exit in race[-1].state.exits}
    assert "cfg-4" not in gone
    assert "cfg-2" in gone
    made = clips_of(folder)
    assert made["cfg-2"] < made["cfg-4"]


@pytest.mark.parametrize(
    "share",
    [pytest.param(0.01, marks=pytest.mark.long), 0.5, pytest.param(0.9, marks=pytest.mark.long)],
)
def test_an_interrupted_tuning_goes_on_to_the_same_answer(
    tmp_path: Path, best: tuple[Path, TuneResult, list[Any]], share: float
) -> None:
    whole, expected, _ = best
    folder, asked = tmp_path / "run", options(PROMPTS, passes=PASSES)
    after = int(share * sum(clips_of(whole).values()))

    class Stopping(drawn_tuning.DrawnModel):
        def _drawn(self, job: Job, shape: tuple[int, ...]) -> Any:
            if self.made == after:
                raise KeyboardInterrupt
            return super()._drawn(job, shape)

    first = Stopping(folder / "work", gains=BEST)
    with pytest.raises(KeyboardInterrupt):
        tuned(folder, asked, first)
    second = engine(folder, gains=BEST)
    found, _ = tuned(folder, asked, second)
    assert found.answer == expected.answer
    assert clips_of(folder) == clips_of(whole)
    assert first.made + second.made == sum(clips_of(whole).values())  # none is made twice
    third = engine(folder, gains=BEST)
    again, _ = tuned(folder, asked, third)
    assert third.made == 0
    assert again.answer == expected.answer


@pytest.mark.long
def test_hours_are_kept_where_the_machine_gets_slower(tmp_path: Path) -> None:
    """Videos take five times as long as the first steps promised."""
    folder, asked = tmp_path / "run", options(24, hours=0.002)
    slow = engine(folder, gains=BEST, reported=0.05)
    result, events = tuned(folder, asked, slow)
    over = [event.state.why for event in events if isinstance(event, RoundOver)]
    assert any("the hours for it are used up" in why for why in over)
    with Run.open(folder) as run:
        spent = sum(clip.seconds or 0 for clip in run.clips("done"))
    assert spent < 1.5 * 0.002 * 3600
    again, _ = tuned(folder, asked, engine(folder, gains=BEST, reported=0.05))
    assert again.answer == result.answer
    more = engine(folder, gains=BEST, reported=0.05)
    tuned(folder, options(24, hours=0.004), more)
    assert more.made > 0


@pytest.mark.parametrize(
    "passes",
    [
        1_200.0,
        *(pytest.param(more, marks=pytest.mark.long) for more in (1_500.0, 2_000.0, 3_000.0)),
    ],
)
def test_a_budget_in_passes_is_kept(tmp_path: Path, passes: float) -> None:
    """The passes of all videos and of the scan: 8 weak ones and a conditional one a state."""
    folder, asked = tmp_path / "run", options(18, passes=passes)
    result, events = tuned(folder, asked, engine(folder, gains=BEST))
    assert result.answer is not None
    cost = {one.name: one.passes for one in result.answer.contestants}
    (plan,) = (event.plan for event in events if isinstance(event, Planned))
    spent = plan.scan_prompts * len(plan.levels) * 9
    spent += sum(cost[name] * count for name, count in clips_of(folder).items())
    assert 0.6 * passes < spent <= passes


@pytest.mark.parametrize("own", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_budget_is_kept_whoever_says_the_seeds(tmp_path: Path, own: bool) -> None:
    folder = tmp_path / "run"
    rows = [Prompt(f"prompt {i}", seeds=(0, 1, 2) if own else ()) for i in range(18)]
    asked = dataclasses.replace(
        options(18, passes=4_000.0), prompts=tuple(rows), seeds=(0,) if own else (0, 1, 2)
    )
    result, _ = tuned(folder, asked, engine(folder, gains=BEST))
    assert result.answer is not None
    cost = {one.name: one.passes for one in result.answer.contestants}
    told = json.loads((folder / "tune" / "race.json").read_text())
    spent = told["budget"]["scan_passes"]
    spent += sum(cost[name] * count for name, count in clips_of(folder).items())
    assert 2_000 < spent <= 4_000


def test_a_budget_that_pays_for_no_tuning_is_refused_before_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = engine(folder)
    with pytest.raises(ValueError, match=r"must pay for the smallest tuning, .* Give --passes"):
        tuned(folder, options(18, passes=300.0), made)
    assert made.made == 0
    assert not folder.exists() or not list(folder.glob("*.db"))


def test_a_smaller_budget_does_not_replace_an_answer(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tuned(folder, options(18, passes=2_000.0), engine(folder))
    before = (folder / "tune" / "answer.json").read_bytes()
    with pytest.raises(ValueError, match=r"last ran with --passes 2000, .* but got --passes 1500"):
        tuned(folder, options(18, passes=1_500.0), engine(folder))
    with pytest.raises(ValueError, match=r"last ran with --hours \S+, .* but got --hours"):
        tuned(folder, options(18, hours=1e-4), engine(folder))
    assert (folder / "tune" / "answer.json").read_bytes() == before


def test_a_search_that_the_budget_does_not_pay_for_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _, events = tuned(folder, options(18, passes=1_200.0), engine(folder, gains=BEST))
    said = " ".join(event.text for event in events if isinstance(event, Noted))
    assert "scale of cfg-4 + blocks:6 residual x2 was not searched: what is left" in said
    told = json.loads((folder / "tune" / "race.json").read_text())
    assert any("was not searched" in note for note in told["notes"])
    assert "scale" not in {one["stage"] for one in told["candidates"]}


@pytest.mark.long
def test_passes_that_no_race_needs_measure_the_answer_on_more_prompts(tmp_path: Path) -> None:
    folder, asked = tmp_path / "run", options(60, passes=7_000.0)
    _, events = tuned(folder, asked, engine(folder, gains={"blocks:6": 0.4}))
    (plan,) = (event.plan for event in events if isinstance(event, Planned))
    told = json.loads((folder / "tune" / "race.json").read_text())
    assert plan.held_back < len(told["prompts"]["held_back"]) <= len(asked.split()[1])


def test_another_question_needs_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tuned(folder, options(6, passes=1_000.0), engine(folder))
    with pytest.raises(ValueError, match=r"goes on with the options .* prompts of"):
        tuned(folder, options(7, passes=1_000.0), engine(folder))
    made = engine(folder)
    tuned(folder, options(6, passes=4_000.0), made)  # a larger budget is the same question
    assert made.made > 0


def test_a_guidance_scale_of_one_is_in_every_setting(tmp_path: Path) -> None:
    class WithoutCFG(drawn_tuning.DrawnModel):
        def cost(self, complete: Any, image: Any) -> Cost:
            return Cost(1.0, 0.001)

    folder = tmp_path / "run"
    asked = options(6, passes=1_500.0, guidance_scales=(1.0,))
    result, _ = tuned(folder, asked, WithoutCFG(folder / "work"))
    with Run.open(folder) as run:
        assert {entry.complete["guidance_scale"] for entry in run.settings()} == {1.0}
    assert result.preset is not None
    assert read_preset_file(result.preset).row.defaults["guidance_scale"] == 1.0


def test_without_a_metric_nothing_is_claimed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = options(6, passes=3_000.0, objective=ObjectiveSpec())
    result, _ = tuned(folder, asked, engine(folder, gains=BEST))
    assert result.answer is not None
    assert result.answer.verdict == "not measured"
    assert result.preset is None
    assert result.answer.sentences[0].startswith("Nothing was measured")
    assert len(clips_of(folder)) >= 3


def test_votes_decide_where_they_are_asked_for(tmp_path: Path) -> None:
    from skipguide.runs.entities import Vote
    from skipguide.tuning.race import votes as vote_race

    folder = tmp_path / "run"
    asked = options(30, passes=6_000.0, objective=ObjectiveSpec(votes=True))
    model = engine(folder, gains=BEST)
    result, _ = tuned(folder, asked, model)
    for _ in range(4):
        if result.waiting is None:
            break
        assert "skipguide studio" in result.waiting
        told = json.loads((folder / "tune" / "race.json").read_text())["votes"]
        _vote(folder, told, model, vote_race, Vote)
        result, _ = tuned(folder, asked, model)
    assert result.answer is not None
    assert result.answer.verdict == "use"
    assert "blocks:6" in (result.answer.recommended or "")


def _vote(folder: Path, told: dict[str, Any], model: Any, vote_race: Any, Vote: Any) -> None:
    """A rater who always prefers the better setting answers until the race is over."""
    with Run.open(folder, writable=True) as run:
        ids = {setting.name: setting.id for setting in run.settings()}
        clips = {(clip.setting, clip.prompt): clip for clip in run.clips("done")}
        for number in range(300):
            rules = vote_race.VoteRules.of(told)
            state = vote_race.state(run, told["names"], told["baseline"], told["prompts"], rules)
            if state.pair is None:
                return
            prompt = told["prompts"][number % len(told["prompts"])]
            pair = sorted((clips[ids[name], prompt] for name in state.pair), key=lambda c: c.key)
            good = [_quality(run, clip, model) for clip in pair]
            answer = "first" if good[0] > good[1] else "second"
            run.vote(
                Vote(f"rater {number // len(told['prompts'])}", "pair", "overall",
                     pair[0].key, pair[1].key, answer, "first")
            )  # fmt: skip
    raise AssertionError("the race by votes did not end")


def _quality(run: Run, clip: Any, model: drawn_tuning.DrawnModel) -> float:
    from skipguide.generate.settings import validate_settings

    setting = next(entry for entry in run.settings() if entry.id == clip.setting)
    complete = {**setting.complete, "model": "lab-mochi", "prompt": "a"}
    return model.quality(validate_settings(complete))


OBJECTIVES = {
    "metric": {},
    "nothing": {"objective": ObjectiveSpec()},
    "votes": {"objective": ObjectiveSpec(votes=True)},
}


def begun(folder: Path, asked: TuneOptions) -> None:
    """A tuning that ended right before its first sweep."""
    steps = Tuning(asked, folder, engine(folder)).run()
    assert any(isinstance(event, StageBegan) for event in steps)
    steps.close()


@pytest.mark.parametrize(
    ("objective", "left"),
    [*((name, "all") for name in OBJECTIVES), ("metric", "an empty ledger"), ("metric", "nothing")],
)
def test_a_tuning_that_ended_before_its_first_sweep_goes_on(
    tmp_path: Path, objective: str, left: str
) -> None:
    """A kill leaves all that was written, a power cut may take what is not on the disk yet."""
    folder, asked = tmp_path / "run", options(6, passes=1_000.0, **OBJECTIVES[objective])
    begun(folder, asked)
    assert (folder / "tune" / "timing.json").is_file()
    if left != "all":
        for path in folder.glob("ledger.sqlite*"):
            path.unlink()
    if left == "an empty ledger":
        (folder / "ledger.sqlite").touch()
    planned = list(Tuning(asked, folder, engine(folder)).run(only_plan=True))
    assert isinstance(planned[-1], Planned)
    result, _ = tuned(folder, asked, engine(folder))
    assert result.answer is not None or result.waiting is not None


@pytest.fixture
def done(tmp_path: Path, best: tuple[Path, TuneResult, list[Any]]) -> Path:
    """A copy of the tuning `best`."""
    return Path(shutil.copytree(best[0], tmp_path / "run"))


def goes_on(folder: Path, expected: TuneResult) -> tuple[int, list[Any]]:
    """Go on with `best`: how many videos are made and what is told; the answer is the same."""
    made = engine(folder, gains=BEST)
    again, events = tuned(folder, options(PROMPTS, passes=PASSES), made)
    assert again.answer == expected.answer
    return made.made, events


def test_damaged_options_are_mended_by_what_is_advised(
    done: Path, best: tuple[Path, TuneResult, list[Any]]
) -> None:
    path = done / "tune" / "options.json"
    whole = path.read_text()
    for content in ("", "[]", '{"content": [1], "format": 2}', '{"format": 2}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"options.json is damaged .* Remove this file and"):
            goes_on(done, best[1])
    path.unlink()
    assert goes_on(done, best[1])[0] == 0
    assert path.read_text() == whole


def test_damaged_files_that_tune_can_make_again_are_made_again(
    done: Path, best: tuple[Path, TuneResult, list[Any]]
) -> None:
    for name in ("race", "answer", "map", "stops"):
        (done / "tune" / f"{name}.json").write_text("{")
    record = min((done / "tune" / "scan").iterdir())
    whole = record.read_bytes()
    record.write_bytes(whole[:-9])
    made, events = goes_on(done, best[1])
    assert made == 1  # the video whose scan is damaged, with its scan
    again, before = (ScanRecord.from_bytes(data) for data in (record.read_bytes(), whole))
    assert (again.cells, again.states) == (before.cells, before.states)
    assert (again.values["hf"] == before.values["hf"]).all()
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert sum(f"{record.name} was damaged" in text for text in notes) == 1
    for name in ("race", "answer", "map"):
        json.loads((done / "tune" / f"{name}.json").read_text())


def test_damaged_files_whose_removal_is_advised_are_made_again(
    done: Path, best: tuple[Path, TuneResult, list[Any]]
) -> None:
    for name in ("timing", "unmeasured", "functions"):
        path = done / "tune" / f"{name}.json"
        path.write_text("[3]")
        with pytest.raises(ValueError, match=f"{name}.json.* is damaged.* Remove it, and run the"):
            goes_on(done, best[1])
        path.unlink()
    assert goes_on(done, best[1])[0] == 0


def test_a_pass_that_is_over_before_the_clock_ticks_is_planned_for(tmp_path: Path) -> None:
    class Coarse(drawn_tuning.DrawnModel):
        def cost(self, complete: Any, image: Any) -> Cost:
            return Cost(2.0, 0.0)

    folder = tmp_path / "run"
    result, _ = tuned(folder, options(6, hours=0.1), Coarse(folder / "work", gains=BEST))
    assert result.answer is not None


@pytest.mark.parametrize(
    ("scales", "expected"),
    [((4.0,), {"cfg-4", "cfg-2"}), ((4.0, 4.0), {"cfg-4", "cfg-2"}), ((2.0,), {"cfg-2"}),
     ((2.0, 4.0, 2.0, 4.0), {"cfg-2", "cfg-4"}), ((4.0, 1.0), {"cfg-4", "cfg-1"}),
     ((4.0, 0.0), {"cfg-4", "cfg-0"})],
)  # fmt: skip
def test_each_guidance_scale_races_once_and_the_first_is_compared_with(
    tmp_path: Path, scales: tuple[float, ...], expected: set[str]
) -> None:
    folder = tmp_path / "run"
    asked = options(6, passes=4_000.0, guidance_scales=scales)
    for event in Tuning(asked, folder, engine(folder)).run():
        if isinstance(event, RoundOver):
            break
    else:
        raise AssertionError("there was no race")
    alone = [one for one in event.candidates if one.role in ("cfg", "cfg-low")]
    assert [one.name for one in alone if one.role == "cfg"] == [f"cfg-{scales[0]:g}"]
    assert {one.name for one in alone} == expected
    assert len(alone) == len(expected)


def test_further_guidance_scales_of_a_model_without_cfg_are_refused_by_the_plan(
    tmp_path: Path,
) -> None:
    class WithoutCFG(drawn_tuning.DrawnModel):
        def cost(self, complete: Any, image: Any) -> Cost:
            return Cost(1.0, 0.001)

    folder = tmp_path / "run"
    asked = options(6, passes=1_500.0, guidance_scales=(4.0, 2.0))
    with pytest.raises(ValueError, match="must be for a model with CFG, but this one runs without"):
        list(Tuning(asked, folder, WithoutCFG(folder / "work")).run(only_plan=True))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"guidance_scales": (1.0, 0.5)}, "but got 1, 0.5. Give one of them"),
        ({"guidance_scales": (0.0, 4.0)}, "but got 0, 4. Give 4 first, and 1 after it"),
        ({"guidance_scales": (float("nan"),)}, "finite numbers from 0 up, but got nan"),
        ({"guidance_scales": (-1.0,)}, "finite numbers from 0 up, but got -1"),
        ({"scan_size": (32, 32)}, "scan_size must be width, height and frames, .* got .32, 32"),
        ({"scan_size": (32, 0, 7)}, "whole numbers above 0"),
        ({"scan_size": (32, 32.0, 7)}, "whole numbers above 0"),
    ],
)
def test_scales_and_sizes_that_are_none_are_refused_at_once(
    more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        options(6, **more)


WRITTEN = ("options.json", "timing.json", "race.json", ".mp4", "answer.json", "report.html")


FULL = (errno.ENOSPC, "is full. Free some space and run the same command again")
CLOSED = (errno.EACCES, "needs a folder that can be written, but .*: Permission denied. Check it")


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        (WRITTEN[0], *FULL),
        *(pytest.param(name, *FULL, marks=pytest.mark.long) for name in WRITTEN[1:]),
        ("race.json", *CLOSED),
    ],
)
def test_a_disk_that_takes_no_more_is_said_in_words_and_the_tuning_goes_on(
    tmp_path: Path, name: str, number: int, said: str
) -> None:
    folder, asked = tmp_path / "run", options(6, passes=1_500.0, objective=ObjectiveSpec())
    write = storage.write_atomically
    count: dict[str, int] = dict.fromkeys(WRITTEN, 0)

    def full(place: Path, path: str, content: bytes) -> str:
        if path.endswith(name):
            count[name] += 1
            if count[name] == 5 or name not in (".mp4", "race.json"):  # these in the middle
                raise OSError(number, os.strerror(number), str(place / path))
        return write(place, path, content)

    with (
        mock.patch.object(storage, "write_atomically", full),
        pytest.raises(OSError, match=said) as raised,
    ):
        tuned(folder, asked, engine(folder))
    assert "Errno" not in str(raised.value)
    result, _ = tuned(folder, asked, engine(folder))
    assert result.answer is not None

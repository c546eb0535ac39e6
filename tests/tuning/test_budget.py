"""How a budget is divided."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from skipguide.runs.prompt_rows import Prompt
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.plan import budget, clock
from skipguide.tuning.plan.budget import Timing, keep_timing, make_plan, read_timing

TIMING = Timing(pass_seconds=0.1, beside_seconds=0.4, workers=1, steps=10, plain_passes=2)


def options(count: int = 30, **more: object) -> TuneOptions:
    prompts = tuple(Prompt(f"prompt {i}") for i in range(count))
    more.setdefault("objective", ObjectiveSpec(metrics=(("sharpness", 1.0),)))
    return TuneOptions("lab-mochi", prompts, **more)  # type: ignore[arg-type]


def test_hours_are_passes_of_all_workers() -> None:
    plan = make_plan(options(hours=0.5), TIMING, weak_passes=6)
    assert plan.total == pytest.approx(0.5 * 3600 / 0.1)
    several = dataclasses.replace(TIMING, workers=4)
    assert make_plan(options(hours=0.5), several, 6).total == pytest.approx(4 * plan.total)
    assert make_plan(options(), TIMING, 6).total == pytest.approx(3600 / 0.1)


def test_the_parts_are_the_whole() -> None:
    plan = make_plan(options(hours=0.2), TIMING, 6)
    assert plan.scan + plan.race + plan.search + plan.answer == pytest.approx(plan.total)
    assert not plan.notes
    # 4 prompts x 4 levels x (6 weak passes + the conditional one), and 4 videos of 20 + 4 passes.
    assert plan.scan == pytest.approx(16 * 7 + 4 * 24)
    assert plan.held_back == 10


def test_more_than_the_prompts_can_use_is_said() -> None:
    (note,) = make_plan(options(hours=5), TIMING, 6).notes
    assert "more than 30 prompts can use" in note


def test_a_video_costs_its_passes_where_the_budget_is_in_passes() -> None:
    assert make_plan(options(passes=36_000), TIMING, 6).scan == pytest.approx(16 * 7 + 4 * 20)


def test_a_dear_scan_looks_at_less() -> None:
    cheap = make_plan(options(passes=4_000), TIMING, weak_passes=40)
    assert (cheap.scan_prompts, len(cheap.levels)) == (4, 4)
    small = make_plan(options(passes=1_600), TIMING, weak_passes=40)
    assert (small.scan_prompts, small.levels) == (2, (0.95, 0.8, 0.6, 0.3))
    least = make_plan(options(passes=1_400), TIMING, weak_passes=80)
    assert (least.scan_prompts, least.levels) == (1, (0.95, 0.3))
    assert "2 noise levels instead of 4 and 4" in least.notes[0]


@pytest.mark.parametrize("count", [6, 12, 30, 96])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_small_budget_is_said_with_what_would_do(count: int, seeds: tuple[int, ...]) -> None:
    asked = options(count, passes=1e9, seeds=seeds)
    least = _least(asked)
    said = " ".join(make_plan(dataclasses.replace(asked, passes=least), TIMING, 6).notes)
    if count == 6:  # all 4 of them that race make one round, which the smallest tuning has
        assert "too few" not in said
        return
    assert "too few to tell them apart" in said
    wanted = float(said.partition("a budget of about --passes ")[2].partition(" ")[0])
    enough = make_plan(dataclasses.replace(asked, passes=wanted), TIMING, 6)
    assert "too few" not in " ".join(enough.notes)
    assert enough.candidates >= 3


def _least(asked: TuneOptions) -> float:
    """The smallest budget that is taken, as the error says it."""
    with pytest.raises(ValueError, match="must pay for the smallest tuning") as error:
        make_plan(dataclasses.replace(asked, passes=10.0), TIMING, 6)
    return float(str(error.value).partition("Give --passes ")[2].partition(" ")[0])


def test_a_budget_that_pays_for_no_tuning_is_refused_with_what_would() -> None:
    """The scan of one prompt at two levels, a round of three settings, six prompts' answer."""
    least = 20 + 2 * 7 + 4 * (20 + 2 * 30) + 6 * (20 + 4 * 30)
    asked = options(passes=least)
    plan = make_plan(asked, TIMING, 6)
    assert plan.scan + plan.race + plan.search + plan.answer == pytest.approx(least)
    assert (plan.candidates, plan.rounds, plan.held_back) == (3, 1, 6)
    with pytest.raises(ValueError, match=rf"takes {least} forward passes .* Give --passes {least}"):
        make_plan(dataclasses.replace(asked, passes=least - 1), TIMING, 6)
    with pytest.raises(ValueError, match=r"Give --hours 0\.0\d+ or more"):
        make_plan(options(hours=0.001), TIMING, 6)


def test_few_prompts_ask_for_no_more_budget_than_they_can_use() -> None:
    for passes in range(800, 20_000, 400):
        notes = make_plan(options(6, passes=float(passes)), TIMING, 6).notes
        said = " ".join(notes)
        assert not ("too few to tell" in said and "prompts can use" in said)


def test_a_smaller_scan_size_is_cheaper() -> None:
    whole = make_plan(options(hours=1, scan_size=(64, 64, 8)), TIMING, 6, scanned_share=1.0)
    small = make_plan(options(hours=1, scan_size=(32, 32, 8)), TIMING, 6, scanned_share=0.25)
    assert small.scan == pytest.approx(whole.scan / 4)


def test_a_third_of_the_prompts_is_kept_back() -> None:
    racing, kept = options(10).split()
    assert sorted([*racing, *kept]) == list(range(10))
    assert (len(racing), len(kept)) == (7, 3)
    assert [len(part) for part in options(2).split()] == [1, 1]
    assert "to claim a gain takes 6" in options(10).notes()[0]
    assert not options(18).notes()


def test_a_sorted_file_is_shuffled() -> None:
    """Four kinds of prompts after each other: the first 16 that race have 4 of each, on average."""
    kinds, most = [], []
    for number in range(20):
        texts = [f"{kind} {i} of file {number}" for kind in "abcd" for i in range(24)]
        asked = TuneOptions("lab-mochi", tuple(Prompt(text) for text in texts))
        racing, kept = asked.split()
        assert racing != sorted(racing)
        first = [texts[i][0] for i in racing[:16]]
        kinds.append(len(set(first)))
        most.append(max(map(first.count, first)))
        assert len({texts[i][0] for i in kept}) == 4
    assert min(kinds) >= 3
    assert max(most) < 12


def test_the_order_of_a_file_changes_nothing() -> None:
    texts = [f"prompt {i}" for i in range(30)]
    there, back = (
        TuneOptions("lab-mochi", tuple(map(Prompt, order))) for order in (texts, texts[::-1])
    )
    for one, other in zip(there.split(), back.split(), strict=True):
        assert [there.prompts[i].text for i in one] == [back.prompts[i].text for i in other]


def test_a_text_never_both_chooses_and_measures() -> None:
    rows = [
        Prompt(f"prompt {i}", settings={"negative_prompt": negative})
        for i in range(15)
        for negative in ("blurry", "dark")
    ]
    asked = TuneOptions("lab-mochi", tuple(rows))
    racing, kept = ({asked.prompts[i].text for i in part} for part in asked.split())
    assert not racing & kept
    assert len(kept) == 5
    alone = TuneOptions("lab-mochi", tuple(rows[:2]))
    assert [len(part) for part in alone.split()] == [1, 1]


def test_a_text_is_in_one_part_alone_with_all_its_seeds() -> None:
    rows = [Prompt("a", seeds=(5,)), Prompt("b"), Prompt("a", seeds=(9, 5)), Prompt("c")]
    found = TuneOptions("lab-mochi", tuple(rows), seeds=(0,))
    assert [(p.text, found.seeds_of(p)) for p in found.prompts] == [
        ("a", (5, 9)), ("b", (0,)), ("c", (0,))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(hours=1.0, passes=3.0), "has one budget"),
        (dict(hours=0.0), "hours must be a number above 0"),
        (dict(passes=float("inf")), "passes must be a number above 0"),
        (dict(guidance_scales=(-1.0,)), "finite numbers from 0 up"),
    ],
)
def test_bad_options_are_refused_at_once(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(6, **wrong)
    own = (Prompt("a"), Prompt("b", settings={"steps": 3}, place="b.csv:3"))
    with pytest.raises(ValueError, match=r"'b\.csv:3' has steps of its own"):
        TuneOptions("lab-mochi", own)
    with pytest.raises(ValueError, match="needs 2 prompts at least"):
        options(1)


# --- the files of a plan --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Timing)])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None, True])
def test_times_that_no_pass_takes_are_refused(tmp_path: Path, name: str, value: object) -> None:
    content = {**dataclasses.asdict(TIMING), name: value}
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "timing.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"timing.json is damaged \({name} must be .*Remove it"):
        budget.read_timing(tmp_path)


@pytest.mark.parametrize("name", ["pass_seconds", "workers", "steps", "plain_passes"])
def test_times_by_which_all_is_divided_are_above_zero(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, but is 0"):
        dataclasses.replace(TIMING, **{name: 0})


@pytest.mark.parametrize(
    "rounds", ['{"race": "x", "scale": -1, "window": true, "answer": 3}', "[1]", "7", '"x"', "null"]
)
def test_damaged_stops_are_left_out(tmp_path: Path, rounds: str) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "stops.json").write_text(f'{{"hours": 1, "rounds": {rounds}}}')
    expected = {"answer": 3} if "answer" in rounds else {}
    assert clock.read_stops(tmp_path, 1) == expected


def test_times_of_runs_of_before_are_read(tmp_path: Path) -> None:
    keep_timing(tmp_path, TIMING)
    path = tmp_path / "tune" / "timing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "weak_seconds": 0.018}))
    assert read_timing(tmp_path) == TIMING
    path.write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        read_timing(tmp_path)

"""guide(..., parallel=group): several processes make what one makes, to the last bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide import STG, CFGReuse, guide
from skipguide.pipeline.branch_plan import WeakWork, plan_passes
from support import branches, parallel

MORE = "no more processes than a step has passes"


def run_in(world: int, folder: Path, job: Any, *args: Any) -> list[Any]:
    with parallel.processes(world, folder, job, *args) as found:
        pass
    return found


def check_equal(names: Sequence[str], world: int, folder: Path) -> None:
    with parallel.processes(world, folder, branches.divided, names) as found:
        expected = branches.alone(names)
    for rank, own in enumerate(found):
        different = [
            name
            for name in names
            if not (MORE in own[name] if isinstance(own[name], str) else False)
            and not torch.equal(own[name], expected[name])
        ]
        assert not different, (rank, different)


# --- equal to one process -------------------------------------------------------------------------


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.matrix), 3])
def test_equal_in_every_process(world: int, tmp_path: Path) -> None:
    check_equal(list(branches.KEY_CASES), world, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_equal_in_every_process_with_all_options(world: int, tmp_path: Path) -> None:
    """Of four processes those with two terms; the others are refused."""
    check_equal(list(branches.MORE_CASES), world, tmp_path)


def test_state_is_sent_while_the_conditional_pass_goes_on(tmp_path: Path) -> None:
    """Passes are counted as in one process: c, u, and 2 of the 4 blocks."""
    assert run_in(3, tmp_path, branches.overlapping) == [2.5] * 3


@pytest.mark.matrix
@pytest.mark.parametrize("names", [
    ["Wan", "Wan, without CFG", "Wan, two terms", "Wan, SLG"],
    ["Mochi", "Mochi, without CFG", "Mochi, two terms", "Mochi, SLG"],
])  # fmt: skip
def test_branches_of_two_processes_that_divide_the_tokens(names: list[str], tmp_path: Path) -> None:
    found = run_in(4, tmp_path, branches.on_a_mesh, names)
    expected = branches.alone(names)
    for own in found:
        for name in names:
            torch.testing.assert_close(own[name], expected[name], rtol=0, atol=1e-5)


# --- what goes wrong ------------------------------------------------------------------------------


def test_calls_that_do_not_fit_together_end_with_a_word(tmp_path: Path) -> None:
    for told in run_in(2, tmp_path, branches.refused):
        assert "generator=torch.Generator()" in told["noise"]
        assert "with the same arguments" in told["size"]
        assert "with the same arguments" in told["steps"]


@pytest.mark.parametrize(
    ("how", "words"), [("failed", "process 1 of 3 failed: RuntimeError: no memory left"),
                       ("killed", "one of the 3 processes of parallel= was lost")],
)  # fmt: skip
def test_a_process_that_fails_ends_all_at_once(how: str, words: str, tmp_path: Path) -> None:
    children = parallel.start(3, tmp_path, branches.ends, how)
    written = {rank: tmp_path / f"{rank}.pt" for rank in (0, 2)}
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in written.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    alive = children[1].is_alive()
    for child in children:
        child.join(1) if not alive else child.kill()
    assert alive == (how == "failed")  # the others did not wait for its end
    for path in written.values():
        assert words in torch.load(path, weights_only=True)


@pytest.mark.parametrize("parallel", [2, "branches", object()])
def test_anything_but_a_group(parallel: Any) -> None:
    small = branches.build(branches.MOCHI, torch.float32)
    with pytest.raises(ValueError, match="parallel must be a process group"):
        guide(small.pipe, STG([2]), parallel=parallel)
    with guide(small.pipe, STG([2])):  # nothing was left on it
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 2.0}, "got a budget"),
        ({"cfg": CFGReuse(2)}, "got CFGReuse"),
        ({"exact": False}, "exact=False puts several into one batch"),
    ],
)
def test_what_saves_nothing_in_several_processes(options: dict[str, Any], words: str) -> None:
    small = branches.build(branches.MOCHI, torch.float32)
    with pytest.raises(ValueError, match=words):
        guide(small.pipe, STG([2]), parallel=object(), **options)


# --- who runs what --------------------------------------------------------------------------------

LATE = WeakWork(0, start=0.75, cost=0.25)
EARLY = WeakWork(1, start=0.25, cost=0.75)


@pytest.mark.parametrize(
    ("works", "world", "cfg", "late", "weak", "duration"),
    [
        ([EARLY], 1, True, False, {1: 0}, 2.75),
        ([EARLY], 2, True, False, {1: 0}, 1.75),  # a tie: nothing is sent
        ([EARLY], 3, True, False, {1: 2}, 1.0),
        ([EARLY], 2, False, False, {1: 1}, 1.0),
        ([EARLY, LATE], 2, True, False, {1: 0, 0: 1}, 1.75),
        ([EARLY, LATE], 2, True, True, {1: 0, 0: 0}, 2.0),  # u waits for the state of weak passes
        ([EARLY, LATE], 3, True, False, {1: 2, 0: 0}, 1.25),
        ([EARLY, LATE], 4, True, False, {1: 2, 0: 3}, 1.0),
    ],
)  # fmt: skip
def test_passes_go_where_they_end_first(
    works: list[WeakWork], world: int, cfg: bool, late: bool, weak: dict[int, int], duration: float
) -> None:
    plan = plan_passes(works, world, cfg, late)
    assert (plan.weak, plan.duration) == (weak, duration)

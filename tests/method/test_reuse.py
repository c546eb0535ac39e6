"""Differences that later steps use again: the polynomial, the choice of steps, the tolerance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from skipguide import STG, CFGReuse
from skipguide.method import parsing
from skipguide.method.request import GuidanceRequest, read_cfg_rule, read_term
from skipguide.method.reuse import DifferenceHistory, NoisePath, Placement, Reuse

Tensor = torch.Tensor
SHARES = [1 - i / 12 for i in range(12)]
PATH = NoisePath(SHARES)


def polynomial(degree: int, samples: int = 3) -> tuple[np.ndarray, Any]:
    """Return other coefficients for each sample, and x -> `(B, 2, 2)` differences."""
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, samples, 2, 2))

    def at(x: float) -> tuple[Tensor, ...]:
        value = np.sum([c * x**k for k, c in enumerate(coefficients)], axis=0)
        return (torch.tensor(value), torch.tensor(2 * value[:, :1]))

    return coefficients, at


# --- the polynomial -------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_polynomials_of_the_noise_level_are_continued_exactly(degree: int) -> None:
    _, at = polynomial(degree)
    history = DifferenceHistory(Reuse(3, extrapolate=degree), PATH, range(12))
    for step in (3, 4, 6):
        history.add(step, at(PATH.x[step]))
    for found, own in zip(history.extrapolate(7), at(PATH.x[7]), strict=True):
        torch.testing.assert_close(found, own)


def test_lower_degree_uses_the_last_ones_only() -> None:
    _, at = polynomial(2)
    history = DifferenceHistory(Reuse(3, extrapolate=1), PATH, range(12))
    for step in (1, 4, 6):
        history.add(step, at(PATH.x[step]))
    x = [PATH.x[step] for step in (4, 6)]
    ys = np.stack([at(value)[0].numpy().ravel() for value in x])
    line = np.polyfit(x, ys, 1)  # an implementation from outside
    torch.testing.assert_close(
        history.extrapolate(7)[0].flatten(), torch.tensor(line[0] * PATH.x[7] + line[1])
    )


def test_a_line_is_not_followed_far_beyond_its_points() -> None:
    path = NoisePath([0.9, 0.899, 0.1])
    history = DifferenceHistory(Reuse(2, extrapolate=1), path, range(3))
    history.add(0, (torch.zeros(1, 1),))
    history.add(1, (torch.ones(1, 1),))
    torch.testing.assert_close(history.extrapolate(2)[0], torch.tensor([[3.0]]))  # 1 + twice as far


def test_one_noise_level_twice_is_one_point() -> None:
    path = NoisePath([1.0, 1.0, 0.5])
    history = DifferenceHistory(Reuse(2, extrapolate=1), path, range(3))
    history.add(0, (torch.zeros(1, 1),))
    history.add(1, (torch.ones(1, 1),))
    assert history.extrapolate(2)[0].item() == 1.0


def test_ends_of_a_run_have_a_noise_level() -> None:
    assert np.isfinite(NoisePath([1.0, 0.5, 0.0]).x).all()
    assert sum(NoisePath([1.0, 0.7, 0.4]).weights) == pytest.approx(1.0)


# --- which steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 12])
@pytest.mark.parametrize("fresh", [{0}, {0, 6}])
def test_placement_is_the_best_of_all(count: int, fresh: set[int]) -> None:
    importance = [1.0 + step for step in range(12)]

    def cost(chosen: tuple[int, ...]) -> float:
        error = 0.0
        for step in range(12):
            last = max(known for known in chosen if known <= step)
            error += PATH.weights[step] * importance[step] * abs(PATH.x[step] - PATH.x[last]) ** 1.5
        return error

    placement = Placement(PATH, range(12), fresh, importance)
    allowed = [
        chosen for chosen in itertools.combinations(range(12), count) if fresh <= set(chosen)
    ]
    if not allowed:
        assert placement.fewest > count
        return
    best = min(allowed, key=cost)
    assert cost(tuple(sorted(placement.choose(count)))) == pytest.approx(cost(best))
    assert placement.cost(count) == pytest.approx(cost(best))


def test_shares_of_steps_are_kept() -> None:
    for share, steps in itertools.product([0.1, 0.25, 0.5, 0.9], [1, 4, 30]):
        reuse = Reuse(share)
        placed = Placement(NoisePath([1 - i / steps for i in range(steps)]), range(steps), {0})
        assert len(placed.choose(reuse.count(steps))) == max(1, round(share * steps))


def run_adaptively(at: Any, tolerance: float, path: NoisePath) -> tuple[int, float]:
    """Return how many steps compute, and the error that is made, as a part of the effect."""
    steps = range(len(path.x))
    history = DifferenceHistory(Reuse("auto", tolerance), path, steps)
    computed, wrong, effect = 0, 0.0, 0.0
    for step in steps:
        own = at(path.x[step])
        effect += path.weights[step] * float(own[0].norm())
        if history.is_due(step):
            computed += 1
            history.add(step, own)
            continue
        found = history.extrapolate(step)
        history.count_reuse(step)
        wrong += path.weights[step] * float((found[0] - own[0]).norm())
    return computed, wrong / effect


def test_auto_computes_less_where_less_changes_and_keeps_its_tolerance() -> None:
    path = NoisePath([1 - i / 40 for i in range(40)])
    line = polynomial(1, samples=1)[1]
    computed, error = run_adaptively(line, 0.05, path)
    assert computed <= 10
    assert error < 1e-6

    def wave(x: float) -> tuple[Tensor, ...]:
        return (torch.tensor([[np.sin(1.5 * x), np.cos(1.5 * x), 1.0]]),)

    counts = {tolerance: run_adaptively(wave, tolerance, path) for tolerance in (0.02, 0.1, 0.4)}
    assert 40 > counts[0.02][0] > counts[0.1][0] > counts[0.4][0]
    assert all(error < 2 * tolerance for tolerance, (_, error) in counts.items())


def test_auto_is_decided_by_the_sample_that_needs_it_most() -> None:
    path = NoisePath([1 - i / 40 for i in range(40)])

    def both(x: float) -> tuple[Tensor, ...]:
        return (torch.tensor([[1.0, x], [np.sin(3 * x), np.cos(3 * x)]]),)

    alone = run_adaptively(lambda x: (both(x)[0][1:],), 0.1, path)[0]
    assert run_adaptively(both, 0.1, path)[0] == alone
    assert run_adaptively(lambda x: (both(x)[0][:1],), 0.1, path)[0] < alone


# --- what a user writes ---------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, 1.5, True, 0.0, "often", None])
def test_errors_of_every(every: Any) -> None:
    with pytest.raises(ValueError, match=r"every must be a whole number from 1, a share"):
        STG([1], every=every)
    with pytest.raises(ValueError, match=r"every must be a whole number from 1, a share"):
        CFGReuse(every)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STG([1], every="auto", tolerance=0), "tolerance must be above 0, but got 0"),
        (lambda: STG([1], tolerance=-1), "tolerance must be a finite number >= 0"),
        (lambda: STG([1], extrapolate=3), "extrapolate must be 0 .* but got 3"),
        (lambda: STG([1], extrapolate=True), "extrapolate must be 0 .* but got True"),
        (lambda: CFGReuse(), "must compute u at some steps and not at others, but got every=1"),
        (lambda: CFGReuse(2, gate=0.0), "must compute u at some steps and not at others"),
        (lambda: CFGReuse(2, gate=1.5), "gate must be a number from 0 to 1"),
        (
            lambda: GuidanceRequest((STG([1], every=2),), budget=2.0),
            "a budget chooses .* but every= or CFGReuse says so too",
        ),
        (
            lambda: GuidanceRequest((STG([1]),), cfg=CFGReuse(2), budget=2.0),
            "a budget chooses .* but every= or CFGReuse says so too",
        ),
        (lambda: GuidanceRequest((STG([1]),), budget=0.5), "budget must be a finite number >= 1"),
    ],
)
def test_errors_of_reuse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", ["auto", 0.5, 2, "0.5", "2", 2.0])
def test_every_is_read_and_written(value: Any) -> None:
    meant = parsing.parse_every(value)
    assert meant in ("auto", 0.5, 2)
    assert type(meant) is (str if meant == "auto" else float if meant == 0.5 else int)
    row = {"layers": [1], "scale": 1.0, "every": meant, "tolerance": 0.1, "extrapolate": 2}
    term = read_term(row)
    assert GuidanceRequest((term,)).to_dict()["terms"] == [row]
    rule = read_cfg_rule(f"reuse every={value}")
    assert rule == CFGReuse(meant)
    assert GuidanceRequest.from_dict(GuidanceRequest(cfg=rule).to_dict()).cfg == rule
    assert GuidanceRequest.from_dict({"terms": [row], "rescale": 0.5}).terms == (term,)


def test_plain_data_of_a_term_without_reuse_is_what_it_was() -> None:
    """The keys of clips that were made before are hashes of it."""
    assert GuidanceRequest((STG([1], 1, every=2),)).to_dict() == {
        "terms": [{"layers": [1], "scale": 1.0, "every": 2}]
    }

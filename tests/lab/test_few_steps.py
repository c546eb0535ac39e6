"""The loss of the distillation against flows whose trajectories are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from skipguide.lab import few_steps

Tensor = torch.Tensor
DEVIATION = 0.5  # of the data; the noise has 1
BOUNDS = torch.tensor([0.0, 0.2, 0.5, 1.0])


def _spread(t: Tensor) -> Tensor:
    """The deviation of x_t = (1 - t) noise + t data."""
    return ((1 - t) ** 2 + DEVIATION**2 * t**2).sqrt()


def _velocity(x: Tensor, t: Tensor) -> Tensor:
    """The marginal velocity of Gaussian data: x keeps its place in units of the deviation."""
    slope = (DEVIATION**2 * t - (1 - t)) / _spread(t) ** 2
    return slope.view(-1, 1) * x


def _exact_student(x: Tensor, t: Tensor) -> Tensor:
    """The velocity that leads to the end of the phase of t at once."""
    end = BOUNDS[torch.searchsorted(BOUNDS, t, right=True).clamp(max=len(BOUNDS) - 1)]
    factor = torch.where(end > t, (_spread(end) / _spread(t) - 1) / (end - t), torch.zeros(()))
    return factor.view(-1, 1) * x


def _loss(student: Callable[[Tensor, Tensor], Tensor], rows: int = 20_000) -> float:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, 1, generator=generator)
    data = DEVIATION * torch.randn(rows, 1, generator=generator)
    found = few_steps.consistency_loss(student, _velocity, noise, data, BOUNDS, generator)
    return found.item()


def test_the_exact_flow_is_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is the error of the teacher's Euler steps, of second order in their length."""
    monkeypatch.setattr(few_steps, "SUBSTEPS", 8)
    exact, many_steps_in_one = _loss(_exact_student), _loss(_velocity)
    worse = [_loss(lambda x, t, by=by: by * _exact_student(x, t)) for by in (0.9, 1.1)]
    assert exact < 0.05 * many_steps_in_one
    assert exact < min(worse)
    monkeypatch.setattr(few_steps, "SUBSTEPS", 16)
    # Half the length, a quarter of the error of a step, a sixteenth of its square.
    assert exact / _loss(_exact_student) == pytest.approx(16, rel=0.15)


def test_a_straight_flow_needs_no_training() -> None:
    noise, data = torch.randn(2, 64, 3, 2, 2, 2).double()
    found = few_steps.consistency_loss(
        lambda x, t: torch.full_like(x, 0.3),
        lambda x, t: torch.full_like(x, 0.3),
        noise,
        data,
        BOUNDS.double(),
        torch.Generator().manual_seed(1),
    )
    assert found < 1e-20


def test_the_target_is_not_trained_and_the_last_point_is_given() -> None:
    """At the last substep of a phase the student learns the teacher's step itself."""
    scale = torch.tensor(0.5, requires_grad=True)
    seen: list[tuple[bool, Tensor]] = []

    def student(x: Tensor, t: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), t))
        return scale * x

    noise, data = torch.ones(6, 1), torch.zeros(6, 1)
    few_steps.consistency_loss(
        student, _velocity, noise, data, BOUNDS, torch.Generator().manual_seed(2)
    ).backward()
    assert [with_gradient for with_gradient, _ in seen] == [False, True]
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    (_, later), (_, earlier) = seen
    assert (later > earlier).all()

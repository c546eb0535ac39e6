"""The formula against closed forms: numbers worked out by hand, and identities that must hold."""

import pytest
import torch

from skipguide import guidance


def scalar(value: float) -> torch.Tensor:
    return torch.full((2, 1, 1), value, dtype=torch.float64)


def test_numbers_worked_out_by_hand() -> None:
    # u + g (c - u) + s1 (c - p1) + s2 (c - p2) = 1 + 4 (3 - 1) + 0.5 (3 - 2) + 2 (3 - 2.5) = 10.5
    D = guidance.combine(scalar(3), scalar(1), 4.0, [scalar(2), scalar(2.5)], [0.5, 2.0])
    assert torch.equal(D, scalar(10.5))


def test_without_cfg_the_base_is_the_conditional_prediction() -> None:
    assert torch.equal(guidance.combine(scalar(3), None, 99.0, [scalar(2)], [1.5]), scalar(4.5))


def test_no_terms_is_plain_cfg() -> None:
    c, u = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(guidance.combine(c, u, 2.0, [], []), u + 2.0 * (c - u))


def test_push_passes_through_any_cfg_unchanged() -> None:
    c, u, p = (torch.randn(2, 3, dtype=torch.float64) for _ in range(3))
    delta = guidance.push(c, [p], [1.3])
    per_frame = torch.linspace(1, 3, 3, dtype=torch.float64)  # as in SVD
    shifted = (u + delta) + per_frame * ((c + delta) - (u + delta))
    torch.testing.assert_close(shifted, guidance.combine(c, u, per_frame, [p], [1.3]))


def test_full_rescale_has_the_deviation_of_the_conditional_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    D = 7 * torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) + 2
    torch.testing.assert_close(guidance.rescale(D, c, 1.0).std((1, 2)), c.std((1, 2)))


def test_rescale_interpolates_the_factor_and_zero_is_off() -> None:
    c = torch.tensor([[1.0, -1.0]])
    D = torch.tensor([[4.0, -4.0]])
    torch.testing.assert_close(guidance.rescale(D, c, 0.7), D * (0.7 * 0.25 + 0.3))
    assert guidance.rescale(D, c, 0.0) is D


def test_rescale_keeps_samples_apart() -> None:
    c, D = torch.randn(3, 8), torch.randn(3, 8)
    alone = guidance.rescale(D[1:2], c[1:2], 0.7)
    torch.testing.assert_close(guidance.rescale(D, c, 0.7)[1:2], alone)


@pytest.mark.parametrize(
    ("start", "stop", "num_steps", "guided"),
    [
        (0.0, 1.0, 4, [0, 1, 2, 3]),
        (0.25, 0.75, 4, [1, 2]),
        (0.1, 0.9, 10, [1, 2, 3, 4, 5, 6, 7, 8]),
        (0.01, 0.2, 4, []),  # the default window of diffusers' guider: no step of a 4-step run
        (0.0, 0.01, 8, [0]),  # step 0 can be guided, unlike there
    ],
)
def test_window(start: float, stop: float, num_steps: int, guided: list[int]) -> None:
    assert [i for i in range(num_steps) if guidance.selects(start, stop, i, num_steps)] == guided

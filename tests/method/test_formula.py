"""The formula against closed forms: numbers worked out by hand, and identities that must hold."""

from typing import Any

import pytest
import torch

from skipguide.method import formula

Tensor = torch.Tensor


def combine(
    c: Tensor,
    u: Tensor | None,
    g: float | Tensor,
    weaks: list[Tensor],
    scales: list[float],
    **options: Any,
) -> Tensor:
    """D from predictions and scales."""
    return formula.combine(c, u, g, formula.skip_guidance(c, weaks, scales, **options))


def scalar(value: float) -> torch.Tensor:
    return torch.full((2, 1, 1), value, dtype=torch.float64)


def test_numbers_worked_out_by_hand() -> None:
    # u + g (c - u) + s1 (c - p1) + s2 (c - p2) = 1 + 4 (3 - 1) + 0.5 (3 - 2) + 2 (3 - 2.5) = 10.5
    D = combine(scalar(3), scalar(1), 4.0, [scalar(2), scalar(2.5)], [0.5, 2.0])
    assert torch.equal(D, scalar(10.5))


def test_without_cfg_the_base_is_the_conditional_prediction() -> None:
    assert torch.equal(combine(scalar(3), None, 99.0, [scalar(2)], [1.5]), scalar(4.5))


def test_no_terms_is_plain_cfg() -> None:
    c, u = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(combine(c, u, 2.0, [], []), u + 2.0 * (c - u))


def test_push_passes_through_any_cfg_unchanged() -> None:
    c, u, p = (torch.randn(2, 3, dtype=torch.float64) for _ in range(3))
    delta = formula.skip_guidance(c, [p], [1.3])
    per_frame = torch.linspace(1, 3, 3, dtype=torch.float64)  # as in SVD
    shifted = (u + delta) + per_frame * ((c + delta) - (u + delta))
    torch.testing.assert_close(shifted, combine(c, u, per_frame, [p], [1.3]))


def test_full_rescale_has_the_deviation_of_the_conditional_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    D = 7 * torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) + 2
    torch.testing.assert_close(formula.rescale(D, c, 1.0).std((1, 2)), c.std((1, 2)))


def test_rescale_interpolates_the_factor_and_zero_is_off() -> None:
    c = torch.tensor([[1.0, -1.0]])
    D = torch.tensor([[4.0, -4.0]])
    torch.testing.assert_close(formula.rescale(D, c, 0.7), D * (0.7 * 0.25 + 0.3))
    assert formula.rescale(D, c, 0.0) is D


def test_rescale_keeps_samples_apart() -> None:
    c, D = torch.randn(3, 8), torch.randn(3, 8)
    alone = formula.rescale(D[1:2], c[1:2], 0.7)
    torch.testing.assert_close(formula.rescale(D, c, 0.7)[1:2], alone)


# --- Eq. 21 ---------------------------------------------------------------------------------------


def test_orthogonal_of_numbers_worked_out_by_hand() -> None:
    """The first stays; (3, 4) along (1, 0) is (3, 0), and the third loses what both before it
    explain."""
    given = [
        torch.tensor([[2.0, 0.0, 0.0]]),
        torch.tensor([[3.0, 4.0, 0.0]]),
        torch.tensor([[5.0, 6.0, 7.0]]),
    ]
    found = formula.orthogonalize_differences(given)
    assert [rest.tolist() for rest in found] == [
        [[2.0, 0.0, 0.0]],
        [[0.0, 4.0, 0.0]],
        [[0.0, 0.0, 7.0]],
    ]
    found = formula.orthogonalize_differences(given[::-1])
    assert torch.equal(found[0], given[2])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(float((found[i] * found[j]).sum())) < 1e-5


def test_orthogonal_input_is_unchanged_and_parallel_vanishes() -> None:
    a, b = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [3.0, -1.0]]])
    for given in ([a, b], [b, a]):
        assert all(map(torch.equal, formula.orthogonalize_differences(given), given))
    kept, rest = formula.orthogonalize_differences([a, -4.0 * a])
    assert torch.equal(kept, a)
    assert torch.equal(rest, torch.zeros_like(a))


def test_zero_terms_take_nothing_and_stay_zero() -> None:
    a, b, zero = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.zeros(2, 3, 4)
    expected = formula.orthogonalize_differences([a, b])
    first, *others = formula.orthogonalize_differences([zero, a, b])
    assert torch.equal(first, zero)
    assert all(map(torch.equal, others, expected))
    assert torch.equal(formula.orthogonalize_differences([a, zero])[1], zero)
    assert formula.orthogonalize_differences([]) == []


def test_orthogonal_keeps_samples_apart() -> None:
    """Also where a term is zero in one sample alone."""
    a, b = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8)
    a[1] = 0
    together = formula.orthogonalize_differences([a.float(), b])[1]
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1],
            formula.orthogonalize_differences([a[i : i + 1].float(), b[i : i + 1]])[1],
        )
    assert torch.equal(together[1], b[1])
    torch.testing.assert_close((together * a.float()).sum(1), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_orthogonal_computes_in_float32_and_keeps_the_precision(dtype: torch.dtype) -> None:
    """400 and its square: what half precision cannot hold, the inner products can."""
    a, b = (torch.randn(2, 500).mul(400).to(dtype) for _ in range(2))
    found = formula.orthogonalize_differences([a, b])
    assert [rest.dtype for rest in found] == [dtype, dtype]
    torch.testing.assert_close(
        found[1], formula.orthogonalize_differences([a.float(), b.float()])[1].to(dtype)
    )
    assert torch.isfinite(found[1]).all()


def test_inner_products_of_some_channels() -> None:
    """A variance behind the prediction has no say in how much is taken, and loses as much."""
    a, b = torch.tensor([[1.0, 0.0, 5.0, 5.0]]), torch.tensor([[2.0, 3.0, 7.0, 0.0]])
    assert formula.orthogonalize_differences([a, b], channels=2)[1].tolist() == [
        [0.0, 3.0, -3.0, -10.0]
    ]


def test_orthogonalized_push() -> None:
    """In the order given, with each scale after the components are taken; a scale of 0 takes no
    part."""
    c = torch.zeros(1, 3)
    weaks = [
        -torch.tensor([[2.0, 0.0, 0.0]]),
        -torch.tensor([[3.0, 4.0, 0.0]]),
        -torch.tensor([[5.0, 6.0, 7.0]]),
    ]
    push = lambda scales, **o: formula.skip_guidance(  # noqa: E731
        c, weaks, scales, orthogonalize=True, **o
    ).tolist()
    assert push([1.0, 1.0, 1.0]) == [[2.0, 4.0, 7.0]]
    assert push([0.5, 2.0, 10.0]) == [[1.0, 8.0, 70.0]]
    assert push([0.0, 1.0, 0.0]) == [[3.0, 4.0, 0.0]]
    assert push([0.0, 0.0, 0.0]) == [[0.0, 0.0, 0.0]]
    D = combine(c, c + 1.0, 3.0, weaks, [1.0, 1.0, 1.0], orthogonalize=True)
    assert D.tolist() == [[0.0, 2.0, 5.0]]  # 1 + 3 (0 - 1) and the push


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
    assert [
        i for i in range(num_steps) if formula.is_in_window(start, stop, i, num_steps)
    ] == guided


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_prediction_is_another_one_from_a_hundred_thousandth_of_its_length(
    dtype: torch.dtype,
) -> None:
    c, other = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(2))
    other *= c.norm() / other.norm()
    assert formula.equal_but_for_rounding(c.to(dtype), c.to(dtype))
    assert not formula.equal_but_for_rounding(c.to(dtype), (c + 0.05 * other).to(dtype))
    if dtype == torch.float64:
        assert formula.equal_but_for_rounding(c, c + 0.9e-5 * other)
        assert not formula.equal_but_for_rounding(c, c + 1.1e-5 * other)
    zero = torch.zeros_like(c)
    assert not formula.equal_but_for_rounding(zero, zero)
    assert not formula.equal_but_for_rounding(c, c * torch.nan)

"""The formula of NAG in closed forms, and a NAG in plain data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipguide import NAG, STG
from skipguide.method.formula import normalized_attention_push
from skipguide.method.request import GuidanceRequest

Tensor = torch.Tensor


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 5, 16, generator=generator) for _ in range(2))
    return first.to(dtype), second.to(dtype)


def length(Z: Tensor) -> Tensor:
    return Z.abs().sum(-1)


def test_without_a_limit_it_is_the_extrapolation() -> None:
    Z, other = draw(torch.float64)
    found = Z + normalized_attention_push(Z, other, 3.0, 1e9, 1.0)
    torch.testing.assert_close(found, 3 * Z - 2 * other)
    half = Z + normalized_attention_push(Z, other, 3.0, 1e9, 0.5)
    torch.testing.assert_close(half, 2 * Z - other)


def test_the_limit_is_a_multiple_of_the_length() -> None:
    Z, other = draw(torch.float64)
    found = Z + normalized_attention_push(Z, other, 1e6, 2.5, 1.0)
    torch.testing.assert_close(length(found), 2.5 * length(Z))
    towards = (Z - other) / length(Z - other)[..., None]  # nothing else is left of the sum
    torch.testing.assert_close(found / length(found)[..., None], towards, atol=1e-5, rtol=1e-5)


def test_tokens_below_the_limit_are_left_as_they_are() -> None:
    Z, other = draw(torch.float64)
    other[:, 0] = Z[:, 0] * 0.9
    found = Z + normalized_attention_push(Z, other, 4.0, 1.5, 1.0)
    torch.testing.assert_close(found[:, 0], 1.3 * Z[:, 0])
    assert (length(found) <= 1.5 * length(Z) + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_equal_texts_and_a_scale_of_one_give_zero(dtype: torch.dtype, tau: float) -> None:
    Z, other = draw(dtype)
    assert not normalized_attention_push(Z, Z.clone(), 11.0, tau, 0.7).any()
    assert not normalized_attention_push(Z, other, 1.0, tau, 0.7).any()
    assert normalized_attention_push(Z, other, 2.0, tau, 0.7).dtype == dtype


def test_zeros_stay_finite() -> None:
    """A token of which nothing is left, and one that the prompt gives nothing."""
    Z, other = draw()
    Z[0, 0] = other[0, 0] = 0
    Z[0, 1], other[0, 2] = 0, 2 * Z[0, 2]  # with scale 2: 2 Z - other = 0
    push = normalized_attention_push(Z, other, 2.0, 2.5, 1.0)
    assert torch.isfinite(push).all()
    assert not push[0, :2].any()
    torch.testing.assert_close(push[0, 2], -Z[0, 2])


def test_sums_do_not_overflow_half_precision() -> None:
    Z, other = (60 * value.to(torch.float16).repeat(1, 1, 400) for value in draw())
    assert length(Z.float()).max() > torch.finfo(torch.float16).max
    assert torch.isfinite(normalized_attention_push(Z, other, 3.0, 1.5, 0.5)).all()


def test_samples_and_tokens_do_not_touch_each_other() -> None:
    Z, other = draw(torch.float64)
    whole = normalized_attention_push(Z, other, 5.0, 1.5, 0.5)
    alone = normalized_attention_push(Z[1:, 2:3], other[1:, 2:3], 5.0, 1.5, 0.5)
    torch.testing.assert_close(whole[1:, 2:3], alone)


# --- plain data -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 5.0, "tau": 1.5, "layers": [1, "single:2"], "stop": 0.5},
        "5 tau=1.5 layers=1,single:2 stop=0.5",
    ],
)
def test_a_nag_is_read_and_written(given: Any) -> None:
    found = GuidanceRequest.from_dict({"nag": given, "terms": "layers=1 scale=2"})
    assert found.nag == NAG(5.0, 1.5, layers=[1, "single:2"], stop=0.5)
    written = found.to_dict()
    assert written["nag"] == {
        "scale": 5.0, "tau": 1.5, "layers": [1, "single:2"], "stop": 0.5,
    }  # fmt: skip
    assert GuidanceRequest.from_dict(written) == found
    assert found.guide_arguments()[0] == [STG([1], 2), found.nag]


def test_the_scale_suffices_and_defaults_are_left_out() -> None:
    found = GuidanceRequest.from_dict({"nag": 7})
    assert found.nag == NAG(7)
    assert not found.is_plain
    assert found.to_dict() == {"nag": {"scale": 7.0}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 5, "tua": 2}, "nag has the parts scale, tau, alpha, .*Did you mean 'tau'"),
        ("5 alpha=2", "alpha must be a number from 0 to 1"),
        (True, "nag must have parts such as scale"),
        ([5.0], "nag must have parts such as scale"),
    ],
)
def test_what_is_no_nag_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceRequest.from_dict({"nag": wrong})

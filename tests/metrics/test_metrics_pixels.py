"""Metrics of pixels alone: values of painted videos that are known without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipguide.metrics import evaluate, pixels
from skipguide.metrics.selection import Options

SIZE = 64


def ramp(width: int, dark: float = 40.0, light: float = 200.0, frames: int = 2) -> Tensor:
    """Return a vertical edge that takes so many pixels from dark to light, `(F, 3, H, W)`."""
    steps = ((torch.arange(SIZE) - 24) / width).clamp(0, 1)
    row = (dark + (light - dark) * steps).round().byte()
    return row.expand(frames, 3, SIZE, SIZE)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_an_edge_over_w_pixels_has_a_sharpness_of_1_over_w(width: int) -> None:
    assert pixels.sharpness(ramp(width)) == pytest.approx(1 / width, rel=0.01)


@pytest.mark.parametrize(("dark", "light"), [(0, 255), (10, 50), (180, 240), (200, 40)])
def test_sharpness_does_not_see_brightness_and_contrast(dark: float, light: float) -> None:
    assert pixels.sharpness(ramp(4, dark, light)) == pytest.approx(1 / 4, rel=0.06)


def test_sharpness_does_not_see_the_length_of_edges_and_sees_colour() -> None:
    one = ramp(2)
    several = torch.cat([one[..., :32], one[..., 32:].flip(3)], 3)  # two edges
    assert pixels.sharpness(several) == pytest.approx(0.5, rel=0.01)
    coloured = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    coloured[:, 0, :, :32], coloured[:, 1, :, 32:] = 100, 51  # red to green, equally bright
    assert pixels.sharpness(coloured) == pytest.approx(1.0, rel=0.01)


def test_blur_lowers_sharpness_and_flat_frames_have_none() -> None:
    sharp = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    values = [pixels.sharpness((255 * one).byte()) for one in (sharp, blurred)]
    assert values[1] < 0.7 * values[0]
    assert pixels.sharpness(torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)) == 0


def blinking(frames: int, every: int) -> Tensor:
    """Return frames that are 0 or 51, a fifth of the range, by turns of `every` frames."""
    levels = torch.tensor([51 * (i // every % 2) for i in range(frames)], dtype=torch.uint8)
    return levels[:, None, None, None].expand(frames, 3, 8, 8)


def test_motion_is_the_mean_change_over_an_eighth_of_a_second() -> None:
    assert pixels.motion(blinking(9, 1)) == pytest.approx(0.2)
    assert pixels.motion(blinking(9, 10)) == 0
    # At 24 frames a second every third frame is taken: the same video as every frame at 8.
    assert pixels.motion(blinking(27, 3), 24) == pytest.approx(pixels.motion(blinking(9, 1), 8))
    assert pixels.motion(blinking(9, 1), 8) == pytest.approx(0.2)


def test_motion_of_a_very_short_video_is_that_of_its_ends() -> None:
    assert pixels.motion(blinking(2, 1), 60) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="motion needs at least 2 frames, but got 1"):
        pixels.motion(blinking(1, 1))


def test_saturation_is_0_of_grey_and_1_of_a_pure_colour() -> None:
    assert pixels.saturation(ramp(4)) == 0
    pure = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    pure[:, 2] = 255
    assert pixels.saturation(pure) == 1
    pure[:, 0] = 102
    assert pixels.saturation(pure) == pytest.approx(1.0)
    pure[:, 1] = 51
    assert pixels.saturation(pure) == pytest.approx(0.8)


def test_an_evaluation_runs_them_where_they_are_named() -> None:
    videos = {"a": blinking(9, 1), "b": ramp(4, frames=9)}
    named = evaluate(videos, metrics=["motion", "sharpness", "saturation"], options=Options(fps=8))
    assert named["motion"].value == pytest.approx(0.1)
    assert named["sharpness"].value == pytest.approx(1 / 8, rel=0.01)
    assert named["saturation"].better == "lower"
    assert named.quality_score is None
    every = evaluate(videos, options=Options(features="judge"))
    assert "motion" not in {row.metric for row in every.rows}
    assert "motion" not in {one.metric for one in every.not_run}

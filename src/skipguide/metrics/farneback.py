"""Optical flow without a network: Farneback, Two-Frame Motion Estimation Based on Polynomial
Expansion (SCIA 2003), with the numbers of OpenCV's calcOpticalFlowFarneback.

Every neighbourhood of an image is a quadratic polynomial, and the flow is what moves those of one
frame to those of the next, from coarse to fine. The constants are those with which AV-Align calls
OpenCV: half the size per level, at most 3 levels above the first, windows of 15 pixels, 3 rounds,
polynomials over 11 pixels with a deviation of 1.2.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
Pyramid = list[Tensor]  # polynomials (5, h, w) of an image, the largest first

LEVELS, SMALLEST = 3, 32  # levels above the first; pixels of the shorter side
WINDOW, ROUNDS = 15, 3
REACH, DEVIATION = 5, 1.2  # of a neighbourhood
_GREY = (9798, 19235, 3735)  # of 32768: OpenCV's weights of red, green and blue
_BORDER = (0.14, 0.14, 0.4472, 0.4472, 0.4472)  # how much pixels near a border count


def to_grey(frame: Tensor) -> Tensor:
    """Convert a frame `(3, H, W)` uint8 RGB to `(H, W)` float32, rounded as OpenCV does."""
    weights = torch.tensor(_GREY, dtype=torch.int32).view(3, 1, 1)
    return ((frame.int() * weights).sum(0) + 16384).div(32768, rounding_mode="floor").float()


def mean_motion(before: Pyramid, after: Pyramid) -> float:
    """Return how many pixels a frame moves to the next, the mean over all of it."""
    return float(flow(before, after).double().square().sum(0).sqrt().mean())


def expand(image: Tensor) -> Pyramid:
    """Return the polynomials of an image `(H, W)` at all levels."""
    return [_polynomials(level) for level in _levels(image)]


def flow(before: Pyramid, after: Pyramid) -> Tensor:
    """Return the flow `(2, H, W)`, x and y, in pixels from one image to the next."""
    found: Tensor | None = None
    for first, second in zip(reversed(before), reversed(after), strict=True):
        size = first.shape[1:]
        if found is None:
            found = first.new_zeros(2, *size)
        else:
            found = 2 * _resize(found, (size[0], size[1]))
        for _ in range(ROUNDS):
            found = _solve(_box(_equations(first, second, found)))
    assert found is not None
    return found


def _levels(image: Tensor) -> list[Tensor]:
    height, width = image.shape
    found, scale = [], 1.0
    for level in range(LEVELS + 1):
        if level and min(height * scale, width * scale) < SMALLEST:
            break
        smooth = _blur(image, (1 / scale - 1) / 2)
        found.append(_resize(smooth[None], (round(height * scale), round(width * scale)))[0])
        scale /= 2
    return found


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def _blur(image: Tensor, deviation: float) -> Tensor:
    width = max(round(deviation * 5) | 1, 3)
    if deviation:
        kernel = torch.exp(-((torch.arange(width) - width // 2) ** 2) / (2 * deviation**2))
        kernel = kernel / kernel.sum()
    else:
        kernel = torch.tensor([0.25, 0.5, 0.25])
    reach = width // 2
    padded = F.pad(image[None, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]


@functools.cache
def _basis() -> tuple[Tensor, Tensor]:
    """Return the weights 1, t, t^2 of a neighbourhood `(3, 11)`, and what turns the moments of an
    image into a polynomial: the parts of the inverse of their matrix that are not 0."""
    t = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    window = torch.exp(-(t**2) / (2 * DEVIATION**2))
    window = window / window.sum()
    y, x = torch.meshgrid(t, t, indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).flatten(1)
    weights = torch.outer(window, window).flatten()
    inverse = torch.linalg.inv((terms * weights) @ terms.T)
    parts = torch.stack([inverse[1, 1], inverse[0, 3], inverse[3, 3], inverse[5, 5]])
    return torch.stack([window, window * t, window * t * t]).float(), parts.float()


def _polynomials(image: Tensor) -> Tensor:
    """Return the parts y, x, y^2, x^2 and xy of each pixel's polynomial: `(5, h, w)`."""
    weights, (linear, constant, square, mixed) = _basis()
    padded = F.pad(image[None, None], (REACH,) * 4, mode="replicate")
    down = F.conv2d(padded, weights[:, None, :, None])[0]  # 1, y, y^2
    moments = F.conv2d(down[:, None], weights[:, None, None, :])  # by y, by x
    whole = moments[0, 0] * constant
    return torch.stack([
        moments[1, 0] * linear, moments[0, 1] * linear, whole + moments[2, 0] * square,
        whole + moments[0, 2] * square, moments[1, 1] * mixed,
    ])  # fmt: skip


def _equations(first: Tensor, second: Tensor, known: Tensor) -> Tensor:
    """Return for each pixel the 2 x 2 matrix and the right side that the flow solves: `(5, h, w)`,
    m_yy, m_xy, m_xx, h_y, h_x."""
    there, inside = _sample(second, known)
    square = torch.where(inside, (first[2:4] + there[2:4]) / 2, first[2:4])
    mixed = torch.where(inside, (first[4] + there[4]) / 4, first[4] / 2)
    linear = (first[:2] - torch.where(inside, there[:2], 0)) / 2
    down, across = square
    dx, dy = known
    right_y = linear[0] + down * dy + mixed * dx
    right_x = linear[1] + mixed * dy + across * dx
    weight = _border_weight(*first.shape[1:])
    down, across, mixed = down * weight, across * weight, mixed * weight
    right_y, right_x = right_y * weight, right_x * weight
    return torch.stack([
        down * down + mixed * mixed, (down + across) * mixed, across * across + mixed * mixed,
        down * right_y + mixed * right_x, mixed * right_y + across * right_x,
    ])  # fmt: skip


def _sample(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image `(5, h, w)` at where the flow leads to, and where that is inside of it."""
    height, width = image.shape[1:]
    x = torch.arange(width) + known[0]
    y = torch.arange(height)[:, None] + known[1]
    left, top = x.floor(), y.floor()
    inside = (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
    a, b = (x - left).view(-1, 1), (y - top).view(-1, 1)
    place = (top.clamp(0, height - 2) * width + left.clamp(0, width - 2)).long().flatten()
    rows = image.flatten(1).T.contiguous()  # the parts of a pixel side by side, to be found at once

    def corner(offset: int) -> Tensor:
        return rows.index_select(0, place + offset)

    upper = torch.lerp(corner(0), corner(1), a)
    found = torch.lerp(upper, torch.lerp(corner(width), corner(width + 1), a), b)
    return found.T.reshape(image.shape), inside


@functools.lru_cache(maxsize=16)
def _border_weight(height: int, width: int) -> Tensor:
    def along(size: int) -> Tensor:
        ramp, weight = torch.tensor(_BORDER)[:size], torch.ones(size)
        weight[: len(ramp)] *= ramp
        weight[size - len(ramp) :] *= ramp.flip(0)
        return weight

    return along(height)[:, None] * along(width)


def _box(image: Tensor) -> Tensor:
    reach = WINDOW // 2
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (WINDOW, 1), 1), (1, WINDOW), 1)[0]


def _solve(equations: Tensor) -> Tensor:
    yy, xy, xx, h_y, h_x = equations
    scale = 1 / (yy * xx - xy * xy + 1e-3)
    return torch.stack([(yy * h_x - xy * h_y) * scale, (xx * h_y - xy * h_x) * scale])

"""The quantities of a push c - p, computed where the predictions are.

Nothing here waits for the device until `PushMeter.read`, which transfers all of a state at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from skipguide.tuning.scan.record import QUANTITIES, Floats
from skipguide.weak.token_grid import TokenGrid

Tensor = torch.Tensor

SKETCH_SIZE = 65_536  # elements of a push that its cosines with others are estimated from
_STRIDE = 2_654_435_761  # a prime, so that i * _STRIDE mod n goes through all n elements
_NYQUIST = 0.5  # cycles per latent


def frames_of(prediction: Tensor, layout: str, grid: TokenGrid | None) -> Tensor | None:
    """Return a prediction with rows and columns as its last two dimensions, `(B, ..., H, W)`.

    Args:
        prediction: as the denoiser returns it.
        layout: the family's `latent_layout`. Where it is "", the tokens lie on no one grid, but
            what is predicted may be a video all the same, `(B, C, F, H, W)`.
        grid: of packed tokens: (frames, rows, columns).

    Returns:
        None where rows and columns are not known.
    """
    if layout == "packed":
        if prediction.ndim != 3 or grid is None or math.prod(grid) != prediction.shape[1]:
            return None
        return prediction.unflatten(1, grid).movedim(-1, 1)
    wanted = layout or "bcthw"
    if prediction.ndim != len(wanted):
        return None
    return prediction.movedim(-1, 1) if wanted.endswith("hwc") else prediction


def high_frequency_share(push: Tensor) -> Tensor:
    """Return the share of energy in the upper half of the spatial frequencies, `(B,)`.

    Each frame of each channel is transformed along rows and columns. A frequency (y, x) is in the
    upper half if its length sqrt(y^2 + x^2) is above half of the Nyquist frequency, that is above
    1/4 cycle per latent. A push of zero has nan.

    Args:
        push: `(B, ..., H, W)` in float32.
    """
    height, width = push.shape[-2:]
    energy = torch.fft.rfft2(push, norm="ortho").abs().square()
    y = torch.fft.fftfreq(height, device=push.device)[:, None]
    x = torch.fft.rfftfreq(width, device=push.device)
    # The transform of real numbers is symmetric, and half of it is left out: all columns stand for
    # two but the first, and the last of an even width.
    weight = torch.full_like(x, 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    high = ((y.square() + x.square()).sqrt() > _NYQUIST / 2) * weight
    total = (energy * weight).flatten(1).sum(1)
    return (energy * high).flatten(1).sum(1) / total


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(1)


class PushMeter:
    """Measures the pushes c - p of one state.

    Args:
        cs: the conditional prediction of each output.
        us: the unconditional ones; None without CFG.
        outputs: their names: "video", and "audio" after it.
        layout, grid: of the video, as for `frames_of`.
        channels: how many channels of each prediction count; None for all. A learned variance
            behind them is not guided.
    """

    def __init__(
        self, cs: Sequence[Tensor], us: Sequence[Tensor] | None, outputs: Sequence[str],
        layout: str, grid: TokenGrid | None, channels: int | None = None,
    ):  # fmt: skip
        self.outputs = tuple(outputs)[: len(cs)]
        self._layout, self._grid, self._channels = layout, grid, channels
        self._cs = [self._guided(c) for c in cs]
        self._cfg = None if us is None else [
            c - self._guided(u) for c, u in zip(self._cs, us, strict=True)
        ]  # fmt: skip
        self._norms = [_dot(c, c).sqrt() for c in self._cs]
        self._cfg_norms = None if self._cfg is None else [_dot(d, d).sqrt() for d in self._cfg]
        count = self._cs[0].numel()
        places = torch.arange(min(count, SKETCH_SIZE), device=self._cs[0].device)
        self._sketched = places * _STRIDE % count
        self._rows: dict[int, Tensor] = {}
        self._sketches: dict[int, Tensor] = {}

    def _guided(self, prediction: Tensor) -> Tensor:
        return prediction[:, : self._channels].float()

    def add(self, cell: int, ps: Sequence[Tensor]) -> None:
        """Measure the weak prediction of a cell; nothing of its size is kept.

        Args:
            cell: the cell's number.
            ps: the weak prediction of each output.
        """
        row = []
        for k, p in enumerate(ps[: len(self.outputs)]):
            push = self._cs[k] - self._guided(p)
            row += self._measure(k, push)
            if k == 0:
                self._sketches[cell] = self._sketch(push)
        self._rows[cell] = torch.stack(row)

    def _measure(self, k: int, push: Tensor) -> list[Tensor]:
        length = _dot(push, push).sqrt()
        frames = frames_of(push, self._layout, self._grid) if k == 0 else None
        nan = torch.full_like(length, math.nan)
        cfg = nan
        if self._cfg is not None and self._cfg_norms is not None:
            cfg = _dot(push, self._cfg[k]) / (length * self._cfg_norms[k])
        found = {
            "ratio": length / self._norms[k],
            "hf": nan if frames is None else high_frequency_share(frames),
            "cos_c": _dot(push, self._cs[k]) / (length * self._norms[k]),
            "cos_cfg": cfg,
        }
        return [found[name].mean() for name in QUANTITIES]

    def _sketch(self, push: Tensor) -> Tensor:
        """Return evenly spread elements of a push of unit root mean square, in float16."""
        rms = push.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        return (push.flatten()[self._sketched] / rms).half()

    def read(self) -> tuple[dict[str, Floats], Floats]:
        """Return the quantities `(cells,)` by name, and the cosines `(cells, cells)` of pushes.

        A push that is not finite has an infinite "ratio", and no cosines. This transfers them from
        the device.
        """
        order = sorted(self._rows)
        rows = torch.stack([self._rows[cell] for cell in order])
        sketches = torch.stack([self._sketches[cell] for cell in order]).float()
        cosines = (
            torch.nn.functional.normalize(sketches) @ torch.nn.functional.normalize(sketches).T
        )
        found = torch.cat([rows, cosines], 1).cpu().double().numpy()
        values, gram = found[:, : rows.shape[1]], found[:, rows.shape[1] :]
        named = _name_columns(values, self.outputs)
        return named, gram


def _name_columns(values: Floats, outputs: Sequence[str]) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for k, output in enumerate(outputs):
        prefix = "" if k == 0 else f"{output}_"
        for n, name in enumerate(QUANTITIES):
            if not (prefix and name == "hf"):  # sound has no rows and columns
                found[prefix + name] = values[:, k * len(QUANTITIES) + n].copy()
    for name in found:
        if name.endswith("ratio"):
            found[name][~np.isfinite(found[name])] = math.inf
    return found


def merge(states: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Return the quantities of several states side by side, `(cells, states)`."""
    return {name: np.stack([values[name] for values in states], 1) for name in states[0]}

"""The scan of a trajectory: it changes nothing, and each cell's quantities are those of a separate
full pass of a model weakened by hand, by plain numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from skipguide.families.lookup import family_of
from skipguide.tuning.layer_map import QUANTITIES, ScanOptions, ScanRecord
from skipguide.tuning.scan import TrajectoryScan
from support import oracle
from support.tiny import tiny
from support.tiny.base import Tiny
from support.written import GUIDED, attentions_of, paths_of, trace_of

# One for each way in which a step is called and its prediction lies; the others are `matrix`.
CHOSEN = (
    "MochiPipeline",  # batched
    "LTX2Pipeline",  # packed tokens, and sound
    "LattePipeline",  # two axes in turn, a learned variance
    "WanPipeline 2.2",  # separate calls of two transformers
    "HunyuanVideo15Pipeline",  # by a guider
)
LAYERS = {"AnimateDiffPipeline": ("down:0", "mid:0", "up:5")}  # of its 20 layers, each a full pass
CASES = [
    pytest.param(name, marks=[] if name in CHOSEN else [pytest.mark.matrix]) for name in GUIDED
]


def scanned(small: Tiny, options: ScanOptions, **call: Any) -> tuple[torch.Tensor, ScanRecord]:
    with TrajectoryScan(small.pipe, options) as scan:
        result = oracle.run(small, **{**small.short, **call})
    return result, scan.record()


# --- what a cell is, by hand ----------------------------------------------------------------------


def frames_of(array: np.ndarray, layout: str, kwargs: dict[str, Any]) -> np.ndarray | None:
    """Rows and columns last."""
    if layout == "packed":
        size = [int(kwargs[name]) for name in ("num_frames", "height", "width")]
        if math.prod(size) != array.shape[1]:
            return None
        return array.reshape(len(array), *size, -1).transpose(0, 4, 1, 2, 3)
    layout = layout or "bcthw"
    rest = [i for i, name in enumerate(layout) if name not in "hw"]
    return array.transpose(*rest, layout.index("h"), layout.index("w"))


def share_of_high_frequencies(frames: np.ndarray) -> float:
    energy = np.abs(np.fft.fft2(frames)) ** 2
    rows, columns = np.fft.fftfreq(frames.shape[-2]), np.fft.fftfreq(frames.shape[-1])
    high = np.hypot(rows[:, None], columns) > 0.25
    return float((energy * high).sum() / energy.sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def quantities(
    c: np.ndarray, p: np.ndarray, u: np.ndarray | None, layout: str, kwargs: Any
) -> list[float]:
    """Means over the samples of a batch, in double precision."""
    rows = []
    for k in range(len(c)):
        d = (c - p)[k : k + 1]
        frames = frames_of(d, layout, kwargs)
        rows.append([
            np.linalg.norm(d) / np.linalg.norm(c[k]),
            math.nan if frames is None else share_of_high_frequencies(frames),
            cosine(d[0], c[k]),
            math.nan if u is None else cosine(d[0], c[k] - u[k]),
        ])  # fmt: skip
    return [float(value) for value in np.mean(rows, 0)]


def double(small: Tiny, prediction: torch.Tensor) -> np.ndarray:
    array = prediction.double().numpy()
    return array[:, : array.shape[1] // 2] if small.variance else array


def expected(small: Tiny, record: ScanRecord, n: int) -> tuple[dict[str, list[float]], np.ndarray]:
    """The quantities and the cosines of the pushes of the n-th state."""
    step, _ = oracle.calls_of_step(small, record.states[n].step, [], small.short)
    held = {name: getattr(small.pipe, name, None) for name in small.denoisers}
    assert held[record.states[n].denoiser] is step.calls[0].model
    layout, audio = family_of(small.pipe).latent_layout, record.outputs[1:]
    found: dict[str, list[float]] = {name: [] for name in record.values}
    pushes = []
    for cell in record.cells:
        paths = paths_of(small, cell.layers, cell.skip, cell.axis)
        weak = oracle.weakened(step.calls[0].model, paths, cell.skip, attentions_of(small))
        with torch.no_grad():
            ps = oracle.samples(weak(**step.cond))
        for k, prefix in enumerate(("", *(f"{name}_" for name in audio))):
            us = None if step.u is None else double(small, step.u[k])
            c, p = double(small, step.c[k]), double(small, ps[k])
            measured = quantities(c, p, us, layout if k == 0 else "b" * c.ndim, step.cond) \
                if k == 0 else sound(c, p, us)  # fmt: skip
            for name, value in zip(QUANTITIES, measured, strict=True):
                if prefix + name in found:
                    found[prefix + name].append(value)
        pushes.append((double(small, step.c[0]) - double(small, ps[0])).ravel())
    unit = np.array([push / max(np.linalg.norm(push), 1e-30) for push in pushes])
    return found, unit @ unit.T


def sound(c: np.ndarray, p: np.ndarray, u: np.ndarray | None) -> list[float]:
    """Without rows and columns, and so without "hf"."""
    rows = [
        [
            np.linalg.norm(x - y) / np.linalg.norm(x),
            math.nan,
            cosine(x - y, x),
            math.nan if u is None else cosine(x - y, x - u[k]),
        ]
        for k, (x, y) in enumerate(zip(c, p, strict=True))
    ]
    return [float(value) for value in np.mean(rows, 0)]


@pytest.mark.parametrize("name", CASES)
def test_it_changes_nothing_and_each_cell_is_a_separate_full_pass(name: str) -> None:
    small = tiny(name)
    plain, before = oracle.run(small, **small.short), trace_of(small)
    result, record = scanned(small, ScanOptions(layers=LAYERS.get(name)))
    assert torch.equal(result, plain)
    assert trace_of(small) == before
    assert len(record.states) >= 1
    for n in range(len(record.states)):
        values, gram = expected(small, record, n)
        for quantity, rows in values.items():
            ours = record.values[quantity][:, n]
            moved = record.values["ratio"][:, n] > 1e-4  # the direction of nothing is rounding
            np.testing.assert_allclose(
                ours[moved], np.array(rows)[moved], atol=2e-3, rtol=2e-3, err_msg=quantity
            )
        moved = record.values["ratio"][:, n] > 1e-4
        np.testing.assert_allclose(
            record.gram[moved][:, moved, n], gram[moved][:, moved], atol=5e-3
        )

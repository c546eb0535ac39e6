"""The scan of a trajectory: it changes nothing, and each cell's quantities are those of a separate
full pass of a model weakened by hand, by plain numpy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from skipguide import STG, guide
from skipguide.families.lookup import family_of
from skipguide.pipeline import noise_levels
from skipguide.tuning.scan import run as scan_run
from skipguide.tuning.scan.layer_map import QUANTITIES, Cell, ScanOptions, ScanRecord
from skipguide.tuning.scan.trajectory import TrajectoryScan, choose_steps, survey_cells
from support import oracle
from support.tiny import tiny
from support.tiny.base import Tiny
from support.written import GUIDED, UNETS, addresses, attentions_of, paths_of, trace_of

# One for each way in which a step is called and its prediction lies; the others are `matrix`.
CHOSEN = (
    "MochiPipeline",  # batched
    "LTX2Pipeline",  # packed tokens, and sound
    "LattePipeline",  # two axes in turn, a learned variance
    "WanPipeline 2.2",  # separate calls of two transformers
    "HunyuanVideo15Pipeline",  # by a guider
)
# Of each cell there is a full pass by hand, so that some layers stand for all.
LAYERS: dict[str, tuple[str | int, ...]] = {
    "MochiPipeline": (0, 2), "LTX2Pipeline": (1,), "WanPipeline 2.2": (1, 3),
    "HunyuanVideo15Pipeline": (1,), "LattePipeline": (1,),
    **dict.fromkeys(UNETS, ("down:0", "mid:0", "up:5")),
}  # fmt: skip
CASES = [
    pytest.param(name, marks=[] if name in CHOSEN else [pytest.mark.matrix]) for name in GUIDED
]


def layers_of(name: str) -> tuple[str | int, ...] | None:
    if name in UNETS:
        parts = addresses(tiny(name)).values()
        return tuple(layers[-1] for layers in parts)
    return LAYERS.get(name)


def scanned(small: Tiny, options: ScanOptions, **call: Any) -> tuple[torch.Tensor, ScanRecord]:
    with TrajectoryScan(small.pipe, options) as scan:
        result = oracle.run(small, **{**small.short, **call})
    return result, scan.record()


# --- what a cell is, by hand ----------------------------------------------------------------------


def frames_of(array: np.ndarray, layout: str, kwargs: dict[str, Any]) -> np.ndarray | None:
    """Rows and columns last."""
    if layout == "packed":
        size = [int(kwargs.get(name) or 0) for name in ("num_frames", "height", "width")]
        if math.prod(size) != array.shape[1]:  # not told, or conditions stand beside the video
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
    layout = family_of(small.pipe).latent_layout
    made = ["", *(f"{name}_" for name in record.outputs[1:])][
        : len(step.c)
    ]  # an image has no sound
    found: dict[str, list[float]] = {name: [] for name in record.values}
    pushes = []
    for cell in record.cells:
        paths = paths_of(small, cell.layers, cell.skip, cell.axis)
        weak = oracle.weakened(step.calls[0].model, paths, cell.skip, attentions_of(small))
        with torch.no_grad():
            ps = oracle.samples(weak(**step.cond))
        for k, prefix in enumerate(made):
            us = None if step.u is None else double(small, step.u[k])
            c, p = double(small, step.c[k]), double(small, ps[k])
            measured = quantities(c, p, us, layout, step.cond) if k == 0 else sound(c, p, us)
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
    result, record = scanned(small, ScanOptions(layers=layers_of(name)))
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


# --- a whole scan ---------------------------------------------------------------------------------

MOCHI = ScanOptions(layers=(0, 3), levels=(0.95,))


def test_without_cfg_there_is_no_direction_of_it() -> None:
    small = tiny("MochiPipeline")
    _, record = scanned(small, MOCHI, **small.off)
    assert np.isnan(record.values["cos_cfg"]).all()
    assert np.isfinite(record.values["cos_c"]).all()
    assert not record.states[0].has_cfg


def test_states_that_do_not_fit_are_kept_in_groups_with_the_same_result() -> None:
    """A limit of one byte keeps the states of one layer at a time."""
    small = tiny("LattePipeline")
    options = ScanOptions(skips=("residual",), axes=("spatial",))
    _, whole = scanned(small, options)
    _, parts = scanned(small, ScanOptions(**{**vars(options), "max_bytes": 1}))
    assert set(whole.strong_passes) == {1}
    assert set(parts.strong_passes) == {len(parts.cells)}
    for name, values in whole.values.items():
        np.testing.assert_array_equal(parts.values[name], values)


def test_half_precision_is_measured_in_float32() -> None:
    """bfloat16 has three digits, and the pushes of bfloat16 models are those of float32 to two."""
    small, half = tiny("MochiPipeline"), tiny("MochiPipeline", torch.bfloat16)
    plain = oracle.run(half, **half.short)
    result, record = scanned(half, MOCHI)
    assert torch.equal(result, plain)
    _, exact = scanned(small, MOCHI)
    np.testing.assert_allclose(record.values["ratio"], exact.values["ratio"], rtol=0.1)


def test_cells_of_a_model() -> None:
    small = tiny("LattePipeline")
    with TrajectoryScan(
        small.pipe, ScanOptions(layers=(1, "temporal:0"), skips=("residual",))
    ) as s:
        oracle.run(small, **small.short)
        cells = s.record().cells
    assert cells == (
        Cell("temporal:0", "residual"),
        Cell("1", "residual"),
        Cell("1", "residual", "spatial"),
        Cell("1", "residual", "temporal"),
    )
    assert [cell.name for cell in cells][1:3] == ["1 residual", "1 residual spatial"]


def test_costs_are_parts_of_a_forward_pass_and_their_sum_is_half_of_the_blocks() -> None:
    """(L - 1) / 2 for L blocks that are alike, and what a pass runs beside them."""
    small = tiny("WanPipeline")
    _, record = scanned(small, ScanOptions(skips=("residual",)))
    blocks = len(record.cells)
    assert (np.diff(record.costs) < 0).all()
    assert record.forwards[0] == pytest.approx((blocks - 1) / 2, rel=0.2)
    assert record.forwards[0] > (blocks - 1) / 2


def test_what_is_wrong_is_said_before_anything_runs() -> None:
    small = tiny("MochiPipeline")
    with pytest.raises(ValueError, match="layers of this MochiTransformer3DModel must be"):
        TrajectoryScan(small.pipe, ScanOptions(layers=(99,)))
    with pytest.raises(ValueError, match="axis must be one that mochi has"):
        TrajectoryScan(small.pipe, ScanOptions(axes=("spatial",)))
    with pytest.raises(ValueError, match="guide\\(\\) needs a pipeline that it knows"):
        TrajectoryScan(object())
    with guide(small.pipe, STG([1])), pytest.raises(RuntimeError, match="is guided already"):
        TrajectoryScan(small.pipe)
    with pytest.raises(ValueError, match="no step was scanned"), TrajectoryScan(small.pipe) as scan:
        scan.record()
    cells, forwards = survey_cells(small.pipe, ScanOptions(skips=("residual",)))
    assert len(cells) == 4
    assert forwards == 1.5  # 3/4 + 2/4 + 1/4


def test_an_error_in_a_weak_pass_leaves_no_trace() -> None:
    small = tiny("MochiPipeline")
    plain, before = oracle.run(small, **small.short), trace_of(small)
    calls = iter(range(1000))

    def fail(*_: Any) -> None:
        if next(calls) == 4:  # 2 of the pipeline, a conditional pass, and the second weak one
            raise RuntimeError("out of memory")

    hook = small.pipe.transformer.transformer_blocks[3].register_forward_hook(fail)
    with TrajectoryScan(small.pipe, MOCHI), pytest.raises(RuntimeError, match="out of memory"):
        oracle.run(small, **small.short)
    hook.remove()
    assert trace_of(small) == before
    assert torch.equal(oracle.run(small, **small.short), plain)


def test_the_scan_of_prompts_goes_on_where_it_was(tmp_path: Path) -> None:
    small, made = tiny("MochiPipeline"), []

    def subject(number: int) -> scan_run.Subject:
        def call() -> None:
            made.append(number)
            oracle.run(small, **small.short)

        return scan_run.Subject(call, f"key-{number}")

    told: list[scan_run.ScanProgress] = []
    first = scan_run.scan_subjects(small.pipe, [subject(0)], MOCHI, tmp_path, told.append)
    both = scan_run.scan_subjects(
        small.pipe, [subject(0), subject(1)], MOCHI, tmp_path, told.append
    )
    assert made == [0, 1]
    assert [one.kept for one in told] == [False, True, False]
    np.testing.assert_array_equal(first[0].gram, both[0].gram)
    assert told[-1].seconds_left == 0
    kept, notes = tmp_path / "key-1.safetensors", list[str]()
    kept.write_bytes(kept.read_bytes()[:100])
    again = scan_run.scan_subjects(
        small.pipe, [subject(0), subject(1)], MOCHI, tmp_path, on_note=notes.append
    )
    assert made == [0, 1, 1]
    np.testing.assert_array_equal(again[1].gram, both[1].gram)
    assert ScanRecord.from_bytes(kept.read_bytes()).cells == again[1].cells
    (note,) = notes
    assert note.startswith("the record of a scan key-1.safetensors was damaged")


def test_a_pipeline_of_images_is_scanned_by_its_own_call() -> None:
    small = tiny("CogView4Pipeline")
    call = {name: value for name, value in small.call.items() if name != "output_type"}
    found = scan_run.scan(
        small.pipe, [None, None], ScanOptions(skips=("residual",)), **{**call, **small.short}
    )
    assert found.prompts == 2
    assert np.isfinite(found.means["hf"]).all()
    with pytest.raises(ValueError, match="one prompt or more"):
        scan_run.scan(small.pipe, [])


# --- where on the trajectory ----------------------------------------------------------------------


def test_the_share_of_noise_is_sigma_in_flow_matching() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    sigmas = scheduler.sigmas[:-1].tolist()
    chosen = choose_steps(scheduler, (0.95, 0.8, 0.6, 0.3), 20)
    assert len(chosen) == 4
    for level, step, share in chosen:
        assert share == sigmas[step]
        assert abs(share - level) == min(abs(sigma - level) for sigma in sigmas)


def test_the_share_of_noise_is_that_of_alpha_bar_in_ddpm_and_of_sigma_in_edm() -> None:
    ddim: Any = DDIMScheduler()
    ddim.set_timesteps(10)
    expected = [float((1 - ddim.alphas_cumprod[t]) ** 0.5) for t in ddim.timesteps]
    assert noise_levels.noise_shares(ddim) == pytest.approx(expected, abs=1e-6)
    edm: Any = EDMEulerScheduler()
    edm.set_timesteps(10)
    sigmas = edm.sigmas[:-1].double().numpy()
    found = noise_levels.noise_shares(edm)
    assert found == pytest.approx(sigmas / np.sqrt(1 + sigmas**2), abs=1e-6)


def test_a_short_run_has_fewer_states() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.5])
    chosen = choose_steps(scheduler, (0.95, 0.8, 0.6, 0.3), 2)
    assert [(level, step) for level, step, _ in chosen] == [(0.95, 0), (0.6, 1)]

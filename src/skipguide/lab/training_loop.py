"""One training loop for every small model of the lab: Muon and AdamW, EMA, exact resumption.

`fit` is a generator: the caller reads the progress, evaluates, logs, or stops. The loss is a
function of the step number alone (each step seeds its own data), so a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import glob
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

Loss = Callable[[int], tuple[torch.Tensor, dict[str, float]]]
_STALE_SECONDS = 3600.0  # seconds after which a temporary file counts as abandoned


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The length of a training and its learning rates.

    `decay` is the last fraction of the steps, over which the learning rate falls to zero. With
    `restarts` it does so several times, each time from a warm start (SGDR, Loshchilov and Hutter
    2017).
    """

    steps: int
    learning_rate: float  # of Muon, for weight matrices and kernels
    adam_rate: float = 2e-3  # of AdamW, for the rest (biases, norms, embeddings)
    warmup: int = 100
    decay: float = 0.3
    restarts: tuple[int, ...] = ()  # steps at which it begins again
    ema: float = 0.0  # 0: no moving average
    snapshots: tuple[int, ...] = ()  # steps after which the weights are kept
    checkpoint_minutes: float = 3.0

    def factor(self, step: int) -> float:
        """Return the factor of the learning rates at a step.

        It rises linearly during the warm-up, is constant, then falls to zero as half a cosine.
        """
        bounds = (0, *self.restarts, self.steps)
        first, last = next(
            (pair for pair in itertools.pairwise(bounds) if step < pair[1]), bounds[-2:]
        )
        falling = max((last - first) * self.decay, 1)
        fall = min(max((step - last + falling) / falling, 0.0), 1.0)
        return min((step - first + 1) / self.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * fall))


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress that `fit` yields after each step."""

    step: int  # steps done
    steps: int  # steps in all
    metrics: dict[str, float]
    seconds: float  # training time so far, over all sessions


def fit(
    model: torch.nn.Module, loss: Loss, schedule: Schedule, checkpoint: Path
) -> Iterator[Progress]:
    """Train `model` in place; at the end it holds the averaged weights if `schedule.ema` is set.

    Args:
        loss: step number -> (scalar to minimise, numbers to report).
        checkpoint: written every few minutes and at the end, under a temporary name first; read if
            it exists. The (averaged) weights after each of `schedule.snapshots` steps are kept
            beside it, in float16: see `snapshot_path`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = _optimizers(model, schedule)
    rates = (schedule.learning_rate, schedule.adam_rate)
    average = copy.deepcopy(model).requires_grad_(False) if schedule.ema else None
    done, before = _resume(checkpoint, model, average, optimizers)
    started = saved = time.monotonic()
    model.train()
    for step in range(done, schedule.steps):
        for optimizer, rate in zip(optimizers, rates, strict=True):
            for group in optimizer.param_groups:  # looked up here: resuming replaces the groups
                group["lr"] = rate * schedule.factor(step)
        value, metrics = loss(step)
        model.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if average is not None:
            _update_average(average, model, min(schedule.ema, (1 + step) / (10 + step)))
        if step + 1 in schedule.snapshots:
            _save_snapshot(
                snapshot_path(checkpoint, step + 1), model if average is None else average
            )
        seconds = before + time.monotonic() - started
        last = step + 1 == schedule.steps
        if last or time.monotonic() - saved > schedule.checkpoint_minutes * 60:
            saved = time.monotonic()
            _save(checkpoint, step + 1, seconds, model, average, optimizers)
        yield Progress(step + 1, schedule.steps, metrics, seconds)
    if average is not None:
        model.load_state_dict(average.state_dict())
    model.eval()


def snapshot_path(checkpoint: Path, step: int) -> Path:
    """Return the file of the weights after some steps of the training with this checkpoint."""
    return checkpoint.with_name(f"{checkpoint.stem}-{step}.safetensors")


def _save_snapshot(path: Path, model: torch.nn.Module) -> None:
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().half().contiguous() for name, value in model.state_dict().items()
    }
    with atomic_path(path) as part:
        save_file(tensors, part)


def require_files(folder: Path, *names: str) -> None:
    """Check that results of earlier stages exist.

    Raises:
        ValueError: naming those that are missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"this needs {', '.join(names)} in {folder}, but {', '.join(missing)} is missing. First"
            " run the training stages that write them (and lab score --out, before packing)."
        )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name for a file or folder, which gets its own name when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    # Remove leftovers of a killed process.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                _remove(left)
    _remove(part)
    try:
        yield part
        os.replace(part, path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def save_pipeline(pipe: DiffusionPipeline, folder: Path, *halved: torch.nn.Module) -> None:
    """Write a pipeline in diffusers layout, in files of at most 20 MB.

    Args:
        halved: parts to write in float16. diffusers loads these as float32; transformers would keep
            the precision of the file.
    """
    pipe.to("cpu")
    for part in halved:
        for parameter in part.parameters():
            parameter.data = parameter.data.half().contiguous()
    with atomic_path(folder) as part:
        pipe.save_pretrained(part, max_shard_size="20MB")


def _optimizers(model: torch.nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for the weights of linear layers and convolutions, AdamW for all others."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    matrices: list[Any] = [
        m.weight for m in model.modules() if isinstance(m, kinds) and m.weight.requires_grad
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    adam = torch.optim.AdamW(rest, schedule.adam_rate, (0.9, 0.99))
    return [Muon(matrices, schedule.learning_rate), adam]


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates (Jordan et al. 2024).

    It was 1.5 times as fast as AdamW in one run (docs/lab-mochi.md). torch.optim.Muon accepts only
    matrices; here a kernel `(out, in, t, h, w)` counts as `(out, in t h w)`.
    """

    def __init__(
        self,
        params: list[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for alike in _group_by_shape(group["params"]):
                updates = []
                for p in alike:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    average.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(average, group["momentum"]).flatten(1))
                # All at once: a UNet has hundreds of small matrices, and this halves their time.
                for p, update in zip(alike, orthogonalize(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    # 0.2 sqrt(max side) gives the update the root mean square of AdamW's (Liu et
                    # al. 2025).
                    step = update.reshape(p.shape).to(p.dtype)
                    p.add_(step, alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def _group_by_shape(parameters: list[torch.nn.Parameter]) -> list[list[Any]]:
    """Group the parameters with a gradient by their shape as matrices."""
    found: dict[tuple[int, int], list[Any]] = {}
    for p in parameters:
        if p.grad is not None:
            found.setdefault((p.shape[0], p[0].numel()), []).append(p)
    return list(found.values())


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return nearly the closest semi-orthogonal matrices to `(..., M, N)`.

    Five Newton-Schulz steps in bfloat16.
    """
    x = matrices.bfloat16()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


@torch.no_grad()
def _update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    theirs = list(model.parameters())
    for ours, p in zip(average.parameters(), theirs, strict=True):
        ours.lerp_(p, 1 - decay)


def _save(path: Path, step: int, seconds: float, model, average, optimizers) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part:
        torch.save(state, part)


def _resume(path: Path, model, average, optimizers) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if average is not None:
        average.load_state_dict(state["average"])
    return state["step"], state["seconds"]


def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile has what it needs: on a CPU, a C++ compiler."""
    return device.type == "cuda" or shutil.which("g++") is not None


@functools.cache
def faster_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 if matrix products are at least 1.5x as fast in it here, else float32.

    A stopwatch says so, of a machine that may be busy: once in a process, so that its parts agree.
    """
    seconds = {dtype: _matmul_seconds(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    return (
        torch.bfloat16 if seconds[torch.float32] > 1.5 * seconds[torch.bfloat16] else torch.float32
    )


def _matmul_seconds(dtype: torch.dtype, device: torch.device | str) -> float:
    a = torch.ones(2048, 512, device=device, dtype=dtype)
    b = torch.ones(512, 512, device=device, dtype=dtype)
    (a @ b).sum().item()  # warm-up
    start = time.perf_counter()
    torch.stack([(a @ b).sum() for _ in range(10)]).sum().item()
    return time.perf_counter() - start

"""What a guided step costs where its passes are on several processes (docs/parallel.md).

    python -m skipguide.bench.branch_cost --model lab-mochi --layers 2 4

The time is that of this machine, where processes may share cores. What does not depend on it is
counted: the bytes that are sent, and the longest chain of blocks that run one after the other."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from skipguide import STG, guide
from skipguide.families import blocks, lookup
from skipguide.models import loading
from skipguide.pipeline.branches import BranchGuide

SIZE = {"height": 64, "width": 64, "num_frames": 19}  # that of the small models


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The cost of one step of a run: its time, its longest chain of blocks and its traffic.

    Args:
        seconds: the mean over the steps but the first.
        chain: the longest chain of blocks that run one after the other.
        megabytes: what all processes send.
    """

    seconds: float
    chain: float
    megabytes: float


def measure(model: str, layers: Sequence[int], steps: int, world: int) -> StepCost:
    """Measure a guided run of a model, with a term for each layer, in so many processes.

    Raises:
        RuntimeError: if a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = (world, folder, model, tuple(layers), steps)
        if world == 1:
            _work(0, *args)
        else:
            spawn(_work, args, nprocs=world)
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]
    return StepCost(found[0]["seconds"], found[0]["chain"], sum(one["megabytes"] for one in found))


def _work(
    rank: int, world: int, folder: str, model: str, layers: Sequence[int], steps: int
) -> None:
    torch.set_num_threads(1)
    parallel = None
    if world > 1:
        method = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
        parallel = dist.group.WORLD
    pipe: Any = loading.load_pipeline(model, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    times = list[float]()

    def note(*_: Any) -> dict[str, Any]:
        times.append(time.perf_counter())
        return {}

    with guide(pipe, *(STG([k]) for k in layers), parallel=parallel) as handle:
        pipe(
            "a red star", num_inference_steps=steps, output_type="latent", **SIZE,
            generator=torch.Generator().manual_seed(0), callback_on_step_end=note,
        )  # fmt: skip
        found = {"seconds": (times[-1] - times[0]) / (steps - 1), "megabytes": 0.0}
        passes = handle.passes_per_step
        if isinstance(handle, BranchGuide):
            found["megabytes"] = handle.group.bytes_sent / steps / 1e6
            passes = sum(handle.durations) / len(handle.durations)
    (denoiser,) = lookup.denoisers_of(pipe, lookup.family_of(pipe))
    found["chain"] = passes * len(blocks.layer_sites(lookup.family_of(pipe), denoiser))
    torch.save(found, Path(folder) / f"{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="A guided step on several processes.")
    parser.add_argument("--model", default="lab-mochi")
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    print("processes  s/step  ratio  blocks in a chain  ratio  MB sent per step")
    first = None
    for world in range(1, 3 + len(args.layers)):
        cost = measure(args.model, args.layers, args.steps, world)
        first = first or cost
        print(
            f"{world:9} {cost.seconds:7.2f} {cost.seconds / first.seconds:6.2f}"
            f" {cost.chain:18.1f} {cost.chain / first.chain:6.2f} {cost.megabytes:17.2f}"
        )


if __name__ == "__main__":
    main()

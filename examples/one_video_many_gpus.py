"""One video, made by several GPUs at once: each computes a share of its tokens.

    torchrun --nproc-per-node 2 examples/one_video_many_gpus.py "a red fox in the snow"

Without a GPU two processes of the CPU do the same, slowly: add `--frames 5 --steps 2 --size 64`.
docs/many-gpus.md says for which models, and what to look out for.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, DiffusionPipeline

from skipguide import STG, enable_context_parallel, guide
from skipguide.files import video


@contextlib.contextmanager
def processes() -> Iterator[torch.device]:
    """Join the processes that torchrun started, and yield the device of this one."""
    if torch.accelerator.is_available():
        dist.init_process_group()
        torch.accelerator.set_device_index(dist.get_node_local_rank())
        device = torch.accelerator.current_accelerator()
        assert device is not None
    else:
        dist.init_process_group("gloo")
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and here it is 0
        device = torch.device("cpu")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def divide(pipe: Any) -> None:
    """Have each process compute a share of the tokens."""
    enable_context_parallel(pipe, ContextParallelConfig(ulysses_degree=dist.get_world_size()))


def make_video(pipe: Any, terms: Any, seed: int, **call: Any) -> Any:
    """Return the guided result of a pipeline; every process gets all of it."""
    generator = torch.Generator().manual_seed(seed)  # the same noise in each process
    with guide(pipe, terms):
        return pipe(generator=generator, **call).frames[0]


def main() -> None:
    """Read the command line, make the video, and write it once."""
    parser = argparse.ArgumentParser(description="One video, made by several GPUs at once.")
    parser.add_argument("prompt")
    parser.add_argument("--model", default="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    parser.add_argument("--layer", type=int, default=8, help="the one that STG skips")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=480, help="height and width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fox.mp4"))
    args = parser.parse_args()
    with processes() as device:
        pipe = DiffusionPipeline.from_pretrained(args.model, dtype=torch.bfloat16).to(device)
        divide(pipe)
        frames = make_video(
            pipe, STG([args.layer], 1.0), args.seed, prompt=args.prompt, num_frames=args.frames,
            height=args.size, width=args.size, num_inference_steps=args.steps, output_type="np",
        )  # fmt: skip
        if dist.get_rank() == 0:
            video.write(args.out, (frames * 255).round().astype("uint8"), fps=16, record={})


if __name__ == "__main__":
    main()

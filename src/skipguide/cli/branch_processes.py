"""skipguide generate --parallel branches: one of the processes that torchrun started.

Process 0 checks, tells, writes and prints as ever. The others load the model, run their passes and
end; they say nothing but what went wrong in them alone."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import typer

from skipguide.cli import options
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData

_STARTED_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def check(parallel: str | None, is_batch: bool) -> None:
    """Check --parallel and how it was started.

    Raises:
        ValueError: for another word, many videos, or a process that torchrun did not start.
    """
    if parallel is None:
        return
    if parallel != "branches":
        raise ValueError(f"--parallel must be branches, but got {parallel!r}.")
    if is_batch:
        raise ValueError(
            "--parallel branches makes one video, but --prompts or --seeds asks for many. Give each"
            " GPU videos of its own by skipguide sweep."
        )
    if any(name not in os.environ for name in _STARTED_BY_TORCHRUN):
        raise ValueError(
            "--parallel branches needs processes that know of each other, but this one was started"
            " alone. Write torchrun --nproc-per-node 3 --no-python skipguide generate ..."
            " --parallel branches."
        )


def is_first() -> bool:
    """Return whether this is process 0, which writes the video."""
    return os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined(parallel: str | None, settings: GenerationSettings) -> Iterator[Any]:
    """Join the processes of torchrun for a `with` block; yield their group, or None without it.

    Raises:
        ValueError: for a device that all would share, too few GPUs, or in the place of a
            BranchError.
    """
    if parallel is None:
        yield None
        return
    import torch.distributed as dist

    from skipguide.pipeline.branch_group import BranchError

    on_gpu = _on_gpu(settings)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield dist.group.WORLD
    except BranchError as error:
        if not is_first():  # process 0 says it
            raise typer.Exit(2) from error
        raise ValueError(str(error)) from error
    finally:
        dist.destroy_process_group()


def _on_gpu(settings: GenerationSettings) -> bool:
    """Return whether the processes run on GPUs, and choose that of this one."""
    import torch

    if settings.device not in (None, "cuda", "cpu"):
        raise ValueError(
            f"--parallel branches gives each process a GPU of its own, but --device"
            f" {settings.device} names one for all. Leave it out, or choose among GPUs by"
            " CUDA_VISIBLE_DEVICES."
        )
    if settings.device == "cpu" or not torch.cuda.is_available():
        return False
    own, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own >= count:
        raise ValueError(
            f"--parallel branches needs a GPU for each process, but process {own} of this machine"
            f" has none of its {count}. Start {count} processes, or pass --device cpu."
        )
    torch.cuda.set_device(own)
    return True


def assist(config: list[str] | None, given: PlainData, prompt: str | None) -> None:
    """Run the passes of a process that is not the first; process 0 has checked what it is given."""
    logging.getLogger("skipguide").setLevel(logging.ERROR)
    try:
        settings = options.build_settings(options.read_config(config), given, prompt)
        image = options.first_frame(settings)
    except ValueError:  # process 0 says it
        raise typer.Exit(2) from None
    import torch

    from skipguide.generate import run
    from skipguide.generate.resolve import resolve_settings
    from skipguide.models import loading

    with joined("branches", settings) as group:
        if torch.cuda.is_initialized():  # offloading takes "cuda" for the first one
            device = f"cuda:{torch.cuda.current_device()}"
            settings = settings.model_copy(update={"device": device})
        pipe = loading.load(settings)
        run.assist(pipe, resolve_settings(settings, pipe), image, group)

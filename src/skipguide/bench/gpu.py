"""`skipguide bench --gpu`: large models on a large GPU, in one script of at most nine minutes.

Each model is measured in a process of its own, with a time limit of its own: running out of memory,
a crash or a hang loses what that process had not measured yet, and nothing else. The file of
results is replaced after each model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from skipguide.bench import gpu_case, gpu_cases
from skipguide.bench.gpu_cases import GpuCase, GpuOptions

Result = dict[str, Any]
_CHILD = "skipguide.bench.gpu_case"  # the module that a child runs
_GRACE = 10  # seconds that a child may take beyond its limit, to end by itself


def run(options: GpuOptions, out: Path) -> Iterator[tuple[str, Any]]:
    """Measure all cases; yield ("progress", text) on the way and ("result", dict) at the end.

    Args:
        options: of the run.
        out: the file of results, which is replaced after each case.

    Raises:
        ValueError: where there is no CUDA device for the full size.
    """
    check_device(options)
    began = time.monotonic()
    cases = [case for case in gpu_cases.CASES if case.family in options.cases]
    found: Result = {**_describe_machine(options), "cases": {}}
    for n, case in enumerate(cases):
        left = options.seconds - (time.monotonic() - began)
        later = sum(other.seconds for other in cases[n:])
        seconds = left * case.seconds / later
        yield "progress", f"{case.title}: at most {seconds:.0f} s"
        found["cases"][case.family] = _run_in_process(case, options, seconds)
        found["seconds"] = time.monotonic() - began
        gpu_case.write_json(out, found)
    yield "result", found


def check_device(options: GpuOptions) -> None:
    """Check that there is what the options ask for.

    Raises:
        ValueError: for the full size without a CUDA device.
    """
    if not options.small and not (options.device == "cuda" and torch.cuda.is_available()):
        raise ValueError(
            "bench --gpu needs a CUDA device for models of their full size, but torch has none"
            " here. Pass --small to run the same on a CPU with small models."
        )


def _describe_machine(options: GpuOptions) -> Result:
    cuda = options.device == "cuda"
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else None
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu", "device_bytes": memory,
        "torch": torch.__version__, "small": options.small,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def _run_in_process(case: GpuCase, options: GpuOptions, seconds: float) -> Result:
    """Return what a child has measured, and how it ended where that was not by itself."""
    with tempfile.TemporaryDirectory() as scratch:
        out, said = Path(scratch, "case.json"), Path(scratch, "stderr")
        arguments = [case.family, str(out), str(seconds), gpu_case.options_text(options)]
        with said.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-m", _CHILD, *arguments], stderr=stream,
                stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            ended = _wait(child, seconds + _GRACE)
        lines = said.read_text(errors="replace").strip().splitlines() or ["nothing"]
        found: Result = json.loads(out.read_text()) if out.exists() else {"title": case.title}
    if ended == 0:
        return found
    how = "was stopped at its time limit" if ended is None else f"ended with {ended}: {lines[-1]}"
    return {**found, "ended": how}


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status of a child; None if it, and its own children, had to be stopped."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

"""Measure what `skipguide generate` takes from the command line to its first denoising step.

Each measurement is the real command in a new process. The first one knows no hashes of files; the
second finds those of the first; the third names a layer that no model has, and ends with the error.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# What is measured -> more arguments of generate.
RUNS = {"first": (), "again": (), "wrong layer": ("--layers", "99999")}
PARTS = ("command line", "libraries", "checks", "loading", "hashing", "text", "first step")
_CHILD = "from skipguide.cli.bench_startup import run_child\nrun_child()"


def measure_startup(arguments: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name of the run, its measurement) for each of `RUNS`.

    Args:
        arguments: those of `skipguide generate`, as one types them.

    Yields:
        `total`: seconds from the start of the process to the first step, or to the error; `cpu`:
        seconds of processors meanwhile, of all threads; `parts`: seconds of `PARTS`. Hashing runs
        beside the others.

    Raises:
        ValueError: for arguments that generate refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name, more in RUNS.items():
            out = os.path.join(scratch, "video.mp4")
            given = [*shlex.split(arguments), "--steps", "2", "--out", out, "--overwrite", *more]
            yield name, _run_child(given, scratch, expects_error=bool(more))


def _run_child(given: list[str], scratch: str, expects_error: bool) -> dict[str, Any]:
    environment = {**os.environ, "SKIPGUIDE_CACHE": os.path.join(scratch, "cache")}
    content = json.dumps({"began": time.monotonic(), "arguments": given})
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, content], capture_output=True, text=True, env=environment
    )
    lines = done.stdout.strip().splitlines()
    found = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if not found or ("error" in found) != expects_error:
        said = found.get("error") or (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(
            f"the arguments of generate must be such that it makes a video, but it said: {said}."
            " Try them with skipguide generate first."
        )
    return found


# --- in the process that is measured --------------------------------------------------------------


class _Clock:
    """Seconds since the start of the process, and those of each part."""

    def __init__(self, began: float):
        self.began = began
        self.parts: dict[str, float] = {**dict.fromkeys(PARTS, 0.0)}
        self.reading: dict[str, Any] = {}  # when the first step was done

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time counted for a part."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[part] += time.monotonic() - started

        return counted

    def read(self) -> dict[str, Any]:
        """Return the measurement up to now."""
        total = time.monotonic() - self.began
        return {"total": total, "cpu": time.process_time(), "parts": dict(self.parts)}


def run_child() -> None:
    """Run the command that the parent asks for, and report when its first step is done."""
    asked = json.loads(sys.argv[1])
    clock = _Clock(asked["began"])
    from skipguide.cli import app
    from skipguide.cli.console import hide_library_notices

    hide_library_notices()
    clock.parts["command line"] = time.monotonic() - clock.began
    started = time.monotonic()
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # noqa: F401

    from skipguide.generate import preflight, run  # noqa: F401

    clock.parts["libraries"] = time.monotonic() - started
    _watch(clock)
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        app(["generate", "--json", *asked["arguments"]])
    error = {"error": json.loads(said.getvalue() or "{}").get("error")}
    print(json.dumps(clock.reading or {**clock.read(), **error}))


def _watch(clock: _Clock) -> None:
    """Put the clock in front of what the command calls."""
    from skipguide.files import hash_cache
    from skipguide.generate import preflight, run
    from skipguide.models import loading

    load, step = loading.load, run._StepTimer.__call__

    def load_and_watch(*args: Any, **kwargs: Any) -> Any:
        pipe = load(*args, **kwargs)
        if callable(getattr(pipe, "encode_prompt", None)):
            pipe.encode_prompt = clock.timed("text", pipe.encode_prompt)
        return pipe

    def end(timer: Any, *args: Any) -> Any:
        done = step(timer, *args)
        if not clock.reading:
            spent = timer.step_times[1] - timer.step_times[0]
            clock.parts["first step"] = spent - clock.parts["text"]
            clock.reading = clock.read()
        return done

    watched: Any = (preflight, loading, hash_cache, run._StepTimer)
    watched[0].check = clock.timed("checks", preflight.check)
    watched[1].load = clock.timed("loading", load_and_watch)
    watched[2].read_sha256 = clock.timed("hashing", hash_cache.read_sha256)
    watched[3].__call__ = end


def format_startup(found: dict[str, dict[str, Any]]) -> str:
    """Return the measurements as a table in Markdown, in seconds."""
    heading = ("run", *PARTS, "in all", "CPU")
    lines = [" | ".join(heading), "---|" + "|".join(["--:"] * (len(heading) - 1))]
    for name, row in found.items():
        numbers = [*(row["parts"][part] for part in PARTS), row["total"], row["cpu"]]
        lines.append(" | ".join([name, *(f"{number:.2f}" for number in numbers)]))
    return "\n".join(f"| {line} |" if "--" not in line else f"|{line}|" for line in lines)

"""Measure how long a newcomer waits: the import, the help, and the first clip from a cold start.

`make bench-start`. Each measurement is a new process; of several the best one counts, for what else
a machine does makes it only slower. The seconds of processors are of all threads."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

PROMPT = "a small red star orbiting over a blue background"
RUN = "from skipguide.cli import main; main()"
# (what is measured, the program and its arguments, how often, seconds that it may take on a machine
# that is quiet)
CASES = (
    ("import skipguide", ("import skipguide",), 5, 0.2),
    ("skipguide --help", (RUN, "--help"), 5, 0.3),
    ("first guided clip of lab-mochi", (RUN, "generate", PROMPT, "--out", "star.mp4"), 3, 8.0),
)


def main() -> None:
    """Print a table of the measurements."""
    print("| | seconds | of processors | goal |\n|---|--:|--:|--:|")
    for name, program, times, goal in CASES:
        wall, cpu = min(measure(program) for _ in range(times))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {goal:g} |")


def measure(program: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of a new process, and those of processors that it took.

    Raises:
        RuntimeError: if the program fails, or says something on stderr.
    """
    before, began = _processor_seconds(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", *program],
            capture_output=True,
            text=True,
            cwd=scratch,
            env={**os.environ, "SKIPGUIDE_CACHE": scratch},  # no hash of a file is known
        )
    if done.returncode or done.stderr:
        raise RuntimeError(
            "a measured program must end well and say nothing on stderr, but it said:"
            f" {done.stderr.strip()}"
        )
    return time.perf_counter() - began, _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

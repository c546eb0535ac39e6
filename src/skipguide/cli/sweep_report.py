"""Report on a sweep: the estimate before, a line or a bar meanwhile, the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.cli.console import ClipCounter
from skipguide.cli.families import align_columns
from skipguide.cli.result_lines import format_memory
from skipguide.files.text import format_duration
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.generate.run import StepProgress
    from skipguide.runs.sweep import SweepEstimate, SweepEvent


def format_estimate(planned: SweepEstimate, folder: Path) -> str:
    """Return what will be made, a line per setting, and the sum."""
    lines: list[tuple[str, ...]] = [
        ("setting", "model", "to make", "of", "steps", "passes/step", "s/step")
    ]
    for row in planned.rows:
        counts = (
            row.missing,
            row.clips,
            row.steps,
            _format_number(row.passes_per_step),
            _format_number(row.seconds_per_step),
        )
        lines.append((row.setting, row.model, *map(str, counts)))
    several = f" by {planned.workers} workers" if planned.workers > 1 else ""
    total = (
        f"{folder}: {planned.missing} of {planned.clips} clips to make, {planned.passes:.0f}"
        f" denoiser passes, about {format_duration(planned.seconds)} of denoising{several} by the"
        f" time of the first steps, and {planned.bytes / 1e6:.1f} MB of files at most"
    )
    failed = f"{planned.failed} clips failed before and are left alone; --retry-failed tries them"
    return "\n".join(
        [*align_columns(lines), *planned.notes, *([failed] if planned.failed else []), total]
    )


def _format_number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def estimate_payload(planned: SweepEstimate) -> PlainData:
    """Return an estimate for --json."""
    return {
        "clips": planned.clips, "missing": planned.missing, "failed_before": planned.failed,
        "passes": planned.passes, "seconds": planned.seconds, "bytes": planned.bytes,
        "workers": planned.workers, "notes": list(planned.notes),
        "settings": [vars(row) for row in planned.rows],
    }  # fmt: skip


@dataclass
class SweepReport(ClipCounter):
    """The messages of a sweep, while it runs and at its end."""

    folder: Path
    planned: SweepEstimate | None = None
    made: int = 0
    failures: list[PlainData] = field(default_factory=list)
    passes: float = 0.0  # of the clips that are made
    largest: ReadOnlyData = field(default_factory=dict)  # measured of the clip of the most memory

    def handle(self, happening: SweepEvent) -> None:
        """Note an event and report it."""
        from skipguide.runs.engine import JobFailed
        from skipguide.runs.sweep import ClipPublished, SweepEstimate

        if isinstance(happening, SweepEstimate):
            self.planned, self.began = happening, time.monotonic()
            self.print_line(format_estimate(happening, self.folder))
        elif isinstance(happening, ClipPublished):
            self.made += 1
            self.passes += happening.passes
            if _peak(happening.measured) > _peak(self.largest):
                self.largest = happening.measured
            if self.bar is None:
                self.print_line(
                    f"{self._job_title(happening.job)}, {happening.seconds:.1f} s; {self._rate()}"
                )
        elif isinstance(happening, JobFailed):
            error = happening.error.splitlines()[0]
            self.failures.append(
                {"key": happening.job.key, "setting": happening.job.setting, "error": error}
            )
            self.print_line(f"{self._job_title(happening.job)} failed: {error}")
        self._update_bar()

    def on_step(self, step: StepProgress) -> None:
        """Show a denoising step of the clip that is being made."""
        self._update_bar(f", step {step.number}/{step.steps}")

    def _update_bar(self, more: str = "") -> None:
        if self.bar is not None and self.planned is not None:
            done = self.made + len(self.failures)
            state = self._rate() + more
            self.update(
                description="clips", total=self.planned.missing, completed=done, state=state
            )

    def _job_title(self, job: Any) -> str:
        assert self.planned is not None
        number = f"{self.made + len(self.failures)}/{self.planned.missing}"
        return (
            f"{number} {job.setting}, seed {job.generation.seed},"
            f" {job.generation.prompt or job.generation.image}"
        )

    def _rate(self) -> str:
        """Return throughput and time left: by the finished clips, before the first by the
        estimate."""
        assert self.planned is not None
        took = time.monotonic() - self.began
        if not self.passes:
            return f"about {format_duration(self.planned.seconds)} left"
        left = (self.planned.passes - self.passes) * took / self.passes
        return (
            f"{60 * self.made / took:.1f} clips per minute, about {format_duration(max(left, 0))}"
            " left"
        )

    def payload(self) -> PlainData:
        """Return the result for --json."""
        cost = None if self.planned is None else estimate_payload(self.planned)
        seconds = time.monotonic() - self.began
        return {
            "run": str(self.folder),
            "made": self.made,
            "failures": self.failures,
            "seconds": seconds,
            "peak_memory_bytes": self.largest.get("peak_memory_bytes"),
            "peak_memory_of": self.largest.get("peak_memory_of"),
            "cost": cost,
        }

    def summary(self) -> str:
        """Return the result in one line."""
        assert self.planned is not None
        took = format_duration(time.monotonic() - self.began)
        there = self.planned.clips - self.planned.missing - self.planned.failed
        failed = len(self.failures) + self.planned.failed
        word = (
            f", {failed} failed: skipguide runs show {self.folder} says why, --retry-failed tries"
            " again"
            if failed
            else ""
        )
        memory = format_memory(self.largest)
        return (
            f"{self.folder}: {self.made} clips made in {took}"
            f"{f' with at most {memory}' if memory else ''}, {there} were there before{word}"
        )


def _peak(measured: ReadOnlyData) -> int:
    return measured.get("peak_memory_bytes") or 0

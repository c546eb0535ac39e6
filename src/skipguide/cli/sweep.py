"""skipguide sweep: all videos of a plan, each made once."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from skipguide.cli import console
from skipguide.cli.families import align_columns
from skipguide.cli.options import Json, parse_folder
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from skipguide.generate.run import StepProgress
    from skipguide.runs.engine import Engine
    from skipguide.runs.sweep import SweepEstimate, SweepEvent

_ADDRESS = r"auto|local|ray://\S+|[\w.-]+:[0-9]+"


class SweepCommand(TyperCommand):
    """A command whose --ray may stand without an address.

    It then means the cluster around this machine, or a new one here.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        if "--ray" in args:
            after = args.index("--ray") + 1
            if after == len(args) or not re.fullmatch(_ADDRESS, args[after]):
                args = [*args[:after], "auto", *args[after:]]
        return super().parse_args(ctx, args)


def sweep(
    plan: Annotated[Path, typer.Argument(help="The YAML file of prompts, seeds and settings.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The run directory.",
            show_default="runs/PLAN",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan, print what it costs, and stop.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also make what failed before.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read all files of the run to see that they are what was written."
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="On Ray, one worker per GPU: a cluster (auto, HOST:PORT, ray://...), or local."
            " Needs skipguide[ray].",
            show_default="this process",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers on Ray.", show_default="one per GPU, else per CPU"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make all videos of a plan: every prompt, seed and setting.

    Run it again after whatever ended it: what is there stays, the rest is made. A changed plan adds
    to the run. A plan looks like this:

    \b
        model: lab-mochi
        prompts: ["a small red star", "a large blue moon"]
        seeds: [0, 1]
        steps: 28
        settings:
          - {name: cfg, guidance_scale: 4.5, stg_scale: 0}
          - {name: stg, guidance_scale: 4.5, layers: 8, stg_scale: 1}
    """
    from skipguide.runs import Plan
    from skipguide.runs import sweep as sweeping

    if workers is not None and ray is None:
        raise ValueError(
            f"--workers is for sweeps on Ray, but got {workers} without --ray. Add --ray."
        )
    wanted = Plan.read(plan)
    folder = out or Path("runs") / plan.stem
    with contextlib.closing(_make_engine(folder, ray, workers)) as engine:
        if dry_run:
            planned = sweeping.estimate(
                wanted, folder, engine, retry_failed=retry_failed, thorough=verify
            )
            console.print_result(
                _format_estimate(planned, folder),
                {"run": str(folder), "cost": _estimate_payload(planned)},
                as_json,
            )
            return
        report = _SweepReport(folder, quiet=as_json)
        options: PlainData = dict(
            retry_failed=retry_failed, thorough=verify, on_step=report.on_step
        )
        with (
            report.display(),
            contextlib.closing(sweeping.sweep(wanted, folder, engine, **options)) as happenings,
        ):
            for happening in happenings:
                report.handle(happening)
    console.print_result(report.summary(), report.payload(), as_json)
    if report.failures or (report.planned and report.planned.failed):
        raise typer.Exit(1)


def _make_engine(folder: Path, ray: str | None, workers: int | None) -> Engine:
    if ray is not None:
        from skipguide.runs.ray_engine import RayEngine

        return RayEngine(ray, workers)
    from skipguide.runs.local_engine import LocalEngine
    from skipguide.runs.storage import WORK

    return LocalEngine(folder / WORK)


# --- what it says ---------------------------------------------------------------------------------


def _format_estimate(planned: SweepEstimate, folder: Path) -> str:
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


def _estimate_payload(planned: SweepEstimate) -> PlainData:
    return {
        "clips": planned.clips, "missing": planned.missing, "failed_before": planned.failed,
        "passes": planned.passes, "seconds": planned.seconds, "bytes": planned.bytes,
        "workers": planned.workers, "notes": list(planned.notes),
        "settings": [vars(row) for row in planned.rows],
    }  # fmt: skip


def format_duration(seconds: float) -> str:
    """Return a duration in words: "42 s", "7 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


@dataclass
class _SweepReport:
    """The messages of a sweep, while it runs and at its end."""

    folder: Path
    quiet: bool  # nothing but the result
    planned: SweepEstimate | None = None
    made: int = 0
    failures: list[PlainData] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    passes: float = 0.0  # of the clips that are made
    bar: Progress | None = None
    task: TaskID | None = None

    @contextlib.contextmanager
    def display(self) -> Iterator[None]:
        """Show a bar on stderr if that is a terminal, else a line per clip."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as self.bar:
            self.task = self.bar.add_task("checking", total=None, state="", markup=False)
            yield

    def handle(self, happening: SweepEvent) -> None:
        """Note an event and report it."""
        from skipguide.runs.engine import JobFailed
        from skipguide.runs.sweep import ClipPublished, SweepEstimate

        if isinstance(happening, SweepEstimate):
            self.planned, self.began = happening, time.monotonic()
            self._print_line(_format_estimate(happening, self.folder))
        elif isinstance(happening, ClipPublished):
            self.made += 1
            self.passes += happening.passes
            if self.bar is None:
                self._print_line(
                    f"{self._job_title(happening.job)}, {happening.seconds:.1f} s; {self._rate()}"
                )
        elif isinstance(happening, JobFailed):
            error = happening.error.splitlines()[0]
            self.failures.append(
                {"key": happening.job.key, "setting": happening.job.setting, "error": error}
            )
            self._print_line(f"{self._job_title(happening.job)} failed: {error}")
        self._update_bar()

    def on_step(self, step: StepProgress) -> None:
        """Show a denoising step of the clip that is being made."""
        self._update_bar(f", step {step.number}/{step.steps}")

    def _update_bar(self, more: str = "") -> None:
        if self.bar is not None and self.task is not None and self.planned is not None:
            done = self.made + len(self.failures)
            self.bar.update(
                self.task,
                description="clips",
                total=self.planned.missing,
                completed=done,
                state=self._rate() + more,
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

    def _print_line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            typer.echo(text, err=True)

    def payload(self) -> PlainData:
        """Return the result for --json."""
        cost = None if self.planned is None else _estimate_payload(self.planned)
        seconds = time.monotonic() - self.began
        return {
            "run": str(self.folder),
            "made": self.made,
            "failures": self.failures,
            "seconds": seconds,
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
        return f"{self.folder}: {self.made} clips made in {took}, {there} were there before{word}"

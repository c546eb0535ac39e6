"""The output of the verbs: results on stdout, progress and errors on stderr.

An error is one line. With --json both are JSON. Exit codes: 0 done, 1 done but the answer is no, 2
refused, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from skipguide.files.text import accept_all_characters, dump_json, is_unicode
from skipguide.method.protocols import ReadOnlyData

if TYPE_CHECKING:
    from rich.progress import Progress

    from skipguide.generate.run import StepCallback, StepProgress
    from skipguide.lab.training_loop import Progress as TrainingProgress

# What typer raises for a bad command line. The class has no public name in some versions of typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


class _Interrupted(Exception):
    pass


class VerbGroup(TyperGroup):
    """A group of commands in which every user error ends as one line and an exit code."""

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            accept_all_characters(stream)
        extra["standalone_mode"] = False  # typer raises instead of printing
        try:
            code = super().main(given, *rest, **extra)
        except _Interrupted:
            _fail("interrupted; every file that was written is complete.", 130, given)
        except _UsageError as error:
            # A group of verbs without a verb: the message is its help.
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(str(error), err=True)
                sys.exit(2)
            message = getattr(error, "format_message", error.__str__)()
            end = "" if message.endswith((".", "?")) else "."
            _fail(f"{message}{end} See skipguide --help, or the --help of the verb.", 2, given)
        except OSError as error:
            _fail(_os_error_text(error), 2, given)
        except ValueError as error:
            _fail(str(error), 2, given)
        except Exception as error:
            _tell_fault(error, given)
            raise
        else:
            sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # typer would exit silently
            raise _Interrupted from error


def _os_error_text(error: OSError) -> str:
    """Return what an error of the system means; those of this library are in words already."""
    if str(error) == error.strerror or error.errno is None or error.strerror is None:
        return str(error)
    place = error.filename2 or error.filename
    what = "the system must let files be read and written" + (f", but not {place}" if place else "")
    return (
        f"{what}: {error.strerror}. Check the name, the rights and the space of the disk, or name"
        " another place."
    )


def _fail(message: str, code: int, args: list[str]) -> None:
    message = " ".join(message.split())
    if "--json" in args:
        typer.echo(_json_line({"error": message}))
    else:
        typer.echo(f"error: {message}", err=True)
    sys.exit(code)


def _tell_fault(error: Exception, args: list[str]) -> None:
    """Say under the traceback that it is not of the user's making; with --json, on stdout."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    message = (
        f"{reason}. This is a fault of skipguide or of a library, not of the command: report it"
        " with the lines above and the output of `skipguide doctor`. Files that were finished stay."
    )
    if "--json" in args:
        typer.echo(_json_line({"error": message}))
    error.add_note(f"error: {message}")


# What libraries say on stderr of themselves, by logger; nothing that a user can act on.
_NOTICES = {
    # Both ways of reading images give the same, and nothing here asks for torchvision.
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back",
    # The annotations of some pipelines are narrower than their own checkpoints.
    "diffusers.pipelines.pipeline_utils": "Expected types for",
    "diffusers.guiders.guider_utils": "Guiders are currently an experimental feature",
    # Kernels that are not for this machine; whether a library works is tried on a layer.
    "torchao": "Failed to load",
    "torchao.kernel.intmm": "Detected no triton",
    "torch.utils._pytree": "is an Enum subclass",
    "bitsandbytes.backends.cpu.ops": "from kernels-community",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor",
}


def hide_library_notices() -> None:
    """Keep notices of libraries off stderr that no user can act on."""
    for logger, notice in _NOTICES.items():
        logging.getLogger(logger).addFilter(lambda record, n=notice: n not in str(record.msg))


def print_result(text: str, payload: ReadOnlyData, as_json: bool) -> None:
    """Print the result of a verb to stdout: lines for people, or one JSON object."""
    typer.echo(_json_line(payload) if as_json else text)


def _json_line(payload: ReadOnlyData) -> str:
    """Return JSON that stdout can write, whatever its encoding."""
    return dump_json(payload) if is_unicode(sys.stdout) else json.dumps(payload)


@contextlib.contextmanager
def progress(title: str) -> Iterator[StepCallback | None]:
    """Show a progress bar on stderr; yields a function to call after each step.

    Yields None if stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, state="starting")

        def on_step(step: StepProgress) -> None:
            bar.update(task, total=step.steps, completed=step.number, state=_step_text(step))

        yield on_step


def _step_text(step: StepProgress) -> str:
    passes = f"step {step.number}/{step.steps}, {step.passes_per_step:.2f} passes per step"
    return (
        f"{passes}, {step.seconds_left:.0f} s left"
        if step.number < step.steps
        else f"{passes}, decoding"
    )


@dataclass
class ClipCounter:
    """A bar over many videos on a terminal, else lines, both on stderr; reports derive from it."""

    quiet: bool  # nothing but the result
    bar: Progress | None = field(default=None, init=False)
    began: float = field(default_factory=time.monotonic, init=False)

    @contextlib.contextmanager
    def display(self, title: str, total: int | None = None, keep: bool = False) -> Iterator[None]:
        """Show the bar during the block if stderr is a terminal.

        Args:
            total: of videos; None if it is not known yet.
            keep: leave the bar there at the end.
        """
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=not keep) as self.bar:
            self.bar.add_task(title, total=total, state="")
            yield
        self.bar = None

    def print_line(self, text: str) -> None:
        """Print a line above the bar, or on stderr."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            typer.echo(text, err=True)

    def update(self, **shown: Any) -> None:
        """Show something else in the bar, if there is one."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], **shown)


@contextlib.contextmanager
def training_progress() -> Iterator[Callable[[str, TrainingProgress], None]]:
    """Show a progress bar on stderr for each stage of a training.

    If stderr is not a terminal, it prints a line every 50 steps.
    """
    if not sys.stderr.isatty():
        yield _training_line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True)
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, progress: TrainingProgress) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=progress.steps, state="")
            bar.update(tasks[stage], completed=progress.step, state=_metrics_text(progress))

        yield report


def _training_line(stage: str, progress: TrainingProgress) -> None:
    if progress.step % 50 == 0 or progress.step in (1, progress.steps):
        text = (
            f"{stage} {progress.step}/{progress.steps} {_metrics_text(progress)}"
            f" {progress.seconds:.0f} s"
        )
        print(text, file=sys.stderr, flush=True)


def _metrics_text(progress: TrainingProgress) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in progress.metrics.items())

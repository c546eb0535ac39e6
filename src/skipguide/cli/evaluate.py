"""skipguide evaluate: measure videos, with intervals, counts, and what was left out."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console, evaluate_text
from skipguide.cli.families import print_lines
from skipguide.cli.options import Json, Overwrite, check_outputs, check_suffix, parse_folder
from skipguide.cli.track import Track, tracking_lines

if TYPE_CHECKING:
    from skipguide.metrics.results import Result
    from skipguide.metrics.selection import Options
    from skipguide.runs.tracking import Tracking

TitledResults = Iterator[tuple[str, "Result"]]
_LEDGER = "ledger.sqlite"  # a folder with this file is a run
_EXPORT = "export for VBench"  # stands in place of a metric
_NO_MP4 = "only .mp4 files are exported, because VBench assumes that all files are of one kind"


def evaluate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|RUN",
            help="Videos, frame folders, pictures, or a run; with --merge results.",
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Real videos, for the metrics that compare.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="As fvd:judge,vendi; `skipguide metrics` lists them.",
            show_default="all that can run",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="Extractor of the set metrics named without one.",
            show_default="the usual one of each",
        ),
    ] = "",
    weights: Annotated[Path | None, typer.Option(help="Folder of the networks' weights.")] = None,
    non_commercial: Annotated[
        bool,
        typer.Option(
            "--non-commercial", help="Also use weights whose licence forbids commercial use."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Clips at a time through an extractor.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    fps: Annotated[
        float | None, typer.Option(help="Of frame folders.", show_default="unknown")
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures", help="Each image file is a picture by itself, not a frame of a video."
        ),
    ] = False,
    part: Annotated[
        str, typer.Option(help="As 2/8, the second of eight workers; --merge joins their results.")
    ] = "1/1",
    merge: Annotated[
        bool, typer.Option("--merge", help="Join results of parts, written with --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write results.json, with features.")
    ] = None,
    vbench_results: Annotated[
        Path | None, typer.Option(help="Results of VBench's own scorer, to show beside ours.")
    ] = None,
    vbench_export: Annotated[
        Path | None,
        typer.Option(
            help="New folder for the videos as VBench names them, to run its scorer on.",
            parser=parse_folder,
            metavar="PATH",
        ),
    ] = None,
    overwrite: Overwrite = False,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Measure the videos or pictures of a folder or of a run.

    As a set, against a reference, and each video by itself. Prints one table with 95 % intervals;
    what was skipped, and why; what was not run, with the command that runs it; and the licences of
    the networks. For a run, each setting is a row, and the numbers are stored in the run, where
    `skipguide runs compare` finds them.
    """
    from skipguide.metrics import vbench_files
    from skipguide.metrics.selection import Options

    options = Options(
        features, weights, non_commercial, batch_size, device, fps, pictures, _parse_part(part)
    )
    names = [name for text in metrics or [] for name in text.split(",") if name]
    theirs = {} if vbench_results is None else vbench_files.read_results(vbench_results)[0]
    problems: list[str] = []
    tracking = _open_tracking(sources[0], track, problems)
    results = (
        _merge_results(sources)
        if merge
        else _evaluate_folder(_single_source(sources), reference, names, options, out, problems)
    )
    results = _save_each(results, out, overwrite, problems)
    if vbench_export is not None:
        _check_export(sources[0], merge, options.part)
        results = _export_each(results, _single_source(sources), vbench_export, problems)
    if tracking is not None:
        results = _track_after(results, tracking, as_json)
    found: list[tuple[str, Result]] = []
    measured = Path("VIDEOS") if merge else sources[0]  # results do not say where videos are
    command = evaluate_text.Command(
        measured, reference, features, weights, non_commercial, device, pictures
    )
    try:
        for one in results:
            found.append(one)
    finally:  # what was measured before an error is shown too
        if not as_json and found:
            print_lines(list(evaluate_text.result_lines(found, theirs, command)))
    if as_json:
        payloads = [
            {"setting": title, **result.payload(), "vbench": theirs} for title, result in found
        ]
        console.print_result(
            "", payloads[0] if len(payloads) == 1 else {"settings": payloads}, as_json
        )
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(2)


def _open_tracking(
    source: Path, trackers: Sequence[str] | None, problems: list[str]
) -> Tracking | None:
    """Connect to trackers before anything is measured; what fails later is told at the end."""
    if not trackers:
        return None
    if not (source / _LEDGER).is_file():
        raise ValueError(
            f"--track must have a run, whose settings and clips are logged, but {source} is none."
            " Name a run, or leave it out."
        )
    from skipguide.runs.tracking import Tracking, parse_targets

    return Tracking(source, parse_targets(trackers), problems.append)


def _track_after(results: TitledResults, tracking: Tracking, quiet: bool) -> TitledResults:
    with tracking:
        yield from results
        tracking.update()
    for line in [] if quiet else tracking_lines(tracking):
        typer.echo(line, err=True)


def _parse_part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ValueError(f"--part must be written as 2/8, but got {text!r}. Count parts from 1.")
    return int(found[1]), int(found[2])


def _single_source(sources: Sequence[Path]) -> Path:
    if len(sources) > 1:
        raise ValueError(
            f"evaluate measures one folder of videos at a time, but got {len(sources)}. Leave the"
            " others out."
        )
    return sources[0]


# --- measuring ------------------------------------------------------------------------------------


def _merge_results(sources: Sequence[Path]) -> TitledResults:
    from skipguide.metrics import results

    yield "", results.merge([results.load(path) for path in sources])


def _evaluate_folder(
    folder: Path,
    reference: Path | None,
    metrics: Sequence[str],
    options: Options,
    out: Path | None,
    problems: list[str],
) -> TitledResults:
    from skipguide.metrics import evaluation

    def keep(result: Result) -> None:
        if out is not None:
            _keep_partial(result, out)

    given = (reference, metrics, options)
    _check_device(options.device)
    with _progress() as note:
        if not (folder / _LEDGER).is_file():
            yield "", evaluation.evaluate(folder, *given, note, keep)
            return
        from skipguide.runs import Run

        with Run.open(folder, writable=True) as run:
            for setting, result in evaluation.evaluate_run(run, *given, note, keep):
                title = f"{setting.model} {setting.name}"
                with _later(problems, f"the numbers of {title} cannot be kept in {folder}"):
                    evaluation.record_result(run, setting, result)
                yield title, result


def _keep_partial(result: Result, out: Path) -> None:
    """Save what was read before the evaluation ended early, and say so."""
    path = out.with_stem(f"{out.stem}.partial")
    count = sum(map(len, result.readings.sizes.values()))
    result.save(path)
    typer.echo(
        f"the numbers of the {count} {result.readings.noun}s read so far are in {path}.", err=True
    )


@contextlib.contextmanager
def _later(
    problems: list[str], what: str, instead: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Keep an error of the work after measuring for the end, when the numbers have been shown."""
    try:
        yield
    except (OSError, ValueError, sqlite3.Error, MemoryError) as error:
        problems.append(f"{what} ({error}).{instead()}")


def _check_device(device: str) -> None:
    if device != "cpu":
        from skipguide.models.loading import check_device

        check_device(device)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """Show on stderr the number and name of the video that is being read.

    Yields None if stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def note(name: str) -> None:
            bar.advance(task)
            bar.update(task, description=f"{bar.tasks[0].completed:.0f} read, now {name}")

        yield note


def _save_each(
    results: TitledResults, out: Path | None, overwrite: bool, problems: list[str]
) -> TitledResults:
    """Save each result as it comes.

    File names are checked before anything is measured, if they are known. A result that cannot be
    saved there afterwards is saved in a temporary folder.
    """
    from skipguide.metrics.results import vectors_path

    def check(path: Path) -> None:
        check_outputs([path, vectors_path(path)], overwrite)

    if out is not None:
        check(check_suffix(out, ".json"))
    written: set[Path] = set()
    for title, result in results:
        if out is not None:
            name = re.sub(r"[^\w.]+", "-", title)
            path = out.with_stem(f"{out.stem}-{name}") if title else out
            if path in written:  # two titles that differ only in punctuation
                path = path.with_stem(f"{path.stem}-{len(written)}")
            written.add(path)
            what = f"the result cannot be saved as {path}"
            with _later(problems, what, lambda path=path, result=result: _rescue(result, path)):
                check(path)
                result.save(path)
        yield title, result


def _rescue(result: Result, path: Path) -> str:
    """Save a result in a temporary folder, and say where."""
    try:
        instead = Path(tempfile.mkdtemp(prefix="skipguide-")) / path.name
        result.save(instead)
    except OSError:
        return " Its numbers are printed only."
    return f" It is saved as {instead}."


def _export_each(
    results: TitledResults, folder: Path, target: Path, problems: list[str]
) -> TitledResults:
    """Export the videos and our values in VBench's layout.

    It is written after everything is measured, so that nothing is left over if something is
    refused; names are checked before.
    """
    from skipguide.metrics import inputs
    from skipguide.metrics import vbench_files as files
    from skipguide.metrics.inputs import SkippedVideo

    paths = {
        source.name: folder / source.name
        for source in inputs.find_videos(folder)
        if not source.problem
    }
    fitting = files.group_by_prompt(
        [path for path in paths.values() if path.is_file() and path.suffix.lower() == ".mp4"]
    )
    files.check_export(fitting, target)
    for title, result in results:
        read = result.readings.sizes.get("generated", {})
        kept = {
            text: [path for path in own if path.relative_to(folder).as_posix() in read]
            for text, own in fitting.items()
        }
        names: dict[str, str] = {}
        with _later(problems, f"the videos cannot be exported to {target}"):
            places = files.export({text: own for text, own in kept.items() if own}, target)
            names = {
                path.relative_to(folder).as_posix(): place.as_posix()
                for path, place in places.items()
            }
            values = result.readings.values.items()
            files.write_results(
                target / files.RESULTS,
                {
                    metric: {names[name]: value for name, value in rows.items() if name in names}
                    for metric, rows in values
                },
            )
        # Videos that could not be read are already listed.
        without = [
            SkippedVideo(name, "generated", _EXPORT, _NO_MP4)
            for name in paths
            if name in read and name not in names
        ]
        yield title, dataclasses.replace(result, skipped=(*result.skipped, *without))


def _check_export(source: Path, merge: bool, part: tuple[int, int]) -> None:
    """Check before anything is measured that an export is possible."""
    if merge or not source.is_dir() or (source / _LEDGER).is_file():
        kind = "a result" if merge else "a run" if source.is_dir() else "not a folder"
        raise ValueError(
            f"--vbench-export needs a folder of videos, but {source} is {kind}. Pass a folder with"
            " videos only."
        )
    if part != (1, 1):
        raise ValueError(
            f"--vbench-export needs all videos, but got --part {part[0]}/{part[1]}. Leave it out."
        )

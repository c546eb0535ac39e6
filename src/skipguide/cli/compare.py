"""skipguide compare: CFG alone and guided videos or pictures from the same noise, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import (
    batch_run,
    clip_files,
    compare_files,
    console,
    generate_many,
    names,
    options,
)
from skipguide.cli.batch import FirstFrames, Item, build_items, check_early, is_batch, refuse_others
from skipguide.cli.batch_run import Outcome
from skipguide.cli.compare_files import Column, ComparisonColumn
from skipguide.cli.options import Config, Json, Overwrite
from skipguide.cli.prompt_options import PromptFile, Seeds
from skipguide.cli.result_lines import format_several
from skipguide.generate.settings import uses_guidance
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.cli.batch_run import State
    from skipguide.files.video import Frames
    from skipguide.generate.record import GenerationResult
    from skipguide.generate.run import StepCallback
    from skipguide.method.protocols import Pipeline

# Of the words that a judge reads, those that the table has, as they are said.
_READ = ("size", "colour", "shape", "motion", "background_kind", "background_colour")
Reader = Callable[["Frames"], "dict[str, str] | None"]
_NO_READING = (
    "The judge reads colour, shape and motion in videos of the built-in models, and of models that"
    " `skipguide lab train` made. It knows no others: `skipguide evaluate` measures those, and in"
    " `skipguide studio` people judge them."
)


@options.accept_settings
def compare(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", show_default=False)
    ] = None,
    prompt_file: PromptFile = None,
    seeds: Seeds = None,
    out_dir: Annotated[
        Path,
        typer.Option(
            "--out-dir",
            help="The folder for all files.",
            parser=options.parse_folder,
            metavar="PATH",
        ),
    ] = Path("compare"),
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    given: PlainData,
) -> None:
    """Make CFG and CFG + STG side by side.

    Both start from the same noise. Per prompt: an mp4 of the two, a PNG strip of their frames, and
    each video by itself in a folder of its method; the folder is a run, for the studio and
    `skipguide evaluate`. Of a model that makes pictures, a PNG has them side by side. With a
    spatial and a temporal scale there are three: CFG, CFG + spatial STG, CFG + both. A rule for CFG
    and restarts are in all but the first one."""
    file = options.read_config(config)
    texts = list(dict.fromkeys(prompts or [None]))
    items, note = build_items(file, given, texts, prompt_file, seeds)
    _check_guidance(items)
    several = is_batch(prompt_file, seeds)
    targets = generate_many.choose_targets(items, out_dir)
    _check_outputs(targets, overwrite, several)
    job = _Comparison(items, targets, overwrite, several)
    job.load(note)
    outcomes = job.run(quiet=as_json)
    compare_files.collect(out_dir, job.finished(outcomes), job.weights)
    sheet = compare_files.write_grid(out_dir, job.finished(outcomes)) if several else None
    _print_comparison(job, outcomes, as_json, [] if sheet is None else [sheet])
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _check_guidance(items: Sequence[Item]) -> None:
    """Check that there is something to compare CFG with.

    Raises:
        ValueError: if there is not.
    """
    without = next((item for item in items if not uses_guidance(item.settings)), None)
    if without is None:
        return
    file = without.settings.preset
    if file is not None and file.is_cfg_alone:
        from skipguide.generate.preset_given import describe_cfg_alone

        raise ValueError(f"compare needs guidance beside CFG, but {describe_cfg_alone(file)}")
    raise ValueError(
        "compare needs guidance beside CFG, but got a scale of 0: all would be the same."
        " Leave the scale out."
    )


def _check_outputs(targets: Sequence[Path], overwrite: bool, several: bool) -> None:
    """Check that all files can be written, before anything is loaded."""
    from skipguide.files import clips

    for target in targets:
        beside = clips.sidecar_path(target)
        if several and not target.exists() and compare_files.is_left_over(beside):
            options.check_outputs([target], overwrite)  # its video was removed: it is made again
            continue
        known = several and target.is_file() and names.read_record(target) is not None
        files = [target, beside, *compare_files.files_beside(target)]
        options.check_outputs(files, overwrite or known)


@dataclass
class _Comparison:
    """The videos of one command, with the model that makes them."""

    items: list[Item]
    targets: list[Path]
    overwrite: bool
    several: bool  # those of --prompts and --seeds: one that fails does not end the rest
    pipe: Any = None
    weights: dict[str, str] = field(default_factory=dict)
    read: Reader = lambda frames: None
    plans: dict[Path, list[Column]] = field(default_factory=dict)
    refused: dict[Path, ValueError] = field(default_factory=dict)
    made: dict[Path, list[ComparisonColumn]] = field(default_factory=dict)

    def load(self, note: str | None) -> None:
        """Load the model, fill in all settings, and find what is there already.

        Raises:
            ValueError: for files in the way, and for what the model refuses.
        """
        self.pictures = FirstFrames(self.items)
        from skipguide.models import loading, telling
        from skipguide.runs import prompt_cache

        if note is not None:
            telling.tell(note)
        settings = self.items[0].settings
        check_early(self.items, self.pictures, every=not self.several)
        with loading.hash_meanwhile(settings):
            self.pipe = loading.load(settings)
            self.weights = loading.weights_fingerprint(settings, self.pipe)
        prompt_cache.encode_once(self.pipe)  # columns and seeds of a prompt follow each other
        self.read = _judge_reader(self.pipe)
        self._plan()
        self._find_made()

    def _plan(self) -> None:
        from skipguide.generate.resolve import resolve_settings

        complete = generate_many.resolve_all(self.items, self.pipe)
        for item, target in zip(self.items, self.targets, strict=True):
            own = complete[id(item)]
            if isinstance(own, ValueError):
                if not self.several:
                    raise own
                self.refused[target] = own
                continue
            clip_files.check_made(own, target)
            base = resolve_settings(item.without_row or item.settings, self.pipe)
            self.plans[target] = compare_files.plan_columns(own, base, target)

    def _find_made(self) -> None:
        different = []
        for item, target in zip(self.items, self.targets, strict=True):
            if self.overwrite or target not in self.plans:
                continue
            image = self.pictures.read(item)
            plans = self.plans[target]
            there, changes = compare_files.find_made(target, plans, self.weights, image)
            if there:
                self.made[target] = there
            elif changes:
                different.append((target, changes))
        refuse_others(different, len(self.targets))
        for item, target in zip(self.items, self.targets, strict=True):
            if target in self.made or target not in self.plans or target.is_file():
                continue
            image = self.pictures.read(item)
            for plan in self.plans[target]:
                same = self.several and compare_files.is_same(plan, self.weights, image)
                options.check_outputs([plan.clip], self.overwrite or same)

    def run(self, quiet: bool) -> list[Outcome]:
        """Make all that is not there."""
        if self.several:
            return batch_run.run_all(self.items, self.targets, self._make, quiet)
        from skipguide.files import clips

        found = []
        for number, (item, target) in enumerate(zip(self.items, self.targets, strict=True), 1):
            title = f"{clips.noun([target])} {number}/{len(self.items)}"
            state, _ = self._make(item, target, None, title)
            found.append(Outcome(item, target, state))
        return found

    def _make(
        self, item: Item, target: Path, on_step: StepCallback | None, title: str = ""
    ) -> tuple[State, PlainData]:
        if target in self.refused:
            raise self.refused[target]
        if target in self.made:
            return "there", {}
        columns, results = [], []
        for plan in self.plans[target]:
            progress: AbstractContextManager[StepCallback | None] = (
                contextlib.nullcontext(on_step)
                if self.several
                else console.progress(f"{title}, {plan.method}")
            )
            with progress as callback:
                column, own = self._make_column(item, plan, callback)
            columns.append(column)
            results.append(own)
        compare_files.write(target, item, columns, results)
        self.made[target] = columns
        return "made", {}

    def _make_column(
        self, item: Item, plan: Column, on_step: StepCallback | None
    ) -> tuple[ComparisonColumn, GenerationResult]:
        from skipguide.generate import record
        from skipguide.generate import run as generation

        result = generation.generate(self.pipe, plan.settings, on_step, self.pictures.read(item))
        made = record.build_record(plan.settings, result, self.weights)
        shared = made.pop("image", None)
        read = self.read(result.frames)
        return ComparisonColumn(plan.method, made, shared, read, plan.clip), result

    def finished(
        self, outcomes: Sequence[Outcome]
    ) -> list[tuple[Item, list[Column], list[ComparisonColumn]]]:
        """Return the comparisons whose files are all there."""
        return [
            (outcome.item, self.plans[outcome.target], self.made[outcome.target])
            for outcome in outcomes
            if outcome.state != "failed"
        ]


def _judge_reader(pipe: Pipeline) -> Reader:
    """Load the judge for models of the lab, its own and those that a user trained with it."""
    from skipguide.lab import readers

    reader = readers.reader_of(pipe)
    if reader is None:
        return lambda frames: None
    reader.load()  # now, so that a missing file shows before the work is done
    return reader.read


# --- what it says ---------------------------------------------------------------------------------


def _print_comparison(
    job: _Comparison, outcomes: Sequence[Outcome], as_json: bool, sheets: Sequence[Path]
) -> None:
    finished = job.finished(outcomes)
    runs = [column for _, _, columns in finished for column in columns]
    targets = [outcome.target for outcome in outcomes if outcome.state != "failed"]
    files = [
        str(path) for target in targets for path in (target, *compare_files.files_beside(target))
    ]
    files += map(str, sheets)
    notes = [] if any(run.judge for run in runs) else [_NO_READING]
    if as_json:
        payload = {
            "runs": [{**run.row(), "clip": str(run.clip), "record": run.record} for run in runs],
            "files": files,
            **({"notes": notes} if notes else {}),
        }
        if job.several:
            payload["videos"] = [batch_run.outcome_payload(outcome) for outcome in outcomes]
        console.print_result("", payload, as_json)
        return
    if runs:
        _print_table(runs)
    lines = format_several([run.record for run in runs])
    typer.echo("\n".join([*lines, *notes, *files]))
    if job.several:
        typer.echo(batch_run.describe_outcomes(outcomes, "comparison"))


def _print_table(runs: Sequence[ComparisonColumn]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    judged = any(run.judge for run in runs)
    kind = "image" if runs[0].record["settings"]["prompt"] is None else "prompt"
    seeds = len({run.record["settings"]["seed"] for run in runs}) > 1  # else rows look the same
    table = Table(
        kind, *["seed"] * seeds, "method", "passes/step", "s/step", *["judge reads"] * judged
    )
    for run in runs:
        row = run.row()
        numbers = (f"{row['passes_per_step']:.2f}", f"{row['seconds_per_step']:.2f}")
        seed = [str(run.record["settings"]["seed"])] * seeds
        table.add_row(Text(run.title()), *seed, Text(row["method"]), *numbers, *_reading(run))
    Console().print(table)


def _reading(column: ComparisonColumn) -> list[str]:
    """Return the cell with what the judge read; none where it read nothing."""
    words = column.judge
    return [] if words is None else [" ".join(words[name] for name in _READ if name in words)]

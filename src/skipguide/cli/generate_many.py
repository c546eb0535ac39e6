"""skipguide generate --prompts or --seeds: a folder of videos, with the pipeline loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from skipguide.cli import batch, batch_run, clip_files, console, names, options
from skipguide.cli.batch import FirstFrames, Item
from skipguide.cli.result_lines import format_costs, format_several
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.cli.batch_run import State
    from skipguide.generate.run import StepCallback
    from skipguide.method.protocols import Pipeline


def choose_folder(out: Path | None, out_dir: Path | None, prompts: Path | None) -> Path:
    """Return the folder of the videos: as named, or else after the file of prompts.

    Raises:
        ValueError: if --out names a video.
    """
    if out is not None and clip_files.is_clip_name(out):
        raise ValueError(
            f"--out must be a folder where there are many videos, but got {out}. Name a folder."
        )
    if out is not None and out_dir is not None:
        raise ValueError(
            f"--out and --out-dir mean the same folder here, but got {out} and {out_dir}. Leave"
            " one of them out."
        )
    return out_dir or out or (Path(f"{prompts.stem}-videos") if prompts else Path())


def generate_many(
    items: Sequence[Item], folder: Path, overwrite: bool, as_json: bool, note: str | None
) -> None:
    """Make a video for each item, and print what became of them.

    Args:
        note: what the file of prompts decides.

    Raises:
        ValueError: for files that are in the way, pictures that cannot be read, or a model that
            refuses all of it; nothing is made then.
        typer.Exit: with 1 if a video failed.
    """
    targets = choose_targets(items, folder)
    check_targets(targets, overwrite)
    pictures = FirstFrames(items)
    from skipguide.models import loading, telling
    from skipguide.runs import prompt_cache

    if note is not None:
        telling.tell(note)
    batch.check_early(items, pictures)
    with loading.hash_meanwhile(items[0].settings):
        pipe = loading.load(items[0].settings)
        weights = loading.weights_fingerprint(items[0].settings, pipe)
    prompt_cache.encode_once(pipe)  # the seeds of a prompt follow each other
    complete = resolve_all(items, pipe)
    there = _find_made(items, targets, complete, weights, pictures, overwrite)

    def make(item: Item, target: Path, on_step: StepCallback) -> tuple[State, PlainData]:
        if target in there:
            return "there", video_payload(target, there[target])
        return "made", _make_one(pipe, item, _or_raise(complete, item), weights, pictures, target,
                                 on_step)  # fmt: skip

    from skipguide.files import clips

    outcomes = batch_run.run_all(items, targets, make, as_json)
    payload = {
        "folder": str(folder),
        "videos": [batch_run.outcome_payload(outcome) for outcome in outcomes],
    }
    said = batch_run.describe_outcomes(outcomes, clips.noun(targets), f" in {folder}")
    records = [outcome.payload["record"] for outcome in outcomes if outcome.state == "made"]
    lines = [said, *format_costs(records), *format_several(records)]
    console.print_result("\n".join(lines), payload, as_json)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def choose_targets(items: Sequence[Item], folder: Path) -> list[Path]:
    """Return the file of each item in a folder."""
    from skipguide.generate import preflight

    makes = preflight.find_makes(items[0].settings)
    suffixes = [clip_files.choose_suffix(item.settings, makes) for item in items]
    found = names.choose_names(
        [item.subject for item in items], folder, tuple(dict.fromkeys(suffixes))
    )
    return [folder / f"{name}{suffix}" for name, suffix in zip(found, suffixes, strict=True)]


def check_targets(targets: Sequence[Path], overwrite: bool) -> None:
    """Check that videos can be written, before anything is loaded.

    Videos with a record may be what would be made again, which only the model can tell.

    Raises:
        ValueError: if a file is in the way, or the folder cannot be written.
    """
    for target in targets:
        known = target.is_file() and names.read_record(target) is not None
        if target.is_file() and not known and not overwrite:
            raise ValueError(
                f"the output must be a new file, but {target} exists. It is no whole video with a"
                f" record: remove {target.name} to have it made again, or pass --overwrite to have"
                " all of them made again."
            )
        options.check_outputs([target], overwrite or known)


def resolve_all(
    items: Sequence[Item], pipe: Pipeline
) -> dict[int, GenerationSettings | ValueError]:
    """Return the complete settings of each item by its id, or why the model refuses them.

    Raises:
        ValueError: if it refuses all of them.
    """
    from skipguide.generate import notes
    from skipguide.generate.resolve import resolve_settings
    from skipguide.models import telling

    found: dict[int, GenerationSettings | ValueError] = {}
    for item in items:
        try:
            found[id(item)] = complete = resolve_settings(item.settings, pipe)
            for note in notes.unused_notes(item.settings, complete):
                telling.tell(note)
        except ValueError as error:
            found[id(item)] = error
    refused = [entry for entry in found.values() if isinstance(entry, ValueError)]
    if len(refused) == len(found):
        raise refused[0]
    return found


def _or_raise(
    complete: dict[int, GenerationSettings | ValueError], item: Item
) -> GenerationSettings:
    found = complete[id(item)]
    if isinstance(found, ValueError):
        raise found
    return found


def _find_made(
    items: Sequence[Item],
    targets: Sequence[Path],
    complete: dict[int, GenerationSettings | ValueError],
    weights: dict[str, str],
    pictures: FirstFrames,
    overwrite: bool,
) -> dict[Path, PlainData]:
    """Return the records of the videos that are there and would be made the same.

    Raises:
        ValueError: if others are in the way.
    """
    there: dict[Path, PlainData] = {}
    different: list[tuple[Path, Sequence[str]]] = []
    for item, target in zip(items, targets, strict=True):
        settings = complete[id(item)]
        if overwrite or isinstance(settings, ValueError) or not target.is_file():
            continue
        record = names.read_record(target)
        changes = batch.same_as_made(record, settings, weights, pictures.read(item))
        if changes or record is None:
            different.append((target, changes))
        else:
            there[target] = record
    batch.refuse_others(different, len(targets))
    return there


def _make_one(
    pipe: Pipeline,
    item: Item,
    settings: GenerationSettings,
    weights: dict[str, str],
    pictures: FirstFrames,
    target: Path,
    on_step: StepCallback,
) -> PlainData:
    from skipguide.files import clips
    from skipguide.generate import record, run

    clip_files.check_made(settings, target)
    result = run.generate(pipe, settings, on_step, pictures.read(item))
    made = record.build_record(settings, result, weights)
    if item.tags:
        made["tags"] = item.tags
    clips.write(target, result.frames, made["settings"]["fps"], made, result.sounds)
    return video_payload(target, made)


def video_payload(target: Path, made: PlainData) -> PlainData:
    """Return what --json says of a video and its record."""
    from skipguide.files import clips

    return {
        "video": str(target),
        "sidecar": str(clips.sidecar_path(target)),
        **made["measured"],
        "record": made,
    }

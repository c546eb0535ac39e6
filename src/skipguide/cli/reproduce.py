"""skipguide reproduce: make videos again from their record, and say whether they came out the
same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.cli import compare_files, console
from skipguide.cli.moved import check_places, lora_changes, move
from skipguide.cli.options import Json, Overwrite, check_outputs, check_suffix
from skipguide.generate.describe import describe_method
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    from skipguide.files.video import Frames
    from skipguide.generate.record import GenerationResult


def reproduce(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEO",
            help="An mp4, PNG or WebP that skipguide generate, compare or sweep wrote.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the new video there.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Of a comparison: only videos of this method, as 'CFG 4.5', cfg-4.5, STG, or 2"
            " for the second.",
            show_default="all",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if it has moved.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Where that of a single file is now.")
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option("--component", metavar="NAME=PATH", help="Where a component is now."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="PATH", help="Where a LoRA is now, once per LoRA."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to run, if not as recorded.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a video or picture again from its record.

    Says whether it came out bit-equal (the frames before encoding, and the sound, if it has one):
    exit code 0 if so, 1 if not. Of a comparison all videos are made again, and it says so of each.
    """
    from skipguide.files import clips

    then = clips.read_record(source)
    given = {"model": model, "base_model": base_model, "component": component, "lora": lora,
             "device": device}  # fmt: skip
    moved = {name: value for name, value in given.items() if value}
    several = "runs" in then
    recorded = _recorded_runs(then, source, moved)
    if several:
        recorded = _choose(recorded, only)
    elif only is not None:
        raise ValueError(
            f"--only is for comparisons, but {source} is a single video. Leave --only out."
        )
    if out is not None:
        suffixes = (".mp4",) if not clips.is_picture(source) else tuple(clips.SUFFIXES[1:])
        check_outputs([check_suffix(out, *suffixes), clips.sidecar_path(out)], overwrite)
    made = list(_make_again(recorded, source, moved))
    results = [_result(run, result.frames, now, source, len(then.get("runs", "1")))
               for run, result, now in made]  # fmt: skip
    if out is not None:
        _write(out, recorded, [(result, now) for _, result, now in made])
    written = None if out is None else str(out)
    if several:
        payload = {"bit_equal": all(r["bit_equal"] for r in results), "out": written,
                   "runs": results}  # fmt: skip
        said = "\n".join(f"{result['method']}: {_verdict(result)}" for result in results)
    else:
        payload = {name: results[0][name] for name in ("bit_equal", "changed", "difference")}
        payload |= {"out": written, "record": results[0]["record"]}
        said = _verdict(payload)
    console.print_result(said, payload, as_json)
    if not payload["bit_equal"]:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Recorded:
    """One video of a record."""

    place: int  # among the videos of a comparison
    method: str
    record: PlainData
    settings: GenerationSettings


def _recorded_runs(then: ReadOnlyData, source: Path, moved: ReadOnlyData) -> list[_Recorded]:
    """Return the videos in a record, one or those of a comparison.

    Raises:
        ValueError: if it is neither.
    """
    from skipguide.generate import record
    from skipguide.generate.record import upgrade_settings

    shared = {"image": then["image"]} if "image" in then else {}
    runs = [{**run, **shared} for run in then["runs"]] if "runs" in then else [dict(then)]
    found = []
    for place, run in enumerate(runs):
        settings = record.settings_from_record(run, source)
        complete = validate_settings(upgrade_settings(run["settings"])) if len(runs) > 1 else None
        method = describe_method(complete) if complete else ""
        found.append(_Recorded(place, method, run, move(settings, moved)))
    return found


def _choose(recorded: Sequence[_Recorded], only: str | None) -> list[_Recorded]:
    """Return the videos of a method: by its number, its whole name, or a part of it.

    Raises:
        ValueError: if there is none.
    """
    if only is None:
        return list(recorded)
    wanted = only.strip().casefold()
    ways = (
        lambda run: wanted == str(run.place + 1),
        lambda run: wanted in (run.method.casefold(), compare_files.folder_name(run.method)),
        lambda run: wanted and wanted in run.method.casefold(),
    )
    for way in ways:
        if found := [run for run in recorded if way(run)]:
            return found
    methods = [run.method for run in recorded]
    raise ValueError(
        f"--only must be one of {', '.join(methods)}, but got {only!r}."
        f" {validate.did_you_mean(only, methods)}"
    )


def _make_again(
    recorded: Sequence[_Recorded], source: Path, moved: ReadOnlyData
) -> Iterator[tuple[_Recorded, GenerationResult, PlainData]]:
    """Yield each video, made anew, with its record; the model is loaded once where it can be."""
    from skipguide.files import image as image_file
    from skipguide.generate import record, run
    from skipguide.generate.resolve import resolve_settings
    from skipguide.models import loading, telling

    for entry in recorded:
        # What was named now may be of the hub, whatever was recorded.
        now_named = {"model", "base_model"} & set(moved)
        check_places(entry.settings, None if now_named else entry.record.get("weights"))
    images = [
        image_file.decode_from_record(entry.record.get("image"), source)
        if entry.settings.image
        else None
        for entry in recorded
    ]
    loaded: Any = None
    pipe: Any = None
    for entry, image in zip(recorded, images, strict=True):
        revision = (
            None
            if {"model", "base_model"} & set(moved)
            else entry.record.get("weights", {}).get("revision")
        )
        with loading.hash_meanwhile(entry.settings):
            if loaded != (entry.settings.load_key(), revision):
                pipe = None  # before the next one takes its memory
                pipe = loading.load(entry.settings, revision)
                loaded = (entry.settings.load_key(), revision)
            settings = resolve_settings(entry.settings, pipe)  # for records edited by hand
            for change in lora_changes(entry.settings, settings):
                telling.tell(change)
            title = f"{entry.method}, denoising" if entry.method else "denoising"
            with _use_recorded_threads(entry.record), console.progress(title) as on_step:
                result = run.generate(pipe, settings, on_step, image)
                weights = loading.weights_fingerprint(settings, pipe)
                now = record.build_record(settings, result, weights)
        if (entry.record.get("preset") or {}).get("file"):  # which is not here, and not needed
            now["preset"] = entry.record["preset"]
        yield entry, result, now


@contextlib.contextmanager
def _use_recorded_threads(then: ReadOnlyData) -> Iterator[None]:
    """Use as many threads as when the video was made: sums are split by threads and round
    differently."""
    import torch

    before = torch.get_num_threads()
    recorded = then.get("machine", {}).get("threads")
    torch.set_num_threads(recorded if isinstance(recorded, int) and recorded > 0 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(
    out: Path, recorded: Sequence[_Recorded], made: Sequence[tuple[GenerationResult, PlainData]]
) -> None:
    """Write one video as such, and several side by side."""
    from skipguide.files import clips, video

    if len(made) == 1:
        result, now = made[0]
        clips.write(out, result.frames, now["settings"]["fps"], now, result.sounds)
        return
    methods, results = [run.method for run in recorded], [result for result, _ in made]
    joined = {name: own.frames for name, own in zip(methods, results, strict=True)}
    records = [now for _, now in made]
    combined = compare_files.combine_records(records)
    fps = records[0]["settings"]["fps"]
    sounds = compare_files.titled_sounds(methods, results)
    clips.write(out, video.place_side_by_side(joined), fps, combined, sounds)


# --- what it says ---------------------------------------------------------------------------------


def _result(run: _Recorded, frames: Frames, now: PlainData, source: Path, count: int) -> PlainData:
    """Return what became of one video.

    Args:
        count: how many videos are side by side in the source.
    """
    from skipguide.generate import record

    same_frames = run.record.get("frames_sha256") == now["frames_sha256"]
    heard = run.record.get("audio")  # videos that older versions made of the model have none
    equal = same_frames and (heard is None or heard["sha256"] == now.get("audio", {}).get("sha256"))
    difference = 0 if same_frames else _largest_difference(frames, source, run.place, count)
    return {
        "method": run.method,
        "bit_equal": equal,
        "changed": record.diff_records(run.record, now),
        "difference": None if equal else difference,
        "record": now,
    }


def _largest_difference(frames: Frames, source: Path, place: int, count: int) -> int | None:
    """Return the largest difference of a pixel, of 255; None if the sizes differ."""
    from skipguide.files import clips, video

    decoded = clips.read(source)[0]
    if count > 1:
        columns = video.split_side_by_side(decoded, count, frames.shape)
        decoded = columns[place] if columns else decoded
    return int(abs(frames.astype(int) - decoded).max()) if frames.shape == decoded.shape else None


def _verdict(result: ReadOnlyData) -> str:
    changed = [f"  {name}: {then} -> {now}" for name, (then, now) in result["changed"].items()]
    if result["bit_equal"]:
        return "\n".join(
            ["bit-equal", *(["changed since, to no effect:", *changed] if changed else [])]
        )
    largest = result["difference"]
    size = f"largest pixel difference {largest} of 255 (encoding loss included)"
    amount = "the frames have another size" if largest is None else size
    amount = "the frames are, but not the sound" if largest == 0 else amount
    reasons = (
        ["changed since:", *changed] if changed else ["nothing that the record knows has changed"]
    )
    return "\n".join([f"not bit-equal: {amount}", *reasons])

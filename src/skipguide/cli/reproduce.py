"""skipguide reproduce: make a video again from its record, and say whether it came out the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, Overwrite, check_outputs, check_suffix
from skipguide.generate.settings import validate_settings
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.files.video import Frames


def reproduce(
    source: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="An mp4 that skipguide generate wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the new video there.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Where the model is now, if it has moved.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to run, if not as recorded.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a video again from its record.

    Says whether it came out bit-equal (the frames before encoding): exit code 0 if so, 1 if not.
    """
    from skipguide.files import image as image_file
    from skipguide.files import video
    from skipguide.generate import loading, record, run
    from skipguide.generate.resolve import resolve_settings

    then = video.read_record(source)
    moved = {
        name: value for name, value in (("model", model), ("device", device)) if value is not None
    }
    settings = validate_settings(
        {**record.settings_from_record(then, source).model_dump(), **moved}
    )
    image = image_file.decode_from_record(then.get("image"), source) if settings.image else None
    if out is not None:
        check_outputs([check_suffix(out, ".mp4"), video.sidecar_path(out)], overwrite)
    revision = None if model else then.get("weights", {}).get("revision")
    with loading.hash_meanwhile(settings):
        pipe = loading.load(settings, revision)
        settings = resolve_settings(settings, pipe)  # for records that were edited by hand
        with _use_recorded_threads(then), console.progress("denoising") as on_step:
            result = run.generate(pipe, settings, on_step, image)
            weights = loading.weights_fingerprint(settings.model, pipe)
            now = record.build_record(settings, result, weights)
    payload = {
        "bit_equal": then.get("frames_sha256") == now["frames_sha256"],
        "changed": record.diff_records(then, now),
        "difference": None,
        "out": None if out is None else str(out),
        "record": now,
    }
    if not payload["bit_equal"]:
        payload["difference"] = _largest_difference(result.frames, video.read(source)[0])
    if out is not None:
        video.write(out, result.frames, now["settings"]["fps"], now)
    console.print_result(_verdict(payload), payload, as_json)
    if not payload["bit_equal"]:
        raise typer.Exit(1)


@contextlib.contextmanager
def _use_recorded_threads(then: PlainData) -> Iterator[None]:
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


def _largest_difference(frames: Frames, decoded: Frames) -> int | None:
    """Return the largest difference of a pixel, of 255; None if the sizes differ."""
    return int(abs(frames.astype(int) - decoded).max()) if frames.shape == decoded.shape else None


def _verdict(payload: PlainData) -> str:
    changed = [f"  {name}: {then} -> {now}" for name, (then, now) in payload["changed"].items()]
    if payload["bit_equal"]:
        return "\n".join(
            ["bit-equal", *(["changed since, to no effect:", *changed] if changed else [])]
        )
    largest = payload["difference"]
    size = f"largest pixel difference {largest} of 255 (encoding loss included)"
    amount = "the frames have another size" if largest is None else size
    reasons = (
        ["changed since:", *changed] if changed else ["nothing that the record knows has changed"]
    )
    return "\n".join([f"not bit-equal: {amount}", *reasons])

"""The record of a generation: everything needed to make the video again, and to say what changed if
it differs.

Format 2 has the guidance as plain data of a GuidanceRequest; format 1 had flags in its place, and
is
still read.

A record names no folder of the machine and no user; a model in a local folder is named as the user
typed it. The image that a video starts from is in it, fitted to the size of the video, with the
name
of its file.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skipguide
from skipguide.files import hash_cache
from skipguide.files import image as image_file
from skipguide.generate.flags import GuidanceFlags, fill_in, read_flags, to_guidance
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.machine import processor_name
from skipguide.models.places import describe_loras

if TYPE_CHECKING:
    from PIL import Image

    from skipguide.files.sound import Sound
    from skipguide.files.video import Frames

RECORD_FORMAT = 2
_LIBRARIES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class GenerationResult:
    """The frames of a generation and what it cost."""

    frames: Frames  # (F, H, W, 3) uint8
    passes_per_step: float  # forward passes of one sample; 2 is plain CFG
    seconds_per_step: (
        float  # mean over all steps but the first, which also pays for the text encoder
    )
    seconds: float  # all of it, decoding included
    image: Image.Image | None = None  # the first frame as the pipeline got it, if it got one
    notes: tuple[str, ...] = ()  # what of the settings the video does not show
    memory: Mapping[str, Any] = field(default_factory=dict)  # as `memory.measure_peak` returns it
    preset: Mapping[str, Any] | None = None  # as `preset_used.find_preset_used` returns it
    has_embedded_scale: bool = False  # as `without_cfg.has_embedded_scale` returns it
    sound: Sound | None = None  # of models that make one

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """The sound, if there is one, as `files.video.write` takes it."""
        return () if self.sound is None else (self.sound,)


def build_record(
    settings: GenerationSettings, result: GenerationResult, weights: Mapping[str, str]
) -> PlainData:
    """Build the record of a finished generation, ready for JSON.

    Args:
        settings: complete, as `resolve_settings` returns them.
        weights: the `weights_fingerprint` of the model.
    """
    return {
        "format": RECORD_FORMAT,
        "settings": settings.model_dump(mode="json"),
        **({"image": image_file.encode_for_record(result.image)} if result.image else {}),
        "frames": list(result.frames.shape),
        "frames_sha256": hashlib.sha256(result.frames.tobytes()).hexdigest(),
        **({"audio": result.sound.describe()} if result.sound else {}),
        "weights": dict(weights),
        "versions": library_versions(),
        "machine": describe_machine(str(settings.device)),
        "measured": {
            "passes_per_step": result.passes_per_step,
            "seconds_per_step": result.seconds_per_step,
            "seconds": result.seconds,
            **result.memory,
        },
        "preset": result.preset and dict(result.preset),
        **({"embedded_guidance": True} if result.has_embedded_scale else {}),
        **({"notes": list(result.notes)} if result.notes else {}),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that computed the frames."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"skipguide": skipguide.__version__, **libraries, "python": platform.python_version()}


def describe_machine(device: str) -> dict[str, str | int]:
    """Return the class of machine: enough to explain other rounding, too little to identify it."""
    import torch

    processor = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()
    )
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


def hash_file(path: Path) -> str:
    """Return the sha256 of the content of a file, read now; weights have `known_sha256`."""
    return hash_cache.read_sha256(path)


def settings_from_record(record: ReadOnlyData, source: Path) -> GenerationSettings:
    """Return the settings in a record.

    Raises:
        ValueError: if it is not the record of one generation, or its format is unknown.
    """
    if "runs" in record:
        raise ValueError(
            f"the record must be that of a single video, but {source} is a comparison of"
            f" {len(record['runs'])}. `skipguide compare` has written each of them beside it, in"
            " the folder of its method."
        )
    if record.get("format") not in (1, RECORD_FORMAT) or not isinstance(
        record.get("settings"), dict
    ):
        raise ValueError(
            f"a record must be of format 1 or {RECORD_FORMAT}, but that of {source} has"
            f" format {record.get('format')!r}. Use the version of skipguide that wrote it."
        )
    return validate_settings(record["settings"])  # format 1 has flags in the place of guidance


def upgrade_settings(settings: ReadOnlyData) -> PlainData:
    """Return complete settings of any format in that of format 2, with `guidance`.

    Args:
        settings: of a record, or of a row of a ledger.
    """
    if "guidance" in settings:
        return dict(settings)
    from skipguide.method.request import GuidanceRequest

    given = {name: settings[name] for name in settings if name in GuidanceFlags.model_fields}
    # Flags that came later are missing in records that are older.
    flags = fill_in(read_flags({"stg_scale": 0.0, **given}), None)
    guidance = to_guidance(flags)
    rest = {name: value for name, value in settings.items() if name not in given}
    return {**rest, "guidance": GuidanceRequest.from_dict(guidance).to_dict()}


def diff_records(then: ReadOnlyData, now: ReadOnlyData) -> dict[str, list[Any]]:
    """Compare two records except for the frames: name -> [then, now] for each difference."""
    before, after = (dict(_flatten_record(_upgraded(made))) for made in (then, now))
    # A setting that the older version did not have yet has not changed.
    names = [
        *before,
        *(name for name in after if name not in before and not name.startswith("settings.")),
    ]
    return {
        name: [before.get(name), after.get(name)]
        for name in names
        if before.get(name) != after.get(name)
    }


def _upgraded(record: ReadOnlyData) -> PlainData:
    settings = record.get("settings")
    return {**record, **({"settings": upgrade_settings(settings)} if settings else {})}


def _flatten_record(record: ReadOnlyData) -> Iterator[tuple[str, Any]]:
    for part in ("settings", "weights", "versions", "machine"):
        for key, value in record.get(part, {}).items():
            known = list(describe_loras(value)) if (part, key) == ("settings", "lora") else value
            yield f"{part}.{key}", known
    yield "image", record.get("image", {}).get("sha256")
    yield "frames", record.get("frames")
    for name in ("sample_rate", "channels", "samples"):
        yield f"audio.{name}", record.get("audio", {}).get(name)

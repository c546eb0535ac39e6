"""Say in a few lines with what a video was made and what it took, for all verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipguide.generate.describe import describe_method
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method.protocols import ReadOnlyData

MAX_USED = 4  # ways of guidance that are written out after many videos
# Settings of the model that change what it is or where it lies, as they are written.
_MODEL_WORDS = ("base_model", "variant", "quantize", "offload", "attention", "scheduler")


def format_result(target: Path, settings: GenerationSettings, made: ReadOnlyData) -> str:
    """Return the lines that end a generation.

    Args:
        target: its file.
        settings: complete.
        made: the record.
    """
    frames, height, width, _ = made["frames"]
    what = f"{frames} frames of {width}x{height} at {made['settings']['fps']} fps"
    if settings.makes_picture:
        what = f"a picture of {width}x{height}"
    return "\n".join((
        f"{target}: {what}, seed {settings.seed}{_sound_words(made)}",
        format_cost(made["measured"]),
        format_used(settings, made),
        f"skipguide reproduce {target} makes it again",
    ))  # fmt: skip


def _sound_words(made: ReadOnlyData) -> str:
    audio = made.get("audio")
    if not audio:
        return ""
    kind = "mono" if audio["channels"] == 1 else "stereo"
    seconds = audio["samples"] / audio["sample_rate"]
    return f", with {seconds:.1f} s of {kind} sound at {audio['sample_rate']} Hz"


def format_several(records: Sequence[ReadOnlyData]) -> list[str]:
    """Return the lines for videos of one model: what was used, and the most memory of any.

    Args:
        records: of videos that were made now or before; of none there are no lines.
    """
    if not records:
        return []
    settings = [validate_settings(record["settings"]) for record in records]
    used = dict.fromkeys(map(format_used, settings, records))
    shown = list(used) if len(used) <= MAX_USED else [format_model(settings[0])]
    peaks = [record["measured"] for record in records]
    peak = max(peaks, key=lambda measured: measured.get("peak_memory_bytes") or 0)
    memory = format_memory(peak)
    return [*shown, *([f"peak memory {memory}"] if memory else [])]


def format_cost(measured: ReadOnlyData) -> str:
    """Return passes, seconds and memory: "2.25 passes and 0.52 s per step, 19.1 s in all, ..."."""
    memory = format_memory(measured)
    return (
        f"{measured['passes_per_step']:.2f} passes and {measured['seconds_per_step']:.2f} s per"
        f" step, {measured['seconds']:.1f} s in all" + (f", peak memory {memory}" if memory else "")
    )


def format_costs(records: Sequence[ReadOnlyData]) -> list[str]:
    """Return the line of what many videos took: "2.25 passes and 0.50 to 0.55 s per step, ..."."""
    if not records:
        return []
    passes, steps = (
        _format_range([record["measured"][name] for record in records])
        for name in ("passes_per_step", "seconds_per_step")
    )
    seconds = sum(record["measured"]["seconds"] for record in records)
    return [f"{passes} passes and {steps} s per step, {seconds:.1f} s in all"]


def _format_range(numbers: Sequence[float]) -> str:
    low, high = f"{min(numbers):.2f}", f"{max(numbers):.2f}"
    return low if low == high else f"{low} to {high}"


def format_memory(measured: ReadOnlyData) -> str:
    """Return the peak of memory, as in "13.4 GB of cuda:0"; "" where it was not measured."""
    from skipguide.models.memory import format_bytes

    peak = measured.get("peak_memory_bytes")
    where = measured.get("peak_memory_of")
    owner = "this process" if where == "process" else where
    return "" if peak is None else f"{format_bytes(peak)} of {owner}"


def format_used(settings: GenerationSettings, made: ReadOnlyData) -> str:
    """Return the model, the guidance and where its layers come from, in one line."""
    from skipguide.generate.preset_used import describe_preset_used

    request = settings.request
    has_terms = bool(request.terms) or request.schedule is not None
    origin = describe_preset_used(made.get("preset"), has_terms)
    method = describe_method(settings, bool(made.get("embedded_guidance")))
    return f"{format_model(settings)}: {method}; {origin}"


def format_model(settings: GenerationSettings) -> str:
    """Return the model as it was loaded, as in "wan with a.safetensors:0.8, bfloat16 on cuda:0"."""
    with_parts = [*(settings.component or ()), *(_lora_words(settings))]
    parts = [settings.model + (f" with {' and '.join(with_parts)}" if with_parts else "")]
    parts += [f"{settings.dtype} on {settings.device}", *_vae_words(settings)]
    words = {name: getattr(settings, name) for name in _MODEL_WORDS}
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in words.items() if value]
    parts += [f"flow shift {settings.flow_shift:g}"] if settings.flow_shift is not None else []
    parts += ["compiled"] if settings.compile else []
    return ", ".join(parts)


def _vae_words(settings: GenerationSettings) -> list[str]:
    tiles = {None: "", True: "in tiles", False: "in one piece"}[settings.vae_tiling]
    found = [f"in {settings.vae_dtype}" if settings.vae_dtype else "", tiles]
    return [f"VAE {' '.join(filter(None, found))}"] if any(found) else []


def _lora_words(settings: GenerationSettings) -> list[str]:
    return [f"{Path(lora.path).name}:{lora.scale:g}" for lora in settings.lora or ()]

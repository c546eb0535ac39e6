"""Say what of the settings a video does not show, so that nothing is dropped without a word.

A note is one sentence or two for the person who wrote the settings. It goes to the log, which ends
on stderr, and into the record of the video.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.preset_given import cfg_alone_note
from skipguide.generate.settings import GenerationSettings
from skipguide.generate.without_cfg import distilled_note
from skipguide.method.request import GuidanceRequest
from skipguide.models import per_video, placement, scheduler, telling
from skipguide.models.fields import flag_name

if TYPE_CHECKING:
    from PIL import Image

    from skipguide.method.protocols import Pipeline

SMALL_CROP = 0.05  # the share of a picture whose loss needs no word
_TRUNCATION_MESSAGES = (
    "The following part of your input was truncated",
    "Token indices sequence length is longer than",
)
# Flags of the term that --layers and the scales make; SLG's takes some of them.
_TERM_FLAGS = ("skip", "strength", "start", "stop", "normalize", "every", "mask")
_SLG_FLAGS = ("skip", "strength", "start", "stop")


def crop_note(picture: Image.Image, settings: GenerationSettings) -> str | None:
    """Return a note of how much of a first frame the video does not show, if that is much.

    Args:
        picture: as it was read, of any size.
        settings: complete, with a height and a width.
    """
    from skipguide.files import image

    assert settings.width
    assert settings.height
    lost = 1 - image.visible_share(picture, settings.width, settings.height)
    if settings.image_fit == "pad" or lost <= SMALL_CROP:
        return None
    return (
        f"{lost:.0%} of {settings.image} is cropped away: it has {picture.width} x"
        f" {picture.height} pixels, and the {settings.noun} {settings.width} x {settings.height}."
        " Crop it yourself where it matters, set --width and --height to its shape, or put bars"
        " around it with --image-fit pad."
    )


def notes_before(pipe: Pipeline, settings: GenerationSettings) -> Iterator[str]:
    """Yield what can be said before a model is called: of prompt, preset, scheduler, offloading.

    Args:
        pipe: loaded, with its own scheduler.
        settings: complete.
    """
    said = (
        long_prompt_note(pipe, settings),
        trigger_note(settings),
        per_video.slow_attention_note(settings),
        cfg_alone_note(settings),
        distilled_note(pipe, settings),
    )
    yield from (note for note in said if note)
    yield from lora_notes(settings)
    yield from scheduler.scheduler_notes(getattr(pipe, "scheduler", None), settings)
    yield from placement.offload_notes(pipe, settings.offload)


def describe_overflow(settings: GenerationSettings) -> str:
    """Return what to do about frames that are not finite numbers.

    Args:
        settings: complete.
    """
    dtype = settings.dtype
    if dtype == "float16":
        return (
            "the frames must be finite numbers, but float16 overflowed. Use --dtype bfloat16 or"
            " float32, or smaller scales."
        )
    loras = [Path(lora.path).name for lora in settings.lora or ()]
    whose = f", a smaller SCALE of {' and '.join(loras)}" if loras else ""
    return (
        f"the frames must be finite numbers, but the model made inf or nan, in {dtype}, which"
        f" has room for large ones. Take smaller scales{whose}, or other weights: these may be"
        " damaged."
    )


def long_prompt_note(pipe: Pipeline, settings: GenerationSettings) -> str | None:
    """Return a note for a prompt of more tokens than the model is shown.

    Args:
        pipe: whose tokenizer counts; pipelines without a limit of their own are left alone.
        settings: complete.
    """
    limit, tokenizer = settings.max_sequence_length, getattr(pipe, "tokenizer", None)
    if limit is None or tokenizer is None or not settings.prompt:
        return None
    count = len(tokenizer(settings.prompt, verbose=False).input_ids)
    if count <= limit:
        return None
    return (
        f"the end of the prompt has no effect: it has {count} tokens, and the model sees {limit}."
        " Shorten it, or raise --max-sequence-length where the model was trained for that."
    )


def trigger_note(settings: GenerationSettings) -> str | None:
    """Return a note for a prompt without the words with which a LoRA was trained.

    Args:
        settings: complete, with what is known of the LoRAs.
    """
    prompt = (settings.prompt or "").lower()
    asleep = dict.fromkeys(
        f"{', '.join(map(repr, lora.trigger_words))} ({Path(lora.path).name})"
        for lora in settings.lora or ()
        if lora.scale
        and lora.trigger_words
        and not any(word.lower() in prompt for word in lora.trigger_words)
    )
    if not asleep or settings.prompt is None:
        return None
    return (
        f"the prompt has none of the trigger words of a LoRA: {'; '.join(asleep)}. Write one of"
        " them where the LoRA shall be seen."
    )


def lora_notes(settings: GenerationSettings) -> Iterator[str]:
    """Yield a note for each LoRA that is given more than once, or with a scale of 0.

    Args:
        settings: complete, with what is known of the LoRAs.
    """
    scales: dict[tuple[str, str | None], list[float]] = {}
    names: dict[tuple[str, str | None], str] = {}
    for lora in settings.lora or ():
        key = (lora.sha256 or lora.path, lora.component)
        scales.setdefault(key, []).append(lora.scale)
        names.setdefault(key, Path(lora.path).name)
    for key, found in scales.items():
        if len(found) > 1:
            yield (
                f"the LoRA {names[key]} is given {len(found)} times, and the scales add up to"
                f" {sum(found):g}. Give it once."
            )
        elif found == [0]:
            yield f"the LoRA {names[key]} has no effect: its scale is 0. Leave it out."


def hide_truncation_messages() -> AbstractContextManager[None]:
    """Keep off stderr what `long_prompt_note` has said.

    diffusers repeats the end of the prompt, and transformers warns of errors that do not follow.
    """
    return telling.filter_libraries(_is_no_truncation)


def _is_no_truncation(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(part in text for part in _TRUNCATION_MESSAGES)


def negative_prompt_note(settings: GenerationSettings, model: str) -> str:
    """Return a note for a run that has a negative prompt, but no CFG.

    Args:
        settings: complete.
        model: the name of the pipeline's class.
    """
    scale = settings.guidance_scale
    if scale is None or scale > 1:
        why = f"is off in a {model}, whatever guidance_scale says"
        advice = (
            "Call the pipeline from Python, where its own arguments can switch CFG on, use --nag 5,"
            " or"
        )
    else:
        why = f"is off with guidance_scale={scale:g}"
        advice = "Set --guidance-scale above 1 where the model is not distilled, use --nag 5, or"
    return (
        f"the negative prompt {settings.negative_prompt!r} has no effect: it is what CFG leads away"
        f" from, and CFG {why}. {advice} leave the negative prompt out."
    )


def size_note(shape: Sequence[int], settings: GenerationSettings, model: str) -> str | None:
    """Return a note for a video that has another size than was asked for.

    Args:
        shape: of the frames, `(F, H, W, 3)`.
        settings: complete.
        model: the name of the pipeline's class.
    """
    made = dict(zip(("num_frames", "height", "width"), shape, strict=False))
    other = [
        f"{name}={size} in the place of {getattr(settings, name)}"
        for name, size in made.items()
        if getattr(settings, name) not in (None, size)
    ]
    if not other:
        return None
    return f"the {settings.noun} has {', '.join(other)}: a {model} makes what it can of a size."


def unused_notes(given: GenerationSettings, complete: GenerationSettings) -> Iterator[str]:
    """Yield a note for each setting that was given and changes nothing.

    Args:
        given: as they came from the user.
        complete: as `resolve_settings` returns them.
    """
    if given.image_fit and given.image is None:
        yield f"--image-fit {given.image_fit} has no effect: there is no --image. Leave it out."
    asked, request = given.guidance, complete.request
    flags = isinstance(asked, GuidanceFlags)
    words = asked.to_dict() if isinstance(asked, GuidanceRequest) else asked or {}
    if isinstance(asked, GuidanceFlags):
        words = asked.said()
    if words.get("rescale") and not _has_rescale(complete):
        yield _no_effect(
            "rescale", words["rescale"], flags, "it is for steps with a term or a rule, and none is"
        )
    elif words.get("rescale_space") == "data" and not _has_rescale(complete):
        yield _no_effect("rescale_space", "data", flags, "rescale is off, and so nothing is")
    if words.get("orthogonalize") and not (request.orthogonalize or request.schedule):
        yield _no_effect("orthogonalize", True, flags, "that takes two terms, and one at most is")
    if isinstance(asked, GuidanceFlags):
        yield from _unused_term_flags(asked)


def _has_rescale(complete: GenerationSettings) -> bool:
    request = complete.request
    bins = () if request.schedule is None else request.schedule.bins
    return bool(request.rescale) or any(entry.rescale for entry in bins)


def _unused_term_flags(flags: GuidanceFlags) -> Iterator[str]:
    """Yield notes for flags about a term where there are other terms only."""
    if flags.given_scales or not flags.has_more_terms:
        return
    own = not flags.is_off  # --layers or --random-share make a term beside those of --term
    used = _TERM_FLAGS if own else _SLG_FLAGS if flags.slg_layers else ()
    for name in _TERM_FLAGS:
        value = getattr(flags, name)
        if value not in (None, False) and name not in used:
            yield _no_effect(name, value, True, "it is for the term of --layers, and none is")


def _no_effect(name: str, value: object, is_flag: bool, why: str) -> str:
    written = flag_name(name) if is_flag else name
    return f"{written} {value} has no effect: {why} on. Leave it out."

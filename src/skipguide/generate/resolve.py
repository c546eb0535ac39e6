"""Fill in what a user left out, from the model's preset or the pipeline itself."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.generate import flags, parsing
from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.preset_given import choose_preset
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import perturbations
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import SLG, STG
from skipguide.models import loaded, placement
from skipguide.models.fields import flag_name
from skipguide.models.settings import ModelSettings

if TYPE_CHECKING:
    from skipguide.families.presets import Preset
    from skipguide.generate.parsing import Guidance

# Our name -> the names that diffusers' pipelines have for it, if they have another.
_PIPELINE_ARGUMENTS = {
    "steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "max_guidance_scale"),
    "num_frames": ("num_frames", "video_length", "frames"),
    "fps": ("fps", "target_fps", "frame_rate"),
}
_MODEL_DEFAULT_FIELDS = ("height", "width", "num_frames", "fps", "guidance_scale", "steps")
_OPTIONAL_ARGUMENTS = (
    "max_sequence_length", "min_guidance_scale", "motion_bucket_id", "noise_aug_strength",
    "decode_chunk_size",
)  # fmt: skip


def call_parameters(pipe: Pipeline) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a call of the pipeline."""
    return inspect.signature(pipe.__call__).parameters


def pipeline_argument(name: str, pipe: Pipeline) -> str:
    """Return the pipeline's own name for a setting."""
    names = _PIPELINE_ARGUMENTS.get(name, (name,))
    return next((theirs for theirs in names if theirs in call_parameters(pipe)), names[0])


def resolve_settings(settings: GenerationSettings, pipe: Pipeline) -> GenerationSettings:
    """Fill in every None: from the preset that is named or the model's, else from the pipeline.

    A setting that the pipeline does not take stays None. Of the path of the image only the file
    name stays, so that the record of a video names no folder.

    Raises:
        ValueError: if layers are left to a preset and none is known; for a size without default;
            for a setting that the pipeline does not take; without the prompt or the image that it
            needs; for a preset of another model.
    """
    source = choose_preset(settings, pipe)
    _check_inputs(settings, pipe)
    _check_loras(settings, pipe)
    request = resolve_guidance(source.guidance, source.row)
    empty = "negative_prompt" in call_parameters(pipe) and not hasattr(
        getattr(pipe, "transformer", None), "null_caption"
    )
    # Open-Sora has learned what stands for no text.
    found: PlainData = {"negative_prompt": "" if empty else None}
    names = (
        *_MODEL_DEFAULT_FIELDS,
        *(name for name in _OPTIONAL_ARGUMENTS if name in call_parameters(pipe)),
    )
    found |= {
        name: _model_default(name, pipe, source.defaults)
        for name in names
        if getattr(settings, name) is None
    }
    found |= _found_in_model(pipe)
    given = {**settings.model_dump(exclude={"guidance", "preset"}), "guidance": request}
    given |= _completed_by_loading(pipe)
    given["image"] = settings.image and Path(settings.image).name
    if settings.image_fit == "crop":  # the same as None, which clips had before there was a choice
        given["image_fit"] = None
    complete = validate_settings(
        {**given, **{name: value for name, value in found.items() if given[name] is None}}
    )
    return complete if settings.preset is None else complete.filled_in_by(settings.preset)


def resolve_model(settings: ModelSettings, pipe: Pipeline) -> ModelSettings:
    """Fill in what was left out of the settings of a model, as its loaded pipeline shows it."""
    found = _found_in_model(pipe)
    missing = {name: found[name] for name in found if getattr(settings, name) is None}
    return settings.model_settings().model_copy(update=missing | _completed_by_loading(pipe))


def _completed_by_loading(pipe: Pipeline) -> PlainData:
    """Return settings that loading completed: the hashes of LoRAs, the library that quantized."""
    known = loaded.recall(pipe)
    return {name: known[name] for name in ("lora", "quantize") if known.get(name) is not None}


def _check_loras(settings: ModelSettings, pipe: Pipeline) -> None:
    """Check that the LoRAs of the settings are those that the pipeline was loaded with."""
    known = loaded.recall(pipe)
    if "lora" not in known:  # a pipeline that a caller made
        return
    wanted, found = (
        [(entry.path, entry.scale) for entry in loras or ()]
        for loras in (settings.lora, known["lora"])
    )
    if wanted != found:
        raise ValueError(
            f"lora must be the same for all videos that one loaded model makes, but got {wanted}"
            f" with a model that has {found}. Make these in a run of their own."
        )


def _found_in_model(pipe: Pipeline) -> dict[str, str]:
    """Return what a loaded pipeline shows of the settings of its model."""
    denoiser = next(iter(placement.denoisers(pipe).values()), pipe)
    return {
        "dtype": str(denoiser.dtype).removeprefix("torch."),
        "device": str(placement.execution_device(pipe)),
    }


def resolve_guidance(guidance: Guidance | None, preset: Preset | None) -> GuidanceRequest:
    """Return the whole request, with what was left out taken from the preset.

    Terms whose scale is 0 are left out.

    Args:
        guidance: of `GenerationSettings`; None is all the preset's.
        preset: None for models without one, whose layers must then be given.
    """
    if guidance is None or isinstance(guidance, GuidanceFlags):
        given = guidance or GuidanceFlags()
        filled = flags.fill_in(given, preset)
        guidance = GuidanceRequest.from_dict(flags.to_guidance(filled, given))
    elif isinstance(guidance, dict):
        guidance = GuidanceRequest.from_dict(_fill_in(guidance, preset))
    return _without_neutral_terms(guidance)


def _fill_in(content: PlainData, preset: Preset | None) -> PlainData:
    """Return plain data of a request with everything that is missing taken from the preset."""
    whole = flags.to_guidance(flags.fill_in(GuidanceFlags(), preset))
    if "schedule" in whole and content["terms"] != "preset":
        raise ValueError(
            "a term must name its layers where the preset of the model is a schedule, but got"
            f" terms={content['terms']!r}. Write the layers, or terms: preset."
        )
    if "schedule" in whole:
        rest = {name: value for name, value in content.items() if name != "terms"}
        return {**rest, "schedule": whole["schedule"]}
    return parsing.fill_in_terms(content, tuple(whole["terms"]), whole["rescale"])


def _without_neutral_terms(request: GuidanceRequest) -> GuidanceRequest:
    """Leave out terms that push by 0, and write out the strength of the others."""
    terms = [
        dataclasses.replace(term, strength=perturbations.resolve_strength(term.skip, term.strength))
        for term in request.terms
        if isinstance(term, SLG) or any(term.scales(2))
    ]
    several = sum(isinstance(term, STG) for term in terms) > 1
    if request.schedule is not None:
        return request
    return dataclasses.replace(
        request,
        terms=tuple(terms),
        orthogonalize=request.orthogonalize and several,
        rescale=request.rescale if terms or request.replaces_cfg else 0.0,
        audio_rescale=request.audio_rescale if terms or request.replaces_cfg else None,
    )


def words_of_flags(settings: GenerationSettings, pipe: Pipeline) -> PlainData | None:
    """Return the guidance of settings as complete flags, ready for JSON; None if flags cannot hold
    it.

    The keys of clips are made of them, as they were before there was another spelling.

    Args:
        settings: as they were given, before `resolve_settings`.
    """
    source = choose_preset(settings, pipe)
    given = GuidanceFlags() if source.guidance is None else source.guidance
    if isinstance(given, GuidanceFlags) and not given.has_more_terms:
        filled = flags.fill_in(given, source.row)
        if not filled.has_modality:
            return filled.said()
    request = resolve_guidance(source.guidance, source.row)
    return flags.from_guidance(request.to_dict())


def _check_inputs(settings: GenerationSettings, pipe: Pipeline) -> None:
    """Check that the pipeline takes what is given, and gets the prompt and image that it needs."""
    parameters, model = call_parameters(pipe), type(pipe).__name__
    for name in (
        "prompt",
        "negative_prompt",
        "image",
        *_MODEL_DEFAULT_FIELDS,
        *_OPTIONAL_ARGUMENTS,
    ):
        value = getattr(settings, name)
        if value is not None and not _accepts_setting(pipe, name):
            raise ValueError(
                f"{name} must be left out for a {model}, which does not take it, but got {value!r}."
                f" Leave out {flag_name(name)}, or choose another --model."
            )
    needed = {"prompt": "prompt" in parameters, "image": requires_image(pipe)}
    for name in (
        name for name, needs in needed.items() if needs and getattr(settings, name) is None
    ):
        raise ValueError(
            f"{name} must be given for a {model}, but got nothing. Set it with {flag_name(name)}."
        )


def requires_image(pipe: Pipeline) -> bool:
    """Return whether the pipeline needs an image. LTX's call has a default, with which it fails."""
    parameter = call_parameters(pipe).get("image")
    return parameter is not None and (
        parameter.default is inspect.Parameter.empty or "ImageToVideo" in type(pipe).__name__
    )


def guider_sets_scale(pipe: Pipeline) -> bool:
    """Return whether guidance_scale belongs to the pipeline's guider: HunyuanVideo 1.5, Motif."""
    return hasattr(
        getattr(pipe, "guider", None), "guidance_scale"
    ) and "guidance_scale" not in call_parameters(pipe)


def _accepts_setting(pipe: Pipeline, name: str) -> bool:
    """Return whether a pipeline takes a setting. The fps of the mp4 are for all."""
    return (
        name == "fps"
        or pipeline_argument(name, pipe) in call_parameters(pipe)
        or (name == "guidance_scale" and guider_sets_scale(pipe))
    )


def _model_default(name: str, pipe: Pipeline, published: ReadOnlyData) -> Any:
    """Return the default of a setting; None if the call does not take it, or finds it out
    itself."""
    theirs = pipeline_argument(name, pipe)
    if not _accepts_setting(pipe, name):
        return None
    parameter = call_parameters(pipe).get(theirs)
    candidates = (
        published.get(name),
        published.get(theirs),
        (
            parameter.default
            if parameter and parameter.default is not inspect.Parameter.empty
            else None
        ),
        getattr(pipe, f"default_{theirs}", None),  # diffusers keeps some defaults there
        _config_default(name, pipe),
    )
    value = next((value for value in candidates if value is not None), None)
    if (
        value is None
        and name in _MODEL_DEFAULT_FIELDS
        and parameter
        and parameter.default is inspect.Parameter.empty
    ):
        raise ValueError(
            f"{name} must be given for a {type(pipe).__name__}, which has no default for it, but"
            f" got nothing. Set it with {flag_name(name)}."
        )
    return value


def _config_default(name: str, pipe: Pipeline) -> Any:
    """Return a default that the pipeline's call takes from its components."""
    if name == "guidance_scale" and guider_sets_scale(pipe):
        return pipe.guider.guidance_scale
    if name == "fps":
        return _family_fps(pipe)
    config = pipe.unet.config if getattr(pipe, "unet", None) is not None else {}
    if name in ("height", "width") and isinstance(config.get("sample_size"), int):
        return config["sample_size"] * pipe.vae_scale_factor
    samples = getattr(getattr(pipe, "transformer", None), "config", {}).get(
        f"sample_{name}"
    )  # CogVideoX, Allegro
    if samples is not None and hasattr(pipe, "vae_scale_factor_spatial"):
        return samples * pipe.vae_scale_factor_spatial
    return config.get("num_frames") if name == "num_frames" else None


def _family_fps(pipe: Pipeline) -> int:
    from skipguide.families import lookup
    from skipguide.families.schema import DEFAULT_FPS

    try:
        return lookup.family_of(pipe).fps or DEFAULT_FPS  # an image has none
    except ValueError:  # no row for this pipeline, which plain CFG does not need
        return DEFAULT_FPS

"""The settings of one generation: the one schema of the command line, the YAML file and the record
beside a video.

What a user leaves out is None; `resolve` fills it in from the model's preset, so that what is
stored with the video is complete and does not change its meaning when a preset does."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from skipguide.generate import parsing
from skipguide.method import perturbations

if TYPE_CHECKING:
    pass


def _field(must: str, help: str, default: Any = None, **limits: Any) -> Any:
    """A field with its help text and, for the error message, what its value must be."""
    return Field(default, description=help, json_schema_extra={"must": must}, **limits)


Layers = Annotated[tuple[int | str, ...] | None, BeforeValidator(parsing.parse_layers)]
Parts = dict[str, Any]
Rule = Annotated[Parts | None, BeforeValidator(lambda value: parsing.parse_parts(value, "name"))]
Restarts = Annotated[
    tuple[Parts, ...] | None,
    BeforeValidator(lambda value: parsing.parse_mappings(parsing.parse_parts(value, "window"))),
]
Bins = Annotated[tuple[Parts, ...] | str | None, BeforeValidator(parsing.parse_mappings)]
Fps = Annotated[
    Fraction | None, BeforeValidator(parsing.parse_fps), PlainSerializer(parsing.format_fps)
]
Size = Annotated[int, Field(ge=2, multiple_of=2)]
Share = Annotated[float, Field(ge=0, le=1)]
_EVEN_PIXELS = "an even whole number of pixels (the mp4 needs it)"
_SCALE_REQUIREMENT = "a finite number >= 0 (0 is off)"
SCALE_AXES = {
    "stg_scale": None,
    "spatial_scale": "spatial",
    "temporal_scale": "temporal",
}  # setting -> axis of its term
# What the bins of a schedule say, or cannot: nothing but this may stand beside them.
_SCHEDULE_CONFLICTS = {
    "layers": (), "random_share": None, **dict.fromkeys(SCALE_AXES, 0.0), "orthogonalize": False,
    "skip": "residual", "strength": None, "normalize": False, "every": 1, "start": 0.0, "stop": 1.0,
    "rescale": 0.0,
}  # fmt: skip


class GenerationSettings(BaseModel):
    """One video. None means: from the model's preset or the model itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    prompt: str | None = _field("a text", "What the video shows.")
    negative_prompt: str | None = _field("a text", "What it should not show; used with CFG.")
    image: str | None = _field(
        "the name of a picture file",
        "Picture that the video starts from, for image-to-video models. It is resized and cropped"
        " around its centre to the size of the video.",
        min_length=1,
    )
    model: str = _field(
        "lab-mochi, lab-svd, lab-opensora, a folder or a hub id",
        "lab-mochi, lab-svd, lab-opensora, a local folder in diffusers layout, or a hub id.",
        "lab-mochi", min_length=1,
    )  # fmt: skip
    layers: Layers = _field(
        'block numbers from 0 on, or "stack:number" as in "single:7", separated by commas',
        "Layers that the weak pass skips: 8, or 8,9, or single:7.",
    )
    stg_scale: float | None = _field(
        _SCALE_REQUIREMENT,
        "STG's scale s; 0 is off. If one of the three scales is given, the others are 0.",
        ge=0,
    )
    spatial_scale: float | None = _field(
        _SCALE_REQUIREMENT,
        "s of skipping in attention within a frame only, for models with factorized attention.",
        ge=0,
    )
    temporal_scale: float | None = _field(
        _SCALE_REQUIREMENT, "s of skipping in attention along time only, for these.", ge=0
    )
    orthogonalize: bool | None = _field(
        "true or false", "Take from the temporal push its part along the spatial one (Eq. 21)."
    )
    random_share: float | None = _field(
        "a number above 0 and below 1",
        "In the place of layers: another draw of this share of them at every step, by the seed (S2-Guidance: 0.1).",
        gt=0, lt=1,
    )  # fmt: skip
    skip: Literal["residual", "attention", "soft", "blur", "frames", "shuffle"] | None = _field(
        f"one of {', '.join(perturbations.PERTURBATIONS)}",
        "What is done to the layers. residual: the block returns its input. attention: its map is"
        " the identity; soft: a part of the way there. blur: queries are blurred. frames: each sees"
        " itself alone. shuffle: tokens change places.",
    )
    strength: float | None = _field(
        "a finite number above 0",
        "soft: share of the identity (0.5). blur: sigma in tokens; left out, all queries are their mean.",
        gt=0,
    )  # fmt: skip
    normalize: bool | None = _field(
        "true or false", "Pushes of one length whatever the layer: scale times a tenth of c."
    )
    every: int | None = _field(
        "a whole number >= 1",
        "Run the weak pass at every n-th guided step and use it again in between.",
        ge=1,
    )
    schedule: Bins = _field(
        "a YAML file of bins, or a list of them",
        "YAML file of layers and scales by noise level, in the place of them: - {sigma: [0.9, 1.1],"
        " layers: [9], scale: 2.0}.",
    )
    start: Share | None = _field(
        "a fraction from 0 to 1", "Fraction of the run from which STG is on."
    )
    stop: Share | None = _field("a fraction from 0 to 1", "Fraction of the run at which STG ends.")
    rescale: Share | None = _field(
        "a number from 0 (off) to 1", "Pull the deviation back to that of c; 0 is off."
    )
    rescale_space: Literal["prediction", "data"] | None = _field(
        '"prediction" or "data"',
        "Of what the deviation is: of predictions, or of estimates of the clean video.",
    )
    cfg_rule: Rule = _field(
        'one of apg, cfg-zero, tcfg, interval, and its parts, as in "apg eta=0.2"',
        "In the place of plain CFG: apg, cfg-zero, tcfg or interval, and its parts, as in 'interval"
        " window=0.1:0.9'.",
    )
    restart: Restarts = _field(
        'an interval and its parts, as in "0.4:0.6 repeats=2" or "sigma=0.3:0.7"',
        "Do an interval of the run again with new noise: '0.4:0.6 repeats=2', or 'sigma=0.3:0.7' of"
        " noise levels.",
    )
    guidance_scale: float | None = _field(
        "a finite number >= 0",
        "CFG's scale g; 1 or less is off. SVD: that of the last frame.",
        ge=0,
    )
    min_guidance_scale: float | None = _field(
        "a finite number >= 0", "SVD: CFG's scale in the first frame.", ge=0
    )
    steps: int | None = _field("a whole number >= 1", "Denoising steps.", ge=1)
    seed: int = _field(
        "a whole number from 0 to 2^63 - 1", "Seed of the initial noise.", 0, ge=0, lt=2**63
    )
    height: Size | None = _field(_EVEN_PIXELS, "Height in pixels.")
    width: Size | None = _field(_EVEN_PIXELS, "Width in pixels.")
    num_frames: int | None = _field("a whole number >= 1", "Frames of the video.", ge=1)
    fps: Fps = _field(
        "a number above 0, at most 1000, or a ratio as 24000/1001",
        "Frames per second of the mp4; SVD and other models that ask for it are told.",
    )
    motion_bucket_id: int | None = _field("a whole number >= 0", "SVD: amount of motion.", ge=0)
    noise_aug_strength: float | None = _field(
        "a finite number >= 0", "SVD: noise put on the image.", ge=0
    )
    decode_chunk_size: int | None = _field(
        "a whole number >= 1", "Frames decoded at a time; fewer save memory.", ge=1
    )
    max_sequence_length: int | None = _field(
        "a whole number >= 1", "Text tokens that the model sees.", ge=1
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = _field(
        '"float32", "bfloat16" or "float16"', "float32, bfloat16 or float16."
    )
    device: str | None = _field(
        '"cpu", "cuda", "cuda:1", "mps" or the like',
        "cpu, cuda, cuda:1, mps.",
        pattern=r"^(cpu|mps|(cuda|xpu)(:[0-9]+)?)$",
    )

    @model_validator(mode="after")
    def _check_combination(self) -> GenerationSettings:
        if self.prompt is None and self.image is None:
            raise ValueError(
                "a video needs a prompt, an image or both, but got neither. Set them with PROMPT"
                " and --image, or as prompt and image in the config file."
            )
        if self.start is not None and self.stop is not None and self.start >= self.stop:
            raise ValueError(
                "stop must be larger than start (step i of N is guided when start <= i/N < stop),"
                f" but got start={self.start:g}, stop={self.stop:g}. Widen the window, or switch"
                " STG off with stg_scale=0."
            )
        self._check_what_is_skipped()
        if self.layers == () and not (is_stg_off(self) or self.random_share or self.schedule):
            raise ValueError(
                "layers must name at least one layer, but got none. Name one, or leave layers out."
            )
        if (
            self.orthogonalize
            and given_scales(self)
            and not (self.spatial_scale and self.temporal_scale)
        ):
            raise ValueError(
                "orthogonalize needs a spatial_scale and a temporal_scale above 0, but got"
                f" {self.spatial_scale or 0:g} and {self.temporal_scale or 0:g}. Set both, or leave"
                " orthogonalize out."
            )
        if (
            (self.min_guidance_scale or 0) > 1
            and self.guidance_scale is not None
            and self.guidance_scale <= 1
        ):
            raise ValueError(
                "min_guidance_scale above 1 needs a guidance_scale above 1, which switches CFG on,"
                f" but got {self.min_guidance_scale:g} and {self.guidance_scale:g}. Raise one or"
                " lower the other."
            )
        return self

    def _check_what_is_skipped(self) -> None:
        if self.skip is not None:
            perturbations.check_skip(self.skip, self.strength, 0)
        if self.layers and self.random_share is not None:
            raise ValueError(
                f"random_share draws the layers, but layers={','.join(map(str, self.layers))} came"
                " too. Leave one of them out."
            )
        both = [
            name
            for name, neutral in _SCHEDULE_CONFLICTS.items()
            if getattr(self, name) not in (None, neutral)
        ]
        if both and self.schedule is not None:
            raise ValueError(
                f"a schedule has what is skipped in its bins, but got {', '.join(both)} beside it."
                " Write that into the bins, or leave the schedule out."
            )


def given_scales(settings: GenerationSettings) -> dict[str, float]:
    """The scales of STG that are not left to the preset."""
    found = {name: getattr(settings, name) for name in SCALE_AXES}
    return {name: scale for name, scale in found.items() if scale is not None}


def sets_layers(settings: GenerationSettings) -> bool:
    """Whether nothing about layers is left to the preset."""
    return (
        settings.layers is not None
        or settings.random_share is not None
        or settings.schedule is not None
    )


def uses_guidance(settings: GenerationSettings) -> bool:
    """Whether there is anything beside plain CFG, or may be from a preset."""
    return not (
        is_stg_off(settings) and settings.cfg_rule is settings.restart is settings.schedule is None
    )


def is_stg_off(settings: GenerationSettings) -> bool:
    """Whether scales are given, and all of them are 0."""
    given = given_scales(settings)
    return bool(given) and not any(given.values())


def validate_settings(given: Mapping[str, Any]) -> GenerationSettings:
    """The settings in a mapping.

    Raises:
        ValueError: one line that says what a setting must be, what came and what to do; all that is
            wrong at once.
    """
    try:
        return GenerationSettings.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(
            " ".join(dict.fromkeys(_format_error(dict(e)) for e in error.errors()))
        ) from None


def _format_error(error: Mapping[str, Any]) -> str:
    if not error["loc"]:  # _together speaks for itself
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        known = list(GenerationSettings.model_fields)
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else "Remove it."
        return f"a setting must be one of {', '.join(known)}, but got {name!r}. {advice}"
    return (
        f"{name} must be {describe_requirement(name)}, but got {error['input']!r}. Set it with"
        f" {flag_name(name)}, or as {name} in the config file."
    )


def describe_requirement(name: str) -> str:
    """What the value of a setting must be, in words."""
    extra = GenerationSettings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["must"])


def flag_name(name: str) -> str:
    """How a setting is written on the command line."""
    return "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"

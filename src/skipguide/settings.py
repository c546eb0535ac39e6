"""The settings of one generation: the one schema of the command line, the YAML file and the record beside a video.

What a user leaves out is None; `resolve` fills it in from the model's preset, so that what is stored with the video is
complete and does not change its meaning when a preset does.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

if TYPE_CHECKING:
    from skipguide.presets import Preset


def _parse_layers(value: Any) -> Any:
    """8, "8,9", "single:7" or a list of those -> a tuple of ints and "stack:int"."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return tuple(_parse_layer(part) for part in parts)


def _parse_layer(value: Any) -> int | str:
    text = str(value).strip()
    if isinstance(value, (int, str)) and not isinstance(value, bool) and re.fullmatch(r"([^\s:,]+:)?[0-9]+", text):
        return text if ":" in text else int(text)
    raise ValueError("not a layer")


def _parse_fps(value: Any) -> Fraction | None:
    """24, 23.976, "24000/1001" -> a Fraction above 0 and at most 1000."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise ValueError("not a number")
    try:
        rate = Fraction(value)
    except (OverflowError, ZeroDivisionError) as error:  # inf; "1/0"
        raise ValueError("not a finite number") from error
    if isinstance(value, float):
        rate = rate.limit_denominator(1001)  # 23.976 as it was meant, not as its 53 bits
    if not 0 < rate <= 1000:
        raise ValueError("out of range")
    return rate


def _plain_fps(rate: Fraction | None) -> int | str | None:
    return rate if rate is None else int(rate) if rate.denominator == 1 else str(rate)


def _setting(must: str, help: str, default: Any = None, **limits: Any) -> Any:
    """A field with its help text and, for the error message, what its value must be."""
    return Field(default, description=help, json_schema_extra={"must": must}, **limits)


Layers = Annotated[tuple[int | str, ...] | None, BeforeValidator(_parse_layers)]
Fps = Annotated[Fraction | None, BeforeValidator(_parse_fps), PlainSerializer(_plain_fps)]
Size = Annotated[int, Field(ge=2, multiple_of=2)]
Share = Annotated[float, Field(ge=0, le=1)]
_EVEN = "an even whole number of pixels (the mp4 needs it)"


class Generation(BaseModel):
    """One video. None means: from the model's preset or the model itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    prompt: str = _setting("a text", "What the video shows.", ...)
    negative_prompt: str = _setting("a text", "What it should not show; used with CFG.", "")
    model: str = _setting(
        "lab-mochi, a folder or a hub id", "lab-mochi, a local folder in diffusers layout, or a hub id.", "lab-mochi",
        min_length=1,
    )  # fmt: skip
    layers: Layers = _setting(
        'block numbers from 0 on, or "stack:number" as in "single:7", separated by commas',
        "Layers that the weak pass skips: 8, or 8,9, or single:7.",
    )
    stg_scale: float | None = _setting("a finite number >= 0 (0 is off)", "STG's scale s; 0 is off.", ge=0)
    skip: Literal["residual", "attention"] | None = _setting(
        '"residual" or "attention"', "residual: the block returns its input. attention: its map is the identity."
    )
    start: Share | None = _setting("a fraction from 0 to 1", "Fraction of the run from which STG is on.")
    stop: Share | None = _setting("a fraction from 0 to 1", "Fraction of the run at which STG ends.")
    rescale: Share | None = _setting("a number from 0 (off) to 1", "Pull the deviation back to that of c; 0 is off.")
    guidance_scale: float | None = _setting("a finite number >= 0", "CFG's scale g; 1 or less is off.", ge=0)
    steps: int | None = _setting("a whole number >= 1", "Denoising steps.", ge=1)
    seed: int = _setting("a whole number from 0 to 2^63 - 1", "Seed of the initial noise.", 0, ge=0, lt=2**63)
    height: Size | None = _setting(_EVEN, "Height in pixels.")
    width: Size | None = _setting(_EVEN, "Width in pixels.")
    num_frames: int | None = _setting("a whole number >= 1", "Frames of the video.", ge=1)
    fps: Fps = _setting("a number above 0, at most 1000, or a ratio as 24000/1001", "Frames per second of the mp4.")
    max_sequence_length: int | None = _setting("a whole number >= 1", "Text tokens that the model sees.", ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = _setting(
        '"float32", "bfloat16" or "float16"', "float32, bfloat16 or float16."
    )
    device: str | None = _setting(
        '"cpu", "cuda", "cuda:1", "mps" or the like',
        "cpu, cuda, cuda:1, mps.",
        pattern=r"^(cpu|mps|(cuda|xpu)(:[0-9]+)?)$",
    )

    @model_validator(mode="after")
    def _together(self) -> Generation:
        if self.start is not None and self.stop is not None and self.start >= self.stop:
            raise ValueError(
                f"stop must be larger than start (step i of N is guided when start <= i/N < stop), but got "
                f"start={self.start:g}, stop={self.stop:g}. Widen the window, or switch STG off with stg_scale=0."
            )
        if self.layers == () and self.stg_scale != 0:
            raise ValueError("layers must name at least one layer, but got none. Name one, or leave layers out.")
        return self


def checked(given: Mapping[str, Any]) -> Generation:
    """The settings in a mapping.

    Raises:
        ValueError: one line that says what a setting must be, what came and what to do; all that is wrong at once.
    """
    try:
        return Generation.model_validate(dict(given))
    except ValidationError as error:
        raise ValueError(" ".join(dict.fromkeys(_complaint(dict(e)) for e in error.errors()))) from None


def _complaint(error: Mapping[str, Any]) -> str:
    if not error["loc"]:  # _together speaks for itself
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        known = list(Generation.model_fields)
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else "Remove it."
        return f"a setting must be one of {', '.join(known)}, but got {name!r}. {advice}"
    came = "nothing" if error["type"] == "missing" else repr(error["input"])
    return f"{name} must be {must_be(name)}, but got {came}. Set it with {flag(name)}, or as {name} in the config file."


def must_be(name: str) -> str:
    """What the value of a setting must be, in words."""
    extra = Generation.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["must"])


def flag(name: str) -> str:
    """How a setting is written on the command line."""
    return "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"


# --- filling in what was left out -------------------------------------------------------------------------------------

# The defaults of STG() and guide(), for models without a preset.
GUIDANCE = {"layers": (), "stg_scale": 1.0, "skip": "residual", "start": 0.0, "stop": 1.0, "rescale": 0.0}
_THEIRS = {"stg_scale": "scale", "steps": "num_inference_steps"}  # our name -> that of the preset or of diffusers
_FROM_MODEL = ("height", "width", "num_frames", "fps", "guidance_scale", "steps", "max_sequence_length")
_OPTIONAL = ("max_sequence_length",)  # not every pipeline has one
_DEFAULT_FPS = 24  # how fast to play the video of a model that says nothing about it


def resolve(settings: Generation, pipe: Any) -> Generation:
    """The settings with every None filled in: from the preset of the model, else from the pipeline itself.

    Raises:
        ValueError: if STG is on, no layers are given, and no preset is known; or for a size without default.
    """
    preset = _preset(settings, pipe)
    if preset and preset.schedule and settings.layers is None and settings.stg_scale != 0:
        raise ValueError(
            f"the command line takes one setting for a run, but the published one for {preset.model} is a schedule "
            "along it. Use guide(pipe, STG.preset(pipe)) from Python, or choose --layers, or --stg-scale 0 for no STG."
        )
    found: dict[str, Any] = {
        name: getattr(preset, _THEIRS.get(name, name)) if preset else plain for name, plain in GUIDANCE.items()
    }
    found |= {name: _model_default(name, pipe, preset) for name in _FROM_MODEL if getattr(settings, name) is None}
    found |= {"dtype": str(pipe.dtype).removeprefix("torch."), "device": str(pipe.device)}
    given = settings.model_dump()
    return checked({**given, **{name: value for name, value in found.items() if given[name] is None}})


def _preset(settings: Generation, pipe: Any) -> Preset | None:
    from skipguide import presets

    try:
        return presets.preset_for(pipe)
    except ValueError as error:
        if settings.layers is None and settings.stg_scale != 0:
            raise ValueError(f"{error} On the command line: --layers, or --stg-scale 0 for no STG.") from error
        return None


def _model_default(name: str, pipe: Any, preset: Preset | None) -> Any:
    theirs = _THEIRS.get(name, name)
    parameter = inspect.signature(pipe.__call__).parameters.get(theirs)
    candidates = (
        preset.defaults.get(theirs) if preset else None,
        parameter.default if parameter and parameter.default is not inspect.Parameter.empty else None,
        getattr(pipe, f"default_{theirs}", None),  # diffusers keeps some defaults there
        _DEFAULT_FPS if name == "fps" else None,
    )
    value = next((value for value in candidates if value is not None), None)
    if value is None and name not in _OPTIONAL:
        raise ValueError(
            f"{name} must be given for a {type(pipe).__name__}, which has no default for it, but got nothing. "
            f"Set it with {flag(name)}."
        )
    return value

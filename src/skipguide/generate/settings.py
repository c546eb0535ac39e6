"""The settings of one generation: the one schema of the command line, the YAML file and the record
beside a video.

What a user leaves out is None, or is missing in `guidance`; `resolve` fills it in from the model's
preset, so that what is stored with the video is complete and does not change its meaning when a
preset does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from skipguide.files.text import displayable
from skipguide.generate import parsing
from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.step_cache import parse_cache
from skipguide.method import validate
from skipguide.method.protocols import ReadOnlyData
from skipguide.models.fields import describe_field as _field
from skipguide.models.fields import validation_messages
from skipguide.models.settings import ModelSettings

if TYPE_CHECKING:
    from skipguide.families.preset_files import PresetFile
    from skipguide.method.request import GuidanceRequest


def _plain_guidance(value: Any) -> Any:
    if value is None or isinstance(value, dict):
        return value
    return {"preset": value.said()} if isinstance(value, GuidanceFlags) else value.to_dict()


def _plain_preset(value: Any) -> Any:
    return None if value is None else value.for_ledger()


# A PresetFile; Any for pydantic, which must not import torch.
PresetGiven = Annotated[Any, BeforeValidator(parsing.parse_preset), PlainSerializer(_plain_preset)]
# A GuidanceRequest, or what a preset makes one of. Any for pydantic, which must not import torch.
Guidance = Annotated[Any, BeforeValidator(parsing.parse_guidance), PlainSerializer(_plain_guidance)]
Fps = Annotated[
    Fraction | None, BeforeValidator(parsing.parse_fps), PlainSerializer(parsing.format_fps)
]
PictureFormat = Literal["png", "webp"]
StepCache = Annotated[str | None, BeforeValidator(parse_cache)]
Size = Annotated[int, Field(ge=2, multiple_of=2)]
_MAX_UNKNOWN = 5  # unknown names that an error repeats
_EVEN_PIXELS = "an even whole number of pixels (the mp4 needs it)"


class GenerationSettings(ModelSettings):
    """One video or picture. None means: from the model's preset or the model itself."""

    prompt: str | None = _field("a text", "What the video shows.")
    negative_prompt: str | None = _field(
        "a text", "What it should not show; used with CFG and with NAG."
    )
    image: str | None = _field(
        "the name of a picture file",
        "Picture that the video starts from, for models that take one. It is resized and cropped"
        " around its centre to the size of the video.",
        min_length=1,
    )
    image_fit: Literal["crop", "pad"] | None = _field(
        '"crop" or "pad"',
        "What is done to a picture of another shape than the video: crop what is too much, or pad"
        " what is missing with black.",
    )
    preset: PresetGiven = _field(
        "what is in a file that skipguide tune has written",
        "Setting of a file that `skipguide tune` wrote, or the name of one in"
        " ~/.config/skipguide/presets; what you set beside it wins.",
    )
    guidance: Guidance = _field(
        "preset, or lines such as terms: [{layers: [8], scale: 1.0}]",
        "What guide() is asked for; on the command line flags say it.",
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
    picture_format: PictureFormat | None = _field(
        '"png" or "webp"',
        "Of models that make pictures: the files that they are written as, both without loss.",
    )
    motion_bucket_id: int | None = _field("a whole number >= 0", "SVD: amount of motion.", ge=0)
    noise_aug_strength: float | None = _field(
        "a finite number >= 0", "SVD: noise put on the image.", ge=0
    )
    decode_chunk_size: int | None = _field(
        "a whole number >= 1", "Frames decoded at a time; fewer save memory.", ge=1
    )
    cache: StepCache = _field(
        "first-block or first-block=THRESHOLD >= 0, or taylor-seer or taylor-seer=STEPS >= 1",
        "Cache across steps of diffusers: first-block=0.05 leaves out the other blocks where the"
        " first one changes its input by less than that more than before; taylor-seer=4 computes"
        " every 4th step and predicts attention and feed-forward parts between.",
    )
    max_sequence_length: int | None = _field(
        "a whole number >= 1", "Text tokens that the model sees.", ge=1
    )

    # Of complete settings, whose `preset` is None, for they say all of it themselves: what filled
    # them in. It is no part of what is written down, nor of keys.
    _preset_file: Any = PrivateAttr(default=None)

    @property
    def preset_file(self) -> PresetFile | None:
        """The preset of one's own that filled in complete settings; None without one."""
        return self._preset_file

    def filled_in_by(self, file: PresetFile | None) -> GenerationSettings:
        """Return complete settings that know which preset of one's own filled them in."""
        found = self.model_copy()
        found._preset_file = file
        return found

    @property
    def makes_picture(self) -> bool:
        """Return whether complete settings make a picture, which has no frames per second."""
        return self.fps is None

    @property
    def noun(self) -> str:
        """Return "picture" or "video", as complete settings make one or the other."""
        return "picture" if self.makes_picture else "video"

    @property
    def suffix(self) -> str:
        """The suffix of the file of what complete settings make."""
        return f".{self.picture_format or 'png'}" if self.makes_picture else ".mp4"

    @property
    def request(self) -> GuidanceRequest:
        """The guidance of complete settings.

        Raises:
            TypeError: if something in it is still left to the preset of the model.
        """
        from skipguide.method.request import GuidanceRequest

        if not isinstance(self.guidance, GuidanceRequest):
            raise TypeError(f"guidance must be complete, but got {self.guidance!r}. Resolve it.")
        return self.guidance

    @model_validator(mode="after")
    def _check_combination(self) -> GenerationSettings:
        for text in (self.prompt, self.negative_prompt):
            if text is not None and text != displayable(text):
                raise ValueError(
                    "a prompt must be text in UTF-8, but"
                    f" {displayable(text)[:60]!r} has other bytes. Set the terminal to UTF-8, or"
                    " put the prompt into a file."
                )
        if self.prompt is None and self.image is None:
            raise ValueError(
                "a prompt, an image or both are needed, but got neither. Set them with PROMPT and"
                " --image, or as prompt and image in the config file."
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


def uses_guidance(settings: GenerationSettings) -> bool:
    """Return whether there is anything beside plain CFG, or may be from a preset."""
    guidance = GuidanceFlags() if settings.guidance is None else settings.guidance
    if isinstance(guidance, GuidanceFlags):
        extras = (
            guidance.cfg_rule, guidance.nag, guidance.restart, guidance.schedule, guidance.budget,
            guidance.has_modality, guidance.skip_step,
        )  # fmt: skip
        return _asks_for_stg(guidance, settings.preset) or guidance.has_more_terms or any(extras)
    return isinstance(guidance, dict) or not guidance.is_plain


def _asks_for_stg(flags: GuidanceFlags, file: PresetFile | None) -> bool:
    left_open = not (flags.sets_layers or flags.given_scales)
    return not (flags.is_off or (left_open and file is not None and file.is_cfg_alone))


def validate_settings(given: ReadOnlyData) -> GenerationSettings:
    """Return the settings in a mapping.

    Args:
        given: settings by their names. The names of flags are understood too, and are the
            `guidance`.

    Raises:
        ValueError: one line that says what a setting must be, what came and what to do; all that is
            wrong at once.
    """
    flags = {name: given[name] for name in given if name in GuidanceFlags.model_fields}
    rest = {name: value for name, value in given.items() if name not in flags}
    flags = {name: value for name, value in flags.items() if value is not None}
    problems = validate.ProblemCollector()
    if flags:
        with problems.attempt():
            rest["guidance"] = parsing.combine_guidance(rest.get("guidance"), flags)
    known = {name: rest[name] for name in rest if name in GenerationSettings.model_fields}
    if unknown := [name for name in rest if name not in known]:
        problems.messages.insert(0, _unknown_message(unknown))
    try:
        found = GenerationSettings.model_validate(known)
    except ValidationError as error:
        problems.messages += validation_messages(GenerationSettings, error)
        problems.raise_all()
        raise
    problems.raise_all()
    return found


def _unknown_message(names: Sequence[str]) -> str:
    """Say once which settings there are, and of each unknown name what was probably meant."""
    known = [*GenerationSettings.model_fields, *GuidanceFlags.model_fields]
    shown = ", ".join(map(repr, names[:_MAX_UNKNOWN]))
    more = f" and {len(names) - _MAX_UNKNOWN} more" if names[_MAX_UNKNOWN:] else ""
    start = f"a setting must be one of {', '.join(known)}, but got {shown}{more}."
    if len(names) == 1:
        return f"{start} {validate.did_you_mean(names[0], known, otherwise='Remove it.')}"
    near = {name: difflib.get_close_matches(name, known, 1) for name in names[:_MAX_UNKNOWN]}
    meant = [f"{close[0]!r} for {name!r}" for name, close in near.items() if close]
    advice = f"Did you mean {', '.join(meant)}?" if meant else "Remove them."
    return f"{start} {advice}"

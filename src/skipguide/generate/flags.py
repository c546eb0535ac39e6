"""The flags that say how a video is guided, and the same words as lines of a YAML file.

They are another spelling of a GuidanceRequest, for the command line: `--layers 8 --stg-scale 1` for
`guidance: {terms: [{layers: [8], scale: 1.0}]}`. What they leave out is the preset's of the model.
Nothing behind `generate.resolve` knows them.

Records of format 1, and what the keys of clips are made of, have all of them in full."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from skipguide.method import parsing, perturbations
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.fields import describe_field as _field
from skipguide.models.fields import validation_messages

if TYPE_CHECKING:
    from skipguide.families.presets import Preset
    from skipguide.method.terms import Schedule

Parts = PlainData


def _parse_layers(value: Any) -> Any:
    return value if value is None else parsing.parse_layers(value)


def _parse_rule(value: Any) -> Any:
    return parsing.parse_parts(value, "name") if isinstance(value, str) else value


def _parse_nag(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"scale": value}
    return parsing.parse_parts(value, "scale") if isinstance(value, str) else value


def _parse_bins(value: Any) -> Any:
    return value if isinstance(value, str) else parsing.parse_list(value, "sigma")


Layers = Annotated[tuple[int | str, ...] | None, BeforeValidator(_parse_layers)]
Rule = Annotated[Parts | None, BeforeValidator(_parse_rule)]
Nag = Annotated[Parts | None, BeforeValidator(_parse_nag)]
Restarts = Annotated[
    tuple[Parts, ...] | None, BeforeValidator(lambda value: parsing.parse_list(value, "window"))
]
Terms = Annotated[
    tuple[Parts, ...] | None, BeforeValidator(lambda value: parsing.parse_list(value, "layers"))
]
Mask = Annotated[str | Parts | None, Field()]
Skip = Literal["residual", "attention", "soft", "blur", "frames", "tokens", "shuffle"]
Bins = Annotated[tuple[Parts, ...] | str | None, BeforeValidator(_parse_bins)]
Every = Annotated[int | float | str | None, BeforeValidator(parsing.parse_every)]
Share = Annotated[float, Field(ge=0, le=1)]
_SCALE_REQUIREMENT = "a finite number >= 0 (0 is off)"
SCALE_AXES = {
    "stg_scale": None,
    "spatial_scale": "spatial",
    "temporal_scale": "temporal",
}  # flag -> axis of its term
# What the bins of a schedule say, or cannot: nothing but this may stand beside them.
_SCHEDULE_CONFLICTS = {
    "layers": (), "random_share": None, **dict.fromkeys(SCALE_AXES, 0.0), "orthogonalize": False,
    "skip": "residual", "strength": None, "normalize": False, "every": 1, "start": 0.0, "stop": 1.0,
    "rescale": 0.0, "audio_rescale": None, "slg_layers": None, "term": None, "modality_scale": None,
    "mask": None,
}  # fmt: skip
# What all terms that flags make share, and the defaults of STG().
_SHARED = {
    "skip": "residual", "strength": None, "normalize": False, "every": 1, "start": 0.0, "stop": 1.0,
    "mask": None,
}  # fmt: skip
_SLG_SHARED = ("skip", "strength", "start", "stop")
# The defaults of STG() and guide(), for models without a preset.
_PRESET_DEFAULTS = {
    "layers": (), "skip": "residual", "normalize": False, "start": 0.0, "stop": 1.0, "rescale": 0.0,
}  # fmt: skip
_NEUTRAL_DEFAULTS = {"orthogonalize": False, "every": 1}  # of no preset
_NEUTRAL_SPACE = {"rescale_space": "prediction"}
# As method/rule_table.py has them, which loads torch.
RULE_NAMES = (
    "apg", "apg-mix", "c2fg", "cfg-zero", "fdg", "interval", "mambo-g", "rectified", "reuse", "tag",
    "tcfg",
)  # fmt: skip
_OF_PLAIN_CFG = ("interval", "reuse")  # rules that leave the formula of CFG as it is
_MORE_TERMS = ("slg_layers", "term")  # younger than the keys of clips


class GuidanceFlags(BaseModel):
    """The guidance that flags ask for. None leaves a setting to the preset of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    layers: Layers = _field(
        parsing.LAYER_GRAMMAR,
        "Layers that the weak pass skips: 8, or 8,9, or 7-9, or single:7; with --skip attention,"
        " soft, blur or frames also heads of one: 20@3,7.",
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
        _SCALE_REQUIREMENT, "s of skipping in attention along time only, for these models.", ge=0
    )
    orthogonalize: bool | None = _field(
        "true or false", "Take from the temporal push its part along the spatial one (Eq. 21)."
    )
    random_share: float | None = _field(
        "a number above 0 and below 1",
        "Instead of layers: another draw of this share of them at every step, by the seed"
        " (S2-Guidance: 0.1).",
        gt=0,
        lt=1,
    )
    skip: Skip | None = _field(
        f"one of {', '.join(perturbations.PERTURBATIONS)}",
        "What is done to the layers. residual: the block returns its input. attention: its map is"
        " the identity; soft: a part of the way there. blur: queries are blurred. frames: each sees"
        " itself alone. tokens: each sees itself and the text. shuffle: they change places.",
    )
    strength: float | None = _field(
        "a finite number above 0",
        "soft: share of the identity (0.5). blur: sigma in tokens; left out, all queries are their"
        " mean.",
        gt=0,
    )
    normalize: bool | None = _field(
        "true or false", "Pushes of one length whatever the layer: scale times a tenth of c."
    )
    every: Every = _field(
        'a whole number >= 1, a share such as 0.5, or "auto"',
        "Run the weak pass at every n-th guided step, at a share of them (0.5), or where it changes"
        " (auto); in between it follows from the last ones.",
    )
    mask: Mask = _field(
        "the name of a picture or video file",
        "Picture or video that says where and when the push acts: white in full, black not at all."
        " Any size; one frame holds for all.",
    )
    slg_layers: Layers = _field(
        parsing.LAYER_GRAMMAR,
        "Layers that are skipped in the unconditional pass itself (Skip Layer Guidance). Without"
        " --layers or a scale there is no STG then.",
    )
    modality_scale: float | None = _field(
        "a finite number >= 1 (1 is off)",
        "LTX-2: push away from the model whose video and sound do not see each other, by this scale"
        " less 1; of the sound too. Its preset has 3.",
        ge=1,
    )
    term: Terms = _field(
        'a term and its parts, as in "layers=8,9 scale=1 skip=attention", or a list of them',
        "A term with parts of its own, once per term: 'layers=8,9 scale=1 skip=attention stop=0.5',"
        " 'layers=4 scale=1,0.5,0' (one scale per step), 'kind=slg layers=9',"
        " 'kind=modality scale=3 audio_scale=2', 'weak=without-lora scale=0.5' (the model without"
        " its LoRAs), 'weak=lora_1:0.3 scale=1' (the first --lora at that scale).",
    )
    schedule: Bins = _field(
        "a YAML file of bins, or a list of them",
        "YAML file of layers and scales by noise level, instead of them: - {sigma: [0.9, 1.1],"
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
    audio_rescale: Share | None = _field(
        "a number from 0 (off) to 1",
        "The same as --rescale, of the sound, for models that make both (LTX-2).",
    )
    cfg_rule: Rule = _field(
        f'one of {", ".join(RULE_NAMES)}, and its parts, as in "apg eta=0.2"',
        f"Instead of plain CFG: {', '.join(RULE_NAMES[:-1])} or {RULE_NAMES[-1]}, and its"
        " parts, as in 'interval window=0.1:0.9' or 'fdg gains=1.5:1'.",
    )
    nag: Nag = _field(
        'a scale from 1 (off) and its parts, as in "5 tau=2.5 alpha=0.25"',
        "Lead away from the negative prompt inside of attention (NAG), with CFG or without:"
        " '5 tau=2.5 alpha=0.25 stop=0.5', of which the scale suffices.",
    )
    budget: float | None = _field(
        "a number above 1",
        "Forward passes that a step may take on average (CFG alone: 2; without CFG as in 1.2): u"
        " and the weak passes are computed at as many steps as fit, and follow from the last ones"
        " in between.",
        gt=1,
    )
    skip_step: int | None = _field(
        "a whole number >= 0",
        "After each step that runs, steps in which the model does not run: the last estimate of the"
        " video is gone towards again. 0 is off.",
        ge=0,
    )
    restart: Restarts = _field(
        'an interval and its parts, as in "0.4:0.6 repeats=2" or "sigma=0.3:0.7"',
        "Do an interval of the run again with new noise, once per interval: '0.4:0.6 repeats=2', or"
        " 'sigma=0.3:0.7' of noise levels. '0.1:0.2 mask=0.25' renews only what the model is not"
        " sure of.",
    )
    exact: bool | None = _field(
        "true or false",
        "Make results that are equal to those of separate passes to the last bit. --no-exact keeps"
        " the pipeline's own batch [uncond, cond], and joins weak passes that start in one layer:"
        " faster on a GPU with few tokens, and the same but for rounding.",
    )

    @model_validator(mode="after")
    def _check_combination(self) -> GuidanceFlags:
        if self.start is not None and self.stop is not None and self.start >= self.stop:
            raise ValueError(
                "stop must be larger than start (step i of N is guided when start <= i/N < stop),"
                f" but got start={self.start:g}, stop={self.stop:g}. Widen the window, or switch"
                " STG off with stg_scale=0."
            )
        if self.skip is not None:
            perturbations.check_skip(self.skip, self.strength, 0)
        self._check_layers()
        self._check_schedule()
        self._check_orthogonalize()
        return self

    def _check_layers(self) -> None:
        if self.layers and self.random_share is not None:
            raise ValueError(
                "random_share draws the layers, so it cannot be combined with"
                f" layers={','.join(map(str, self.layers))}. Leave one of them out."
            )
        if self.layers == () and not (self.is_off or self.random_share or self.schedule):
            raise ValueError(
                "layers must name at least one layer, but got none. Name one, or leave layers out."
            )
        if self.slg_layers == () or self.term == ():
            raise ValueError(
                "slg_layers and term must name at least one layer, but got none. Leave them out."
            )

    def _check_schedule(self) -> None:
        both = [
            name
            for name, neutral in _SCHEDULE_CONFLICTS.items()
            if getattr(self, name) not in (None, neutral)
        ]
        if both and self.schedule is not None:
            raise ValueError(
                f"a schedule sets these per bin, so it cannot be combined with {', '.join(both)}."
                " Write that into the bins, or leave the schedule out."
            )

    def _check_orthogonalize(self) -> None:
        both = self.spatial_scale and self.temporal_scale
        if self.orthogonalize and self.given_scales and not both and self.term is None:
            raise ValueError(
                "orthogonalize needs a spatial_scale and a temporal_scale above 0, but got"
                f" {self.spatial_scale or 0:g} and {self.temporal_scale or 0:g}. Set both, or leave"
                " orthogonalize out."
            )

    @property
    def given_scales(self) -> dict[str, float]:
        """The scales of STG that are not left to the preset."""
        found = {name: getattr(self, name) for name in SCALE_AXES}
        return {name: scale for name, scale in found.items() if scale is not None}

    @property
    def sets_layers(self) -> bool:
        """True if nothing about the layers of STG is left to the preset."""
        return not (self.layers is self.random_share is self.schedule is None)

    @property
    def has_more_terms(self) -> bool:
        """True if there are terms that the keys of clips did not know before."""
        return any(getattr(self, name) for name in _MORE_TERMS)

    @property
    def has_modality(self) -> bool:
        """True if there is modality guidance."""
        return (self.modality_scale or 1.0) > 1.0

    @property
    def is_off(self) -> bool:
        """True if there is no STG by scale and layers: all given scales are 0, or other terms are
        given instead."""
        if not self.given_scales:
            return self.has_more_terms and not self.sets_layers
        return not any(self.given_scales.values())

    @property
    def needs_preset(self) -> bool:
        """True if the layers come from the preset."""
        return not self.sets_layers and not self.is_off

    @property
    def replaces_cfg(self) -> bool:
        """True if a rule replaces CFG at every step."""
        return self.cfg_rule is not None and self.cfg_rule.get("name") not in _OF_PLAIN_CFG

    def said(self) -> PlainData:
        """Return the flags that are given, ready for JSON."""
        return self.model_dump(mode="json", exclude_none=True)


def read_flags(given: ReadOnlyData) -> GuidanceFlags:
    """Read flags by their names; rules, restarts and schedules are checked part by part.

    Raises:
        ValueError: for all values that are wrong at once, or for what does not go together.
    """
    try:
        found = GuidanceFlags.model_validate(dict(given))
    except ValidationError as error:
        messages = validation_messages(GuidanceFlags, error)
        raise ValueError(" ".join(dict.fromkeys(messages))) from None
    _check_parts(found)
    return found


def _check_parts(flags: GuidanceFlags) -> None:
    """Import torch only where there is something to check, so that wrong flags are told at once."""
    parts = (flags.cfg_rule, flags.nag, flags.restart, flags.term, flags.mask)
    if not (any(parts) or isinstance(flags.schedule, tuple)):
        return
    from skipguide.method import masks, request, validate

    problems = validate.ProblemCollector()
    with problems.attempt():
        if flags.mask is not None:
            masks.read_mask(flags.mask)
    for term in flags.term or ():
        with problems.attempt():
            request.read_term(term)
    with problems.attempt():
        if isinstance(flags.schedule, tuple):
            request.read_schedule(flags.schedule)
    with problems.attempt():
        rest = {"cfg": flags.cfg_rule, "nag": flags.nag, "restart": flags.restart}
        request.GuidanceRequest.from_dict(rest)
    problems.raise_all()


# --- with a preset --------------------------------------------------------------------------------


def fill_in(flags: GuidanceFlags, preset: Preset | None) -> GuidanceFlags:
    """Return the flags with every None filled in, from the preset of the model where it has one.

    Raises:
        ValueError: for flags that do not go with what the preset says.
    """
    if preset and preset.schedule and flags.needs_preset:
        flags = flags.model_copy(update={"schedule": preset.schedule})
    found: PlainData = {
        name: getattr(preset, name) if preset else plain for name, plain in _PRESET_DEFAULTS.items()
    }
    found |= {**_fill_in_scales(flags, preset), **_NEUTRAL_DEFAULTS}
    found |= _fill_in_sound(flags, preset)
    if flags.random_share is not None or flags.schedule is not None:
        found["layers"] = ()
    if flags.schedule is not None:
        found |= {**dict.fromkeys(SCALE_AXES, 0.0), **_PRESET_DEFAULTS}  # bins have their own
    if flags.is_off:
        found["normalize"] = False
    if flags.is_off and not (flags.replaces_cfg or flags.has_modality):
        found["rescale"] = 0.0  # there is nothing whose deviation it could pull back
    found["strength"] = perturbations.resolve_strength(flags.skip or found["skip"], flags.strength)
    given = flags.model_dump()
    given["exact"] = False if flags.exact is False else None  # true is what nothing said is
    return read_flags(
        {**given, **{name: value for name, value in found.items() if given[name] is None}}
    )


def _fill_in_sound(flags: GuidanceFlags, preset: Preset | None) -> PlainData:
    """Return what a preset has beside layers and scales: the space of its rescaling where that is
    the preset's, and modality guidance where the layers are."""
    if preset is None or flags.is_off or flags.schedule is not None:
        return dict(_NEUTRAL_SPACE)
    space = preset.rescale_space if flags.rescale is None else "prediction"
    found: PlainData = {"rescale_space": space}
    if flags.rescale is None and preset.audio_rescale is not None:
        found["audio_rescale"] = preset.audio_rescale
    if flags.needs_preset and preset.modality_scale > 1:
        found["modality_scale"] = preset.modality_scale
    return found


def _fill_in_scales(flags: GuidanceFlags, preset: Preset | None) -> dict[str, float]:
    """Return scales for those that were left out: off beside one that was given, else the
    preset's."""
    if flags.given_scales or flags.is_off:
        return dict.fromkeys(SCALE_AXES, 0.0)
    plain = {"axis": preset.axis, "scale": preset.scale} if preset else {"axis": None, "scale": 1.0}
    terms = preset.terms if preset and preset.terms else (plain,)
    scales = {term["axis"]: term["scale"] for term in terms}
    return {name: scales.get(axis, 0.0) for name, axis in SCALE_AXES.items()}


# --- to and from a request ------------------------------------------------------------------------


def to_guidance(flags: GuidanceFlags, given: GuidanceFlags | None = None) -> PlainData:
    """Return what complete flags ask for as plain data of a GuidanceRequest.

    Args:
        flags: complete, as `fill_in` returns them.
        given: as they were before; SLG takes nothing from a preset of STG.
    """
    found = {
        "rescale_space": flags.rescale_space,
        "orthogonalize": flags.orthogonalize,
        "cfg": flags.cfg_rule,
        "nag": flags.nag,
        "restart": flags.restart,
        "budget": flags.budget,
        "exact": flags.exact,
        "skip_step": flags.skip_step,
    }
    if flags.schedule is not None:
        return {**found, "schedule": flags.schedule}
    drawn = flags.random_share
    layers = list(flags.layers or ()) if drawn is None else {"random": drawn}
    shared = {name: getattr(flags, name) for name in _SHARED}
    terms = [
        {"layers": layers, "scale": getattr(flags, name), "axis": axis, **shared}
        for name, axis in SCALE_AXES.items()
        if getattr(flags, name)
    ]
    if flags.slg_layers:
        own = (given or flags).said()
        parts = {name: own[name] for name in _SLG_SHARED if name in own}
        terms.append({"kind": "slg", "layers": list(flags.slg_layers), **parts})
    if flags.has_modality:
        terms.append({"kind": "modality", "scale": flags.modality_scale})
    terms += flags.term or ()
    acts = terms or flags.replaces_cfg  # a plan may have one rescale for all settings, CFG too
    rescaling = {"rescale": flags.rescale, "audio_rescale": flags.audio_rescale} if acts else {}
    return {**found, "terms": terms, "rescale": 0.0, **rescaling}


def from_guidance(content: ReadOnlyData) -> PlainData | None:
    """Return a complete request in the words of flags, or None if they cannot say it.

    Clips that were made when there was nothing but these words have keys of them.

    Args:
        content: what `GuidanceRequest.to_dict` wrote.
    """
    if not content.get("share_prefix", True):
        return None
    found: PlainData = {
        "layers": [], **dict.fromkeys(SCALE_AXES, 0.0), **_SHARED, **_NEUTRAL_DEFAULTS,
        **_NEUTRAL_SPACE, "rescale": 0.0,
    }  # fmt: skip
    same = (
        "rescale", "rescale_space", "orthogonalize", "schedule", "nag", "restart", "budget",
        "exact", "audio_rescale", "skip_step",
    )  # fmt: skip
    found |= {name: content[name] for name in same if name in content}
    if "cfg" in content:
        found["cfg_rule"] = content["cfg"]
    if any("seed" in entry for entry in content.get("schedule", ())):
        return None
    terms = _flat_terms(content.get("terms", []))
    if terms is None:
        return None
    return {name: value for name, value in {**found, **terms}.items() if value is not None}


def _flat_terms(terms: list[PlainData]) -> PlainData | None:
    """Return terms that are alike but for scale and axis as flags; None for others."""
    names = {axis: name for name, axis in SCALE_AXES.items()}
    shared = [
        {key: value for key, value in term.items() if key not in ("scale", "axis")}
        for term in terms
    ]
    axes = [term.get("axis") for term in terms]
    in_order = [axis for axis in names if axis in axes] == axes
    numbers = all(isinstance(term.get("scale"), float) and term["scale"] for term in terms)
    if not terms:
        return {}
    if not in_order or not numbers or any(other != shared[0] for other in shared):
        return None
    if not set(shared[0]) <= {"layers", *_SHARED}:  # SLG, a seed, a scale of the audio
        return None
    found = {**_SHARED, **shared[0], **{names[t.get("axis")]: t["scale"] for t in terms}}
    found["strength"] = perturbations.resolve_strength(found["skip"], found["strength"])
    if isinstance(found["layers"], dict):
        found |= {"layers": [], "random_share": found["layers"]["random"]}
    return found


def rows_in_full(schedule: Schedule) -> list[PlainData]:
    """Return the bins of a schedule with all their parts but those that are None and the seed."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, (tuple, list)) else value

    return [
        {
            field.name: plain(getattr(entry, field.name))
            for field in dataclasses.fields(entry)
            if field.name != "seed" and getattr(entry, field.name) is not None
        }
        for entry in schedule.bins
    ]

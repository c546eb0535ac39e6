"""The terms of the guidance that a user writes down: which layers, how strongly, when."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from skipguide.method import documents, formula, parsing, perturbations, validate
from skipguide.method.loras import WithLoRA, WithoutLoRA
from skipguide.method.masks import read_mask
from skipguide.method.reuse import DEFAULT_TOLERANCE, Every, Reuse

Layer = int | str
MAX_OUTPUTS = 2  # of a denoiser: video and audio


@dataclass(frozen=True)
class Random:
    """Skip a different random subset of the middle blocks at every step, instead of named layers.

    With skip="residual" this is S2-Guidance (arXiv 2508.12880), which draws a tenth of the blocks,
    never the first one, and uses scales of about 0.25. Here the last block is never drawn either.
    All blocks in between are equally likely; the term's seed decides.

    Args:
        share: the share of all blocks (of the term's axis) that is skipped, above 0 and below 1. It
            is rounded to a whole number of blocks, at least one.

    Raises:
        ValueError: for another share.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not validate.is_number(self.share) or not 0 < self.share < 1:
            raise ValueError(
                f"share must be a number above 0 and below 1, but got {self.share!r}. The usual is"
                " 0.1."
            )


@dataclass(frozen=True)
class STG:
    """Spatiotemporal Skip Guidance: push the prediction away from a weak pass (Eq. 13).

    The weak pass is the conditional pass with `layers` skipped.

    Args:
        layers: an int counts within the model's first stack of blocks; "stack:int" names the stack.
            "20@3,7" and "single:7@0-3" are heads of the self-attention of a layer, for a `skip`
            that changes its map; the others attend as they do. Or a Random.
        scale: s in the formula, >= 0; 0 is off. The paper uses 1.0 for residual and 2.0 for
            attention skip. A list has one for each step of the run; a step whose scale is 0 costs
            nothing.
        skip: "residual", the block returns its input (Eq. 15, STG-R), or "attention", the map of
            its self-attention is the identity over all tokens (Eq. 17, STG-A); or another way:
            "soft", "blur", "frames", "tokens", "shuffle" (skipguide.method.perturbations has
            them).
        axis: "spatial" or "temporal" for models with factorized attention; None for all of it.
        start, stop: fractions of the run; step i of N is guided when start <= i/N < stop.
        audio_scale: s for the audio of a model that makes both, >= 0; 0 is off, None is the same as
            `scale`.
        normalize: make the length of the push `scale` times a tenth of that of c, per sample and
            output, whatever the layers are. Their differences c - p are of very different lengths,
            so that scales of one layer say little about another.
        every: run the weak pass at every n-th of the guided steps only; or at a share of them, such
            as 0.5, placed where c - p changes most; or "auto", wherever reuse would err by more
            than `tolerance`. In between c - p is continued from the last ones (method/reuse.py). An
            approximation.
        tolerance: for every="auto", above 0: the error of all reused steps together, estimated, as
            a part of what the pushes do in the whole run. Steps are decided for the whole batch,
            by the sample that needs it most.
        extrapolate: 0 keeps the last c - p, 1 follows a line in the noise level through the last
            two, 2 a parabola through three. None is 0 for a number n, else 2.
        strength: of "soft" the share of the identity in the map, above 0 and up to 1 (None: 0.5);
            of "blur" the sigma in tokens, above 0 (None: infinite, all queries are their mean).
        seed: of what is drawn: the layers of a Random, the order of "shuffle". Another draw at
            every step.
        weak: another denoiser of the same signature in the place of this one with layers skipped:
            Autoguidance (Karras et al. 2024, arXiv 2406.02507). A smaller or less trained one for
            the same latents, text and device. Or this one with its LoRAs switched off for the weak
            pass, WithoutLoRA() (AutoLoRA, arXiv 2410.03941), or with one at another scale,
            WithLoRA(name, scale).
        mask: where and when the push acts, from 0 to 1: a tensor `(H, W)`, `(F, H, W)` or
            `(B, F, H, W)` in pixels or latents, or the name of a picture or video (white is 1).
            Each latent has the mean over the pixels and frames that it stands for. It multiplies
            the push at each place, after `normalize` and `orthogonalize` and before `rescale`,
            whose deviation is that of the whole; the push of a sound has no mask.

    Raises:
        ValueError: for anything outside these ranges, at once.
    """

    layers: Sequence[Layer] | Random = ()
    scale: float | Sequence[float] = 1.0
    skip: str = "residual"
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0
    audio_scale: float | None = None
    normalize: bool = False
    every: Every = 1
    strength: float | None = None
    seed: int = 0
    weak: Any = None
    tolerance: float = DEFAULT_TOLERANCE
    extrapolate: int | None = None
    mask: Any = None  # a PushMask, once the term is made
    source: str = field(
        default="", compare=False
    )  # where the setting comes from, if it is a preset
    preset_rescale: float = field(
        default=0.0, compare=False
    )  # the phi that was published with it; guide() takes it
    preset_options: Mapping[str, Any] = field(
        default_factory=dict, compare=False
    )  # other arguments of guide() that were; it takes those that are not given

    NEUTRAL_SCALE: ClassVar[float] = 0.0  # that switches the term off

    def __post_init__(self) -> None:
        _check_common_arguments(self)
        if not self._scale_list():
            raise ValueError(
                "a list of scales must have one for each step, but got an empty one. Write one"
                " number."
            )
        least = self.NEUTRAL_SCALE
        for scale in self._scale_list():
            validate.check_number(
                "scale", scale, least, math.inf, f"{least:g} switches the term off"
            )
        if self.audio_scale is not None:
            validate.check_number(
                "audio_scale",
                self.audio_scale,
                least,
                math.inf,
                f"{least:g} leaves the audio alone",
            )
        if not isinstance(self.normalize, bool):
            raise ValueError(
                f"normalize must be True or False, but got {self.normalize!r}. Leave it out for"
                " False."
            )
        self.reuse.check()
        if self.mask is not None:
            object.__setattr__(self, "mask", read_mask(self.mask))

    @property
    def reuse(self) -> Reuse:
        """When the weak pass runs, and how c - p is continued in between."""
        return Reuse(self.every, self.tolerance, self.extrapolate)

    @property
    def changes_lora(self) -> bool:
        """True if the weak model is the denoiser itself with other LoRAs."""
        return isinstance(self.weak, (WithoutLoRA, WithLoRA))

    @property
    def weak_model(self) -> Any:
        """The other denoiser that runs in the weak pass; None where the pipeline's own does."""
        return None if self.changes_lora else self.weak

    def _scale_list(self) -> list[Any]:
        return list(self.scale) if isinstance(self.scale, (list, tuple)) else [self.scale]

    @property
    def highest_scale(self) -> float:
        """Return `scale`, of a list the largest."""
        return max(self._scale_list())

    def scales(self, outputs: int, step: int | None = None) -> tuple[float, ...]:
        """Return s for each output of the denoiser: video, then audio if it has any.

        Args:
            step: of the run; None asks for the largest of all steps.
        """
        listed = self._scale_list()
        scale = max(listed) if step is None else listed[step if len(listed) > 1 else 0]
        audio = scale if self.audio_scale is None else self.audio_scale
        return tuple(one - self.NEUTRAL_SCALE for one in (scale, audio)[:outputs])

    def guided_steps(self, num_steps: int) -> list[int] | None:
        """Return the steps of a run in the window at which a scale is above 0.

        Returns:
            None for a list of scales of another length than the run.
        """
        if isinstance(self.scale, (list, tuple)) and len(self.scale) != num_steps:
            return None
        window = formula.steps_in_window(self.start, self.stop, num_steps)
        return [step for step in window if max(self.scales(MAX_OUTPUTS, step)) > 0]

    def check_steps(self, num_steps: int) -> None:
        """Check that a list of scales has one for each step of a run.

        Raises:
            ValueError: if it is not.
        """
        if isinstance(self.scale, (list, tuple)) and len(self.scale) != num_steps:
            raise ValueError(
                f"a list of scales must have one for each step, but this one has {len(self.scale)}"
                f" and the run {num_steps}. Write {num_steps}, or one number with start and stop."
            )

    @classmethod
    def preset(cls, pipe: Any, file: str | Path | None = None) -> STG | Schedule | tuple[STG, ...]:
        """Return the published setting for the model of a pipeline; `.source` says whose it is.

        The depth (and width) of the denoiser tells which model it is. A setting that changes
        along the run is a Schedule, and one of several terms a tuple; guide() takes them all.

        Args:
            file: a preset of one's own instead, as `skipguide tune` writes it: "tune.toml", or the
                name of one in ~/.config/skipguide/presets ($XDG_CONFIG_HOME), without ".toml". The
                log says with which guidance_scale it was measured, which is the pipeline's to set.

        Raises:
            ValueError: if no published setting is known for the pipeline's model; for a file that
                is no preset, or one for another model, or one whose answer is to use CFG alone.
        """
        # The one import upwards: presets are data about models, looked up when they are asked for.
        from skipguide.families import preset_files, presets

        if file is not None:
            return preset_files.stg_of_file(pipe, file)
        found = presets.to_terms(presets.preset_for(pipe))
        assert not isinstance(found, SLG)
        return found


@dataclass(frozen=True)
class Modality(STG):
    """Modality guidance, for models whose blocks let video and sound see each other (LTX-2).

        D <- D + (scale - 1) (c - p)

    p is the conditional pass without attention from sound to video and from video to sound, as
    LTX-2's own `modality_scale` has it. That pass starts at its first layer, as all weak passes do:
    with all of them it shares nothing, with the last twenty of 48 it costs what STG there costs.

    Args:
        scale: 1 or more; 1 is off, 3 is what LTX-2's makers use. A list has one for each step.
        audio_scale: the same for the sound; None is the same as `scale`.
        layers: the blocks in which video and sound do not see each other; () is all of them, as in
            LTX-2's own.
        options: start, stop, every, tolerance, extrapolate and normalize, as for STG.

    Raises:
        ValueError: for anything outside these ranges, at once.
    """

    scale: float | Sequence[float] = 3.0
    skip: str = perturbations.ISOLATION

    NEUTRAL_SCALE: ClassVar[float] = 1.0
    # Arguments of STG that say how layers are weakened, or which other model is.
    FOREIGN_ARGUMENTS: ClassVar[tuple[str, ...]] = ("skip", "axis", "strength", "seed", "weak")

    def __init__(
        self,
        scale: float | Sequence[float] = 3.0,
        audio_scale: float | None = None,
        layers: Sequence[Layer] = (),
        **options: Any,
    ) -> None:
        options = {"skip": perturbations.ISOLATION, **options}
        super().__init__(layers, scale, audio_scale=audio_scale, **options)

    def __post_init__(self) -> None:
        given = [
            entry.name
            for entry in fields(self)
            if entry.name in self.FOREIGN_ARGUMENTS and getattr(self, entry.name) != entry.default
        ]
        if given or isinstance(self.layers, Random):
            came = ", ".join(given) or repr(self.layers)
            raise ValueError(
                "Modality cuts the attention between video and sound in blocks that are named, or"
                f" in all of them, but got {came}. Leave that out, or use STG."
            )
        super().__post_init__()


@dataclass(frozen=True)
class SLG:
    """Skip Layer Guidance: skip `layers` in the unconditional pass, D = u~ + g (c - u~).

    It takes no extra pass. The arguments are those of STG, but for the scale: how far D is from u~
    is the pipeline's guidance_scale. Without CFG there is no unconditional pass to skip layers in,
    and such a run is refused.

    Raises:
        ValueError: for anything outside the ranges, at once.
    """

    layers: Sequence[Layer]
    skip: str = "residual"
    axis: str | None = None
    start: float = 0.0
    stop: float = 1.0
    strength: float | None = None
    seed: int = 0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.layers, Random):
            raise ValueError(
                "SLG skips layers that are named, but got a Random. Name them, or use STG."
            )
        _check_common_arguments(self)

    @classmethod
    def preset(cls, pipe: Any, file: str | Path | None = None) -> SLG:
        """Return the published setting for the model of a pipeline, as STG.preset does."""
        # The one import upwards: presets are data about models, looked up when they are asked for.
        from skipguide.families import preset_files, presets

        if file is not None:
            return preset_files.slg_of_file(pipe, file)
        found = presets.to_terms(presets.preset_for(pipe, "slg"))
        assert isinstance(found, SLG)
        return found


@dataclass(frozen=True)
class NAG:
    """Normalized Attention Guidance: away from the negative prompt, inside of attention.

    It makes the negative prompt work where there is no CFG: in distilled and few-step models. The
    video attends to the prompt and to the negative prompt, and what it gets of the prompt is pushed
    away from the other (arXiv 2505.21179; `formula.normalized_attention_push`). It acts in the
    conditional pass and, since these start from its states, in all weak passes; u is left alone.
    The negative prompt is that of the pipeline's call, the empty text where it has none.

    Args:
        scale: as in the authors' code and elsewhere (`nag_scale`), from 1, which is off. They use
            3 to 11.
        tau: the longest that a token's push may make it, as a multiple of its length, from 1.
        alpha: from 0, which is off, to 1: the part of the pushed result in the sum.
        layers: where it acts, as for STG; None is everywhere.
        start, stop: fractions of the run, as for STG. The authors' `nag_end` is `stop`; most of
            what it does is done in the first steps.

    Raises:
        ValueError: for anything outside these ranges, at once.
    """

    scale: float = 5.0
    tau: float = 2.5
    alpha: float = 0.25
    layers: Sequence[Layer] | None = None
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        validate.check_number("scale", self.scale, 1.0, math.inf, "1 is off")
        validate.check_number("tau", self.tau, 1.0, math.inf, "1 keeps the length")
        validate.check_number("alpha", self.alpha, 0.0, 1.0, "0 is off")
        if self.layers is not None:
            _check_layers(self.layers, "NAG")
        _check_window_bounds(self)

    @property
    def is_off(self) -> bool:
        """True if nothing is added anywhere."""
        return self.scale == 1 or self.alpha == 0


@dataclass(frozen=True)
class Bin:
    """One range of noise levels of a Schedule: low <= sigma < high, and what holds there.

    Args:
        sigma: (low, high), as the scheduler's `sigmas` have it, and 1 less that where they go up
            (`invert_sigmas`: Mochi); flow matching goes from 1 to 0, so that (0.5, 1.1) is the
            first part of the run.
        layers, scale, skip, strength, seed: as for STG; a scale of 0 (and no layers) leaves this
            range without a weak pass.
        guidance_scale: g of the CFG in this range, in the place of the pipeline's; None leaves it.
        rescale: phi in this range.
    """

    sigma: tuple[float, float]
    layers: Sequence[Layer] | Random = ()
    scale: float = 0.0
    skip: str = "residual"
    guidance_scale: float | None = None
    rescale: float = 0.0
    strength: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        pair = tuple(self.sigma) if isinstance(self.sigma, (list, tuple)) else ()
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in pair
        )
        if len(pair) != 2 or not numbers or not pair[0] < pair[1]:
            raise ValueError(
                "sigma must be a pair (low, high) of numbers with low < high, but got"
                f" {self.sigma!r}. Write [0, 1.1]."
            )
        object.__setattr__(self, "sigma", pair)
        validate.check_number("scale", self.scale, 0.0, math.inf, "0 switches the bin off")
        validate.check_number("rescale", self.rescale, 0.0, 1.0, "0 is off")
        if self.guidance_scale is not None:
            validate.check_number(
                "guidance_scale", self.guidance_scale, 0.0, math.inf, "1 is no CFG"
            )
        if self.scale > 0:
            self.term()

    def term(self) -> STG:
        """Return the STG term that holds in this range."""
        return STG(self.layers, self.scale, self.skip, strength=self.strength, seed=self.seed)


@dataclass(frozen=True)
class Schedule:
    """STG whose layers, scale, CFG scale and rescaling depend on the noise level.

    LTX-Video 13B publishes such a setting.

    Args:
        bins: ranges of sigma that do not overlap; a step outside all of them is not guided and its
            CFG is left alone.

    Raises:
        ValueError: for no bins, or two that overlap.
    """

    bins: Sequence[Bin]
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.bins or not all(isinstance(entry, Bin) for entry in self.bins):
            raise ValueError(
                f"Schedule needs one or more Bin, but got {self.bins!r}. Write Schedule([Bin((0,"
                " 1), [9], 1.0)])."
            )
        ordered = sorted(self.bins, key=lambda entry: entry.sigma)
        for lower, upper in itertools.pairwise(ordered):
            if upper.sigma[0] < lower.sigma[1]:
                raise ValueError(
                    f"the bins of a Schedule must not overlap, but {lower.sigma} and {upper.sigma}"
                    " do. Move a bound."
                )

    @classmethod
    def from_yaml(cls, path: str | Path) -> Schedule:
        """Read bins from a YAML file.

        The file holds a list of the arguments of Bin, or such a list as `bins:` beside `source:`.

            - {sigma: [0.9, 1.1], layers: [11, 25], scale: 4.0, guidance_scale: 6.0}
            - {sigma: [0.0, 0.9], layers: [28], scale: 2.0, rescale: 0.7}

        Raises:
            ValueError: for a file that cannot be read, or that says something else.
        """
        import yaml

        known = [entry.name for entry in fields(Bin)]
        try:
            found = documents.load_yaml(Path(path).read_text(encoding="utf-8"))
        except (
            OSError,
            ValueError,
            yaml.YAMLError,
        ) as error:  # ValueError: no UTF-8; a date that is none
            raise ValueError(
                f"a schedule must be a YAML file that can be read, but {path} cannot:"
                f" {documents.advise(error, 'Check it.')}"
            ) from error
        source = found.get("source", "") if isinstance(found, dict) else ""
        bins = found.get("bins") if isinstance(found, dict) else found
        if not isinstance(bins, list) or not all(
            isinstance(row, dict) and set(row) <= set(known) for row in bins
        ):
            came = _describe_invalid_bins(bins, known)
            raise ValueError(
                f"a schedule must be a list of bins with {', '.join(known)}, but {path} has {came}."
                f" {_advice_on_bins(bins, known)}"
            )
        if not all("sigma" in row for row in bins):
            raise ValueError(
                f"every bin of a schedule must have sigma: [low, high], but one of {path} has none."
            )
        return cls([Bin(**row) for row in bins], source=str(source))

    def at(self, sigma: float) -> Bin | None:
        """Return the bin that holds at a noise level."""
        return next(
            (entry for entry in self.bins if entry.sigma[0] <= sigma < entry.sigma[1]), None
        )

    def without_cfg(self) -> Schedule:
        """Return the schedule without its guidance scales, for a model that runs without CFG."""
        bins = [dataclasses.replace(entry, guidance_scale=None) for entry in self.bins]
        return Schedule(bins, source=self.source)


def _describe_invalid_bins(bins: Any, known: Sequence[str]) -> str:
    """Name what a file has instead of bins, without quoting it.

    Whoever sees the error may not be allowed to read the file.
    """
    if not isinstance(bins, list) or not all(isinstance(row, dict) for row in bins):
        return "something else"
    return ", ".join(sorted({str(name) for row in bins for name in row} - set(known)))


def _advice_on_bins(bins: Any, known: list[str]) -> str:
    rows = [row for row in bins if isinstance(row, dict)] if isinstance(bins, list) else []
    unknown = dict.fromkeys(str(name) for row in rows for name in row if name not in known)
    advice = dict.fromkeys(validate.did_you_mean(name, known, otherwise="") for name in unknown)
    return " ".join(filter(None, advice)) or (
        "Write lines like - {sigma: [0.9, 1.1], layers: [11], scale: 2.0}."
    )


def _check_common_arguments(term: STG | SLG) -> None:
    """Check the arguments that STG and SLG share."""
    if getattr(term, "weak", None) is not None:
        _check_weak_model(term)
    elif not (isinstance(term.layers, Random) or _takes_all_layers(term)):
        _check_layers(term.layers, type(term).__name__)
    if not isinstance(term, Modality):
        perturbations.check_skip(term.skip, term.strength, term.seed)
        _check_heads(term)
    if term.axis not in (None, "spatial", "temporal"):
        raise ValueError(
            f'axis must be "spatial", "temporal" or None, but got {term.axis!r}. Choose one of'
            " them."
        )
    _check_window_bounds(term)


def _check_window_bounds(term: STG | SLG | NAG) -> None:
    validate.check_number("start", term.start, 0.0, 1.0, "it is a fraction of the run")
    validate.check_number("stop", term.stop, 0.0, 1.0, "it is a fraction of the run")
    if term.start >= term.stop:
        raise ValueError(
            f"the window start={term.start}, stop={term.stop} selects no step: step i of N is"
            " guided when start <= i/N < stop. Make stop larger than start."
        )


def _takes_all_layers(term: STG | SLG) -> bool:
    return isinstance(term, Modality) and isinstance(term.layers, (list, tuple)) and not term.layers


def _check_weak_model(term: Any) -> None:
    own = {"layers": (), "skip": "residual", "axis": None, "strength": None}
    given = [name for name, default in own.items() if getattr(term, name) != default]
    if given:
        raise ValueError(
            "weak is a model of its own, of which no layers are skipped, but it came with"
            f" {', '.join(given)}. Leave that out, or weak."
        )
    if not (term.changes_lora or callable(getattr(term.weak, "forward", None))):
        raise ValueError(
            f"weak must be a denoiser, WithoutLoRA() or WithLoRA(name, scale), but got"
            f" {term.weak!r}. Write weak=another_pipe.transformer, for example."
        )


def _check_layers(layers: Any, kind: str) -> None:
    if isinstance(layers, (int, str)) or not isinstance(layers, Sequence):
        written = list(layers) if isinstance(layers, (set, frozenset)) else [layers]
        raise ValueError(
            f"layers must be a list of layers, but got {layers!r}. Write layers={written!r}."
        )
    if len(layers) == 0:
        raise ValueError(
            f"{kind} needs at least one layer{'' if kind == 'NAG' else ' to skip'}, but got an"
            " empty list. Name one, as in layers=[9]."
        )
    for layer in layers:
        _check_layer(layer)
    repeated = sorted({str(layer) for layer in layers if list(layers).count(layer) > 1})
    if repeated:
        raise ValueError(
            f"each layer may be named once, but got {', '.join(repeated)} repeatedly. Remove the"
            " copies."
        )


def _check_layer(layer: Any) -> None:
    name, at, heads = layer.partition("@") if isinstance(layer, str) else ("", "", "")
    parts = name.split(":")
    is_named = len(parts) == 2 or (bool(at) and len(parts) == 1)
    if isinstance(layer, bool) or not (
        isinstance(layer, int) or (is_named and parts[-1].isdecimal())
    ):
        raise ValueError(
            f'a layer must be an int or "stack:int", but got {layer!r}. Write layers=[34] or'
            ' layers=["blocks:34"]; heads of it are layers=["34@3,7"].'
        )
    if at:
        parsing.parse_heads(heads)


def _check_heads(term: STG | SLG) -> None:
    """Check that heads are named only where something is done to each of them apart."""
    layers = () if isinstance(term.layers, Random) else term.layers
    named = next((layer for layer in layers if parsing.split_heads(layer)[1]), None)
    if named is None or perturbations.changes_attention(term.skip):
        return
    kinds = [
        f'"{name}"' for name in perturbations.PERTURBATIONS if perturbations.changes_attention(name)
    ]
    raise ValueError(
        f"heads must come with a skip that changes an attention ({', '.join(kinds)}), but got"
        f' {named!r} with skip="{term.skip}", which changes whole blocks. Leave the heads out, or'
        ' write skip="attention".'
    )


def explicit_layers(term: STG) -> list[int | str]:
    """Return the layers of a term that names them.

    Raises:
        TypeError: for one that draws them.
    """
    if not isinstance(term.layers, (list, tuple)):
        raise TypeError(f"layers must be named, but got {term.layers!r}. List them.")
    return list(term.layers)


def check_window(window: tuple[float, float], num_steps: int) -> None:
    """Check that the window of a term, or of a rule, selects a step of a run.

    Raises:
        ValueError: if it selects none.
    """
    start, stop = window
    if not formula.steps_in_window(start, stop, num_steps):
        low, high = formula.nearest_window(start, stop, num_steps)
        raise ValueError(
            f"the window start={start}, stop={stop} must select a step, but selects none of the "
            f"{num_steps} of this run (step i of N is guided when start <= i/N < stop). Write"
            f" start={low:g}, stop={high:g} for the step in whose part of the run it lies, or take"
            " more steps."
        )

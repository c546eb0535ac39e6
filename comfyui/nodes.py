"""The nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers  # pyright: ignore[reportMissingImports]
from comfy_api.latest import ComfyExtension, io, ui  # pyright: ignore[reportMissingImports]

from . import layers, schedule
from .models import Place, places_of
from .step import KEY, with_terms
from .terms import SKIPS, SPACES, Term, Window, in_words

CATEGORY = "skipguide"
PUBLISHED, CUSTOM = "published for this model", "custom"


# --- inputs that nodes have in common ---------------------------------------------------------------------------------


def _model() -> Any:
    return io.Model.Input(
        "model", tooltip="The model to guide; LoRA, GGUF and fp8 are fine, its weights are not touched."
    )


def _preset(names: Sequence[str]) -> Any:
    tooltip = "A published setting by name, or custom: only then the inputs below count."
    return io.Combo.Input("preset", options=[CUSTOM, PUBLISHED, *names], default=CUSTOM, tooltip=tooltip)


def _what(default: str) -> list[Any]:
    return [
        io.String.Input("layers", default=default, tooltip="Blocks to skip, from 0: 9, or 9,10, or 7-9, or single:3."),
        io.Combo.Input(
            "skip",
            options=SKIPS,
            default="residual",
            tooltip="residual: the block returns its input; attention: its self-attention returns the values.",
        ),
    ]


def _percent(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def _when(start: float, end: float) -> list[Any]:
    return [
        _percent("start_percent", start, "Where in the run the guidance begins."),
        _percent("end_percent", end, "Where in the run the guidance ends."),
    ]


def _term_inputs() -> list[Any]:
    scale = "How far to push away from the weak pass; 0 is off and costs nothing."
    rescale = "How much of the spread of the conditional estimate is given back to the result; 0 is off, 1 is full."
    space = (
        "What the spread is taken of: the prediction of the model, as in the paper, or the data, as in core's nodes."
    )
    share = "Start the weak pass at the first skipped block, where the strong pass already is; off only to compare."
    return [
        _preset(schedule.names("stg")),
        *_what("9"),
        io.Float.Input("scale", default=1.0, min=0.0, max=20.0, step=0.05, tooltip=scale),
        *_when(0.0, 1.0),
        _percent("rescale", 0.0, rescale),
        io.Combo.Input("rescale_of", options=SPACES, default="prediction", tooltip=space, optional=True),
        io.Boolean.Input("share_prefix", default=True, tooltip=share, optional=True),
    ]


# --- from inputs to terms ---------------------------------------------------------------------------------------------


def _layers_error(preset: str | None, text: str | None) -> bool | str:
    """What ComfyUI shows at the node before anything runs; inputs that come from other nodes are None here."""
    if preset != CUSTOM or text is None:
        return True
    try:
        layers.parsed(text)
    except ValueError as error:
        return str(error)
    return True


def _window(model: Any, start: float, end: float) -> Window:
    if not start < end:
        raise ValueError(f"end_percent must be above start_percent, but got {start:g} to {end:g}. Swap them.")
    sampling = model.get_model_object("model_sampling")
    return Window(float(sampling.percent_to_sigma(end)), float(sampling.percent_to_sigma(start)))


def _row(model: Any, preset: str, kind: str) -> dict[str, Any]:
    diffusion_model = model.get_model_object("diffusion_model")
    if preset == PUBLISHED:
        return schedule.recommended(diffusion_model, kind)
    return schedule.preset(preset, diffusion_model)


def _term(model: Any, kind: str, inputs: dict[str, Any]) -> Term:
    """The term of a node's inputs; a preset's row takes the place of what it has."""
    if inputs["preset"] != CUSTOM:
        row = _row(model, inputs["preset"], kind)
        found = {"start_percent": row.get("start", 0.0), "end_percent": row.get("stop", 1.0)}
        found |= {"layers": schedule.words(row["layers"]), "skip": row["skip"], "rescale": row.get("rescale", 0.0)}
        inputs = {**inputs, **found, "scale": row["scale"], "rescale_of": "prediction"}
    return Term(
        layers.parsed(inputs["layers"]),
        _window(model, inputs["start_percent"], inputs["end_percent"]),
        1.0 if kind == "slg" else inputs["scale"],
        inputs["skip"],
        inputs.get("rescale", 0.0),
        inputs.get("rescale_of", "prediction"),
        inputs.get("share_prefix", True),
        kind,
    )


# --- the nodes --------------------------------------------------------------------------------------------------------


class _OfLayers(io.ComfyNode):
    """A node that is asked for layers."""

    @classmethod
    def validate_inputs(cls, preset: str | None = None, layers: str | None = None) -> bool | str:
        return _layers_error(preset, layers)


class SkipGuideSTG(_OfLayers):
    """A weak pass beside the others, and a push away from it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SkipGuideSTG",
            display_name="Spatiotemporal Skip Guidance",
            category=CATEGORY,
            description="Pushes each step away from a weak pass that skips some blocks. Several of these nodes add up.",
            inputs=[_model(), *_term_inputs()],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(with_terms(model, [_term(model, "stg", inputs)]))


class SkipGuideSLG(_OfLayers):
    """Layers skipped in the unconditional pass itself: no extra pass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SkipGuideSLG",
            display_name="Skip Layer Guidance (uncond)",
            category=CATEGORY,
            description="Skips blocks in the unconditional pass: cheaper than plain CFG, and nothing without it.",
            inputs=[_model(), _preset(schedule.names("slg")), *_what("9"), *_when(0.1, 0.9)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(with_terms(model, [_term(model, "slg", inputs)]))


class SkipGuideSchedule(io.ComfyNode):
    """Layers, scale, CFG and rescaling that change with the noise level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        bins = "One range of noise levels a line: sigma=low..high, then any of layers, scale, cfg, rescale and skip."
        example = "sigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5 skip=attention\nsigma=0..0.9 layers=28 cfg=1"
        return io.Schema(
            node_id="SkipGuideSchedule",
            display_name="Skip Guidance Schedule",
            category=CATEGORY,
            description="Skip guidance by noise level. A bin's cfg takes the place of the sampler's.",
            inputs=[
                _model(),
                _preset(schedule.names("stg", scheduled=True)),
                io.String.Input("bins", multiline=True, default=example, tooltip=bins),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None, bins: str | None = None) -> bool | str:
        if preset == CUSTOM and bins is not None:
            try:
                schedule.read(bins)
            except ValueError as error:
                return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, preset: str, bins: str) -> io.NodeOutput:
        diffusion_model = model.get_model_object("diffusion_model")
        if preset == CUSTOM:
            found = schedule.read(bins)
        elif preset == PUBLISHED:
            found = schedule.bins_of(schedule.recommended(diffusion_model, "stg", scheduled=True))
        else:
            found = schedule.bins_of(schedule.preset(preset, diffusion_model))
        scales = [(entry.window, entry.cfg) for entry in found if entry.cfg is not None]
        return io.NodeOutput(with_terms(model, [entry.term for entry in found if entry.term], scales))


class SkipGuideGuider(_OfLayers):
    """CFG and skip guidance in one guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SkipGuideGuider",
            display_name="Skip Guidance Guider",
            category=CATEGORY,
            description="For SamplerCustomAdvanced: CFGGuider and Spatiotemporal Skip Guidance in one node.",
            inputs=[
                _model(),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; not used where cfg is 1."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="The CFG scale; 1 is no CFG."),
                *_term_inputs(),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, cfg: float, **inputs: Any) -> io.NodeOutput:
        guider = comfy.samplers.CFGGuider(with_terms(model, [_term(model, "stg", inputs)]))
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class SkipGuideInfo(io.ComfyNode):
    """What can be skipped in a model, and what it costs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SkipGuideInfo",
            display_name="Skip Guidance Info",
            category=CATEGORY,
            description="Lists the blocks of a model, the published settings for it, and what the terms on it cost.",
            inputs=[_model()],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        text = _info(model)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _info(model: Any) -> str:
    diffusion_model = model.get_model_object("diffusion_model")
    places = places_of(diffusion_model)
    depths = layers.depths_of(places).items()
    lines = [f"{type(diffusion_model).__name__}: " + ", ".join(f"{name}:0 to {name}:{n - 1}" for name, n in depths)]
    for term in model.model_options.get(KEY, ()):
        lines.append(f"{in_words([term])}: {cost(term, places):.2f} of a forward pass")
    published = [name for name, row in schedule.presets().items() if schedule.fits(row, diffusion_model)]
    return "\n".join([*lines, f"published for it: {', '.join(published) or 'nothing'}"])


def cost(term: Term, places: Sequence[Place]) -> float:
    """What a guided step takes beside its other passes, in forward passes; negative where a term spares blocks."""
    chosen = layers.chosen(term.layers, places)
    spared = len(chosen) if term.skip == "residual" else 0
    if term.kind == "slg":
        return -spared / len(places)
    before = chosen[0].position if term.shared else 0
    return (len(places) - before - spared) / len(places)


class SkipGuide(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SkipGuideSTG, SkipGuideSLG, SkipGuideSchedule, SkipGuideGuider, SkipGuideInfo]

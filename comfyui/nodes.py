"""The nodes: their inputs, and the request that each of them puts on a model."""

from __future__ import annotations

from typing import Any

import comfy.samplers  # pyright: ignore[reportMissingImports]
from comfy_api.latest import io, ui  # pyright: ignore[reportMissingImports]

from ._skipguide.families.presets import Preset
from ._skipguide.method.request import GuidanceRequest
from ._skipguide.method.terms import SLG, STG, Modality
from .bins import read_schedule
from .node_request import SKIPS, SPACES, NodeRequest, read_layers, schedule_request
from .page import describe_costs, say_request, schema_of
from .published import named_preset, preset_names, preset_schedule, presets_for, recommended_preset
from .step import chain_of, requests_of, with_request

PUBLISHED, CUSTOM = "published for this model", "custom"
EXAMPLE_BINS = (
    "sigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5 skip=attention\n"
    "sigma=0..0.9 layers=28 cfg=1"
)
TIPS = {
    "model": "The model to guide. LoRA, GGUF and fp8 are fine: its weights are not touched.",
    "preset": "A published setting by name, or custom: only then the inputs below count.",
    "layers": "Blocks to skip, from 0: 9, or 9,10, or 7-9, or single:3.",
    "skip": "residual: the block returns its input; attention: its self-attention returns the"
    " values.",
    "scale": "How far to push away from the weak pass; 0 is off and costs nothing.",
    "start_percent": "Where in the run the guidance begins.",
    "end_percent": "Where in the run the guidance ends.",
    "rescale": "How much of the spread of the conditional estimate the result gets back; 0 is off,"
    " 1 is full.",
    "rescale_of": "What the spread is taken of: the prediction of the model, as in the paper, or"
    " the data, as in core's nodes.",
    "share_prefix": "Start the weak pass at the first skipped block, where the conditional pass"
    " already is; off only to compare.",
    "normalize": "Give the push the length of scale times a tenth of the prediction, whatever the"
    " layers are.",
    "audio_scale": "The scale of the sound of LTX-2 and MiniMax H3; -1 is the same as the video's.",
    "modality_scale": "LTX-2: push away from a pass without attention between video and sound too,"
    " as core's LTXVModalityGuidance; 1 is off. With it layers may be empty.",
    "audio_rescale": "The rescale of the sound of LTX-2 and MiniMax H3; -1 is the same as the"
    " video's.",
    "bins": "One range of noise levels a line: sigma=low..high, then any of layers, scale, cfg,"
    " rescale and skip.",
    "positive": "The prompt.",
    "negative": "The negative prompt; not used where cfg is 1.",
    "cfg": "The CFG scale; 1 is no CFG.",
}


# --- inputs ---------------------------------------------------------------------------------------


def _number(name: str, default: float, high: float = 1.0, step: float = 0.001) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=high, step=step, tooltip=TIPS[name])


def _sound(name: str, default: float, low: float, high: float, step: float) -> Any:
    return io.Float.Input(
        name, default=default, min=low, max=high, step=step, tooltip=TIPS[name], optional=True
    )


def _choice(name: str, options: list[str], default: str, **extra: Any) -> Any:
    return io.Combo.Input(name, options=options, default=default, tooltip=TIPS[name], **extra)


def _text(name: str, default: str, **extra: Any) -> Any:
    return io.String.Input(name, default=default, tooltip=TIPS[name], **extra)


def _preset(kind: str, scheduled: bool = False) -> Any:
    return _choice("preset", [CUSTOM, PUBLISHED, *preset_names(kind, scheduled)], CUSTOM)


def _layers_and_skip() -> list[Any]:
    return [_text("layers", "9"), _choice("skip", SKIPS, "residual")]


def _window(start: float, end: float) -> list[Any]:
    return [_number("start_percent", start), _number("end_percent", end)]


def _stg_inputs() -> list[Any]:
    return [
        _preset("stg"),
        *_layers_and_skip(),
        _number("scale", 1.0, high=20.0, step=0.05),
        *_window(0.0, 1.0),
        _number("rescale", 0.0),
        _choice("rescale_of", SPACES, "prediction", optional=True),
        io.Boolean.Input("share_prefix", default=True, tooltip=TIPS["share_prefix"], optional=True),
        io.Boolean.Input("normalize", default=False, tooltip=TIPS["normalize"], optional=True),
        _sound("audio_scale", -1.0, -1.0, 20.0, 0.05),
        _sound("modality_scale", 1.0, 1.0, 20.0, 0.1),
        _sound("audio_rescale", -1.0, -1.0, 1.0, 0.001),
    ]


def _schema(
    node: str, title: str, description: str, inputs: list[Any], output: Any, **extra: Any
) -> io.Schema:
    """Return the schema of a node, whose first input is the model."""
    return schema_of(
        node_id=node,
        display_name=title,
        category="skipguide",
        description=description,
        inputs=[io.Model.Input("model", tooltip=TIPS["model"]), *inputs],
        outputs=[output],
        **extra,
    )


# --- from inputs to requests ----------------------------------------------------------------------


def _named_row(model: Any, preset: str, kind: str, scheduled: bool = False) -> Preset | None:
    """Return the row of a preset; None for custom."""
    if preset == CUSTOM:
        return None
    if preset == PUBLISHED:
        return recommended_preset(chain_of(model), kind, scheduled)
    return named_preset(preset, chain_of(model))


def _with_preset(model: Any, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node; those that a preset has take the place of the given ones."""
    row = _named_row(model, inputs["preset"], kind)
    return inputs if row is None else {**inputs, **inputs_of_row(row)}


def inputs_of_row(row: Preset) -> dict[str, Any]:
    """Return a setting of one term as the inputs of a node."""
    return {
        "layers": row.layers, "skip": row.skip, "scale": row.scale, "start_percent": row.start,
        "end_percent": row.stop, "rescale": row.rescale, "rescale_of": row.rescale_space,
        "normalize": row.normalize, "audio_scale": -1.0, "modality_scale": row.modality_scale,
        "audio_rescale": -1.0 if row.audio_rescale is None else row.audio_rescale,
    }  # fmt: skip


def stg_request(model: Any, inputs: dict[str, Any]) -> NodeRequest:
    """Return the request of the inputs of a node, or of the preset that they name."""
    inputs = _with_preset(model, "stg", inputs)
    guidance = GuidanceRequest(
        terms=_stg_terms(inputs),
        rescale=inputs["rescale"],
        audio_rescale=_unless_minus_one(inputs.get("audio_rescale")),
        rescale_space=inputs.get("rescale_of", "prediction"),
        share_prefix=inputs.get("share_prefix", True),
    )
    return NodeRequest(guidance, percents=_percents(inputs))


def _stg_terms(inputs: dict[str, Any]) -> tuple[STG, ...]:
    layers, modality = inputs["layers"], inputs.get("modality_scale", 1.0)
    apart = (Modality(modality),) if modality > 1 else ()
    if apart and not (layers.strip() if isinstance(layers, str) else layers):
        return apart
    audio_scale = _unless_minus_one(inputs.get("audio_scale"))
    normalize = inputs.get("normalize", False)
    return (
        STG(read_layers(layers), inputs["scale"], inputs["skip"], audio_scale=audio_scale,
            normalize=normalize),
        *apart,
    )  # fmt: skip


def _unless_minus_one(value: float | None) -> float | None:
    """Return a number that a widget may leave open, for widgets have no empty value."""
    return None if value is None or value < 0 else value


def slg_request(model: Any, inputs: dict[str, Any]) -> NodeRequest:
    inputs = _with_preset(model, "slg", inputs)
    guidance = GuidanceRequest(terms=(SLG(read_layers(inputs["layers"]), inputs["skip"]),))
    return NodeRequest(guidance, percents=_percents(inputs))


def _percents(inputs: dict[str, Any]) -> tuple[float, float]:
    start, end = inputs["start_percent"], inputs["end_percent"]
    if not start < end:
        raise ValueError(
            f"end_percent must be above start_percent, but start_percent is {start:g} and"
            f" end_percent is {end:g}. Swap them."
        )
    return start, end


def _problem(read: Any, preset: str | None, text: str | None) -> bool | str:
    """Return what ComfyUI is to show at the node before anything runs; True if all is well.

    Inputs that come from other nodes are None here.
    """
    if preset == CUSTOM and text is not None:
        try:
            read(text)
        except ValueError as error:
            return str(error)
    return True


# --- the nodes ------------------------------------------------------------------------------------


class _LayersNode(io.ComfyNode):
    """A node that asks for layers."""

    @classmethod
    def validate_inputs(
        cls, preset: str | None = None, layers: str | None = None, modality_scale: float = 1.0
    ) -> bool | str:
        if modality_scale > 1 and layers is not None and not layers.strip():
            return True  # video and sound apart, and no layers
        return _problem(lambda text: STG(read_layers(text)), preset, layers)


class SkipGuideSTG(_LayersNode):
    """Push each step away from a weak pass beside the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        description = (
            "Pushes each step away from a weak pass that skips some blocks. Several of these nodes"
            " add up."
        )
        title = "Spatiotemporal Skip Guidance"
        return _schema("SkipGuideSTG", title, description, _stg_inputs(), io.Model.Output())

    @classmethod
    def execute(cls, model: Any, **inputs: Any) -> io.NodeOutput:
        request = stg_request(model, inputs)
        said = say_request(model, request, _named_row(model, inputs["preset"], "stg"))
        return io.NodeOutput(with_request(model, request), ui=said)


class SkipGuideSLG(_LayersNode):
    """Skip layers in the unconditional pass itself, without an extra pass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        description = (
            "Skips blocks in the unconditional pass: cheaper than plain CFG, and nothing without"
            " it."
        )
        inputs = [_preset("slg"), *_layers_and_skip(), *_window(0.1, 0.9)]
        title = "Skip Layer Guidance (uncond)"
        return _schema("SkipGuideSLG", title, description, inputs, io.Model.Output())

    @classmethod
    def execute(cls, model: Any, **inputs: Any) -> io.NodeOutput:
        request = slg_request(model, inputs)
        said = say_request(model, request, _named_row(model, inputs["preset"], "slg"))
        return io.NodeOutput(with_request(model, request), ui=said)


class SkipGuideSchedule(io.ComfyNode):
    """Change layers, scale, CFG and rescaling with the noise level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        description = "Skip guidance by noise level. A bin's cfg takes the place of the sampler's."
        inputs = [_preset("stg", scheduled=True), _text("bins", EXAMPLE_BINS, multiline=True)]
        title = "Skip Guidance Schedule"
        return _schema("SkipGuideSchedule", title, description, inputs, io.Model.Output())

    @classmethod
    def validate_inputs(cls, preset: str | None = None, bins: str | None = None) -> bool | str:
        return _problem(read_schedule, preset, bins)

    @classmethod
    def execute(cls, model: Any, preset: str, bins: str) -> io.NodeOutput:
        row = _named_row(model, preset, "stg", scheduled=True)
        schedule = read_schedule(bins) if row is None else preset_schedule(row)
        request = schedule_request(schedule)
        said = say_request(model, request, row)
        return io.NodeOutput(with_request(model, request), ui=said)


class SkipGuideGuider(_LayersNode):
    """Do CFG and skip guidance in one guider."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        description = (
            "For SamplerCustomAdvanced: CFGGuider and Spatiotemporal Skip Guidance in one node."
        )
        prompts = [
            io.Conditioning.Input(name, tooltip=TIPS[name]) for name in ("positive", "negative")
        ]
        inputs = [*prompts, _number("cfg", 5.0, high=100.0, step=0.1), *_stg_inputs()]
        title = "Skip Guidance Guider"
        return _schema("SkipGuideGuider", title, description, inputs, io.Guider.Output())

    @classmethod
    def execute(
        cls, model: Any, positive: Any, negative: Any, cfg: float, **inputs: Any
    ) -> io.NodeOutput:
        request = stg_request(model, inputs)
        guider = comfy.samplers.CFGGuider(with_request(model, request))
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        said = say_request(model, request, _named_row(model, inputs["preset"], "stg"))
        return io.NodeOutput(guider, ui=said)


class SkipGuideInfo(io.ComfyNode):
    """Show what can be skipped in a model, and what it costs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        description = (
            "Lists the blocks of a model, the published settings for it, and what the terms on it"
            " cost."
        )
        title, output = "Skip Guidance Info", io.String.Output()
        return _schema("SkipGuideInfo", title, description, [], output, is_output_node=True)

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        chain = chain_of(model)
        depths = ", ".join(f"{name}:0 to {name}:{n - 1}" for name, n in chain.depths().items())
        lines = [f"{chain.family.title}: {depths}"]
        for request in requests_of(model):
            lines += describe_costs(chain, request)
        published = ", ".join(row.name for row in presets_for(chain)) or "nothing"
        text = "\n".join([*lines, f"published for it: {published}"])
        return io.NodeOutput(text, ui=ui.PreviewText(text))

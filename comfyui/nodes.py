"""The nodes: their inputs, and the request that each of them puts on a model."""

from __future__ import annotations

from typing import Any

import comfy.samplers  # pyright: ignore[reportMissingImports]
from comfy_api.latest import io, ui  # pyright: ignore[reportMissingImports]

from ._skipguide.families.presets import Preset
from ._skipguide.method.request import GuidanceRequest
from ._skipguide.method.terms import SLG, STG
from .bins import read_schedule
from .node_request import SKIPS, SPACES, NodeRequest, describe_terms, read_layers, schedule_request
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
    "bins": "One range of noise levels a line: sigma=low..high, then any of layers, scale, cfg,"
    " rescale and skip.",
    "positive": "The prompt.",
    "negative": "The negative prompt; not used where cfg is 1.",
    "cfg": "The CFG scale; 1 is no CFG.",
}


# --- inputs ---------------------------------------------------------------------------------------


def _number(name: str, default: float, high: float = 1.0, step: float = 0.001) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=high, step=step, tooltip=TIPS[name])


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
    ]


def _schema(
    node: str, title: str, description: str, inputs: list[Any], output: Any, **extra: Any
) -> io.Schema:
    """Return the schema of a node, whose first input is the model."""
    return io.Schema(
        node_id=node,
        display_name=title,
        category="skipguide",
        description=description,
        inputs=[io.Model.Input("model", tooltip=TIPS["model"]), *inputs],
        outputs=[output],
        **extra,
    )


# --- from inputs to requests ----------------------------------------------------------------------


def _preset_row(model: Any, preset: str, kind: str, scheduled: bool = False) -> Preset:
    if preset == PUBLISHED:
        return recommended_preset(chain_of(model), kind, scheduled)
    return named_preset(preset, chain_of(model))


def _with_preset(model: Any, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node; those that a preset has take the place of the given ones."""
    if inputs["preset"] == CUSTOM:
        return inputs
    row = _preset_row(model, inputs["preset"], kind)
    return {**inputs, **inputs_of_row(row)}


def inputs_of_row(row: Preset) -> dict[str, Any]:
    """Return a setting of one term as the inputs of a node."""
    return {
        "layers": row.layers, "skip": row.skip, "scale": row.scale, "start_percent": row.start,
        "end_percent": row.stop, "rescale": row.rescale, "rescale_of": "prediction",
        "normalize": row.normalize,
    }  # fmt: skip


def stg_request(model: Any, inputs: dict[str, Any]) -> NodeRequest:
    inputs = _with_preset(model, "stg", inputs)
    layers, normalize = read_layers(inputs["layers"]), inputs.get("normalize", False)
    guidance = GuidanceRequest(
        terms=(STG(layers, inputs["scale"], inputs["skip"], normalize=normalize),),
        rescale=inputs["rescale"],
        rescale_space=inputs.get("rescale_of", "prediction"),
        share_prefix=inputs.get("share_prefix", True),
    )
    return NodeRequest(guidance, percents=_percents(inputs))


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
    def validate_inputs(cls, preset: str | None = None, layers: str | None = None) -> bool | str:
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
        return io.NodeOutput(with_request(model, stg_request(model, inputs)))


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
        return io.NodeOutput(with_request(model, slg_request(model, inputs)))


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
        if preset == CUSTOM:
            schedule = read_schedule(bins)
        else:
            schedule = preset_schedule(_preset_row(model, preset, "stg", scheduled=True))
        return io.NodeOutput(with_request(model, schedule_request(schedule)))


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
        guider = comfy.samplers.CFGGuider(with_request(model, stg_request(model, inputs)))
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


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
        lines = [f"{chain.family.model}: {depths}"]
        for request in requests_of(model):
            for term in request.guidance.terms:
                cost = chain.cost(term, request.guidance.share_prefix)
                lines.append(f"{describe_terms([term])}: {cost:.2f} of a forward pass")
        published = ", ".join(row.name for row in presets_for(chain)) or "nothing"
        text = "\n".join([*lines, f"published for it: {published}"])
        return io.NodeOutput(text, ui=ui.PreviewText(text))

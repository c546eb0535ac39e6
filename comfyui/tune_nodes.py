"""The nodes of what is measured: a preset's file, and the map of a model's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.samplers  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]
from comfy_api.latest import io, ui  # pyright: ignore[reportMissingImports]

from . import map_image, measure, preset_files
from ._skipguide.families.presets import Preset
from .node_request import SKIPS, NodeRequest, read_layers, read_levels, schedule_request
from .nodes import CUSTOM, inputs_of_row, slg_request, stg_request
from .nodes import TIPS as MORE_TIPS
from .page import schema_of
from .published import preset_schedule
from .step import chain_of, with_request

BOTH_SKIPS = "residual and attention"
TIPS = {
    "file": "A preset that `skipguide tune` wrote, in user/skipguide of ComfyUI or in"
    " ~/.config/skipguide/presets.",
    "path": "The path of another preset, in the place of the one above.",
    "cfg": "The CFG scale that is handed on if the preset has none.",
    "levels": "Shares of noise at which is looked, between 1 (the beginning) and 0.",
    "layers": "Blocks to look at, as 9 or 4-12; empty for all.",
    "skip": "Which ways of skipping are looked at.",
    "trajectories": "How many videos are begun, of one seed after the other; of two or more the"
    " ranks have an uncertainty.",
}


class SkipGuidePresetFile(io.ComfyNode):
    """Apply a preset of one's own, as `skipguide tune` writes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = preset_files.file_choices(own_folder())
        cfg = TIPS["cfg"]
        return schema_of(
            node_id="SkipGuidePresetFile",
            display_name="Skip Guidance Preset File",
            category="skipguide",
            description="Applies a preset that `skipguide tune` has measured, if it is for this"
            " model. A preset whose answer is to use CFG alone leaves the model as it is.",
            inputs=[
                io.Model.Input("model", tooltip=MORE_TIPS["model"]),
                io.Combo.Input("file", options=choices, default=choices[0], tooltip=TIPS["file"]),
                io.String.Input("path", default="", tooltip=TIPS["path"], optional=True),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip=cfg,
                               optional=True),
            ],
            outputs=[io.Model.Output(), io.Float.Output(display_name="cfg"),
                     io.String.Output(display_name="text")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file: str = "", path: str = "", **_inputs: Any) -> str:
        try:
            return preset_files.read_choice(file, path, own_folder()).sha256
        except ValueError as error:
            return str(error)

    @classmethod
    def execute(cls, model: Any, file: str, path: str = "", cfg: float = 5.0) -> io.NodeOutput:
        found = preset_files.read_choice(file, path, own_folder())
        row = preset_files.row_for(found, chain_of(model))
        text = preset_files.describe(found)
        if not row.is_cfg_alone:
            model = with_request(model, _request_of_row(model, row))
        scale = float(row.defaults.get("guidance_scale", cfg))
        return io.NodeOutput(model, scale, text, ui=ui.PreviewText(text))


def own_folder() -> Path:
    """Return the folder for presets among the user's files of ComfyUI."""
    return Path(folder_paths.get_user_directory()) / "skipguide"


def _request_of_row(model: Any, row: Preset) -> NodeRequest:
    """Return the request of a preset, whatever its kind."""
    if row.schedule:
        return schedule_request(preset_schedule(row))
    inputs = {"preset": CUSTOM, **inputs_of_row(row)}
    return (slg_request if row.kind == "slg" else stg_request)(model, inputs)


class SkipGuideLayerMap(io.ComfyNode):
    """Measure which layers may be worth skipping, on trajectories of the model itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        whole = {"min": 1, "max": 10_000}
        return schema_of(
            node_id="SkipGuideLayerMap",
            display_name="Skip Layer Map",
            category="skipguide",
            description="Measures what skipping each block would push, at some noise levels of a"
            " trajectory. A rank for a shortlist, and no verdict: sample its first three.",
            inputs=[
                io.Model.Input("model", tooltip=MORE_TIPS["model"]),
                io.Conditioning.Input("positive", tooltip=MORE_TIPS["positive"]),
                io.Conditioning.Input("negative", tooltip=MORE_TIPS["negative"]),
                io.Latent.Input("latent_image"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1),
                io.Int.Input("steps", default=20, **whole),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1,
                               tooltip=MORE_TIPS["cfg"]),
                io.Combo.Input("sampler_name", options=samplers, default="euler"),
                io.Combo.Input("scheduler", options=schedulers, default="simple"),
                io.String.Input("levels", default="0.95, 0.8, 0.6, 0.3", tooltip=TIPS["levels"]),
                io.String.Input("layers", default="", tooltip=TIPS["layers"]),
                io.Combo.Input("skip", options=[BOTH_SKIPS, *SKIPS], default=BOTH_SKIPS,
                               tooltip=TIPS["skip"]),
                io.Int.Input("trajectories", default=2, min=1, max=32,
                             tooltip=TIPS["trajectories"]),
            ],
            outputs=[io.Image.Output(display_name="map"), io.String.Output(display_name="table"),
                     io.String.Output(display_name="layers"),
                     io.String.Output(display_name="first three")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, levels: str | None = None, layers: str | None = None) -> bool | str:
        try:
            _ = levels is None or read_levels(levels)
            _ = not (layers or "").strip() or read_layers(layers or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, positive: Any, negative: Any, latent_image: Any, seed: int, steps: int,
        cfg: float, sampler_name: str, scheduler: str, levels: str, layers: str, skip: str,
        trajectories: int,
    ) -> io.NodeOutput:  # fmt: skip
        how = measure.Sampling(
            positive, negative, latent_image, cfg, steps, sampler_name, scheduler
        )
        seeds = [(seed + number) % 2**64 for number in range(trajectories)]
        skips = SKIPS if skip == BOTH_SKIPS else [skip]
        found = measure.measure(model, how, read_levels(levels), seeds, layers, skips)
        picture, table, first = map_image.draw(found), map_image.table(found), found.shortlist()
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(table).as_dict()}
        return io.NodeOutput(
            picture, table, first[0].layer if first else "", map_image.describe_shortlist(first),
            ui=shown,
        )  # fmt: skip

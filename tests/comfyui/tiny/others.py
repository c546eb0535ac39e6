"""Nodes in the way of packs that people chain: what they put on a model, in a few lines."""

from __future__ import annotations

from typing import Any
from unittest import mock

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import torch
from comfy_api.latest import io  # pyright: ignore[reportMissingImports]
from comfy_api.torch_helpers import set_torch_compile_wrapper  # pyright: ignore[reportMissingImports]

Tensor = torch.Tensor
Args = dict[str, Any]


def _schema(node: str, *inputs: Any) -> io.Schema:
    return io.Schema(
        node_id=node, category="tests", inputs=[io.Model.Input("model"), *inputs],
        outputs=[io.Model.Output()],
    )  # fmt: skip


class TinyCompile(io.ComfyNode):
    """Compiles as core's TorchCompileModel does, by a backend that takes no time.

    With `blocks`, as KJNodes' TorchCompileModelAdvanced.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyCompile", io.Boolean.Input("blocks"))

    @classmethod
    def execute(cls, model: Any, blocks: bool) -> io.NodeOutput:
        torch._dynamo.reset()
        clone = model.clone()
        count = len(clone.get_model_object("diffusion_model").blocks)
        whole = ["diffusion_model"]
        keys = [f"diffusion_model.blocks.{index}" for index in range(count)] if blocks else whole
        unguarded = {"guard_filter_fn": _without_options}
        set_torch_compile_wrapper(model=clone, backend="eager", options=unguarded, keys=keys)
        return io.NodeOutput(clone)


def _without_options(guards: Any) -> list[bool]:
    return ["transformer_options" not in guard.name for guard in guards]


class TinyMixRows(io.ComfyNode):
    """Attention that looks at the whole batch, as NAG and Enhance-A-Video do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyMixRows")

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        clone = model.clone()
        for index, block in enumerate(clone.get_model_object("diffusion_model").blocks):
            name = f"diffusion_model.blocks.{index}.cross_attn.forward"
            clone.add_object_patch(name, _mixing(block.cross_attn.forward))
        return io.NodeOutput(clone)


def _mixing(usual: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Tensor:
        out = usual(*args, **kwargs)
        return out + 0.5 * (out - out.flip(0))

    return forward


class TinyIdle(io.ComfyNode):
    """A block that does nothing below a noise level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyIdle", io.Int.Input("block"), io.Float.Input("sigma"))

    @classmethod
    def execute(cls, model: Any, block: int, sigma: float) -> io.NodeOutput:
        clone = model.clone()
        name = f"diffusion_model.blocks.{block}"
        usual = clone.get_model_object(name).forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            idle = kwargs["transformer_options"]["sigmas"][0] < sigma
            return x if idle else usual(x, *args, **kwargs)

        clone.add_object_patch(f"{name}.forward", forward)
        return io.NodeOutput(clone)


class TinyCache(io.ComfyNode):
    """Keeps what the model adds to its input, and uses it at every second step.

    Where it keeps that, and under which names, is as in TeaCache and in MagCache. As those, it
    knows conditional and unconditional rows apart, and nothing else.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyCache", io.Combo.Input("kind", options=["tea", "mag"]))

    @classmethod
    def execute(cls, model: Any, kind: str) -> io.NodeOutput:
        clone = model.clone()
        inner = clone.get_model_object("diffusion_model")
        options = clone.model_options["transformer_options"]
        options["rel_l1_thresh" if kind == "tea" else "magcache_thresh"] = 0.1
        state, enabled = f"{kind}cache_state", f"enable_{kind}cache"
        usual = type(inner).forward_orig

        def forward(x: Tensor, *args: Any, transformer_options: Args, **kwargs: Any) -> Tensor:
            if not hasattr(inner, state):
                setattr(inner, state, {})
            kept, places = getattr(inner, state), transformer_options["cond_or_uncond"]
            if transformer_options[enabled]:
                return torch.cat([
                    rows + kept.get(place, 0)
                    for place, rows in zip(places, x.chunk(len(places)), strict=True)
                ])  # fmt: skip
            out = usual(inner, x, *args, transformer_options=transformer_options, **kwargs)
            kept.update(zip(places, (out - x).chunk(len(places)), strict=True))
            return out

        def around(apply_model: Any, args: Args) -> Tensor:
            options = args["c"]["transformer_options"]
            step = int((options["sample_sigmas"] == args["timestep"][0]).nonzero().flatten()[0])
            options[enabled] = step % 2 == 1
            with mock.patch.object(inner, "forward_orig", forward):
                return apply_model(args["input"], args["timestep"], **args["c"])

        clone.set_model_unet_function_wrapper(around)
        return io.NodeOutput(clone)


# --- oracles --------------------------------------------------------------------------------------


class TinyCopyByHand(io.ComfyNode):
    """Pushes away from a weak pass of another copy of the model, with a cache of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyCopyByHand", io.Model.Input("copy"), io.Int.Input("block"))

    @classmethod
    def execute(cls, model: Any, copy: Any, block: int) -> io.NodeOutput:
        comfy.model_management.load_models_gpu([copy])
        copy.pre_run()
        own = copy.model_options
        holder = own["transformer_options"].get("easycache")
        if holder is not None:
            holder = holder.clone().prepare_timesteps(copy.model.model_sampling)

        def behind_cfg(args: Args) -> Tensor:
            options = comfy.model_patcher.create_model_options_clone(args["model_options"])
            if holder is not None:
                options["transformer_options"]["easycache"] = holder
            if "model_function_wrapper" in own:
                options["model_function_wrapper"] = own["model_function_wrapper"]
            return args["denoised"] + _push(args, copy.model, [args["cond"]], options, block)

        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(behind_cfg)
        return io.NodeOutput(clone)


class TinyRowsByHand(io.ComfyNode):
    """Pushes away from a pass of both prompts in one batch, [uncond, cond], of which cond skips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("TinyRowsByHand", io.Int.Input("block"))

    @classmethod
    def execute(cls, model: Any, block: int) -> io.NodeOutput:
        def behind_cfg(args: Args) -> Tensor:
            options = comfy.model_patcher.create_model_options_clone(args["model_options"])
            both = [args["cond"], args["uncond"]]
            return args["denoised"] + _push(args, args["model"], both, options, block)

        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(behind_cfg)
        return io.NodeOutput(clone)


def _push(args: Args, model: Any, conds: list[Any], options: Args, block: int) -> Tensor:
    def skip(given: Args, extra: Args) -> Args:
        names = [name for name in ("img", "txt") if name in given]
        before = {name: given[name].clone() for name in names}
        if len(conds) == 1:
            return {**given, **before}
        out = extra["original_block"](given)
        half = len(given["img"]) // 2
        rows = {name: torch.cat([out[name][:half], before[name][half:]]) for name in out}
        return {**given, **rows}

    options = comfy.model_patcher.set_model_options_patch_replace(
        options, skip, "dit", "double_block", block
    )
    weak = comfy.samplers.calc_cond_batch(model, conds, args["input"], args["sigma"], options)[0]
    return args["cond_denoised"] - weak


NODES: list[type[io.ComfyNode]] = [
    TinyCompile, TinyMixRows, TinyIdle, TinyCache, TinyCopyByHand, TinyRowsByHand
]  # fmt: skip

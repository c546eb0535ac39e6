"""The ways of others to make a guided step, for the benchmark: diffusers' own STG of LTX-2, its own
skip guidance of Stable Diffusion 3, and its SkipLayerGuidance guider.

All run a third full pass. They are run on the denoiser, as their pipelines call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from skipguide.method import formula
from skipguide.method.protocols import Inputs

if TYPE_CHECKING:
    from skipguide.bench.step_cost import BenchmarkStep

Tensor = torch.Tensor


def text_input(inputs: Inputs) -> str:
    """Return the name of the input in which cond and uncond differ."""
    names = ("encoder_hidden_states", "encoder_hidden_states_llama3", "cap_feats")
    return next(name for name in names if name in inputs)


def peer_ways(step: BenchmarkStep, g: float) -> tuple[dict[str, Callable[[], Tensor]], str]:
    """Return the ways of others that there are for a model, and why one is not among them.

    Args:
        step: the step of our own.
        g: the guidance scale.
    """
    ways: dict[str, Callable[[], Tensor]] = {}
    if getattr(step.model, "config", {}).get("perturbed_attn"):  # an LTX-2 whose STG is not ignored
        ways["ltx2_stg"] = lambda: run_ltx2_stg(step, g)
    if step.family.name == "sd3":
        ways["sd3_skip_layers"] = lambda: run_sd3_skip_layers(step, g)
    reason = why_no_guider(step)
    if not reason:
        ways["slg_guider"] = lambda: run_slg_guider(step, g)
    return ways, reason


def run_ltx2_stg(step: BenchmarkStep, g: float) -> Tensor:
    """Make the step as LTX2Pipeline does with stg_scale.

    Its transformer perturbs the self-attentions of the blocks that it is told: an attention skip.
    """
    c, u = step.predict_cond_and_uncond()
    blocks = [step.sites[k].index for skipped in step.skipped_positions for k in skipped]
    (weak, *_) = step.predict({**step.cond, "spatio_temporal_guidance_blocks": blocks})
    return formula.combine(c, u, g, step.terms[0].scales(1)[0] * (c - weak))


def run_sd3_skip_layers(step: BenchmarkStep, g: float) -> Tensor:
    """Make the step as StableDiffusion3Pipeline does with skip_guidance_layers.

    Its transformer leaves out the blocks that it is told: a residual skip, in a pass of its own.
    """
    c, u = step.predict_cond_and_uncond()
    blocks = [step.sites[k].index for skipped in step.skipped_positions for k in skipped]
    (weak, *_) = step.predict({**step.cond, "skip_layers": blocks})
    return formula.combine(c, u, g, step.terms[0].scales(1)[0] * (c - weak))


def why_no_guider(step: BenchmarkStep) -> str:
    """Return why diffusers' SkipLayerGuidance cannot skip this model's blocks; "" if it can."""
    if step.family.unet is not None:
        return "it skips blocks of a ModuleList, which a UNet's layers are not"
    if step.calls.cfg_mode == "none":
        return f"it is an addition to CFG, which a {step.name} never has"
    from diffusers.hooks._helpers import TransformerBlockRegistry

    for k in {k for skipped in step.skipped_positions for k in skipped}:
        block = type(step.sites[k].block)
        try:
            known = TransformerBlockRegistry.get(block)
        except ValueError:
            return f"its hooks do not know the class {block.__name__}"
        if known.return_hidden_states_index:
            return f"its hooks give back the streams of a {block.__name__} in the wrong order"
        if "hidden_states" not in inspect.signature(block.forward).parameters:
            return f"its hooks look for hidden_states, which a {block.__name__} does not take"
    return ""


def run_slg_guider(step: BenchmarkStep, g: float) -> Tensor:
    """Make the step as a Modular pipeline does with diffusers' SkipLayerGuidance."""
    from diffusers.guiders.skip_layer_guidance import SkipLayerGuidance
    from diffusers.hooks.layer_skip import LayerSkipConfig

    sites = [step.sites[k] for skipped in step.skipped_positions for k in skipped]
    guider = SkipLayerGuidance(
        guidance_scale=g,
        skip_layer_guidance_scale=step.terms[0].scales(1)[0],
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=[LayerSkipConfig([site.index], fqn=site.stack.path) for site in sites],
    )
    timestep: Any = torch.tensor(500)
    guider.set_state(1, 2, timestep)  # its window begins after its first step
    text = text_input(step.cond)
    batches: Any = guider.prepare_inputs({text: (step.cond[text], step.uncond[text])})
    for batch in batches:
        guider.prepare_models(step.model)
        (batch.noise_pred, *_) = step.predict({**step.cond, text: getattr(batch, text)})
        guider.cleanup_models(step.model)
    return guider(batches).pred

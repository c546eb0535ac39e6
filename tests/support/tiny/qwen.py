"""Qwen-Image: true CFG in separate passes, cond first, whose result gets the length of c; packed
latents, dual-stream blocks that return the text first."""

from __future__ import annotations

import functools
import sys
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.controlnets.controlnet_qwenimage import QwenImageControlNetModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import FROM_IMAGE, IMAGE, MASK, short

PICTURE = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
INPAINT = {**FROM_IMAGE, "mask_image": MASK}


def autoencoder() -> AutoencoderKLQwenImage:
    """One latent of 4 channels for 2 x 2 pixels; what it samples is the mean, for a deviation of
    3e-7 is less than what a mean near 64 can resolve."""
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[64.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[:] = torch.tensor([64.0] * 4 + [-60.0] * 4)  # type: ignore[index]
    return vae.eval()


def control_net(extra: int) -> Any:
    """One of a block."""
    sizes = {**config("qwen-image"), "num_layers": 1, "extra_condition_channels": extra}
    return matter(QwenImageControlNetModel(**sizes))


def qwen(
    pipeline: str,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    control: int | None = None,
    sizes: Any = None,
    parts: dict[str, Any] | None = None,
    keeps_length: bool = True,
    batch: int = 2,
    tokens: int = 16,
    **changes: Any,
) -> Tiny:
    torch.manual_seed(0)
    more = dict(parts or {})
    if control is not None:
        more["controlnet"] = control_net(control)
    kind = getattr(diffusers, pipeline)
    if sizes is not None:  # of the pictures that it edits, which it brings to 1024 x 1024
        module: Any = sys.modules[kind.__module__]
        module.calculate_dimensions = sizes
    made: Any = dict(
        text_encoder=None, tokenizer=None, vae=autoencoder(),
        transformer=matter(denoiser("qwen-image", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    pipe = kind(**{**made, **more})
    embeds = (batch, 8, config("qwen-image")["joint_attention_dim"])
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    mask = mask[:batch]
    call = dict(
        prompt_embeds=torch.randn(embeds), negative_prompt_embeds=torch.randn(embeds),
        prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask.flip(0), height=16, width=16,
        num_inference_steps=3, true_cfg_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=dict(true_cfg_scale=1.0), g="true_cfg_scale",
        short=short(inputs), keeps_length=keeps_length, tokens=tokens,
    )  # fmt: skip


def row(pipeline: str, inputs: dict[str, Any], **options: Any) -> Any:
    return functools.partial(qwen, pipeline, inputs, **options)


def small_size(*_: Any) -> tuple[int, int, None]:
    return 16, 16, None


class Encoder(torch.nn.Linear):
    """A text encoder that is asked where it is alone."""

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device


def layered(dtype: torch.dtype = torch.float32) -> Tiny:
    """Two layers and what they make together, of a picture, in rows of 16 tokens.

    Its size is that of the picture, and a text is there, or else one would be made of the picture.
    diffusers 0.42.1 fails when asked for latents, so they are what is decoded.
    """
    inputs = dict(image=PICTURE, prompt=["a fox"], layers=2, output_type="pt")
    small = qwen(
        "QwenImageLayeredPipeline", inputs, dtype, keeps_length=False, batch=1, tokens=48,
        sizes=lambda *_: (16, 16), use_layer3d_rope=True, use_additional_t_cond=True,
        parts=dict(processor=None, text_encoder=Encoder(1, 1)),
    )  # fmt: skip
    for name in ("height", "width"):
        small.call.pop(name)
    small.pipe.vae.decode = lambda latents, **_: (latents,)
    small.pipe.image_processor.postprocess = lambda image, **_: image
    return small


EDIT: Any = dict(sizes=small_size, parts=dict(processor=None))

PIPELINES = {
    "QwenImagePipeline": row("QwenImagePipeline", {}),
    "QwenImageImg2ImgPipeline": row("QwenImageImg2ImgPipeline", FROM_IMAGE),
    "QwenImageInpaintPipeline": row("QwenImageInpaintPipeline", INPAINT),
    "QwenImageEditPipeline": row("QwenImageEditPipeline", dict(image=PICTURE), **EDIT),
    "QwenImageEditInpaintPipeline": row(
        "QwenImageEditInpaintPipeline", {**INPAINT, "image": PICTURE}, **EDIT
    ),
    # one prompt; two pictures, whose tokens are told from those of the image by zero_cond_t
    "QwenImageEditPlusPipeline": row(
        "QwenImageEditPlusPipeline", dict(image=[PICTURE, PICTURE]), zero_cond_t=True,
        batch=1, sizes=lambda *_: (16, 16), parts=dict(processor=None),
    ),
    "QwenImageLayeredPipeline": layered,
    "QwenImageControlNetPipeline": row(
        "QwenImageControlNetPipeline", dict(control_image=IMAGE), control=0
    ),
    "QwenImageControlNetInpaintPipeline": row(
        "QwenImageControlNetInpaintPipeline", dict(control_image=IMAGE, control_mask=MASK),
        control=4,
    ),
}  # fmt: skip

"""Wan and what is built on its transformer: separate CFG passes, cond first; self-attention, then
cross-attention."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.chronoedit.pipeline_chronoedit import ChronoEditPipeline
from diffusers.pipelines.lucy.pipeline_lucy_edit import LucyEditPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.pipelines.wan.pipeline_wan_animate import WanAnimatePipeline
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_wan_vace import WanVACEPipeline
from diffusers.pipelines.wan.pipeline_wan_video2video import WanVideoToVideoPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionModel

from support.tiny.base import Tiny, denoiser, matter, quiet

CLIP = dict(
    in_channels=12, image_dim=16, added_kv_proj_dim=24
)  # a transformer that also attends to a CLIP image
VIDEO = torch.linspace(0, 1, 2 * 5 * 3 * 32 * 32).reshape(2, 5, 3, 32, 32)
BIG_VIDEO = torch.linspace(0, 1, 2 * 5 * 3 * 64 * 64).reshape(2, 5, 3, 64, 64)


def picture(size: int) -> Image.Image:
    return Image.linear_gradient("L").resize((size, size)).convert("RGB")


def load(pipe: Any, dtype: torch.dtype, *models: str, also: tuple[str, ...] = ()) -> Any:
    """Cast models as from_pretrained(torch_dtype=...) does: without buffers and what a class (or
    also) keeps."""
    for name in models if dtype != torch.float32 else ():
        model = getattr(pipe, name)
        kept = {*(model._keep_in_fp32_modules or ()), *also}
        for path, parameter in model.named_parameters():
            if not kept.intersection(path.split(".")):
                parameter.data = parameter.data.to(dtype)
    return quiet(pipe, torch.float32)


def scheduler(shift: float = 5) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def autoencoder(residual: bool = False) -> Any:
    """One latent of 4 channels for 8 x 8 pixels (16 x 16 if residual, as in Wan 2.2 5B) of 4
    frames."""
    config: Any = dict(
        is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16
    )
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 1.2, 1.0], **(config if residual else {}),
    )  # fmt: skip
    return vae.eval()


def clip(model: Any = CLIPVisionModel) -> dict[str, Any]:
    """An image encoder of 17 tokens and its image processor."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    return dict(image_encoder=model(config).eval(), image_processor=processor)


def prompts(length: int, width: int, batch: int = 2) -> dict[str, torch.Tensor]:
    """Embeddings that end in zeros after the prompt, as the pipelines' own do."""
    embeds = dict(
        prompt_embeds=torch.randn(batch, length, width),
        negative_prompt_embeds=torch.randn(batch, length, width),
    )
    embeds["prompt_embeds"][0, length * 3 // 4 :] = 0
    embeds["negative_prompt_embeds"][:, length // 2 :] = 0
    return embeds


def wan(
    pipeline: Any,
    inputs: dict[str, Any],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    family: str = "wan",
    residual: bool = False,
    boundary: float | None = None,
    batch: int = 2,
    **components: Any,
) -> Tiny:
    torch.manual_seed(0)
    if "image_dim" in config:
        components.update(clip())
    if boundary is not None:
        components.update(transformer_2=matter(denoiser(family, **config)), boundary_ratio=boundary)
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(residual=residual),
        scheduler=scheduler(), transformer=matter(denoiser(family, **config)), **components,
    )  # fmt: skip
    size = 64 if residual else 32
    # a transformer that attends to an image takes the last 512 tokens for the text
    text = prompts(512 if "image_dim" in config else 12, 16, batch)
    call = dict(
        **text,
        height=size,
        width=size,
        num_inference_steps=3,
        guidance_scale=4.5,
        output_type="latent",
    )
    denoisers = ("transformer",) if boundary is None else ("transformer", "transformer_2")
    load(
        pipe, dtype, *denoisers
    )  # the VAE stays in float32, as in the documentation; LucyEdit runs with no other
    short = dict(
        num_inference_steps=3 if "strength" in inputs else 2
    )  # strength leaves the first quarter out
    return Tiny(
        pipe, {**call, **inputs}, off=dict(guidance_scale=1.0), denoisers=denoisers, short=short
    )


def row(
    pipeline: Any, inputs: dict[str, Any], config: dict[str, Any] | None = None, **options: Any
) -> Any:
    return functools.partial(wan, pipeline, inputs, config or {}, **options)


PIPELINES = {
    "WanPipeline": row(WanPipeline, dict(num_frames=5)),
    # timesteps 999, 909, 714: two steps in the first transformer, one in the second
    "WanPipeline 2.2": row(WanPipeline, dict(num_frames=5, guidance_scale_2=3.5), boundary=0.875),
    "WanPipeline 5B": row(WanPipeline, dict(num_frames=5), residual=True, expand_timesteps=True),
    "WanImageToVideoPipeline": row(
        WanImageToVideoPipeline, dict(image=picture(32), num_frames=5), CLIP
    ),
    "WanImageToVideoPipeline 2.2": row(
        WanImageToVideoPipeline,
        dict(image=picture(32), num_frames=5, guidance_scale_2=3.5),
        dict(in_channels=12),
        boundary=0.875,
    ),
    "WanImageToVideoPipeline 5B": row(
        WanImageToVideoPipeline,
        dict(image=picture(64), num_frames=5),
        residual=True,
        expand_timesteps=True,
    ),
    # 3 of 4 steps
    "WanVideoToVideoPipeline": row(
        WanVideoToVideoPipeline, dict(video=VIDEO, num_inference_steps=4, strength=0.75)
    ),
    # one video: the pipeline refuses more
    "WanVACEPipeline": row(
        WanVACEPipeline,
        dict(
            video=[picture(32)] * 5,
            mask=[picture(32)] * 5,
            reference_images=picture(32),
            num_frames=5,
        ),
        family="wan-vace",
        batch=1,
    ),
    "WanAnimatePipeline": row(
        WanAnimatePipeline,
        dict(
            image=picture(32),
            pose_video=[picture(32)] * 5,
            face_video=[picture(8)] * 5,
            segment_frame_length=5,
        ),
        CLIP,
        family="wan-animate",
    ),
    "LucyEditPipeline": row(
        LucyEditPipeline,
        dict(video=BIG_VIDEO, num_frames=5),
        dict(in_channels=8),
        residual=True,
        expand_timesteps=True,
    ),
    # an image is a video of two latent frames, the picture before and after
    "ChronoEditPipeline": row(
        ChronoEditPipeline, dict(image=picture(32)), CLIP, family="chronoedit"
    ),
}

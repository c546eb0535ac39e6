"""Cosmos: separate CFG passes, cond first, with the formula cond + scale x (cond - uncond); a
timestep per frame."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cosmos import AutoencoderKLCosmos
from diffusers.models.controlnets import controlnet_cosmos
from diffusers.models.controlnets.controlnet_cosmos import CosmosControlNetModel
from diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict import Cosmos2_5_PredictBasePipeline
from diffusers.pipelines.cosmos.pipeline_cosmos2_5_transfer import Cosmos2_5_TransferPipeline
from diffusers.pipelines.cosmos.pipeline_cosmos2_text2image import Cosmos2TextToImagePipeline
from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import Cosmos2VideoToWorldPipeline
from diffusers.pipelines.cosmos.pipeline_cosmos_text2world import CosmosTextToWorldPipeline
from diffusers.pipelines.cosmos.pipeline_cosmos_video2world import CosmosVideoToWorldPipeline
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from support.tiny import wan
from support.tiny.base import Tiny, config, denoiser, matter, quiet

FIRST = dict(extra_pos_embed_type="learnable", rope_scale=(2.0, 1.0, 1.0))  # as in Cosmos 1
IMAGE = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


class Unchecked(torch.nn.Identity):
    """The pipelines refuse to run without a safety checker; this one lets every text pass, and is
    not asked about latents."""

    device = torch.device("cpu")
    dtype = torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True


def controlnet() -> CosmosControlNetModel:
    """Two blocks, for every other one of the transformer's; it is made of the same blocks as
    that."""
    others = ("in_channels", "out_channels", "num_layers", "concat_padding_mask")
    sizes: Any = {name: value for name, value in config("cosmos").items() if name not in others}
    net = CosmosControlNetModel(
        n_controlnet_blocks=2, in_channels=6, latent_channels=6, model_channels=24,
        use_crossattn_projection=True, crossattn_proj_in_channels=24,
        encoder_hidden_states_channels=16, **sizes,
    )  # fmt: skip
    # of torchvision, which is not here, it uses one function, to resize a mask of zeros
    nearest = SimpleNamespace(
        resize=lambda mask, size, interpolation: mask.new_zeros(*mask.shape[:-2], *size)
    )
    transforms = SimpleNamespace(
        functional=nearest, InterpolationMode=SimpleNamespace(NEAREST=None)
    )
    controlnet_cosmos.transforms = transforms  # type: ignore[reportPrivateImportUsage]
    return matter(net)


def edm() -> EDMEulerScheduler:
    return EDMEulerScheduler(final_sigmas_type="sigma_min")


def karras() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def unipc() -> UniPCMultistepScheduler:
    sigmas: Any = dict(
        sigma_max=200.0, sigma_min=0.01, use_karras_sigmas=True, use_flow_sigmas=True
    )
    return UniPCMultistepScheduler(prediction_type="flow_prediction", **sigmas)


def autoencoder() -> AutoencoderKLCosmos:
    """One latent of 4 channels for 8 x 8 pixels of 4 frames; the first frame has its own."""
    channels: Any = (8, 8, 8, 8)
    vae = AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=channels, decode_block_out_channels=channels,
        num_layers=1, patch_size=2, spatial_compression_ratio=8, temporal_compression_ratio=4,
        latents_mean=[0.1] * 8, latents_std=[0.9] * 8,
    )  # fmt: skip
    return vae.eval()


def cosmos(
    pipeline: Any,
    inputs: dict[str, Any],
    changes: dict[str, Any],
    scheduler: Any,
    dtype: torch.dtype = torch.float32,
    vae: Any = wan.autoencoder,
    text: int = 16,
    batch: int = 2,
    **components: Any,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("cosmos", **changes)
    components = {name: build() for name, build in components.items()}
    pipe = pipeline(
        text_encoder=None, tokenizer=None, transformer=matter(transformer), vae=vae(),
        scheduler=scheduler(), safety_checker=Unchecked(), **components,
    )  # fmt: skip
    embeds = wan.prompts(8, text, batch)
    call = dict(
        **embeds,
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=4.5,
        output_type="latent",
    )
    quiet(pipe, dtype)
    if not components:  # a ControlNet's pipeline puts what the VAE makes into it without a cast
        pipe.vae.to(torch.float32)  # Cosmos 1's pools, which torch does not do in bfloat16 on a CPU
    return Tiny(pipe, {**call, **inputs}, off=dict(guidance_scale=1.0), g_plus=1.0)


def row(
    pipeline: Any, inputs: dict[str, Any], changes: dict[str, Any], scheduler: Any, **options: Any
) -> Any:
    return functools.partial(cosmos, pipeline, inputs, changes, scheduler, **options)


PROJECTED = dict(
    in_channels=5,
    use_crossattn_projection=True,
    crossattn_proj_in_channels=24,
    encoder_hidden_states_channels=16,
)
PIPELINES = {
    "CosmosTextToWorldPipeline": row(
        CosmosTextToWorldPipeline, dict(num_frames=5), FIRST, edm, vae=autoencoder
    ),
    "CosmosVideoToWorldPipeline": row(
        CosmosVideoToWorldPipeline,
        dict(image=IMAGE, num_frames=5),
        dict(in_channels=5, **FIRST),
        edm,
        vae=autoencoder,
    ),
    # an image: one latent frame
    "Cosmos2TextToImagePipeline": row(Cosmos2TextToImagePipeline, {}, {}, karras),
    "Cosmos2VideoToWorldPipeline": row(
        Cosmos2VideoToWorldPipeline, dict(image=IMAGE, num_frames=5), dict(in_channels=5), karras
    ),
    "Cosmos2_5_PredictBasePipeline": row(
        Cosmos2_5_PredictBasePipeline, dict(num_frames=5), PROJECTED, unipc, text=24
    ),
    # one prompt: the pipeline takes no more with a video
    "Cosmos2_5_PredictBasePipeline video": row(
        Cosmos2_5_PredictBasePipeline,
        dict(video=[wan.picture(32)] * 5, num_frames=9),
        PROJECTED,
        unipc,
        text=24,
        batch=1,
    ),
    # one chunk; the pipeline counts frames, not latents, against max_size
    "Cosmos2_5_TransferPipeline": row(
        Cosmos2_5_TransferPipeline,
        dict(controls=[wan.picture(32)] * 5, num_frames_per_chunk=5, width=32),
        {**PROJECTED, "controlnet_block_every_n": 2, "max_size": (8, 8, 8)},
        unipc,
        text=24,
        controlnet=controlnet,
    ),
}

"""One row of data per model family: where its blocks are, what flows through them, how its pipelines call CFG.

To support another model, add a row to `FAMILIES` (and, for a new shape of attention, a function to `identity.py`);
`tests/test_families.py` then asks for a tiny pipeline of it and runs every oracle on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from skipguide.families import identity_attention
from skipguide.families.schema import Calls, Family, Half, Stack, UNet, Values

# --- ways of calling --------------------------------------------------------------------------------------------------

BATCHED = Calls("batched")
BATCHED_FLOAT32 = Calls("batched", float32=True)
BATCHED_RESCALE = Calls("batched", rescale=("guidance_rescale",))
LTX = Calls("batched", float32=True, rescale=("guidance_rescale",))
SEPARATE_FLOAT32 = Calls("separate", float32=True)
TWO_SCALES = Calls("separate", float32=True, scale=("current_guidance_scale",))  # Wan 2.2's two transformers
TRUE_CFG = Calls("separate", cfg="do_true_cfg", scale=("true_cfg_scale",))  # beside embedded guidance
GUIDER = Calls("guider")
PAG = Calls("batched", never="do_perturbed_attention_guidance", off="pag_scale=0")
SVD = Calls("batched", argument="max_guidance_scale")
COG = Calls("batched", float32=True, varies="use_dynamic_cfg")
KANDINSKY = Calls("separate", cfg="guidance_scale")
KANDINSKY_6 = Calls("separate", scale=("guidance_scale", "guidance_scale"))
HELIOS_PYRAMID = Calls("separate", float32=True, never="is_cfg_zero_star")
COSMOS = Calls("separate", float32=True, from_cond=True)
LTX2 = Calls(
    "batched", float32=True, scale=("guidance_scale", "audio_guidance_scale"),
    rescale=("guidance_rescale", "audio_guidance_rescale"),
    extra=("do_spatio_temporal_guidance", "do_modality_isolation_guidance"),
)  # fmt: skip
# Its audio is thrown away and has no g of its own.
LTX2_HDR = replace(LTX2, scale=("guidance_scale",) * 2, rescale=("guidance_rescale",))

# --- shapes of blocks -------------------------------------------------------------------------------------------------

VIDEO = ("hidden_states",)
VIDEO_AND_TEXT = ("hidden_states", "encoder_hidden_states")
PLAIN = {"attn1": identity_attention.plain}


def _one(
    path: str, depth: int, streams: tuple[str, ...], attention: Mapping[str, Values], sound: tuple[str, ...] = ()
) -> dict[str, Stack]:
    return {"blocks": Stack(path, depth, streams, attention, sound=sound)}


def _dual_and_single(dual: int, single: int) -> dict[str, Stack]:
    joint = {"attn": identity_attention.joint}
    return {
        "dual": Stack("transformer_blocks", dual, VIDEO_AND_TEXT, joint),
        "single": Stack("single_transformer_blocks", single, VIDEO_AND_TEXT, joint),
    }


UNET_3D = UNet(
    ("resnets", "temp_convs", "attentions", "temp_attentions"),
    {
        "spatial": Half("attentions", "transformer_blocks", ("attn1",)),
        "temporal": Half("temp_attentions", "transformer_blocks", ("attn1", "attn2")),
    },
)


def _parts(down: int, up: int) -> dict[str, Stack]:
    """How many transformer layers a UNet has on its way down and up again; there is one in the middle."""
    depths = {"down": ("down_blocks", down), "mid": ("mid_block", 1), "up": ("up_blocks", up)}
    return {name: Stack(path, depth, VIDEO, PLAIN) for name, (path, depth) in depths.items()}


FAMILIES = (
    Family(
        name="mochi",
        title="Mochi 1",
        model="MochiTransformer3DModel",
        checkpoint="genmo/mochi-1-preview",
        fps=30,
        pipelines={"MochiPipeline": BATCHED_FLOAT32},
        stacks=_one("transformer_blocks", 48, VIDEO_AND_TEXT, {"attn1": identity_attention.packed}),
        text="after",
        batched=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
    ),
    Family(
        name="wan",
        title="Wan 2.1 and 2.2",
        model="WanTransformer3DModel",
        checkpoint="Wan-AI/Wan2.1-T2V-14B-Diffusers (1.3B and TI2V-5B: 30 blocks)",
        fps=16,
        pipelines={
            "WanPipeline": TWO_SCALES,
            "WanImageToVideoPipeline": TWO_SCALES,
            "WanVideoToVideoPipeline": SEPARATE_FLOAT32,
            "LucyEditPipeline": TWO_SCALES,
        },
        stacks=_one("blocks", 40, VIDEO, PLAIN),
        denoisers=("transformer", "transformer_2"),
    ),
    Family(
        name="wan-vace",
        title="Wan VACE",
        model="WanVACETransformer3DModel",
        checkpoint="Wan-AI/Wan2.1-VACE-14B-diffusers",
        fps=16,
        pipelines={"WanVACEPipeline": TWO_SCALES},
        stacks=_one("blocks", 40, VIDEO, PLAIN),
        denoisers=("transformer", "transformer_2"),
        replayed=("vace_blocks",),
        notes="a skipped block keeps its VACE hint; the hints of the cond pass are reused",
    ),
    Family(
        name="wan-animate",
        title="Wan 2.2 Animate",
        model="WanAnimateTransformer3DModel",
        checkpoint="Wan-AI/Wan2.2-Animate-14B-Diffusers",
        fps=30,
        pipelines={"WanAnimatePipeline": SEPARATE_FLOAT32},
        stacks=_one("blocks", 40, VIDEO, PLAIN),
        replayed=("motion_encoder", "face_encoder"),
        between=(("face_adapter", "inject_face_latents_blocks"),),
        notes="a skipped block keeps its face adapter",
    ),
    Family(
        name="chronoedit",
        title="ChronoEdit",
        model="ChronoEditTransformer3DModel",
        checkpoint="nvidia/ChronoEdit-14B-Diffusers",
        fps=16,
        pipelines={"ChronoEditPipeline": SEPARATE_FLOAT32},
        stacks=_one("blocks", 40, VIDEO, PLAIN),
    ),
    Family(
        name="hunyuan",
        title="HunyuanVideo",
        model="HunyuanVideoTransformer3DModel",
        checkpoint="hunyuanvideo-community/HunyuanVideo",
        pipelines={
            "HunyuanVideoPipeline": TRUE_CFG,
            "HunyuanVideoImageToVideoPipeline": TRUE_CFG,
            "HunyuanSkyreelsImageToVideoPipeline": TRUE_CFG,
        },
        stacks=_dual_and_single(20, 40),
        text="after",
        notes="embedded guidance runs without CFG: one pass and the weak one; true_cfg_scale > 1 is CFG",
    ),
    Family(
        name="framepack",
        title="FramePack",
        model="HunyuanVideoFramepackTransformer3DModel",
        checkpoint="lllyasviel/FramePackI2V_HY",
        fps=30,
        pipelines={"HunyuanVideoFramepackPipeline": replace(TRUE_CFG, float32=True)},
        stacks=_dual_and_single(20, 40),
        layout="",
        text="after",
    ),
    Family(
        name="hunyuan-1.5",
        title="HunyuanVideo 1.5",
        model="HunyuanVideo15Transformer3DModel",
        checkpoint="hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",
        pipelines={"HunyuanVideo15Pipeline": GUIDER, "HunyuanVideo15ImageToVideoPipeline": GUIDER},
        stacks=_one("transformer_blocks", 54, VIDEO_AND_TEXT, {"attn": identity_attention.joint}),
        text="after",
    ),
    Family(
        name="ltx",
        title="LTX-Video",
        model="LTXVideoTransformer3DModel",
        checkpoint="Lightricks/LTX-Video (13B: 48 blocks)",
        pipelines={
            "LTXPipeline": LTX,
            "LTXImageToVideoPipeline": LTX,
            "LTXConditionPipeline": LTX,
        },
        stacks=_one("transformer_blocks", 28, VIDEO, PLAIN),
        layout="packed",
        batched=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
    ),
    Family(
        name="ltx-2",
        title="LTX-2",
        model="LTX2VideoTransformer3DModel",
        checkpoint="Lightricks/LTX-2",
        pipelines={
            "LTX2Pipeline": LTX2,
            "LTX2ImageToVideoPipeline": LTX2,
            "LTX2ConditionPipeline": LTX2,
            "LTX2InContextPipeline": LTX2,
            "LTX2HDRPipeline": LTX2_HDR,
        },
        stacks=_one(
            "transformer_blocks", 48, ("hidden_states", "audio_hidden_states"),
            {"attn1": identity_attention.plain, "audio_attn1": identity_attention.plain}, ("audio_attn1",),
        ),
        layout="packed",
        batched=(
            "hidden_states", "audio_hidden_states", "encoder_hidden_states", "audio_encoder_hidden_states", "timestep",
            "audio_timestep", "sigma", "audio_sigma", "encoder_attention_mask", "audio_encoder_attention_mask",
            "video_coords", "audio_coords", "video_self_attention_mask", "video_keyframes_mask",
        ),
        outputs=("video", "audio"),
        notes="the pipeline has STG of its own, on by default: stg_scale=0 and modality_scale=1 switch it off",
    ),
    Family(
        name="cogvideox",
        title="CogVideoX",
        model="CogVideoXTransformer3DModel",
        checkpoint="zai-org/CogVideoX-5b (2b: 30 blocks)",
        fps=8,
        pipelines={
            "CogVideoXPipeline": COG,
            "CogVideoXImageToVideoPipeline": COG,
            "CogVideoXVideoToVideoPipeline": COG,
            "CogVideoXFunControlPipeline": COG,
        },
        stacks=_one("transformer_blocks", 42, VIDEO_AND_TEXT, {"attn1": identity_attention.shared}),
        layout="btchw",
        text="before",
        batched=("hidden_states", "encoder_hidden_states", "timestep"),
    ),
    Family(
        name="consisid",
        title="ConsisID",
        model="ConsisIDTransformer3DModel",
        checkpoint="BestWishYsh/ConsisID-preview",
        fps=8,
        pipelines={"ConsisIDPipeline": COG},
        stacks=_one("transformer_blocks", 42, VIDEO_AND_TEXT, {"attn1": identity_attention.shared}),
        layout="btchw",
        text="before",
        batched=("hidden_states", "encoder_hidden_states", "timestep"),
        between=(("perceiver_cross_attention", "cross_attn_interval"),),
        notes="a skipped block keeps its face attention",
    ),
    Family(
        name="skyreels-v2",
        title="SkyReels V2",
        model="SkyReelsV2Transformer3DModel",
        checkpoint="Skywork/SkyReels-V2-T2V-14B-540P-Diffusers",
        pipelines={
            "SkyReelsV2Pipeline": SEPARATE_FLOAT32,
            "SkyReelsV2ImageToVideoPipeline": SEPARATE_FLOAT32,
            "SkyReelsV2DiffusionForcingPipeline": SEPARATE_FLOAT32,
            "SkyReelsV2DiffusionForcingImageToVideoPipeline": SEPARATE_FLOAT32,
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline": SEPARATE_FLOAT32,
        },
        stacks=_one("blocks", 40, VIDEO, PLAIN),
    ),
    Family(
        name="cosmos",
        title="Cosmos 1, Predict 2 and 2.5",
        model="CosmosTransformer3DModel",
        checkpoint="nvidia/Cosmos-Predict2-2B-Video2World",
        fps=16,
        pipelines={
            "CosmosTextToWorldPipeline": COSMOS,
            "CosmosVideoToWorldPipeline": COSMOS,
            "Cosmos2TextToImagePipeline": COSMOS,
            "Cosmos2VideoToWorldPipeline": COSMOS,
            "Cosmos2_5_PredictBasePipeline": COSMOS,
            "Cosmos2_5_TransferPipeline": COSMOS,
        },
        stacks=_one("transformer_blocks", 28, VIDEO, PLAIN),
        notes="its guidance_scale g is g + 1 in the formula: c + g (c - u); a skipped block loses its ControlNet hint",
    ),
    Family(
        name="allegro",
        title="Allegro",
        model="AllegroTransformer3DModel",
        checkpoint="rhymes-ai/Allegro",
        fps=15,
        pipelines={"AllegroPipeline": BATCHED},
        stacks=_one("transformer_blocks", 32, VIDEO, PLAIN),
        batched=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
    ),
    Family(
        name="easyanimate",
        title="EasyAnimate",
        model="EasyAnimateTransformer3DModel",
        checkpoint="alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers",
        fps=8,
        pipelines={
            "EasyAnimatePipeline": BATCHED_RESCALE,
            "EasyAnimateInpaintPipeline": BATCHED_RESCALE,
            "EasyAnimateControlPipeline": BATCHED_RESCALE,
        },
        stacks=_one("transformer_blocks", 48, VIDEO_AND_TEXT, {"attn1": identity_attention.joint}),
        text="before",
        batched=(
            "hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_t5", "inpaint_latents",
            "control_latents",
        ),
        learned_variance=True,
    ),
    Family(
        name="sana-video",
        title="SANA-Video",
        model="SanaVideoTransformer3DModel",
        checkpoint="Efficient-Large-Model/SANA-Video_2B_480p_diffusers",
        fps=16,
        pipelines={"SanaVideoPipeline": BATCHED_FLOAT32, "SanaImageToVideoPipeline": BATCHED_FLOAT32},
        stacks=_one("transformer_blocks", 20, VIDEO, PLAIN),
        batched=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        learned_variance=True,
        linear=True,
        notes="linear attention; the identity map gives V here too",
    ),
    Family(
        name="sana-wm",
        title="SANA-WM",
        model="SanaWMTransformer3DModel",
        checkpoint="Efficient-Large-Model/SANA-WM_bidirectional-diffusers",
        pipelines={"SanaWMPipeline": BATCHED_FLOAT32},
        stacks=_one("blocks", 20, ("x",), {}),
        batched=(
            "hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "mask", "camera_conditions",
            "chunk_plucker",
        ),
        notes="its attention mixes a recurrent and a camera branch, for which an identity map is not defined",
    ),
    Family(
        name="kandinsky-5",
        title="Kandinsky 5",
        model="Kandinsky5Transformer3DModel",
        checkpoint="kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers (Pro: 60 blocks)",
        pipelines={"Kandinsky5T2VPipeline": KANDINSKY, "Kandinsky5I2VPipeline": KANDINSKY},
        layout="bthwc",
        stacks=_one("visual_transformer_blocks", 32, ("visual_embed",), {"self_attention": identity_attention.kandinsky}),  # noqa: E501
    ),
    Family(
        name="kandinsky-6",
        title="Kandinsky 6",
        model="Kandinsky6Transformer3DModel",
        checkpoint="kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers",
        pipelines={"Kandinsky6TI2VAPipeline": KANDINSKY_6},
        stacks=_one(
            "visual_transformer_blocks", 60, ("vis", "aud"),
            {
                "video_dec_block.self_attention": identity_attention.kandinsky,
                "audio_dec_block.self_attention": identity_attention.kandinsky,
            },
            ("audio_dec_block.self_attention",),
        ),
        layout="bthwc",
        outputs=("video", "audio"),
    ),
    Family(
        name="helios",
        title="Helios",
        model="HeliosTransformer3DModel",
        checkpoint="BestWishYsh/Helios-Base",
        pipelines={"HeliosPipeline": SEPARATE_FLOAT32, "HeliosPyramidPipeline": HELIOS_PYRAMID},
        layout="",
        stacks=_one("blocks", 40, VIDEO, PLAIN),
        notes="a window is of each chunk (and stage) of the video, which are runs of their own",
    ),
    Family(
        name="anyflow",
        title="AnyFlow",
        model="AnyFlowTransformer3DModel",
        checkpoint="nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers",
        fps=16,
        pipelines={"AnyFlowPipeline": BATCHED},
        stacks=_one("blocks", 40, VIDEO, PLAIN),
        layout="btchw",
        batched=("hidden_states", "timestep", "r_timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
    ),
    Family(
        name="motif-video",
        title="Motif-Video",
        model="MotifVideoTransformer3DModel",
        checkpoint="Motif-Technologies/Motif-Video-2B",
        pipelines={"MotifVideoPipeline": GUIDER, "MotifVideoImage2VideoPipeline": GUIDER},
        stacks=_dual_and_single(20, 40),
        text="after",
    ),
    Family(
        name="latte",
        title="Latte",
        model="LatteTransformer3DModel",
        checkpoint="maxin-cn/Latte-1",
        fps=8,
        pipelines={"LattePipeline": BATCHED},
        stacks={
            "spatial": Stack("transformer_blocks", 28, VIDEO, PLAIN, axis="spatial"),
            "temporal": Stack("temporal_transformer_blocks", 28, VIDEO, PLAIN, axis="temporal"),
        },
        batched=("hidden_states", "timestep", "encoder_hidden_states"),
        paired=True,
        learned_variance=True,
    ),
    Family(
        name="opensora",
        title="Open-Sora 1.2",
        model="OpenSoraTransformer3DModel",
        checkpoint="hpcai-tech/OpenSora-STDiT-v3",
        pipelines={"OpenSoraPipeline": BATCHED_FLOAT32},
        stacks={
            "spatial": Stack("spatial_blocks", 28, VIDEO, PLAIN, axis="spatial", lie="tokens"),
            "temporal": Stack("temporal_blocks", 28, VIDEO, PLAIN, axis="temporal", lie="tokens"),
        },
        batched=(
            "hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "frame_mask", "fps",
            "height", "width",
        ),
        paired=True,
        learned_variance=True,
        package="skipguide.opensora",
        notes="diffusers has no Open-Sora: the classes are in skipguide.opensora (docs/opensora.md)",
    ),
    Family(
        name="svd",
        title="Stable Video Diffusion",
        model="UNetSpatioTemporalConditionModel",
        checkpoint="stabilityai/stable-video-diffusion-img2vid-xt",
        pipelines={"StableVideoDiffusionPipeline": SVD},
        stacks=_parts(6, 9),
        unet=UNet(
            ("resnets", "attentions"),
            {
                "spatial": Half("attentions", "transformer_blocks", ("attn1",)),
                "temporal": Half("attentions", "temporal_transformer_blocks", ("attn1",), lie="rows"),
            },
        ),
        layout="btchw",
        batched=("sample", "encoder_hidden_states", "added_time_ids"),
        denoisers=("unet",),
        notes="The paper's 8th of 16 layers is up:0.",
    ),
    Family(
        name="animatediff",
        title="AnimateDiff and PIA",
        model="UNetMotionModel",
        checkpoint="guoyww/animatediff-motion-adapter-v1-5-2",
        fps=8,
        pipelines={
            "AnimateDiffPipeline": BATCHED,
            "AnimateDiffControlNetPipeline": BATCHED,
            "AnimateDiffPAGPipeline": PAG,
            "AnimateDiffSDXLPipeline": BATCHED_RESCALE,
            "AnimateDiffSparseControlNetPipeline": BATCHED,
            "AnimateDiffVideoToVideoPipeline": BATCHED,
            "AnimateDiffVideoToVideoControlNetPipeline": BATCHED,
            "PIAPipeline": BATCHED,
        },
        stacks=_parts(8, 12),
        unet=UNet(
            ("resnets", "attentions", "motion_modules"),
            {
                "spatial": Half("attentions", "transformer_blocks", ("attn1",)),
                "temporal": Half("motion_modules", "transformer_blocks", ("attn1", "attn2")),
            },
        ),
        batched=(
            "sample", "encoder_hidden_states", "added_cond_kwargs", "down_block_additional_residuals",
            "mid_block_additional_residual",
        ),
        denoisers=("unet",),
        notes="Blocks without cross-attention (with Stable Diffusion 1.5 down:6, down:7, up:0 to up:2) have temporal "
        "layers only.",
    ),
    Family(
        name="modelscope",
        title="ModelScope and Zeroscope",
        model="UNet3DConditionModel",
        checkpoint="damo-vilab/text-to-video-ms-1.7b",
        fps=8,
        pipelines={"TextToVideoSDPipeline": BATCHED, "VideoToVideoSDPipeline": BATCHED},
        stacks=_parts(6, 9),
        unet=UNET_3D,
        batched=("sample", "encoder_hidden_states"),
        denoisers=("unet",),
        replayed=("transformer_in",),
    ),
    Family(
        name="i2vgen-xl",
        title="I2VGen-XL",
        model="I2VGenXLUNet",
        checkpoint="ali-vilab/i2vgen-xl",
        pipelines={"I2VGenXLPipeline": BATCHED},
        stacks=_parts(6, 9),
        unet=UNET_3D,
        batched=("sample", "fps", "image_latents", "image_embeddings", "encoder_hidden_states"),
        denoisers=("unet",),
        replayed=("transformer_in", "image_latents_temporal_encoder"),
    ),
)  # fmt: skip

# Video pipelines of diffusers that guide() refuses, and why.
_CROSS_FRAME = "its UNet is one for images, which takes the frames as a batch and attends across them in its processors"
_ADD_UP = "it makes no video by steps of denoising, so there is nothing to guide"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline"), _CROSS_FRAME),
    **dict.fromkeys(("LTXLatentUpsamplePipeline", "LTX2LatentUpsamplePipeline"), _ADD_UP),
    "AnyFlowFARPipeline": "its transformer keeps keys and values of earlier chunks, which a weak pass would overwrite",
    "Cosmos3OmniPipeline":
        "its transformer takes packed sequences of several kinds and keeps keys and values of the text",
    "JoyImageEditPipeline": "it edits images",
    "Kandinsky6SRPipeline": "it is a one-pass upscaler that runs without CFG or steps worth guiding",
    "LTX2DFRPipeline": "it calls its transformer once per tile of the picture in every step",
    "LTX2DFRTemporalRefinePipeline": "it calls its transformer once per tile of time in every step",
    "LTXI2VLongMultiPromptPipeline":
        "it calls its transformer once per tile of time in every step, with prompts that differ",
}  # fmt: skip

# Built by `make comfyui` from src/skipguide/families/rows.py; do not edit.
"""One row of data for each family of models: where its blocks are, what flows through them, how
its pipelines call CFG.

`schema.py` says what the fields mean. To support another model, add a row and an example to
`families/examples` (docs/add-a-family.md). Models that make videos are here, those that make images
in `image_rows.py` and, UNets, in `image_unet_rows.py`; FAMILIES has all of them."""

from __future__ import annotations

from dataclasses import replace

from ..families import (
    identity_attention,
    image_reasons,
    image_rows,
    image_unet_rows,
    more_image_rows,
    text_attention,
)
from ..families.row_parts import (
    BATCHED,
    BATCHED_FLOAT32,
    BATCHED_RESCALE,
    COG,
    COSMOS,
    GUIDER,
    HELIOS_PYRAMID,
    JOINT_ATTENTION,
    JOINT_STREAMS,
    KANDINSKY,
    KANDINSKY_6,
    LTX,
    LTX2,
    LTX2_HDR,
    MASKED_TEXT_INPUTS,
    NO_CFG,
    PAG,
    PLAIN_ATTENTION,
    SEPARATE_FLOAT32,
    SHARED_JOINT_ATTENTION,
    SVD,
    TEXT_INPUTS,
    TRUE_CFG,
    TWO_SCALES,
    UNET_3D_LAYOUT,
    VIDEO_STREAM,
    dual_and_single_stacks,
    single_stack,
    spatial_and_temporal_stacks,
    unet_stacks,
)
from ..families.schema import AxisLayers, Family, UNetLayout

VIDEO_FAMILIES = (
    Family(
        name="mochi",
        title="Mochi 1",
        model="MochiTransformer3DModel",
        checkpoint="genmo/mochi-1-preview",
        fps=30,
        pipelines={"MochiPipeline": BATCHED_FLOAT32},
        stacks=single_stack(
            "transformer_blocks", 48, JOINT_STREAMS,
            {"attn1": identity_attention.packed_joint_attention},
            text=text_attention.MOCHI,
        ),
        text_position="after",
        batched_inputs=MASKED_TEXT_INPUTS,
        negative=text_attention.MASKED_PROMPT,
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
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        denoisers=("transformer", "transformer_2"),
        negative=text_attention.PLAIN_PROMPT,
        modular=(
            "WanModularPipeline", "WanImage2VideoModularPipeline", "Wan22ModularPipeline",
            "Wan22Image2VideoModularPipeline",
        ),
    ),
    Family(
        name="wan-vace",
        title="Wan VACE",
        model="WanVACETransformer3DModel",
        checkpoint="Wan-AI/Wan2.1-VACE-14B-diffusers",
        fps=16,
        pipelines={"WanVACEPipeline": TWO_SCALES},
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        denoisers=("transformer", "transformer_2"),
        cached_modules=("vace_blocks",),
        notes="a skipped block keeps its VACE hint; the hints of the cond pass are reused",
        negative=text_attention.PLAIN_PROMPT,
        modular=("Wan22VaceModularPipeline",),
    ),
    Family(
        name="wan-animate",
        title="Wan 2.2 Animate",
        model="WanAnimateTransformer3DModel",
        checkpoint="Wan-AI/Wan2.2-Animate-14B-Diffusers",
        fps=30,
        pipelines={"WanAnimatePipeline": SEPARATE_FLOAT32},
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        cached_modules=("motion_encoder", "face_encoder"),
        injected_modules=(("face_adapter", "inject_face_latents_blocks"),),
        notes="a skipped block keeps its face adapter",
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="chronoedit",
        title="ChronoEdit",
        model="ChronoEditTransformer3DModel",
        checkpoint="nvidia/ChronoEdit-14B-Diffusers",
        fps=16,
        pipelines={"ChronoEditPipeline": SEPARATE_FLOAT32},
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        negative=text_attention.PLAIN_PROMPT,
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
        stacks=dual_and_single_stacks(20, 40, text_attention.DUAL_AND_SINGLE),
        text_position="after",
        notes="embedded guidance runs without CFG: one pass and the weak one; true_cfg_scale > 1 "
        "is CFG",
        negative=text_attention.HUNYUAN_PROMPT,
    ),
    Family(
        name="framepack",
        title="FramePack",
        model="HunyuanVideoFramepackTransformer3DModel",
        checkpoint="lllyasviel/FramePackI2V_HY",
        fps=30,
        pipelines={"HunyuanVideoFramepackPipeline": replace(TRUE_CFG, float32_prediction=True)},
        stacks=dual_and_single_stacks(20, 40, text_attention.DUAL_AND_SINGLE),
        latent_layout="",
        text_position="after",
        negative=text_attention.HUNYUAN_PROMPT,
    ),
    Family(
        name="hunyuan-1.5",
        title="HunyuanVideo 1.5",
        model="HunyuanVideo15Transformer3DModel",
        checkpoint="hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",
        pipelines={"HunyuanVideo15Pipeline": GUIDER, "HunyuanVideo15ImageToVideoPipeline": GUIDER},
        stacks=single_stack(
            "transformer_blocks", 54, JOINT_STREAMS, JOINT_ATTENTION,
            text=text_attention.DUAL,
        ),
        text_position="after",
        negative=text_attention.HUNYUAN_1_5_PROMPT,
        modular=("HunyuanVideo15ModularPipeline",),
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
        stacks=single_stack(
            "transformer_blocks", 28, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.MASKED_CROSS,
        ),
        latent_layout="packed",
        batched_inputs=(*MASKED_TEXT_INPUTS, "video_coords"),
        negative=text_attention.MASKED_PROMPT,
        modular=("LTXModularPipeline",),
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
        stacks=single_stack(
            "transformer_blocks", 48, ("hidden_states", "audio_hidden_states"),
            {**PLAIN_ATTENTION, "audio_attn1": identity_attention.plain_attention},
            audio=("audio_attn1",),
            text=text_attention.LTX_2,
            isolation=(
                "audio_to_video_norm", "video_to_audio_norm", "audio_to_video_attn",
                "video_to_audio_attn",
            ),
        ),
        latent_layout="packed",
        batched_inputs=(
            *MASKED_TEXT_INPUTS, "audio_hidden_states", "audio_encoder_hidden_states",
            "audio_timestep", "sigma", "audio_sigma", "audio_encoder_attention_mask",
            "video_coords", "audio_coords", "video_self_attention_mask", "video_keyframes_mask",
        ),
        outputs=("video", "audio"),
        modular=("LTX2ModularPipeline", "LTX25ModularPipeline"),
        notes="the pipelines have STG, modality guidance and rescaling of their own, on by default:"
        " STG.preset() and replace_own=True switch them off; Modality is for this family alone",
        negative=text_attention.LTX_2_PROMPT,
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
        stacks=single_stack(
            "transformer_blocks", 42, JOINT_STREAMS, SHARED_JOINT_ATTENTION,
            text=text_attention.SHARED,
        ),
        latent_layout="btchw",
        text_position="before",
        batched_inputs=TEXT_INPUTS,
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="consisid",
        title="ConsisID",
        model="ConsisIDTransformer3DModel",
        checkpoint="BestWishYsh/ConsisID-preview",
        fps=8,
        pipelines={"ConsisIDPipeline": COG},
        stacks=single_stack(
            "transformer_blocks", 42, JOINT_STREAMS, SHARED_JOINT_ATTENTION,
            text=text_attention.SHARED,
        ),
        latent_layout="btchw",
        text_position="before",
        batched_inputs=TEXT_INPUTS,
        injected_modules=(("perceiver_cross_attention", "cross_attn_interval"),),
        notes="a skipped block keeps its face attention",
        packages={"cv2": "opencv-python"},
        negative=text_attention.PLAIN_PROMPT,
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
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        negative=text_attention.PLAIN_PROMPT,
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
        stacks=single_stack("transformer_blocks", 28, VIDEO_STREAM, PLAIN_ATTENTION),
        notes="its guidance_scale g is g + 1 in the formula: c + g (c - u); a skipped block loses "
        "its ControlNet hint",
        packages={"cosmos_guardrail": "cosmos_guardrail"},
    ),
    Family(
        name="allegro",
        title="Allegro",
        model="AllegroTransformer3DModel",
        checkpoint="rhymes-ai/Allegro",
        fps=15,
        pipelines={"AllegroPipeline": BATCHED},
        stacks=single_stack(
            "transformer_blocks", 32, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.MASKED_CROSS,
        ),
        batched_inputs=MASKED_TEXT_INPUTS,
        negative=text_attention.MASKED_PROMPT,
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
        stacks=single_stack(
            "transformer_blocks", 48, JOINT_STREAMS,
            {"attn1": identity_attention.joint_attention},
        ),
        text_position="before",
        batched_inputs=(
            *TEXT_INPUTS, "encoder_hidden_states_t5", "inpaint_latents", "control_latents"
        ),
        learned_variance=True,
    ),
    Family(
        name="sana-video",
        title="SANA-Video",
        model="SanaVideoTransformer3DModel",
        checkpoint="Efficient-Large-Model/SANA-Video_2B_480p_diffusers",
        fps=16,
        pipelines={
            "SanaVideoPipeline": BATCHED_FLOAT32,
            "SanaImageToVideoPipeline": BATCHED_FLOAT32,
        },
        stacks=single_stack(
            "transformer_blocks", 20, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.MASKED_CROSS,
        ),
        batched_inputs=MASKED_TEXT_INPUTS,
        learned_variance=True,
        linear_attention=True,
        notes="linear attention; the identity map gives V here too",
        negative=text_attention.MASKED_PROMPT,
    ),
    Family(
        name="sana-wm",
        title="SANA-WM",
        model="SanaWMTransformer3DModel",
        checkpoint="Efficient-Large-Model/SANA-WM_bidirectional-diffusers",
        pipelines={"SanaWMPipeline": BATCHED_FLOAT32},
        stacks=single_stack("blocks", 20, ("x",), {}),
        batched_inputs=(
            *MASKED_TEXT_INPUTS, "mask", "camera_conditions", "chunk_plucker"
        ),
        notes="its attention mixes a recurrent and a camera branch, for which an identity map is "
        "not defined",
    ),
    Family(
        name="kandinsky-5",
        title="Kandinsky 5",
        model="Kandinsky5Transformer3DModel",
        checkpoint="kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers (Pro: 60 blocks)",
        pipelines={
            "Kandinsky5T2VPipeline": KANDINSKY,
            "Kandinsky5I2VPipeline": KANDINSKY,
            "Kandinsky5T2IPipeline": KANDINSKY,
            "Kandinsky5I2IPipeline": KANDINSKY,
        },
        latent_layout="bthwc",
        stacks=single_stack(
            "visual_transformer_blocks", 32, ("visual_embed",),
            {"self_attention": identity_attention.kandinsky_attention},
        ),
        packages={"torchvision": "torchvision"},
    ),
    Family(
        name="kandinsky-6",
        title="Kandinsky 6",
        model="Kandinsky6Transformer3DModel",
        checkpoint="kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers",
        pipelines={"Kandinsky6TI2VAPipeline": KANDINSKY_6},
        stacks=single_stack(
            "visual_transformer_blocks", 60, ("vis", "aud"),
            {
                "video_dec_block.self_attention": identity_attention.kandinsky_attention,
                "audio_dec_block.self_attention": identity_attention.kandinsky_attention,
            },
            audio=("audio_dec_block.self_attention",),
        ),
        latent_layout="bthwc",
        outputs=("video", "audio"),
        packages={"torchvision": "torchvision"},
    ),
    Family(
        name="helios",
        title="Helios",
        model="HeliosTransformer3DModel",
        checkpoint="BestWishYsh/Helios-Base",
        pipelines={"HeliosPipeline": SEPARATE_FLOAT32, "HeliosPyramidPipeline": HELIOS_PYRAMID},
        latent_layout="",
        stacks=single_stack(
            "blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.CROSS,
        ),
        notes="a window is of each chunk (and stage) of the video, which are runs of their own",
        negative=text_attention.PLAIN_PROMPT,
        modular=(
            "HeliosModularPipeline", "HeliosPyramidModularPipeline",
            "HeliosPyramidDistilledModularPipeline",
        ),
    ),
    Family(
        name="anyflow",
        title="AnyFlow",
        model="AnyFlowTransformer3DModel",
        checkpoint="nvidia/AnyFlow-Wan2.1-T2V-14B-Diffusers",
        fps=16,
        pipelines={"AnyFlowPipeline": BATCHED},
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.WAN),
        latent_layout="btchw",
        batched_inputs=(*TEXT_INPUTS, "r_timestep", "encoder_hidden_states_image"),
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="minimax-h3",
        title="MiniMax-H3",
        model="MiniMaxH3Transformer3DModel",
        checkpoint="MiniMaxAI/MiniMax-H3",
        pipelines={"MiniMaxH3ModularPipeline": NO_CFG},
        stacks=single_stack(
            "transformer_blocks", 50, VIDEO_STREAM, {"attn": identity_attention.plain_attention}
        ),
        denoisers=("transformer", "transformer_ref"),
        latent_layout="",
        outputs=("video", "audio"),
        notes="text, sound and video are one sequence; guidance-distilled, and Modular without a "
        "guider: guide(pipe, ...) itself; a run has a step less than asked for",
    ),
    Family(
        name="motif-video",
        title="Motif-Video",
        model="MotifVideoTransformer3DModel",
        checkpoint="Motif-Technologies/Motif-Video-2B",
        pipelines={"MotifVideoPipeline": GUIDER, "MotifVideoImage2VideoPipeline": GUIDER},
        stacks=dual_and_single_stacks(20, 40),
        text_position="after",
    ),
    Family(
        name="latte",
        title="Latte",
        model="LatteTransformer3DModel",
        checkpoint="maxin-cn/Latte-1",
        fps=8,
        pipelines={"LattePipeline": BATCHED},
        stacks=spatial_and_temporal_stacks(
            "transformer_blocks", "temporal_transformer_blocks", 28
        ),
        batched_inputs=TEXT_INPUTS,
        interleaved=True,
        learned_variance=True,
    ),
    Family(
        name="opensora",
        title="Open-Sora 1.2",
        model="OpenSoraTransformer3DModel",
        checkpoint="hpcai-tech/OpenSora-STDiT-v3",
        pipelines={"OpenSoraPipeline": BATCHED_FLOAT32},
        stacks=spatial_and_temporal_stacks("spatial_blocks", "temporal_blocks", 28, "tokens"),
        batched_inputs=(*MASKED_TEXT_INPUTS, "frame_mask", "fps", "height", "width"),
        interleaved=True,
        learned_variance=True,
        package="skipguide.opensora",
        notes="diffusers has no Open-Sora: the classes are in skipguide.opensora",
    ),
    Family(
        name="svd",
        title="Stable Video Diffusion",
        model="UNetSpatioTemporalConditionModel",
        checkpoint="stabilityai/stable-video-diffusion-img2vid-xt",
        pipelines={"StableVideoDiffusionPipeline": SVD},
        stacks=unet_stacks(6, 9),
        unet=UNetLayout(
            ("resnets", "attentions"),
            {
                "spatial": AxisLayers("attentions", "transformer_blocks", ("attn1",)),
                "temporal": AxisLayers(
                    "attentions", "temporal_transformer_blocks", ("attn1",), token_layout="rows"
                ),
            },
        ),
        latent_layout="btchw",
        batched_inputs=("sample", "encoder_hidden_states", "added_time_ids"),
        denoisers=("unet",),
        notes="The paper's 8th of 16 layers is up:0.",
        no_nag="its denoiser sees an image and no text",
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
        stacks=unet_stacks(8, 12),
        unet=UNetLayout(
            ("resnets", "attentions", "motion_modules"),
            {
                "spatial": AxisLayers("attentions", "transformer_blocks", ("attn1",)),
                "temporal": AxisLayers("motion_modules", "transformer_blocks", ("attn1", "attn2")),
            },
        ),
        batched_inputs=(
            "sample", "encoder_hidden_states", "added_cond_kwargs",
            "down_block_additional_residuals", "mid_block_additional_residual",
        ),
        denoisers=("unet",),
        notes="Blocks without cross-attention (with Stable Diffusion 1.5 down:6, down:7, up:0 to "
        "up:2) have temporal layers only.",
        no_nag=text_attention.IN_A_UNET,
    ),
    Family(
        name="modelscope",
        title="ModelScope and Zeroscope",
        model="UNet3DConditionModel",
        checkpoint="damo-vilab/text-to-video-ms-1.7b",
        fps=8,
        pipelines={"TextToVideoSDPipeline": BATCHED, "VideoToVideoSDPipeline": BATCHED},
        stacks=unet_stacks(6, 9),
        unet=UNET_3D_LAYOUT,
        batched_inputs=("sample", "encoder_hidden_states"),
        denoisers=("unet",),
        cached_modules=("transformer_in",),
        no_nag=text_attention.IN_A_UNET,
    ),
    Family(
        name="i2vgen-xl",
        title="I2VGen-XL",
        model="I2VGenXLUNet",
        checkpoint="ali-vilab/i2vgen-xl",
        pipelines={"I2VGenXLPipeline": BATCHED},
        stacks=unet_stacks(6, 9),
        unet=UNET_3D_LAYOUT,
        batched_inputs=(
            "sample", "fps", "image_latents", "image_embeddings", "encoder_hidden_states"
        ),
        denoisers=("unet",),
        cached_modules=("transformer_in", "image_latents_temporal_encoder"),
        no_nag=text_attention.IN_A_UNET,
    ),
)  # fmt: skip

FAMILIES = (
    *VIDEO_FAMILIES,
    *image_rows.FAMILIES,
    *more_image_rows.FAMILIES,
    *image_unet_rows.FAMILIES,
)

# The newest diffusers whose pipelines for videos and images were all compared with the rows.
COMPARED_WITH = "0.42.1"
# Video pipelines of diffusers that guide() and SkipGuidance refuse, and why.
REFUSED_VIDEO_PIPELINES: dict[str, str] = {
    **dict.fromkeys(
        ("TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline"),
        "its UNet is one for images, which takes the frames as a batch and attends across them in"
        " its processors",
    ),
    **dict.fromkeys(
        ("LTXLatentUpsamplePipeline", "LTX2LatentUpsamplePipeline"),
        "it makes no video by steps of denoising, so there is nothing to guide",
    ),
    "AnyFlowFARPipeline": (
        "its transformer keeps keys and values of earlier chunks, which a weak pass would overwrite"
    ),
    "Cosmos3OmniPipeline": (
        "its transformer takes packed sequences of several kinds and keeps keys and values of the"
        " text"
    ),
    **dict.fromkeys(
        ("Cosmos3OmniModularPipeline", "Cosmos3DistilledModularPipeline"),
        "it has no guider, and its transformer takes packed sequences of several kinds and keeps"
        " keys and values of the text",
    ),
    "EchoModularPipeline": (
        "it has no guider: it is distilled, and asks an LTX-2 transformer once a step for estimates"
        " beside tokens of its memory"
    ),
    **dict.fromkeys(
        ("WanAnimate2ModularPipeline", "WanAnimate2DistilledModularPipeline"),
        "its transformer takes lists of latents without a batch, and attends to kept keys of the"
        " driving video by flex attention only, under masks that it makes for each size",
    ),
    "JoyImageEditPipeline": (
        "it predicts the pictures that it edits too, along a dimension before the channels, and"
        " gives the result of CFG the length of c along the channels, which no row describes"
    ),
    "Kandinsky6SRPipeline": (
        "it is a one-pass upscaler that runs without CFG or steps worth guiding"
    ),
    "LTX2DFRPipeline": "it calls its transformer once per tile of the picture in every step",
    "LTX2DFRTemporalRefinePipeline": "it calls its transformer once per tile of time in every step",
    "LTXI2VLongMultiPromptPipeline": (
        "it calls its transformer once per tile of time in every step, with prompts that differ"
    ),
}

REFUSED_PIPELINES = {**REFUSED_VIDEO_PIPELINES, **image_reasons.REFUSED_PIPELINES}

# Built by `make comfyui` from src/skipguide/families/image_reasons.py; do not edit.
"""Pipelines of diffusers that make images and have no row, and why."""

from __future__ import annotations

from collections.abc import Iterable


def _for_all(reason: str, names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, reason)


REFUSED_PIPELINES: dict[str, str] = {
    **_for_all(
        "it has no denoiser of its own, but calls other pipelines: guide() the one that denoises",
        (
            "KandinskyCombinedPipeline", "KandinskyImg2ImgCombinedPipeline",
            "KandinskyInpaintCombinedPipeline", "KandinskyV22CombinedPipeline",
            "KandinskyV22Img2ImgCombinedPipeline", "KandinskyV22InpaintCombinedPipeline",
            "StableCascadeCombinedPipeline",
        ),
    ),
    "VisualClozePipeline": (
        "it calls two pipelines, with a transformer of its own each: guide() its generation_pipe,"
        " its upsampling_pipe, or both"
    ),
    "FluxPriorReduxPipeline": (
        "it makes embeddings of an image by one pass; guide() the FluxPipeline that takes them"
    ),
    **_for_all(
        "it makes embeddings, which have no place in an image, by a model without image tokens",
        (
            "KandinskyPriorPipeline", "KandinskyV22PriorPipeline",
            "KandinskyV22PriorEmb2EmbPipeline", "StableCascadePriorPipeline",
        ),
    ),
    **_for_all(
        "it makes the parameters of a three-dimensional scene, which is no image",
        ("ShapEPipeline", "ShapEImg2ImgPipeline"),
    ),
    **_for_all(
        "its UNet takes no text and has attention in few of its blocks, which no row describes",
        ("ConsistencyModelPipeline", "DDIMPipeline", "DDPMPipeline"),
    ),
    "Flux2KleinKVPipeline": (
        "its transformer keeps keys and values of the pictures that it edits, which a weak pass"
        " would overwrite; Flux2KleinPipeline takes pictures without"
    ),
    "QwenImage21Pipeline": (
        "its transformer keeps keys and values of the text and of pictures from step to step, which"
        " a weak pass would overwrite"
    ),
    **_for_all(
        "its ControlNet adds to tokens that are padded for the whole batch of CFG, as those of a"
        " pass of one half are not",
        ("ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline"),
    ),
    "ZImageOmniPipeline": (
        "its transformer takes nested lists of pictures of several sizes, which no row describes"
    ),
    **_for_all(
        "its UNet has no transformer blocks: one attention sees the image and the keys of the text",
        (
            "IFImg2ImgPipeline", "IFImg2ImgSuperResolutionPipeline", "IFInpaintingPipeline",
            "IFInpaintingSuperResolutionPipeline", "IFPipeline", "IFSuperResolutionPipeline",
            "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline", "KandinskyPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline", "KandinskyV22ControlnetPipeline",
            "KandinskyV22Img2ImgPipeline", "KandinskyV22InpaintPipeline", "KandinskyV22Pipeline",
        ),
    ),
    **_for_all(
        "it has three predictions, and a scale for its image beside that of CFG",
        ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"),
    ),
    **_for_all(
        "the self-attentions of its UNet see the text, or there are none, by its config",
        ("StableDiffusionUpscalePipeline", "StableDiffusionLatentUpscalePipeline"),
    ),
    **_for_all(
        "its UNet empties the list of what the adapter adds, so that a second pass has none",
        ("StableDiffusionAdapterPipeline", "StableDiffusionXLAdapterPipeline"),
    ),
    **_for_all(
        "it measures a picture (depth, normals, materials) and makes none",
        ("MarigoldDepthPipeline", "MarigoldIntrinsicsPipeline", "MarigoldNormalsPipeline"),
    ),
    **_for_all(
        "diffusers keeps it for old code, and nobody made a row for it",
        (
            "AltDiffusionImg2ImgPipeline", "AltDiffusionPipeline",
            "BlipDiffusionControlNetPipeline", "BlipDiffusionPipeline", "CycleDiffusionPipeline",
            "LDMTextToImagePipeline", "PaintByExamplePipeline", "SemanticStableDiffusionPipeline",
            "StableDiffusionAttendAndExcitePipeline", "StableDiffusionControlNetXSPipeline",
            "StableDiffusionDiffEditPipeline", "StableDiffusionGLIGENPipeline",
            "StableDiffusionGLIGENTextImagePipeline", "StableDiffusionLDM3DPipeline",
            "StableDiffusionModelEditingPipeline", "StableDiffusionPanoramaPipeline",
            "StableDiffusionParadigmsPipeline", "StableDiffusionPix2PixZeroPipeline",
            "StableDiffusionSAGPipeline", "StableDiffusionXLControlNetXSPipeline",
        ),
    ),
    **_for_all(
        "it guides three of the four channels of its latents, so that D cannot be handed over",
        ("LuminaPipeline", "LuminaText2ImgPipeline"),
    ),
    "DiTPipeline": (
        "the latents that it guides are a batch of both halves, which it cuts after the last step"
    ),
    "HunyuanDiTControlNetPipeline": (
        "its denoiser empties the list of hints that it is handed, so that a weak pass finds none"
    ),
    **_for_all(
        "its attentions have queries of the image alone and keys of the text too, which the skips"
        " of attention do not know yet",
        ("PRXPipeline", "PRXPixelPipeline", "NucleusMoEImagePipeline"),
    ),
    **_for_all(
        "it takes no embeddings of prompts, and how it calls its denoiser was not tried",
        (
            "BriaFiboPipeline", "BriaFiboEditPipeline", "BriaFibo2Pipeline", "LongCatImagePipeline",
            "LongCatImageEditPipeline",
        ),
    ),
    "JoyImageEditPlusPipeline": (
        "its batch has images of several sizes in one tensor, of which a mask says where the one is"
        " that it makes, and CFG gets the length of c at each place of all of them"
    ),
    "ErnieImagePipeline": (
        "its blocks take the tokens as the first dimension and the batch as the second"
    ),
    "OmniGenPipeline": "its batch is [cond, uncond] with a third part where there are images",
    "Ideogram4Pipeline": "it has another transformer for u, whose inputs are other tokens",
    **_for_all(
        "nobody made a row for it yet",
        (
            "DreamLiteMobilePipeline", "DreamLitePipeline", "Kandinsky3Img2ImgPipeline",
            "Kandinsky3Pipeline", "LDMSuperResolutionPipeline", "StableCascadeDecoderPipeline",
        ),
    ),
}  # fmt: skip

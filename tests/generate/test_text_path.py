"""Prompts through the text encoders of every pipeline: all that a clean install must have.

`make test-install` runs this file with the built wheel in an empty environment."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide import STG, guide
from skipguide.families import lookup
from skipguide.models import loading
from support.text_encoders import text_components, without_embeddings
from support.tiny import builders

# A right single quotation mark and an HTML entity, which the pipelines' cleaning of texts changes;
# quoted words, which HunyuanVideo 1.5 reads with an encoder of their own.
PROMPTS = ("a red star\u2019s sign &amp; a moon", 'a sign that says "open"')
OTHERS = ("a blue floor\u2019s sign", 'a sign that says "shut"')
NO_TEXTS = ("StableVideoDiffusionPipeline", "StableVideoDiffusionPipeline deep")
# No text, or one whose encoder is more than that:
LEFT_OUT = {
    "StableDiffusionImageVariationPipeline": "it takes a picture in the place of a text",
    "StableUnCLIPImg2ImgPipeline": "its picture is given as embeddings, which this test takes away",
    "StableUnCLIPPipeline": "its prior has a tokenizer and an encoder of its own",
    **dict.fromkeys(
        ("GlmImagePipeline", "GlmImagePipeline edits"),
        "a language model writes the picture in tokens first",
    ),
    **dict.fromkeys(
        (
            "QwenImageEditPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageLayeredPipeline",
        ),
        "its encoder reads the picture with the text, by a processor that needs torchvision",
    ),
    **dict.fromkeys(
        ("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline"),
        "its denoiser has learned a position for each of 77 and 256 tokens, the tiny one of a few",
    ),
    "Flux2Pipeline": "its encoder is of Mistral 3 with a processor that needs torchvision",
    **dict.fromkeys(
        ("KolorsPipeline", "KolorsImg2ImgPipeline", "KolorsPAGPipeline"),
        "its encoder is a ChatGLM in diffusers' own code, with a tokenizer of its own",
    ),
}
REFUSED = ("LTXI2VLongMultiPromptPipeline", "HeliosPyramidPipeline zero")  # by guide()
NAMES = [
    name
    for name in builders()
    if name not in (*NO_TEXTS, *REFUSED) and name.split()[0] not in LEFT_OUT
]
# Encoders that differ from those of the other pipelines of their family.
KINDS = {
    "HunyuanVideoImageToVideoPipeline": "hunyuan-i2v",
    "AnimateDiffSDXLPipeline": "animatediff-sdxl",
    "Cosmos2_5_PredictBasePipeline": "cosmos-2.5",
    "Cosmos2_5_TransferPipeline": "cosmos-2.5",
    "Flux2KleinPipeline": "flux-2-klein",
    "Flux2KleinInpaintPipeline": "flux-2-klein",
}
# These have learned one position for each token of a text, or a null caption of some length.
FIXED_LENGTHS = {"cogvideox", "consisid", "opensora"}


# transformers' older way of reading vocab.json and merges.txt
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0. BPE:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_reaches_the_video(name: str, tmp_path: Path) -> None:
    tiny = builders()[name](torch.float32)
    pipe, kind = tiny.pipe, name.split()[0]
    family = lookup.family_of(pipe)
    if "torchvision" in family.packages and not importlib.util.find_spec("torchvision"):
        with pytest.raises(ValueError, match=f"^{kind} needs torchvision.*pip install torchvision"):
            loading.check_packages(kind, family.packages)
        pytest.skip("the processor of its texts needs torchvision, as loading it says")
    if pipe.tokenizer is None:
        components = text_components(KINDS.get(kind, family.name), tiny.call, tmp_path)
        pipe.register_modules(**components)
    loading.restore_text_model(pipe)
    call, prompts = without_embeddings(tiny.call | tiny.short)
    call = {name: value for name, value in call.items() if value is not None}
    if kind == "HunyuanVideoImageToVideoPipeline":  # it reads one image beside negative prompts
        prompts, call["image"] = 1, call["image"][:1]
    if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
        call["negative_prompt"] = ["blurry"] * prompts if prompts > 1 else "blurry"
    if family.name in FIXED_LENGTHS:
        call["max_sequence_length"] = tiny.call["prompt_embeds"].shape[1]
    layer = f"{next(iter(family.stacks))}:0"

    def run(texts: tuple[str, ...]) -> torch.Tensor:
        texts = texts[:prompts] if prompts > 1 else texts[:1]
        given: Any = list(texts) if prompts > 1 else texts[0]
        with guide(pipe, STG(layers=[layer], scale=1.0)):
            video = pipe(**call, prompt=given, generator=torch.manual_seed(0))[0]
        return video[-1] if isinstance(video, list) else video  # FramePack grows it in sections

    one, other = run(PROMPTS), run(OTHERS)
    assert one.isfinite().all()
    assert not torch.equal(one, other)

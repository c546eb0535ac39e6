"""Small random text encoders of the pipelines that make images, from the parts of
`text_encoders.py`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import transformers

from support import text_encoders as parts
from support.text_encoders import Builder, Components


def clip_and_t5(widths: Sequence[int], folder: Path) -> Components:
    """Flux: what CLIP pools, and T5's tokens."""
    return parts.clip(widths[1:], folder) | _t5(widths[0], folder, "_2")


def two_clips_and_t5(widths: Sequence[int], folder: Path, positions: int = 77) -> Components:
    """SD3: two CLIPs, whose pooled vectors stand side by side, and T5."""
    found: Components = {}
    for suffix in ("", "_2"):
        found |= parts.clip([widths[1] // 2], folder, suffix, True, positions)
    return found | _t5(widths[0], folder, "_3")


def hidream(widths: Sequence[int], folder: Path) -> Components:
    """SD3's, and layers of a Llama."""
    t5_width, llama_width, pooled = widths
    found = two_clips_and_t5((t5_width, pooled), folder, positions=248)
    tokenizer = parts.bpe_tokenizer(
        folder / "tokenizer_4", "PreTrainedTokenizerFast", bos="<|begin_of_text|>"
    )
    config = transformers.LlamaConfig(**parts._decoder_sizes(llama_width, tokenizer))
    return found | dict(tokenizer_4=tokenizer, text_encoder_4=transformers.LlamaForCausalLM(config))


def _t5(width: int, folder: Path, suffix: str) -> Components:
    found = parts.t5([width], folder / f"t5{suffix}")
    return {f"{name}{suffix}": value for name, value in found.items()}


def qwen3(
    widths: Sequence[int], folder: Path, kind: str = "Qwen3Model", taken: int = 1, layers: int = 3
) -> Components:
    """A text model of which the pipeline takes the states of so many layers side by side."""
    tokenizer = parts.bpe_tokenizer(folder / "tokenizer", "Qwen2Tokenizer", eos="<|im_end|>")
    width = widths[0] // taken
    config = transformers.Qwen3Config(
        **parts._decoder_sizes(width, tokenizer, layers), head_dim=width // 2
    )
    return dict(tokenizer=tokenizer, text_encoder=getattr(transformers, kind)(config))


def qwen3_vl(widths: Sequence[int], folder: Path) -> Components:
    """Krea 2, which takes the states of several layers."""
    tokenizer = parts.bpe_tokenizer(folder / "tokenizer", "Qwen2Tokenizer", eos="<|im_end|>")
    rope = dict(rope_type="default", mrope_section=[2, 1, 1], rope_theta=1e4)
    sizes = parts._decoder_sizes(widths[0], tokenizer)
    config = transformers.Qwen3VLConfig(
        text_config=sizes | dict(head_dim=8, rope_parameters=rope, rope_scaling=rope),
        vision_config=dict(
            depth=1, hidden_size=16, num_heads=2, intermediate_size=32, out_hidden_size=widths[0],
            deepstack_visual_indexes=[0],
        ),
        **parts._vision_tokens(tokenizer),
    )  # fmt: skip
    return dict(tokenizer=tokenizer, text_encoder=transformers.Qwen3VLModel(config))


def qwen_and_byt5(widths: Sequence[int], folder: Path) -> Components:
    """HunyuanImage: a model of pictures and texts, and bytes of what is to be written."""
    characters = transformers.ByT5Tokenizer()
    config = transformers.T5Config(vocab_size=len(characters), **parts._t5_sizes(widths[-1]))
    second = dict(tokenizer_2=characters, text_encoder_2=transformers.T5EncoderModel(config))
    return parts.qwen(widths, folder, layers=3) | second


BUILDERS: Mapping[str, Builder] = {
    **dict.fromkeys(("pixart", "cogview3-plus", "chroma", "bria"), parts.t5),
    **dict.fromkeys(("sana", "lumina-2"), parts.gemma2),
    "auraflow": parts.umt5,
    "sd": parts.clip,
    "sdxl": parts.sdxl,
    "sd3": two_clips_and_t5,
    "flux": clip_and_t5,
    "flux-2-klein": functools.partial(qwen3, kind="Qwen3ForCausalLM", taken=3, layers=28),
    "qwen-image": parts.qwen,
    "krea-2": qwen3_vl,
    "z-image": qwen3,
    "ovis-image": qwen3,
    "hunyuan-image": qwen_and_byt5,
    "hidream": hidream,
}

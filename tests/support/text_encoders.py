"""Small random text encoders of every kind that the pipelines have, and their tokenizers.

The tokenizers are read from files in the layout that the published checkpoints have: T5's as a lone
`spiece.model` (CogVideoX, LTX, Latte and others ship nothing else), CLIP's as `vocab.json` and
`merges.txt`, the others as `tokenizer.json`. All are trained here, on a few sentences."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Components = dict[str, Any]

CAPTIONS = (
    "a small red star orbits over a blue background",
    "a green cross bounces on a striped floor",
    'a sign that says "open" under a purple moon, blurry, low quality',
)
# The words of the prompts that pipelines wrap around a user's, so that these have about as many
# tokens as with the published tokenizers: pipelines cut them off by number.
TEMPLATE_WORDS = (
    "You are a helpful assistant promt engineer. Describe the video by detailing the following",
    "aspects: according to the reference image: 1. 2. 3. 4. 5. The main content and theme of the",
    "video. color, shape, size, texture, quantity, text, and spatial relationships of the objects.",
    "Actions, events, behaviors temporal relationships, physical movement changes of the objects.",
    "background environment, light, style and atmosphere. camera angles, movements, and",
    "transitions used in the video. contents, who will provide prompts to an image generator.",
)
SPECIAL_TOKENS = (
    "<pad>", "<|begin_of_text|>", "<|end_of_text|>", "<unk>", "<bos>", "<eos>", "<image>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>",
    "<|endoftext|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_PATCHES = 24  # along a side: 576 tokens of an image, for which HunyuanVideo I2V is written


def text_components(family: str, call: dict[str, Any], folder: Path) -> Components:
    """Build the components that turn the texts of a pipeline into its embeddings.

    Args:
        family: a row of FAMILIES by name.
        call: that of the tiny pipeline, whose embeddings have the widths that are needed.
        folder: where the tokenizers' files are written.
    """
    torch.manual_seed(1)
    from support import image_text_encoders  # late, for it is made of the parts here

    builders = {**BUILDERS, **image_text_encoders.BUILDERS}
    widths = [value[0].shape[-1] for name, value in call.items() if _is_embedding(name)]
    components = builders[family](widths, folder)
    for component in components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return components


def without_embeddings(call: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a call without embeddings of texts, and the number of prompts that it had."""
    parts = ("prompt", "embeds", "cu_seqlens")
    prompts = max((len(value) for name, value in call.items() if _is_embedding(name)), default=1)
    rest = {name: value for name, value in call.items() if not any(part in name for part in parts)}
    return rest, prompts


def _is_embedding(name: str) -> bool:
    return "embeds" in name and "mask" not in name and not name.startswith("negative")


# --- tokenizers -----------------------------------------------------------------------------------


def t5_tokenizer(folder: Path, kind: str = "T5Tokenizer") -> Any:
    """A tokenizer whose only vocabulary is a SentencePiece model."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 4), model_writer=written, vocab_size=60, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    _write(folder / "spiece.model", written.getvalue())
    _configure(folder, kind, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_ids=0)
    return transformers.AutoTokenizer.from_pretrained(folder)


def clip_tokenizer(folder: Path) -> Any:
    """A tokenizer of single characters, as the two files that CLIP's have."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    _write(folder / "vocab.json", json.dumps(vocabulary).encode())
    _write(folder / "merges.txt", b"#version: 0.2\n")
    _configure(
        folder, "CLIPTokenizer", bos_token="<|startoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", unk_token="<|endoftext|>", model_max_length=77,
    )  # fmt: skip
    return transformers.CLIPTokenizer.from_pretrained(folder)


def bpe_tokenizer(folder: Path, kind: str, bos: str = "", eos: str = "<|end_of_text|>") -> Any:
    """A byte-level BPE tokenizer with the special tokens of all kinds, and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((*CAPTIONS, *TEMPLATE_WORDS) * 4, trainer)
    if bos:
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, number)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _configure(
        folder, kind, bos_token=bos or None, eos_token=eos, pad_token="<pad>", unk_token="<unk>",
        chat_template=CHAT_TEMPLATE, additional_special_tokens=list(SPECIAL_TOKENS),
    )  # fmt: skip
    return transformers.AutoTokenizer.from_pretrained(folder)


def _configure(folder: Path, kind: str, **entries: Any) -> None:
    content = {"tokenizer_class": kind, **entries}
    _write(folder / "tokenizer_config.json", json.dumps(content).encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# --- encoders -------------------------------------------------------------------------------------


def t5(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = t5_tokenizer(folder / "tokenizer")
    config = transformers.T5Config(vocab_size=len(tokenizer), **_t5_sizes(widths[0]))
    return dict(tokenizer=tokenizer, text_encoder=transformers.T5EncoderModel(config))


def umt5(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = t5_tokenizer(folder / "tokenizer")
    config = transformers.UMT5Config(vocab_size=len(tokenizer), **_t5_sizes(widths[0]))
    return dict(tokenizer=tokenizer, text_encoder=transformers.UMT5EncoderModel(config))


def _t5_sizes(width: int) -> Components:
    return dict(d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)


def clip(
    widths: Sequence[int],
    folder: Path,
    suffix: str = "",
    projection: bool = False,
    positions: int = 77,
) -> Components:
    tokenizer = clip_tokenizer(folder / f"tokenizer{suffix}")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=widths[-1], intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, projection_dim=widths[-1],
        max_position_embeddings=positions, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": kind(config)}


def sdxl(widths: Sequence[int], folder: Path) -> Components:
    """Two encoders, whose outputs stand side by side."""
    half = [widths[0] // 2]
    second = clip(half, folder, "_2")
    second["text_encoder_2"] = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            **{**second["text_encoder_2"].config.to_dict(), "projection_dim": widths[-1]}
        )
    )
    return clip(half, folder) | second


def llama(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = bpe_tokenizer(
        folder / "tokenizer", "PreTrainedTokenizerFast", bos="<|begin_of_text|>"
    )
    model = transformers.LlamaModel(_llama_config(widths[0], tokenizer))
    return dict(tokenizer=tokenizer, text_encoder=model) | clip(widths[1:], folder, "_2")


def _llama_config(width: int, tokenizer: Any) -> Any:
    return transformers.LlamaConfig(**_decoder_sizes(width, tokenizer))


def llava(widths: Sequence[int], folder: Path) -> Components:
    """The encoder of HunyuanVideo's image to video, which reads the image as 576 tokens."""
    components = llama(widths, folder)
    tokenizer, side = components["tokenizer"], 2 * IMAGE_PATCHES
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=side, patch_size=2, projection_dim=16,
    )  # fmt: skip
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    entries: Components = dict(image_token_index=image_token, pad_token_id=tokenizer.pad_token_id)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_llama_config(widths[0], tokenizer), **entries
    )
    size = dict(height=side, width=side)
    return components | dict(
        text_encoder=transformers.LlavaForConditionalGeneration(config),
        image_processor=transformers.CLIPImageProcessorPil(size=size, crop_size=size),
    )


def qwen_text_and_byt5(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = bpe_tokenizer(folder / "tokenizer", "Qwen2Tokenizer", eos="<|im_end|>")
    config = transformers.Qwen2_5_VLTextConfig(**_qwen_sizes(widths[0], tokenizer, layers=3))
    characters = transformers.ByT5Tokenizer()
    bytes_config = transformers.T5Config(vocab_size=len(characters), **_t5_sizes(widths[1]))
    return dict(
        tokenizer=tokenizer, text_encoder=transformers.Qwen2_5_VLTextModel(config),
        tokenizer_2=characters, text_encoder_2=transformers.T5EncoderModel(bytes_config),
    )  # fmt: skip


def qwen(
    widths: Sequence[int], folder: Path, kind: str = "Qwen2_5_VL", layers: int = 2
) -> Components:
    tokenizer = bpe_tokenizer(folder / "tokenizer", "Qwen2Tokenizer", eos="<|im_end|>")
    vision = dict(depth=1, hidden_size=16, embed_dim=16, num_heads=2, out_hidden_size=widths[0])
    config = getattr(transformers, f"{kind}Config")(
        text_config=_qwen_sizes(widths[0], tokenizer, layers),
        vision_config=vision,
        **_vision_tokens(tokenizer),
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    return dict(tokenizer=tokenizer, text_encoder=model)


def qwen_processor(widths: Sequence[int], folder: Path, kind: str) -> Components:
    """An encoder whose "tokenizer" is a processor, which needs torchvision for its videos."""
    components = qwen(widths, folder)
    module = transformers.models.qwen2_vl
    processor = getattr(transformers, kind)(
        image_processor=module.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(),
        tokenizer=components["tokenizer"],
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    return components | dict(tokenizer=processor) | clip(widths[1:], folder, "_2")


def _vision_tokens(tokenizer: Any) -> Components:
    names = dict(
        image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>",
    )  # fmt: skip
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _qwen_sizes(width: int, tokenizer: Any, layers: int) -> Components:
    sections = [width // 4 - 2 * (width // 12), width // 12, width // 12]  # of half a head
    rope = dict(rope_type="default", mrope_section=sections, rope_theta=1e4)
    sizes = _decoder_sizes(width, tokenizer, layers)
    return sizes | dict(rope_parameters=rope, rope_scaling=rope, vision_config=None)


def gemma2(widths: Sequence[int], folder: Path, causal: bool = False) -> Components:
    tokenizer = bpe_tokenizer(folder / "tokenizer", "GemmaTokenizer", bos="<bos>", eos="<eos>")
    config = transformers.Gemma2Config(
        **_decoder_sizes(widths[0], tokenizer), head_dim=widths[0] // 2
    )
    kind = transformers.Gemma2ForCausalLM if causal else transformers.Gemma2Model
    return dict(tokenizer=tokenizer, text_encoder=kind(config))


def gemma3(widths: Sequence[int], folder: Path) -> Components:
    """An encoder all of whose hidden states the pipeline takes: here those of two places."""
    tokenizer = bpe_tokenizer(folder / "tokenizer", "GemmaTokenizer", bos="<bos>", eos="<eos>")
    width = widths[0] // 2
    config = transformers.Gemma3Config(
        text_config=_decoder_sizes(width, tokenizer, layers=1) | dict(head_dim=width // 2),
        vision_config=_siglip_sizes(),
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    return dict(tokenizer=tokenizer, text_encoder=model)


def t5gemma2(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = bpe_tokenizer(folder / "tokenizer", "GemmaTokenizer", bos="<bos>", eos="<eos>")
    sizes = _decoder_sizes(widths[0], tokenizer)
    sizes |= dict(head_dim=widths[0] // 2, dropout_rate=0.0)
    config = transformers.T5Gemma2EncoderConfig(text_config=sizes, vision_config=_siglip_sizes())
    model = transformers.models.t5gemma2.modeling_t5gemma2.T5Gemma2Encoder(config)
    return dict(tokenizer=tokenizer, text_encoder=model)


def _siglip_sizes(width: int = 8) -> Components:
    return dict(
        hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip


def glm(widths: Sequence[int], folder: Path) -> Components:
    tokenizer = bpe_tokenizer(folder / "tokenizer", "PreTrainedTokenizerFast", eos="<|endoftext|>")
    sizes = _decoder_sizes(widths[0], tokenizer)
    return dict(
        tokenizer=tokenizer,
        text_encoder=transformers.GlmModel(
            transformers.GlmConfig(**sizes, head_dim=widths[0] // 2)
        ),
    )


def _decoder_sizes(width: int, tokenizer: Any, layers: int = 3) -> Components:
    return dict(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


Builder = Callable[[Sequence[int], Path], Components]

BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(
        ("mochi", "ltx", "cogvideox", "consisid", "cosmos", "allegro", "latte", "opensora"), t5
    ),
    **dict.fromkeys(
        ("wan", "wan-vace", "wan-animate", "chronoedit", "skyreels-v2", "helios", "anyflow"), umt5
    ),
    **dict.fromkeys(("animatediff", "modelscope", "i2vgen-xl"), clip),
    "animatediff-sdxl": sdxl,
    "hunyuan": llama,
    "framepack": llama,
    "hunyuan-i2v": llava,
    "hunyuan-1.5": qwen_text_and_byt5,
    "cosmos-2.5": functools.partial(qwen, layers=1),
    "easyanimate": functools.partial(qwen, kind="Qwen2VL"),
    "kandinsky-5": functools.partial(qwen_processor, kind="Qwen2VLProcessor"),
    "kandinsky-6": functools.partial(qwen_processor, kind="Qwen2_5_VLProcessor"),
    "ltx-2": gemma3,
    "sana-video": gemma2,
    "sana-wm": functools.partial(gemma2, causal=True),
    "motif-video": t5gemma2,
    "cogview4": glm,
}

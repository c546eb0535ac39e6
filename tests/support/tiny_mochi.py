"""A tiny MochiPipeline with its text encoder, for the tests that need no other family."""

from __future__ import annotations

from typing import Any

import torch


def tiny_mochi(dtype: torch.dtype = torch.float32) -> Any:
    """A whole MochiPipeline, 4 blocks wide 16, whose weights are large enough that every block
    matters."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

    from support.tiny.base import quiet
    from support.tiny.mochi import mochi

    bare = mochi().pipe
    words = ["a", "red", "star", "blue", "square", "moving", "on", "the", "left", "spinning"]
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((f"▁{word}", -1.0) for word in words),
    ]
    text = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    encoder, tokenizer = T5EncoderModel(text).eval(), T5Tokenizer(vocab=vocab, extra_ids=0)
    pipe = type(bare)(**{**bare.components, "text_encoder": encoder, "tokenizer": tokenizer})
    return quiet(pipe, dtype)


TINY_CALL = dict(
    height=32,
    width=32,
    num_frames=7,
    num_inference_steps=4,
    max_sequence_length=16,
    output_type="latent",
)

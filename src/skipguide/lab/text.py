"""The small T5 of lab-mochi and lab-opensora, which is trained together with their transformers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from skipguide.lab import world
from skipguide.method.protocols import PlainData

TEXT_ENCODER: PlainData = dict(
    d_model=96,
    d_kv=16,
    d_ff=192,
    num_layers=2,
    num_heads=6,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)


class TrainingPair(nn.Module):
    """The transformer and the text encoder, which are trained together."""

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder


def build_tokenizer(more: Sequence[str] = ()) -> T5Tokenizer:
    """Build a T5 tokenizer that knows the captions' words and `more`, and spells others out."""
    words = [(f"▁{word}", -1.0) for word in (*world.vocabulary(), *more)]
    letters = [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz,.'-"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *words, *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=256)


def build_encoder(words: T5Tokenizer) -> T5EncoderModel:
    """Build an untrained encoder for the words of a tokenizer."""
    return T5EncoderModel(T5Config(vocab_size=-(-len(words) // 16) * 16, **TEXT_ENCODER))

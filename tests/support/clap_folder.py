"""A small CLAP of transformers' classes with drawn weights, in a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

WIDTH = 16  # of the embeddings


def save(folder: Path, fusion: bool = False) -> None:
    """Save the network, the preparation of sounds and a tokenizer of whole words."""
    torch.manual_seed(0)
    audio = dict(
        patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8],
        hidden_size=64, projection_dim=WIDTH, enable_fusion=fusion,
    )  # fmt: skip
    text = dict(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, projection_dim=WIDTH, max_position_embeddings=64,
    )  # fmt: skip
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=WIDTH)
    ClapModel(config).eval().save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "red", "blue", "star", "moon", "beeps"]
    known = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", model_max_length=32
    ).save_pretrained(folder)

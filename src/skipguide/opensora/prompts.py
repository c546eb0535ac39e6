"""Prepare prompts for T5 as Open-Sora 1.2 does (opensora/utils/inference_utils.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.utils import logging
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from skipguide.opensora.transformer import OpenSoraTransformer3DModel

Tensor = torch.Tensor

logger = logging.get_logger(__name__)


def select_loop_text(prompt: str, loop: int) -> str:
    """Return the part of a prompt for one loop of a video.

    `|0| a red fox |2| a blue fox` is red in loops 0 and 1.

    Raises:
        ValueError: for a prompt whose loops do not start at 0 and increase.
    """
    if not prompt.startswith("|0|"):
        return prompt
    pieces = re.split(r"\|(\d+)\|", prompt)[1:]
    starts, texts = list(map(int, pieces[::2])), pieces[1::2]
    if starts != sorted(set(starts)):
        raise ValueError(
            f"the loops of a prompt must go up, but got {prompt!r} with"
            f" {', '.join(map(str, starts))}. Write |0| first, then the later ones."
        )
    return [text for start, text in zip(starts, texts, strict=True) if start <= loop][-1].strip()


def append_scores(
    prompt: str,
    aesthetic_score: float | None,
    motion_score: float | None,
    camera_motion: str | None,
) -> str:
    """Append what training captions end with: aesthetic score, motion score and camera motion.

    A score that the prompt already has stays as it is; None leaves one out.
    """
    endings = {
        "aesthetic score:": None if aesthetic_score is None else f"{aesthetic_score:.1f}",
        "motion score:": None if motion_score is None else f"{motion_score:.1f}",
        "camera motion:": camera_motion,
    }
    added = [
        f" {title} {value}."
        for title, value in endings.items()
        if value is not None and title not in prompt
    ]
    return prompt + "".join(added)


def check_null_caption(length: int, longest: int) -> None:
    """Check that the null caption is as long as the prompts.

    Raises:
        ValueError: if it is shorter.
    """
    if length > longest:
        raise ValueError(
            f"prompts must have at most {longest} tokens, the length of the null caption that"
            f" guidance leads away from, but got {length}. Pass a shorter max_sequence_length, or a"
            " negative_prompt."
        )


def _null_caption(transformer: Any) -> Tensor:
    """Return the null caption (L, D).

    Under sequential offloading it exists only between the hook's two calls, as in a forward pass.
    """
    if not transformer.null_caption.is_meta:
        return transformer.null_caption
    transformer._hf_hook.pre_forward(transformer)
    null = transformer.null_caption.clone()
    transformer._hf_hook.post_forward(transformer, None)
    return null


class PromptMixin:
    """The part of the pipeline that embeds prompts.

    Cleaning is as in training, and PixArt's, which diffusers has.
    """

    tokenizer: T5Tokenizer | None
    text_encoder: T5EncoderModel | None
    transformer: OpenSoraTransformer3DModel

    bad_punct_regex = PixArtAlphaPipeline.bad_punct_regex
    _clean_caption: Any = PixArtAlphaPipeline._clean_caption
    _text_preprocessing: Any = PixArtAlphaPipeline._text_preprocessing

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        clean_caption: bool = True,
        max_sequence_length: int = 300,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return embeddings and masks of prompts and negative prompts, one row per video.

        Without a negative prompt the model's learned null caption is used, with the length and the
        mask of the prompt beside it.

        Returns:
            prompt_embeds (B, L, D), prompt_attention_mask (B, L), and the same of the negative
            prompts or None.
        """
        place: torch.device = device or cast(Any, self)._execution_device

        def embed(
            text: str | Sequence[str] | None, embeds: Tensor | None, mask: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            if embeds is None:
                texts = self._text_preprocessing(
                    [text] if isinstance(text, str) else text, clean_caption=clean_caption
                )
                embeds, mask = self._t5(texts, max_sequence_length, place)
            mask = torch.ones(embeds.shape[:2]) if mask is None else mask
            embeds = embeds.to(place, self.transformer.dtype).repeat_interleave(
                num_videos_per_prompt, 0
            )
            return embeds, mask.to(place, torch.bool).repeat_interleave(num_videos_per_prompt, 0)

        embeds, mask = embed(prompt, prompt_embeds, prompt_attention_mask)
        if not do_classifier_free_guidance:
            return embeds, mask, None, None
        if negative_prompt is None and negative_prompt_embeds is None:
            check_null_caption(embeds.shape[1], len(self.transformer.null_caption))
            null = _null_caption(self.transformer)[: embeds.shape[1]].to(embeds)
            return embeds, mask, null.expand(len(embeds), -1, -1), mask
        if isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * (len(embeds) // num_videos_per_prompt)
        negative, negative_mask = embed(
            negative_prompt, negative_prompt_embeds, negative_prompt_attention_mask
        )
        return embeds, mask, negative, negative_mask

    def _t5(self, texts: list[str], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return T5's last hidden states (B, L, D) and the mask (B, L) of texts.

        They are padded or cut to `length` tokens.
        """
        assert self.tokenizer is not None
        assert self.text_encoder is not None
        tokens: Any = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )  # fmt: skip
        whole: Any = self.tokenizer(texts, padding="longest", return_tensors="pt")
        if whole.input_ids.shape[1] > length:
            lost = self.tokenizer.batch_decode(
                whole.input_ids[:, length - 1 : -1], skip_special_tokens=True
            )
            logger.warning(
                "prompts are cut to %d tokens (max_sequence_length); cut off: %s", length, lost
            )
        mask = tokens.attention_mask.to(device)
        return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0], mask

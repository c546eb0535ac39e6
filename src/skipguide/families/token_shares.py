"""Divide the tokens of a video among processes, for models for which diffusers has no plan.

A row says what diffusers' context parallelism has to split and to gather, for its
`enable_parallelism(cp_plan=...)`, and what its attentions need beside that;
`models/context_parallel.py` puts it on a model. In all of these attention is joint: each process
has a share of the video's tokens and a share of the text's, so that the order of all of them
becomes [video 0, text 0, video 1, text 1, ...], or with the text first. Attention does not depend
on it, for rotary embeddings are applied before; a mask does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Dims = int | tuple[int, ...]  # of a tensor, or of each of several


@dataclass(frozen=True)
class TokenShares:
    """Describe which tensors of one model are split among processes, and which are gathered.

    Args:
        inputs: by the path of a module ("*" is every block of a list), the dimension of the tokens
            of each of its inputs that is split; of a tuple, one dimension for each entry.
        outputs: by the path of a module, the dimension of the tokens of each output; all are split.
        gathered: by the path of a module, the dimension along which its output is put together.
        mask: what the mask of an attention speaks of. "": there is none. "text": the text of this
            process, `(B, M)`, where each sample is attended to by itself, without its padding.
            "joint": all tokens, the video before the text, `(B, 1, 1, N + M)`.
        unfit: (entry of the model's config, value) for which no share can be computed alone.
    """

    inputs: Mapping[str, Mapping[str, Dims]]
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gathered: Mapping[str, int] = field(default_factory=lambda: {"proj_out": 1})
    mask: str = ""
    unfit: tuple[str, str] | None = None


STREAMS = {"hidden_states": 1, "encoder_hidden_states": 1}
ROTARY_OUTPUT = {"rope": (0, 0)}  # cosines and sines, a row for each token of the video

# By the class of the denoiser.
TOKEN_SHARES: Mapping[str, TokenShares] = {
    # The mask is split in each block, for each gets that of the whole text.
    "MochiTransformer3DModel": TokenShares(
        inputs={
            "transformer_blocks.0": STREAMS,
            "transformer_blocks.*": {"encoder_attention_mask": 1},
        },
        outputs=ROTARY_OUTPUT,
        mask="text",
    ),
    # With "token_replace" blocks treat the first frame apart, by counting tokens from the front.
    "HunyuanVideoTransformer3DModel": TokenShares(
        inputs={"transformer_blocks.0": STREAMS},
        outputs=ROTARY_OUTPUT,
        mask="joint",
        unfit=("image_condition_type", "token_replace"),
    ),
    # The pipeline makes the rotary embedding, if there is one.
    "CogVideoXTransformer3DModel": TokenShares(
        inputs={
            "transformer_blocks.0": STREAMS,
            "transformer_blocks.*": {"image_rotary_emb": (0, 0)},
        },
    ),
}

"""Find the negative prompt of a pipeline's call as inputs of its denoiser, for NAG.

With CFG the pipeline has it: as half of a batch, or in a variable of its call. Without CFG it does
not encode it; then its own `encode_prompt` is called once more, with the arguments of the call."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import torch

from skipguide.families.schema import Family, NegativePrompt
from skipguide.method.protocols import Inputs, Pipeline, ReadOnlyInputs
from skipguide.pipeline import call_frame

Tensor = torch.Tensor
_OF_PROMPT = ("prompt_embeds", "prompt_attention_mask", "pooled_prompt_embeds")
_VIDEOS_PER_PROMPT = ("num_videos_per_prompt", "num_images_per_prompt")


def find_inputs(
    pipe: Pipeline, family: Family, cond: ReadOnlyInputs, uncond: ReadOnlyInputs | None
) -> Inputs:
    """Return the inputs of the denoiser that the negative prompt of the running call makes.

    Without a negative prompt it is the empty text.

    Args:
        pipe: the pipeline, which is running.
        family: its row.
        cond: the inputs of the conditional call, by name.
        uncond: those of u, where they come with them in a batch.

    Raises:
        ValueError: for a pipeline that cannot encode it, or another number of texts than videos.
    """
    row = family.negative
    assert row is not None
    if uncond is not None:
        return {name: uncond[name] for name in row.inputs if name in uncond}
    frame = call_frame.find_call_frame(pipe)
    assert frame is not None
    known = frame.f_code.co_varnames  # HunyuanImage's refiner has no second text
    variables: ReadOnlyInputs = {n: frame.f_locals.get(n) for n in row.encoded if n in known}
    if not variables:
        raise ValueError(
            f"NAG needs a negative prompt, but a {type(pipe).__name__} takes none, and without CFG"
            " there is nothing in its place. Run it with CFG, or leave NAG out."
        )
    if any(value is None for value in variables.values()):
        variables = _encode(pipe, row, frame)
    if row.finish is not None:
        variables = row.finish(pipe, variables)
    named = {name: variables[key] for name, key in row.inputs.items() if key in variables}
    return {name: _fit(value, cond[name], name) for name, value in named.items()}


def _encode(pipe: Pipeline, row: NegativePrompt, frame: FrameType) -> dict[str, Any]:
    """Return what the pipeline's `encode_prompt` makes of the negative prompt, by variable."""
    if getattr(pipe, "text_encoder", None) is None:
        raise ValueError(
            f"NAG needs the negative prompt, but this {type(pipe).__name__} has no text encoder and"
            " its call got no embeddings of one. Pass negative_prompt_embeds"
            f"{' and its mask' if len(row.inputs) > 1 else ''}."
        )
    known = inspect.signature(pipe.encode_prompt).parameters
    given = {name: frame.f_locals[name] for name in known if name in frame.f_locals}
    # With CFG the prompt is encoded beside it; what the call has of it by now may be a batch.
    named = frame.f_locals.get("prompt") is not None or row.as_prompt
    replaced = ("negative_prompt_", *(_OF_PROMPT if named else ()))
    given |= {name: None for name in given if name.startswith(replaced)}
    given |= {name: 1 for name in _VIDEOS_PER_PROMPT if name in known}
    text = _negative_texts(frame)
    if row.as_prompt:
        given |= {"prompt": text, "prompt_2": frame.f_locals.get("negative_prompt_2")}
    else:
        given |= {"negative_prompt": text, "do_classifier_free_guidance": True}
    given = {name: value for name, value in given.items() if name in known}
    encoded = pipe.encode_prompt(**given)
    return dict(zip(row.encoded[: len(encoded)], encoded, strict=True))


def _negative_texts(frame: FrameType) -> Any:
    """Return the negative prompt of a call, as one text or one for each prompt."""
    prompt, negative = frame.f_locals.get("prompt"), frame.f_locals.get("negative_prompt")
    negative = "" if negative is None else negative
    if isinstance(prompt, list) and isinstance(negative, str):
        return [negative] * len(prompt)
    return negative


def _fit(value: Tensor, cond: Tensor, name: str) -> Tensor:
    """Return a tensor with one row for each video, as precise and where the prompt's is."""
    videos = len(cond)
    if videos % len(value):
        raise ValueError(
            f"NAG needs one negative prompt for each prompt, or one for all, but {name} has"
            f" {len(value)} rows of it for {videos} videos. Pass as many as there are prompts."
        )
    if value.ndim + 1 == cond.ndim:
        value = value.unsqueeze(1)  # Allegro
    return value.repeat_interleave(videos // len(value), 0).to(cond.device, cond.dtype)

"""Check the arguments of a call of OpenSoraPipeline, before any work begins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from skipguide.opensora import conditions, prompts
from skipguide.opensora.latents import Generators

Tensor = torch.Tensor
OUTPUT_TYPES = ("np", "pt", "pil", "latent")


def check_numbers(whole: Mapping[str, int | None], fps: float, align: int | None) -> list[int]:
    """Check whole numbers (at least 1, sides at least 8) and frames per second (above 0).

    Raises:
        ValueError: for others.
    """
    for name, value in {**whole, **({} if align is None else {"align": align})}.items():
        least = 8 if name in ("height", "width") else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{name} must be a whole number from {least}, but got {value!r}. Pass {least} or"
                " more."
            )
    if not fps > 0:
        raise ValueError(f"fps must be positive, but got {fps!r}. Pass 24, or leave it out.")
    return [value for value in whole.values() if value is not None]


def check_prompts(
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    embeds: Mapping[str, Tensor | None],
    longest: int,
    encoder: object,
) -> int:
    """Check that there is one text or one embedding per prompt, and return the number of prompts.

    Args:
        embeds: `prompt_embeds`, `prompt_attention_mask`, `negative_prompt_embeds`,
            `negative_prompt_attention_mask`.
        longest: tokens of an encoded prompt.
        encoder: encodes a prompt; may be None if there are embeddings.

    Raises:
        ValueError: if both or neither are given, or shapes do not match.
    """
    given, negative = embeds["prompt_embeds"], embeds["negative_prompt_embeds"]
    if (prompt is None) == (given is None):
        came = "neither" if prompt is None else "both"
        raise ValueError(f"either prompt or prompt_embeds must be given, but got {came}. Pass one.")
    if negative_prompt is not None and negative is not None:
        raise ValueError(
            "at most one of negative_prompt and negative_prompt_embeds may be given, but got both."
            " Leave one out."
        )
    for name, text in {"prompt": prompt, "negative_prompt": negative_prompt}.items():
        if text is not None:
            _check_text(name, text, encoder)
    if given is None:
        rows, shape = (1 if prompt is None or isinstance(prompt, str) else len(prompt)), None
    else:
        _check_ndim("prompt_embeds", given)
        rows, shape = len(given), tuple(given.shape)
    if isinstance(negative_prompt, (list, tuple)) and len(negative_prompt) != rows:
        raise ValueError(
            f"negative_prompt must be one for all prompts or one per prompt, {rows}, but got"
            f" {len(negative_prompt)}. Pass one."
        )
    _check_embeds(embeds, rows, shape, longest)
    return rows


def _check_text(name: str, text: str | Sequence[str], encoder: object) -> None:
    listed = [text] if isinstance(text, str) else text
    if (
        not isinstance(listed, (list, tuple))
        or not listed
        or not all(isinstance(one, str) for one in listed)
    ):
        raise ValueError(
            f"{name} must be a text or a list of texts, but got {text!r:.80}. Pass one per video."
        )
    if encoder is None:
        raise ValueError(
            f"{name} needs the text encoder, but this pipeline was loaded without one. Pass"
            f" {name}_embeds instead."
        )
    for one in listed:
        prompts.select_loop_text(one, 0)


def _check_ndim(name: str, embeds: Tensor) -> None:
    if embeds.ndim != 3:
        raise ValueError(
            f"{name} must be (B, L, D), but got shape {tuple(embeds.shape)}. Pass T5's last hidden"
            " state."
        )


def _check_embeds(
    embeds: Mapping[str, Tensor | None], rows: int, shape: tuple[int, ...] | None, longest: int
) -> None:  # fmt: skip
    negative = embeds["negative_prompt_embeds"]
    length = longest if shape is None else shape[1]
    if negative is not None:
        _check_ndim("negative_prompt_embeds", negative)
        if (
            len(negative) != rows
            or negative.shape[1] != length
            or (shape and negative.shape[2] != shape[2])
        ):
            raise ValueError(
                f"negative_prompt_embeds must have the shape of the prompts', ({rows}, {length},"
                f" D), but got {tuple(negative.shape)}. Pad both to the same length."
            )
    for name in ("prompt", "negative_prompt"):
        mask, belongs = embeds[f"{name}_attention_mask"], embeds[f"{name}_embeds"]
        if mask is not None and (belongs is None or tuple(mask.shape) != tuple(belongs.shape[:2])):
            came = (
                f"mask {tuple(mask.shape)}, embeddings"
                f" {None if belongs is None else tuple(belongs.shape)}"
            )
            raise ValueError(
                f"{name}_attention_mask must be (B, L) for {name}_embeds (B, L, D), but got {came}."
                " Pass both, or none."
            )


def check_latents(
    latents: Tensor | Sequence[Tensor] | None, shape: tuple[int, ...], loops: int
) -> Sequence[Tensor | None]:
    """Return the noise of each loop; it must be given for all of them, or for none.

    Raises:
        ValueError: for another number of them, or other shapes.
    """
    if latents is None:
        return [None] * loops
    listed = [latents] if isinstance(latents, Tensor) else list(latents)
    shapes = [tuple(one.shape) for one in listed]
    if shapes != [shape] * loops:
        wanted = (
            f"a list of {loops} (one per loop) of shape {shape}"
            if loops > 1
            else f"of shape {shape}"
        )
        came = ", ".join(map(str, shapes))
        raise ValueError(
            f"latents must be {wanted}, but got {came}. Leave them out to have them drawn."
        )
    return listed


def check_output(output_type: str, callback_inputs: Sequence[str], known: Collection[str]) -> None:
    """Check the type of the output, and the names of the tensors for a callback.

    Raises:
        ValueError: for an unknown type or name.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(
            f"output_type must be one of {', '.join(OUTPUT_TYPES)}, but got {output_type!r}. Pass"
            " 'np'."
        )
    unknown = [name for name in callback_inputs if name not in known]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs must be of {', '.join(known)}, but got"
            f" {', '.join(unknown)}. Leave them out."
        )


def check_generators(generator: Generators, rows: int) -> None:
    """Check that there is one generator, or one per video.

    Raises:
        ValueError: for another number of them.
    """
    if isinstance(generator, list) and len(generator) != rows:
        raise ValueError(
            f"generator must be one, or a list of one per video, {rows}, but got {len(generator)}."
            " Pass one."
        )


def check_continuation(
    name: str, num_frames: int, given: int, edit: float, group: int, chunk: int
) -> None:
    """Check that a clip can be continued: whole chunks, some given and some new.

    Args:
        name: the argument that requests it.
        given: latent frames that are given.
        edit: their edit ratio.
        group: latent frames of a chunk.
        chunk: frames of a chunk.

    Raises:
        ValueError: for parts of chunks, which the VAE does not encode the same way in two clips, or
            if nothing is new.
    """
    if given < group or given % group:
        raise ValueError(
            f"with {name}, condition_frame_length must be a multiple of {group} (the latent frames"
            f" of {chunk} frames), but got {given}. Pass {group}."
        )
    if not 0 <= edit <= 1:
        raise ValueError(
            f"condition_frame_edit must be from 0 (keep) to 1 (ignore), but got {edit!r}. Pass 0."
        )
    if num_frames % chunk and name == "num_loops":
        raise ValueError(
            f"with num_loops above 1, num_frames must be a multiple of {chunk}, but got"
            f" {num_frames}. Pass 51 or 102."
        )
    if given // group * chunk >= num_frames:
        raise ValueError(
            f"num_frames must be more than the {given // group * chunk} that are given, but got"
            f" {num_frames}. Pass 51."
        )


def check_conditions(
    own: Sequence[Sequence[conditions.OpenSoraCondition]],
    latents: tuple[int, ...],
    loops: int,
    latent_frames: Callable[[int], int],
) -> None:
    """Check that conditions fit into the video.

    Args:
        latents: the shape of the video's, (B, C, f, h, w).
        latent_frames: maps a number of frames to their number of latent frames.

    Raises:
        ValueError: for a loop that does not exist, a start outside, or another size.
    """
    for condition in (one for row in own for one in row):
        if condition.loop >= loops:
            raise ValueError(
                f"loop of a condition must be one of {loops} (num_loops), counted from 0, but got"
                f" {condition.loop}. Pass a larger num_loops."
            )
        if condition.latents is None:
            frames = latent_frames(len(conditions.to_clip(condition.frames)))
        else:
            conditions.check_size(condition.latents.shape, latents)
            frames = condition.latents.shape[1]
        conditions.check_start("reference_start", condition.reference_start, frames)
        conditions.check_start("target_start", condition.target_start, latents[2])

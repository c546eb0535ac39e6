"""Encode each prompt of a run once, and record what the VAE's decoder gets."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch

_CACHE_SIZE = 8  # encoded prompts: those of one prompt and all ways to ask for it
_PLAIN_TYPES = (str, int, float, bool, type(None), torch.dtype, torch.device)


def encode_once(pipe: Any) -> None:
    """Let a pipeline encode equal prompts once: settings and seeds of one prompt follow each other.

    A pipeline that calls its text encoder in another way than by `encode_prompt` stays as it is.
    """
    if callable(getattr(pipe, "encode_prompt", None)):
        pipe.encode_prompt = _cache_prompts(pipe.encode_prompt)


def _cache_prompts(encode: Callable[..., Any]) -> Callable[..., Any]:
    known: OrderedDict[str, Any] = OrderedDict()

    @functools.wraps(encode)
    def encoded(*args: Any, **kwargs: Any) -> Any:
        if not all(map(_is_plain, (*args, *kwargs.values()))):
            return encode(*args, **kwargs)
        asked = repr((args, sorted(kwargs.items())))
        if asked not in known:
            known[asked] = encode(*args, **kwargs)
            while len(known) > _CACHE_SIZE:
                known.popitem(last=False)
        known.move_to_end(asked)
        return _clone_tensors(known[asked])

    return encoded


def _is_plain(value: Any) -> bool:
    return (
        all(map(_is_plain, value))
        if isinstance(value, (list, tuple))
        else isinstance(value, _PLAIN_TYPES)
    )


def _clone_tensors(value: Any) -> Any:
    """Copy tensors, because pipelines may write into what they get."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(map(_clone_tensors, value)) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def record_decoder_input(pipe: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Record what the VAE's decoder gets during the block: "latents", or "latents.0" and so on.

    From these the same decoder makes the same frames, bit for bit.
    """
    found: list[torch.Tensor] = []
    named: dict[str, torch.Tensor] = {}
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield named
        return
    decode = vae.decode

    @functools.wraps(decode)
    def keeping(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(z.detach().cpu().contiguous())
        return decode(z, *args, **kwargs)

    vae.decode = keeping
    try:
        yield named
    finally:
        del vae.decode
        named.update(
            {"latents": found[0]}
            if len(found) == 1
            else {f"latents.{i}": z for i, z in enumerate(found)}
        )

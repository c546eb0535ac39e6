"""NAG by hand, the authors' way for UNets and SD3: the denoiser runs on a batch of twice the rows.

The first half has the prompt, the second one the negative prompt, both the same latents. In every
attention to the text the halves meet: what the video gets is made of both, by the formula as the
paper writes it, and both halves go on with it. Nothing here uses skipguide; skipguide runs the
second text apart.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from support.oracle import NESTED, NOT_ROWS, samples

Tensor = torch.Tensor
Numbers = tuple[float, float, float]
OFF = (1.0, 1.0, 0.0)  # both halves go on with what the prompt gives
SDPA = torch.nn.functional.scaled_dot_product_attention
# The attentions to the text, by the class of the model.
CROSS = r"\.(audio_)?attn2$"
JOINT = r"^(single_)?transformer_blocks\.\d+\.attn1?$"


def formula(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Of `(B, N, D)`: the sum, shortened where it is too long, and mixed with what was there."""
    guided = positive * scale - negative * (scale - 1)
    ratio = guided.abs().sum(-1, keepdim=True) / positive.abs().sum(-1, keepdim=True)
    guided = guided * ratio.clamp(max=tau) / ratio
    return alpha * guided + (1 - alpha) * positive


def predict(
    model: nn.Module,
    cond: Mapping[str, Any],
    negative: Mapping[str, Any],
    nag: Numbers,
    chosen: str = "",
) -> tuple[Tensor, ...]:
    """What a model predicts with the prompt under NAG.

    Args:
        cond: the inputs of the conditional rows.
        negative: those that the negative prompt has of its own.
        nag: scale, tau, alpha.
        chosen: a pattern of the names of attentions that take part; "" is all.
    """
    rows = len(next(value for value in cond.values() if torch.is_tensor(value) and value.ndim > 1))

    def twice(name: str, value: Any, other: Any) -> Any:
        if isinstance(value, dict):
            return {key: twice(key, value[key], other[key]) for key in value}
        if isinstance(value, (list, tuple)) and name in NESTED:
            return type(value)(twice(name, v, o) for v, o in zip(value, other, strict=True))
        if not torch.is_tensor(value) or not value.ndim or len(value) != rows:
            return value
        is_other = name in NOT_ROWS or name.startswith("indices_")  # of frames
        return value if is_other else torch.cat([value, other])

    both: dict[str, Any] = {
        name: twice(name, value, negative.get(name, value)) for name, value in cond.items()
    }
    with torch.no_grad(), meeting(model, nag, chosen):
        return tuple(sample[:rows] for sample in samples(model(**both)))


@contextlib.contextmanager
def meeting(model: nn.Module, nag: Numbers, chosen: str) -> Iterator[None]:
    """Let the halves of a batch meet in the attentions to the text."""
    names = dict(model.named_modules())
    # SD3's second attention is over the image.
    is_sd3 = type(model).__name__ == "SD3Transformer2DModel"
    is_cross = not is_sd3 and any(re.search(CROSS, name) for name in names)
    pattern = CROSS if is_cross else JOINT
    found = {
        module: nag if re.search(chosen, name) else OFF
        for name, module in names.items()
        if re.search(pattern, name)
    }
    one_by_one = type(model).__name__ == "MochiTransformer3DModel"  # attention of each sample
    hooks: list[Any] = []

    if one_by_one:  # the text, pooled, is in the embedding of the time, which stays the prompt's
        hooks.append(model.get_submodule("time_embed").register_forward_hook(first_time))
    for module, numbers in found.items():
        if one_by_one:
            meet: Any = functools.partial(meet_before, numbers)
            hooks.append(module.to_out[0].register_forward_pre_hook(meet))  # type: ignore[index]
        else:
            hooks += meet_in_attention(module, numbers, is_cross, type(model).__name__)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def meet_before(nag: Numbers, _: Any, args: Any) -> Any:
    return (mixed(args[0], nag),)


def first_time(_: Any, args: Any, output: Any) -> Any:
    time, text = output
    half = time.chunk(2)[0]
    return torch.cat([half, half]), text


def mixed(both: Tensor, nag: Numbers) -> Tensor:
    positive, negative = both.chunk(2)
    scale, tau, alpha = nag
    found = formula(positive, negative, scale, tau, alpha)
    return torch.cat([found, found])


def meet_in_attention(module: nn.Module, nag: Numbers, is_cross: bool, model: str) -> list[Any]:
    """Change what torch's attention returns while a module runs: the tokens of the video in it."""
    text_first = model.startswith(("CogV", "ConsisID", "Glm"))
    video, usual = [0], [SDPA]

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        heads = usual[0](query, key, value, *args, **kwargs)  # (2 B, heads, N, width)
        Z = heads.transpose(1, 2).flatten(2)
        start = Z.shape[1] - video[0] if text_first and not is_cross else 0
        here = slice(start, start + video[0])
        Z[:, here] = mixed(Z[:, here], nag)
        return Z.unflatten(2, (heads.shape[1], -1)).transpose(1, 2)

    def on(_: nn.Module, args: Any, kwargs: Any) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        video[0] = states.shape[1]
        usual[0] = torch.nn.functional.scaled_dot_product_attention  # a weak model's own
        torch.nn.functional.scaled_dot_product_attention = attend

    def off(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = SDPA

    return [
        module.register_forward_pre_hook(on, with_kwargs=True),
        module.register_forward_hook(off, always_call=True),
    ]

"""Weak models beside skipped layers: self-attention changed where torch multiplies queries and keys, tokens shuffled.

A changed attention is the real one, run as ever, norms and rotary embeddings included, but for the call of torch's
`scaled_dot_product_attention` in it: that is caught and given other queries, another mask, or another result. Every
processor of diffusers with its native backend ends in that call. It runs outside of compiled code.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from skipguide import grids, skips

Tensor = torch.Tensor
_ATTEND = torch.nn.functional.scaled_dot_product_attention  # who puts another function in its place is not caught


def order_of(n: int, seed: int, step: int, what: str) -> Tensor:
    """A permutation of n things, `(n,)` on the CPU: the same on every machine for the same seed, step and name."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(n, generator=generator)


class Moment:
    """What the weak passes of one denoiser have to know of the step under way.

    Args:
        layout, config: as for `grids.of_video`.
    """

    def __init__(self, layout: str, config: Mapping[str, Any]):
        self.step, self.grid = 0, None
        self._layout, self._config = layout, config
        self._orders: dict[Any, Tensor] = {}  # of this step
        self._blurs: dict[Any, Tensor] = {}

    def begin(self, step: int) -> None:
        """A step begins."""
        self.step = step
        self._orders.clear()

    def see(self, inputs: Mapping[str, Any]) -> None:
        """The denoiser is called with these inputs, of which the shape counts."""
        self.grid = grids.of_video(self._layout, self._config, inputs)

    def order(self, n: int, seed: int, what: str, device: torch.device) -> Tensor:
        """`order_of` on a device, without waiting for it."""
        key = (n, seed, what, device)
        if key not in self._orders:
            order = order_of(n, seed, self.step, what)
            self._orders[key] = (order.pin_memory() if device.type == "cuda" else order).to(device, non_blocking=True)
        return self._orders[key]

    def gaussian(self, n: int, sigma: float, device: torch.device) -> Tensor:
        """`gaussian` on a device, made once."""
        key = (n, sigma, device)
        if key not in self._blurs:
            self._blurs[key] = gaussian(n, sigma).float().to(device)
        return self._blurs[key]


# --- attention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one attention sees."""

    moment: Moment
    axis: str | None  # it attends along
    text: str = ""  # "before" or "after" the video where it sees text too
    sound: bool = False  # instead of a video: tokens in a row

    def video(self, tokens: int) -> tuple[int, grids.Grid]:
        """(first token, grid) of the video's among those that it sees.

        Raises:
            ValueError: if they lie on no grid.
        """
        grid = (tokens,) if self.sound else grids.of_attention(self.moment.grid, self.axis, tokens)
        count = None if grid is None else math.prod(grid)
        if grid is None or count is None or count > tokens or (count < tokens and not self.text):
            known = "is not known" if grid is None else f"is {' x '.join(map(str, grid))}"
            raise ValueError(
                f"this skip needs a video whose tokens lie on one grid, but an attention of this run sees {tokens} "
                f"tokens, and the grid {known} (conditions that stand beside the video are not on it). Use "
                'skip="residual", "attention", "soft" or "shuffle".'
            )
        return tokens - count if self.text == "before" else 0, grid


class Changed(skips.StandIn):
    """The real self-attention with `change(call, seen, number)` in the place of torch's scaled dot product."""

    def __init__(self, real: torch.nn.Module, skip: str, seen: Seen, number: float | None):
        super().__init__(real, change=CHANGES[skip], seen=seen, number=number)
        self.__dict__["forward"] = torch.compiler.disable(self._run)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        with _Catching(lambda call: self.change(call, self.seen, self.number)) as caught:
            output = self.real(*args, **kwargs)
        if not caught.calls:
            raise RuntimeError(
                "this skip needs an attention that ends in torch's scaled_dot_product_attention, but one of "
                f"{type(self.real).__name__} did not call it. Choose diffusers' native attention backend, and a "
                'processor that uses it, or skip="residual" or "attention".'
            )
        return output


class _Catching(TorchFunctionMode):
    """Calls of torch's attention go to `change`, as a dictionary of arguments; all others run as they are."""

    def __init__(self, change: Callable[[dict[str, Any]], Tensor]):
        super().__init__()
        self.change, self.calls = change, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not _ATTEND:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        return self.change({**dict(zip(names, args)), **(kwargs or {})})  # noqa: B905  # as many as there are


def _soft(call: dict[str, Any], seen: Seen, share: float | None) -> Tensor:
    """((1 - a) A + a I) V = (1 - a) A V + a V."""
    assert share is not None
    value, output = call["value"], _ATTEND(**call)
    if value.shape[-3] != output.shape[-3]:  # several heads of queries for one of values
        value = value.repeat_interleave(output.shape[-3] // value.shape[-3], -3)
    return output.lerp(value, share)


def _blur(call: dict[str, Any], seen: Seen, sigma: float | None) -> Tensor:
    """Attention of blurred queries; those of a text stay."""
    query = call["query"]  # (B, heads, N, width)
    start, grid = seen.video(query.shape[-2])
    end = start + math.prod(grid)
    video = query[..., start:end, :]
    if sigma is None:
        blurred = video.float().mean(-2, keepdim=True).to(query.dtype).expand_as(video)
    else:
        blurred = _blurred(video.float().unflatten(-2, grid), sigma, seen.moment).flatten(-1 - len(grid), -2)
    parts = [query[..., :start, :], blurred.to(query.dtype), query[..., end:, :]]
    return _ATTEND(**{**call, "query": torch.cat(parts, -2)})


def _blurred(cube: Tensor, sigma: float, moment: Moment) -> Tensor:
    """`(B, heads, *grid, width)`, along each dimension of the grid. The matrix is symmetric."""
    for dim in (dim for dim in range(2, cube.ndim - 1) if cube.shape[dim] > 1):
        cube = (cube.movedim(dim, -1) @ moment.gaussian(cube.shape[dim], sigma, cube.device)).movedim(-1, dim)
    return cube


@functools.lru_cache(maxsize=64)
def gaussian(n: int, sigma: float) -> Tensor:
    """The matrix `(n, n)` that blurs a row of n values by a sampled Gaussian, in float64.

    The row goes on mirrored at its ends (the value at the end twice), so that rows and columns sum to 1: the mean of
    the queries stays, which SEG rests on, and with growing sigma each of them becomes it. (SEG's code mirrors without
    repeating the end and cuts the Gaussian off at 3 sigma; inside of a large picture that is the same but for 0.3 %.)
    """
    if sigma > 4 * n:  # flat to the last bit of float64
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    reach = math.ceil(9 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    places = (torch.arange(n)[:, None] + offsets) % (2 * n)  # (n, 2 reach + 1), in the row and its mirror image
    places = torch.where(places < n, places, 2 * n - 1 - places)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, places, (weights / weights.sum()).expand(n, -1))


def _frames(call: dict[str, Any], seen: Seen, _: float | None) -> Tensor:
    """Attention of each frame to itself and the text, as with a mask; the text sees all. Less work than without.

    (CAG's code sets the entries between frames to zero after the softmax, so that the rest sums to less than 1.)
    """
    query = call["query"]
    start, grid = seen.video(query.shape[-2])
    frames, count = grid[0], math.prod(grid)
    if frames == 1 and not seen.sound:
        raise ValueError('skip="frames" needs a video of several frames in the latents, but got one. Use another skip.')
    video, mask = slice(start, start + count), call.get("attn_mask")
    own = {name: _by_frame(call[name], video, frames) for name in ("query", "key", "value")}
    for name in ("key", "value"):
        text = _without(call[name], video, -2)
        own[name] = torch.cat([own[name], text.repeat_interleave(frames, 0)], -2)
    rest = {name: value for name, value in call.items() if name not in ("query", "key", "value", "attn_mask")}
    output = _ATTEND(**own, attn_mask=None if mask is None else _own_mask(mask, video, frames, len(query)), **rest)
    output = output.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)
    if count == query.shape[-2]:
        return output
    rows = mask if mask is None or mask.shape[-2] == 1 else _without(mask, video, -2)
    text = _ATTEND(**{**call, "query": _without(query, video, -2), "attn_mask": rows})
    return torch.cat([text, output] if start else [output, text], -2)


def _by_frame(states: Tensor, video: slice, frames: int) -> Tensor:
    """`(B, heads, N, width)` to `(B * frames, heads, tokens of a frame, width)`."""
    return states[..., video, :].unflatten(-2, (frames, -1)).transpose(1, 2).flatten(0, 1)


def _without(states: Tensor, video: slice, dim: int) -> Tensor:
    """What is beside the video along a dimension."""
    size = states.shape[dim]
    return torch.cat([states.narrow(dim, 0, video.start), states.narrow(dim, video.stop, size - video.stop)], dim)


def _own_mask(mask: Tensor, video: slice, frames: int, batch: int) -> Tensor:
    """The mask of the keys that a frame sees, `(B * frames, 1 or heads, 1 or tokens, tokens + text)`."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = mask.expand(batch, *mask.shape[1:])
    if mask.shape[-2] == 1:
        mask = mask[..., None, :, :].expand(*mask.shape[:2], frames, *mask.shape[2:])
    else:
        mask = mask[..., video, :].unflatten(-2, (frames, -1))
    keys = mask[..., video].unflatten(-1, (frames, -1))  # (B, heads, frames, rows, frames, tokens)
    own = keys.diagonal(dim1=2, dim2=4).movedim(-1, 2)
    return torch.cat([own, _without(mask, video, -1)], -1).transpose(1, 2).flatten(0, 1)


CHANGES: Mapping[str, Callable[[dict[str, Any], Seen, float | None], Tensor]] = {
    "soft": _soft, "blur": _blur, "frames": _frames,
}  # fmt: skip


# --- tokens -----------------------------------------------------------------------------------------------------------


class Shuffled(skips.StandIn):
    """The real block on the video's tokens in another order, the same for all samples: Sx.

    TPG's blocks are f(Sx), and those of a UNet are here: the module around them adds its own input again, whose tokens
    are in their places. Around a block of a stack nothing does, so there it is x + f(Sx) - Sx: what the block adds is
    shuffled, and not what it adds it to.

    Args:
        streams, source: as for `skips.Resumed`; the first stream is the video's. None takes what arrives.
        lie: where what the block's attention sees lies in the stream `(rows, tokens, width)`: "" if it sees the tokens
            of a row; "tokens" if those are of all frames, frame by frame; "rows" if there is a row for each frame.
    """

    def __init__(
        self, real: torch.nn.Module, streams: Sequence[str], source: skips.Recording | None, seen: Seen, lie: str,
        seed: int, name: str, restored: bool,
    ):  # fmt: skip
        super().__init__(
            real, streams=tuple(streams), source=source, seen=seen, lie=lie, seed=seed, name=name, restored=restored
        )
        self.__dict__["order"] = torch.compiler.disable(seen.moment.order)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state = skips.stream_values(self.streams, args, kwargs) if self.source is None else self.source.state
        x, mixed = state[0], self._shuffled(state[0])
        args, kwargs = skips.with_streams(self.streams, (mixed, *state[1:]), args, kwargs)
        output = self.real(*args, **kwargs)
        if not self.restored:
            return output
        if torch.is_tensor(output):
            return x + (output - mixed)
        return (x + (output[0] - mixed), *output[1:])

    def _shuffled(self, x: Tensor) -> Tensor:
        frames = self.seen.moment.grid[0] if self.lie else 1
        apart = x.unflatten(0, (-1, frames)) if self.lie == "rows" else x.unflatten(1, (frames, -1))
        dim = 1 if self.lie and self.seen.axis == "temporal" else 2  # of (samples, frames, tokens of a frame, width)
        order = self.order(apart.shape[dim], self.seed, self.name, x.device)
        return apart.index_select(dim, order).reshape(x.shape)

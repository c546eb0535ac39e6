"""One call of a model with some of its blocks changed: recorded, passed over, skipped.

Nothing of the model's weights is touched, and nothing is left behind after the call. Self-attention is found by its
block and its module, not by counting calls of attention: attention that is chunked or patched stays where it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .models import Place, blocks_of

Tensor = torch.Tensor
Streams = dict[str, Tensor]  # what runs through the blocks: img, and txt where they change it
Around = Callable[[Streams, Callable[[Streams], Streams]], Streams]  # given the streams, and the block as a function


class Recording:
    """What entered some blocks during the strong pass: per block and prompt the streams, `(B, N, D)` each.

    A prompt is known by the uuid that ComfyUI gives each conditioning.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self._found: dict[int, dict[Any, list[Streams]]] = {position: {} for position in positions}

    def recorder(self, position: int, uuids: Sequence[Any]) -> Around:
        """Keep what enters the block: blocks of ComfyUI add to their input in place."""

        def around(streams: Streams, run: Callable[[Streams], Streams]) -> Streams:
            rows = {name: value.clone().chunk(len(uuids)) for name, value in streams.items()}
            for number, uuid in enumerate(uuids):
                kept = {name: chunks[number] for name, chunks in rows.items()}
                self._found[position].setdefault(uuid, []).append(kept)
            return run(streams)

        return around

    def streams(self, position: int, uuids: Sequence[Any]) -> Streams | None:
        """What entered the block for these prompts; None where the strong pass did not run exactly once for each.

        It runs several times where other nodes cut the video into windows or tiles.
        """
        kept = [self._found.get(position, {}).get(uuid, []) for uuid in uuids]
        if not all(len(entry) == 1 for entry in kept):
            return None
        return {name: torch.cat([entry[0][name] for entry in kept]) for name in kept[0][0]}

    def clear(self) -> None:
        """Let go of the tensors."""
        for kept in self._found.values():
            kept.clear()


def passed_over(streams: Streams, run: Callable[[Streams], Streams]) -> Streams:
    """The block returns its input: Eq. 15, and what the blocks before the recorded one do."""
    return streams


def started_from(recorded: Streams, then: Around) -> Around:
    """The block is given what was recorded, whatever comes."""
    return lambda _streams, run: then(recorded, run)


def unchanged(streams: Streams, run: Callable[[Streams], Streams]) -> Streams:
    """The block as it is."""
    return run(streams)


def weakened(
    skipped: Sequence[Place], places: Sequence[Place], skip: str, recorded: Streams | None
) -> dict[int, Around]:
    """What each block does in a weak pass.

    Args:
        skipped: the blocks to weaken, in the order in which they run.
        places: all blocks.
        skip: "residual", or "attention" whose hooks `attached` puts on.
        recorded: what entered the first of them in the strong pass; None runs the blocks before it.
    """
    at = passed_over if skip == "residual" else unchanged
    arounds: dict[int, Around] = {place.position: at for place in skipped}
    if recorded is not None:
        first = skipped[0].position
        arounds.update({place.position: passed_over for place in places[:first]})
        arounds[first] = started_from(recorded, at)
    return arounds


@contextlib.contextmanager
def attached(
    model: nn.Module,
    places: Sequence[Place],
    arounds: Mapping[int, Around],
    options: Mapping[str, Any],
    identities: Sequence[Place] = (),
) -> Iterator[dict[str, Any]]:
    """The blocks do as told as long as the context lasts.

    Args:
        arounds: what to do at the blocks, by position.
        options: the transformer_options of the call.
        identities: blocks whose self-attention map is the identity, so that it returns W_o V (Eq. 17).

    Yields:
        The transformer_options to call the model with.
    """
    with contextlib.ExitStack() as undo:
        replaced = dict(options.get("patches_replace", {}))
        replaced["dit"] = dict(replaced.get("dit", {}))
        for place in places:
            if place.position not in arounds:
                continue
            around, key = arounds[place.position], (place.stack.patch, place.index)
            if place.stack.patch:
                replaced["dit"][key] = _patch(around, place.stack.streams, replaced["dit"].get(key))
            else:
                undo.enter_context(_swapped(model, place, around))
        for place in identities:
            attention = place.block.get_submodule(place.stack.attention)
            undo.callback(attention.register_forward_pre_hook(_with_identity, with_kwargs=True).remove)
        yield {**options, "patches_replace": replaced}


def _patch(around: Around, names: Sequence[str], inner: Callable[..., Any] | None) -> Callable[..., Any]:
    """A block replacement patch; one that another node had put there is the block for it."""

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def run(streams: Streams) -> Streams:
            given = {**args, **streams}
            return inner(given, extra) if inner else extra["original_block"](given)

        return {**args, **around({name: args[name] for name in names}, run)}

    return patch


class StandIn(nn.Module):
    """Takes the place of a block whose model knows no block replacement patches."""

    def __init__(self, block: nn.Module, around: Around) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule: the block stays where it is
        self.around = around

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        block = self.__dict__["block"]
        return self.around({"img": x}, lambda streams: {"img": block(streams["img"], *args, **kwargs)})["img"]


@contextlib.contextmanager
def _swapped(model: nn.Module, place: Place, around: Around) -> Iterator[None]:
    blocks = blocks_of(getattr(model, "_orig_mod", model), place.stack)
    name = list(blocks)[place.index]
    blocks[name] = StandIn(place.block, around)
    try:
        yield
    finally:
        blocks[name] = place.block


def _with_identity(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if "transformer_options" not in kwargs:
        raise RuntimeError(
            f"attention skip needs a ComfyUI that gives transformer_options to {type(module).__name__}, but this one "
            "does not. Update ComfyUI, or skip the residual."
        )
    options = {**(kwargs["transformer_options"] or {}), "optimized_attention_override": identity}
    return args, {**kwargs, "transformer_options": options}


def identity(
    _attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *_args: Any,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **_kwargs: Any,
) -> Tensor:
    """Attention whose map is the identity: it returns the values, in the layout that ComfyUI asks for.

    Args:
        v: `(B, heads, N, D)` if `skip_reshape`, else `(B, N, heads D)`; the same for what is returned, with
            `skip_output_reshape`.

    Raises:
        RuntimeError: if queries and keys are not the same tokens.
    """
    if q.shape[-2] != v.shape[-2]:
        raise RuntimeError(
            f"attention skip needs self-attention, but got {q.shape[-2]} queries and {v.shape[-2]} keys. "
            "Skip the residual of this layer."
        )
    if skip_reshape and not skip_output_reshape:
        return v.transpose(1, 2).flatten(2)
    if skip_output_reshape and not skip_reshape:
        return v.unflatten(2, (heads, -1)).transpose(1, 2)
    return v

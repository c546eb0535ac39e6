"""Proxies by which attention sees a second text, the negative one (NAG).

`negative_text.NegativeText` holds that text and says when they act; it tells the rest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skipguide.families import blocks
from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Stack, TextAttention
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.weak import patching

if TYPE_CHECKING:
    from skipguide.weak.negative_text import NegativeText

Tensor = torch.Tensor


class RecordArguments(patching.Bypass):
    """A block that returns its input; arguments of these names are kept.

    Args:
        real: the block.
        stack: the list that it is in.
        names: of its arguments.
    """

    def __init__(self, real: nn.Module, stack: Stack, names: Sequence[str]):
        super().__init__(real, stack)
        self.__dict__.update(names=tuple(names), argument_names=_argument_names(real), found={})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(self.argument_names, args, strict=False)), **kwargs}
        self.__dict__["found"] = {name: given.get(name) for name in self.names}
        return super().forward(*args, **kwargs)

    def take(self) -> Inputs:
        """Return what was kept, and keep it no more."""
        found, self.__dict__["found"] = self.found, {}
        return found


class TakeHeads(patching.ModuleProxy):
    """In the place of W_o: the joined heads that enter it are kept.

    Args:
        real: the projection, or an attention that has none and returns the heads of the video
            first.
        is_attention: which of the two it is.
        is_read: whether anybody reads the result; a projection that nobody reads is not run.
    """

    def __init__(self, real: nn.Module, is_attention: bool, is_read: bool):
        super().__init__(real, is_attention=is_attention, is_read=is_read, heads=None)
        self.__dict__["forward"] = torch.compiler.disable(self._run)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        result = self.real(*args, **kwargs) if self.is_read else args[0]
        self.__dict__["heads"] = result[0] if self.is_attention else args[0]
        return result

    def take(self) -> Tensor:
        """Return what was kept, and keep it no more."""
        found, self.__dict__["heads"] = self.heads, None
        return found


class ChangeHeads(patching.ModuleProxy):
    """In the place of W_o: it gets what `change` makes of the joined heads.

    Args:
        real, is_attention: as for TakeHeads.
    """

    def __init__(self, real: nn.Module, is_attention: bool):
        super().__init__(real, is_attention=is_attention, change=None)
        self.__dict__["forward"] = torch.compiler.disable(self._run)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self.is_attention:
            return self.real(self.change(args[0]), *args[1:], **kwargs)
        heads, *others = self.real(*args, **kwargs)
        return (self.change(heads), *others)


class ZeroValues(patching.ModuleProxy):
    """A projection to values that are zero, so that this attention adds nothing to another."""

    def forward(self, states: Tensor) -> Tensor:
        return torch.zeros_like(self.real(states))


class ReturnInput(patching.ModuleProxy):
    """A module whose result nobody reads: its input has the same shape."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]


class Heads:
    """The joined heads of an attention before W_o, which are taken or changed in a run.

    Args:
        block: the block, or what the path of the attention counts from.
        text: what the family's row says of the attention.
        is_read: as for TakeHeads.
    """

    def __init__(self, block: nn.Module, text: TextAttention, is_read: bool):
        path = f"{text.path}.{text.output}" if text.output else text.path
        owner, _, self._name = path.rpartition(".")
        self._parent, self._is_read = block.get_submodule(owner), is_read
        self._is_attention = not text.output
        # By what is there now: a weak pass may have put an attention of ours there. They are kept,
        # so that torch.compile meets the same modules at every step.
        self._proxies: dict[nn.Module, tuple[TakeHeads, ChangeHeads]] = {}

    def _current_proxies(self) -> tuple[TakeHeads, ChangeHeads]:
        real = patching.get_child(self._parent, self._name)
        if real not in self._proxies:
            self._proxies[real] = (
                TakeHeads(real, self._is_attention, self._is_read),
                ChangeHeads(real, self._is_attention),
            )
        return self._proxies[real]

    def take(
        self, run: Callable[[], Any], others: Sequence[patching.Patch] = ()
    ) -> tuple[Tensor, Any]:
        """Return the joined heads in a run, and what it returned.

        Args:
            run: runs the attention once.
            others: patches of this run beside.
        """
        proxy, _ = self._current_proxies()
        with patching.patched([*others, (self._parent, self._name, proxy)]):
            result = run()
        return proxy.take(), result

    def change(self, run: Callable[[], Any], change: Callable[[Tensor], Tensor]) -> Any:
        """Return what a run returns if other heads enter W_o."""
        _, proxy = self._current_proxies()
        proxy.__dict__["change"] = change
        try:
            with patching.patched([(self._parent, self._name, proxy)]):
                return run()
        finally:
            proxy.__dict__["change"] = None  # it holds tensors


class CrossAttention(patching.ModuleProxy):
    """A cross-attention to the text, guided by the negative text while NAG is on.

    Args:
        real: the attention.
        state: that of its denoiser.
        block: the block that has it.
        text: what the family's row says of it.
    """

    def __init__(self, real: nn.Module, state: NegativeText, block: nn.Module, text: TextAttention):
        heads = Heads(block, text, is_read=False)
        image = _zero_image_values(real, text)
        super().__init__(real, state=state, text=text, heads=heads, without_image=image)
        self.__dict__["argument_names"] = _argument_names(real)
        self.__dict__["forward"] = torch.compiler.disable(self._run)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self.state.is_on:
            return self.real(*args, **kwargs)
        own = self.state.arguments(self.text)
        Z_negative = self._attend(*_replace_arguments(self.argument_names, args, kwargs, own))
        Z = self._attend(args, kwargs) if self.without_image else None

        def add_push(heads: Tensor) -> Tensor:
            return heads + self.state.push(heads if Z is None else Z, Z_negative)

        return self.heads.change(lambda: self.real(*args, **kwargs), add_push)

    def _attend(self, args: tuple[Any, ...], kwargs: ReadOnlyInputs) -> Tensor:
        """Return what the video gets of a text alone, without an image."""
        return self.heads.take(lambda: self.real(*args, **kwargs), self.without_image)[0]


class JointBlock(patching.ModuleProxy):
    """A block in which video and text attend to each other, guided while NAG is on.

    Args:
        real: the block.
        state: that of its denoiser.
        position: of the block in the chain.
        site: the block as a link of the chain.
        is_guided: whether NAG acts here. The negative text's stream passes through the block where
            it does not, too.
    """

    def __init__(self, site: LayerSite, state: NegativeText, position: int, is_guided: bool):
        (text,) = site.stack.text
        super().__init__(
            site.block, state=state, position=position, streams=site.stack.streams, text=text,
            is_guided=is_guided, heads=Heads(site.block, text, is_read=True),
        )  # fmt: skip
        self.__dict__.update(
            argument_names=_argument_names(site.block),
            stream_index=site.stack.streams.index(text.stream),
            returned_index=site.stack.position_returned(text.stream),
            unread=[
                (parent, name, ReturnInput(module))
                for parent, name, module in blocks.find_modules(site.block, text.video_only)
            ],
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.state.is_on:
            return self.real(*args, **kwargs)
        Z_negative = self._run_negative(args, kwargs)
        if not self.is_guided:
            return self.real(*args, **kwargs)
        length = patching.stream_values(self.streams, args, kwargs)[self.stream_index].shape[1]

        def add_push(heads: Tensor) -> Tensor:
            before, Z, after = self._split(heads, length)
            return torch.cat([before, Z + self.state.push(Z, Z_negative), after], 1)

        return self.heads.change(lambda: self.real(*args, **kwargs), add_push)

    def _run_negative(self, args: tuple[Any, ...], kwargs: ReadOnlyInputs) -> Tensor:
        """Run the block with the negative text, and return what the video attends to in it."""
        self.state.enter_block(self.position)
        own = self.state.block_arguments(self.text)
        given, named = _replace_arguments(self.argument_names, args, kwargs, own)
        heads, streams = self.heads.take(lambda: self.real(*given, **named), self.unread)
        _, Z, _ = self._split(heads, own[self.text.stream].shape[1])
        self.state.stream = streams[self.returned_index]
        return Z

    def _split(self, heads: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the joined heads of a text before the video, of the video, of a text after it.

        Args:
            heads: `(B, N, D)`, what enters W_o.
            length: of the text, in tokens.
        """
        length = length if self.text.has_text else 0
        start = length if self.state.family.text_position == "before" else 0
        stop = heads.shape[1] - (length - start)
        return heads[:, :start], heads[:, start:stop], heads[:, stop:]


def _zero_image_values(real: nn.Module, text: TextAttention) -> list[patching.Patch]:
    found = [(name, real._modules.get(name)) for name in text.image_values]
    patches: list[patching.Patch] = [
        (real, name, ZeroValues(module)) for name, module in found if module is not None
    ]
    if patches and getattr(real, "fused_projections", False):
        raise ValueError(
            "NAG needs the projections of an image apart from those of the text, but they are"
            " fused. Call .unfuse_qkv_projections() on the model."
        )
    return patches


def _argument_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments of a module, in their order."""
    written = getattr(module, "_orig_mod", module)
    return tuple(inspect.signature(type(written).forward).parameters)[1:]


def _replace_arguments(
    names: Sequence[str], args: Sequence[Any], kwargs: ReadOnlyInputs, own: ReadOnlyInputs
) -> tuple[tuple[Any, ...], Inputs]:
    """Return the arguments of a call with others in their places, by name or by position."""
    positional = dict(zip(names, args, strict=False))
    given = tuple(own.get(name, value) for name, value in positional.items())
    named = {name: value for name, value in own.items() if name not in positional}
    return (*given, *args[len(given) :]), {**kwargs, **named}

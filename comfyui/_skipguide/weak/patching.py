# Built by `make comfyui` from src/skipguide/weak/patching.py; do not edit.
"""Replace blocks and attentions by proxies for the length of one pass.

A proxy takes the place of a module in its parent, and forwards every attribute but the forward pass
to it. The real module is not changed, so its hooks (offloading), compilation and quantization stay
as they are. Proxies live as long as the guidance, so that torch.compile meets the same modules at
every step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import Signature
from typing import Any

import torch
from torch import nn

from ..families.schema import Stack, ValueProjection
from ..method.protocols import Inputs, ReadOnlyInputs

Tensor = torch.Tensor
Patch = tuple[nn.Module, str, nn.Module]  # (parent, name of its child, the module to put there)


class ModuleProxy(nn.Module):
    """Takes the place of a module without owning it: parameters, hooks and state stay there.

    Args:
        real: the module.
        attributes: further attributes of the proxy.
    """

    def __init__(self, real: nn.Module, **attributes: object):
        super().__init__()
        # Not by setattr, by which nn.Module would register `real` as a child.
        self.__dict__.update(attributes, real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)

    # Whoever looks at the model while a proxy is in place, or after a Ctrl-C left one there, sees
    # the real module.

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return self.real.named_modules(*args, **kwargs)

    def get_submodule(self, target: str) -> Any:
        return self.real.get_submodule(target)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.real.state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.real._apply(*args, **kwargs)
        return self


# --- in the conditional pass ----------------------------------------------------------------------


class ByteLimit:
    """A limit on the bytes that one conditional pass keeps.

    What comes first is kept. Once something did not fit, nothing more is kept in that pass, so
    that no module has a part of what it returned.

    Args:
        size: in bytes; may be changed between passes.
    """

    def __init__(self, size: float):
        self.size = size
        self.begin(())

    def begin(self, exempt: Iterable[nn.Module]) -> None:
        """Begin a pass; what the exempt proxies keep is counted, but never refused."""
        self._left, self._exempt = self.size, set(map(id, exempt))

    def take(self, proxy: nn.Module, kept: Any) -> bool:
        """Return whether a proxy may keep these tensors."""
        count = sum(tensor.numel() * tensor.element_size() for tensor in iter_tensors(kept))
        if id(proxy) not in self._exempt and count > self._left:
            self._left = -1
            return False
        self._left -= min(count, max(self._left, 0))
        return True


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples and lists."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from iter_tensors(item)


class KeptRows:
    """The rows of a pass that are kept: all of them, or those of cond in a batch [uncond, cond]."""

    def __init__(self) -> None:
        self.in_batch = False

    def select(self, value: Any) -> Any:
        """Return the kept rows of a tensor, or of every tensor in a tuple, list or dictionary."""
        return select_half(COND, value) if self.in_batch else value


class RecordInput(ModuleProxy):
    """The real block; the streams that enter it are copied into `state`.

    They are copied because a block may change its inputs in place. Nothing is kept where a limit
    refuses it. `on_kept` is called with what was kept, before the block runs."""

    def __init__(
        self, real: nn.Module, streams: Sequence[str], rows: KeptRows,
        limit: ByteLimit | None = None,
    ):  # fmt: skip
        super().__init__(
            real, streams=tuple(streams), state=None, rows=rows, limit=limit, on_kept=None
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        streams = self.rows.select(stream_values(self.streams, args, kwargs))
        if self.limit is None or self.limit.take(self, streams):
            self.__dict__["state"] = tuple(
                None if stream is None else stream.clone() for stream in streams
            )
            if self.on_kept is not None:
                self.on_kept(self.state)
        return self.real(*args, **kwargs)


class CacheOutput(ModuleProxy):
    """The real module; what it returns is kept in `outputs`, one entry for each call.

    Nothing is kept where a limit refuses it. `on_kept` is called with each output that was kept."""

    def __init__(self, real: nn.Module, rows: KeptRows, limit: ByteLimit | None = None):
        super().__init__(real, outputs=[], rows=rows, limit=limit, on_kept=None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.real(*args, **kwargs)
        kept = self.rows.select(output)
        if self.limit is None or self.limit.take(self, kept):
            self.outputs.append(_copy_output(kept))
            if self.on_kept is not None:
                self.on_kept(self.outputs[-1])
        else:
            self.outputs.clear()  # of earlier calls: a weak pass would replay them in wrong places
        return output


# --- in a weak pass -------------------------------------------------------------------------------


class Bypass(ModuleProxy):
    """The block returns its input, every stream of it (Eq. 15).

    With a `source`, it returns the input recorded there instead of the one that arrives."""

    def __init__(self, real: nn.Module, stack: Stack, source: RecordInput | None = None):
        super().__init__(real, stack=stack, source=source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _run_group_offloading_hooks(self.real)
        if self.source is not None:
            args, kwargs = replace_streams(self.stack.streams, self.source.state, args, kwargs)
        state = pass_through(self.real, self.stack, args, kwargs)
        # UNets ask their transformers for a tuple by return_dict=False.
        return state[0] if len(state) == 1 and kwargs.get("return_dict") is not False else state


class ResumeFrom(ModuleProxy):
    """The real block, run on the streams recorded by `source` instead of those that arrive.

    The streams come `copies` times, one after the other in the batch."""

    def __init__(
        self, real: nn.Module, streams: Sequence[str], source: RecordInput, copies: int = 1
    ):
        super().__init__(real, streams=tuple(streams), source=source, copies=copies)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state = repeat_rows(self.copies, self.source.state)
        args, kwargs = replace_streams(self.streams, state, args, kwargs)
        return self.real(*args, **kwargs)


class ReplayOutput(ModuleProxy):
    """The module returns what it returned in the conditional pass, call by call.

    It comes `copies` times, one after the other in the batch."""

    def __init__(self, real: nn.Module, source: CacheOutput, copies: int = 1):
        super().__init__(real, source=source, copies=copies)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _run_group_offloading_hooks(self.real)
        outputs = self.source.outputs
        outputs.append(outputs.pop(0))  # a whole pass rotates the list once
        if self.copies > 1:
            return repeat_rows(self.copies, outputs[-1])
        return _copy_output(outputs[-1])


class ZeroOutput(ModuleProxy):
    """The module returns zero: what it is added to is replaced by a recorded state, or is to stay
    as it is."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return next(value for value in args if torch.is_tensor(value)).new_zeros(())


class IdentityAttention(ModuleProxy):
    """A self-attention whose map is the identity over all tokens it sees (Eq. 17).

    Args:
        real: the attention module.
        values: the function that computes what is left of it.
    """

    def __init__(self, real: nn.Module, values: ValueProjection):
        super().__init__(real, values=values)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.values(self.real, *args, **kwargs)


def _run_group_offloading_hooks(block: nn.Module) -> None:
    """Run the hooks of diffusers' group offloading for a block that is not run.

    The first block of a group loads the group and the last one unloads it. They must do so although
    they are skipped, for the others of their group may run."""
    registry = getattr(block, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry is not None else None
    if hook is not None and len(hook.group.modules) > 1:
        hook.pre_forward(block)
        hook.post_forward(block, None)


def pass_through(
    block: nn.Module, stack: Stack, args: tuple[Any, ...], kwargs: Inputs
) -> tuple[Tensor, ...]:
    """Return the streams as they leave a block that does nothing to them, in the order in which it
    returns them.

    Under diffusers' context parallelism the hooks of a block may split the tokens that enter it, as
    those of Wan's first one do, or gather those that leave it. They must do so although the block
    is not run, for the modules after it take what is left."""
    registry = getattr(block, "_diffusers_hook", None)
    found = [
        hook for name, hook in getattr(registry, "hooks", {}).items() if name.startswith("cp_")
    ]
    for hook in reversed(found):  # the one that was registered last is the outermost
        args, kwargs = hook.pre_forward(block, *args, **kwargs)
    state = stack.as_returned(stream_values(stack.streams, args, kwargs))
    for hook in found:
        output = hook.post_forward(block, state[0] if len(state) == 1 else state)
        state = (output,) if torch.is_tensor(output) else tuple(output)
    return state


def _copy_output(output: Any) -> Any:
    """Copy a tensor, because FreeU changes what a block returns; tuples are only read."""
    return output.clone() if torch.is_tensor(output) else output


# --- helpers --------------------------------------------------------------------------------------


def stream_values(
    streams: Sequence[str], args: Sequence[Any], kwargs: ReadOnlyInputs
) -> tuple[Tensor, ...]:
    """Return the streams among the inputs of a block.

    Blocks take them first and in their order where they are positional."""
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(streams))


def replace_streams(
    streams: Sequence[str], state: Sequence[Any], args: Sequence[Any], kwargs: ReadOnlyInputs
) -> tuple[tuple[Any, ...], Inputs]:
    """Return the inputs of a block with other streams in the place of those that arrive."""
    positional = min(len(args), len(streams))
    named = {name: value for name, value in zip(streams, state, strict=True) if name in kwargs}
    return (*state[:positional], *args[positional:]), {**kwargs, **named}


def bind_inputs(signature: Signature, args: Sequence[Any], kwargs: ReadOnlyInputs) -> Inputs:
    """Return the inputs of a call by name."""
    bound = signature.bind(*args, **kwargs).arguments
    return {**{k: v for k, v in bound.items() if k != "kwargs"}, **bound.get("kwargs", {})}


def get_child(parent: nn.Module, name: str) -> nn.Module:
    """Return the child of a module by its name."""
    found = parent._modules[name]
    assert found is not None, name
    return found


UNCOND, COND = 0, 1  # the halves of a batch, which diffusers makes as [uncond, cond]


def select_half(half: int, value: Any, dim: int = 0) -> Any:
    """Return one half of a batch: of a tensor, or of every tensor in a tuple, list or dictionary.

    Other values are returned as they are.

    Args:
        half: UNCOND or COND.
        value: an input of the denoiser.
        dim: the dimension of the batch.

    Raises:
        ValueError: for a tensor with an odd number of rows.
    """

    def select(tensor: Tensor) -> Tensor:
        if tensor.shape[dim] % 2:
            raise ValueError(
                "a batch of CFG must be [uncond, cond] with as many rows of each, but an input has"
                f" {tensor.shape[dim]} rows, so it is no batch. Take its name out of"
                " `batched_inputs` in"
                " its row of skipguide/families/rows.py."
            )
        return tensor.chunk(2, dim)[half]

    return _map_tensors(select, value)


def select_entries(half: int, rows: Sequence[Any]) -> list[Any]:
    """Return one half of a list with an entry for each row of a batch.

    Args:
        half: UNCOND or COND.
        rows: the list.
    """
    middle = len(rows) // 2
    return list(rows[:middle] if half == UNCOND else rows[middle:])


def select_rows(
    half: int, inputs: ReadOnlyInputs, batch_dims: Mapping[str, int], listed: Sequence[str] = ()
) -> Inputs:
    """Return the inputs of a denoiser for one half of a batch [uncond, cond].

    Args:
        half: UNCOND or COND.
        inputs: by name.
        batch_dims: the dimension of the batch in those that have one.
        listed: those of them that are lists with an entry for each row.
    """
    return {
        name: value
        if name not in batch_dims
        else select_entries(half, value)
        if name in listed
        else select_half(half, value, batch_dims[name])
        for name, value in inputs.items()
    }


def repeat_rows(copies: int, value: Any, dim: int = 0) -> Any:
    """Return a batch several times over: a tensor, or every tensor in a tuple, list or dictionary.

    Other values are returned as they are; with one copy all of them.
    """
    if copies == 1:
        return value
    return _map_tensors(lambda tensor: torch.cat([tensor] * copies, dim), value)


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _map_tensors(function, item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(function, item) for item in value)
    return function(value) if torch.is_tensor(value) else value


@contextlib.contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Put the proxies in place for a `with` block, and the real modules back whatever happens."""
    real = apply_patches(patches)
    try:
        yield
    finally:
        apply_patches(real)


def apply_patches(patches: Sequence[Patch]) -> list[Patch]:
    """Put the proxies in place, and return the patches that undo it."""
    undo = [(parent, name, get_child(parent, name)) for parent, name, _ in patches]
    for parent, name, proxy in patches:
        parent._modules[name] = proxy
    return undo

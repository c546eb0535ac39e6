"""One call of a model with some of its blocks changed: recorded, bypassed, or given other inputs.

Nothing of the model's weights is touched, and nothing is left behind after the call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ._skipguide.families.blocks import LayerSite
from ._skipguide.families.schema import Stack
from ._skipguide.method.perturbations import ISOLATION
from ._skipguide.weak.patching import ModuleProxy, get_child, patched
from .attention import override_attention
from .models import BlockChain

Tensor = torch.Tensor
Options = Mapping[str, Any]
Value = Tensor | tuple[Tensor, ...]  # a tuple where one stream is a video and its sound
Streams = dict[str, Value]  # what runs through the blocks: img, and txt where they change it
Run = Callable[..., Streams]  # a block as a function; keywords are added to its transformer_options
Change = Callable[[Streams, Run], Streams]  # given the streams that arrive, and the block
Patch = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]  # as ComfyUI calls it


class Recording:
    """The inputs of some blocks in the conditional pass: streams `(B, N, D)` by block and prompt.

    What identifies a prompt is up to the caller. The uuid that ComfyUI gives to each conditioning
    is not enough: prompts share those of their areas.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self._found: dict[int, dict[Any, list[Streams]]] = {position: {} for position in positions}

    def recorder(self, position: int, uuids: Sequence[Any]) -> Change:
        """Return a change that copies what enters a block, for ComfyUI's blocks work in place.

        Rows whose prompt is None are not kept.
        """

        def record(streams: Streams, run: Run) -> Streams:
            rows = {name: _rows_of(value, len(uuids)) for name, value in streams.items()}
            for number, uuid in enumerate(uuids):
                if uuid is None:
                    continue
                kept = {name: chunks[number] for name, chunks in rows.items()}
                self._found[position].setdefault(uuid, []).append(kept)
            return run(streams)

        return record

    def streams(self, position: int, uuids: Sequence[Any]) -> Streams | None:
        """Return what entered a block for these prompts, or None if it did not run once for each.

        It runs several times where other nodes cut the video into windows or tiles.
        """
        kept = [self._found.get(position, {}).get(uuid, []) for uuid in uuids]
        if not all(len(entry) == 1 for entry in kept):
            return None
        return {name: _join([entry[0][name] for entry in kept]) for name in kept[0][0]}

    def clear(self) -> None:
        """Let go of the tensors."""
        for kept in self._found.values():
            kept.clear()


def tensors_of(value: Value) -> tuple[Tensor, ...]:
    """Return the tensors of a stream."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def _rows_of(value: Value, count: int) -> list[Value]:
    """Return copies of the rows of each prompt."""
    if isinstance(value, Tensor):
        return [rows.clone() for rows in value.chunk(count)]
    return list(zip(*([rows.clone() for rows in part.chunk(count)] for part in value), strict=True))


def _join(values: Sequence[Value]) -> Value:
    """Return the rows of several prompts as one batch, in new memory."""
    if isinstance(values[0], Tensor):
        return torch.cat([value for value in values if isinstance(value, Tensor)])
    return tuple(torch.cat(parts) for parts in zip(*map(tensors_of, values), strict=True))


def bypass(streams: Streams, run: Run) -> Streams:
    """Return the input of the block as its output (Eq. 15)."""
    return streams


def run_block(streams: Streams, run: Run) -> Streams:
    """Run the block as it is."""
    return run(streams)


def isolate_by(names: Sequence[str]) -> Change:
    """Return a change that runs the block without attention between video and sound.

    Args:
        names: the entries of transformer_options that allow it.
    """
    return lambda streams, run: run(streams, **dict.fromkeys(names, False))


def resume_from(recorded: Streams, change: Change) -> Change:
    """Return a change that gives the block what was recorded, whatever arrives."""
    return lambda _streams, run: change(recorded, run)


def only_rows(change: Change, chosen: Sequence[bool]) -> Change:
    """Return a change for the rows of some prompts of a batch; the block runs for the others.

    It runs with all rows, as some patches of other nodes look at all.

    Args:
        chosen: an entry for each prompt, all of which have as many rows.
    """

    def changed(streams: Streams, run: Run) -> Streams:
        copied = {name: _join(_rows_of(value, 1)) for name, value in streams.items()}
        weak, whole = change(copied, run), run(streams)
        return {name: _merged(weak[name], whole[name], chosen) for name in streams}

    return change if all(chosen) else changed


def _merged(weak: Value, whole: Value, chosen: Sequence[bool]) -> Value:
    pairs = zip(*(_rows_of(value, len(chosen)) for value in (weak, whole)), chosen, strict=True)
    return _join([rows if taken else others for rows, others, taken in pairs])


def weak_changes(
    skipped: Sequence[int], skip: str, recorded: Streams | None, isolation: Sequence[str] = ()
) -> dict[int, Change]:
    """Return what each changed block does in a weak pass, by position.

    Args:
        skipped: positions of the blocks to weaken, sorted.
        skip: "residual", or "attention", for which `attached` overrides the attention, or
            "isolation".
        recorded: what entered the first of them in the conditional pass; None runs the blocks
            before it.
        isolation: for that, as for `isolate_by`.
    """
    ways: dict[str, Change] = {"residual": bypass, ISOLATION: isolate_by(isolation)}
    change = ways.get(skip, run_block)
    changes: dict[int, Change] = dict.fromkeys(skipped, change)
    if recorded is not None:
        changes.update(prefix_changes(skipped[0], recorded, change))
    return changes


def prefix_changes(first: int, recorded: Streams, change: Change = run_block) -> dict[int, Change]:
    """Return what the blocks up to the first skipped one do where the pass starts at that one."""
    return {**dict.fromkeys(range(first), bypass), first: resume_from(recorded, change)}


@dataclass(frozen=True)
class Part:
    """Blocks that are changed in a call of the model.

    Args:
        changes: what blocks do, by position.
        identities: positions of blocks whose self-attention gets the identity map (Eq. 17).
        rows: an entry for each prompt of the batch: whether its rows are changed; () is all.
    """

    changes: Mapping[int, Change]
    identities: Sequence[int] = ()
    rows: Sequence[bool] = ()


@contextlib.contextmanager
def attached(
    chain: BlockChain,
    changes: Mapping[int, Change],
    options: Options,
    identities: Sequence[int] = (),
    rows: Sequence[bool] = (),
    may_be_left_out: bool = False,
    suspected: str = "",
) -> Iterator[dict[str, Any]]:
    """Change blocks of a model as long as the context lasts.

    Args:
        changes, identities, rows: as a Part has them.
        options: the transformer_options of the call.
        may_be_left_out: whether a cache may take the place of the call: all or none of the blocks
            are reached.
        suspected: names of what is around the call, for the error.

    Yields:
        The transformer_options to call the model with.

    Raises:
        RuntimeError: at the end, if a changed block or attention was not reached. A cache of
            another node keeps what blocks returned in an earlier pass, whatever it calls itself.
    """
    reached: set[int] = set()
    changes = {
        position: _noting(reached, position, only_rows(change, rows) if rows else change)
        for position, change in changes.items()
    }
    replaced = dict(options.get("patches_replace", {}))
    replaced["dit"] = dict(replaced.get("dit", {}))
    proxies = []
    for position, change in changes.items():
        site, key = chain.sites[position], chain.patch_key(position)
        if key[0]:
            replaced["dit"][key] = _patch(change, site.stack.streams, replaced["dit"].get(key))
        else:
            proxies.append((*site.entry, ChangedBlock(get_child(*site.entry), change, site.stack)))
    overridden: set[int] = set()
    with contextlib.ExitStack() as undo:
        undo.enter_context(patched(proxies))
        for position in identities:
            _override_attentions(
                chain.sites[position], rows, partial(overridden.add, position), undo
            )
        yield {**options, "patches_replace": replaced}
    if not (may_be_left_out and not reached):
        _require_all(chain, set(changes) - reached, set(identities) - overridden, suspected)


def _require_all(chain: BlockChain, missed: set[int], unchanged: set[int], suspected: str) -> None:
    """Raise where the model went another way than through the changed blocks."""
    by = f" ({suspected})" if suspected else ""
    if missed:
        raise RuntimeError(
            f'block "{chain.sites[min(missed)].address}" must run in each pass of a guided step,'
            f" but the model did not reach it. Another node{by} keeps what an earlier pass"
            " returned, as a cache does, or skips blocks. Remove that node; EasyCache, LazyCache,"
            " TeaCache and MagCache may stay."
        )
    if unchanged:
        raise RuntimeError(
            f'the attention of block "{chain.sites[min(unchanged)].address}" must take the values'
            f" alone, but it was computed in another way. Another node{by} has code of its own"
            " there. Use residual skip, or remove that node."
        )


def _noting(reached: set[int], position: int, change: Change) -> Change:
    """Return the change of a block; that the model reached it is noted."""

    def noted(streams: Streams, run: Run) -> Streams:
        reached.add(position)
        return change(streams, run)

    return noted


def _override_attentions(
    site: LayerSite, rows: Sequence[bool], note: Callable[[], None], undo: contextlib.ExitStack
) -> None:
    for path, override in site.stack.attention.items():
        module = site.block.get_submodule(path)
        undo.callback(override_attention(module, override, rows, note))


def _patch(change: Change, names: Sequence[str], inner: Patch | None) -> Patch:
    """Return a block replacement patch; another node's patch at the block counts as the block."""

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def run(streams: Streams, **options: Any) -> Streams:
            given = {**args, **streams, **_with_options(args, options)}
            return inner(given, extra) if inner else extra["original_block"](given)

        return {**args, **change({name: args[name] for name in names}, run)}

    return patch


def _with_options(args: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the transformer_options of a block with others added, as a keyword."""
    given = args.get("transformer_options") or {}
    return {"transformer_options": {**given, **options}} if options else {}


class ChangedBlock(ModuleProxy):
    """Stands in for a block whose model knows no block replacement patches."""

    def __init__(self, real: torch.nn.Module, change: Change, stack: Stack) -> None:
        super().__init__(real, change=change, stack=stack)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = self.stack.streams
        count = min(len(names), len(args))  # of the streams, that come by position
        given = {**dict(zip(names, args, strict=False)),
                 **{name: kwargs[name] for name in names[count:]}}  # fmt: skip

        def run(streams: Streams, **options: Any) -> Streams:
            first = [streams[name] for name in names[:count]]
            named = {**kwargs, **{name: streams[name] for name in names[count:]}}
            named.update(_with_options(kwargs, options))
            found = self.real(*first, *args[count:], **named)
            return dict(zip(names, found if len(names) > 1 else (found,), strict=True))

        changed = self.change(given, run)
        return tuple(changed[name] for name in names) if len(names) > 1 else changed[names[0]]

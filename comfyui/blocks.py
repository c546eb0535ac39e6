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
from ._skipguide.weak.patching import ModuleProxy, get_child, patched
from .attention import override_attention
from .models import BlockChain

Tensor = torch.Tensor
Options = Mapping[str, Any]
Streams = dict[str, Tensor]  # what runs through the blocks: img, and txt where they change it
Run = Callable[[Streams], Streams]  # a block as a function
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
            rows = {name: value.chunk(len(uuids)) for name, value in streams.items()}
            for number, uuid in enumerate(uuids):
                if uuid is None:
                    continue
                kept = {name: chunks[number].clone() for name, chunks in rows.items()}
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
        return {name: torch.cat([entry[0][name] for entry in kept]) for name in kept[0][0]}

    def clear(self) -> None:
        """Let go of the tensors."""
        for kept in self._found.values():
            kept.clear()


def bypass(streams: Streams, run: Run) -> Streams:
    """Return the input of the block as its output (Eq. 15)."""
    return streams


def run_block(streams: Streams, run: Run) -> Streams:
    """Run the block as it is."""
    return run(streams)


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
        weak = change({name: value.clone() for name, value in streams.items()}, run)
        whole = run(streams)
        return {name: _merged(weak[name], whole[name], chosen) for name in streams}

    return change if all(chosen) else changed


def _merged(weak: Tensor, whole: Tensor, chosen: Sequence[bool]) -> Tensor:
    pairs = zip(weak.chunk(len(chosen)), whole.chunk(len(chosen)), chosen, strict=True)
    return torch.cat([rows if taken else others for rows, others, taken in pairs])


def weak_changes(skipped: Sequence[int], skip: str, recorded: Streams | None) -> dict[int, Change]:
    """Return what each changed block does in a weak pass, by position.

    Args:
        skipped: positions of the blocks to weaken, sorted.
        skip: "residual", or "attention", for which `attached` overrides the attention.
        recorded: what entered the first of them in the conditional pass; None runs the blocks
            before it.
    """
    change = bypass if skip == "residual" else run_block
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
            proxies.append((*site.entry, ChangedBlock(get_child(*site.entry), change)))
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
        def run(streams: Streams) -> Streams:
            given = {**args, **streams}
            return inner(given, extra) if inner else extra["original_block"](given)

        return {**args, **change({name: args[name] for name in names}, run)}

    return patch


class ChangedBlock(ModuleProxy):
    """Stands in for a block whose model knows no block replacement patches."""

    def __init__(self, real: torch.nn.Module, change: Change) -> None:
        super().__init__(real, change=change)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def run(streams: Streams) -> Streams:
            return {"img": self.real(streams["img"], *args, **kwargs)}

        return self.change({"img": x}, run)["img"]

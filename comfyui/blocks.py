"""One call of a model with some of its blocks changed: recorded, bypassed, or given other inputs.

Nothing of the model's weights is touched, and nothing is left behind after the call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ._skipguide.families.blocks import LayerSite
from ._skipguide.weak.patching import ModuleProxy, patched
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

    ComfyUI identifies a prompt by the uuid that it gives to each conditioning.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self._found: dict[int, dict[Any, list[Streams]]] = {position: {} for position in positions}

    def recorder(self, position: int, uuids: Sequence[Any]) -> Change:
        """Return a change that copies what enters a block, for ComfyUI's blocks work in place."""

        def record(streams: Streams, run: Run) -> Streams:
            rows = {name: value.clone().chunk(len(uuids)) for name, value in streams.items()}
            for number, uuid in enumerate(uuids):
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
        changes.update(dict.fromkeys(range(skipped[0]), bypass))
        changes[skipped[0]] = resume_from(recorded, change)
    return changes


@contextlib.contextmanager
def attached(
    chain: BlockChain,
    changes: Mapping[int, Change],
    options: Options,
    identities: Sequence[int] = (),
) -> Iterator[dict[str, Any]]:
    """Change blocks of a model as long as the context lasts.

    Args:
        changes: what blocks do, by position.
        options: the transformer_options of the call.
        identities: positions of blocks whose self-attention gets the identity map (Eq. 17).

    Yields:
        The transformer_options to call the model with.

    Raises:
        RuntimeError: at the end, if a changed block was not reached. A cache of another node keeps
            what blocks returned in an earlier pass, whatever it calls itself.
    """
    reached: set[int] = set()
    changes = {position: _noting(reached, position, run) for position, run in changes.items()}
    replaced = dict(options.get("patches_replace", {}))
    replaced["dit"] = dict(replaced.get("dit", {}))
    proxies = []
    for position, change in changes.items():
        site, key = chain.sites[position], chain.patch_key(position)
        if key[0]:
            replaced["dit"][key] = _patch(change, site.stack.streams, replaced["dit"].get(key))
        else:
            proxies.append((*site.entry, ChangedBlock(site.block, change)))
    with contextlib.ExitStack() as undo:
        undo.enter_context(patched(proxies))
        for position in identities:
            _override_attentions(chain.sites[position], undo)
        yield {**options, "patches_replace": replaced}
    missed = sorted(set(changes) - reached)
    if missed:
        raise RuntimeError(
            f'block "{chain.sites[missed[0]].address}" must run in each pass of a guided step, but'
            " the model did not reach it. Another node keeps what an earlier pass returned, as a"
            " cache does, or skips blocks. Remove that node; LazyCache may stay."
        )


def _noting(reached: set[int], position: int, change: Change) -> Change:
    """Return the change of a block; that the model reached it is noted."""

    def noted(streams: Streams, run: Run) -> Streams:
        reached.add(position)
        return change(streams, run)

    return noted


def _override_attentions(site: LayerSite, undo: contextlib.ExitStack) -> None:
    for path, override in site.stack.attention.items():
        undo.callback(override_attention(site.block.get_submodule(path), override))


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

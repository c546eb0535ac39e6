"""Tokens that are divided among the processes of context parallelism.

diffusers' `enable_parallelism` has each process run the blocks on a share of a video's tokens. Its
hooks split what goes into some modules and gather what comes out of others, and attentions exchange
tokens by themselves. What is done to each token alone is right as it is on a share; what moves
tokens, or needs to know all of them, has to ask here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

Tensor = torch.Tensor


def parallel_config(module: nn.Module) -> Any:
    """Return diffusers' ContextParallelConfig of the attentions in a module, or None."""
    for part in module.modules():
        processor = getattr(part, "processor", None)
        config = getattr(processor, "_parallel_config", None)
        found = getattr(config, "context_parallel_config", None)
        if found is not None:
            return found
    return None


def shares_tokens(block: nn.Module, streams: set[str]) -> bool:
    """Return whether the tokens that enter a block are a share of all.

    Its attentions work on shares under context parallelism; the tokens are still all of them where
    the block, or a module in it, splits them itself.

    Args:
        block: the real block.
        streams: the names under which a module may take the tokens.
    """
    if parallel_config(block) is None:
        return False
    return not any(streams & set(names) for names in _split_inputs(block))


def _split_inputs(block: nn.Module) -> Iterator[Collection[Any]]:
    """Yield the names of the inputs that each hook in a block splits."""
    for module in block.modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook in getattr(registry, "hooks", {}).values():
            if type(hook).__name__ == "ContextParallelSplitHook":
                yield hook.metadata


def permute_shares(x: Tensor, draw_order: Callable[[int], Tensor], config: Any) -> Tensor:
    """Put the tokens of all processes into another order, and return the share of this process.

    Each process sends the others what will lie in their shares, and nothing else.

    Args:
        x: the share of this process, `(B, n, D)`.
        draw_order: a function of the number of all tokens N that returns their new order `(N,)` on
            the CPU, the same one in each process: token i of the result is token order[i].
        config: diffusers' ContextParallelConfig.

    Returns:
        The share of this process in the new order, of the shape of `x`.
    """
    group = config._flattened_mesh.get_group()
    rank, sizes = dist.get_rank(group), _share_sizes(x, config, group)
    bounds = [0, *itertools.accumulate(sizes)]
    order = draw_order(bounds[-1])
    owners = torch.bucketize(order, torch.tensor(bounds[1:-1]), right=True)
    shares = list(zip(order.split(sizes), owners.split(sizes), strict=True))
    sent = [tokens[owner == rank] - bounds[rank] for tokens, owner in shares]
    received = shares[rank][1]  # the process that each token of the result comes from
    outgoing = x.movedim(1, 0)[torch.cat(sent).to(x.device)].contiguous()
    incoming = outgoing.new_empty(len(received), *outgoing.shape[1:])
    dist.all_to_all_single(
        incoming, outgoing, received.bincount(minlength=len(sizes)).tolist(), [*map(len, sent)],
        group,
    )  # fmt: skip
    places = received.argsort(stable=True).argsort()  # of each token among those that came
    return incoming[places.to(x.device)].movedim(0, 1).contiguous()


def _share_sizes(x: Tensor, config: Any, group: Any) -> list[int]:
    """Return how many tokens each process has; they differ in the modes for any length only."""
    world = dist.get_world_size(group)
    if not (config.ulysses_anything or config.ring_anything):
        return [x.shape[1]] * world
    sizes = [torch.empty(1, dtype=torch.int64, device=x.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([x.shape[1]], device=x.device), group)
    return [int(size) for size in sizes]

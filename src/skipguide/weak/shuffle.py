"""Shuffle the tokens of a video before a block, and put what it adds into their order (TPG)."""

from __future__ import annotations

import math
from typing import Any

import torch

from skipguide.families.schema import Stack
from skipguide.weak import context_parallel, patching
from skipguide.weak.attention import AttentionView

Tensor = torch.Tensor


class ShuffleTokens(patching.ModuleProxy):
    """The real block, run on the video's tokens in another order S, the same for all samples.

    TPG's blocks return f(Sx), and so do those of a UNet here: the module around them adds its own
    input, whose tokens are in their places. Nothing does that around a block of a stack, so there
    the result is x + f(Sx) - Sx: what the block adds is shuffled, and not what it adds it to.

    Args:
        real: the block.
        stack: the list that it is in.
        source: the recording of the streams to run on; None takes those that arrive.
        view: what the block's attention sees.
        token_layout: how the tokens that the attention sees together lie in the stream
            `(rows, tokens, width)`: "", all tokens of a row; "tokens", a row has the tokens of all
            frames, frame by frame; "rows", there is a row for each frame.
        seed: of the term.
        name: of the block, for the order is another in each of them.
        restore_order: return x + f(Sx) - Sx instead of f(Sx).
    """

    def __init__(
        self, real: torch.nn.Module, stack: Stack, source: patching.RecordInput | None,
        view: AttentionView, token_layout: str, seed: int, name: str, restore_order: bool,
    ):  # fmt: skip
        super().__init__(
            real,
            stack=stack,
            streams=stack.streams,
            source=source,
            view=view,
            token_layout=token_layout,
            seed=seed,
            name=name,
            restore_order=restore_order,
        )
        self.__dict__["has_share"] = torch.compiler.disable(self._has_share)
        self.__dict__["exchange"] = torch.compiler.disable(self._permute_shares)
        self.__dict__["permutation"] = torch.compiler.disable(view.step_context.permutation)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.source is not None:
            args, kwargs = patching.replace_streams(self.streams, self.source.state, args, kwargs)
        state = patching.stream_values(self.streams, args, kwargs)
        mixed = patching.replace_streams(
            self.streams, (self._shuffle(state[0]), *state[1:]), args, kwargs
        )
        output = self.real(*mixed[0], **mixed[1])
        if not self.restore_order:
            return output
        # Hooks of the block may have left a share of the tokens in the output.
        n = self.stack.position_returned(self.streams[0])
        x = patching.pass_through(self.real, self.stack, args, kwargs)[n]
        shuffled = patching.pass_through(self.real, self.stack, *mixed)[n]
        if torch.is_tensor(output):
            return x + (output - shuffled)
        return (*output[:n], x + (output[n] - shuffled), *output[n + 1 :])

    def _shuffle(self, x: Tensor) -> Tensor:
        if self.has_share():
            return self.exchange(x)
        if self.token_layout == "joint":
            return self._shuffle_among_text(x)
        frames = self.view.step_context.grid[0] if self.token_layout else 1
        apart = (
            x.unflatten(0, (-1, frames))
            if self.token_layout == "rows"
            else x.unflatten(1, (frames, -1))
        )
        dim = (
            1 if self.token_layout and self.view.axis == "temporal" else 2
        )  # of (samples, frames, tokens of a frame, width)
        order = self.permutation(apart.shape[dim], self.seed, self.name, x.device)
        return apart.index_select(dim, order).reshape(x.shape)

    def _shuffle_among_text(self, x: Tensor) -> Tensor:
        """Put the tokens of the video in another order, in a stream that has those of the text."""
        start, grid = self.view.video_tokens(x.shape[1])
        count = math.prod(grid)
        order = start + self.permutation(count, self.seed, self.name, x.device)
        return torch.cat([x[:, :start], x.index_select(1, order), x[:, start + count :]], 1)

    def _has_share(self) -> bool:
        return context_parallel.shares_tokens(self.real, {"hidden_states", self.streams[0]})

    def _permute_shares(self, x: Tensor) -> Tensor:
        """Return the share of the tokens in an order of all of them, which other processes hold."""
        if self.token_layout:
            raise ValueError(
                'skip="shuffle" needs all tokens of a frame, or of a place, in one process where'
                " attention is factorized, but context parallelism divides them. Use another skip."
            )
        cpu = torch.device("cpu")
        return context_parallel.permute_shares(
            x,
            lambda n: self.view.step_context.permutation(n, self.seed, self.name, cpu),
            context_parallel.parallel_config(self.real),
        )

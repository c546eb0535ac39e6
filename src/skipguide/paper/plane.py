"""A plane where all is known: two classes of points, their exact density, a network, a sampler.

Each class is a tree of Gaussians, thinner with each fork (the world of Karras et al. 2024, arXiv
2406.02507, in its spirit). Noise as in rectified flow: x_t = (1 - t) x_0 + t e. A Gaussian plus
Gaussian noise is a Gaussian, so that the density of x_t has a closed form at every noise level t,
and so has what a network learns, the velocity v = E[e - x_0 | x_t]."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from skipguide.method import formula

Tensor = torch.Tensor
Velocity = Callable[[Tensor, float], Tensor]  # (x_t, t) -> v, both `(N, 2)`
CLASSES, FORKS, PIECES = 2, 5, 4  # forks along a way to a tip, Gaussians along a branch
NO_CLASS = 2  # what the network is told where there is no condition


# --- the world ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """One class: a mixture of K Gaussians.

    Args:
        mean: `(K, 2)`.
        axes: `(K, 2, 2)`, unit rows along and across the branch.
        deviation: `(K, 2)` along and across it.
        weight: `(K,)`, sums to 1.
        branch: `(K,)`, the number of the branch that a Gaussian lies on.
    """

    mean: Tensor
    axes: Tensor
    deviation: Tensor
    weight: Tensor
    branch: Tensor

    def log_parts(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return `(N, K)`, log(weight N(x)) of each Gaussian at noise level t."""
        along = self._coordinates(x, t)
        std = self._deviations(t)
        log_normal = -0.5 * (along / std).square().sum(2) - std.log().sum(1) - math.log(2 * math.pi)
        return log_normal + self.weight.log()

    def log_density(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return `(N,)`, the exact log-density of the class at noise level t."""
        return self.log_parts(x, t).logsumexp(1)

    def score(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return `(N, 2)`, the gradient of `log_density`."""
        return self._average(x, t, lambda along, std: -along / std.square())

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Return `(N, 2)`, E[e - x_0 | x_t = x], which no network can beat."""
        push = t - (1 - t) * self.deviation.square()
        inner = self._average(x, t, lambda along, std: push * along / std.square())
        return inner - self.log_parts(x, t).softmax(1) @ self.mean

    def sample(self, count: int, draw: torch.Generator) -> Tensor:
        """Draw `(count, 2)` points."""
        k = torch.multinomial(self.weight, count, replacement=True, generator=draw)
        steps = self.deviation[k] * torch.randn(count, 2, generator=draw)
        return self.mean[k] + torch.einsum("na,nad->nd", steps, self.axes[k])

    def _average(self, x: Tensor, t: float, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Average vectors in the Gaussians' axes over the Gaussians that x_t may come from."""
        found = value(self._coordinates(x, t), self._deviations(t))
        return torch.einsum("nk,nka,kad->nd", self.log_parts(x, t).softmax(1), found, self.axes)

    def _coordinates(self, x: Tensor, t: float) -> Tensor:
        return torch.einsum("nkd,kad->nka", x[:, None] - (1 - t) * self.mean, self.axes)

    def _deviations(self, t: float) -> Tensor:
        return (((1 - t) * self.deviation).square() + t * t).sqrt()


def grow(lean: float) -> Tree:
    """Grow a tree from (0, -1.3) whose trunk leans by an angle from upright."""
    pieces, tips = [], [(torch.tensor([0.0, -1.3]), lean)]
    for level in range(FORKS + 1):
        length, width = 0.95 * 0.68**level, 0.05 * 0.75**level
        for foot, angle in tips:
            pieces += _branch(foot, _way(angle), length, width)
        tips = [(foot + _way(a) * length, a + turn) for foot, a in tips for turn in (-0.42, 0.42)]
    mean, axes, std, weight = (torch.stack(column) for column in zip(*pieces, strict=True))
    branch = torch.arange(len(mean)) // PIECES
    return Tree(mean, axes, std, weight / weight.sum(), branch)


def _branch(foot: Tensor, way: Tensor, length: float, width: float) -> list[tuple[Tensor, ...]]:
    """Return mean, axes, deviation and weight of the Gaussians along a branch."""
    axes = torch.stack([way, way.flip(0) * torch.tensor([1.0, -1.0])])
    std = torch.tensor([0.5 * length / PIECES, width])
    means = [foot + way * length * (piece + 0.5) / PIECES for piece in range(PIECES)]
    return [(mean, axes, std, torch.tensor(length * width)) for mean in means]


def _way(angle: float) -> Tensor:
    """Return the unit vector `(2,)` at an angle from upright."""
    return torch.tensor([math.sin(angle), math.cos(angle)])


def world() -> tuple[Tree, Tree]:
    """Return both classes."""
    return grow(-0.5), grow(0.5)


# --- the network ----------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block: h + W silu(V norm(h))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map `(N, width)` to `(N, width)`."""
        return h + self.outer(nn.functional.silu(self.inner(self.norm(h))))


class Network(nn.Module):
    """Predicts v from x_t, t and the class."""

    def __init__(self, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(2, width), nn.Linear(width, 2)
        self.time, self.label = nn.Linear(16, width), nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor, label: Tensor, skip: int | None = None) -> Tensor:
        """Return v `(N, 2)`.

        Args:
            x: `(N, 2)`.
            t: `(N,)` noise levels.
            label: `(N,)` classes.
            skip: the number of a block that returns its input (STG-R); None runs all of them.
        """
        waves = t[:, None] * math.pi * 2.0 ** (torch.arange(8) - 1)
        h = self.enter(x) + self.time(torch.cat([waves.sin(), waves.cos()], 1)) + self.label(label)
        for number, block in enumerate(self.blocks):
            h = h if number == skip else block(h)
        return self.leave(nn.functional.layer_norm(h, h.shape[1:]))


def train(trees: tuple[Tree, Tree], steps: int, seed: int) -> tuple[Network, Network]:
    """Train a network; returns it and, for Autoguidance, what it was after a tenth of the steps.

    Both are moving averages of the weights.
    """
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    network = Network()
    average, weak = copy.deepcopy(network), network
    adam = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps) ** 0.5
        adam.zero_grad()
        loss(network, trees, draw).backward()
        adam.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, max(0.01, 1 / (step + 1)))
        if step + 1 == max(steps // 10, 1):
            weak = copy.deepcopy(average)
    return average.eval(), weak.eval()


def loss(network: Network, trees: tuple[Tree, Tree], draw: torch.Generator, n: int = 256) -> Tensor:
    """Return the mean squared error of v on n fresh points of each class, some without a class."""
    x = torch.cat([tree.sample(n, draw) for tree in trees])
    label = torch.arange(CLASSES).repeat_interleave(n)
    label = torch.where(torch.rand(len(x), generator=draw) < 0.15, NO_CLASS, label)
    t = torch.randn(len(x), generator=draw).mul(1.2).sub(0.8).sigmoid()
    noise = torch.randn(x.shape, generator=draw)
    v = network(x + t[:, None] * (noise - x), t, label)
    return (v - (noise - x)).square().mean()


# --- guidance and the sampler ---------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One way to guide: CFG, and a push away from a weak prediction.

    Args:
        cfg: g in the formula; 1 is off.
        scale: s in the formula; 0 is off.
        layer: the block that the weak pass skips; None is Autoguidance's weak network.
        normalize: as STG(normalize=True).
    """

    cfg: float = 1.0
    scale: float = 0.0
    layer: int | None = None
    normalize: bool = False


def guide(network: Network, weak: Network, label: Tensor, setting: Setting) -> Velocity:
    """Return the guided velocity D(x_t, t) by the library's formula."""

    def velocity(x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), t)
        c = network(x, times, label)
        u = network(x, times, torch.full_like(label, NO_CLASS)) if setting.cfg != 1 else None
        if not setting.scale:
            return formula.combine(c, u, setting.cfg)
        p = (
            weak(x, times, label)
            if setting.layer is None
            else network(x, times, label, skip=setting.layer)
        )
        push = formula.skip_guidance(c, [p], [setting.scale], normalized=[setting.normalize])
        return formula.combine(c, u, setting.cfg, push)

    return velocity


def walk(velocity: Velocity, x: Tensor, steps: int = 16) -> Iterator[tuple[float, Tensor]]:
    """Yield t and x_t from noise `(N, 2)` at t = 1 to a sample at t = 0, in steps of Heun's."""
    times = [(1 - i / steps) ** 1.5 for i in range(steps + 1)]
    yield 1.0, x
    for t, after in itertools.pairwise(times):
        v = velocity(x, t)
        end = velocity(x + (after - t) * v, after)
        x = x + (after - t) * (v + end) / 2
        yield after, x


def sample(velocity: Velocity, noise: Tensor) -> Tensor:
    """Return the end of the walk from noise `(N, 2)`."""
    return [x for _, x in walk(velocity, noise)][-1]

"""Why guidance by a weak model works, in numbers: networks on the plane, guided in all ways.

Everything is measured on several networks that differ by their seeds, in two processes. A number is
the mean over networks, and its interval says what another network would give."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.method.protocols import PlainData
from skipguide.paper import plane
from skipguide.paper.plane import Network, Setting, Tree
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate

Tensor = torch.Tensor
LAYERS = range(8)
CFG, AUTO = (1.25, 1.5, 2.0, 3.0), (0.25, 0.5, 1.0, 2.0, 3.0)
STG, NORMAL = (0.25, 0.5, 1.0, 2.0), (1.0, 2.0, 4.0)  # plain, and with normalize=True
BOTH = (1.5, 0.5)  # g and s where STG is beside CFG
MEASURES = ("log_density", "strays", "other", "coverage", "thickness", "energy")
STATES = ("error", "guided", "length", "against", "best", "uphill", "felt", "alike")
BANDS = {"early": (0.6, 0.95), "middle": (0.2, 0.6), "late": (0.02, 0.2)}  # of t, in sampling order
NOISE = 0.01  # the noise level at which samples are judged


@dataclass(frozen=True)
class Plan:
    """How much is done; the defaults are those of the page.

    Args:
        networks: how many, by seed.
        steps: of a training.
        samples: of each class and setting.
    """

    networks: int = 6
    steps: int = 2000
    samples: int = 512


def settings() -> dict[str, Setting]:
    """Return all settings by name: none, cfg-1.5, auto-1, stg-3-0.5, norm-3-2, both-3."""
    g, s = BOTH
    found = {"none": Setting()}
    found |= {f"cfg-{one:g}": Setting(one) for one in CFG}
    found |= {f"auto-{one:g}": Setting(1, one) for one in AUTO} | {"both-auto": Setting(g, s)}
    for layer in LAYERS:
        found |= {f"stg-{layer}-{one:g}": Setting(1, one, layer) for one in STG}
        found |= {f"norm-{layer}-{one:g}": Setting(1, one, layer, True) for one in NORMAL}
        found[f"both-{layer}"] = Setting(g, s, layer)
    return found


# --- samples --------------------------------------------------------------------------------------


class Judge:
    """Measures samples against the exact densities and against real points.

    Args:
        trees: both classes.
        seed: of the real points.
    """

    def __init__(self, trees: tuple[Tree, Tree], seed: int) -> None:
        draw = torch.Generator().manual_seed(1000 + seed)
        self.trees, self.real = trees, [tree.sample(4096, draw) for tree in trees]
        pairs = [self._offsets(tree, x) for tree, x in zip(trees, self.real, strict=True)]
        self.stray_below = [density.quantile(0.01) for density, _, _ in pairs]
        self.thickness = [
            offset[density >= low].abs().median()
            for (density, offset, _), low in zip(pairs, self.stray_below, strict=True)
        ]

    def measure(self, samples: Sequence[Tensor]) -> dict[str, float]:
        """Return MEASURES of the samples `(N, 2)` of each class, as means over the classes."""
        rows = torch.tensor([self._measure_class(k, x) for k, x in enumerate(samples)])
        return dict(zip(MEASURES, rows.mean(0).tolist(), strict=True))

    def is_stray(self, k: int, x: Tensor) -> Tensor:
        """Tell `(N,)` which points of class k are less likely than 99 in 100 real ones."""
        return self._offsets(self.trees[k], x)[0] < self.stray_below[k]

    def _measure_class(self, k: int, x: Tensor) -> list[float]:
        tree, other = self.trees[k], self.trees[1 - k]
        density, offset, branch = self._offsets(tree, x)
        stray = density < self.stray_below[k]
        due = torch.zeros(int(tree.branch.max()) + 1).index_add(0, tree.branch, tree.weight)
        given = torch.bincount(branch, minlength=len(due)) / len(x)
        found = (
            density.mean(),
            stray.float().mean(),
            (self._offsets(other, x)[0] > density).float().mean(),
            torch.minimum(due, given).sum(),
            offset[~stray].abs().median() / self.thickness[k],
            energy_distance(x, self.real[k]),
        )
        return [float(one) for one in found]

    @staticmethod
    def _offsets(tree: Tree, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `(N,)` log-density, deviations off the ridge, and the branch it is of."""
        parts = tree.log_parts((1 - NOISE) * x, NOISE)
        nearest = parts.argmax(1)
        away = ((x - tree.mean[nearest]) * tree.axes[nearest, 1]).sum(1)
        return parts.logsumexp(1), away / tree.deviation[nearest, 1], tree.branch[nearest]


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'| without bias; 0 on average for like sets."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return 2 * torch.cdist(x, y).mean() - within


# --- states ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Points of one class at one noise level.

    Args:
        x: `(N, 2)`.
        t: the noise level.
        label: `(N,)`, all the same.
    """

    x: Tensor
    t: float
    label: Tensor


def measure_states(
    nets: tuple[Network, Network], tree: Tree, states: Sequence[State]
) -> dict[str, list[float]]:
    """Return STATES of the push of CFG, Autoguidance and each layer, pooled over some states.

    With e = c - v, the exact error of c, and d the push (c - u, c - p):

        error     |e| / |v|
        guided    |e + d| / |v|, the error of the guided prediction for s = 1
        length    |d| / |c|
        against   -<e, d> / |e||d|: 1 if the push undoes the error, -1 if it adds to it
        best      -<e, d> / <d, d>: the scale at which c + s d is nearest to v
        uphill    the mean cosine of the way the push moves a point, -d, and the exact score
        felt      the same with the score that the network itself has, which any model can tell
        alike     the mean cosine of d and the d of Autoguidance
    """
    sums: dict[str, list[float]] = {}
    for state in states:
        v, score = tree.velocity(state.x, state.t), tree.score(state.x, state.t)
        c, pushes = _pushes(nets, state)
        e = c - v
        for name, d in pushes.items():
            parts = [e.square().sum(), v.square().sum(), d.square().sum(), c.square().sum()]
            ways = (score, -(state.x + (1 - state.t) * c), -pushes["auto"])
            cosines = [_cosine(-d, way) for way in ways]
            row = [*parts, (e * d).sum(), *cosines, torch.tensor(1.0)]
            old = sums.get(name, [0.0] * len(row))
            sums[name] = [a + float(b) for a, b in zip(old, row, strict=True)]
    return {name: _ratios(row) for name, row in sums.items()}


def _pushes(nets: tuple[Network, Network], state: State) -> tuple[Tensor, dict[str, Tensor]]:
    """Return c and each way's difference d, `(N, 2)`."""
    network, weak = nets
    times = torch.full((len(state.x),), state.t)
    c = network(state.x, times, state.label)
    nothing = torch.full_like(state.label, plane.NO_CLASS)
    found = {
        "cfg": c - network(state.x, times, nothing),
        "auto": c - weak(state.x, times, state.label),
    }
    for layer in LAYERS:
        found[f"stg-{layer}"] = c - network(state.x, times, state.label, skip=layer)
    return c, found


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b).mean()


def _ratios(row: Sequence[float]) -> list[float]:
    e, v, d, c, product, *cosines, count = row
    guided = ((e + 2 * product + d) / v) ** 0.5
    against, best = -product / max((e * d) ** 0.5, 1e-12), -product / max(d, 1e-12)
    means = [cosine / count for cosine in cosines]
    return [(e / v) ** 0.5, guided, (d / c) ** 0.5, against, best, *means]


def _own_states(nets: tuple[Network, Network], noise: Tensor, label: Tensor) -> list[State]:
    """Return the states on the way of c without guidance."""
    velocity = plane.guide(*nets, label, Setting())
    return [State(x, t, label) for t, x in plane.walk(velocity, noise)]


def _real_states(states: Sequence[State], tree: Tree, draw: torch.Generator) -> list[State]:
    """Return real points with noise, as many and at the same levels."""
    found = []
    for state in states:
        x_0, e = tree.sample(len(state.x), draw), torch.randn(state.x.shape, generator=draw)
        found.append(State((1 - state.t) * x_0 + state.t * e, state.t, state.label))
    return found


# --- networks -------------------------------------------------------------------------------------


def measure_network(plan: Plan, seed: int) -> tuple[tuple[Network, Network], dict[str, Any]]:
    """Train one network and measure everything on it.

    Returns:
        The network and its weak version; by "samples" MEASURES of each setting and of real points,
        by "states" STATES of each push, by place (own, real) and band.
    """
    torch.set_num_threads(1)  # sums in the same order on every machine
    trees = plane.world()
    nets = plane.train(trees, plan.steps, seed)
    with torch.no_grad():
        return nets, {
            "samples": _measure_samples(plan, seed, trees, nets),
            "states": _measure_all_states(plan, seed, trees, nets),
        }


def _measure_samples(
    plan: Plan, seed: int, trees: tuple[Tree, Tree], nets: tuple[Network, Network]
) -> dict[str, dict[str, float]]:
    judge, draw = Judge(trees, seed), torch.Generator().manual_seed(2000 + seed)
    real = [tree.sample(plan.samples, draw) for tree in trees]
    noise = [torch.randn(plan.samples, 2, generator=draw) for _ in trees]
    exact = [plane.sample(tree.velocity, x) for tree, x in zip(trees, noise, strict=True)]
    found = {"real": judge.measure(real), "exact": judge.measure(exact)}
    for name, setting in settings().items():
        found[name] = judge.measure(sample_classes(nets, noise, setting))
    return found


def sample_classes(
    nets: tuple[Network, Network], noise: Sequence[Tensor], setting: Setting
) -> tuple[Tensor, ...]:
    """Return samples `(N, 2)` of each class from noise `(N, 2)` for each."""
    count = len(noise[0])
    label = torch.arange(len(noise)).repeat_interleave(count)
    return plane.sample(plane.guide(*nets, label, setting), torch.cat(list(noise))).split(count)


def _measure_all_states(
    plan: Plan, seed: int, trees: tuple[Tree, Tree], nets: tuple[Network, Network]
) -> dict[str, dict[str, list[float]]]:
    draw = torch.Generator().manual_seed(3000 + seed)
    found: dict[str, dict[str, list[float]]] = {}
    label = torch.zeros(plan.samples, dtype=torch.long)  # the other class is the mirror image
    own = _own_states(nets, torch.randn(plan.samples, 2, generator=draw), label)
    places = {"own": own, "real": _real_states(own, trees[0], draw)}
    for (place, states), (band, (low, high)) in itertools.product(places.items(), BANDS.items()):
        chosen = [state for state in states if low <= state.t < high]
        found[f"{place}-{band}"] = measure_states(nets, trees[0], chosen)
    return found


def measure(plan: Plan) -> Iterator[tuple[tuple[Network, Network], dict[str, Any]]]:
    """Yield what `measure_network` finds for each seed, two networks at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, plan.networks), mp_context=context) as pool:
        yield from pool.map(measure_network, itertools.repeat(plan), range(plan.networks))


# --- numbers --------------------------------------------------------------------------------------


class Found:
    """The measurements of several networks, and estimates from them of what another would give.

    Args:
        networks: what `measure_network` returned, for each seed.
    """

    def __init__(self, networks: Sequence[PlainData]) -> None:
        self.networks = list(networks)

    def value(self, setting: str, measure: str) -> Estimate:
        """Return the mean over networks."""
        return intervals.mean(self._samples(setting, measure))

    def gain(self, setting: str, base: str, measure: str) -> Estimate:
        """Return the mean difference of two settings of the same network and noise."""
        return intervals.mean_difference(
            self._samples(setting, measure), self._samples(base, measure)
        )

    def state(self, place: str, push: str, name: str) -> Estimate:
        """Return the mean over networks of one of STATES, such as ("own-late", "stg-3")."""
        column = STATES.index(name)
        return intervals.mean([one["states"][place][push][column] for one in self.networks])

    def predicts(self, place: str, name: str, setting: str, measure: str) -> Estimate:
        """Return the correlation over layers of one of STATES and what a layer's push changes.

        It is taken within each network.

        Args:
            setting: with "*" for the layer, such as "stg-*-1".
        """
        return intervals.mean(
            [_correlation(one, place, name, setting, measure) for one in self.networks]
        )

    def _samples(self, setting: str, measure: str) -> list[float]:
        return [one["samples"][setting][measure] for one in self.networks]


def _correlation(one: PlainData, place: str, name: str, setting: str, measure: str) -> float:
    column, samples = STATES.index(name), one["samples"]
    pushes = [one["states"][place][f"stg-{layer}"][column] for layer in LAYERS]
    changes = [samples[setting.replace("*", str(layer))][measure] for layer in LAYERS]
    return float(torch.corrcoef(torch.tensor([pushes, changes]))[0, 1])

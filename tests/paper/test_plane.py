"""The plane: densities against integrals and autograd, the sampler with the exact velocity, and
guidance against full passes by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from skipguide.paper import plane, why
from skipguide.paper.plane import Setting, Tree

TREES = plane.world()
LEVELS = pytest.mark.parametrize("t", [0.0, 0.1, 0.6, 1.0])


def _double(tree: Tree) -> Tree:
    mean, axes = tree.mean.double(), tree.axes.double()
    return Tree(mean, axes, tree.deviation.double(), tree.weight.double(), tree.branch)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.6])
def test_the_density_integrates_to_one(t: float) -> None:
    side = torch.linspace(-3, 3, 301)
    x = torch.cartesian_prod(side, side)
    total = sum(TREES[0].log_density(part, t).exp().sum() for part in x.split(2**15))
    assert float(total) * 0.02**2 == pytest.approx(1, abs=1e-3)


@LEVELS
def test_the_score_is_the_gradient_of_the_density(t: float) -> None:
    tree = _double(TREES[1])
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    (expected,) = torch.autograd.grad(tree.log_density(x, t).sum(), x)
    torch.testing.assert_close(tree.score(x.detach(), t), expected)


@pytest.mark.parametrize("t", [0.1, 0.6])
def test_the_velocity_follows_from_the_score(t: float) -> None:
    tree = _double(TREES[0])
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = -(x + t * tree.score(x, t)) / (1 - t)  # Tweedie's formula, for rectified flow
    torch.testing.assert_close(tree.velocity(x, t), expected)


def test_the_velocity_is_the_mean_of_noise_less_data() -> None:
    draw, t = torch.Generator().manual_seed(2), 0.5
    x_0, e = TREES[0].sample(2**18, draw), torch.randn(2**18, 2, generator=draw)
    x_t, point = (1 - t) * x_0 + t * e, torch.tensor([[-0.4, 0.2]])
    near = (x_t - point).norm(dim=1) < 0.05
    expected = (e - x_0)[near].mean(0)
    error = (e - x_0)[near].std(0) / near.sum().sqrt()
    assert ((TREES[0].velocity(point, t)[0] - expected).abs() < 4 * error + 0.01).all()


def test_the_exact_velocity_samples_the_density() -> None:
    judge, draw = why.Judge(TREES, 0), torch.Generator().manual_seed(3)
    noise = [torch.randn(1024, 2, generator=draw) for _ in TREES]
    found = judge.measure(
        [plane.sample(tree.velocity, x) for tree, x in zip(TREES, noise, strict=True)]
    )
    real = judge.measure([tree.sample(1024, draw) for tree in TREES])
    for measure, tolerance in (("log_density", 0.15), ("coverage", 0.02), ("thickness", 0.15)):
        assert found[measure] == pytest.approx(real[measure], abs=tolerance), measure
    assert found["strays"] < 0.03
    assert abs(found["energy"]) < 0.01


def test_the_energy_distance_of_like_sets_is_zero_on_average() -> None:
    draw = torch.Generator().manual_seed(4)

    def one() -> torch.Tensor:
        x, y = (torch.randn(n, 2, generator=draw) for n in (50, 70))
        return why.energy_distance(x, y)

    found = torch.stack([one() for _ in range(400)])
    assert abs(found.mean()) < 4 * found.std() / 400**0.5
    far = why.energy_distance(torch.zeros(5, 2), torch.full((7, 2), 3.0))
    assert float(far) == pytest.approx(2 * 18**0.5)


# --- guidance -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets() -> tuple[plane.Network, plane.Network]:
    return plane.train(TREES, 30, 0)


def test_stg_is_two_full_passes(nets: tuple[plane.Network, plane.Network]) -> None:
    x, label = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    t, nothing = torch.full((8,), 0.4), torch.full((8,), plane.NO_CLASS)
    with torch.no_grad():
        c, u, p = nets[0](x, t, label), nets[0](x, t, nothing), nets[0](x, t, label, skip=3)
        w = nets[1](x, t, label)
        length = 0.1 * c.norm(dim=1, keepdim=True) / (c - p).norm(dim=1, keepdim=True)
        expected = {
            Setting(1, 2.0, 3): c + 2 * (c - p),
            Setting(1.5, 0.5, 3): u + 1.5 * (c - u) + 0.5 * (c - p),
            Setting(1, 2.0, 3, normalize=True): c + 2 * length * (c - p),
            Setting(1, 2.0): c + 2 * (c - w),
            Setting(2.0): u + 2 * (c - u),
        }
        for setting, D in expected.items():
            torch.testing.assert_close(plane.guide(*nets, label, setting)(x, 0.4), D)


def test_a_skipped_block_returns_its_input(nets: tuple[plane.Network, plane.Network]) -> None:
    x, t, label = torch.randn(8, 2), torch.rand(8), torch.zeros(8, dtype=torch.long)
    emptied = copy.deepcopy(nets[0])
    with torch.no_grad():
        for name, value in emptied.named_parameters():
            if name.startswith("blocks.2.outer"):
                value.zero_()
        torch.testing.assert_close(emptied(x, t, label), nets[0](x, t, label, skip=2))


def test_a_training_is_the_same_for_the_same_seed(
    nets: tuple[plane.Network, plane.Network],
) -> None:
    again = plane.train(TREES, 30, 0)
    for one, other in zip(nets, again, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)

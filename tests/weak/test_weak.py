"""Weak models beside skipped layers, against separate full passes of copies whose attention is
written out in matrices.

The copies know nothing of skipguide: torch's attention is put aside while one of their attentions
runs, and the map is computed from queries and keys. Where the tokens of a video lie is written down
here, for sizes whose sides differ."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skipguide import SLG, STG, guide
from skipguide.families.lookup import family_of
from skipguide.families.rows import FAMILIES
from skipguide.method import perturbations
from skipguide.method.terms import Bin, Random, Schedule
from skipguide.weak import attention as weak_attention
from skipguide.weak import step_context
from support import oracle
from support.matrix import LARGE
from support.tiny import tiny
from support.tiny.base import Tiny
from support.written import assert_equal, attentions_of, is_unet, paths_of, trace_of

Tensor = torch.Tensor
Attention = Callable[
    [Tensor, Tensor, Tensor, Tensor], Tensor
]  # query, key, value, map without the change

# name: (frames, rows, columns) of its tokens, where its text is, sizes of the video
VIDEOS: dict[str, tuple[tuple[int, int, int], str, dict[str, Any]]] = {
    "MochiPipeline": ((2, 2, 3), "after", {"height": 32, "width": 48}),
    "WanPipeline": ((2, 3, 2), "", {"height": 48, "width": 32}),
    "CogVideoXPipeline": ((2, 4, 6), "before", {"height": 32, "width": 48}),
    "EasyAnimatePipeline": ((2, 4, 6), "before", {"height": 32, "width": 48}),
    "HunyuanVideoPipeline": ((2, 4, 6), "after", {"height": 32, "width": 48}),
    "HunyuanVideo15Pipeline": ((2, 3, 4), "after", {"height": 12, "width": 16}),
    "LTX2Pipeline gated": ((2, 4, 6), "", {"height": 64, "width": 96}),
    "Kandinsky5T2VPipeline": ((2, 2, 4), "", {"height": 32, "width": 64}),
    "AnyFlowPipeline": ((2, 2, 3), "", {"height": 32, "width": 48}),
    "LattePipeline": ((2, 2, 4), "", {"height": 8, "width": 16}),
    "OpenSoraPipeline": ((5, 2, 3), "", {"height": 32, "width": 48}),
    "StableVideoDiffusionPipeline": ((3, 8, 16), "", {"height": 16, "width": 32}),
    "AnimateDiffPipeline": ((3, 8, 16), "", {"height": 16, "width": 32}),
    "SanaVideoPipeline": ((2, 2, 2), "", {}),
    "CogView4Pipeline": ((1, 4, 8), "before", {"height": 16, "width": 32}),
    "CogView3PlusPipeline": ((1, 2, 4), "before", {"height": 8, "width": 16}),
    "PixArtSigmaPipeline": ((1, 2, 4), "", {"height": 8, "width": 16}),
    "HunyuanDiTPipeline": ((1, 2, 4), "", {"height": 32, "width": 64}),
    "HunyuanImagePipeline": ((1, 4, 8), "after", {"height": 8, "width": 16}),
    "AuraFlowPipeline": ((1, 2, 4), "before", {"height": 8, "width": 16}),
    "Krea2Pipeline": ((1, 2, 4), "before", {"height": 8, "width": 16}),
    "OvisImagePipeline": ((1, 2, 4), "before", {"height": 8, "width": 16}),
    # what is not square is filled up to 16 tokens
    "HiDreamImagePipeline": ((1, 1, 4), "after", {"height": 4, "width": 16}),
    "StableDiffusion3Pipeline": ((1, 4, 8), "after", {"height": 16, "width": 32}),
    "FluxPipeline": ((1, 4, 4), "before", {}),
    "QwenImagePipeline": ((1, 4, 4), "before", {}),
}
FACTORIZED = (
    "LattePipeline", "OpenSoraPipeline", "StableVideoDiffusionPipeline", "AnimateDiffPipeline"
)  # fmt: skip
JOINT = [name for name in VIDEOS if name not in (*FACTORIZED, "SanaVideoPipeline")]


# --- by hand --------------------------------------------------------------------------------------


def map_of(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)); a row that sees nothing is zero."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).nan_to_num(0.0)


def soft(
    share: float, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, _: Any
) -> Tensor:
    return ((1 - share) * map_of(query, key, mask) + share * torch.eye(query.shape[-2])) @ value


def blur(
    sigma: float | None, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, lie: Any
) -> Tensor:
    start, grid = lie
    flat = query[:, :, start : start + math.prod(grid)]
    cube = flat.double().unflatten(2, grid).numpy()
    if sigma is None:
        blurred = np.broadcast_to(
            cube.mean(tuple(range(2, 2 + len(grid))), keepdims=True), cube.shape
        )
    else:
        blurred = cube
        for axis, size in enumerate(grid, 2):
            ends = in_seg if len(grid) == 3 and grid[0] == 1 < size else convolved
            matrix = np.stack([ends(row, sigma) for row in np.eye(size)])
            blurred = np.moveaxis(np.tensordot(matrix, blurred, (0, axis)), 0, axis)
    query = query.clone()
    query[:, :, start : start + math.prod(grid)] = (
        torch.from_numpy(blurred.copy()).flatten(2, -2).to(query.dtype)
    )
    return map_of(query, key, mask) @ value


def convolved(row: np.ndarray, sigma: float) -> np.ndarray:
    """With a sampled Gaussian, on a row that goes on mirrored at both ends."""
    reach = math.ceil(9 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(row, reach, mode="symmetric"), kernel / kernel.sum(), mode="valid")


def in_seg(row: np.ndarray, sigma: float) -> np.ndarray:
    """As the code of SEG does: cut off at 3 sigma or half a row, mirrored without the end."""
    width = min(math.ceil(6 * sigma) // 2 * 2 + 1, len(row) // 2 * 2 + 1)
    kernel = np.exp(-0.5 * ((np.arange(width) - width // 2) / sigma) ** 2)
    padded = np.pad(row, width // 2, mode="reflect")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def frames(
    _: None, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, lie: Any
) -> Tensor:
    start, grid = lie
    frame = torch.full((query.shape[-2],), -1)
    frame[start : start + math.prod(grid)] = torch.arange(grid[0]).repeat_interleave(
        math.prod(grid[1:])
    )
    allowed = (frame[:, None] == frame) | (frame[:, None] < 0) | (frame < 0)
    whole = (
        allowed
        if mask is None
        else allowed & mask
        if mask.dtype == torch.bool
        else mask.masked_fill(~allowed, -1e9)
    )
    return map_of(query, key, whole) @ value


def tokens(
    _: None, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, lie: Any
) -> Tensor:
    """As frames of one token each."""
    start, grid = lie
    return frames(None, query, key, value, mask, (start, (math.prod(grid),)))


BY_HAND = {"soft": soft, "blur": blur, "frames": frames, "tokens": tokens}


def lie_of(name: str, path: str, tokens: int) -> tuple[int, tuple[int, ...]]:
    """(first token, grid) of the video in what an attention sees."""
    (t, h, w), text, _ = VIDEOS[name]
    if "audio" in path:
        return 0, (tokens,)
    within = [
        (h // 2**level, w // 2**level) for level in range(3)
    ]  # in a UNet rows and columns are halved
    grids: list[tuple[int, ...]] = [(t, h, w)] if name in JOINT else [(t,), *within]
    grid = next(
        grid for grid in grids if math.prod(grid) == tokens or (text and math.prod(grid) < tokens)
    )
    return tokens - math.prod(grid) if text == "before" else 0, grid


def weakened(name: str, skip: str, strength: float | None) -> Callable[..., nn.Module]:
    """In the place of oracle.weakened: a copy whose attentions are written out."""

    def made(
        model: nn.Module, layers: Sequence[str], _: str, attentions: Sequence[str]
    ) -> nn.Module:
        weak = copy.deepcopy(model)
        there = dict(weak.named_modules())
        for path in [f"{layer}.{attention}" for layer in layers for attention in attentions]:
            if path in there:
                change = functools.partial(BY_HAND[skip], strength)
                put_aside(there[path], change, name, path)
        return weak

    return made


def put_aside(attention: nn.Module, change: Any, name: str, path: str) -> None:
    usual = torch.nn.functional.scaled_dot_product_attention

    def instead(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        return change(query, key, value, attn_mask, lie_of(name, path, query.shape[-2]))

    def on(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        if not path.endswith("attn2") or kwargs.get("encoder_hidden_states") is None:
            torch.nn.functional.scaled_dot_product_attention = instead

    def off(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = usual

    attention.register_forward_pre_hook(on, with_kwargs=True)
    attention.register_forward_hook(off, always_call=True)


def both(name: str, term: STG, monkeypatch: pytest.MonkeyPatch, weak: Any) -> None:
    """A guided run of two steps equals one by hand with copies that `weak` makes; and one without a
    shared prefix."""
    small = tiny(name)
    options = {**small.short, **VIDEOS[name][2]}
    plain = oracle.run(small, **options)
    runs = []
    for share in (True, False):
        with guide(small.pipe, term, share_prefix=share):
            runs.append(oracle.run(small, **options))
    assert torch.equal(*runs)
    monkeypatch.setattr(oracle, "weakened", weak)
    assert not isinstance(term.layers, Random)
    paths = paths_of(small, term.layers, "attention", term.axis)
    hand = oracle.Term(paths, term.skip, term.scales(2))
    assert_equal(
        small,
        runs[0],
        oracle.by_hand(small, [hand], attentions_of(small), **VIDEOS[name][2]),
        plain,
    )


# --- attention ------------------------------------------------------------------------------------

UNET = {"StableVideoDiffusionPipeline": ["mid:0", "up:2"], "AnimateDiffPipeline": ["up:1", "up:2"]}
DUAL = {
    name: ["dual:1", "single:0"]
    for name in (
        "HunyuanVideoPipeline", "FluxPipeline", "HunyuanImagePipeline", "AuraFlowPipeline",
        "HiDreamImagePipeline", "OvisImagePipeline",
    )
}  # fmt: skip
SEEN = {
    "soft": [
        "MochiPipeline",
        "HunyuanVideo15Pipeline",
        "LTX2Pipeline gated",
        "LattePipeline",
        *UNET,
    ],
    "blur": [*JOINT, "LattePipeline", "OpenSoraPipeline", *UNET],
    "frames": [name for name in JOINT if VIDEOS[name][0][0] > 1],
    "tokens": [name for name in JOINT if VIDEOS[name][1]],
}


@pytest.mark.parametrize(
    ("skip", "name"),
    [
        pytest.param(
            skip, name, marks=[pytest.mark.long] if name in LARGE and skip != "soft" else []
        )
        for skip, names in SEEN.items()
        for name in names
    ],
)
def test_changed_attention_is_that_of_matrices(
    skip: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strength = {"soft": 0.3, "blur": 0.8}.get(skip)
    term = STG({**UNET, **DUAL}.get(name, [1, 2]), 1.3, skip, strength=strength)
    both(name, term, monkeypatch, weakened(name, skip, strength))


@pytest.mark.parametrize("text", ["", "before", "after"])
@pytest.mark.parametrize("shape", [(), (1, 1, -1), (2, 1, 1, -1), (2, 3, -1, -1), (-1, -1)])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("skip", ["frames", "tokens"])
def test_frames_and_tokens_under_any_mask(
    skip: str, text: str, shape: tuple[int, ...], additive: bool
) -> None:
    """No model of the tests masks a token of the video, or one frame otherwise than another."""
    torch.manual_seed(0)
    moment = step_context.StepContext("bcthw", {})
    moment.observe_inputs({"hidden_states": torch.empty(2, 1, 3, 2, 2)})
    tokens = 12 + (5 if text else 0)
    call = {name: torch.randn(2, 3, tokens, 4) for name in ("query", "key", "value")}
    mask = torch.randn([tokens if size < 0 else size for size in shape]) if shape else None
    if mask is not None and not additive:
        mask = (mask > -1) | torch.eye(tokens, dtype=torch.bool)[: mask.shape[-2]]
    ours = weak_attention.ATTENTION_EDITS[skip](
        {**call, "attn_mask": mask}, weak_attention.AttentionView(moment, None, text), None
    )
    theirs = BY_HAND[skip](
        None,
        call["query"],
        call["key"],
        call["value"],
        mask,
        (5 if text == "before" else 0, (3, 2, 2)),
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "axis"), [("LattePipeline", "temporal"), ("StableVideoDiffusionPipeline", "spatial")]
)
def test_blur_to_the_mean_along_one_axis(
    name: str, axis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = STG(UNET.get(name, [1, 2]), 1.3, "blur", axis)
    both(name, term, monkeypatch, weakened(name, "blur", None))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("n", [2, 5, 13])
def test_gaussian_is_a_convolution_that_keeps_the_mean(n: int, sigma: float) -> None:
    ours = step_context.gaussian_blur_matrix(n, sigma).numpy()
    np.testing.assert_allclose(
        ours, np.stack([convolved(row, sigma) for row in np.eye(n)]), atol=1e-12
    )
    np.testing.assert_allclose(ours.sum(0), np.ones(n), atol=1e-12)
    np.testing.assert_allclose(ours, ours.T, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_gaussian_of_a_picture_is_that_of_segs_code(n: int, sigma: float) -> None:
    ours = step_context.picture_blur_matrix(n, sigma).numpy()
    theirs = np.stack([in_seg(row, sigma) for row in np.eye(n)]).T
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(ours.sum(1), np.ones(n), atol=1e-12)


def test_a_growing_sigma_ends_at_the_mean() -> None:
    small, runs = tiny("WanPipeline"), []
    for sigma in (1.0, 4.0, 1e6, math.inf):
        with guide(small.pipe, STG([1], 1.0, "blur", strength=sigma)):
            runs.append(oracle.run(small, **small.short))
    away = [float((run - runs[-1]).abs().max()) for run in runs]
    assert away[0] > 10 * away[1] > 0
    assert away[2] < 1e-3 * away[0]


@pytest.mark.parametrize("name", ["MochiPipeline", "AnimateDiffPipeline", "LTX2Pipeline gated"])
def test_wholly_soft_is_the_identity(name: str) -> None:
    small, layers = tiny(name), UNET.get(name, [1])
    with guide(small.pipe, STG(layers, 1.0, "attention")):
        identity = oracle.run(small, **small.short)
    with guide(small.pipe, STG(layers, 1.0, "soft", strength=1.0)):
        torch.testing.assert_close(
            oracle.run(small, **small.short), identity, atol=small.atol * 10, rtol=1e-4
        )


# --- tokens ---------------------------------------------------------------------------------------


def test_an_order_is_a_permutation_of_its_seed_step_and_name() -> None:
    orders = [
        step_context.random_permutation(50, *key).tolist()
        for key in itertools.product((0, 1), (0, 1), ("a", "b"))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
    assert step_context.random_permutation(50, 0, 0, "a").tolist() == orders[0]
    first = Counter(
        int(step_context.random_permutation(5, 0, step, "x")[0]) for step in range(2000)
    )
    assert (
        sum((first[i] - 400) ** 2 / 400 for i in range(5)) < 18.5
    )  # chi squared, 4 degrees: p = 0.001


SHUFFLED = [
    ("WanPipeline", [1, 2], None), ("HunyuanVideoPipeline", ["dual:1", "single:0"], None),
    ("SanaVideoPipeline", [1], None), ("LTX2Pipeline gated", [2], None),
    ("LattePipeline", [1], None), ("OpenSoraPipeline", [1], "spatial"),
    ("OpenSoraPipeline", [1], "temporal"), ("StableVideoDiffusionPipeline", ["up:1"], "temporal"),
    ("StableVideoDiffusionPipeline", ["up:2"], None), ("AnimateDiffPipeline", ["up:1"], "temporal"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "axis"), SHUFFLED)
def test_shuffled_blocks(
    name: str, layers: list[Any], axis: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(
        name,
        STG(layers, 1.3, "shuffle", axis, seed=5),
        monkeypatch,
        functools.partial(shuffled, name, layers, axis),
    )


def shuffled(
    name: str,
    layers: Sequence[Any],
    axis: str | None,
    model: nn.Module,
    paths: Sequence[str],
    *_: Any,
) -> nn.Module:
    """A copy whose blocks get the tokens in other orders, one for each call."""
    weak, small = copy.deepcopy(model), tiny(name)
    for path in paths:
        block: Any = weak.get_submodule(path)
        along = "temporal" if "temporal" in path or "motion" in path else "spatial"
        block.forward = functools.partial(
            in_another_order, block.forward, itertools.count(),
            address_of(small, layers, path, along), name, along, not is_unet(small),
        )  # fmt: skip
    return weak


def address_of(small: Tiny, layers: Sequence[Any], path: str, along: str) -> str:
    """As the order of a block is named: its layer, its axis if it has one, its number in the
    layer."""
    axes = family_of(small.pipe).axes
    if is_unet(small):
        layer = next(
            layer for layer in layers if path in paths_of(small, [layer], "attention", along)
        )
        return f"{layer} {along} {path.rpartition('.')[2]}"
    stacks = family_of(small.pipe).stacks.items()
    stack = next(key for key, stack in stacks if path.startswith(f"{stack.path}."))
    return f"{stack}:{path.rpartition('.')[2]} {along if axes else None} 0"


def in_another_order(
    forward: Any,
    calls: Any,
    address: str,
    name: str,
    along: str,
    restored: bool,
    *args: Any,
    **kwargs: Any,
) -> Any:
    given = "hidden_states" if "hidden_states" in kwargs else None
    x = kwargs[given] if given else args[0]
    count, (t, *_) = next(calls), VIDEOS[name][0]
    order = functools.partial(step_context.random_permutation, seed=5, step=count, what=address)
    if name == "OpenSoraPipeline":  # (B, t s, D)
        cube = x.reshape(len(x), t, -1, x.shape[-1])
        cube = cube[:, order(t)] if along == "temporal" else cube[:, :, order(cube.shape[2])]
        mixed = cube.reshape(x.shape)
    elif name == "StableVideoDiffusionPipeline" and along == "temporal":  # (B t, s, D)
        mixed = x.reshape(-1, t, *x.shape[1:])[:, order(t)].reshape(x.shape)
    else:
        mixed = x[:, order(x.shape[1])]
    args, kwargs = (args, {**kwargs, given: mixed}) if given else ((mixed, *args[1:]), kwargs)
    output = forward(*args, **kwargs)
    if not restored:
        return output
    return x + output - mixed if torch.is_tensor(output) else (x + output[0] - mixed, *output[1:])


def test_shuffle_depends_on_the_seed_alone() -> None:
    small, runs = tiny("WanPipeline"), []
    for seed, device_seed in ((1, 2), (1, 3), (2, 2)):
        torch.manual_seed(device_seed)
        with guide(small.pipe, STG([1], 1.0, "shuffle", seed=seed)):
            runs.append(oracle.run(small, **small.short))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


# --- random layers --------------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("skip", ["residual", "soft"])
@pytest.mark.parametrize(
    ("name", "axis"),
    [("MochiPipeline", None), ("HunyuanVideoPipeline", None), ("LattePipeline", "temporal")],
)
def test_random_layers_are_those_of_the_step(name: str, axis: str | None, skip: str) -> None:
    """Each step is that of a term that names the layers which were skipped in it."""
    small, term = tiny(name), STG(Random(0.3), 1.1, skip, axis, seed=4)
    options = {"num_inference_steps": 5}
    with guide(small.pipe, term) as handle:
        ours = oracle.run(small, **options)
        branch = next(iter(handle._guided_denoisers.values()))
        drawn = []
        for step in range(5):
            branch.begin_step(step)
            drawn.append([branch.sites[k].address for k in branch.weak_passes[0].skipped])  # type: ignore[union-attr]
    with guide(small.pipe, term, share_prefix=False):
        assert torch.equal(oracle.run(small, **options), ours)
    named = [STG(layers, 1.1, skip, axis, i / 5, (i + 1) / 5) for i, layers in enumerate(drawn)]
    with guide(small.pipe, *named):
        assert torch.equal(oracle.run(small, **options), ours)
    assert (
        axis or len({tuple(layers) for layers in drawn}) > 1
    )  # the tiny Latte has one pair in the middle


def test_random_layers_are_middle_ones_and_all_of_them() -> None:
    """Never the first block or the last; a tenth of the blocks; each as often as another one."""
    small = tiny("WanPipeline")
    with guide(small.pipe, STG(Random(0.5), 1.0)) as handle:
        branch = next(iter(handle._guided_denoisers.values()))
        skipped: Counter[int] = Counter()
        for step in range(200):
            branch.begin_step(step)
            now = branch.weak_passes[0].skipped  # type: ignore[union-attr]
            assert len(now) == 2
            skipped.update(now)
        assert set(skipped) == {1, 2}
    with guide(small.pipe, STG(Random(0.1), 1.0)) as handle:
        branch: Any = next(iter(handle._guided_denoisers.values()))
        found = Counter(
            branch.begin_step(step) or branch.weak_passes[0].skipped for step in range(200)
        )
        assert set(found) == {(1,), (2,)}
        assert min(found.values()) > 70


def test_a_random_pass_costs_what_comes_after_its_first_layer() -> None:
    small = tiny("WanPipeline")
    with guide(small.pipe, STG(Random(0.1), 1.0, seed=1)) as handle:
        oracle.run(small, num_inference_steps=4)
        branch, firsts = next(iter(handle._guided_denoisers.values())), []
        for step in range(4):
            branch.begin_step(step)
            firsts.append(branch.weak_passes[0].skipped[0])  # type: ignore[union-attr]
        assert handle.passes_per_step == pytest.approx(2 + sum((3 - k) / 4 for k in firsts) / 4)


# --- another model --------------------------------------------------------------------------------


def another(name: str, **changes: Any) -> nn.Module:
    """A smaller model of the same class for the same latents and text."""
    model = oracle.models(tiny(name))[0]
    torch.manual_seed(7)
    weak = type(model).from_config({**model.config, **changes}).eval()
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return weak


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MochiPipeline", {"num_layers": 2, "num_attention_heads": 1}),
        ("WanPipeline", {"num_layers": 1, "ffn_dim": 16}),
        pytest.param("HunyuanVideo15Pipeline", {"num_layers": 1}, marks=pytest.mark.long),
        pytest.param("AnimateDiffPipeline", {"layers_per_block": 1}, marks=pytest.mark.long),
    ],
)
def test_another_model_as_the_weak_one(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, weak = tiny(name), another(name, **changes)
    plain, before = oracle.run(small, **small.short), trace_of(small)
    with guide(small.pipe, STG(weak=weak, scale=0.7), rescale=0.3) as handle:
        ours = oracle.run(small, **small.short)
    sizes = [
        sum(p.numel() for p in model.parameters()) for model in (weak, oracle.models(small)[0])
    ]
    assert handle.passes_per_step == pytest.approx(2 + sizes[0] / sizes[1])
    assert trace_of(small) == before
    monkeypatch.setattr(oracle, "weakened", lambda *_: weak)
    theirs = oracle.by_hand(small, [oracle.Term([], "", (0.7,))], [], 0.3)
    assert_equal(small, ours, theirs, plain)


def test_another_model_beside_a_skipped_layer() -> None:
    small, weak = tiny("WanPipeline"), another("WanPipeline", num_layers=2)
    with guide(small.pipe, STG(weak=weak, scale=0.7), STG([2], 1.0)):
        shared = oracle.run(small, **small.short)
    with guide(small.pipe, STG(weak=weak, scale=0.7), STG([2], 1.0), share_prefix=False):
        assert torch.equal(oracle.run(small, **small.short), shared)
    with guide(small.pipe, STG([2], 1.0)):
        assert not torch.equal(oracle.run(small, **small.short), shared)


UNFIT: list[tuple[str, Callable[[], Any], str]] = [
    (
        "itself",
        lambda: tiny("WanPipeline").pipe.transformer,
        "another model, but got the pipeline's own Wan",
    ),
    (
        "a class",
        lambda: nn.Linear(1, 1),
        "a WanTransformer3DModel, .* got a Linear. Use the denoiser",
    ),
    (
        "a width",
        lambda: another("WanPipeline", text_dim=8),
        "text_dim of the pipeline's denoiser, 16, but got 8. Use",
    ),
    (
        "a dtype",
        lambda: another("WanPipeline").to(torch.bfloat16),
        "dtype of .* torch.float32, but got torch.bfloat16",
    ),
    (
        "a device",
        lambda: another("WanPipeline").to("meta"),
        r"device of .* cpu:0, but got meta:0. Move it",
    ),
]


@pytest.mark.parametrize(
    ("model", "message"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT]
)
def test_a_model_that_does_not_fit_is_refused(model: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^weak must .*{message}"):
        guide(tiny("WanPipeline").pipe, STG(weak=model()))


def test_one_model_for_two_denoisers_or_a_guided_one_is_refused() -> None:
    weak = another("WanPipeline")
    with pytest.raises(ValueError, match=r"divides the run between 2\. Skip layers"):
        guide(tiny("WanPipeline 2.2").pipe, STG(weak=weak))
    other = tiny("WanPipeline 2.2").pipe
    with (
        guide(other, STG([1])),
        pytest.raises(RuntimeError, match="weak must be a model that is not guided"),
    ):
        guide(tiny("WanPipeline").pipe, STG(weak=other.transformer))


# --- together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["soft", "blur", "frames", "shuffle"])
def test_bfloat16_normalized_and_in_the_uncond_pass(skip: str) -> None:
    small = tiny("MochiPipeline", torch.bfloat16)
    plain = oracle.run(small)
    for terms in (
        (STG([1], 0.5, skip, normalize=True), SLG([3], skip)),
        (STG([2], 1.0, skip, every=2),),
    ):
        runs = []
        for share in (True, False):
            with guide(small.pipe, *terms, share_prefix=share):
                runs.append(oracle.run(small))
        assert torch.equal(*runs)
        assert torch.isfinite(runs[0]).all()
        assert not torch.equal(runs[0], plain)


def test_a_schedule_has_them_too() -> None:
    small = tiny("MochiPipeline")
    with guide(small.pipe, Schedule([Bin((0.0, 2.0), [1], 1.0, "soft", strength=0.2)])):
        bins = oracle.run(small, **small.short)
    with guide(small.pipe, STG([1], 1.0, "soft", strength=0.2)):
        assert torch.equal(oracle.run(small, **small.short), bins)


@pytest.mark.parametrize("skip", [pytest.param("blur", marks=pytest.mark.long), "shuffle"])
def test_compiled_blocks(skip: str) -> None:
    small = tiny("WanPipeline")
    with guide(small.pipe, STG([1], 1.0, skip)):
        eager = oracle.run(small, **small.short)
    transformer: Any = copy.deepcopy(small.pipe.transformer)
    for block in transformer.blocks:
        block.compile(backend="eager")
    pipe = type(small.pipe)(**{**small.pipe.components, "transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    compiled = Tiny(pipe, small.call, small.off)
    with guide(pipe, STG([1], 1.0, skip)):
        torch.testing.assert_close(oracle.run(compiled, **small.short), eager, atol=1e-4, rtol=1e-4)


@pytest.mark.long
def test_costs_of_a_unets_weak_passes_are_measured() -> None:
    """Blurred queries take the two products of attention as ever; the halves before the layer are
    not computed."""
    small, costs = tiny("AnimateDiffPipeline"), {}
    for skip in ("attention", "soft", "blur", "shuffle"):
        with guide(small.pipe, STG(["up:1"], 1.0, skip)) as handle:
            oracle.run(small, **small.short)
            costs[skip] = handle.passes_per_step - 2
    assert 0 < costs["attention"] < costs["soft"] < 1
    assert costs["soft"] == pytest.approx(costs["blur"]) == pytest.approx(costs["shuffle"])


# --- what is refused ------------------------------------------------------------------------------

REFUSED: list[tuple[str, Callable[[], STG], str]] = [
    (
        "LattePipeline",
        lambda: STG([1], skip="frames"),
        r"latte has \(residual, attention, soft, blur, shuffle\)",
    ),
    (
        "LattePipeline",
        lambda: STG([1], skip="frames"),
        'what cuts time there is skip="attention" with axis="temporal"',
    ),
    (
        "MochiPipeline",
        lambda: STG([1], skip="blur", axis="spatial"),
        "its attention is joint over space and time",
    ),
    (
        "HeliosPipeline",
        lambda: STG([1], skip="blur"),
        "'blur': its tokens are not those of one grid",
    ),
    (
        "HunyuanVideoFramepackPipeline",
        lambda: STG([1], skip="frames"),
        "its tokens are not those of one grid",
    ),
    ("SanaVideoPipeline", lambda: STG([1], skip="soft"), "'soft': its attention is linear"),
    (
        "CogView4Pipeline",
        lambda: STG([1], skip="frames"),
        "'frames': it makes images, which are one frame",
    ),
    (
        "WanPipeline",
        lambda: STG([1], skip="tokens"),
        "'tokens': its self-attention sees no text, so that this is skip=\"attention\"",
    ),
    (
        "SanaWMPipeline",
        lambda: STG([1], skip="blur"),
        r"\(residual, shuffle\), but got 'blur': its attention",
    ),
    (
        "AnimateDiffPipeline",
        lambda: STG(Random()),
        "layers of UNetMotionModel differ in size. Name some, as in",
    ),
    ("MochiPipeline", lambda: STG(skip="polish"), "STG needs at least one layer"),
    (
        "MochiPipeline",
        lambda: STG([1], skip="polish"),
        "one of residual, attention, soft, blur, frames, tokens, shuffle, but",
    ),
    (
        "MochiPipeline",
        lambda: STG([1], strength=2.0),
        'strength must be left out for skip="residual", which has none',
    ),
    (
        "MochiPipeline",
        lambda: STG([1], skip="soft", strength=1.5),
        r"strength must be a number from 0 to 1 \(share of",
    ),
    (
        "MochiPipeline",
        lambda: STG([1], skip="soft", strength=0.0),
        "strength must be above 0 .* weakens nothing",
    ),
    (
        "MochiPipeline",
        lambda: STG([1], skip="blur", strength=-1.0),
        "strength must be a finite number >= 0",
    ),
    (
        "MochiPipeline",
        lambda: STG([1], skip="shuffle", seed=-1),
        "seed must be a whole number from 0, but got -1",
    ),
    (
        "MochiPipeline",
        lambda: STG(Random(0.0)),
        "share must be a number above 0 and below 1, but got 0.0",
    ),
    (
        "MochiPipeline",
        lambda: STG([1], weak=nn.Identity()),
        "weak is a model of its own, .* it came with layers",
    ),
    (
        "MochiPipeline",
        lambda: STG(skip="blur", weak=nn.Identity()),
        "of its own, .* it came with skip",
    ),
    (
        "MochiPipeline",
        lambda: STG(weak=3),
        r"weak must be a denoiser, WithoutLoRA\(\) .*, but got 3\. Write weak=another_pipe",
    ),
    ("MochiPipeline", lambda: SLG(Random()), "SLG skips layers that are named, but got a Random"),  # type: ignore
]


@pytest.mark.parametrize(("name", "term", "message"), REFUSED)
def test_wrong_combinations_are_refused_with_the_reason(
    name: str, term: Callable[[], STG], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        guide(tiny(name).pipe, term())


@pytest.mark.parametrize(
    ("name", "grid"),
    [("LTXConditionPipeline", "is not known"), ("LTX2ConditionPipeline", "is 2 x 2 x 2")],
)
def test_a_run_whose_tokens_lie_elsewhere_is_refused(name: str, grid: str) -> None:
    """A condition beside the video is known when the run begins, and not before."""
    small = tiny(name)
    for skip in ("blur", "frames"):
        with (
            guide(small.pipe, STG([1], 1.0, skip)),
            pytest.raises(ValueError, match=f"sees 12 tokens, and the grid {grid}"),
        ):
            oracle.run(small, **small.short)
    with guide(small.pipe, STG([1], 1.0, "soft")):
        oracle.run(small, **small.short)


def test_one_frame_cannot_be_cut_from_others() -> None:
    small = tiny("Cosmos2TextToImagePipeline")
    with (
        guide(small.pipe, STG([1], 1.0, "frames")),
        pytest.raises(ValueError, match="video of several frames"),
    ):
        oracle.run(small, **small.short)


def test_attention_that_is_not_torchs_is_refused() -> None:
    """Of a backend that is set at once; of a processor that computes it otherwise when it runs."""
    small = tiny("WanPipeline")
    attention: Any = small.pipe.transformer.blocks[1].attn1
    processor = attention.processor
    try:
        processor._attention_backend = "flash"
        with pytest.raises(
            ValueError, match=r"\"blocks:1\" is by flash. Call .set_attention_backend\(\"native\"\)"
        ):
            guide(small.pipe, STG([1], 1.0, "blur"))
        guide(small.pipe, STG([1], 1.0, "shuffle")).remove()
    finally:
        processor._attention_backend = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            attention, "processor", lambda attn, hidden_states, *_, **__: attn.to_v(hidden_states)
        )
        with (
            guide(small.pipe, STG([1], 1.0, "soft")),
            pytest.raises(RuntimeError, match=r"did not call it\. Choose"),
        ):
            oracle.run(small, **small.short)
    assert not torch.overrides._get_current_function_mode_stack()


def test_the_rows_agree_with_their_models() -> None:
    """Text that is a stream of a block is somewhere in its attention's sequence; every kind of skip
    has its words."""
    for row in FAMILIES:
        joint = any(
            "encoder_hidden_states" in stack.streams or stack.token_layout == "joint"
            for stack in row.stacks.values()
        )
        assert bool(row.text_position) == joint, row.name
        assert "shuffle" in perturbations.available_skips(row.traits)
    assert set(weak_attention.ATTENTION_EDITS) | {"residual", "attention", "shuffle"} == set(
        perturbations.PERTURBATIONS
    )

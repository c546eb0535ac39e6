"""In company: offloading, casting, compilation, LoRA, quantization, other attention processors, and
caches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.hooks.faster_cache import FasterCacheConfig, apply_faster_cache
from diffusers.hooks.group_offloading import apply_group_offloading

from skipguide import SLG, STG, guide
from support import foreign, oracle
from support.tiny import builders
from support.tiny.base import Tiny
from support.written import is_unet

CPU = torch.device("cpu")
# one of each way of calling CFG: batched, separate, separate with two stacks, by a guider, two
# outputs, two stacks in turn, two UNets
NAMES = [
    "MochiPipeline", "WanPipeline 2.2", "HunyuanVideoPipeline", "HunyuanVideo15Pipeline",
    "LTX2Pipeline", "LattePipeline", "StableVideoDiffusionPipeline", "AnimateDiffPipeline",
]  # fmt: skip


def fresh(name: str) -> Tiny:
    """Not the shared one: these tests change the models for good."""
    return builders()[name](torch.float32)


def terms_of(small: Tiny) -> list[Any]:
    """Something of everything; HunyuanVideo's first stack has two layers only."""
    if is_unet(small):
        return [STG(["up:1"]), STG(["mid:0"], 0.7, "attention", "temporal"), SLG(["down:0"])]
    first = "single:1" if type(small.pipe).__name__ == "HunyuanVideoPipeline" else 2
    return [STG([first]), STG([1], 0.7, "attention"), SLG([0])]


def guided(small: Tiny, **options: Any) -> torch.Tensor:
    with guide(small.pipe, *terms_of(small), **options):
        return oracle.run(small)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# --- offloading and casting -----------------------------------------------------------------------


def sequential(small: Tiny) -> None:
    """What enable_sequential_cpu_offload puts on each model; that method itself wants an
    accelerator."""
    import accelerate

    for model in (
        part for part in small.pipe.components.values() if isinstance(part, torch.nn.Module)
    ):
        accelerate.cpu_offload(model, execution_device=CPU)
    assert next(oracle.models(small)[0].parameters()).device.type == "meta"


def whole_model(small: Tiny) -> None:
    """What enable_model_cpu_offload puts on each model; that method itself wants an accelerator."""
    import accelerate

    for model in oracle.models(small):
        accelerate.cpu_offload_with_hook(model, CPU)


def groups_of(blocks: int) -> Callable[[Tiny], None]:
    def apply(small: Tiny) -> None:
        for model in oracle.models(small):
            apply_group_offloading(model, CPU, CPU, "block_level", num_blocks_per_group=blocks)

    return apply


def leaves(small: Tiny) -> None:
    for model in oracle.models(small):
        apply_group_offloading(model, CPU, CPU, "leaf_level")


OFFLOADS = {
    "sequential": sequential, "whole model": whole_model, "block level": groups_of(1),
    "two blocks": groups_of(2), "leaf level": leaves,
}  # fmt: skip


@pytest.mark.diagonal
@pytest.mark.parametrize("how", OFFLOADS)
@pytest.mark.parametrize("share_prefix", [True, False])
def test_offloaded_weights_give_the_same_bits(name: str, how: str, share_prefix: bool) -> None:
    small = fresh(name)
    expected = guided(small, share_prefix=share_prefix)
    OFFLOADS[how](small)
    assert torch.equal(guided(small, share_prefix=share_prefix), expected)
    assert torch.equal(guided(small, share_prefix=share_prefix), expected)


def test_groups_of_blocks_are_loaded_and_unloaded_when_their_first_or_last_block_is_skipped() -> (
    None
):
    """On a pretended accelerator: meta stands for offloaded, so that a block whose weights did not
    come fails."""
    small = fresh("WanPipeline")
    blocks = small.pipe.transformer.blocks
    expected = {layer: run_with(small, [STG([layer])]) for layer in range(4)}
    apply_group_offloading(small.pipe.transformer, CPU, CPU, "block_level", num_blocks_per_group=2)
    moved: list[tuple[int, str]] = []
    for i, block in enumerate(blocks):
        group = block._diffusers_hook.get_hook("group_offloading").group
        for method in ("onload_", "offload_"):
            original = getattr(group, method)

            def note(*args: Any, i: int = i, method: str = method, original: Any = original) -> Any:
                moved.append((i // 2, method))
                return original(*args)

            if i % 2 == 0:
                setattr(group, method, note)
    for layer, latents in expected.items():
        moved.clear()
        assert torch.equal(run_with(small, [STG([layer])]), latents)
        for group in (0, 1):  # whatever was loaded is unloaded again, in turn
            in_order = [method for i, method in moved if i == group]
            assert in_order == ["onload_", "offload_"] * (len(in_order) // 2)


@pytest.mark.parametrize(
    ("unet", "layer"), [("StableVideoDiffusionPipeline", "up:0"), ("AnimateDiffPipeline", "up:2")]
)
def test_groups_of_a_unet_are_loaded_where_their_first_block_is_given_again(
    unet: str, layer: str
) -> None:
    """Two blocks to a group; the weights of a group are no numbers until it is loaded."""
    small = fresh(unet)
    expected = run_with(small, [STG([layer])])
    apply_group_offloading(small.pipe.unet, CPU, CPU, "block_level", num_blocks_per_group=2)
    blocks = list(small.pipe.unet.up_blocks)
    group = blocks[0]._diffusers_hook.get_hook("group_offloading").group
    assert group is blocks[1]._diffusers_hook.get_hook("group_offloading").group
    weights = {p: p.data for block in blocks[:2] for p in block.parameters()}

    def load(*_: Any) -> None:
        for parameter, data in weights.items():
            parameter.data = data

    def unload(*_: Any) -> None:
        for parameter, data in weights.items():
            parameter.data = torch.full_like(data, torch.nan)

    group.onload_, group.offload_ = load, unload
    unload()
    assert torch.equal(run_with(small, [STG([layer])]), expected)


def run_with(small: Tiny, terms: list[Any]) -> torch.Tensor:
    with guide(small.pipe, *terms):
        return oracle.run(small)


@pytest.mark.parametrize(
    "name",
    [
        "MochiPipeline",
        "WanPipeline",
        "CogVideoXPipeline",
        "StableVideoDiffusionPipeline",
        "AnimateDiffPipeline",
    ],
)
def test_layerwise_casting(name: str) -> None:
    """Weights kept in float8, cast layer by layer: shared and full weak passes agree to the bit."""
    small = fresh(name)
    for model in oracle.models(small):
        model.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
        )
    plain = oracle.run(small)
    shared = guided(small)
    assert torch.equal(shared, guided(small, share_prefix=False))
    assert not torch.equal(shared, plain)
    assert torch.equal(oracle.run(small), plain)


def test_vae_tiling() -> None:
    """The decoder has nothing to do with guidance; it runs in tiles after a guided run as it does
    after a plain one."""
    small = fresh("WanPipeline")
    latents = guided(small)
    small.pipe.vae.enable_tiling(
        tile_sample_min_height=16,
        tile_sample_min_width=16,
        tile_sample_stride_height=8,
        tile_sample_stride_width=8,
    )
    with guide(small.pipe, *terms_of(small)):
        frames = oracle.run(small, output_type="np")
        assert torch.equal(oracle.run(small), latents)
    assert torch.isfinite(frames).all()
    assert not torch.equal(frames, oracle.run(small, output_type="np"))


# --- compilation ----------------------------------------------------------------------------------


def whole(small: Tiny) -> None:
    for model in oracle.models(small):
        model.compile(backend="eager")


def repeated(small: Tiny) -> None:
    for model in oracle.models(small):
        model.compile_repeated_blocks(backend="eager")


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """How many graphs dynamo has made so far. The eager backend: what is traced and when, without
    waiting for C++."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["frames"]["total"]
    torch._dynamo.reset()


COMPILED = [
    ("WanPipeline", repeated), ("HunyuanVideoPipeline", repeated),
    *(pytest.param(*row, marks=pytest.mark.long) for row in (
        ("WanPipeline", whole), ("AnimateDiffPipeline", whole),  # no UNet has repeated ones
        ("LTXPipeline", whole), ("LTXPipeline", repeated), ("HunyuanVideoPipeline", whole)
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "compiled"), COMPILED)
def test_compiled_models_are_not_compiled_again(
    name: str, compiled: Any, graphs: Callable[[], int]
) -> None:
    """After the first guided and the first unguided step nothing is traced again, in this run or in
    later ones."""
    from torch._dynamo.utils import counters

    small = fresh(name)
    layers = [1, "single:0" if name == "HunyuanVideoPipeline" else 2]
    if is_unet(small):
        layers = ["up:1", "mid:0"]
    terms = [STG(layers[:1], stop=0.7), STG(layers[1:], 0.5, "attention", stop=0.7)]
    plain, expected = oracle.run(small), run_with(small, terms)
    compiled(small)
    torch.testing.assert_close(oracle.run(small), plain)
    torch.testing.assert_close(run_with(small, terms), expected)
    made = graphs()
    assert made > 0
    for _ in range(2):
        torch.testing.assert_close(run_with(small, terms), expected)
    torch.testing.assert_close(oracle.run(small), plain)
    assert graphs() == made
    assert sum(counters["graph_break"].values()) == 0


# --- LoRA and quantization ------------------------------------------------------------------------


NO_ADAPTERS = ("LattePipeline", "StableVideoDiffusionPipeline")  # their models take none


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_ADAPTERS])
def test_lora(name: str) -> None:
    """Adapters of peft on the attention: they weaken and share like the rest, and their removal is
    seen."""
    from peft import LoraConfig

    small = fresh(name)
    before = guided(small)
    for model in oracle.models(small):
        torch.manual_seed(1)
        model.add_adapter(
            LoraConfig(r=2, target_modules=["to_q", "to_v", "to_k"], init_lora_weights="gaussian")
        )
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
    adapted = guided(small)
    assert not torch.equal(adapted, before)
    assert torch.equal(guided(small, share_prefix=False), adapted)
    for model in oracle.models(small):
        model.disable_adapters()
    torch.testing.assert_close(guided(small), before, atol=1e-4, rtol=1e-4)


def test_lora_changes_the_values_of_a_skipped_attention() -> None:
    """The weak pass of an attention skip is W_o V with the adapter in both, as the oracle's masked
    attention is."""
    from peft import LoraConfig

    small = fresh("WanPipeline")
    model = small.pipe.transformer
    model.add_adapter(
        LoraConfig(r=2, target_modules=["to_v", "to_out.0"], init_lora_weights="gaussian")
    )
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        theirs = oracle.by_hand(small, [oracle.Term(["blocks.1"], "attention", [1.0])], ["attn1"])
    with guide(small.pipe, STG([1], skip="attention")):
        ours = oracle.run(small, **small.short)
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["WanPipeline", "AnimateDiffPipeline"])
def test_weight_only_quantization(name: str) -> None:
    """int8 weights of quanto: the stand-ins call the layers and never read their weights."""
    quanto = pytest.importorskip("optimum.quanto")
    small = fresh(name)
    quanto.quantize(oracle.models(small)[0], weights=quanto.qint8)
    quanto.freeze(oracle.models(small)[0])
    plain, shared = oracle.run(small), guided(small)
    assert torch.equal(guided(small, share_prefix=False), shared)
    assert not torch.equal(shared, plain)


# --- attention that users set ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WanPipeline", "SkyReelsV2Pipeline", "CogVideoXPipeline"])
def test_fused_projections(name: str) -> None:
    small = fresh(name)
    expected = guided(small)
    model = small.pipe.transformer
    model.fuse_qkv_projections()
    torch.testing.assert_close(guided(small), expected, atol=1e-4, rtol=1e-4)


def test_a_processor_of_the_users_own_runs_where_attention_is_not_skipped() -> None:
    small = fresh("WanPipeline")
    called: list[Any] = []
    usual = type(small.pipe.transformer.blocks[0].attn1.processor)

    class Noting(usual):  # type: ignore[misc,valid-type]
        def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(attn)
            return super().__call__(attn, *args, **kwargs)

    small.pipe.transformer.set_attn_processor(Noting())
    skipped = small.pipe.transformer.blocks[2].attn1
    with guide(small.pipe, STG([2], skip="attention")):
        oracle.run(small, **small.short)
    assert sum(attn is skipped for attn in called) == 2 * 2  # cond and uncond of two steps
    assert sum(attn is small.pipe.transformer.blocks[3].attn1 for attn in called) == 3 * 2


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends(backend: str) -> None:
    small = fresh("WanPipeline")
    expected = guided(small)
    small.pipe.transformer.set_attention_backend(backend)
    torch.testing.assert_close(guided(small), expected, atol=1e-4, rtol=1e-4)


# --- caches ---------------------------------------------------------------------------------------


# It keeps one state whatever a pass is for; the others: test_step_caches.py.
FASTER = FasterCacheConfig(current_timestep_callback=lambda: 500)
REFUSED = "FasterCache does not go together with guidance: it "


def test_faster_cache_is_refused_with_the_reason_also_when_it_comes_later() -> None:
    small = fresh("CogVideoXPipeline")
    plain = guided(small)
    model = small.pipe.transformer
    with guide(small.pipe, STG([1])):
        model.enable_cache(copy.copy(FASTER))
        with pytest.raises(ValueError, match=REFUSED):
            oracle.run(small)
    with pytest.raises(ValueError, match=REFUSED):
        guide(small.pipe, STG([1]))
    model.disable_cache()
    assert torch.equal(guided(small), plain)


def test_stateful_hooks_that_nobody_knows_are_refused() -> None:
    from diffusers.hooks.hooks import HookRegistry, ModelHook

    class NewCache(ModelHook):
        _is_stateful = True

    small = fresh("WanPipeline")
    registry = HookRegistry.check_if_exists_or_initialize(small.pipe.transformer)
    registry.register_hook(NewCache(), "new_cache")
    with pytest.raises(ValueError, match="new_cache, a hook that keeps a state across calls"):
        guide(small.pipe, STG([1]))


def test_caches_that_were_applied_without_the_model_knowing_are_refused() -> None:
    small = fresh("CogVideoXPipeline")
    apply_faster_cache(small.pipe.transformer, copy.copy(FASTER))
    assert not small.pipe.transformer.is_cache_enabled
    with pytest.raises(ValueError, match=REFUSED):
        guide(small.pipe, STG([1]))


CACHE = (
    r"that runs its own forward, but|with its own blocks, but|must run once in a pass, but"
    r"|the same prediction for the same inputs, but|must compute the same in each pass, but"
    r"|must do the same in each pass of a step, but"
    r"|must differ from the conditional one, but .* A cache that returns what it kept"
)


@pytest.mark.diagonal
@pytest.mark.parametrize("kind", foreign.CACHES)
@pytest.mark.parametrize("name", ["WanPipeline", "CogVideoXPipeline"])
def test_foreign_caches_are_refused_by_what_they_do_also_when_they_come_later(
    name: str, kind: str
) -> None:
    """One call of guide() is enough of a run to tell; after it the model is what it was."""
    small = fresh(name)
    model, expected = small.pipe.transformer, guided(small)
    off = foreign.CACHES[kind](model)
    with (
        pytest.raises(ValueError, match=CACHE),
        guide(small.pipe, *terms_of(small)),
    ):
        oracle.run(small)
    off()
    with guide(small.pipe, *terms_of(small)):
        off = foreign.CACHES[kind](model)
        with pytest.raises(ValueError, match=CACHE):
            oracle.run(small)
        off()
        assert torch.equal(oracle.run(small), expected)


@pytest.mark.diagonal
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.long] if kind.startswith("compiled") else [])
        for kind in foreign.NO_CACHES
    ],
)
@pytest.mark.parametrize("name", ["WanPipeline", "CogVideoXPipeline"])
def test_what_is_no_cache_is_not_refused(name: str, kind: str) -> None:
    small = fresh(name)
    expected = guided(small)
    off = foreign.NO_CACHES[kind](small.pipe.transformer)
    for share_prefix in (True, False):
        assert torch.equal(guided(small, share_prefix=share_prefix), expected)
    off()
    with guide(small.pipe, *terms_of(small)):
        foreign.NO_CACHES[kind](small.pipe.transformer)
        assert torch.equal(oracle.run(small), expected)


def test_hooks_that_look_on_cost_no_pass() -> None:
    """And those of others are put back as they were."""
    small = fresh("WanPipeline")
    model = small.pipe.transformer
    foreign.notes(model)
    hooks = [dict(block._forward_hooks) for block in model.blocks]
    with guide(small.pipe, STG([2])) as handle:
        oracle.run(small)
    assert handle.passes.unweakened == 6  # c and u of three steps
    assert [dict(block._forward_hooks) for block in model.blocks] == hooks


def test_a_cache_that_a_callback_switches_on_is_refused() -> None:
    small = fresh("WanPipeline")

    def switch_on(*_: Any) -> dict[str, Any]:
        foreign.forward_of_a_block(small.pipe.transformer)
        return {}

    with guide(small.pipe, STG([1])), pytest.raises(ValueError, match='that of "blocks:2" was'):
        oracle.run(small, callback_on_step_end=switch_on)


def test_a_cache_on_a_weak_model_is_refused() -> None:
    small = fresh("WanPipeline")
    weak = fresh("WanPipeline").pipe.transformer
    foreign.instead_of_forward(weak)
    with pytest.raises(ValueError, match="that runs its own forward, but that of the model was"):
        guide(small.pipe, STG(weak=weak))


def test_a_module_that_calls_the_model_when_it_likes_is_refused() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, model: torch.nn.Module):
            super().__init__()
            self.model, self.cache = model, foreign.EveryOther(model, 4)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.cache(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._modules["model"], name)

    small = fresh("WanPipeline")
    model = small.pipe.transformer
    with guide(small.pipe, STG([1])):
        small.pipe.transformer = Wrapper(model)
        with pytest.raises(
            ValueError, match=r"after guide\(\) a .*Wrapper of .* came in its place"
        ):
            oracle.run(small)
        small.pipe.transformer = model
        oracle.run(small)


@pytest.mark.parametrize("with_cfg", [True, False])
def test_a_cache_of_the_depths_of_a_unet_is_refused(with_cfg: bool) -> None:
    """In the way of DeepCache: the UNet and its blocks get a forward that knows the timestep."""
    small = fresh("StableVideoDiffusionPipeline")
    unet = small.pipe.unet
    usual, deep = unet.forward, unet.down_blocks[1].forward
    cache = foreign.EveryOther(deep)

    def forward(*args: Any, **kwargs: Any) -> Any:
        assert args[1] is not None
        return usual(*args, **kwargs)

    unet.down_blocks[1].forward = lambda *args, **kwargs: cache(*args, **kwargs)
    options = {} if with_cfg else small.off
    with pytest.raises(ValueError, match=r"that of down_blocks\.1 was replaced by"):
        guide(small.pipe, STG(["up:0"]))
    unet.forward = forward
    with pytest.raises(ValueError, match=r"that of the model was replaced by .*test_compat"):
        guide(small.pipe, STG(["up:0"]))
    del unet.forward, unet.down_blocks[1].forward
    with guide(small.pipe, STG(["up:0"])):
        oracle.run(small, **options)

"""The denoiser itself with other LoRAs as the weak model, against a deep copy on which diffusers'
own `disable_lora` or `set_adapters` was called, run as a model of its own in a full pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.group_offloading import apply_group_offloading
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from skipguide import STG, WithLoRA, WithoutLoRA, guide
from skipguide.guider import SkipGuidance
from skipguide.method.request import GuidanceRequest
from skipguide.weak import lora
from support import oracle
from support.loras import make_lora
from support.tiny import builders
from support.tiny.base import Tiny
from support.written import assert_equal, trace_of

CPU = torch.device("cpu")


def with_loras(name: str, targets: Any = None, names: tuple[str, ...] = ("a", "b")) -> Tiny:
    """A pipeline of its own with LoRAs on its denoisers, as peft makes them."""
    small = builders()[name](torch.float32)
    for number, model in enumerate(oracle.models(small)):
        for n, adapter in enumerate(names):
            torch.manual_seed(10 * number + n)
            config = LoraConfig(
                r=4,
                lora_alpha=4,
                target_modules=targets or ["to_q", "to_k", "to_v"],
                init_lora_weights=False,
            )
            with warnings.catch_warnings():  # peft tells of the second one
                warnings.simplefilter("ignore")
                model.add_adapter(config, adapter)
        layers = layers_of(model)
        for layer in layers:
            layer.set_adapter(list(names))
        assert layers
    return small


def layers_of(model: Any) -> list[Any]:
    """The layers that peft has put around others."""
    return [part for part in model.modules() if isinstance(part, BaseTunerLayer)]


def state_of(small: Tiny) -> list[Any]:
    """All that a LoRA is switched by, and which parameters can be trained."""
    found: list[Any] = []
    for model in oracle.models(small):
        for path, part in model.named_modules():
            if isinstance(part, BaseTunerLayer):
                scaling = dict(part.scaling)  # type: ignore[arg-type]
                found.append((path, scaling, part.active_adapters, part.disable_adapters))
        found += [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()]
    return found


def without(model: Any) -> Any:
    weak = copy.deepcopy(model)
    weak.disable_lora()
    return weak


def scaled(model: Any) -> Any:
    weak = copy.deepcopy(model)
    for layer in layers_of(weak):
        layer.set_scale("b", 0.3)
    return weak


WEAK: list[tuple[Any, Callable[[Any], Any]]] = [
    (WithoutLoRA(), without), (WithLoRA("b", 0.3), scaled)
]  # fmt: skip


@pytest.mark.diagonal
@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline", "LTX2Pipeline gated"])
@pytest.mark.parametrize(("weak", "copied"), WEAK, ids=["without", "with"])
def test_equals_a_copy_that_diffusers_switched(name: str, weak: Any, copied: Any) -> None:
    small = with_loras(name)
    plain, before, state = oracle.run(small, **small.short), trace_of(small), state_of(small)
    with guide(small.pipe, STG(weak=weak, scale=0.7), rescale=0.3):
        ours = oracle.run(small, **small.short)
    assert (trace_of(small), state_of(small)) == (before, state)
    with guide(small.pipe, STG(weak=copied(small.pipe.transformer), scale=0.7), rescale=0.3):
        assert torch.equal(oracle.run(small, **small.short), ours)
    assert torch.equal(oracle.run(small, **small.short), plain)
    assert (ours - plain).abs().max() > 1e-3


def test_equals_the_formula_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_loras("WanPipeline")
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7)):
        ours = oracle.run(small, **small.short)
    monkeypatch.setattr(oracle, "weakened", lambda model, *_: without(model))
    assert_equal(small, ours, oracle.by_hand(small, [oracle.Term([], "", (0.7,))], []), plain)


def test_both_of_two_denoisers(monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_loras("WanPipeline 2.2")
    plain, options = oracle.run(small), dict[str, Any](num_inference_steps=3)
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7)):
        ours = oracle.run(small)
    monkeypatch.setattr(oracle, "weakened", lambda model, *_: without(model))
    hand = oracle.by_hand(small, [oracle.Term([], "", (0.7,))], [], **options)
    assert_equal(small, ours, hand, plain)


def test_lora_that_diffusers_loaded_and_one_that_is_off(tmp_path: Path) -> None:
    """An adapter that is loaded but not active is switched on for the weak pass alone."""
    files = [
        make_lora(builders()["WanPipeline"](torch.float32).pipe, tmp_path / f"{seed}.safetensors",
                  seed)
        for seed in (0, 1)
    ]  # fmt: skip
    small = builders()["WanPipeline"](torch.float32)
    with warnings.catch_warnings():  # peft tells of the second one
        warnings.simplefilter("ignore")
        for name, file in zip("ab", files, strict=True):
            small.pipe.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=name)
    small.pipe.set_adapters(["a"], [0.8])
    state, weak = state_of(small), copy.deepcopy(small.pipe.transformer)
    weak.set_adapters(["a", "b"], [0.8, -0.5])
    with guide(small.pipe, STG(weak=weak, scale=0.7)):
        theirs = oracle.run(small, **small.short)
    with guide(small.pipe, STG(weak=WithLoRA("b", -0.5), scale=0.7)):
        assert torch.equal(oracle.run(small, **small.short), theirs)
    assert state_of(small) == state


def test_scales_that_are_set_between_runs_count() -> None:
    small = with_loras("WanPipeline")
    with guide(small.pipe, STG(weak=WithLoRA("b", 0.3), scale=0.7)):
        first = oracle.run(small, **small.short)
        for layer in layers_of(small.pipe.transformer):
            layer.set_scale("a", 0.2)
        second = oracle.run(small, **small.short)
    with guide(small.pipe, STG(weak=scaled(small.pipe.transformer), scale=0.7)):
        assert torch.equal(oracle.run(small, **small.short), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("weak", [WithoutLoRA(), WithLoRA("a", 0.0)])
def test_prefix_up_to_the_first_lora_is_shared(weak: Any) -> None:
    """LoRAs on the third block and later ones alone: the first two are those of the cond pass."""
    small = with_loras("WanPipeline", r".*blocks\.([2-9])\..*to_[qkv]", names=("a",))
    blocks = len(small.pipe.transformer.blocks)
    runs, costs = [], []
    for share in (True, False):
        with guide(small.pipe, STG(weak=weak, scale=0.7), share_prefix=share) as handle:
            runs.append(oracle.run(small, **small.short))
            costs.append(handle.passes_per_step)
    assert torch.equal(*runs)
    assert costs == pytest.approx([2 + (blocks - 2) / blocks, 3])


def test_lora_outside_of_the_blocks_runs_in_full() -> None:
    small = with_loras("WanPipeline", r".*(blocks\.2\..*to_q|proj_out)", names=("a",))
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7)) as handle:
        ours = oracle.run(small, **small.short)
    assert handle.passes_per_step == pytest.approx(3)
    with guide(small.pipe, STG(weak=without(small.pipe.transformer), scale=0.7)):
        assert torch.equal(oracle.run(small, **small.short), ours)


@pytest.mark.long
def test_unet() -> None:
    small = with_loras("AnimateDiffPipeline")
    unet = small.pipe.unet
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7), STG(["up:1"], 0.5)):
        ours = oracle.run(small, **small.short)
    with guide(small.pipe, STG(weak=without(unet), scale=0.7), STG(["up:1"], 0.5)):
        assert torch.equal(oracle.run(small, **small.short), ours)


def test_no_weights_are_copied() -> None:
    small = with_loras("WanPipeline")
    model = small.pipe.transformer
    known = {p.data_ptr() for p in model.parameters()}
    from skipguide.families.blocks import layer_sites
    from skipguide.families.lookup import family_of

    family = family_of(small.pipe)
    for weak, _ in WEAK:
        made = lora.LoRAPass(family, model, layer_sites(family, model), weak, 0, None)
        assert made.full_patches
        for _, _, module in made.full_patches:
            assert {p.data_ptr() for p in module.parameters()} <= known


@pytest.mark.parametrize("weak", [WithoutLoRA(), WithLoRA("b", 0.3)])
def test_given_back_after_an_error(weak: Any) -> None:
    small = with_loras("WanPipeline")
    oracle.run(small, **small.short)  # diffusers leaves a registry of hooks
    before, state, calls = trace_of(small), state_of(small), []

    def fail(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("in the weak pass")

    with guide(small.pipe, STG(weak=weak, scale=0.7)):
        hook = small.pipe.transformer.blocks[1].ffn.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="in the weak pass"):
            oracle.run(small, **small.short)
        hook.remove()
    assert (trace_of(small), state_of(small)) == (before, state)


# --- with everything else -------------------------------------------------------------------------


@pytest.mark.long
def test_compiled_blocks() -> None:
    small = with_loras("WanPipeline")
    term = STG(weak=WithoutLoRA(), scale=0.7)
    with guide(small.pipe, term):
        eager = oracle.run(small, **small.short)
    for block in small.pipe.transformer.blocks:
        block.compile(backend="eager")
    with guide(small.pipe, term):
        torch.testing.assert_close(oracle.run(small, **small.short), eager, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["block_level", "leaf_level"])
def test_group_offloading(how: str) -> None:
    small = with_loras("WanPipeline")
    term = STG(weak=WithLoRA("b", 0.3), scale=0.7)
    with guide(small.pipe, term):
        usual = oracle.run(small, **small.short)
    blocks = {"num_blocks_per_group": 2} if how == "block_level" else {}
    apply_group_offloading(small.pipe.transformer, CPU, CPU, how, **blocks)  # type: ignore[arg-type]
    with guide(small.pipe, term):
        assert torch.equal(oracle.run(small, **small.short), usual)


def test_a_cache_that_never_hits_changes_nothing() -> None:
    small = with_loras("WanPipeline")
    terms = STG(weak=WithoutLoRA(), scale=0.7), STG([2], 0.5)
    with guide(small.pipe, *terms):
        usual = oracle.run(small, **small.short)
    small.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with guide(small.pipe, *terms):
        torch.testing.assert_close(oracle.run(small, **small.short), usual, atol=1e-5, rtol=1e-4)


def test_one_batch_windows_and_a_budget() -> None:
    small = with_loras("MochiPipeline")
    term = STG(weak=WithoutLoRA(), scale=0.7, stop=0.5)
    with guide(small.pipe, term, STG([1], 0.5)):
        exact = oracle.run(small, **small.short)
    with guide(small.pipe, term, STG([1], 0.5), exact=False):
        torch.testing.assert_close(oracle.run(small, **small.short), exact, atol=1e-3, rtol=1e-3)
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7), budget=2.5) as handle:
        oracle.run(small, num_inference_steps=6)
        assert handle.passes_per_step <= 2.5


def test_guider_and_its_configuration() -> None:
    guider = SkipGuidance(terms=[STG(weak=WithLoRA("b", 0.3), scale=0.7)], guidance_scale=3.0)
    again = SkipGuidance.from_config(guider.config)
    assert again.terms == guider.terms  # type: ignore[union-attr]
    assert guider.config["terms"] == [{"scale": 0.7, "weak": {"lora": "b", "scale": 0.3}}]


# --- as text, and refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "weak", "plain"),
    [
        ("weak=without-lora scale=0.5", WithoutLoRA(), "without-lora"),
        ("weak=lora_1:0.3 scale=0.5", WithLoRA("lora_1", 0.3), {"lora": "lora_1", "scale": 0.3}),
        (
            {"weak": {"lora": "a", "scale": 1}, "scale": 0.5},
            WithLoRA("a", 1.0),
            {"lora": "a", "scale": 1.0},
        ),
    ],
)
def test_plain_data_and_back(written: Any, weak: Any, plain: Any) -> None:
    request = GuidanceRequest.from_dict(
        {"terms": [written] if isinstance(written, dict) else written}
    )
    assert request.terms == (STG(weak=weak, scale=0.5),)
    content = request.to_dict()
    assert content == {"terms": [{"scale": 0.5, "weak": plain}]}
    assert GuidanceRequest.from_dict(content) == request


@pytest.mark.parametrize("weak", ["no", "a:b", ":1", {"lora": "a"}, 3, ["a"]])
def test_wrong_text_is_refused(weak: Any) -> None:
    with pytest.raises(ValueError, match=r"weak must be|of a LoRA must be"):
        GuidanceRequest.from_dict({"terms": [{"weak": weak}]})


def test_refused_at_once() -> None:
    bare = builders()["WanPipeline"](torch.float32).pipe
    with pytest.raises(ValueError, match=r"weak=WithoutLoRA\(\) needs a LoRA on the Wan.*none is"):
        guide(bare, STG(weak=WithoutLoRA()))
    small = with_loras("WanPipeline")
    with pytest.raises(ValueError, match=r"needs the LoRA 'c' on the .* are called a, b\. Name"):
        guide(small.pipe, STG(weak=WithLoRA("c", 1.0)))
    with pytest.raises(ValueError, match="weak is a model of its own, of which no layers"):
        STG([1], weak=WithoutLoRA())
    with pytest.raises(
        ValueError, match="the scale of a LoRA must be a finite number, but got inf"
    ):
        WithLoRA("a", float("inf"))
    small.pipe.transformer.disable_lora()
    with pytest.raises(ValueError, match=r"switched off, .* Call pipe.enable_lora\(\)"):
        guide(small.pipe, STG(weak=WithoutLoRA()))


def test_fused_loras_are_refused_also_in_a_run_that_begins_later() -> None:
    small = with_loras("WanPipeline")
    with guide(small.pipe, STG(weak=WithoutLoRA(), scale=0.7)):
        for layer in layers_of(small.pipe.transformer):
            layer.merge()
        with pytest.raises(ValueError, match=r"fused into them. Call pipe.unfuse_lora\(\)"):
            oracle.run(small, **small.short)
    with pytest.raises(ValueError, match="fused into them"):
        guide(small.pipe, STG(weak=WithoutLoRA()))


def test_a_lora_that_changes_nothing_is_told() -> None:
    small = with_loras("WanPipeline")
    with (
        guide(small.pipe, STG(weak=WithLoRA("b", 1.0), scale=0.7)),
        pytest.raises(ValueError, match=r"must differ .*weak=WithLoRA\(name='b', scale=1.0\)"),
    ):
        oracle.run(small, **small.short)

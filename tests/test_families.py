"""Every row of families.py, on a tiny pipeline of each of its pipeline classes, against the oracles of oracle.py."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline

import oracle
from skipguide import SLG, STG, guide
from skipguide.families import FAMILIES, REFUSED, Family, Stack, calls_of, family_of
from tiny import builders, tiny
from tiny.base import Tiny

SELF_ATTENTIONS = (  # as the families call it; attn2 and cross_attention are not it
    "attn1", "audio_attn1", "attn", "self_attention", "video_dec_block.self_attention",
    "audio_dec_block.self_attention",
)  # fmt: skip
GUIDED = [name for name in builders() if name.split()[0] not in REFUSED and not name.endswith(" zero")]


@pytest.fixture(params=GUIDED)
def small(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


def family_and_stacks(small: Tiny) -> tuple[Family, list[tuple[str, Stack]]]:
    family = family_of(small.pipe)
    return family, list(family.stacks.items())


def attentions_of(small: Tiny, stack: Stack) -> list[str]:
    block = oracle.models(small)[0].get_submodule(f"{stack.path}.0")
    paths = {path for path, _ in block.named_modules()}
    return [name for name in SELF_ATTENTIONS if name in paths]


def settings(small: Tiny) -> Iterator[dict[str, Any]]:
    """With CFG, and without where the pipeline can."""
    yield {}
    if small.off:
        yield small.off


def by_hand(small: Tiny, terms: list[STG], phi: float = 0.0, **options: Any) -> torch.Tensor:
    """The terms, whose layers are all written as "stack:int", by the oracle."""
    family, stacks = family_and_stacks(small)
    written = [
        oracle.Term(
            [f"{family.stacks[str(layer).split(':')[0]].path}.{str(layer).split(':')[1]}" for layer in term.layers],
            term.skip, [term.scale, term.scale if term.audio_scale is None else term.audio_scale],
            term.start, term.stop,
        )
        for term in terms
    ]  # fmt: skip
    return oracle.by_hand(small, written, attentions_of(small, stacks[0][1]), phi, **options)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, plain: torch.Tensor) -> None:
    """Equal up to float32's rounding, in a run that the guidance changed much more than that."""
    moved = (ours - plain).abs().max()
    assert moved > 1e-3, "the guidance had no effect"
    torch.testing.assert_close(ours, theirs, atol=2e-5 * max(1, float(plain.abs().max())), rtol=1e-4)


# --- the formula ------------------------------------------------------------------------------------------------------


def test_the_oracle_itself_is_diffusers_own_cfg(small: Tiny) -> None:
    for options in settings(small):
        plain = oracle.run(small, **small.short, **options)
        torch.testing.assert_close(by_hand(small, [], **options), plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_equals_separate_full_passes(small: Tiny, skip: str) -> None:
    """Each stack's first, a middle and its last layer."""
    for name, stack in family_and_stacks(small)[1]:
        if skip == "attention" and not stack.attention:
            with pytest.raises(ValueError, match=r"skip must be one that .* has \(residual\)"):
                guide(small.pipe, STG([f"{name}:1"], skip=skip))
            continue
        last = len(oracle.models(small)[0].get_submodule(stack.path)) - 1  # type: ignore[arg-type]
        for layer in {0, 1, last}:
            term = STG([f"{name}:{layer}"], 1.3, skip)
            plain = oracle.run(small, **small.short)
            with guide(small.pipe, term):
                ours = oracle.run(small, **small.short)
            assert_equal(ours, by_hand(small, [term]), plain)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_several_terms_and_layers_windows_and_rescale(small: Tiny, phi: float) -> None:
    stacks = family_and_stacks(small)[1]
    first, last = stacks[0][0], stacks[-1][0]
    half = 0.5 if small.windows else 0.0
    terms = [
        STG([f"{last}:1"], 0.8, stop=1 - half),
        STG([f"{first}:1", f"{last}:2"], 1.2, "attention" if stacks[0][1].attention else "residual"),
        STG([f"{first}:0", f"{first}:1"], 0.3, start=half),
    ]
    for options in settings(small):
        plain = oracle.run(small, **small.short, **options)
        with guide(small.pipe, *terms, rescale=phi):
            ours = oracle.run(small, **small.short, **options)
        assert_equal(ours, by_hand(small, terms, phi, **options), plain)


# --- the shared prefix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_shared_prefix_is_bit_equal_to_full_weak_passes(small: Tiny, skip: str) -> None:
    last, stack = family_and_stacks(small)[1][-1]
    skip = skip if stack.attention else "residual"
    terms = [STG([f"{last}:1", f"{last}:2"], skip=skip), STG([f"{last}:2"], 0.7)]
    for options in settings(small):
        with guide(small.pipe, *terms, rescale=0.7):
            shared = oracle.run(small, **options)
        with guide(small.pipe, *terms, rescale=0.7, share_prefix=False):
            full = oracle.run(small, **options)
        assert torch.equal(shared, full)


class Counter:
    """Counts rows that each block is evaluated on, by path."""

    def __init__(self, small: Tiny):
        self.rows: dict[str, int] = {}
        self.hooks = []
        for model in oracle.models(small):
            for stack in family_of(small.pipe).stacks.values():
                for i, block in enumerate(model.get_submodule(stack.path)):  # type: ignore[arg-type]
                    self.rows[f"{stack.path}.{i}"] = 0
                    self.hooks.append(
                        block.register_forward_pre_hook(self.count(f"{stack.path}.{i}"), with_kwargs=True)
                    )

    def count(self, path: str) -> Any:
        def note(_: Any, args: Any, kwargs: Any) -> None:
            self.rows[path] += len(next(v for v in (*args, *kwargs.values()) if torch.is_tensor(v)))

        return note

    def __enter__(self) -> dict[str, int]:
        return self.rows

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()


def test_blocks_before_the_first_skipped_one_do_not_run_again(small: Tiny) -> None:
    _, stacks = family_and_stacks(small)
    name, last = stacks[-1]
    with Counter(small) as plain:
        oracle.run(small, **small.short, **small.off)
    with guide(small.pipe, STG([f"{name}:1"])), Counter(small) as shared:
        oracle.run(small, **small.short, **small.off)
    with guide(small.pipe, STG([f"{name}:1"]), share_prefix=False), Counter(small) as full:
        oracle.run(small, **small.short, **small.off)
    order = list(plain)
    if family_of(small.pipe).paired:
        order.sort(key=lambda path: int(path.rpartition(".")[2]))
    k = order.index(f"{last.path}.1")
    cond = {path: rows // (2 if not small.off else 1) for path, rows in plain.items()}  # a guider keeps CFG on here
    assert shared == {path: plain[path] + (cond[path] if order.index(path) > k else 0) for path in order}
    assert full == {path: plain[path] + (cond[path] if path != order[k] else 0) for path in order}


# --- SLG --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_slg_skips_in_the_uncond_pass_alone_and_costs_less_than_cfg(small: Tiny, skip: str) -> None:
    name, stack = family_and_stacks(small)[1][0]
    skip = skip if stack.attention else "residual"
    path = f"{stack.path}.1"
    theirs = oracle.by_hand(small, [], attentions_of(small, stack), slg=oracle.Term([path], skip, []))
    with Counter(small) as plain:
        unguided = oracle.run(small, **small.short)
    with guide(small.pipe, SLG([f"{name}:1"], skip)) as handle, Counter(small) as counted:
        ours = oracle.run(small, **small.short)
    assert_equal(ours, theirs, unguided)
    if skip == "residual":  # the uncond half of its rows was not evaluated
        assert counted == {**plain, path: plain[path] // 2}
        assert handle.passes_per_step < 2
    else:
        assert counted == plain


def test_slg_without_cfg_is_refused_with_the_reason(small: Tiny) -> None:
    if small.off:
        with (
            guide(small.pipe, SLG([1])),
            pytest.raises(ValueError, match="SLG needs CFG, because it skips layers in the u"),
        ):
            oracle.run(small, **small.off)


def test_slg_and_stg_together_are_u_weak_and_c_pushed(small: Tiny) -> None:
    name = family_and_stacks(small)[1][-1][0]
    with guide(small.pipe, SLG([f"{name}:1"]), STG([f"{name}:2"]), rescale=0.3):
        both = oracle.run(small)
    with guide(small.pipe, SLG([f"{name}:1"]), STG([f"{name}:2"]), rescale=0.3, share_prefix=False):
        assert torch.equal(oracle.run(small), both)
    with guide(small.pipe, SLG([f"{name}:1"]), rescale=0.3):
        assert not torch.equal(oracle.run(small), both)


# --- without a trace --------------------------------------------------------------------------------------------------


def modules_of(small: Tiny) -> list[int]:
    """The entries of every module's children, whatever stands there."""
    modules = [module for model in oracle.models(small) for module in model.modules()]
    return [id(child) for module in modules for child in module._modules.values()]


def trace_of(small: Tiny) -> list[Any]:
    """Everything that guidance could leave behind: modules, their attributes, their hooks."""
    found: list[Any] = []
    for model in oracle.models(small):
        for name, module in model.named_modules():
            found.append((name, id(module), sorted(vars(module)), getattr(module.forward, "__func__", None)))
            hooks = {key: value for key, value in vars(module).items() if "hook" in key and isinstance(value, dict)}
            found += [(key, len(value)) for key, value in hooks.items()]
    return found


def test_bit_equal_with_scale_zero_after_removal_and_after_an_exception(small: Tiny) -> None:
    plain = oracle.run(small)
    before, real = trace_of(small), modules_of(small)
    name, stack = family_and_stacks(small)[1][-1]
    term = STG([f"{name}:1"])
    with guide(small.pipe, STG([f"{name}:1"], scale=0.0), rescale=0.7):
        assert torch.equal(oracle.run(small), plain)
    with guide(small.pipe, term):
        expected = oracle.run(small)
        assert not torch.equal(expected, plain)
        for call in (0, 1, 2):  # in a strong pass, a weak one, and whatever comes third
            calls = iter(range(10**6))

            def fail(*_: Any, calls: Any = calls, call: int = call) -> None:
                if next(calls) == call:
                    raise RuntimeError("out of memory")

            hook = oracle.models(small)[0].get_submodule(f"{stack.path}.2").register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                oracle.run(small)
            hook.remove()
            assert modules_of(small) == real  # at once, with the guidance still on
        assert torch.equal(oracle.run(small), expected)
    assert trace_of(small) == before
    assert torch.equal(oracle.run(small), plain)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDED)
def test_bfloat16(name: str) -> None:
    """Runs, is guided, and what comes out has the precision that it has without guidance."""
    if name == "SanaWMPipeline":
        pytest.skip("SANA-WM refuses to build its camera rays in bfloat16 on a CPU")
    small = tiny(name, torch.bfloat16)
    layer = f"{family_and_stacks(small)[1][-1][0]}:1"
    plain = oracle.run(small)
    with guide(small.pipe, STG([layer])):
        shared = oracle.run(small)
    with guide(small.pipe, STG([layer]), share_prefix=False):
        full = oracle.run(small)
    assert torch.equal(shared, full)
    assert shared.dtype == plain.dtype
    assert torch.isfinite(shared).all()
    assert not torch.equal(shared, plain)


# --- the rows ---------------------------------------------------------------------------------------------------------


def test_every_pipeline_of_every_row_has_a_tiny_one() -> None:
    named = {name for row in FAMILIES for name in row.pipelines}
    assert named == {name.split()[0] for name in GUIDED}
    assert not named & set(REFUSED)


def test_row_names_things_that_exist(small: Tiny) -> None:
    family, stacks = family_and_stacks(small)
    assert hasattr(diffusers, family.model)
    assert hasattr(diffusers, type(small.pipe).__name__)
    for model in oracle.models(small):
        assert type(model).__name__ == family.model
        assert set(family.batched) <= set(inspect.signature(model.forward).parameters)
        for _, stack in stacks:
            block = model.get_submodule(f"{stack.path}.0")
            assert tuple(inspect.signature(block.forward).parameters)[: len(stack.streams)] == stack.streams
            assert set(stack.attention) == set(attentions_of(small, stack)) or family.name == "sana-wm"
    assert calls_of(small.pipe).how in ("batched", "separate", "guider")


def test_public_pipelines_of_diffusers_have_a_row_or_a_reason() -> None:
    """A new video pipeline of diffusers is noticed here."""
    video = set()
    for name in dir(diffusers):
        if name.endswith("Pipeline") and not name.startswith(("Flax", "Auto", "Onnx")) and "Modular" not in name:
            module = getattr(diffusers, name).__module__
            source = inspect.getsource(__import__("importlib").import_module(module))
            if "num_frames" in source or "video_length" in source:
                video.add(name)
    rows = {name for row in FAMILIES for name in row.pipelines}
    assert video - rows - set(REFUSED) == set()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_subclass_of_a_known_pipeline() -> None:
    pipe = tiny("MochiPipeline").pipe
    derived = type("MyMochiPipeline", (MochiPipeline,), {})(**pipe.components)
    assert family_of(derived).name == "mochi"


def test_compiled_wrapper_is_refused_with_the_way_out() -> None:
    pipe = tiny("MochiPipeline").pipe
    other = MochiPipeline(**pipe.components)
    vars(other)["transformer"] = torch.compile(pipe.transformer, backend="eager")
    with pytest.raises(
        ValueError, match=r"got the wrapper of torch.compile\(\). Compile in place: pipe.transformer.comp"
    ):
        family_of(other)


class StrangePipeline:
    transformer = torch.nn.Linear(1, 1)


def test_unknown_pipeline_names_the_nearest_and_the_file() -> None:
    with pytest.raises(ValueError, match=r"got StrangePipeline. Nearest known: .*Pipeline.*add a row to FAMILIES"):
        family_of(StrangePipeline())


def test_modular_pipelines_are_told_of_the_guider() -> None:
    modular = type("WanModularPipeline", (type("ModularPipeline", (), {}),), {})()
    with pytest.raises(
        ValueError, match=r"steps of a Modular pipeline are its guider's. Give it one: pipe.update_comp"
    ):
        guide(modular, STG([1]))


def test_unknown_denoiser_is_named() -> None:
    pipe = tiny("MochiPipeline").pipe
    other = MochiPipeline(**{**pipe.components, "transformer": None})
    with pytest.raises(ValueError, match=r"needs a MochiTransformer3DModel as its .transformer, but got NoneType"):
        family_of(other)


def test_cfg_zero_star_is_refused() -> None:
    small = tiny("HeliosPyramidPipeline zero")
    with guide(small.pipe, STG([1])), pytest.raises(ValueError, match="is_cfg_zero_star=True is another formula"):
        oracle.run(small)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_pipelines_say_why(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot guide {name}: "):
        guide(type(name, (), {})(), STG([1]))

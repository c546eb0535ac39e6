"""Every row of families/rows.py, on a tiny pipeline of each of its pipeline classes, against the
oracles of oracle.py."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from packaging.version import Version

from skipguide import SLG, STG, guide
from skipguide.families.lookup import call_convention_of, family_of
from skipguide.families.rows import COMPARED_WITH, FAMILIES, REFUSED_PIPELINES
from skipguide.families.schema import Stack
from support import oracle
from support.tiny import tiny, without_cfg
from support.tiny.base import Tiny
from support.written import (
    GUIDED,
    STACKED,
    addresses,
    assert_equal,
    attentions_of,
    by_hand,
    ends_of,
    has_attention,
    is_unet,
    modules_of,
    paths_of,
    settings,
    trace_of,
)


@pytest.fixture(params=GUIDED)
def small(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


@pytest.fixture(params=STACKED)
def stacked(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


def stacks_of(small: Tiny) -> list[tuple[str, Stack]]:
    return list(family_of(small.pipe).stacks.items())


# --- the formula ----------------------------------------------------------------------------------


def test_the_oracle_itself_is_diffusers_own_cfg(small: Tiny) -> None:
    for options in settings(small):
        plain = oracle.run(small, **small.short, **options)
        torch.testing.assert_close(by_hand(small, [], **options), plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_equals_separate_full_passes(small: Tiny, skip: str) -> None:
    """Each stack's first, a middle and its last layer; and so of each part of a UNet."""
    plain, heard = oracle.run(small, **small.short), {}
    stop = 0.5 if is_unet(small) else 1.0  # one step is enough for as many layers
    for layer in (layer for part in addresses(small).values() for layer in ends_of(part)):
        if skip == "attention" and not has_attention(small, layer):
            with pytest.raises(
                ValueError, match=r"skip must be one that .* has \(residual, shuffle\)"
            ):
                guide(small.pipe, STG([layer], skip=skip))
            continue
        term = STG([layer], 1.3, skip, stop=stop)
        with guide(small.pipe, term):
            ours = oracle.run(small, **small.short)
        assert_equal(small, ours, by_hand(small, [term], heard=heard), plain)


def several(small: Tiny) -> list[STG]:
    """Terms of both kinds and of both axes of a UNet (Eq. 20), with windows, that start at
    different layers."""
    half = 0.5 if small.windows else 0.0
    parts = list(addresses(small).values())
    first, last = parts[0], parts[-1]
    if is_unet(small):
        spatial = next(layer for layer in last if paths_of(small, [layer], "residual", "spatial"))
        return [
            STG([spatial], 0.8, axis="spatial", stop=1 - half),
            STG(["mid:0", last[-1]], 1.2, "attention", family_of(small.pipe).axes[-1]),
            STG([first[0], "mid:0"], 0.3, start=half),
        ]
    return [
        STG([last[1]], 0.8, stop=1 - half),
        STG(
            [first[1], last[2]], 1.2, "attention" if has_attention(small, first[1]) else "residual"
        ),
        STG(first[:2], 0.3, start=half),
    ]


@pytest.mark.diagonal
@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_several_terms_and_layers_windows_and_rescale(small: Tiny, phi: float) -> None:
    terms = several(small)
    for options in settings(small):
        plain = oracle.run(small, **small.short, **options)
        with guide(small.pipe, *terms, rescale=phi):
            ours = oracle.run(small, **small.short, **options)
        assert_equal(small, ours, by_hand(small, terms, phi, **options), plain)


@pytest.mark.parametrize("axis", ["spatial", "temporal"])
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_one_axis_of_blocks_in_turn(skip: str, axis: str) -> None:
    """Latte's layers are a block of space and one of time each; and both axes with a scale of its
    own are Eq. 20."""
    small = tiny("LattePipeline")
    plain, heard = oracle.run(small, **small.short), {}
    other = "temporal" if axis == "spatial" else "spatial"
    for terms in (
        [STG([1], 1.3, skip, axis)],
        [STG([0, 2], 1.3, skip, axis), STG([2], 0.4, "attention", other)],
    ):
        with guide(small.pipe, *terms, rescale=0.7):
            ours = oracle.run(small, **small.short)
        assert_equal(small, ours, by_hand(small, terms, 0.7, heard=heard), plain)
        with guide(small.pipe, *terms, rescale=0.7, share_prefix=False):
            assert torch.equal(oracle.run(small, **small.short), ours)


# --- Eq. 21 ---------------------------------------------------------------------------------------

# In an order that is not that of the layers; the middle one is off, for the audio at least.
ORTHOGONAL = {
    "MochiPipeline": [STG([2], 1.3), STG([0], 0.0), STG([1], 0.9, "attention"), STG([3], 0.4)],
    "LattePipeline": [
        STG([2], 1.3, axis="temporal"),
        STG([1], 0.0),
        STG([1], 0.9, "attention"),
        STG([0], 0.4),
    ],
    "LTX2Pipeline": [STG([2], 1.3), STG([0], 0.7, audio_scale=0.0), STG([1], 0.9, audio_scale=1.4)],
    "StableVideoDiffusionPipeline": [
        STG(["up:1"], 1.3, axis="temporal"),
        STG(["mid:0"], 0.0),
        STG(["down:1"], 0.9, "attention"),
        STG(["up:0"], 0.4),
    ],
    "AnimateDiffPipeline": [
        STG(["up:2"], 1.3, axis="temporal"),
        STG(["mid:0"], 0.0),
        STG(["down:0"], 0.9, "attention"),
        STG(["up:0"], 0.4),
    ],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name == "AnimateDiffPipeline" else [])
        for name in ORTHOGONAL
    ],
)
def test_orthogonalized_terms(name: str) -> None:
    """Two and three terms, per sample and output, of the predictions alone, with and without
    rescale and CFG."""
    small, terms = tiny(name), ORTHOGONAL[name]
    for count, phi, options in (
        (len(terms) - 1, 0.0, {}),
        (len(terms), 0.7, {}),
        (len(terms), 0.0, small.off),
    ):
        with guide(small.pipe, *terms[:count], rescale=phi):
            plain = oracle.run(small, **small.short, **options)
        with guide(small.pipe, *terms[:count], rescale=phi, orthogonalize=True):
            ours = oracle.run(small, **small.short, **options)
        assert_equal(
            small, ours, by_hand(small, terms[:count], phi, orthogonalize=True, **options), plain
        )


def test_two_terms_alike_are_one_if_they_are_orthogonalized() -> None:
    small = tiny("AnimateDiffPipeline")
    term, alike = STG(["up:1"], 1.3, "attention"), STG(["up:1"], 99.0, "attention")
    with guide(small.pipe, term):
        expected = oracle.run(small, **small.short)
    with guide(small.pipe, term, alike, orthogonalize=True):
        torch.testing.assert_close(oracle.run(small, **small.short), expected, atol=1e-4, rtol=1e-4)
    with guide(
        small.pipe, term, STG(["up:2"], 0.0), orthogonalize=True
    ):  # one that is off takes no part
        assert torch.equal(oracle.run(small, **small.short), expected)


# --- the shared prefix ----------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_shared_prefix_is_bit_equal_to_full_weak_passes(small: Tiny, skip: str) -> None:
    last = list(addresses(small).values())[-1]
    skip = skip if has_attention(small, last[1]) else "residual"
    terms = [STG(last[1:3], skip=skip), STG([last[-1]], 0.7)]
    if is_unet(small):
        axis = family_of(small.pipe).axes[-1]
        terms += [STG(["mid:0"], 0.4, skip, axis), STG([last[-1]], 0.3, skip, axis)]
    for options in settings(small):
        with guide(small.pipe, *terms, rescale=0.7):
            shared = oracle.run(small, **options)
        with guide(small.pipe, *terms, rescale=0.7, share_prefix=False):
            full = oracle.run(small, **options)
        assert torch.equal(shared, full)


class Counter:
    """Counts rows that each block is evaluated on, by path."""

    def __init__(self, small: Tiny, more: Sequence[str] = ()):
        self.rows: dict[str, int] = {}
        self.hooks = []
        stacks = [] if is_unet(small) else [stack.path for _, stack in stacks_of(small)]
        for model in oracle.models(small):
            blocks = [
                f"{path}.{i}" for path in stacks for i in range(len(model.get_submodule(path)))
            ]
            for path in dict.fromkeys([*blocks, *more]):
                self.rows[path] = 0
                self.hooks.append(
                    model.get_submodule(path).register_forward_pre_hook(
                        self.count(path), with_kwargs=True
                    )
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


def test_blocks_before_the_first_skipped_one_do_not_run_again(stacked: Tiny) -> None:
    """UNets: in test_unets.py."""
    small = stacked
    name, last = stacks_of(small)[-1]
    with Counter(small) as plain:
        oracle.run(small, **small.short, **small.off)
    with guide(small.pipe, STG([f"{name}:1"])), Counter(small) as shared:
        oracle.run(small, **small.short, **small.off)
    with guide(small.pipe, STG([f"{name}:1"]), share_prefix=False), Counter(small) as full:
        oracle.run(small, **small.short, **small.off)
    order = list(plain)
    if family_of(small.pipe).interleaved:
        order.sort(key=lambda path: int(path.rpartition(".")[2]))
    k = order.index(f"{last.path}.1")
    cond = {
        path: rows // (2 if not small.off else 1) for path, rows in plain.items()
    }  # a guider keeps CFG on here
    assert shared == {
        path: plain[path] + (cond[path] if order.index(path) > k else 0) for path in order
    }
    assert full == {path: plain[path] + (cond[path] if path != order[k] else 0) for path in order}


# --- SLG ------------------------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_slg_skips_in_the_uncond_pass_alone_and_costs_less_than_cfg(small: Tiny, skip: str) -> None:
    layer = "mid:0" if is_unet(small) else next(iter(addresses(small).values()))[1]
    skip = skip if has_attention(small, layer) else "residual"
    paths = paths_of(small, [layer], skip, None)
    theirs = oracle.by_hand(small, [], attentions_of(small), slg=oracle.Term(paths, skip, []))
    with Counter(small, paths) as plain:
        unguided = oracle.run(small, **small.short)
    with guide(small.pipe, SLG([layer], skip)) as handle, Counter(small, paths) as counted:
        ours = oracle.run(small, **small.short)
    assert_equal(small, ours, theirs, unguided)
    if skip == "residual":  # the uncond half of its rows was not evaluated
        assert counted == {**plain, **{path: plain[path] // 2 for path in paths}}
        assert handle.passes_per_step < 2
    else:
        assert counted == plain


def test_slg_without_cfg_is_refused_with_the_reason(small: Tiny) -> None:
    if small.off:
        layer = "mid:0" if is_unet(small) else 1
        with (
            guide(small.pipe, SLG([layer])),
            pytest.raises(ValueError, match="SLG needs CFG, because it skips layers in the u"),
        ):
            oracle.run(small, **small.off)


def test_slg_and_stg_together_are_u_weak_and_c_pushed(small: Tiny) -> None:
    last = list(addresses(small).values())[-1]
    slg, stg = SLG([last[-2]]), STG([last[-1]])
    with guide(small.pipe, slg, stg, rescale=0.3):
        both = oracle.run(small)
    with guide(small.pipe, slg, stg, rescale=0.3, share_prefix=False):
        assert torch.equal(oracle.run(small), both)
    with guide(small.pipe, slg, rescale=0.3):
        assert not torch.equal(oracle.run(small), both)


# --- without a trace ------------------------------------------------------------------------------


def test_bit_equal_with_scale_zero_after_removal_and_after_an_exception(small: Tiny) -> None:
    plain = oracle.run(small)
    before, real = trace_of(small), modules_of(small)
    last = list(addresses(small).values())[-1]
    term = STG([last[0] if is_unet(small) else last[1]])
    later = paths_of(small, [last[1] if is_unet(small) else last[2]], "residual", None)[0]
    with guide(small.pipe, dataclasses.replace(term, scale=0.0), rescale=0.7):
        assert torch.equal(oracle.run(small), plain)
    with guide(small.pipe, term):
        expected = oracle.run(small)
        assert not torch.equal(expected, plain)
        for call in (0, 1, 2):  # in a strong pass, a weak one, and whatever comes third
            calls = iter(range(10**6))

            def fail(*_: Any, calls: Any = calls, call: int = call) -> None:
                if next(calls) == call:
                    raise RuntimeError("out of memory")

            hook = oracle.models(small)[0].get_submodule(later).register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                oracle.run(small)
            hook.remove()
            assert modules_of(small) == real  # at once, with the guidance still on
        assert torch.equal(oracle.run(small), expected)
    assert trace_of(small) == before
    assert torch.equal(oracle.run(small), plain)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDED)
def test_bfloat16(name: str) -> None:
    """Runs, is guided, and what comes out has the precision that it has without guidance."""
    if name == "SanaWMPipeline":
        pytest.skip("SANA-WM refuses to build its camera rays in bfloat16 on a CPU")
    small = tiny(name, torch.bfloat16)
    layer = list(addresses(small).values())[-1][1]
    plain = oracle.run(small)
    with guide(small.pipe, STG([layer])):
        shared = oracle.run(small)
    with guide(small.pipe, STG([layer]), share_prefix=False):
        full = oracle.run(small)
    assert torch.equal(shared, full)
    assert shared.dtype == plain.dtype
    assert torch.isfinite(shared).all()
    assert not torch.equal(shared, plain)


# Their blocks are called with names alone, so that their streams need not be their first arguments.
BY_NAME = {"hidream"}


# --- the rows -------------------------------------------------------------------------------------


def test_every_pipeline_of_every_row_has_a_tiny_one() -> None:
    named = {name for row in FAMILIES for name in row.pipelines}
    assert named == {name.split()[0] for name in (*GUIDED, *without_cfg())}
    assert not named & set(REFUSED_PIPELINES)


def test_row_names_things_that_exist(small: Tiny) -> None:
    family = family_of(small.pipe)
    home = importlib.import_module(family.package)
    assert hasattr(home, family.model)
    assert hasattr(home, type(small.pipe).__name__)
    for model in oracle.models(small):
        assert type(model).__name__ == family.model
        assert set(family.batched_inputs) <= set(inspect.signature(model.forward).parameters)
        for _, stack in [] if is_unet(small) else stacks_of(small):
            block = model.get_submodule(f"{stack.path}.0")
            first = tuple(inspect.signature(block.forward).parameters)[: len(stack.streams)]
            assert first == stack.streams or family.name in BY_NAME
            assert set(stack.attention) == set(attentions_of(small)) or family.name == "sana-wm"
    assert call_convention_of(small.pipe).cfg_mode in ("batched", "separate", "guider")


# Kolors, which can be imported where sentencepiece is, scripts a function of its text encoder.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_public_pipelines_of_diffusers_have_a_row_or_a_reason() -> None:
    """A new video pipeline of diffusers is noticed here."""
    video = set()
    for name in dir(diffusers):
        if (
            name.endswith("Pipeline")
            and not name.startswith(("Flax", "Auto", "Onnx"))
            and "Modular" not in name
        ):
            module = getattr(diffusers, name).__module__
            source = inspect.getsource(__import__("importlib").import_module(module))
            if "num_frames" in source or "video_length" in source:
                video.add(name)
    rows = {name for row in FAMILIES for name in row.pipelines}
    assert video - rows - set(REFUSED_PIPELINES) == set()


def video_pipelines_of_modular_diffusers() -> dict[str, type[Any]]:
    """The Modular pipelines whose blocks return videos, by the name of their class."""
    found = {}
    for name in dir(diffusers):
        if name.endswith("ModularPipeline") and name != "ModularPipeline":
            kind = getattr(diffusers, name)
            folder = Path(inspect.getfile(kind)).parent
            source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
            if '"videos"' in source:
                found[name] = kind
    return found


def test_modular_pipelines_with_a_guider_have_a_row_and_the_others_a_reason() -> None:
    """By what the pipelines themselves say of their parts: which denoiser, and whether a guider."""
    models = {row.model: row for row in FAMILIES}
    known = {name: row for row in FAMILIES for name in row.modular}
    itself = {name: calls for row in FAMILIES for name, calls in row.pipelines.items()}
    kinds = video_pipelines_of_modular_diffusers()
    assert len(kinds) > 10
    for name, kind in kinds.items():
        parts = kind()._component_specs
        denoisers = {
            part.type_hint.__name__ for key, part in parts.items() if key.startswith("transformer")
        }
        guided = [models[model].name for model in denoisers if model in models]
        if "guider" in parts and guided:
            assert known[name].name in guided, name
        elif name in itself:  # guide() takes the pipeline
            assert itself[name].cfg_mode == "none", name
        else:
            assert name in REFUSED_PIPELINES, f"{name} has neither a row nor a reason"
    assert {name for name, row in known.items() if row.makes == "video"} <= set(kinds)


def test_the_rows_were_compared_with_this_diffusers() -> None:
    """A newer one has to be: its new pipelines may need rows, and old ones may call otherwise."""
    assert Version(diffusers.__version__) <= Version(COMPARED_WITH)


# --- what is refused ------------------------------------------------------------------------------


def test_subclass_of_a_known_pipeline() -> None:
    pipe = tiny("MochiPipeline").pipe
    derived = type("MyMochiPipeline", (MochiPipeline,), {})(**pipe.components)
    assert family_of(derived).name == "mochi"


def test_compiled_wrapper_is_refused_with_the_way_out() -> None:
    pipe = tiny("MochiPipeline").pipe
    other = MochiPipeline(**pipe.components)
    vars(other)["transformer"] = torch.compile(pipe.transformer, backend="eager")
    with pytest.raises(
        ValueError,
        match=r"got the wrapper of torch.compile\(\). Compile in place: pipe.transformer.comp",
    ):
        family_of(other)


class StrangePipeline:
    transformer = torch.nn.Linear(1, 1)


def test_unknown_pipeline_names_the_nearest_and_the_file() -> None:
    with pytest.raises(
        ValueError,
        match=r"got StrangePipeline. Nearest known: .*Pipeline.*add a row to FAMILIES in",
    ):
        family_of(StrangePipeline())


def test_modular_pipelines_are_told_of_the_guider() -> None:
    modular = type("WanModularPipeline", (type("ModularPipeline", (), {}),), {})()
    with pytest.raises(
        ValueError,
        match=r"of a Modular pipeline belongs to its guider. Set one: pipe.update_components\(",
    ):
        guide(modular, STG([1]))


def test_unknown_denoiser_is_named() -> None:
    pipe = tiny("MochiPipeline").pipe
    other = MochiPipeline(**{**pipe.components, "transformer": None})
    with pytest.raises(
        ValueError, match=r"needs a MochiTransformer3DModel as its .transformer, but got NoneType"
    ):
        family_of(other)


def test_cfg_zero_star_is_refused() -> None:
    small = tiny("HeliosPyramidPipeline zero")
    with (
        guide(small.pipe, STG([1])),
        pytest.raises(ValueError, match="is_cfg_zero_star=True is another formula"),
    ):
        oracle.run(small)


@pytest.mark.parametrize("name", sorted(REFUSED_PIPELINES))
def test_refused_pipelines_say_why(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot guide {name}: "):
        guide(type(name, (), {})(), STG([1]))

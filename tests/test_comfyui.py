"""The parts of the node pack that need no ComfyUI: layers, schedules, presets, blocks, the formula.

Toy models stand in for ComfyUI's: one knows block replacement patches, the other does not. Both add
to their input in place, as ComfyUI's do. The oracle is the toy written out by hand, without the
blocks that are skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from comfyui._skipguide.families.blocks import layer_sites  # noqa: E402
from comfyui._skipguide.method.formula import rescale  # noqa: E402
from comfyui._skipguide.method.request import GuidanceRequest  # noqa: E402
from comfyui._skipguide.method.terms import SLG, STG, Bin, Modality, Schedule  # noqa: E402
from comfyui._skipguide.tuning.scan.layer_map import LayerMap  # noqa: E402
from comfyui._skipguide.tuning.scan.record import ScanState  # noqa: E402

from comfyui import (  # noqa: E402
    attention,
    bins,
    blocks,
    foreign,
    map_image,
    models,
    node_request,
    preset_files,
    published,
    scan,
    vendor,
)

DEPTH = 6


class Attention(nn.Module):
    """Self-attention as ComfyUI has it: an override comes in transformer_options."""

    def __init__(self) -> None:
        super().__init__()
        self.to_v = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        override = transformer_options.get("optimized_attention_override")
        given = x, x, self.to_v(x), 2
        return override(_attend, *given) if override else _attend(*given)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _heads: int = 2) -> torch.Tensor:
    return (q @ k.mT / 3).softmax(-1) @ v


class Block(nn.Module):
    """Adds its attention to its input, in place, and says that it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.runs = 0

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        self.runs += 1
        x += self.self_attn(x, transformer_options=transformer_options)
        return x


class WanModel(nn.Module):
    """Knows block replacement patches."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        replaced = transformer_options.get("patches_replace", {}).get("dit", {})
        x = x + 1
        for index, block in enumerate(self.blocks):
            patch = replaced.get(("double_block", index))
            if patch is None:
                x = block(x, transformer_options=transformer_options)
                continue

            def original(args: dict[str, Any], block: nn.Module = block) -> dict[str, Any]:
                return {"img": block(args["img"], transformer_options=args["transformer_options"])}

            x = patch(
                {"img": x, "transformer_options": transformer_options}, {"original_block": original}
            )["img"]
        return x


class MiniTrainDIT(WanModel):
    """Knows none."""

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        x = x + 1
        for block in self.blocks:
            x = block(x, transformer_options=transformer_options)
        return x


MODELS = [WanModel, MiniTrainDIT]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> WanModel:
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))


def blocks_in(model: WanModel) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def record(
    model: WanModel, x: torch.Tensor, recording: blocks.Recording, position: int, uuids: list[Any]
) -> torch.Tensor:
    changes = {position: recording.recorder(position, uuids)}
    with blocks.attached(models.block_chain(model), changes, {}) as options:
        return model(x, transformer_options=options)


def run_weak(
    model: WanModel, x: torch.Tensor, text: str, skip: str, recorded: blocks.Streams | None
) -> torch.Tensor:
    chain = models.block_chain(model)
    skipped = chain.skipped_by(STG(node_request.read_layers(text), skip=skip))
    changes = blocks.weak_changes(skipped, skip, recorded)
    identities = skipped if skip == "attention" else ()
    with blocks.attached(chain, changes, {}, identities) as options:
        return model(x, transformer_options=options)


def written_out(model: WanModel, x: torch.Tensor, skipped: set[int], skip: str) -> torch.Tensor:
    """Run the toy by hand."""
    x = x + 1
    for index, block in enumerate(blocks_in(model)):
        v = block.self_attn.to_v(x)
        if index not in skipped:
            x = x + _attend(x, x, v)
        elif skip == "attention":
            x = x + v
    return x


@torch.no_grad()
@pytest.mark.parametrize("skip", node_request.SKIPS)
@pytest.mark.parametrize("text", ["0", "3", "2-3", "5", "1, 4"])
def test_weak_pass_from_record_is_the_full_one(
    model: WanModel, x: torch.Tensor, text: str, skip: str
) -> None:
    numbers = {int(layer) for layer in node_request.read_layers(text)}
    recording = blocks.Recording([min(numbers)])
    plain = record(model, x, recording, min(numbers), ["a", "b"])
    for block in blocks_in(model):
        block.runs = 0
    shared = run_weak(model, x, text, skip, recording.streams(min(numbers), ["a", "b"]))
    ran = sum(block.runs for block in blocks_in(model))
    assert ran == DEPTH - min(numbers) - (len(numbers) if skip == "residual" else 0)
    assert torch.equal(shared, run_weak(model, x, text, skip, None))
    assert torch.allclose(shared, written_out(model, x, numbers, skip), atol=1e-5)
    assert not torch.allclose(shared, plain)


@torch.no_grad()
def test_rows_of_a_record_are_found_by_prompt(model: WanModel, x: torch.Tensor) -> None:
    recording = blocks.Recording([3])
    record(model, x, recording, 3, ["a", "b"])
    for uuids, rows in ((["b"], x[2:]), (["b", "a"], x[[2, 3, 0, 1]])):
        assert torch.equal(
            run_weak(model, rows, "3", "residual", recording.streams(3, uuids)),
            run_weak(model, rows, "3", "residual", None),
        )


@torch.no_grad()
def test_record_of_a_prompt_that_ran_twice_or_never_is_not_used(
    model: WanModel, x: torch.Tensor
) -> None:
    recording = blocks.Recording([3])
    for _ in range(2):
        record(model, x, recording, 3, ["a", "b"])
    assert recording.streams(3, ["a"]) is None
    assert recording.streams(3, ["c"]) is None
    recording.clear()
    record(model, x, recording, 3, ["a", "b"])
    assert recording.streams(3, ["a", "b"]) is not None


@torch.no_grad()
@pytest.mark.parametrize("skip", node_request.SKIPS)
@pytest.mark.parametrize("first_blocks", [0, 1])
def test_a_cache_that_leaves_out_blocks_is_refused_whatever_its_name(
    model: WanModel, x: torch.Tensor, skip: str, first_blocks: int
) -> None:
    """In the way of TeaCache, or of First Block Cache: inputs that are nearly the last ones get
    what all blocks added to those."""
    usual, kept = model.forward, list[torch.Tensor]()

    def forward(x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        if kept and (kept[0] - x).norm() < 0.01 * x.norm():
            for block in list(model.blocks)[:first_blocks]:
                block(x + 1, transformer_options=transformer_options)
            return x + kept[1]
        kept[:] = [x.clone(), usual(x, transformer_options) - x]
        return x + kept[1]

    model.forward = forward  # type: ignore[method-assign]
    recording = blocks.Recording([2])
    record(model, x, recording, 2, ["a", "b"])
    recorded = recording.streams(2, ["a", "b"])
    message = r'^block "block:\d" must run in each pass of a guided step, but the model did not'
    for given in (recorded, None):
        with pytest.raises(RuntimeError, match=message):
            run_weak(model, x, "2", skip, given)
    with pytest.raises(RuntimeError, match=message):
        record(model, x, recording, 2, ["a", "b"])


@torch.no_grad()
@pytest.mark.parametrize("skip", node_request.SKIPS)
def test_rows_of_some_prompts_are_weakened_and_the_others_run(
    model: WanModel, x: torch.Tensor, skip: str
) -> None:
    """In one batch, as other nodes' attention may look at all of it; and one inside of another."""
    chain = models.block_chain(model)

    def part(at: int, rows: list[bool]) -> blocks.Part:
        changes = blocks.weak_changes([at], skip, None)
        return blocks.Part(changes, [at] if skip == "attention" else (), rows)

    def run(*parts: blocks.Part) -> torch.Tensor:
        with contextlib.ExitStack() as stack:
            options: dict[str, Any] = {}
            for one in parts:
                options = stack.enter_context(
                    blocks.attached(chain, one.changes, options, one.identities, one.rows)
                )
            return model(x, transformer_options=options)

    found = run(part(3, [False, True]), part(2, [True, False]))
    expected = [written_out(model, x[:2], {2}, skip), written_out(model, x[2:], {3}, skip)]
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    both = run(part(3, [False, True]), part(3, [True, False]))
    assert torch.allclose(both, written_out(model, x, {3}, skip), atol=1e-5)


@torch.no_grad()
def test_rows_without_a_prompt_are_not_recorded(model: WanModel, x: torch.Tensor) -> None:
    recording = blocks.Recording([3])
    record(model, x, recording, 3, [None, "b"])
    assert recording.streams(3, [None]) is None
    kept = recording.streams(3, ["b"])
    assert kept is not None
    assert [len(value) for value in kept.values()] == [2]


@torch.no_grad()
def test_attention_that_takes_no_override_is_refused(model: WanModel, x: torch.Tensor) -> None:
    """Another node may have code of its own in the place of a block's attention."""
    own = blocks_in(model)[2].self_attn
    own.forward = lambda x, transformer_options: _attend(x, x, own.to_v(x))
    with pytest.raises(RuntimeError, match='of block "block:2" must take the values alone'):
        run_weak(model, x, "2", "attention", None)
    assert torch.allclose(
        run_weak(model, x, "2", "residual", None), written_out(model, x, {2}, "residual")
    )


@torch.no_grad()
def test_a_cache_with_a_state_of_its_own_may_leave_out_all_blocks_or_none(x: torch.Tensor) -> None:
    model = WanModel()
    chain, changes = models.block_chain(model), blocks.weak_changes([2], "residual", None)
    with blocks.attached(chain, changes, {}, may_be_left_out=True):
        pass  # the model is not called
    changes = {1: blocks.run_block, **changes}
    model.blocks = model.blocks[:2]
    with (
        pytest.raises(RuntimeError, match=r"Another node \(a pack\) keeps what an earlier pass"),
        blocks.attached(chain, changes, {}, may_be_left_out=True, suspected="a pack") as options,
    ):
        model(x, transformer_options=options)


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False])
def test_what_compiled_code_does_not_see_runs_uncompiled(x: torch.Tensor, whole: bool) -> None:
    """Compiled as a whole the model does not look at new patches, and no block at new hooks."""
    model = WanModel()
    expected = {skip: written_out(model, x, {2}, skip) for skip in node_request.SKIPS}
    base = nn.Module()
    base.diffusion_model = model
    chain = models.block_chain(model)
    unguarded: dict[str, Any] = {
        "guard_filter_fn": lambda guards: ["options" not in g.name for g in guards]
    }
    if whole:
        compiled: Any = torch.compile(model, backend="eager", options=unguarded)
        base.diffusion_model = compiled
    else:
        for index, block in enumerate(blocks_in(model)):
            model.blocks[index] = torch.compile(block, backend="eager", options=unguarded)  # pyright: ignore[reportArgumentType]
    base.diffusion_model(x, transformer_options={})  # pyright: ignore[reportCallIssue]
    for skip in node_request.SKIPS:
        identities = [2] if skip == "attention" else []
        changes = blocks.weak_changes([2], skip, None)
        with (
            foreign.uncompiled(base, chain, identities) as was_whole,
            blocks.attached(chain, changes, {}, identities) as options,
        ):
            assert was_whole == whole
            found = base.diffusion_model(x, transformer_options=options)  # pyright: ignore[reportCallIssue]
        assert torch.allclose(found, expected[skip], atol=1e-5), skip
    torch._dynamo.reset()


def test_a_window_is_resolved_where_it_runs() -> None:
    asked = node_request.NodeRequest(request(), percents=(0.25, 0.75))
    for shift in (1.0, 3.0):

        def sigma_at(percent: float, shift: float = shift) -> float:
            return shift * (1 - percent) / (1 + (shift - 1) * (1 - percent))

        found = asked.resolved(sigma_at)
        assert found.sigmas == pytest.approx((sigma_at(0.75), sigma_at(0.25)))
        assert [bool(found.active(value)) for value in (sigma_at(0.2), sigma_at(0.5))] == [
            False, True,
        ]  # fmt: skip
    always = node_request.NodeRequest(request())
    assert always.resolved(abs) is always


@pytest.mark.parametrize(
    ("options", "patches", "expected"),
    [
        ({}, [], False),
        ({"patches": {"attn1_output_patch": [print]}}, [], True),
        ({"patches": {"attn2_patch": [print]}}, [], True),
        ({"patches": {"double_block": [print], "attn1_patch": []}}, [], False),
        ({"patches_replace": {"attn1": {("double_block", 1): print}}}, [], True),
        ({"patches_replace": {"dit": {("double_block", 1): print}}}, [], False),
        ({}, ["diffusion_model.blocks.0.cross_attn.forward"], True),
        ({}, ["model_sampling", "diffusion_model.blocks.0.ffn.forward"], False),
    ],
)
def test_code_in_the_attention_sees_the_batch(
    options: dict[str, Any], patches: list[str], expected: bool
) -> None:
    assert foreign.sees_the_batch({"transformer_options": options}, patches) == expected


def test_packs_of_other_nodes_are_named() -> None:
    def around() -> None: ...

    around.__module__ = "/comfy/custom_nodes/Comfy-WaveSpeed.fbcache_nodes"
    wrappers = {"diffusion_model": {"easycache": [], "skipguide": [], None: []}}
    found = {"model_function_wrapper": around, "transformer_options": {"wrappers": wrappers}}
    assert foreign.suspects(found) == "Comfy-WaveSpeed, easycache"
    assert foreign.suspects({}) == ""


@torch.no_grad()
def test_nothing_is_left_behind_also_after_an_error(model: WanModel, x: torch.Tensor) -> None:
    before = [*model.blocks], model(x, transformer_options={})
    with pytest.raises(RuntimeError, match="shapes"):
        run_weak(model, x[..., :3], "2", "attention", None)
    assert [*model.blocks] == before[0]
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(x, transformer_options={}), before[1])


@torch.no_grad()
def test_patch_of_another_node_is_kept_where_the_block_runs(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = WanModel()

    def doubled(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return {"img": 2 * extra["original_block"](args)["img"]}

    theirs = {"patches_replace": {"dit": {("double_block", index): doubled for index in (1, 4)}}}
    chain, recording = models.block_chain(model), blocks.Recording([3])
    with blocks.attached(chain, {3: recording.recorder(3, ["a"])}, theirs) as options:
        model(x, transformer_options=options)
    found = []
    for recorded in (recording.streams(3, ["a"]), None):
        changes = blocks.weak_changes([3], "residual", recorded)
        with blocks.attached(chain, changes, theirs) as options:
            found.append(model(x, transformer_options=options))
    assert torch.equal(*found)
    assert theirs["patches_replace"]["dit"][("double_block", 1)] is doubled


def test_attention_skip_refuses_cross_attention() -> None:
    q, v = torch.zeros(1, 5, 8), torch.zeros(1, 3, 8)
    with pytest.raises(RuntimeError, match="has 5 queries and 3 keys"):
        attention.identity_attention(None, q, v, v, 2)


def test_identity_of_values_that_heads_share_and_of_those_that_are_not_flat() -> None:
    """The oracle is attention itself, as above; SD3 gives values as they lie before the heads."""
    v, q = torch.randn(2, 2, 5, 4), 100 * torch.eye(5)[None, None].expand(2, 4, 5, 5)
    shared = nn.functional.scaled_dot_product_attention(q, q[:, :2], v, enable_gqa=True)
    found = attention.identity_attention(None, q, q[:, :2], v, 4, skip_reshape=True)
    torch.testing.assert_close(found, shared.transpose(1, 2).flatten(2))
    apart = v.transpose(1, 2)
    found = attention.identity_attention(None, apart.flatten(2), apart.flatten(2), apart, 2)
    assert torch.equal(found, apart.flatten(2))


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_identity_has_the_layout_of_attention(heads_first: bool, keep: bool) -> None:
    """The oracle is attention itself, with queries and keys so long that its map is the
    identity."""
    v = torch.randn(2, 3, 5, 4)  # (B, heads, N, D)
    q = 100 * torch.eye(5)[None, None].expand(2, 3, 5, 5)
    expected = nn.functional.scaled_dot_product_attention(q, q, v)
    given = v if heads_first else v.transpose(1, 2).flatten(2)
    found = attention.identity_attention(
        None, given, given, given, 3, skip_reshape=heads_first, skip_output_reshape=keep
    )
    torch.testing.assert_close(found, expected if keep else expected.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9", [9]),
        (" 9 ,10", [9, 10]),
        ("7-9", [7, 8, 9]),
        ("single:3", ["single:3"]),
        ("dual: 2, single:0-1", ["double:2", "single:0", "single:1"]),
        ("3, single:3", [3, "single:3"]),
        ([9, "dual:2"], [9, "double:2"]),
    ],
)
def test_lists_of_layers_are_read_as_people_write_them(text: Any, expected: list[Any]) -> None:
    assert node_request.read_layers(text) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    ["", ",", "9,", "-1", "7-", "a", "9 10", "9;10", "1.5", "9-7", "9,9", "7-9,8", "x:", "²"],
)
def test_anything_else_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(ValueError, match="layer"):
        STG(node_request.read_layers(text))


def test_block_that_is_named_in_two_ways_is_refused(model: WanModel) -> None:
    with pytest.raises(ValueError, match="named once"):
        models.block_chain(model).skipped_by(STG(node_request.read_layers("3, block:3")))


def test_classes_are_known_by_what_they_derive_from() -> None:
    kin = type("SomeNodesWanModel", (WanModel,), {})()
    assert models.block_chain(kin).family.title == "Wan"
    assert models.block_chain(kin).published_as == ()
    unet = type("UNetModel", (nn.Module,), {})()
    with pytest.raises(ValueError, match=r"is Stable Diffusion 1, 2 or XL.*PerturbedAttention"):
        models.block_chain(unet, "SDXL")
    odd = type("HunyuanVideo", (nn.Module,), {})()
    with pytest.raises(ValueError, match=r"has them in other places: .*double_blocks"):
        models.block_chain(odd)


def kept_as(model: str, **attributes: Any) -> nn.Module:
    """Return an empty model of a class, with what tells checkpoints of it apart."""
    made = type(model, (nn.Module,), {})()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (kept_as("WanModel", patch_embedding=nn.Conv3d(16, 4, 1)), {"WanPipeline"}),
        (kept_as("WanModel", patch_embedding=nn.Conv3d(36, 4, 1)), {"WanImageToVideoPipeline"}),
        (kept_as("WanModel", patch_embedding=nn.Conv3d(48, 4, 1)), set()),  # FunControl
        (kept_as("HunyuanVideo", patch_size=[1, 2, 2], in_channels=16), {"HunyuanVideoPipeline"}),
        (kept_as("HunyuanVideo", patch_size=[1, 2, 2], in_channels=33), set()),  # image to video
        (kept_as("HunyuanVideo", patch_size=[1, 1], in_channels=64), set()),  # HunyuanImage
        (kept_as("LTXAVModel", apply_gated_attention=False), {"Lightricks/LTX-2"}),
    ],
)
def test_published_settings_are_for_the_model_that_they_were_published_for(
    model: nn.Module, names: set[str]
) -> None:
    assert set(models.FAMILIES[type(model).__name__].published(model)) == names


def medium_sd3(norm: nn.Module, second_attention: bool) -> nn.Module:
    x_block = kept_as("DismantledBlock", attn=kept_as("SelfAttention", ln_q=norm))
    x_block.x_block_self_attn = second_attention  # type: ignore[assignment]
    rows = nn.ModuleList(kept_as("JointBlock", x_block=x_block) for _ in range(24))
    return kept_as("OpenAISignatureMMDITWrapper", joint_blocks=rows)


@pytest.mark.parametrize(
    ("norm", "second", "names"),
    [
        (nn.RMSNorm(4), True, {"sd3.5-medium", "sd3.5-medium-comfy"}),
        (nn.Identity(), False, {"sd3-pag"}),
        (nn.RMSNorm(4), False, set()),
    ],
    ids=["3.5", "3", "another"],
)
def test_medium_models_of_sd3_are_told_apart(
    norm: nn.Module, second: bool, names: set[str]
) -> None:
    chain = models.block_chain(medium_sd3(norm, second))
    found = {row.name for row in published.presets_for(chain)}
    assert names <= found
    assert bool(found) == bool(names)
    assert ("sd3-pag" in found) == ("sd3-pag" in names)


def test_model_without_a_row_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"is Linear\. It knows: Wan, .* Load one of these"):
        models.block_chain(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("text", "words"), [("6", "from 0 to 5 .6 block., but got 6"), ("single:0", "but got single")]
)
def test_layers_that_the_model_has_not_are_refused(model: WanModel, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.block_chain(model).skipped_by(STG(node_request.read_layers(text)))


def test_blocks_of_a_dictionary_are_found_by_its_names() -> None:
    """Cosmos 1 has a ModuleDict, whose keys are no numbers."""
    model = type("GeneralDIT", (nn.Module,), {})()
    held = {f"block{index}": Block() for index in range(DEPTH)}
    model.blocks = nn.ModuleDict(held)
    assert [site.block for site in models.block_chain(model).sites] == [*held.values()]


@pytest.mark.parametrize(
    ("term", "share", "cost"),
    [
        (STG([2, 4]), True, (DEPTH - 2 - 2) / DEPTH),
        (STG([2, 4], skip="attention"), True, (DEPTH - 2) / DEPTH),
        (STG([2]), False, (DEPTH - 1) / DEPTH),
        (SLG([2, 3]), True, -2 / DEPTH),
    ],
)
def test_cost_counts_the_blocks_that_run(term: STG | SLG, share: bool, cost: float) -> None:
    assert models.block_chain(WanModel()).cost(term, share) == pytest.approx(cost)


def test_schedule_is_read_line_by_line() -> None:
    text = (
        "# first\nsigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5"
        " skip=attention\n\nsigma=0..0.5 cfg=1\nsigma=0.5..0.9 layers=single:3"
    )
    first, second, third = bins.read_schedule(text).bins
    assert first == Bin((0.9, 1.1), (11, 25), 4, "attention", 6, 0.5)
    assert second == Bin((0, 0.5), guidance_scale=1)
    assert third == Bin((0.5, 0.9), ("single:3",), 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one line"),
        ("layers=9", "must have sigma=low..high"),
        ("sigma=0..1 layer=9", "must have sigma=low..high"),
        ("sigma=0..1 9", "each name once"),
        ("sigma=0..1 cfg=1 cfg=2", "each name once"),
        ("sigma=1", "sigma must be a pair"),
        ("sigma=0..x", "sigma must be a pair"),
        ("sigma=1..0", "low < high"),
        ("sigma=0..1 layers=9 rescale=2", "rescale must be a number from 0 to 1"),
        ("sigma=0..1 layers=9 skip=none", "skip must be residual or attention"),
        ("sigma=0..1 layers=9 skip=blur", "skip must be residual or attention"),
        ("sigma=0..1 layers=x", "layers must be"),
        ("sigma=0..1 scale=4", "at least one layer"),
        ("sigma=0..1 cfg=nan", "guidance_scale must be .* but got nan"),
        ("sigma=0..1 cfg=-5", "guidance_scale must be .* but got -5"),
        ("sigma=0..1 cfg=high", "guidance_scale must be .* but got 'high'"),
        ("sigma=0..0.6\nsigma=0.5..1", "must not overlap"),
    ],
)
def test_anything_else_is_no_schedule(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bins.read_schedule(text)


def test_published_bins_of_ltx_13b_are_the_official_ones() -> None:
    """The table of LTX-Video's ltxv-13b-0.9.8-dev.yaml, at the sigmas where ComfyUI-LTXVideo's are
    one bin off."""
    schedule = published.preset_schedule(published.published_presets()["ltx-13b-dev"])
    expected = {
        1.0: (1.0, None, 0.0), 0.995: (6.0, (22, 35, 39), 4.0), 0.99: (8.0, (28,), 4.0),
        0.98: (6.0, (28,), 4.0), 0.95: (1.0, (28,), 2.0), 0.7: (1.0, (28,), 1.0),
    }  # fmt: skip
    request = node_request.schedule_request(schedule)
    for sigma, (cfg, layers, scale) in expected.items():
        assert request.guidance_scale(sigma) == cfg
        terms = [entry.term for entry in request.active(sigma)]
        found = [(term.layers, term.scale, term.skip) for term in terms if isinstance(term, STG)]
        assert found == ([] if layers is None else [(layers, scale, "attention")])


@pytest.mark.parametrize("name", published.published_presets())
def test_every_published_row_can_be_used(name: str) -> None:
    row = published.published_presets()[name]
    if row.schedule:
        made = published.preset_schedule(row)
        assert made.bins
        written = bins.read_schedule(bins.write_schedule(row.schedule)).bins
        close = [pytest.approx(entry.sigma, rel=1e-5) for entry in made.bins]
        assert [entry.sigma for entry in written] == close
        assert [dataclasses.replace(entry, sigma=(0, 1)) for entry in written] == [
            dataclasses.replace(entry, sigma=(0, 1)) for entry in made.bins
        ]
    elif row.layers:
        assert node_request.read_layers(row.layers)


def sized(model: str, width: int = 0, **depths: int) -> models.BlockChain:
    """Return the blocks of a model that has so many in its stacks."""
    family = models.FAMILIES[model]
    holder = nn.Module()
    for name, depth in depths.items():
        setattr(
            holder, family.stacks[name].path, nn.ModuleList(nn.Identity() for _ in range(depth))
        )
    return models.BlockChain(family, layer_sites(family, holder), width, family.published_as)


@pytest.mark.parametrize(
    ("chain", "kind", "scheduled", "name"),
    [
        (sized("WanModel", 1536, block=30), "stg", False, "wan-1.3b"),
        (sized("WanModel", 1536, block=30), "slg", False, "wan-slg-8"),
        (sized("WanModel", 5120, block=40), "stg", False, "wan-14b"),
        (sized("LTXVModel", block=28), "stg", False, "ltx-2b"),
        (sized("LTXVModel", block=48), "stg", True, "ltx-13b-dev"),
        (sized("AsymmDiTJoint", block=48), "stg", False, "mochi"),
    ],
)
def test_recommended_preset_is_found_by_class_and_size(
    chain: models.BlockChain, kind: str, scheduled: bool, name: str
) -> None:
    row = published.recommended_preset(chain, kind, scheduled)
    assert row.name == name
    assert row in published.presets_for(chain)
    assert published.named_preset(name, chain) is row


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (sized("WanModel", 128, block=30), "Wan, of 30 blocks. Choose custom"),
        (sized("AsymmDiTJoint", block=12), "Mochi, of 12 blocks"),  # lab-mochi's size
        (
            sized("Flux", double=20, single=40),
            "Flux or Chroma, of 20 double blocks, 40 single blocks",
        ),
        (sized("LTXVModel", block=48), "needs the node Skip Guidance Schedule"),
    ],
)
def test_model_without_a_preset_is_refused(chain: models.BlockChain, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        published.recommended_preset(chain, "stg")


def test_preset_of_another_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match="mochi-1-preview, 48 blocks, but this model is Wan, of 48"
    ):
        published.named_preset("mochi", sized("WanModel", block=48))


def request(**options: Any) -> GuidanceRequest:
    return GuidanceRequest(terms=(STG((1,)),), **options)


def test_windows_that_touch_do_not_overlap() -> None:
    early, late = (node_request.NodeRequest(request(), pair) for pair in ((0.5, 1.0), (0.0, 0.5)))
    assert [bool(node.active(0.5)) for node in (early, late)] == [False, True]
    assert early.active(1.0)
    bins_of_a_schedule = Schedule([Bin((0.5, 1.0), (1,), 1.0), Bin((0.0, 0.5), (2,), 1.0)])
    (entry,) = node_request.schedule_request(bins_of_a_schedule).active(0.5)
    assert entry.term.layers == (1,)


def test_settings_of_a_node_reach_its_terms() -> None:
    asked = request(rescale=0.3, rescale_space="data", share_prefix=False)
    (entry,) = node_request.NodeRequest(asked).active(0.7)
    assert entry == node_request.ActiveTerm(STG((1,)), 0.3, "data", False, 0.3)
    off = node_request.NodeRequest(GuidanceRequest(terms=(STG((1,), 0.0),)))
    assert off.active(0.7) == []
    slg = node_request.NodeRequest(GuidanceRequest(terms=(SLG((1,)),)))
    assert [entry.term for entry in slg.active(0.7)] == [SLG((1,))]


@pytest.mark.parametrize("space", node_request.SPACES)
@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0])
def test_push_is_that_of_predictions(space: str, phi: float) -> None:
    """The oracle is the formula on predictions F of x_0 = x - sigma F, made estimates again.

    Rescaling of the data is the formula on the estimates themselves.
    """
    torch.manual_seed(0)
    x, F_c, F_u, F_p = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(4))
    sigma, g, s = 0.7, 4.0, 2.0
    c, u, p = (x - sigma * F for F in (F_c, F_u, F_p))
    entry = node_request.ActiveTerm(STG((1,), s), phi, space)
    D = node_request.push_estimate(u + g * (c - u), c, p, x, entry)
    F_D = F_u + g * (F_c - F_u) + s * (F_c - F_p)
    if space == "prediction":
        expected = x - sigma * rescale(F_D, F_c, phi)
    else:
        expected = rescale(x - sigma * F_D, c, phi)
    torch.testing.assert_close(D, expected)


def test_sound_has_a_scale_and_a_rescaling_of_its_own() -> None:
    """The oracle is each output alone: a video of 12 numbers, and its sound of 8."""
    torch.manual_seed(0)
    D, c, p, x = (torch.randn(2, 1, 20) for _ in range(4))
    entry = node_request.ActiveTerm(STG((1,), 2.0, audio_scale=0.5), 0.7, "data", True, 0.2)
    found = node_request.push_estimate(D, c, p, x, entry, (12, 8))
    for part, scale, phi in ((slice(12), 2.0, 0.7), (slice(12, 20), 0.5, 0.2)):
        alone = node_request.ActiveTerm(STG((1,), scale), phi, "data")
        mine = (D[..., part], c[..., part], p[..., part], x[..., part])
        assert torch.equal(found[..., part], node_request.push_estimate(*mine, alone))


def test_terms_of_one_node_are_rescaled_once_behind_the_last() -> None:
    terms = (STG((1,)), SLG((2,)), Modality(3.0), Modality(1.0))
    asked = GuidanceRequest(terms=terms, rescale=0.7, audio_rescale=1.0)
    found = node_request.NodeRequest(asked).active(0.5)
    assert [entry.term for entry in found] == [*terms[:3]]
    phis = [(entry.rescale, entry.audio_rescale) for entry in found]
    assert phis == [(0, 0), (0, 0), (0.7, 1.0)]


# --- the built files ------------------------------------------------------------------------------


def test_built_files_are_what_the_library_has() -> None:
    """The pack must work where it is copied to, without the library. `make comfyui` builds them."""
    found = {
        path.relative_to(vendor.BUILT).as_posix(): path.read_text(encoding="utf-8")
        for path in vendor.BUILT.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == vendor.built_files()


def test_built_files_hold_the_whole_method() -> None:
    method = {path.name for path in (ROOT / "src" / "skipguide" / "method").glob("*.py")}
    assert {path.name for path in (vendor.BUILT / "method").glob("*.py")} == method


IMPORT_ALL = """
import importlib, pathlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffusers", "transformers", "accelerate", "skipguide"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
OF_COMFYUI = ("caches", "measure", "nodes", "pack", "page", "passes", "run_state", "step",
              "tune_nodes", "vendor")
pack = pathlib.Path("pack")
for path in pack.rglob("*.py"):
    # Of these vendor needs the library's files, the others ComfyUI.
    if path.stem not in OF_COMFYUI:
        parts = path.with_suffix("").parts
        importlib.import_module(".".join(part for part in parts if part != "__init__"))
from pack import published
print(len(published.published_presets()))
"""


def test_pack_works_where_neither_the_library_nor_diffusers_can_be_imported(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "comfyui", tmp_path / "pack", ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(published.published_presets()) > 30


# --- the map of the layers ------------------------------------------------------------------------


def scanned(model: WanModel, x: torch.Tensor, limit: float) -> scan.StateScan:
    """A scan of the toy, whose tokens lie as rows and columns: `(B, N, D)` as `(B, 1, N, D)`."""
    chain = models.block_chain(model)

    def run(changes: Any, identities: Any) -> list[torch.Tensor]:
        uuids = ["a"] * 1
        with blocks.attached(chain, changes(uuids), {}, identities) as options:
            return [model(x, transformer_options=options)[:, None]]

    found = scan.StateScan(chain, scan.cells_of(chain, "", node_request.SKIPS), limit)
    with torch.no_grad():
        found.add(ScanState(0, 4, 0.8, 0.8, "m", True), run, [torch.zeros_like(x[:, None])], None)
    return found


@pytest.mark.parametrize("limit", [0, 1e9], ids=["one by one", "all at once"])
def test_a_scan_measures_passes_written_out(model: WanModel, x: torch.Tensor, limit: float) -> None:
    found = scanned(model, x, limit).record()
    assert [cell.name for cell in found.cells[:2]] == ["block:0 residual", "block:0 attention"]
    assert found.strong_passes == [DEPTH if limit == 0 else 1]
    with torch.no_grad():
        c = written_out(model, x, set(), "residual")
        for number, cell in enumerate(found.cells):
            push = c - written_out(model, x, {number // 2}, cell.skip)
            ratio = (push.flatten(1).norm(dim=1) / c.flatten(1).norm(dim=1)).mean()
            assert found.values["ratio"][number, 0] == pytest.approx(ratio.item(), rel=1e-4)


def test_blocks_before_the_skipped_one_are_not_run_again(model: WanModel, x: torch.Tensor) -> None:
    """A conditional pass, and of each weak one what follows: (L - 1) / 2 and (L + 1) / 2 passes."""
    scanned(model, x, 1e9)
    runs = sum(block.runs for block in blocks_in(model))
    assert runs == DEPTH + DEPTH * (DEPTH - 1) / 2 + DEPTH * (DEPTH + 1) / 2


def test_layers_and_skips_of_a_scan(model: WanModel) -> None:
    chain = models.block_chain(model)
    cells = scan.cells_of(chain, "1,3-4", ["attention"])
    assert [(cell.name, at) for cell, at in cells.items()] == [
        ("block:1 attention", 1), ("block:3 attention", 3), ("block:4 attention", 4),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must be from 0 to 5"):
        scan.cells_of(chain, "9", ["attention"])


def test_a_scan_without_a_state_says_so(model: WanModel) -> None:
    chain = models.block_chain(model)
    with pytest.raises(ValueError, match="called the model at none of the levels"):
        scan.StateScan(chain, scan.cells_of(chain, "", ["residual"]), 1).record()


def test_picture_and_table_of_a_map(model: WanModel, x: torch.Tensor) -> None:
    found = LayerMap.build([scanned(model, x * scale, 1e9).record() for scale in (1, 2)])
    picture = map_image.draw(found)
    assert picture.ndim == 4
    assert picture.shape[3] == 3
    assert 0 <= picture.min() < picture.max() == 1
    lines = map_image.table(found).splitlines()
    assert len(lines) == 2 + 2 * DEPTH
    first = found.shortlist()
    assert lines[2].split()[2:4] == first[0].name.split()
    assert map_image.describe_shortlist(first).splitlines()[0] == first[0].name
    assert len(first) == 3


def test_levels_of_a_scan() -> None:
    assert node_request.read_levels("0.95, 0.8 .3") == (0.95, 0.8, 0.3)
    with pytest.raises(ValueError, match=r"numbers such as 0.95, .* but got 'x'"):
        node_request.read_levels("x")


# --- presets in files -----------------------------------------------------------------------------

TUNED = """
[preset]
model = "a/model"
pipelines = ["WanImageToVideoPipeline"]
depth = 6
width = 5120
layers = [3]
scale = 2.0
normalize = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "skipguide" / "presets"
    own.mkdir(parents=True)
    (own / "night.toml").write_text(TUNED)
    (tmp_path / "tune.toml").write_text(TUNED)
    return tmp_path


def test_files_that_a_node_offers(folder: Path, tmp_path: Path) -> None:
    assert preset_files.file_choices(folder) == ["tune.toml", "night"]
    for choice, path in (("tune.toml", ""), ("night", ""), ("none", str(folder / "tune.toml"))):
        assert preset_files.read_choice(choice, path, folder).row.layers == (3,)
    with pytest.raises(ValueError, match="none was chosen"):
        preset_files.read_choice("none", " ", folder)


def test_a_file_is_for_the_family_and_the_size_of_a_model(folder: Path) -> None:
    """Image to video is of the same family; the toy does not say how wide it is."""
    chain = models.block_chain(WanModel())
    file = preset_files.read_choice("night", "", folder)
    assert preset_files.row_for(file, chain) is file.row
    for words, message in {
        "depth = 6": ("depth = 7", "of 7 blocks and width 5120"),
        "WanImage": ("LTXImage", "LTXImageToVideoPipeline of 6 blocks"),
        "scale": ('skip = "blur"\nscale', "they have residual and attention"),
    }.items():
        (folder / "other.toml").write_text(TUNED.replace(words, message[0], 1))
        other = preset_files.read_choice("other.toml", "", folder)
        with pytest.raises(ValueError, match=message[1]):
            preset_files.row_for(other, chain)


def test_a_normalized_push_has_a_tenth_of_the_length_of_the_prediction() -> None:
    """Of the prediction F, where estimates are a x + b F: c - origin is b F."""
    c, p, D, origin = torch.randn(4, 2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    term = STG([1], 3.0, normalize=True)
    pushed = node_request.push_estimate(D, c, p, origin, node_request.ActiveTerm(term))
    push, prediction = (value.flatten(1) for value in (pushed - D, c - origin))
    assert torch.allclose(push.norm(dim=1), 0.3 * prediction.norm(dim=1), rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(push, (c - p).flatten(1)), torch.ones(2))

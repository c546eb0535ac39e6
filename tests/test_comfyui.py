"""The parts of the node pack that need no ComfyUI: lists of layers, schedules, blocks, the formula.

Toy models stand for ComfyUI's: one that knows block replacement patches, one that does not; both
add to their input in place, as ComfyUI's do. What they are compared with is the toy itself, written
out without the blocks that are skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from comfyui import blocks, layers, models, schedule, terms  # noqa: E402

DEPTH = 6


class Attention(nn.Module):
    """Self-attention as ComfyUI has it: an override comes in transformer_options."""

    def __init__(self) -> None:
        super().__init__()
        self.to_v = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        override = transformer_options.get(
            "optimized_attention_override", lambda _, q, k, v, heads: _attend(q, k, v)
        )
        return override(None, x, x, self.to_v(x), 2)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
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


def strong(
    model: WanModel, x: torch.Tensor, recording: blocks.Recording, position: int, uuids: list[str]
) -> torch.Tensor:
    arounds = {position: recording.recorder(position, uuids)}
    with blocks.attached(model, models.places_of(model), arounds, {}) as options:
        return model(x, transformer_options=options)


def weak(
    model: WanModel, x: torch.Tensor, text: str, skip: str, recorded: blocks.Streams | None
) -> torch.Tensor:
    places = models.places_of(model)
    skipped = layers.chosen(layers.parsed(text), places)
    arounds = blocks.weakened(skipped, places, skip, recorded)
    identities = skipped if skip == "attention" else ()
    with blocks.attached(model, places, arounds, {}, identities) as options:
        return model(x, transformer_options=options)


def written_out(model: WanModel, x: torch.Tensor, skipped: set[int], skip: str) -> torch.Tensor:
    """The toy by hand."""
    x = x + 1
    for index, block in enumerate(blocks_in(model)):
        v = block.self_attn.to_v(x)
        if index not in skipped:
            x = x + _attend(x, x, v)
        elif skip == "attention":
            x = x + v
    return x


@torch.no_grad()
@pytest.mark.parametrize("skip", terms.SKIPS)
@pytest.mark.parametrize("text", ["0", "3", "2-3", "5", "1, 4"])
def test_weak_pass_from_record_is_the_full_one(
    model: WanModel, x: torch.Tensor, text: str, skip: str
) -> None:
    numbers = {number for _, number in layers.parsed(text)}
    recording = blocks.Recording([min(numbers)])
    plain = strong(model, x, recording, min(numbers), ["a", "b"])
    for block in blocks_in(model):
        block.runs = 0
    shared = weak(model, x, text, skip, recording.streams(min(numbers), ["a", "b"]))
    ran = sum(block.runs for block in blocks_in(model))
    assert ran == DEPTH - min(numbers) - (len(numbers) if skip == "residual" else 0)
    assert torch.equal(shared, weak(model, x, text, skip, None))
    assert torch.allclose(shared, written_out(model, x, numbers, skip), atol=1e-5)
    assert not torch.allclose(shared, plain)


@torch.no_grad()
def test_rows_of_a_record_are_found_by_prompt(model: WanModel, x: torch.Tensor) -> None:
    recording = blocks.Recording([3])
    strong(model, x, recording, 3, ["a", "b"])
    for uuids, rows in ((["b"], x[2:]), (["b", "a"], x[[2, 3, 0, 1]])):
        assert torch.equal(
            weak(model, rows, "3", "residual", recording.streams(3, uuids)),
            weak(model, rows, "3", "residual", None),
        )


@torch.no_grad()
def test_record_of_a_prompt_that_ran_twice_or_never_is_not_used(
    model: WanModel, x: torch.Tensor
) -> None:
    recording = blocks.Recording([3])
    for _ in range(2):
        strong(model, x, recording, 3, ["a", "b"])
    assert recording.streams(3, ["a"]) is None
    assert recording.streams(3, ["c"]) is None
    recording.clear()
    strong(model, x, recording, 3, ["a", "b"])
    assert recording.streams(3, ["a", "b"]) is not None


@torch.no_grad()
def test_nothing_is_left_behind_also_after_an_error(model: WanModel, x: torch.Tensor) -> None:
    before = [*model.blocks], model(x, transformer_options={})
    with pytest.raises(RuntimeError, match="shapes"):
        weak(model, x[..., :3], "2", "attention", None)
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
    places, recording = models.places_of(model), blocks.Recording([3])
    with blocks.attached(model, places, {3: recording.recorder(3, ["a"])}, theirs) as options:
        model(x, transformer_options=options)
    found = []
    for recorded in (recording.streams(3, ["a"]), None):
        arounds = blocks.weakened([places[3]], places, "residual", recorded)
        with blocks.attached(model, places, arounds, theirs) as options:
            found.append(model(x, transformer_options=options))
    assert torch.equal(*found)
    assert theirs["patches_replace"]["dit"][("double_block", 1)] is doubled


def test_attention_skip_refuses_cross_attention() -> None:
    q, v = torch.zeros(1, 5, 8), torch.zeros(1, 3, 8)
    with pytest.raises(RuntimeError, match="got 5 queries and 3 keys"):
        blocks.identity(None, q, v, v, 2)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_identity_has_the_layout_of_attention(heads_first: bool, keep: bool) -> None:
    """The oracle is attention itself, with queries and keys so long that its map is the
    identity."""
    v = torch.randn(2, 3, 5, 4)  # (B, heads, N, D)
    q = 100 * torch.eye(5)[None, None].expand(2, 3, 5, 5)
    expected = nn.functional.scaled_dot_product_attention(q, q, v)
    given = v if heads_first else v.transpose(1, 2).flatten(2)
    found = blocks.identity(
        None, given, given, given, 3, skip_reshape=heads_first, skip_output_reshape=keep
    )
    torch.testing.assert_close(found, expected if keep else expected.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9", [("", 9)]),
        (" 9 ,10", [("", 9), ("", 10)]),
        ("7-9", [("", 7), ("", 8), ("", 9)]),
        ("single:3", [("single", 3)]),
        ("dual: 2, single:0-1", [("double", 2), ("single", 0), ("single", 1)]),
        ("3, single:3", [("", 3), ("single", 3)]),
    ],
)
def test_lists_of_layers_are_read_as_people_write_them(
    text: str, expected: list[layers.Name]
) -> None:
    assert layers.parsed(text) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    ["", ",", "9,", "-1", "7-", "a", "9 10", "9;10", "1.5", "9-7", "9,9", "7-9,8", "x:", "²"],
)
def test_anything_else_is_no_list_of_layers(text: str) -> None:
    with pytest.raises(ValueError, match="layers must"):
        layers.parsed(text)


def test_number_behind_a_named_stack_is_ambiguous() -> None:
    with pytest.raises(ValueError, match="'4' follows one that does"):
        layers.parsed("single:3, 4")


def test_model_without_a_row_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"got a Linear\. Use one of: WanModel"):
        models.places_of(nn.Linear(1, 1))


def test_layers_that_the_model_has_not_are_refused(model: WanModel) -> None:
    for text, got in (("6", "block:6"), ("single:0", "single:0")):
        with pytest.raises(ValueError, match=f"got {got}. This one has block:0 to block:5"):
            layers.chosen(layers.parsed(text), models.places_of(model))


def test_schedule_is_read_line_by_line() -> None:
    text = (
        "# first\nsigma=0.9..1.1 layers=11,25 scale=4 cfg=6 rescale=0.5"
        " skip=attention\n\nsigma=0..0.9 cfg=1\n"
    )
    first, last = schedule.read(text)
    window = terms.Window(0.9, 1.1, floor=True)
    assert first == schedule.Bin(
        window, terms.Term((("", 11), ("", 25)), window, 4.0, "attention", 0.5), 6.0
    )
    assert (last.term, last.cfg) == (None, 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one line"),
        ("layers=9", "must have sigma=low..high"),
        ("sigma=0..1 layer=9", "must have sigma=low..high"),
        ("sigma=0..1 9", "must have sigma=low..high"),
        ("sigma=0..1 cfg=1 cfg=2", "must have sigma=low..high"),
        ("sigma=1", "sigma must be low..high"),
        ("sigma=0..x", "must have numbers"),
        ("sigma=1..0", "sigma must be from 0 to 0"),
        ("sigma=0..1 layers=9 rescale=2", "rescale must be from 0 to 1"),
        ("sigma=0..1 layers=9 skip=none", "skip must be residual or attention"),
        ("sigma=0..1 layers=x", "layers must be"),
        ("sigma=0..1 scale=4", "with scale=4 must have layers"),
        ("sigma=0..1 cfg=nan", "cfg must be from 0 to 1000, but got nan"),
        ("sigma=0..1 cfg=-5", "cfg must be from 0 to 1000, but got -5"),
        ("sigma=0..0.6\nsigma=0.5..1", "must not overlap"),
    ],
)
def test_anything_else_is_no_schedule(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedule.read(text)


def test_published_bins_of_ltx_13b_are_the_official_ones() -> None:
    """The table of LTX-Video's ltxv-13b-0.9.8-dev.yaml, at the sigmas where ComfyUI-LTXVideo's are
    one bin off."""
    bins = schedule.bins_of(schedule.presets()["ltx-13b-dev"])
    expected = {
        1.0: (1.0, None, 0.0), 0.995: (6.0, (22, 35, 39), 4.0), 0.99: (8.0, (28,), 4.0),
        0.98: (6.0, (28,), 4.0), 0.95: (1.0, (28,), 2.0), 0.7: (1.0, (28,), 1.0),
    }  # fmt: skip
    for sigma, (cfg, numbers, scale) in expected.items():
        (found,) = (entry for entry in bins if entry.window.includes(sigma))
        term = found.term
        assert (found.cfg, term and tuple(number for _, number in term.layers)) == (cfg, numbers)
        assert term is None or (term.scale, term.skip) == (scale, "attention")


@pytest.mark.parametrize("name", schedule.presets())
def test_every_published_row_can_be_used(name: str) -> None:
    row = schedule.presets()[name]
    if "schedule" in row:
        assert schedule.bins_of(row)
    elif row["layers"]:
        assert layers.parsed(schedule.words(row["layers"]))


def test_windows_that_touch_do_not_overlap() -> None:
    early, late = terms.Window(0.5, 1.0), terms.Window(0.0, 0.5)
    assert [window.includes(0.5) for window in (early, late)] == [False, True]
    assert early.includes(1.0)
    assert terms.Window(0.5, 1.0, floor=True).includes(0.5)


@pytest.mark.parametrize("space", terms.SPACES)
def test_rescaling_gives_back_the_deviation_in_its_space(space: str) -> None:
    """With phi 1 the deviation is that of c, of the data, or of the prediction F of x_0 = x - sigma
    F."""
    torch.manual_seed(0)
    x, c, p = (torch.randn(2, 3, 4) for _ in range(3))
    sigma = 0.7
    term = terms.Term((("", 1),), terms.Window(0.0, 1.0), 2.0, phi=1.0, space=space)
    D = terms.guided(c, c, p, x, term)
    wanted, found = (value if space == "data" else (x - value) / sigma for value in (c, D))
    torch.testing.assert_close(found.std((1, 2)), wanted.std((1, 2)))
    assert not torch.allclose(D, c)


@pytest.mark.parametrize("name", ["guidance.py", "presets.toml"])
def test_pack_has_its_own_copy_of_what_it_shares_with_the_library(name: str) -> None:
    """It must work where it is copied to, without the library. `make comfyui` copies them."""
    assert (ROOT / "comfyui" / name).read_bytes() == (
        ROOT / "src" / "skipguide" / name
    ).read_bytes()


def test_pack_imports_neither_diffusers_nor_the_library() -> None:
    code = (
        "import sys; from comfyui import blocks, layers, models, schedule, terms; print([name for"
        " name in ('diffusers', 'transformers', 'skipguide') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

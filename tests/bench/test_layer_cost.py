"""skipguide layers, and the counting of operations under it: against closed forms, real and weak
passes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.flop_counter
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from typer.testing import CliRunner

from skipguide import STG
from skipguide.bench import layer_cost
from skipguide.cli import app
from skipguide.families import blocks
from skipguide.families.examples import Example, denoiser_class, example_of
from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES, Family
from skipguide.models import loading
from skipguide.weak import flops, weak_pass
from support.saved import saved, whole

SVD = "StableVideoDiffusionPipeline"
SIZES = ("--height", "32", "--width", "32", "--num-frames", "3")


def run(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["layers", *map(str, args)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str | Path, code: int = 0) -> Any:
    result = run(*args, "--json", code=code)
    assert result.stderr == ""
    return json.loads(result.stdout)


def family(name: str) -> Family:
    return next(row for row in FAMILIES if row.name == name)


def on_meta(name: str) -> tuple[Family, Any, dict[str, Any]]:
    """The small example of a family, without weights."""
    work = example_of(name).workload("small")
    with torch.device("meta"):
        model = denoiser_class(family(name))(**work.config).eval()
        return family(name), nn.Module.to(model, "meta"), work.inputs(1)


@pytest.fixture(scope="module")
def svd_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(SVD, tmp_path_factory.mktemp("models"))


# --- counting -------------------------------------------------------------------------------------


class Small(nn.Module):
    """A convolution, a linear layer and an attention, whose operations can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3, padding=1)
        self.linear = nn.Linear(8, 24)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        tokens = self.linear(self.conv(sample).flatten(2).transpose(1, 2))
        return nn.functional.scaled_dot_product_attention(*tokens.chunk(3, dim=2))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operations_in_closed_form(device: str) -> None:
    """Two per product and sum: 5 x 7 pixels, 2 pictures; the attention is two products of 35 x 35 x
    8."""
    with torch.device(device):
        model, sample = Small(), torch.zeros(2, 3, 5, 7)
    conv, linear, attention = 2 * 70 * 8 * 27, 2 * 70 * 8 * 24, 2 * 2 * 2 * 35 * 35 * 8
    counted = flops.count_flops_by_module(model, {"sample": sample})
    assert counted == {"": conv + linear + attention, "conv": conv, "linear": linear}
    assert flops.count_flops(model, {"sample": sample}) == counted[""]


@pytest.mark.parametrize("name", ["svd", "animatediff"])
def test_meta_counts_what_a_real_pass_computes(name: str) -> None:
    work = example_of(name).workload("small")
    model: Any = denoiser_class(family(name))(**work.config).eval()
    inputs = work.inputs(1)
    without = flops.count_flops_by_module(
        flops.build_meta_model(model), flops.to_meta_tensors(inputs)
    )
    assert flops.count_flops_by_module(model, inputs) == without
    model.set_attn_processor(
        AttnProcessor()
    )  # attention written out in products, which torch's own counter knows
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    assert counter.get_total_flops() == without[""]


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        pytest.param("svd", ("up:2",), marks=pytest.mark.long),
        ("animatediff", ("down:1",)),
        pytest.param("i2vgen-xl", ("mid:0",), marks=pytest.mark.long),
    ],
)
def test_costs_are_those_of_weak_passes_that_are_run(name: str, addresses: tuple[str, ...]) -> None:
    row, model, inputs = on_meta(name)
    found = {line["layer"]: line for line in layer_cost._build_rows(row, model, inputs)["layers"]}
    places = blocks.layer_sites(row, model)
    for address in addresses:
        for axis, costs in {None: found[address], **found[address]["halves"]}.items():
            for skip in ("residual", "attention"):
                where = blocks.resolve_layers(row, places, STG([address], 1.0, skip, axis))
                weak = weak_pass.WeakPass(row, model, places, where, skip, None)
                weak.inputs = inputs
                assert costs[skip] == pytest.approx(weak.cost(shared=True), abs=1e-12), (
                    address,
                    axis,
                    skip,
                )


def test_costs_of_a_stack_in_closed_form() -> None:
    """Four blocks alike: a residual skip leaves out those before it and itself, an attention skip
    two products more."""
    row, model, inputs = on_meta("wan")
    rows = layer_cost._build_rows(row, model, inputs)
    shares = [line["share"] for line in rows["layers"]]
    assert shares == pytest.approx([shares[0]] * 4)
    assert 4 * shares[0] + rows["rest"] == pytest.approx(1)
    tokens, width = 2 * 2 * 2, 24
    attention = (
        2 * 2 * tokens * tokens * width + 2 * 2 * tokens * width * width
    )  # the map; queries and keys
    for k, line in enumerate(rows["layers"]):
        assert line["residual"] == pytest.approx(1 - (k + 1) * shares[0])
        assert line["attention"] == pytest.approx(1 - k * shares[0] - attention / rows["flops"])
        assert (line["axes"], line["halves"]) == (["joint"], {})


# --- a model --------------------------------------------------------------------------------------


def test_layers_of_a_folder_of_svd(svd_dir: Path) -> None:
    found = output(svd_dir, *SIZES)
    rows = {row["layer"]: row for row in found["layers"]}
    assert list(rows) == ["down:0", "down:1", "mid:0", "up:0", "up:1", "up:2", "up:3"]
    assert (found["family"], found["denoiser"], found["same"]) == (
        "svd",
        "UNetSpatioTemporalConditionModel",
        [],
    )
    assert (found["size"], found["counted"]) == ("32 x 32, 3 frames", "without weights")
    assert sum(row["share"] for row in rows.values()) + found["rest"] == pytest.approx(1)
    assert 0.1 < found["rest"] < 0.9
    for row in rows.values():
        assert row["axes"] == list(row["halves"]) == ["spatial", "temporal"]
        halves = sum(half["share"] for half in row["halves"].values())
        assert 0 < halves < row["share"]  # its projections are in neither
        assert 0 <= row["residual"] < row["attention"] < 1
    costs = [row["residual"] for row in rows.values()]
    assert costs == sorted(costs, reverse=True)


def test_layers_for_people(svd_dir: Path) -> None:
    lines = run(svd_dir, *SIZES).stdout.splitlines()
    assert lines[0] == f"{svd_dir}: UNetSpatioTemporalConditionModel (svd), 32 x 32, 3 frames"
    assert lines[1].endswith(
        " floating point operations in a forward pass, counted without weights"
    )
    assert lines[2].split() == [
        "layer",
        "attention",
        "share",
        "weak",
        "pass:",
        "residual",
        "attention",
    ]
    cells = [line.split() for line in lines[3:-2]]
    assert [line[:4] for line in cells] == [
        [layer, "spatial", "+", "temporal"]
        for layer in ("down:0", "down:1", "mid:0", "up:0", "up:1", "up:2", "up:3")
    ]  # fmt: skip
    assert lines[-1] == "skips: residual, attention, soft, blur, shuffle"
    rest = lines[-2].removeprefix("the rest (embeddings, resnets, output): ")
    shares = [float(line[4].rstrip("%")) for line in cells]
    assert sum(shares) + float(rest.rstrip("%")) == pytest.approx(100, abs=0.05)


def test_sizes_change_the_count(svd_dir: Path) -> None:
    small, large = (output(svd_dir, *SIZES[:4], "--num-frames", n)["flops"] for n in ("3", "6"))
    assert large == pytest.approx(2 * small, rel=0.1)


def test_layers_of_the_lab_model_are_counted_in_a_real_pass() -> None:
    """Mochi's attention looks at its mask, so that nothing is to be had without numbers."""
    found = output("lab-mochi")
    assert (found["family"], found["counted"]) == ("mochi", "in a real pass")
    assert [row["layer"] for row in found["layers"]] == [f"blocks:{i}" for i in range(12)]
    assert sum(row["share"] for row in found["layers"]) + found["rest"] == pytest.approx(1)
    assert found["layers"][5]["residual"] == pytest.approx(
        1 - sum(row["share"] for row in found["layers"][:6])
    )


def test_layers_of_two_denoisers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wan 2.2: the one that runs first is counted, and the other one is said to be alike, which it
    may not be."""
    pipe = whole("WanPipeline 2.2")
    pipe.transformer_2 = copy.deepcopy(pipe.transformer_2)  # the other one is every test's
    monkeypatch.setattr(loading, "load_pipeline", lambda model: pipe)
    sizes = ("--height", "16", "--width", "16", "--num-frames", "5")
    found = output("some/wan", *sizes)
    assert found["same"] == ["transformer", "transformer_2"]
    assert "transformer and transformer_2 have the same layers." in run("some/wan", *sizes).stdout
    pipe.transformer_2.blocks = pipe.transformer_2.blocks[:-1]
    assert output("some/wan", *sizes)["same"] == []


def test_nothing_stays_on_the_pipeline() -> None:
    pipe = whole(SVD)
    layer_cost.measure_pipeline(pipe, "m", dict(height=32, width=32, num_frames=3))
    assert not pipe.unet._forward_pre_hooks
    assert not any(
        type(module).__module__ == "skipguide.weak.patching" for module in pipe.unet.modules()
    )


# --- a family -------------------------------------------------------------------------------------


def test_layers_of_a_unet_family_are_those_of_the_public_checkpoint() -> None:
    found = output("animatediff")
    rows = {row["layer"]: row for row in found["layers"]}
    assert (len(rows), found["counted"]) == (21, "without weights")
    assert found["size"] == "the size of guoyww/animatediff-motion-adapter-v1-5-2"
    only_temporal = [layer for layer, row in rows.items() if row["axes"] == ["temporal"]]
    assert only_temporal == ["down:6", "down:7", "up:0", "up:1", "up:2"]
    assert rows["up:3"]["share"] == pytest.approx(
        sum(half["share"] for half in rows["up:3"]["halves"].values())
    )
    assert sum(row["share"] for row in rows.values()) + found["rest"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "first", "last", "axes"),
    [
        ("hunyuan", "dual:0", "single:39", ["joint"]),
        pytest.param("latte", "spatial:0", "temporal:27", ["spatial"], marks=pytest.mark.long),
    ],
)
def test_layers_of_two_stacks(name: str, first: str, last: str, axes: list[str]) -> None:
    found = output(name)
    assert found["size"].startswith("as narrow as in the bench")
    rows = [row["layer"] for row in found["layers"]]
    depth = sum(stack.depth for stack in family(name).stacks.values())
    assert (rows[0], rows[-1], len(rows), found["layers"][0]["axes"]) == (first, last, depth, axes)


def test_a_family_without_attention_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """SANA-WM has no identity map."""
    small = example_of("sana-wm").workload("small")
    monkeypatch.setattr(Example, "workload", lambda self, scale: small)
    assert [row["attention"] for row in output("sana-wm")["layers"]] == [None] * 4
    lines = run("sana-wm").stdout.splitlines()
    assert all(line.endswith(" -") for line in lines[3:-2])
    assert lines[-1] == "skips: residual, shuffle"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["svdd"],
            "MODEL must be a lab model, a family, a folder with a model_index.json, or a hub id,"
            " but got 'svdd'. Nearest known: svd",
        ),
        (["lab-moch"], "Nearest known: lab-mochi"),
        (["/no/such/folder/here"], "there is no such folder"),
        (
            ["svd", "--height", "64", "--num-frames", "3"],
            "--height, --num-frames cannot be set for a family",
        ),
        (["lab-mochi", "--height", "33"], "height must be an even whole number of pixels"),
        ([], "Missing argument 'model'"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    result = run(*arguments, code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_sizes_that_the_pipeline_refuses(svd_dir: Path) -> None:
    said = output(svd_dir, "--height", "30", "--width", "32", code=2)["error"]
    assert said.startswith("height and width must be multiples of 8 for StableVideoDiffusion")
    assert said.endswith("but got 30 and 32. Take --height 32 --width 32.")


def test_sizes_that_the_denoiser_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser whose embedding of positions is for another size."""
    pipe = whole(SVD)
    monkeypatch.setattr(loading, "load_pipeline", lambda model: pipe)

    def refuse(*_: Any) -> None:
        raise RuntimeError("The size of tensor a (25) must match the size of tensor b (16)")

    hook = pipe.unet.conv_in.register_forward_pre_hook(refuse)
    monkeypatch.setattr(flops, "build_meta_model", lambda model: model)
    said = output("some/svd", *SIZES, code=2)["error"]
    hook.remove()
    assert (
        said
        == "height x width x frames must be a size that some/svd can run, but 32 x 32 x 3 failed"
        " (The size of tensor a (25) must match the size of tensor b (16)). Choose another size"
        " with --height, --width or --num-frames."
    )


def test_a_pipeline_that_guide_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "LTXLatentUpsamplePipeline"
    monkeypatch.setattr(loading, "load_pipeline", lambda model: type(name, (), {})())
    assert (
        output("some/model", code=2)["error"]
        == f"guide() cannot guide {name}: {REFUSED_PIPELINES[name]}."
    )
    monkeypatch.setattr(loading, "load_pipeline", lambda model: type("MochPipeline", (), {})())
    assert "Nearest known: MochiPipeline" in output("some/model", code=2)["error"]

"""Check the benchmark's claims on small examples: every way makes the same prediction, counts,
memory, errors."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import torch.utils.flop_counter
from typer.testing import CliRunner

from skipguide import Random, guide
from skipguide.bench import peers, recipe, rounds, step_cost
from skipguide.cli import app
from skipguide.families import blocks, rows
from skipguide.families.examples import Example, Size, denoiser_class, example_of
from skipguide.families.rows import FAMILIES
from support import oracle

CPU = torch.device("cpu")
UNETS = [row.name for row in FAMILIES if row.unet]
MOCHI = example_of("mochi")
SIX_BLOCKS = dataclasses.replace(
    MOCHI, narrow={**MOCHI.narrow, "num_layers": 6, "num_attention_heads": 1}, layer=3,
    narrow_size=Size(3, 8, 8, 64),
)  # fmt: skip


@pytest.fixture
def six_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark measures a Mochi of six blocks, whatever it is asked for."""
    monkeypatch.setattr(step_cost, "example_of", lambda family: SIX_BLOCKS)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark measures small examples in the place of narrow ones."""
    workload: Any = Example.workload
    monkeypatch.setattr(Example, "workload", lambda self, scale="small": workload(self, scale))


def run(**options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = dict(
        prompts=2, width=64, repeats=1, full_size=False, device="cpu", dtype="float32"
    )
    options = {"family": "mochi", **defaults, **options}
    return dict(step_cost.run(options.pop("family"), **options))["result"]


def weak_by_hand(step: step_cost.BenchmarkStep) -> list[torch.Tensor]:
    """The predictions of copies of the model with what a term names skipped in them."""
    found = []
    for term, skipped in zip(step.terms, step.skipped_positions, strict=True):
        paths, attentions = (
            [f"{step.sites[k].stack.path}.{step.sites[k].index}" for k in skipped],
            (),
        )
        if step.family.unet:
            assert not isinstance(term.layers, Random)
            paths = oracle.layers_of_unet(step.model)[str(term.layers[0])].skipped(
                term.skip, term.axis
            )
            attentions = step.family.unet.axis_layers[term.axis or "spatial"].attention
        weak = oracle.weakened(step.model, paths, term.skip, attentions)
        found.append(oracle.samples(weak(**step.cond))[0].float())
    return found


@pytest.mark.parametrize("family", [row.name for row in FAMILIES])
def test_all_ways_make_the_same_prediction(family: str) -> None:
    work = example_of(family).workload("small")
    step = step_cost.BenchmarkStep(family, work, 1, CPU, torch.float32)
    with torch.inference_mode():
        full, plain = step.run_full(), step.run_cfg()
        with guide(step.pipe, step.terms):
            shared = step.run_cfg()
        assert torch.equal(step.run_cfg(), plain)
        weak = step.run_full_weak_passes()
        for ours, theirs in zip(weak, weak_by_hand(step), strict=True):
            torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-4)
        c, u = step.predict(step.cond)[0], step.predict(step.uncond)[0]
        u = c if step.calls.cfg_mode == "none" else u
    pushes = [term.scales(1)[0] * (c - p) for term, p in zip(step.terms, weak, strict=True)]
    torch.testing.assert_close(
        shared,
        u + step_cost.GUIDANCE_SCALE * (c - u) + torch.stack(pushes).sum(dim=0),
        atol=5e-5,
        rtol=1e-4,
    )
    # A batch of two is rounded otherwise, and group norms over a few pixels make more of that.
    torch.testing.assert_close(shared, full, atol=2e-2 if step.family.unet else 5e-5, rtol=1e-4)
    assert (full - plain).abs().max() > (2e-2 if step.family.unet else 1e-4)


def test_narrow_examples_have_the_depth_of_the_public_checkpoint() -> None:
    for row in FAMILIES:
        with torch.device("meta"):
            model = denoiser_class(row)(**example_of(row.name).config("narrow"))
        assert depths(row, model) == {name: stack.depth for name, stack in row.stacks.items()}


# The families whose blocks the hooks of diffusers' SkipLayerGuidance know.
WITH_GUIDER = {
    "mochi", "wan", "wan-vace", "hunyuan", "framepack", "ltx", "cogvideox", "cogview4",
    "motif-video", "latte", "pixart", "hunyuan-image",
}  # fmt: skip


@pytest.mark.parametrize("family", [row.name for row in FAMILIES])
def test_the_ways_of_others_make_the_same_step(family: str) -> None:
    """diffusers' guider as our residual skip, and LTX-2's own STG as our attention skip."""
    work = example_of(family).workload("small")
    if family == "ltx-2":
        work = dataclasses.replace(work, config={**work.config, "perturbed_attn": True})
    step = step_cost.BenchmarkStep(family, work, 1, CPU, torch.float32)
    with torch.inference_mode():
        ways, missing = peers.peer_ways(step, step_cost.GUIDANCE_SCALE)
        assert set(ways) == {
            *(["slg_guider"] if family in WITH_GUIDER else []),
            *(["ltx2_stg"] if family == "ltx-2" else []),
            *(["sd3_skip_layers"] if family == "sd3" else []),
        }
        assert bool(missing) == (family not in WITH_GUIDER)
        before = hooks_of(step.model)
        for name, way in ways.items():
            skip = "attention" if name == "ltx2_stg" else "residual"
            terms = [dataclasses.replace(term, skip=skip) for term in step.terms]
            with guide(step.pipe, terms):
                ours = step.run_cfg()
            torch.testing.assert_close(way(), ours, atol=5e-5, rtol=1e-4)
            assert (ours - step.run_cfg()).abs().max() > 1e-4
        assert hooks_of(step.model) == before


def hooks_of(model: torch.nn.Module) -> list[Any]:
    return [
        list(getattr(getattr(module, "_diffusers_hook", None), "hooks", {}))
        for module in model.modules()
    ]


def test_intervals_hold_the_ratio_of_the_best_rounds() -> None:
    seconds = {"cfg": [2.0, 1.0, 4.0], "way": [3.0, 2.0, 4.4]}
    found = rounds.compare_ways(seconds, to="cfg")
    assert found["way"] == {"seconds": 2.0, "ratio": 2.0, "interval": (1.1, 2.0)}
    assert found["cfg"]["interval"] == (1.0, 1.0)
    assert [rounds.interval_level(n) for n in (1, 2, 7)] == [0, 0.5, 1 - 1 / 64]


def depths(row: Any, model: torch.nn.Module) -> dict[str, int]:
    """How many layers each stack has."""
    indices = {
        name: {place.index for place in blocks.layer_sites(row, model) if place.name == name}
        for name in row.stacks
    }
    return {name: len(found) for name, found in indices.items()}


@pytest.mark.parametrize("family", UNETS)
def test_full_size_is_that_of_the_public_checkpoint(family: str) -> None:
    """Parameters as the hub counts them for SVD XT, AnimateDiff's two parts (860 + 453),
    ModelScope, I2VGen-XL, Stable Diffusion 1.5 and SDXL."""
    row = next(row for row in FAMILIES if row.name == family)
    work = example_of(family).workload("full")
    with torch.device("meta"):
        model = torch.nn.Module.to(denoiser_class(row)(**work.config), "meta")
        given = work.inputs(1)
    assert depths(row, model) == {name: stack.depth for name, stack in row.stacks.items()}
    sizes = {"svd": 1525, "animatediff": 1313, "modelscope": 1411, "i2vgen-xl": 1420}
    millions = {**sizes, "sd": 860, "sdxl": 2567}[family]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)
    with torch.no_grad():
        assert model(**given).sample.shape[-2:] == given["sample"].shape[-2:]


@pytest.mark.usefixtures("six_blocks")
def test_result() -> None:
    result = run(repeats=3)
    assert result["floor_ratio"] > 1
    assert result["passes"] == pytest.approx(2 + 2 / 6)
    assert result["passes_full"] == pytest.approx(3 - 1 / 6)
    assert (result["blocks"], result["layer"], result["floor_by"]) == (6, "blocks:3", "time")
    assert result["terms"] == [{"skip": "residual", "axis": None, "scale": 1.0}]
    assert result["hidden_bytes"] == 2 * (4 * (3 * 4 * 4 * 64 + 64 * 128))
    ways = result["ways"]
    own = ["cfg", "attached", "full", "shared", "batch", "slg_guider"]
    assert (list(ways), result["no_slg_guider"]) == (own, "")
    extra = ways["shared"]["peak_bytes"] - ways["full"]["peak_bytes"]
    assert extra <= 2 * result["hidden_bytes"]
    assert result["bit_equal"]
    assert result["largest_difference"] == 0
    for way in ways.values():
        low, high = way["interval"]
        assert 0 < low <= way["ratio"] <= high
    assert ways["cfg"]["ratio"] == 1
    assert result["interval_level"] == 0.75  # (1/2)^3 that all three are below the median, or above
    assert ways["shared"]["distance"] == 0
    assert "distance" not in ways["cfg"]
    assert all(0 < ways[name]["distance"] < 1e-4 for name in ("full", "batch", "slg_guider"))


def test_floor_is_the_share_of_the_blocks_after_the_skipped_one() -> None:
    """Of two rounds the faster time of each block and of the pass counts; block 3 of 6 is skipped,
    4 and 5 are left."""
    step = step_cost.BenchmarkStep("mochi", SIX_BLOCKS.workload(), 1, CPU, torch.float32)
    rounds = [
        (9.0, {**dict.fromkeys(range(5), 1.0), 5: 3.0}),
        (8.0, {**dict.fromkeys(range(5), 2.0), 5: 2.0}),
    ]
    assert step.floor_ratio(rounds) == pytest.approx(1 + (1.0 + 2.0) / (2 * 8.0))


def test_floor_of_an_attention_skip_has_the_skipped_block_in_it() -> None:
    work = dataclasses.replace(SIX_BLOCKS.workload(), terms=(dict(skip="attention"),) * 2)
    step = step_cost.BenchmarkStep("mochi", work, 1, CPU, torch.float32)
    assert step.floor_ratio([(8.0, dict.fromkeys(range(6), 1.0))]) == pytest.approx(
        1 + 2 * 3 / (2 * 8.0)
    )


@pytest.mark.parametrize("family", UNETS)
def test_floor_of_a_unet_is_what_a_guided_step_computes(family: str) -> None:
    """Counted on the meta device, pass by pass; here in a real step, as guide() runs it."""
    work = example_of(family).workload("small")
    step = step_cost.BenchmarkStep(family, work, 1, CPU, torch.float32)
    with torch.no_grad():
        guided, plain = operations(step.run_guided), operations(step.run_cfg)
    assert step.floor_ratio([]) == pytest.approx(guided / plain, rel=1e-9)
    assert 1 < step.floor_ratio([]) < 1 + len(step.terms) / 2


def operations(way: Any) -> int:
    """Floating point operations, attention by torch's kernel for the CPU included."""
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def formula(query: Any, key: Any, *_: Any, **__: Any) -> int:
        batch, heads, tokens, width = query
        return 4 * batch * heads * tokens * key[2] * width

    with torch.utils.flop_counter.FlopCounterMode(
        display=False, custom_mapping={kernel: formula}
    ) as counter:
        way()
    return counter.get_total_flops()


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_result_of_a_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two terms: two weak passes, both compared; one of them off by a bit is noticed."""
    result = run(family="svd", prompts=1, width=None, peaks=False)
    assert (result["blocks"], result["layer"], result["floor_by"]) == (7, "up:0", "FLOPs")
    assert [(term["axis"], term["scale"], term["skip"]) for term in result["terms"]] == [
        ("spatial", 2.0, "attention"), ("temporal", 0.5, "attention"),
    ]  # fmt: skip
    assert result["passes"] == pytest.approx(2 * result["floor_ratio"])
    assert 3.9 < result["passes_full"] < 4
    assert result["bit_equal"]
    assert result["hidden_bytes"] > 4 * 3 * 32 * 8 * 8  # more than one state of the outermost block
    weak_in_full = step_cost.BenchmarkStep.run_full_weak_passes
    monkeypatch.setattr(
        step_cost.BenchmarkStep,
        "run_full_weak_passes",
        lambda step: [a + n * 1e-3 for n, a in enumerate(weak_in_full(step))],
    )
    result = run(family="svd", prompts=1, width=None, peaks=False)
    assert (result["bit_equal"], result["largest_difference"]) == (
        False,
        pytest.approx(1e-3, rel=1e-2),
    )


def test_cost_in_half_precision_is_that_in_float32() -> None:
    work = example_of("svd").workload("small")
    costs = [
        step_cost.BenchmarkStep("svd", work, 1, CPU, dtype).weak_passes[0].cost(shared=True)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert costs[0] == costs[1]


@pytest.mark.usefixtures("six_blocks")
def test_command_line() -> None:
    arguments = ["bench", "--family", "mochi", "--repeats", "1", "--width", "64"]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["blocks"] == 6
    table = CliRunner().invoke(app, arguments)
    names = [line.split("|")[1].strip() for line in table.stdout.splitlines() if line[0] == "|"]
    assert names[0] == "way of one step"
    assert names[2:] == [
        "CFG alone", "guide() attached, scale 0", "CFG + STG, third full pass",
        "CFG + STG, skipguide", "CFG + STG, skipguide with exact=False",
        "CFG + STG, diffusers' SkipLayerGuidance", "floor, by the time of the blocks",
    ]  # fmt: skip
    assert len({len(line) for line in table.stdout.splitlines() if line[0] == "|"}) == 1
    assert "they hold the median with 0.0%" in table.stdout


@pytest.mark.usefixtures("small")
def test_table_of_a_model_without_cfg() -> None:
    """Of four blocks the second is skipped: beside c two are run, or all but that one."""
    arguments = ["bench", "--family", "minimax-h3", "--repeats", "1", "--prompts", "1"]
    said = CliRunner().invoke(app, arguments).stdout
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines()]
    passes = {row[1]: row[2] for row in rows if len(row) > 3}
    assert passes["c alone"] == passes["guide() attached, scale 0"] == "1"
    assert passes["c + STG, second full pass"] == "1.75"
    assert passes["c + STG, skipguide"] == "1.50"
    assert "time / c |" in said
    assert "weak outputs bit-equal to a full pass: yes" in said


@pytest.mark.usefixtures("small")
def test_every_family_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["mochi", "wan", "latte", "svd"]
    monkeypatch.setattr(rows, "FAMILIES", [row for row in FAMILIES if row.name in some])
    printed = CliRunner().invoke(app, ["bench", "--all", "--repeats", "1", "--prompts", "1"])
    assert printed.exit_code == 0
    assert [
        line.split("|")[1].strip() for line in printed.stdout.splitlines() if line.startswith("| ")
    ][1:] == some
    assert "| up:0, attention, spatial 2 + temporal 0.5 |" in printed.stdout
    assert "| spatial:1 |" in printed.stdout
    assert printed.stdout.endswith("The floor of a UNet is counted in FLOPs.\n")


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_table_of_a_unet() -> None:
    said = (
        CliRunner()
        .invoke(app, ["bench", "--family", "svd", "--repeats", "1", "--prompts", "1"])
        .stdout
    )
    assert "svd, 7 layers, layer up:0, attention, spatial 2 + temporal 0.5; " in said
    assert "| CFG + STG, 2 more full passes              |" in said
    assert "| floor, by FLOPs                            |" in said
    assert "SkipLayerGuidance was not measured: it skips blocks of a ModuleList" in said
    assert "what it keeps of the cond pass: " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "moch"], "--family must be one of mochi"),
        (["--device", "abacus"], "device must be one that torch has here, but got 'abacus'"),
        (["--width", "100"], "--width must be a positive multiple of 64, but got 100"),
        (["--dtype", "int8"], "--dtype must be float32, bfloat16 or float16, but got 'int8'"),
        (
            ["--family", "wan", "--full-size"],
            "--full-size is offered for mochi, svd, animatediff, modelscope, i2vgen-xl",
        ),
        (
            ["--family", "svd", "--width", "256"],
            "--width is for denoisers whose width is a number of heads of 64 channels",
        ),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.long
def test_ltx2_recipe_is_the_same_step_and_costs_what_is_counted() -> None:
    """diffusers' own four passes against guide(), on 32 blocks: layer 28 must be there."""
    work = example_of("ltx-2").workload("small")
    config = {**work.config, "perturbed_attn": True, "num_layers": 32}
    step = step_cost.BenchmarkStep(
        "ltx-2", dataclasses.replace(work, config=config), 1, CPU, torch.float32
    )
    with torch.inference_mode():
        ways = recipe.recipe_ways(step, step_cost.GUIDANCE_SCALE)
        found = recipe.summarize(step, ways, [recipe.measure_round(ways, CPU)])
        own, ours = ways["own"](), ways["shared"]()
    torch.testing.assert_close(ours, own, atol=5e-5, rtol=1e-4)
    assert found["apart"] < 1e-5
    assert [found["ways"][name]["passes"] for name in ways] == [4.0, 3.125, 3.125, 2.5625]
    operations, weak = recipe.count_operations(step)
    assert weak["STG"] == pytest.approx(4 / 32, abs=0.02)  # three blocks, and one without its map
    assert 0 < 4 - operations["own"] < 0.5  # nothing between video and sound in one of them
    saved = (operations["own"] - operations["shared"]) * 32
    assert 27 < saved < 28  # blocks of 32; a pass has embeddings too
    assert not recipe.recipe_ways(
        step_cost.BenchmarkStep("ltx-2", work, 1, CPU, torch.float32), step_cost.GUIDANCE_SCALE
    )

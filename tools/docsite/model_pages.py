"""A page for each family of models, made from its row and its presets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from skipguide.families import presets, published_layers, tables
from skipguide.families.presets import Preset
from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES
from skipguide.families.schema import Family
from skipguide.method import perturbations
from skipguide.weak.weak_pass import stack_cost

# Pages in docs/ that say more of a family, by its name.
MORE = {
    "ltx-2": ("ltx-2.md", "All of LTX-2's own guidance"),
    "opensora": ("opensora.md", "Open-Sora 1.2 for diffusers, and how its weights are converted"),
    "svd": ("method.md", "Space and time apart, and how layers of a UNet are counted"),
    "minimax-h3": ("without-cfg.md", "Models without CFG"),
    "kandinsky-6": ("without-cfg.md", "Models without CFG"),
    "hunyuan": ("without-cfg.md", "Models without CFG"),
}
# Families all of whose pipelines start from a picture, and others that have one which may.
NEED_PICTURE = frozenset({"chronoedit", "framepack", "sana-wm", "svd", "wan-animate"})
TAKE_PICTURE = NEED_PICTURE | {
    "animatediff", "chroma", "cogvideox", "cosmos", "flux", "flux-2", "glm-image", "helios",
    "hunyuan", "hunyuan-1.5", "hunyuan-image", "i2vgen-xl", "kandinsky-5", "kandinsky-6", "ltx",
    "ltx-2", "motif-video", "qwen-image", "sana", "sana-video", "sd", "sd3", "sdxl", "skyreels-v2",
    "wan", "z-image",
}  # fmt: skip
# Depths, as parts of the first stack, of which a page says what a weak pass costs.
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
Costs = Mapping[str, Mapping[str, str]]  # family -> column of docs/bench.md -> cell


def model_pages(measured: Costs) -> dict[str, str]:
    """Return the pages by their paths below docs/."""
    rows = {row["name"]: row for row in tables.family_rows()}
    return {
        page_path(family): "\n".join(_page(family, rows[family.name], measured))
        for family in FAMILIES
    }


def model_nav() -> list[dict[str, list[dict[str, str]]]]:
    """Return the entries of the nav: models that make videos, and those that make images."""
    return [
        {title: [{row.title: page_path(row)} for row in FAMILIES if row.makes == makes]}
        for title, makes in (("Videos", "video"), ("Images, model by model", "image"))
    ]


def page_path(family: Family) -> str:
    """Return the path of a family's page below docs/."""
    return f"models/{family.name.replace('.', '-')}.md"


def measured_costs(page: str) -> Costs:
    """Read the table of docs/bench.md: the cells of each family by the headings of its columns."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    heading = next(cells for cells in lines if cells[0] == "family")
    return {
        cells[0]: dict(zip(heading, cells, strict=True))
        for cells in lines
        if len(cells) == len(heading) and cells is not heading
    }


def _page(family: Family, row: tables.Row, measured: Costs) -> Iterator[str]:
    yield f"# {family.title}\n"
    yield f"Makes {family.makes}s. Checkpoint: `{row['checkpoint']}`.\n"
    if family.name in MORE:
        page, said = MORE[family.name]
        yield f"{said}: [{page}](../{page}).\n"
    yield from _commands(family)
    yield from _presets(family)
    yield from _layers(family, row)
    yield from _costs(family, measured)
    yield from _pipelines(family, row)
    yield from _limits(family, row)


def _commands(family: Family) -> Iterator[str]:
    recommended = tables.recommended_presets(family)
    published = [row for row in recommended if not row.name.startswith("lab-")]
    stg = [row for row in published if row.kind == "stg"]
    term = "STG.preset(pipe)" if stg else presets.example_term(_facts(family))
    yield "## Type this\n"
    checkpoint = (stg[0].model if stg else family.checkpoint).split(" ")[0]
    if _has_command(family):
        flags = "" if stg else f" --layers {_first_layer(family)} --stg-scale 1"
        flags += " --image fox.png" if family.name in NEED_PICTURE else ""
        prompt = "" if family.name == "svd" else ' "a red fox in the snow"'
        yield f"```sh\nskipguide generate{prompt} --model {checkpoint}{flags}\n```\n"
        if family.name in TAKE_PICTURE - NEED_PICTURE:
            yield "Pipelines that start from a picture take `--image fox.png` too.\n"
        yield "In Python:\n"
    yield f"```py\nfrom skipguide import STG, guide\n\nwith guide(pipe, {term}):\n    ...\n```\n"
    if not stg:
        yield (
            "No setting for STG is published for this model, as far as we know. The layer above is"
            " the one at 0.7 of the depth: a place to begin, and no finding."
            " [Choose a layer](../choose-a-layer.md) finds one.\n"
        )


def _has_command(family: Family) -> bool:
    """Return whether `skipguide generate` loads models of this family."""
    return any(not name.endswith("ModularPipeline") for name in family.pipelines)


def _facts(family: Family) -> presets.ModelFacts:
    first = next(iter(family.stacks.values()))
    return presets.ModelFacts((), family, first.depth, 0, {})


def _first_layer(family: Family) -> str:
    layer = re.search(r"layers=\[(.*?)\]", presets.example_term(_facts(family)))
    assert layer is not None  # each example names one
    return layer[1].strip('"')


# --- presets --------------------------------------------------------------------------------------


def _presets(family: Family) -> Iterator[str]:
    found = [row for row in presets.load_presets() if set(row.pipelines) & set(family.pipelines)]
    yield "## Published settings\n"
    if not found:
        yield "None that we know of.\n"
        return
    yield (
        "Converted into the words of this library. The ones in bold are what `STG.preset(pipe)` and"
        " `SLG.preset(pipe)` pick, if the size of the model fits. A weak pass is counted in forward"
        " passes; CFG alone takes 2, a run without CFG 1.\n"
    )
    lines = tables.markdown_table(
        ("preset", "model", "setting", "a weak pass", "source"),
        (_preset_cells(row, family) for row in found),
    )
    yield "\n".join([*lines, ""])


def _preset_cells(row: Preset, family: Family) -> Sequence[str]:
    name = f"**{row.name}**" if row.recommended else row.name
    weak = weak_pass(row, family)
    note = f" {row.note}" if row.note else ""
    cost = "" if weak is None else f"{weak:.2f}"
    setting = presets.describe_preset(row)
    return name, row.model, setting, cost, _escape(f"{row.source}.{note}")


def weak_pass(row: Preset, family: Family) -> float | None:
    """Return what the weak pass of a preset computes, in forward passes; None where blocks do not
    tell it (UNets, schedules, stacks that run in turn, several passes)."""
    if family.unet or family.interleaved or row.schedule or row.terms or not row.layers:
        return None
    if row.kind == "slg" or row.modality_scale > 1:
        return None
    stacks = {name: stack.depth for name, stack in family.stacks.items()}
    first_stack = next(iter(stacks))
    stacks[first_stack] = row.depth or stacks[first_stack]
    sites = [f"{name}:{k}" for name, depth in stacks.items() for k in range(depth)]
    skipped = [
        layer if isinstance(layer, str) else f"{first_stack}:{layer}" for layer in row.layers
    ]
    first = min(map(sites.index, skipped))
    return stack_cost(len(sites), first, len(skipped) if row.skip == "residual" else 0)


# --- layers and costs -----------------------------------------------------------------------------


def _layers(family: Family, row: tables.Row) -> Iterator[str]:
    yield "## Layers\n"
    yield f"{tables.describe_stacks(row)}. " + (
        "A layer is written with its part of the UNet, as in `up:0`."
        if family.unet
        else f"A bare number is a layer of `{next(iter(family.stacks))}`, counted from 0."
    )
    axes = ", ".join(f"`{axis}`" for axis in row["axes"])
    yield f"Kinds of skip: {', '.join(row['skips'])}." + (f" Axes: {axes}." if axes else "")
    yield (
        f"`skipguide layers {family.name}` lists every layer with its share of a forward pass.\n"
    )
    for best in published_layers.BEST_LAYERS:
        if best.family == family.name:
            said = f"{best.layers} ({best.skip}), {best.measure}: {best.source}"
            yield f"Found best by others: {said}.\n"


def _costs(family: Family, measured: Costs) -> Iterator[str]:
    yield "## Cost and memory\n"
    first = next(iter(family.stacks.values()))
    if not family.unet and not family.interleaved:
        layers = sorted({int(part * first.depth) for part in DEPTHS})
        total = sum(stack.depth for stack in family.stacks.values())
        lines = tables.markdown_table(
            ("layer skipped", *map(str, layers)),
            [("weak pass, of a forward pass", *(f"{stack_cost(total, k, 1):.2f}" for k in layers))],
        )
        yield "\n".join([*lines, ""])
    if family.name in measured:
        found = measured[family.name]
        yield (
            f"Measured at layer `{found['layer']}` with narrow weights on a CPU, as a ratio to a"
            f" step of CFG: {found['skipguide']} (a full extra pass: {found['full weak pass']};"
            f" peak of memory over that of CFG: {found['peak over CFG']});"
            " [bench.md](../bench.md) says how.\n"
        )
    yield (
        "What is kept for a weak pass is the input of the first skipped layer. For a model that"
        " does not fit into memory see [big-models.md](../big-models.md); for the price of CFG"
        " alone, [reuse.md](../reuse.md).\n"
    )


# --- pipelines, and what is refused ---------------------------------------------------------------


def _pipelines(family: Family, row: tables.Row) -> Iterator[str]:
    yield "## Pipelines\n"
    yield "\n".join(f"- `{name}`" for name in row["pipelines"]) + "\n"
    if family.modular:
        names = ", ".join(f"`{name}`" for name in family.modular)
        yield f"Modular, with `SkipGuidance` as their guider: {names}.\n"
    yield f"Their CFG: {row['cfg']}.\n"


def _limits(family: Family, row: tables.Row) -> Iterator[str]:
    yield "## What to know, and what is refused\n"
    found = [f"Needs `{name}`." for name in row["needs"]]
    found += [_sentence(family.notes)] if family.notes else []
    found += [f"NAG: {row['nag']}."]
    lacking = [skip for skip in perturbations.PERTURBATIONS if skip not in row["skips"]]
    found += [f"Kinds of skip that it lacks: {', '.join(lacking)}."] if lacking else []
    reasons: dict[str, list[str]] = {}
    for name in refused_pipelines(family):
        reasons.setdefault(REFUSED_PIPELINES[name], []).append(f"`{name}`")
    found += [f"Refused: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    yield "\n".join(f"- {_escape(line)}" for line in found) + "\n"


def refused_pipelines(family: Family) -> list[str]:
    """Return the refused pipelines whose names begin as those of this family, and of no other with
    a longer beginning in common."""
    stems = {other.name: _stem(other) for other in FAMILIES}

    def owner(pipeline: str) -> str | None:
        fitting = [name for name, stem in stems.items() if _begins(pipeline, stem)]
        return max(fitting, key=lambda name: len(stems[name]), default=None)

    return [pipeline for pipeline in REFUSED_PIPELINES if owner(pipeline) == family.name]


def _stem(family: Family) -> str:
    return min(family.pipelines, key=len).removesuffix("Pipeline").removesuffix("Modular")


def _begins(pipeline: str, stem: str) -> bool:
    """Return whether a name begins with a stem, of which no word or number goes on."""
    rest = pipeline.removeprefix(stem)
    return rest != pipeline and not rest[:1].isdigit() and not rest[:1].islower()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")

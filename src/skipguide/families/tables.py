"""Generate the tables of families and presets from their rows, for the command line and for
docs/families.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from skipguide.families import presets
from skipguide.families.presets import Preset
from skipguide.families.rows import COMPARED_WITH, FAMILIES, REFUSED_PIPELINES
from skipguide.families.schema import CallConvention, Family
from skipguide.method import perturbations

Row = dict[str, Any]  # of a table, as JSON has it
CFG_MODE_DESCRIPTIONS = {
    "batched": "one call on [u, c]",
    "separate": "a call each for c and u",
    "guider": "by its guider",
    "none": "no CFG: one call for c",
}
REGENERATE_COMMAND = "skipguide families --markdown > docs/families.md"

# --- families -------------------------------------------------------------------------------------


def family_rows() -> list[Row]:
    """Return what guide() knows of each family, in words and numbers that JSON can hold."""
    return [
        {
            "name": family.name,
            "title": family.title,
            "makes": family.makes,
            "pipelines": list(family.pipelines),
            "denoiser": family.model,
            "checkpoint": family.checkpoint,
            "stacks": {name: stack.depth for name, stack in family.stacks.items()},
            "skips": list(perturbations.available_skips(family.traits)),
            "axes": list(family.axes),
            "nag": describe_nag(family),
            "outputs": list(family.outputs),
            "cfg": describe_cfg(family),
            "presets": [_preset_summary(row) for row in recommended_presets(family)],
            "needs": list(family.packages.values()),
            "notes": family.notes,
        }
        for family in FAMILIES
    ]


def describe_nag(family: Family) -> str:
    """Say where NAG acts in a family, or why it does not."""
    if family.negative is None:
        return f"no: {family.no_nag}"
    texts = [text for stack in family.stacks.values() for text in stack.text]
    return "joint attention" if any(text.stream for text in texts) else "cross-attention"


def describe_cfg(family: Family) -> str:
    """Say how a family's pipelines call the denoiser, and by which formula they combine it.

    Where they differ, each way is followed by the pipelines that it is for."""
    ways: dict[str, list[str]] = {}
    for pipeline, calls in family.pipelines.items():
        ways.setdefault(_describe_calls(calls), []).append(pipeline)
    if len(ways) == 1:
        return next(iter(ways))
    return "; ".join(f"{way} ({', '.join(pipelines)})" for way, pipelines in ways.items())


def _describe_calls(calls: CallConvention) -> str:
    parts = [CFG_MODE_DESCRIPTIONS[calls.cfg_mode]]
    parts += ["c + g (c - u)"] if calls.scale_from_cond else []
    parts += ["g is true_cfg_scale"] if "true_cfg_scale" in calls.scale_names else []
    parts += (
        [f"needs {calls.unsupported_hint or f'{calls.unsupported_flag}=False'}"]
        if calls.unsupported_flag
        else []
    )
    parts += [f"rescale needs {calls.dynamic_scale_flag}=False"] if calls.dynamic_scale_flag else []
    return ", ".join(parts)


def recommended_presets(family: Family) -> list[Preset]:
    """Return the presets that STG.preset() picks for pipelines of a family."""
    return [
        row
        for row in presets.load_presets()
        if row.recommended and set(row.pipelines) & set(family.pipelines)
    ]


def _preset_summary(row: Preset) -> dict[str, str]:
    return {
        "name": row.name,
        "model": row.model,
        "setting": presets.describe_preset(row),
        "source": row.source,
    }


def refused_pipelines() -> dict[str, list[str]]:
    """Return the pipelines that guide() refuses, by the reason."""
    reasons: dict[str, list[str]] = {}
    for pipeline, reason in REFUSED_PIPELINES.items():
        reasons.setdefault(reason, []).append(pipeline)
    return reasons


# --- presets --------------------------------------------------------------------------------------


def preset_rows(model: str = "", pipeline: str = "") -> list[Row]:
    """Return the published settings, all of them or those that match.

    Args:
        model: a part of the name of the preset or of its model, in any case.
        pipeline: a part of the name of one of its pipelines, in any case.

    Raises:
        ValueError: if none matches.
    """
    rows = [row for row in presets.load_presets() if matches(row, model, pipeline)]
    if not rows:
        asked = " and ".join(
            f"--{k} {v}" for k, v in (("model", model), ("pipeline", pipeline)) if v
        )
        known = ", ".join(dict.fromkeys(row.model for row in presets.load_presets()))
        raise ValueError(f"no preset matches {asked}. Pass a part of one of these names: {known}.")
    return [preset_row(row) for row in rows]


def matches(row: Preset, model: str, pipeline: str, name: str = "") -> bool:
    """Return whether a preset is asked for, by parts of names as for `preset_rows`.

    Args:
        name: in the place of the row's own.
    """
    of_model = model.lower() in row.model.lower() or model.lower() in (name or row.name).lower()
    return of_model and (
        not pipeline or any(pipeline.lower() in name.lower() for name in row.pipelines)
    )


def preset_row(row: Preset) -> Row:
    """Return a preset ready for JSON and for `preset_cells`."""
    return {
        "name": row.name,
        "model": row.model,
        "pipelines": list(row.pipelines),
        "depth": row.depth or None,
        "recommended": row.recommended,
        "kind": row.kind,
        "layers": list(row.layers),
        "skip": row.skip,
        "axis": row.axis,
        "scale": None if row.kind == "slg" or row.schedule or row.terms else row.scale,
        "terms": [dict(term) for term in row.terms],
        "start": row.start,
        "stop": row.stop,
        "rescale": row.rescale,
        "rescale_space": row.rescale_space,
        "audio_rescale": row.audio_rescale,
        "modality_scale": row.modality_scale,
        "normalize": row.normalize,
        "guidance_scale": row.defaults.get("guidance_scale"),
        "steps": row.defaults.get("num_inference_steps"),
        "schedule": [dict(entry) for entry in row.schedule],
        "note": row.note,
        "source": row.source,
    }


PRESET_COLUMNS = ("preset", "layers", "skip", "scale", "window", "rescale", "CFG")


def preset_cells(row: Row) -> list[tuple[str, ...]]:
    """Return the table lines of one row: its own, and one for each range of sigma of a schedule."""
    mark = " *" if row["recommended"] else ""
    if row["schedule"]:
        return [
            (row["name"] + mark, "a schedule", *[""] * 5),
            *(_bin_cells(entry) for entry in row["schedule"]),
        ]
    terms = row["terms"] or [{"axis": row["axis"], "scale": row["scale"]}]
    if not row["layers"] and row["modality_scale"] > 1:
        rescale, cfg = _format_number(row["rescale"]), _format_cfg(row)
        return [(row["name"] + mark, "all", "modality", _modality(row), "", rescale, cfg)]
    if not row["layers"]:
        return [(row["name"] + mark, "none", "CFG alone", "", "", "", _format_cfg(row))]
    axes = " + ".join(term["axis"] for term in terms if term["axis"])
    skip = row["skip"] + (f", {axes}" if axes else "") + (" of u" if row["kind"] == "slg" else "")
    window = (
        "" if (row["start"], row["stop"]) == (0, 1) else f"{row['start']:.0%}-{row['stop']:.0%}"
    )
    layers = presets.describe_layers(row["layers"])
    scale = " + ".join(_format_number(term["scale"]) for term in terms)
    scale += " normalized" if row["normalize"] else ""
    scale += f", modality {_modality(row)}" if row["modality_scale"] > 1 else ""
    return [
        (
            row["name"] + mark,
            layers,
            skip,
            scale,
            window,
            _format_number(row["rescale"]),
            _format_cfg(row),
        )
    ]


def _modality(row: Row) -> str:
    return _format_number(row["modality_scale"])


def _bin_cells(entry: Row) -> tuple[str, ...]:
    low, high = entry["sigma"]
    window = "" if low <= 0 and high > 1 else f"sigma {low:.4g}-{high:.4g}"
    layers = presets.describe_layers(entry.get("layers", ()))
    skip = entry["skip"] if entry.get("scale") else ""
    numbers = (
        _format_number(entry.get("scale", 0.0)),
        window,
        _format_number(entry.get("rescale", 0.0)),
    )
    return ("", layers if skip else "", skip, *numbers, _format_cfg(entry))


def _format_number(value: float | None) -> str:
    return f"{value:g}" if value else ""


def _format_cfg(row: Row) -> str:
    g = row.get("guidance_scale")
    return "" if g is None else "off" if g == 1 else f"{g:g}"


# --- markdown -------------------------------------------------------------------------------------

FAMILY_COLUMNS = (
    "family",
    "makes",
    "pipelines",
    "layers",
    "skips",
    "NAG",
    "CFG",
    "preset",
    "notes",
)


INTRODUCTION = """\
# Families

<!-- Generated: {command} -->

{pipelines} pipelines of {families} families, as `rows.py`, `image_rows.py` and `presets.toml` in
`src/skipguide/families` have them: models that make videos, then those that make images. They were
compared with diffusers {version}, whose pipelines for videos and images all have a row here or
stand below with a reason. To support another one: [add-a-family.md](add-a-family.md).

Layers count from 0 within a stack; a bare number is one of the first stack named, `"single:7"`
one of another. The layers of a UNet are those of its down blocks, its mid block and its up
blocks, and a bare number is refused there: `"up:0"` is the first one on the way up. Most have a
spatial and a temporal half, and `axis` picks one of them; `skipguide layers` lists the layers of
a model with the kinds of attention that each has. UNets for images have spatial attention only, and
their layers are single transformer blocks, as PAG counts them; where all blocks of a transformer
are skipped, so are its projections. What the skips do is in [weak-models.md](weak-models.md). The
column NAG says in which attention a negative prompt can be guided away from
([methods.md](methods.md)): in joint attention every block runs twice, in cross-attention this
attention alone does.

Depths are those of the checkpoint named beside them, or the default of the class in diffusers
where its config could not be read; any depth works. In the column CFG, c and u are the
conditional and the unconditional prediction, and the formula is u + g (c - u) where none is
given. The preset is what `STG.preset(pipe)` picks; `skipguide presets` lists all that is
published.
"""


MODULAR = """
## Modular pipelines

Their guider may be a `skipguide.guider.SkipGuidance`. The loops of Wan, Wan 2.2, LTX, LTX-2,
HunyuanVideo 1.5, Helios and its pyramid run in the tests; the others are here because they have a
guider and a denoiser of the family.
"""


def families_markdown() -> str:
    """Return docs/families.md."""
    rows = family_rows()
    pipelines, families = count_families(rows)
    introduction = INTRODUCTION.format(
        command=REGENERATE_COMMAND,
        pipelines=pipelines,
        families=families,
        version=COMPARED_WITH,
    )
    refused = refused_pipelines().items()
    lines = [
        introduction,
        *markdown_table(FAMILY_COLUMNS, (_family_cells(row) for row in rows)),
        "\n## Where the presets come from\n",
        *markdown_table(("preset", "model", "setting", "source"), _preset_sources(rows)),
        MODULAR,
        *markdown_table(
            ("pipelines", "family"),
            ((_format_code(row.modular), row.title) for row in FAMILIES if row.modular),
        ),
        "\n## Refused\n\nPipelines of diffusers that `guide()` refuses, and why.\n",
        *markdown_table(
            ("pipelines", "why"), ((_format_code(names), reason) for reason, names in refused)
        ),
        "",
    ]
    return "\n".join(lines)


def count_families(rows: Sequence[Row]) -> tuple[int, int]:
    """Return how many pipelines and how many families there are."""
    return sum(len(row["pipelines"]) for row in rows), len(rows)


def _family_cells(row: Row) -> tuple[str, ...]:
    return (
        row["title"],
        row["makes"],
        _format_code(row["pipelines"]),
        f"{describe_stacks(row)}: {row['checkpoint']}",
        ", ".join([*row["skips"], *(f'axis="{axis}"' for axis in row["axes"])]),
        row["nag"],
        row["cfg"],
        "; ".join(f"{preset['name']}: {preset['setting']}" for preset in row["presets"]),
        "; ".join([*(f"needs {name}" for name in row["needs"]), *filter(None, [row["notes"]])]),
    )


def describe_stacks(row: Row) -> str:
    """Return the depth of each stack, as in "20 dual, 40 single"."""
    return ", ".join(f"{depth} {name}" for name, depth in row["stacks"].items())


def _preset_sources(rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    for row in rows:
        for preset in row["presets"]:
            yield preset["name"], preset["model"], preset["setting"], preset["source"]


def _format_code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    ]

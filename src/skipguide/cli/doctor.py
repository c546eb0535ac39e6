"""skipguide doctor: what of this machine, its packages and its models can be used, and what not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skipguide.cli import console
from skipguide.cli.families import Line, align_columns, print_lines
from skipguide.cli.options import Json
from skipguide.method.protocols import PlainData, ReadOnlyData


def doctor(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Local models to look at, or folders of several; those in the hub's cache are"
            " looked at anyway.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at versions, devices, memory, packages and models.

    It says what is missing for which model, and the line that installs it; which models lie in the
    hub's cache, whether they are whole, and which preset each has. Nothing is downloaded. Exit code
    1 if something is wrong that has to be mended.
    """
    found = examine(folders or [])
    if as_json:
        console.print_result("", found, as_json)
    else:
        print_lines(list(_lines(found)))
    if found["problems"]:
        raise typer.Exit(1)


# --- looking --------------------------------------------------------------------------------------


def examine(folders: Sequence[Path]) -> PlainData:
    """Return everything that the doctor finds, ready for JSON.

    A section that cannot be looked at has an `error` in its place; nothing is raised.
    """
    import skipguide
    from skipguide.models import packages

    required = packages.check_required()
    found: PlainData = {
        "skipguide": skipguide.__version__,
        **packages.describe_system(),
        "packages": required,
        "optional": packages.check_optional(),
    }
    wrong = {row["name"]: row for row in required if row["state"] != "ok"}
    if {"torch", "diffusers", "transformers"} & set(wrong):
        why = {"error": "torch, diffusers and transformers are needed for this"}
        found |= dict.fromkeys(("devices", "attention", "families", "models"), why)
    else:
        found |= _examine_machine(folders)
    return {**found, "problems": list(_problems(found))}


def _examine_machine(folders: Sequence[Path]) -> PlainData:
    from skipguide.models import machine

    devices = _attempt(machine.list_devices)
    first = next((row["device"] for row in devices if "error" not in row), "cpu")
    return {
        "devices": devices,
        "disk": _attempt(_disk),
        "codecs": _attempt(machine.check_codecs),
        "fonts": _attempt(machine.check_fonts),
        "compiler": _attempt(machine.find_compiler),
        "attention": _attempt(lambda: _attention_on(first)),
        "families": _attempt(_missing_by_family),
        "models": _attempt(_cached_models),
        "folders": [model for folder in folders for model in _models_in(folder)],
    }


def _attempt(look: Callable[[], Any]) -> Any:
    """Return what a look finds, or `{"error": ...}`: no part of a machine may stop the doctor."""
    try:
        return look()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _disk() -> list[PlainData]:
    from huggingface_hub import constants

    from skipguide.files.hash_cache import cache_folder
    from skipguide.models.machine import free_disk

    places = {"the hub's cache": Path(constants.HF_HUB_CACHE), "this package": cache_folder()}
    return [
        {"for": name, "folder": str(folder), "free_bytes": free_disk(folder)}
        for name, folder in places.items()
    ]


def _attention_on(device: str) -> PlainData:
    from skipguide.models.machine import check_attention

    return {"device": device, "backends": check_attention(device)}


def _missing_by_family() -> list[PlainData]:
    from skipguide.families.rows import FAMILIES
    from skipguide.models.checkpoint_facts import missing_packages

    rows = [(family, missing_packages(family)) for family in FAMILIES]
    return [
        {"family": family.name, "title": family.title, "missing": missing,
         "install": f"pip install {' '.join(missing)}"}
        for family, missing in rows if missing
    ]  # fmt: skip


def _cached_models() -> PlainData:
    from skipguide.files import hub_cache
    from skipguide.models.checkpoint_facts import describe_checkpoint

    cache = hub_cache.read_hub_cache()
    models = [
        {
            "model": entry.repository, "revision": entry.revision, "refs": list(entry.refs),
            "folder": str(entry.folder), "bytes": entry.bytes,
            **describe_checkpoint(entry.folder),
        }
        for entry in cache.pipelines
    ]  # fmt: skip
    others = [{"model": entry.repository, "bytes": entry.bytes} for entry in cache.others]
    return {
        "folder": str(cache.folder), "pipelines": models, "others": others,
        "warnings": list(cache.warnings),
    }  # fmt: skip


def _models_in(folder: Path) -> list[PlainData]:
    """Describe a model, or the models in the folders of a folder."""
    from skipguide.files import hub_cache
    from skipguide.models.checkpoint_facts import describe_checkpoint

    below = sorted(path.parent for path in folder.glob(f"*/{hub_cache.INDEX_FILE}"))
    is_model = (folder / hub_cache.INDEX_FILE).exists()
    return [
        {"model": str(model), "bytes": hub_cache.folder_bytes(model), **describe_checkpoint(model)}
        for model in ([folder] if is_model or not below else below)
    ]


def _problems(found: ReadOnlyData) -> Iterator[str]:
    """Yield a sentence for each thing that has to be mended, with how."""
    for row in found["packages"]:
        if row["state"] == "ok":
            continue
        needs = f"{row['name']}{row['needs']}"
        if row["name"] == "python":
            yield f"python must be {row['needs']}, but is {row['version']}. Install another one."
            continue
        got = row["version"] if row["state"] in ("older", "newer") else row["state"]
        yield f"skipguide needs {needs}, but got {got}. Install with: pip install '{needs}'"
    codecs = found.get("codecs", {})
    if codecs and not codecs.get("h264"):
        yield (
            f"videos are written as H.264, but PyAV cannot ({codecs.get('error')}). Install its"
            " wheel with: pip install --force-reinstall av"
        )
    yield from (
        said for said in found.get("models", {}).get("warnings", ()) if "Set HF_HOME" in said
    )
    for model in found.get("folders", ()):
        if model["missing_files"]:
            yield (
                f"{model['model']} must have the files that it lists, but lacks"
                f" {_some(model['missing_files'])}. Copy or download it again."
            )
        elif model["pipeline"] is None:
            yield str(model["note"])


# --- in words -------------------------------------------------------------------------------------


def _lines(found: ReadOnlyData) -> Iterator[Line]:
    problems = found["problems"]
    state = "everything that it needs is here"
    if problems:
        state = f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to mend"
    yield "bold", f"skipguide {found['skipguide']} on {found['system']}: {state}"
    for problem in problems:
        yield "red", f"  {problem}"
    yield "bold", "versions"
    rows = [
        (f"  {row['name']}", row["version"] or "-", row["needs"] and f"needs {row['needs']}",
         "" if row["state"] == "ok" else row["state"])
        for row in found["packages"]
    ]  # fmt: skip
    for line in align_columns(rows):
        yield "", line
    for title, write in _SECTIONS.items():
        section = found.get(title)
        if section is None or section == []:
            continue
        yield "bold", _TITLES.get(title, title)
        if isinstance(section, dict) and "error" in section:
            yield "", f"  not looked at: {section['error']}"
        else:
            yield from ((style, f"  {text}") for style, text in write(section))


def _device_lines(rows: Sequence[ReadOnlyData]) -> Iterator[Line]:
    for row in rows:
        if "error" in row:
            yield "red", f"{row['device']}: {row['error']}"
            continue
        memory = _bytes(row["memory_bytes"])
        free = f", {_bytes(row['free_bytes'])} free" if row["free_bytes"] is not None else ""
        has = [name for name in ("bfloat16", "fp8") if row[name]]
        slow = "" if row.get("bfloat16_fast", True) else " (slow here)"
        yield "", f"{row['device']}: {row['name']}, {memory}{free}; {', '.join(has)}{slow}"


def _disk_lines(rows: Sequence[ReadOnlyData]) -> Iterator[Line]:
    for row in rows:
        yield "", f"{_bytes(row['free_bytes'])} free for {row['for']}, {row['folder']}"


def _codec_lines(row: ReadOnlyData) -> Iterator[Line]:
    if row["h264"]:
        yield "", f"PyAV {row['pyav']} with ffmpeg {row['ffmpeg']} writes and reads H.264"
    else:
        yield "red", str(row["error"])


def _font_lines(rows: ReadOnlyData) -> Iterator[Line]:
    there = [name for name, found in rows.items() if found]
    gone = [name for name, found in rows.items() if not found]
    yield "", f"captions of pictures have {', '.join(there) or 'plain Latin letters only'}"
    if gone:
        advice = "Install fonts such as Noto Sans CJK for them"
        yield "", f"no font for {', '.join(gone)}: a caption has … or a name there. {advice}"


def _compiler_lines(row: ReadOnlyData) -> Iterator[Line]:
    yield "", f"--compile on the CPU: {row['cpp'] or 'no C++ compiler; install g++ or clang'}"
    yield "", f"--compile on a GPU: {'triton' if row['triton'] else 'no triton'}"


def _attention_lines(found: ReadOnlyData) -> Iterator[Line]:
    rows = found["backends"]
    works = [row["name"] for row in rows if row["works"]]
    yield "", f"--attention that works on {found['device']}: {', '.join(works) or 'none'}"
    if hub := [row["name"] for row in rows if row["works"] is None]:
        yield "", f"downloaded from the hub when first used: {', '.join(hub)}"
    gone = [row["name"] for row in rows if row["works"] is False and row["name"][0] != "_"]
    if gone:
        yield "dim", f"not here, of those with a public name: {', '.join(gone)}"


def _optional_lines(rows: Sequence[ReadOnlyData]) -> Iterator[Line]:
    there = [f"{row['name']} {row['version']}" for row in rows if row["state"] == "ok"]
    yield "", f"here: {', '.join(there) or 'none'}"
    for row in rows:
        if row["state"] != "ok":
            yield "", f"{row['for']}: {row['name']} is {row['state']}; {row['install']}"


def _family_lines(rows: Sequence[ReadOnlyData]) -> Iterator[Line]:
    if not rows:
        yield "", "nothing: every family can be loaded"
    for row in rows:
        yield "", f"{row['title']}: {row['install']}"


def _cache_lines(found: ReadOnlyData) -> Iterator[Line]:
    yield "", f"in {found['folder']}"
    for model in found["pipelines"]:
        refs = f" ({', '.join(model['refs'])})" if model["refs"] else ""
        yield from _model_lines(model, f"{model['model']} @ {model['revision'][:8]}{refs}")
    if not found["pipelines"]:
        yield "", "no pipeline of diffusers"
    if found["others"]:
        size = _bytes(sum(entry["bytes"] for entry in found["others"]))
        names = _some(sorted({entry["model"] for entry in found["others"]}))
        yield "dim", f"and what is no whole pipeline, {size}: {names}"
    for warning in found["warnings"]:
        yield "dim", f"not read: {warning}"


def _folder_lines(models: Sequence[ReadOnlyData]) -> Iterator[Line]:
    for model in models:
        yield from _model_lines(model, str(model["model"]))


def _model_lines(model: ReadOnlyData, name: str) -> Iterator[Line]:
    family = f" (family {model['family']})" if model["family"] else ""
    kind = f"{model['pipeline']}{family}" if model["pipeline"] else "no pipeline"
    yield "", f"{name}: {_bytes(model['bytes'])}, {kind}"
    if model["missing_files"]:
        yield "red", f"    incomplete: {_some(model['missing_files'])}"
    if model["missing_packages"]:
        packages = " ".join(model["missing_packages"])
        yield "red", f"    cannot be loaded yet; pip install {packages}"
    if model["preset"]:
        preset = model["preset"]
        yield "", f"    preset {preset['name']}: {preset['setting']}. {preset['source']}"
    if model["note"]:
        yield "dim", f"    {model['note']}"


_TITLES = {
    "codecs": "video", "families": "missing for families", "optional": "optional packages",
    "models": "models in the hub's cache",
}  # fmt: skip
_SECTIONS: dict[str, Callable[[Any], Iterator[Line]]] = {
    "devices": _device_lines, "disk": _disk_lines, "codecs": _codec_lines, "fonts": _font_lines,
    "compiler": _compiler_lines, "attention": _attention_lines, "families": _family_lines,
    "optional": _optional_lines, "models": _cache_lines, "folders": _folder_lines,
}  # fmt: skip


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _bytes(count: int | None) -> str:
    from skipguide.models.memory import format_bytes

    return "an unknown amount" if count is None else format_bytes(count)

"""The options that the verbs share: one per setting and flag, the YAML file, the output."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipguide.files import folders, packaged
from skipguide.generate import parsing
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.generate.words import is_switch, number_type, parse_text, text_fields
from skipguide.method import documents
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models import weights_file
from skipguide.models.fields import flag_name

if TYPE_CHECKING:
    import PIL.Image

Config = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        help="YAML file of settings, with lines such as steps: 28, or guidance: {terms: [{layers:"
        " [8], scale: 1.0}]}. A folder or hub id is --base-model; both may be given.",
        show_default="none",
    ),
]
_INDEX = "model_index.json"
# What diffusers and transformers write into the configuration of a component.
_COMPONENT_MARKS = (
    "_class_name", "_diffusers_version", "architectures", "model_type", "transformers_version"
)  # fmt: skip
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output that exists.")]


def parse_folder(text: str | Path) -> Path:
    """Return the folder that an option names; an empty name would be the current folder.

    A script whose variable is empty would otherwise write among other files.

    Raises:
        typer.BadParameter: for an empty name.
    """
    if str(text) == "":
        raise typer.BadParameter(
            "a folder must have a name, but got an empty one. Name it; the current folder is ."
        )
    return Path(text)


_DEFAULT_LABELS = {
    "negative_prompt": "empty", "image": "none", "image_fit": "crop", "orthogonalize": "no",
    "term": "none", "mask": "none", "slg_layers": "none", "schedule": "none", "restart": "none",
    "cfg_rule": "plain CFG", "nag": "none", "budget": "none",
    "dtype": "bfloat16 on a GPU, else float32", "device": "the GPU if there is one",
    "base_model": "none", "component": "none",
    "variant": "none", "vae_dtype": "that of the rest", "lora": "none", "quantize": "no",
    "offload": "no", "attention": "native", "compile": "no", "vae_tiling": "the model's",
    "scheduler": "the model's", "flow_shift": "the model's", "exact": "exact",
    "modality_scale": "the preset's, else off", "audio_rescale": "as --rescale", "skip_step": "off",
    "picture_format": "png",
}  # fmt: skip
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout instead of text, errors too.")
]


def accept_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb one option per setting except the prompt.

    The options that were used arrive as the verb's argument `given`.
    """
    return accept_some_settings(_FIELDS)(verb)


def accept_some_settings(
    names: Iterable[str], panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return `accept_settings` for some settings alone.

    Args:
        panel: under which title the help lists them, of a command whose help has panels.
    """
    return functools.partial(_accept, options=[_option(name, panel) for name in names])


def _accept(verb: Callable[..., None], options: Sequence[inspect.Parameter]) -> Callable[..., None]:
    own = inspect.signature(verb, eval_str=True).parameters

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in options}
        verb(
            given={
                name: _parse_value(name, value)
                for name, value in given.items()
                if value is not None and value != []
            },
            **values,
        )

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name != "given"]
    parameters += options
    vars(run)["__signature__"] = inspect.Signature(parameters)  # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


_FIELDS = text_fields()
_REPEATABLE = ("term", "restart", "lora", "component")


def _option(name: str, panel: str | None = None) -> inspect.Parameter:
    field = _FIELDS[name]
    default = (
        _DEFAULT_LABELS.get(name, "the model's") if field.default is None else str(field.default)
    )
    switch = is_switch(name)
    metavar = None if switch else number_type(name).__name__.upper().replace("STR", "TEXT")
    written = (
        f"{flag_name(name)}/--no-{flag_name(name).removeprefix('--')}"
        if switch
        else flag_name(name)
    )
    option = typer.Option(
        written,
        help=field.description,
        show_default=default,
        metavar=metavar,
        rich_help_panel=panel,
    )
    kind = bool | None if switch else list[str] | None if name in _REPEATABLE else str | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


def _parse_value(name: str, value: str | bool | list[str]) -> Any:
    """Return a number where the setting is one.

    Text that cannot be read stays text; the settings then say what is wrong with it.
    """
    if isinstance(value, list):
        return value if len(value) > 1 else value[0]
    return value if isinstance(value, bool) else parse_text(name, value)


def read_config(given: Sequence[str | Path] | str | Path | None) -> PlainData:
    """Return the settings in a YAML file, and the base model if one was named; none of nothing.

    Args:
        given: what came with --config: a file, a folder or hub id (the base model of a single
            file), or both.

    Raises:
        ValueError: if there is no such file, or it does not consist of `name: value` lines; for two
            files or two base models.
    """
    listed = [given] if isinstance(given, (str, Path)) else list(given or ())
    bases = [str(name) for name in listed if _is_base_model(str(name))]
    files = [Path(name) for name in listed if str(name) not in bases]
    for kind, found in (("YAML file", files), ("base model", bases)):
        if len(found) > 1:
            raise ValueError(
                f"--config must name one {kind} at most, but got {', '.join(map(str, found))}. Keep"
                " one."
            )
    base = {"base_model": bases[0]} if bases else {}
    return {**(_read_yaml(files[0]) if files else {}), **base}


def _is_base_model(name: str) -> bool:
    """Return whether a name is that of a model in diffusers layout, and not of a YAML file."""
    if Path(name).exists() or name in packaged.NAMES:
        return name in packaged.NAMES or (Path(name) / _INDEX).is_file()
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
    return is_hub_id and Path(name).suffix.lower() not in (".yaml", ".yml", ".json", ".txt")


def _check_config_place(path: Path) -> None:
    """Check that --config names a file of settings.

    Raises:
        ValueError: for another place, such as a folder or the configuration of a model's component.
    """
    start = (
        "--config must be a YAML file of settings, or the base model of a single file (a folder"
        f" with a {_INDEX} or a hub id), but got {path},"
    )
    model = next((up for up in (path, *path.parents) if (up / _INDEX).is_file()), None)
    advice = f"Name the folder of the model: {model}." if model else "Check the name."
    if path.is_dir():
        raise ValueError(f"{start} a folder without a {_INDEX}. {advice}")
    if not path.is_file():
        raise ValueError(f"{start} and there is no such file or folder. {advice}")
    if path.suffix.lower() in weights_file.SUFFIXES:
        raise ValueError(f"{start} a file of weights. Name it with --model.")
    if path.suffix.lower() == ".json" and (path.name == _INDEX or _describes_component(path)):
        raise ValueError(
            f"{start} a file that describes {'a model' if path.name == _INDEX else 'a component'}."
            f" {advice if model else 'Name the folder of the whole model.'}"
        )


def _describes_component(path: Path) -> bool:
    """Return whether a JSON file is the configuration of a part of a model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool({*content} & {*_COMPONENT_MARKS})


def _read_yaml(path: Path) -> PlainData:
    _check_config_place(path)
    import yaml

    try:
        content = documents.load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8; a date that is none
        raise ValueError(
            f"--config must be a YAML file, but {path} is not:"
            f" {documents.advise(error, 'Correct it there.')}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"--config must hold lines such as steps: 28, but {path} holds"
            f" {type(content).__name__}. Write one setting per line."
        )
    return content


def build_settings(
    file: ReadOnlyData, given: ReadOnlyData, prompt: str | None
) -> GenerationSettings:
    """Return the settings of the command line over those of the file.

    The files of a schedule and of a preset are read.

    Raises:
        ValueError: for something that is no setting, or a file that cannot be read.
    """
    merged = {**file, **given, **({} if prompt is None else {"prompt": prompt})}
    return validate_settings(parsing.read_named_files(merged))


def first_frame(settings: GenerationSettings) -> PIL.Image.Image | None:
    """Read the image that the settings name, before anything is loaded; None without one."""
    if settings.image is None:
        return None
    from skipguide.files import image

    return image.read(Path(settings.image))


# --- output ---------------------------------------------------------------------------------------


def check_outputs(paths: Sequence[Path], overwrite: bool) -> None:
    """Check that the files can be written, before anything is loaded.

    Raises:
        ValueError: if one exists and may not be overwritten, is a folder, or lies in a folder that
            cannot be written.
    """
    for path in paths:
        if path.is_dir():
            raise ValueError(
                f"the output must be a file, but {path} is a folder. Name a file in it."
            )
        if path.exists() and not overwrite:
            raise ValueError(
                f"the output must be a new file, but {path} exists. Pass --overwrite or another"
                " name."
            )
        if obstacle := folders.find_obstacle(path.absolute().parent):
            raise ValueError(
                f"the output must lie in a writable folder, but {obstacle}. Choose another."
            )


def check_suffix(path: Path, *suffixes: str) -> Path:
    """Return the path of an output itself.

    Raises:
        ValueError: if it names a folder, such as ".", or ends in none of the suffixes.
    """
    if path.is_dir():  # has no name to correct
        raise ValueError(f"the output must be a file, but {path} is a folder. Name a file in it.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"the output must be named {' or '.join(suffixes)}, but got {str(path)!r}. Name it"
            f" {path.with_suffix(suffixes[0]).name}."
        )
    return path

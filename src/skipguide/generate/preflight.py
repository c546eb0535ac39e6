"""Check settings on the configuration of a model, before any of its weights are read.

What is wrong with layers, sizes, frames or steps is then said at once, and in the words in which
the loaded model would say it: the same code is asked, with a skeleton in the place of the pipeline.
A model whose skeleton cannot be made is checked when it is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipguide import Guide, guide
from skipguide.families import lookup
from skipguide.files.hub_cache import INDEX_FILE
from skipguide.generate import run
from skipguide.generate.resolve import call_parameters, resolve_settings
from skipguide.generate.settings import GenerationSettings
from skipguide.models import loading, lora, parts, per_video, placement, quantize, telling
from skipguide.models.settings import ModelSettings
from skipguide.models.skeleton import ReachedMissingPart, build_skeleton
from skipguide.pipeline import call_frame

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger("skipguide")


def check(
    settings: GenerationSettings, image: Image.Image | None = None, revision: str | None = None
) -> None:
    """Check that a model can make a video with these settings, as far as its configuration tells.

    Args:
        settings: as the user gave them.
        image: the first frame, if the settings name one.
        revision: of a model on the hub.

    Raises:
        ValueError: for what the model is going to refuse.
    """
    if settings.device is not None:
        loading.check_device(settings.device)
    device = loading.device_of(settings)
    chosen = loading.choose_quantization(settings, device)
    pipe = find_skeleton(settings, revision)
    if pipe is None:
        return
    if chosen:
        dtype = loading.dtype_of(settings, device, settings.base_model or settings.model)
        for denoiser in placement.denoisers(pipe).values():
            quantize.check_layers(denoiser, chosen, device, dtype)
    try:
        with _hide_library_logs():
            _check_on(pipe, settings, image)
    except ReachedMissingPart:
        pass  # as far as a skeleton goes
    except ValueError:
        raise
    except Exception as error:  # of code that did not expect a skeleton
        _log.debug("the check of the settings ended early: %r", error)


def _check_on(pipe: Any, settings: GenerationSettings, image: Image.Image | None) -> None:
    if settings.lora:
        lora.check_loras(pipe, settings.lora)
    # What a skeleton would be found to have is no device to run on.
    placed = settings.model_copy(
        update={"device": settings.device or "cpu", "dtype": settings.dtype or "float32"}
    )
    complete = resolve_settings(placed, pipe)
    with per_video.put_on(pipe, complete), _guidance_on(pipe, complete) as handle:
        _check_schedule(pipe, complete)
        try:
            run.check_call(pipe, complete, image)
        except ReachedMissingPart as reached:
            frame = call_frame.find_ended_call(pipe, reached.__traceback__)
            if handle is not None and frame is not None:
                handle.check_call(frame)
            raise


@contextlib.contextmanager
def _guidance_on(pipe: Any, complete: GenerationSettings) -> Iterator[Guide | None]:
    """Guide the skeleton, which checks layers, axes and skips; then windows, lists of scales and a
    budget."""
    if complete.request.is_plain:
        yield None
        return
    terms, options = complete.request.with_seed(complete.seed).guide_arguments()
    terms = [term for term in terms if not _waits_for_loras(term, complete)]
    if not terms and not (options["cfg"] or options["restart"] or options["budget"]):
        yield
        return
    with guide(pipe, *terms, **options) as handle:
        if complete.steps is not None and "num_inference_steps" in call_parameters(pipe):
            handle.check_steps(complete.steps)
        yield handle


def _waits_for_loras(term: Any, complete: GenerationSettings) -> bool:
    """Return whether a term is of LoRAs, which a skeleton has not.

    Raises:
        ValueError: for a LoRA that the settings do not load.
    """
    if not getattr(term, "changes_lora", False):
        return False
    names = [f"lora_{number}" for number in range(1, len(complete.lora or ()) + 1)]
    named = getattr(term.weak, "name", None)
    if not names or named not in (None, *names):
        has = f"those that are loaded are called {', '.join(names)}" if names else "none is loaded"
        raise ValueError(
            f"weak={term.weak!r} needs {'a LoRA' if named is None else f'the LoRA {named!r}'}, but"
            f" {has}. Load it with --lora."
        )
    return True


def _check_schedule(pipe: Any, complete: GenerationSettings) -> None:
    """Make the schedule that Mochi's call makes, which is not one of its scheduler."""
    schedule = getattr(sys.modules[type(pipe).__module__], "linear_quadratic_schedule", None)
    if schedule is None or complete.steps is None:
        return
    try:
        schedule(complete.steps, 0.025)
    except ZeroDivisionError as error:
        raise run.too_few_steps(pipe, complete) from error


# --- the skeleton ---------------------------------------------------------------------------------


def find_skeleton(settings: ModelSettings, revision: str | None = None) -> Any:
    """Return the model without its weights; None where it cannot be made without them.

    Raises:
        ValueError: if there is no such model, or a package is missing that its pipeline needs.
    """
    found = parts.find_parts(settings)
    folder = _config_folder(found.base, revision)
    if folder is None:
        return None
    index = folder / INDEX_FILE
    loading.check_pipeline(index)
    if found.file or found.named:
        parts.assign_files(found, parts.read_components(index), folder)
    elsewhere = {
        name: parts.folder_of(path, name) for name, path in found.named.items() if path.is_dir()
    }
    configs = [
        *folder.glob("*/*config.json"),
        *(f for p in elsewhere.values() for f in p.iterdir()),
    ]
    state = tuple((str(path), path.stat().st_mtime_ns) for path in sorted(configs))
    try:
        return _build_once(folder, tuple(elsewhere.items()), state)
    except Exception as error:  # of a pipeline that needs all of its parts
        _log.debug("no skeleton of %s: %r", settings.model, error)
        return None


@functools.lru_cache(maxsize=4)
def _build_once(folder: Path, elsewhere: tuple[tuple[str, Path], ...], state: Any) -> Any:
    """Build a skeleton; for the next settings of the same model it is there already."""
    with _hide_library_logs():
        return build_skeleton(folder, dict(elsewhere))


def find_makes(settings: ModelSettings, revision: str | None = None) -> Literal["video", "image"]:
    """Return what a model makes, as its index says.

    Where that cannot be read it is "video": loading says in words what is wrong.
    """
    try:
        folder = _config_folder(parts.find_parts(settings).base, revision)
        if folder is None:
            return "video"
        return lookup.makes_of(parts.pipeline_class(folder / INDEX_FILE))
    except (ValueError, AttributeError):  # no such model, no index
        return "video"


def _config_folder(model: str, revision: str | None) -> Path | None:
    """Return a folder with the configurations of a model, of the hub's only these downloaded."""
    folder = loading.local_folder(model)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    patterns = [INDEX_FILE, "*/*config.json"]
    try:
        found = snapshot_download(model, revision=revision, allow_patterns=patterns)
    except (OSError, ValueError):  # loading says what is wrong, in words
        return None
    return Path(found) if (Path(found) / INDEX_FILE).is_file() else None


def _hide_library_logs() -> AbstractContextManager[None]:
    """Keep off stderr what the run itself is going to say again."""
    return telling.filter_libraries(lambda _: False)

"""The rows of models that make images, as a whole: every pipeline of diffusers that makes images
has one, or a reason."""

from __future__ import annotations

import importlib
import inspect
import re

import diffusers
import pytest

from skipguide import STG, guide
from skipguide.families.lookup import family_of
from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES
from support.tiny import tiny

MAKES_IMAGES = re.compile(r"Output\(\s*images=|images=image|ImagePipelineOutput")


def image_pipelines() -> set[str]:
    """Those of the installed diffusers that return images, but for deprecated ones."""
    found = set()
    for name in dir(diffusers):
        if name.startswith(("Flax", "Auto", "Onnx", "DiffusionPipeline")) or "Modular" in name:
            continue
        module = getattr(getattr(diffusers, name), "__module__", "")
        if not name.endswith("Pipeline") or ".deprecated." in module:
            continue
        if MAKES_IMAGES.search(inspect.getsource(importlib.import_module(module))):
            found.add(name)
    return found


# Kolors, which can be imported where sentencepiece is, scripts a function of its text encoder.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_image_pipelines_of_diffusers_have_a_row_or_a_reason() -> None:
    """A new one is noticed here."""
    images = image_pipelines()
    rows = {name for row in FAMILIES for name in row.pipelines}
    left = images - rows - set(REFUSED_PIPELINES)
    assert left == set()
    assert {"StableDiffusion3Pipeline", "FluxPipeline", "QwenImagePipeline"} <= images & rows


@pytest.mark.parametrize("name", [row.name for row in FAMILIES if row.makes == "image"])
def test_an_image_is_one_frame(name: str) -> None:
    """Of frames nothing is known, and an axis of time there is none."""
    family = next(row for row in FAMILIES if row.name == name)
    assert family.fps is None
    assert "time" not in family.traits
    assert "temporal" not in family.axes


def test_time_is_refused_with_the_reason() -> None:
    small = tiny("StableDiffusion3Pipeline")
    assert family_of(small.pipe).makes == "image"
    with pytest.raises(ValueError, match=r"must be one that sd3 has \(none, for it makes images"):
        guide(small.pipe, STG([1], axis="temporal"))
    with pytest.raises(ValueError, match="it makes images, which are one frame"):
        guide(small.pipe, STG([1], skip="frames"))

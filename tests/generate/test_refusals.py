"""What a pipeline of diffusers refuses is said in words, before any weight is read."""

from __future__ import annotations

import fractions
from typing import Any

import pytest

from skipguide.generate import preflight, refusals
from skipguide.generate.settings import validate_settings
from support.saved import saved


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved("WanPipeline", tmp_path_factory.mktemp("models")))


def test_sizes_that_the_pipeline_refuses_name_those_that_it_takes(wan: str) -> None:
    given = {"prompt": "x", "model": wan, "steps": 2, "layers": "1", "num_frames": 5}
    settings = validate_settings({**given, "height": 8000, "width": 8})
    said = (
        r"^height and width must be multiples of 16 for WanPipeline, but got 8000 and 8\. Take"
        r" --height 8000 --width 16\.$"
    )
    with pytest.raises(ValueError, match=said):
        preflight.check(settings)
    preflight.check(validate_settings({**given, "height": 8000, "width": 16}))


def test_other_refusals_name_the_pipeline_and_our_own_speak_for_themselves() -> None:
    class SomePipeline:
        pass

    pipe: Any = SomePipeline()
    settings = validate_settings({"prompt": "x"})
    with pytest.raises(ValueError, match="Invalid literal") as theirs:
        fractions.Fraction("x")
    said = str(refusals.explain(theirs.value, pipe, settings))
    assert said.startswith("the settings must be some that SomePipeline takes, but it refuses them")
    with pytest.raises(ValueError, match="steps must be") as ours:
        validate_settings({"prompt": "x", "steps": 0})
    assert refusals.explain(ours.value, pipe, settings) is ours.value

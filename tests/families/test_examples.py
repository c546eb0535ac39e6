"""The examples of families: one for each, in sizes that fit their denoisers, without diffusers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skipguide.families import blocks, examples
from skipguide.families.examples import Size, denoiser_class, example_of
from skipguide.families.rows import FAMILIES
from skipguide.method.terms import STG

NAMES = [row.name for row in FAMILIES]


def test_every_family_has_one_and_every_module_is_of_a_family() -> None:
    modules = {path.stem for path in Path(examples.__file__).parent.glob("[a-z]*.py")}
    assert modules == {name.replace("-", "_").replace(".", "_") for name in NAMES}
    for name in NAMES:
        assert example_of(name) is example_of(name)


def test_none_of_them_imports_diffusers() -> None:
    script = (
        "import sys; from skipguide.families import examples, rows;"
        "[examples.example_of(row.name) for row in rows.FAMILIES];"
        "sys.exit(int('diffusers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_small_ones_have_two_layers_or_more_in_each_stack() -> None:
    """Four blocks of one list, two and three of two, and of a UNet at least one on each way."""
    for row in FAMILIES:
        work = example_of(row.name).workload("small")
        with torch.device("meta"):
            sites = blocks.layer_sites(row, denoiser_class(row)(**work.config))
        depths = [len({s.index for s in sites if s.name == name}) for name in row.stacks]
        assert min(depths) >= (1 if row.unet else 2), row.name
        if not row.unet and len(depths) == 1:
            assert depths == [4]
        for term in work.terms:
            assert blocks.resolve_layers(row, sites, STG([work.layer], **term))


@pytest.mark.parametrize("name", ["mochi", "cogvideox", "ltx", "cogview4", "svd"])
def test_inputs_have_as_many_rows_as_the_batch(name: str) -> None:
    row = next(row for row in FAMILIES if row.name == name)
    inputs = example_of(name).workload("small").inputs(3)
    for batched in row.batched_inputs:
        if batched in inputs:
            assert len(inputs[batched]) == 3


def test_size() -> None:
    size = Size(2, 3, 4, text=5)
    assert (size.latents, size.tokens) == ((2, 3, 4), 24)


def test_an_unknown_family_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of mochi, .* but got 'moch'\. Choose one of them"):
        example_of("moch")


def test_a_full_size_that_is_not_offered() -> None:
    assert example_of("mochi").workload("full").config["text_embed_dim"] == 4096
    with pytest.raises(ValueError, match=r"full size is offered for some families only"):
        example_of("wan").workload("full")

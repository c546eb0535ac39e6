"""Which judge reads the clips of which model, and the judges as loaders and readers of clips."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel
from safetensors.torch import save_file

from skipguide.files import packaged
from skipguide.lab import judge, mochi, open_judge, readers, worlds
from support.untrained import save_judges


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judges(tmp_path_factory.mktemp("weights"))


def test_every_packaged_model_has_a_reader() -> None:
    assert {*packaged.NAMES} <= {*readers.OF_MODEL}
    assert {*packaged.JUDGES} == {*readers.READERS}


@pytest.mark.parametrize("reader", readers.READERS.values(), ids=readers.READERS)
def test_weights_say_by_their_heads_whose_they_are(
    reader: readers.Reader, untrained: Path, tmp_path: Path
) -> None:
    network = readers.load_weights(untrained / reader.name / "judge.safetensors")
    assert type(network) is type(reader.build())
    assert not network.training
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    save_file({"heads.shape.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"the heads of judge or open-judge, but .* have shape"):
        readers.load_weights(tmp_path / "other.safetensors")


@pytest.mark.parametrize("world", [worlds.CLOSED, worlds.OPEN], ids=["closed", "open"])
def test_slots_and_answers_are_those_of_the_judge(world: worlds.World) -> None:
    assert [head for heads in world.slots.values() for head in heads] == [*world.reader.named]
    assert {*world.truth(world.draw(3, 1))} == {*world.reader.heads}
    assert {*world.columns} <= {*world.describe(world.draw(1, 2))[0]}


def test_the_open_judge_reads_a_clip_of_any_size_in_words(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "WEIGHTS", untrained)
    open_judge.load.cache_clear()
    frames = np.random.default_rng(0).integers(0, 255, (7, 20, 24, 3), np.uint8)
    try:
        words, logits = readers.OPEN.read(frames), readers.OPEN.logits(frames)
    finally:
        open_judge.load.cache_clear()
    assert list(words) == list(open_judge.NAMED_HEADS)
    assert set(logits) == set(open_judge.HEADS)
    for name, word in words.items():
        assert open_judge.HEADS[name].index(word) == int(logits[name].argmax())


def test_the_models_of_the_two_worlds_are_told_apart_by_how_they_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lab-mochi and lab-mochi-2 are of one class, and a model of neither has no reader."""
    made: dict[str, Any] = {}
    for name, recipe in (("lab-mochi", mochi.CLOSED), ("lab-mochi-2", mochi.OPEN)):
        with torch.device("meta"):
            made[name] = MochiTransformer3DModel(**recipe.transformer)
        made[name].save_config(tmp_path / name / "transformer")
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path)
    monkeypatch.setattr(packaged, "NAMES", tuple(readers.OF_MODEL))
    for name, reader in (("lab-mochi", readers.CLOSED), ("lab-mochi-2", readers.OPEN)):
        pipe: Any = SimpleNamespace(transformer=made[name])
        assert readers.reader_of(pipe) is reader
        made[name].register_to_config(num_attention_heads=7)
        assert readers.reader_of(pipe) is None


@pytest.mark.skipif(
    not (packaged.WEIGHTS / "open-judge").is_dir(), reason="the open judge is not packaged yet"
)
def test_the_packaged_open_judge_reads_real_clips() -> None:
    accuracy = open_judge.accuracy(open_judge.load(), num=256)
    assert min(accuracy[name] for name in open_judge.NAMED_HEADS) >= 0.9
    assert accuracy["constant"] >= 0.9
    assert isinstance(judge.load_judge(), judge.Judge)

"""The metrics of prompts of the open world, against the scenes that captions were written of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from skipguide.files import packaged
from skipguide.lab import (
    open_captions,
    open_judge,
    open_prompt_metric,
    open_world,
    readers,
    worlds,
)
from skipguide.lab.open_world import SLOTS


@pytest.mark.parametrize("named", [None, SLOTS, (), *((slot,) for slot in SLOTS)])
def test_captions_name_the_words_of_their_scenes_and_nothing_else(
    named: tuple[str, ...] | None,
) -> None:
    """Every slot that a caption names, and none that it leaves out, whatever the phrase."""
    scenes = open_world.sample_scenes(3000 if named is None else 400, seed=11)
    truth = {
        name: [open_judge.HEADS[name][int(i)] for i in values]
        for name, values in open_judge.truth(scenes).items()
    }
    for i, caption in enumerate(open_captions.captions(scenes, 5, named)):
        heads = [head for slot in caption.named for head in worlds.OPEN.slots[slot]]
        wanted = {head: truth[head][i] for head in heads}
        assert open_prompt_metric.named_words(caption.text) == wanted, caption


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a clip on a background", {}),
        ("", {}),
        ("something moving in a circle", {"motion": "orbit"}),
        ("a ring moving in a circle", {"shape": "ring", "motion": "orbit"}),
        ("an orange thing on a green background",
         {"colour": "orange", "background_colour": "green"}),
        ("On a wavy background, an object hopping up and down and a red ring",
         {"background_kind": "wavy", "motion": "bounce", "second_shape": "ring",
          "second_colour": "red"}),
        ("a video with a little heart next to a star",
         {"shape": "heart", "size": "small", "second_shape": "star"}),
        ("a big moon and nothing else.",
         {"shape": "moon", "size": "large", "second_shape": "nothing", "second_colour": "nothing"}),
    ],
)  # fmt: skip
def test_only_words_that_are_named_count(prompt: str, words: dict[str, str]) -> None:
    assert open_prompt_metric.named_words(prompt) == words


class Certain(torch.nn.Module):
    """A judge that gives these words a logit of 3, and all others 0, whatever it sees."""

    def __init__(self, **words: str) -> None:
        super().__init__()
        self.words = words

    def forward(self, clip: torch.Tensor) -> tuple[dict[str, torch.Tensor], None, None]:
        assert clip.shape == (1, 3, 19, 64, 64)
        found = {
            name: torch.tensor([[3.0 * (word == self.words.get(name)) for word in words]])
            for name, words in open_judge.HEADS.items()
        }
        return found, None, None


def test_right_and_wrong_words_of_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Certain(shape="heart", size="small", background_kind="wavy", second_shape="nothing",
                   second_colour="nothing")  # fmt: skip
    monkeypatch.setattr(readers, "OPEN", dataclasses.replace(readers.OPEN, load=lambda: seen))
    frames = np.zeros((25, 32, 32, 3), np.uint8)
    good, half, bad = "a little heart alone", "a big heart alone", "a star on a shaded background"
    assert [open_prompt_metric.right(frames, text, 12) for text in (good, half, bad)] == [1, 0, 0]

    def chance(name: str, hit: bool) -> float:
        others = len(open_judge.HEADS[name]) - 1
        return (math.exp(3) if hit else 1.0) / (math.exp(3) + others)

    alone = chance("second_shape", True) * chance("second_colour", True)
    chances = [
        chance("size", True) * chance("shape", True) * alone,
        chance("size", False) * chance("shape", True) * alone,
        chance("shape", False) * chance("background_kind", False),
    ]
    found = [open_prompt_metric.probability(frames, text) for text in (good, half, bad)]
    assert found == pytest.approx(chances)
    likely = [open_prompt_metric.likelihood(frames, text) for text in (good, half, bad)]
    wanted = [math.log(c) / n for c, n in zip(chances, (4, 4, 2), strict=True)]
    assert likely == pytest.approx(wanted)


@pytest.mark.parametrize("metric", ["right", "likelihood", "probability"])
def test_a_prompt_that_names_nothing_is_refused(metric: str) -> None:
    frames = np.zeros((19, 64, 64, 3), np.uint8)
    for prompt in (None, "", "a clip", "something on a background"):
        with pytest.raises(ValueError, match=r"must name something of the open world.*open-judge"):
            getattr(open_prompt_metric, metric)(frames, prompt, 12)


@pytest.mark.skipif(
    not (packaged.WEIGHTS / "open-judge").is_dir(), reason="the open judge is not packaged yet"
)
def test_the_packaged_judge_reads_captions_of_real_clips() -> None:
    scenes = open_world.sample_scenes(24, 12)
    clips = open_world.render(scenes).permute(0, 2, 3, 4, 1)
    captions = open_captions.captions(scenes, 12, ("colour", "motion"))
    right = [
        open_prompt_metric.right(((clip + 1) * 127.5).round().byte().numpy(), caption.text)
        for clip, caption in zip(clips, captions, strict=True)
    ]
    assert np.mean(right) > 0.8

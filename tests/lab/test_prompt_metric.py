"""The metrics of prompts, against the scenes that captions were written of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipguide.lab import judge, prompt_metric, world


def test_captions_name_the_words_of_their_scenes() -> None:
    """Shape, colour and motion of the object that moves, whatever the phrase and the background."""
    scenes = world.sample_scenes(400, seed=11, split="all", second_share=0.3)
    for words, caption in zip(scenes.attributes(), world.captions(scenes, seed=5), strict=True):
        found = prompt_metric.named_words(caption)
        assert found == {name: words[name] for name in judge.HEADS}, caption


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a clip on a green background", {}),
        ("", {}),
        ("a star on a green background", {"shape": "star"}),
        ("a red thing over a blue background", {"colour": "red"}),
        ("something moving upwards", {"motion": "up"}),
        ("over a blue background, a big white moon is bouncing up and down",
         {"shape": "moon", "colour": "white", "motion": "bounce"}),
    ],
)  # fmt: skip
def test_only_words_that_are_named_count(prompt: str, words: dict[str, str]) -> None:
    assert prompt_metric.named_words(prompt) == words


def clip(**words: str) -> np.ndarray:
    frames = world.render(world.find_scenes(1, seed=3, **words))[0]
    return ((frames + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def test_right_and_wrong_words_of_a_real_clip() -> None:
    frames = clip(shape="star", colour="red", motion="left")
    good, half, bad = "a red star moving left", "a red star moving up", "a blue moon spinning"
    assert [prompt_metric.right(frames, text, 12) for text in (good, half, bad)] == [1, 0, 0]
    assert prompt_metric.right(frames, "a red star", 12) == 1
    values = [prompt_metric.likelihood(frames, text, 12) for text in (good, half, bad)]
    assert 0 > values[0] > -0.1 > values[1] > values[2]
    chances = [prompt_metric.probability(frames, text, 12) for text in (good, half, bad)]
    assert chances == pytest.approx([math.exp(3 * value) for value in values])


ONE = {"shape": "a cross", "colour": "something cyan", "motion": "something spinning"}


def test_chances_are_those_of_the_judge() -> None:
    """Of one head, the chances of all words add up to 1."""
    frames = clip(shape="cross", colour="cyan", motion="spin")
    chances = [prompt_metric.probability(frames, f"a {shape}") for shape in world.SHAPES]
    assert sum(chances) == pytest.approx(1)
    words = {name: prompt_metric.probability(frames, text) for name, text in ONE.items()}
    both = prompt_metric.probability(frames, "a cyan cross spinning")
    assert both == pytest.approx(math.prod(words.values()))
    assert max(range(6), key=chances.__getitem__) == world.SHAPES.index("cross")


def test_a_prompt_that_names_nothing_is_refused() -> None:
    frames = clip(shape="star", colour="red", motion="left")
    for prompt in (None, "", "a clip on a green background"):
        with pytest.raises(ValueError, match="must name a shape, a colour or a motion"):
            prompt_metric.right(frames, prompt)

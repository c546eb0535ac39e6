"""A world whose captions leave things open: what is named, what is seen, what has no words."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from skipguide.lab import open_captions, open_world, world
from skipguide.lab.open_world import SLOTS


def test_each_thing_is_named_in_half_of_the_captions_and_nothing_in_a_tenth() -> None:
    found = open_captions.captions(open_world.sample_scenes(4000, 0), seed=0)
    for slot in SLOTS:
        share = sum(slot in one.named for one in found) / len(found)
        assert share == pytest.approx(0.5, abs=0.04)
    # A tenth by rule, and of the rest those in which every thing was left out by chance.
    chance = 0.9 * (1 - 0.5 / 0.9) ** len(SLOTS)
    nothing = sum(not one.named for one in found) / len(found)
    assert nothing == pytest.approx(0.1 + chance, abs=0.02)
    assert {one.text for one in found if not one.named} == {
        "", "a clip", "a video", "A clip.", "A video."
    }  # fmt: skip


def test_a_caption_says_what_it_names_and_nothing_else() -> None:
    scenes = open_world.sample_scenes(600, 1)
    words, found = scenes.words(), open_captions.captions(scenes, seed=1)
    for i, one in enumerate(found):
        said = f" {one.text.lower().strip('.')} "
        main, _, rest = said.partition(words["second"][i]) if "second" in one.named else (said,) * 3
        assert (f" {words['shape'][i]} " in main + rest) >= ("shape" in one.named)
        if "shape" not in one.named and "second" not in one.named:
            rest = said.replace("in a circle", "")
            assert not any(f" {shape} " in rest for shape in open_world.SHAPES)
        if "colour" in one.named:
            assert f" {words['colour'][i]} " in said
        if "background" in one.named:
            assert f" {words['background'][i]} background" in said
        else:
            assert "background" not in said
        phrases = world.MOTION_PHRASES[words["motion"][i]]
        assert any(phrase in said for phrase in phrases) >= ("motion" in one.named)
        if "second" in one.named and words["second"][i] != "nothing":
            assert words["second"][i] in said


def test_closed_prompts_name_all_and_open_ones_nothing() -> None:
    scenes = open_world.sample_scenes(50, 2)
    assert all(one.named == set(SLOTS) for one in open_captions.captions(scenes, 0, SLOTS))
    assert not any(one.named for one in open_captions.captions(scenes, 0, ()))
    with pytest.raises(ValueError, match=r"named must be of shape, .*, but got texture"):
        open_captions.captions(scenes, 0, ("texture",))


def test_the_tokenizer_can_know_every_word() -> None:
    known = set(open_captions.vocabulary())
    for seed in range(4):
        for one in open_captions.captions(open_world.sample_scenes(500, seed), seed):
            assert set(one.text.replace(",", "").strip(".").split()) <= known


def test_scenes_are_a_function_of_their_seed() -> None:
    one, same, other = (open_world.sample_scenes(40, seed) for seed in (3, 3, 4))
    for field in dataclasses.fields(one):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name))
    assert not torch.equal(one.jitter, other.jitter)
    assert torch.equal(open_world.render(one[slice(4)]), open_world.render(same)[:4])


def test_scenes_are_as_they_are_asked_for() -> None:
    asked = {"background_colour": "green", "motion": "spin", "second": "nothing"}
    words = open_world.sample_scenes(30, 5, asked).words()
    assert all(set(words[slot]) == {word} for slot, word in asked.items())
    assert len(set(words["shape"])) > 3
    assert "circle" not in words["shape"]
    with pytest.raises(ValueError, match=r"given must name slots of shape, .* but got 'texture'"):
        open_world.sample_scenes(1, 0, {"texture": "dots"})
    with pytest.raises(ValueError, match="scenes can have together"):
        open_world.sample_scenes(1, 0, {"shape": "circle", "motion": "spin"})


def test_what_is_in_a_scene_is_in_its_pixels() -> None:
    """The object has its colour where it is, seen by a camera that does not move."""
    scenes = open_world.sample_scenes(400, 6, {"second": "nothing", "motion": "left"})
    still = scenes.camera == open_world.CAMERAS.index("still")
    solid = torch.tensor(
        [name in ("circle", "square", "heart") for name in scenes.words()["shape"]]
    )
    scenes = scenes[(still & solid).nonzero().flatten()]
    assert len(scenes) > 20
    frames = (open_world.render(scenes, 5, 64) + 1) / 2
    centre, _, _ = world.trajectory(
        scenes.motion, scenes.size, scenes.jitter[:, 0], torch.linspace(0, 1, 5)[None]
    )
    pixel = ((centre[:, 2] + 1) * 32).long()
    seen = frames[torch.arange(len(scenes)), :, 2, pixel[:, 1], pixel[:, 0]]
    named = torch.tensor(list(open_world.COLOURS.values()))[scenes.colour[:, 0]]
    nearest = torch.cdist(
        torch.nn.functional.normalize(seen, dim=1),
        torch.nn.functional.normalize(torch.tensor(list(open_world.COLOURS.values())), dim=1),
    ).argmin(1)
    assert (nearest == scenes.colour[:, 0]).float().mean() > 0.9
    assert (seen - named).abs().max() < 0.65
    assert centre[0, 0, 0] > centre[0, -1, 0]  # it moves left


def test_what_no_caption_names_changes_the_pixels() -> None:
    scenes = open_world.sample_scenes(1, 7)
    before = open_world.render(scenes)
    for name in ("texture", "outlined", "camera"):
        old = getattr(scenes, name)
        new = ~old if old.dtype == torch.bool else (old + 1) % 3
        after = open_world.render(dataclasses.replace(scenes, **{name: new}))
        assert (after - before).abs().amax() > 0.1, name
    look = dataclasses.replace(scenes, look=(scenes.look + 0.5) % 1)
    assert (open_world.render(look) - before).abs().amax() > 0.1


def test_most_of_a_clip_is_in_no_caption() -> None:
    """Clips of one closed caption still differ by more than a tenth of what all clips do."""
    asked = {"shape": "star", "colour": "red", "motion": "left", "background": "wavy blue"}
    alike = open_world.render(open_world.sample_scenes(24, 8, asked)).flatten(1)
    every = open_world.render(open_world.sample_scenes(24, 8)).flatten(1)
    assert alike.var(0).mean() > 0.1 * every.var(0).mean()


def test_sizes_and_frames_are_free() -> None:
    scenes = open_world.sample_scenes(6, 9)
    large = open_world.render(scenes, 3, 128)
    small = torch.nn.functional.avg_pool2d(large.flatten(0, 2)[:, None], 2).view(6, 3, 3, 64, 64)
    assert (small - open_world.render(scenes, 3, 64)).abs().mean() < 0.02

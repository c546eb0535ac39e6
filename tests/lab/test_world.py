"""Procedural video: what the captions say is what the pixels show."""

from __future__ import annotations

import pytest
import torch

from skipguide.lab import world


def one(
    shape: str = "square", motion: str = "right", colour: str = "red", **values: float
) -> world.Scenes:
    """A scene with chosen words, medium size, plain black background, no second object."""
    index = {"shape": world.SHAPES.index(shape), "motion": world.MOTIONS.index(motion)}
    index |= {
        "colour": list(world.COLOURS).index(colour),
        "size": 1,
        "background": 0,
        "background_colour": 0,
    }
    jitter = torch.full((1, 8), 0.5)
    return world.Scenes(
        **{name: torch.tensor([value]) for name, value in index.items()},
        second_shape=torch.tensor([-1]), second_colour=torch.tensor([0]), jitter=jitter,
    )  # fmt: skip


def centres(frames: torch.Tensor) -> torch.Tensor:
    """(F, 2): centre of mass (x, y) of what is brighter than the background, in pixels."""
    bright = (frames[0].amax(0) > -0.5).float()
    axis = torch.arange(frames.shape[-1]).float()
    mass = bright.sum((1, 2))
    return torch.stack(
        [(bright.sum(1) * axis).sum(1) / mass, (bright.sum(2) * axis).sum(1) / mass], 1
    )


def test_shape_range_and_seed() -> None:
    scenes = world.sample_scenes(16, seed=3)
    frames = world.render(scenes)
    assert frames.shape == (16, 3, 19, 64, 64)
    assert frames.dtype == torch.float32
    assert frames.min() >= -1
    assert frames.max() <= 1
    assert torch.equal(frames, world.render(world.sample_scenes(16, seed=3)))
    assert not torch.equal(frames, world.render(world.sample_scenes(16, seed=4)))


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_directions(motion: str, axis: int, sign: int) -> None:
    path = centres(world.render(one(motion=motion)))
    assert (sign * path[:, axis].diff() >= 1).all()
    assert path[:, 1 - axis].std() < 1


def test_orbit_goes_round_the_middle() -> None:
    path = centres(world.render(one(motion="orbit"))) - 31.5
    radius = path.norm(dim=1)
    assert (radius - radius.mean()).abs().max() < 1
    angle = torch.atan2(path[:, 1], path[:, 0])
    assert (torch.remainder(angle.diff() + torch.pi, 2 * torch.pi) - torch.pi).sum().abs() > 5.5


def test_spin_turns_in_place() -> None:
    frames = world.render(one(motion="spin"))
    assert centres(frames).std(0).max() < 0.5
    assert (frames[:, :, 1:] - frames[:, :, :-1]).abs().amax((1, 3, 4)).min() > 0.2


def test_grow_grows() -> None:
    area = (world.render(one(motion="grow"))[0].amax(0) > -0.5).sum((1, 2))
    assert (area.diff() >= 0).all()
    assert area[-1] > 4 * area[0]


def test_bounce_touches_the_floor_twice_and_stays_in_its_column() -> None:
    path = centres(world.render(one(motion="bounce")))
    assert path[:, 0].std() < 0.5
    steps = path[:, 1].diff()
    turns = (
        steps[steps != 0].sign().diff() < 0
    ).sum()  # from down to up: the floor, as y points down
    assert turns == 2


@pytest.mark.parametrize("colour", world.COLOURS)
def test_colour_of_the_middle_pixel(colour: str) -> None:
    frames = world.render(one(motion="grow", colour=colour))
    middle = (frames[0, :, -1, 32, 32] + 1) / 2
    torch.testing.assert_close(middle, torch.tensor(world.COLOURS[colour]), atol=0.05, rtol=0)


@pytest.mark.parametrize("shape", world.SHAPES)
def test_shapes_have_like_areas_and_soft_edges(shape: str) -> None:
    frame = (world.render(one(shape=shape, motion="spin"))[0, :, 0] + 1) / 2
    coverage = (frame[0] - 0.05) / (0.9 - 0.05)
    assert 180 < coverage.sum() < 480
    assert ((coverage > 0.1) & (coverage < 0.9)).sum() > 5


def test_splits_are_disjoint_and_complete() -> None:
    for split, wanted in (("train", False), ("heldout", True)):
        scenes = world.sample_scenes(2000, seed=1, split=split)
        assert len(scenes) == 2000
        assert (world.is_held_out(scenes.shape, scenes.colour, scenes.motion) == wanted).all()
        assert world.is_drawable(scenes.shape, scenes.motion).all()
    held_out = world.sample_scenes(2000, seed=1, split="heldout")
    for name, count in (("shape", 6), ("colour", 8), ("motion", 8)):
        assert len(getattr(held_out, name).unique()) == count


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r'must be "train", "heldout" or "all", but got \'test\''):
        world.sample_scenes(1, 0, "test")


def test_captions_name_what_they_must_and_only_known_words() -> None:
    scenes = world.sample_scenes(500, seed=2)
    captions = world.captions(scenes, seed=0)
    assert captions == world.captions(scenes, seed=0)
    assert captions != world.captions(scenes, seed=1)
    known = set(world.vocabulary())
    for caption, words in zip(captions, scenes.attributes(), strict=True):
        assert set(caption.rstrip(".").replace(",", "").split()) <= known
        assert f"{words['colour']} {words['shape']}" in caption
        assert any(phrase in caption for phrase in world.MOTION_PHRASES[words["motion"] or ""])
        assert (
            words["second_shape"] is None
        ) or f"{words['second_colour']} {words['second_shape']}" in caption
    assert len({caption.split()[0] for caption in captions}) >= 5


def test_second_objects_are_still_and_keep_away() -> None:
    scenes = world.sample_scenes(400, seed=5, second_share=1.0)
    assert (scenes.second_shape >= 0).all()
    assert (world.sample_scenes(400, seed=5, second_share=0.0).second_shape == -1).all()
    without = world.Scenes(
        **{**vars(scenes), "second_shape": torch.full_like(scenes.second_shape, -1)}
    )
    difference = (world.render(scenes[:32]) - world.render(without[:32])).abs().amax(1) > 0.05
    still = difference.float().mean(
        1
    )  # a static object covers the same pixels in (nearly) all frames
    assert (still[still > 0] > 0.5).float().mean() > 0.8


# --- parts of paths, and how much moves -----------------------------------------------------------


def test_a_span_is_the_beginning_of_the_path() -> None:
    scenes = world.sample_scenes(12, seed=8)
    whole = world.render(scenes, 11)
    assert torch.equal(world.render(scenes, 11, span=torch.ones(12)), whole)
    half = world.render(scenes, 6, span=torch.full((12,), 0.5))
    torch.testing.assert_close(half, whole[:, :, :6], atol=2e-4, rtol=0)


def test_spans_are_drawn_from_the_seed_between_a_tenth_and_all() -> None:
    spans = world.draw_spans(500, 3)
    assert torch.equal(spans, world.draw_spans(500, 3))
    assert 0.1 <= spans.min() < 0.12
    assert 0.98 < spans.max() <= 1


def test_amount_of_motion_of_a_square() -> None:
    """One that moves sideways by d has two of four sides that move by d and two along themselves: d
    / 2."""
    masks = torch.zeros(1, 5, 64, 64)
    for f in range(5):
        masks[0, f, 20:40, 10 + 3 * f : 30 + 3 * f] = 1
    assert world.amount_of_motion(masks).item() == pytest.approx(4 * 3 / 2 * (2 / 64), rel=0.05)
    assert world.amount_of_motion(masks[:, :1].expand(1, 5, 64, 64)).item() == 0


def test_amount_of_motion_of_a_growing_disc() -> None:
    axis = torch.arange(64) - 31.5
    distance = (axis[:, None] ** 2 + axis**2).sqrt()
    masks = torch.stack([(r - distance + 0.5).clamp(0, 1) for r in (8.0, 10.0, 12.0, 14.0)])[None]
    assert world.amount_of_motion(masks).item() == pytest.approx(6 * 2 / 64, rel=0.15)


def test_amount_of_motion_grows_with_the_span_and_is_found_in_pixels() -> None:
    scenes = world.sample_scenes(40, seed=9, split="all", second_share=0.0)
    amounts = [
        world.amount_of_motion(world.masks(scenes, 14, torch.full((40,), span)))
        for span in (0.2, 0.5, 1.0)
    ]
    assert (amounts[0] < amounts[1]).all()
    assert (amounts[1] < amounts[2]).all()
    found = world.amount_of_motion(world.segment_objects(scenes, world.render(scenes, 14)))
    torch.testing.assert_close(found, amounts[2], atol=1e-4, rtol=1e-4)


def test_scenes_by_their_words() -> None:
    scenes = world.find_scenes(5, 1, shape="moon", colour="cyan", motion=None)
    assert len(scenes) == 5
    assert {
        (words["shape"], words["colour"], words["second_shape"]) for words in scenes.attributes()
    } == {("moon", "cyan", None)}
    image = world.render_first_frame(scenes)
    assert (image.size, image.mode) == ((64, 64), "RGB")
    first = ((world.render(scenes, 19)[0, :, 0] + 1) * 127.5).round().byte()
    assert image.tobytes() == first.permute(1, 2, 0).numpy().tobytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (dict(shape="cube"), "shape must be one of circle, square, .*, but got 'cube'"),
        (dict(colour="pink"), "colour must be one of red, orange, .*, but got 'pink'"),
        (
            dict(shape="circle", motion="spin"),
            "must be a combination that can be seen, but got circle spin",
        ),
    ],
)
def test_words_that_the_world_has_not(words: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.find_scenes(1, 0, **words)

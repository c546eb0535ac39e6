"""Procedural video whose captions leave things open: most of what is in a clip is in no caption.

A scene has one to three objects with textures, outlines and shading, a background, a light and a
camera that moves. A caption names some of six things of it (`SLOTS`) and leaves out the others at
random; textures, outlines, light, camera, paces and places have no words at all. What is in a clip
is known exactly all the same.

Coordinates as in `world`: the frame spans [-1, 1] in x (right) and y (down), time runs over [0, 1].
Everything is a function of the seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from skipguide.lab import world

Tensor = torch.Tensor
FRAME_SIZE, NUM_FRAMES = world.FRAME_SIZE, world.NUM_FRAMES

SHAPES = (*world.SHAPES, "heart", "ring", "diamond")
MOTIONS, SIZES = world.MOTIONS, world.SIZES
COLOURS, BACKGROUND_COLOURS = world.COLOURS, world.BACKGROUND_COLOURS
BACKGROUNDS = ("plain", "shaded", "striped", "spotted", "wavy")
SLOTS = ("shape", "colour", "size", "motion", "background", "second")  # what a caption may name
WORDS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "motion": MOTIONS,
    "background_kind": BACKGROUNDS, "background_colour": tuple(BACKGROUND_COLOURS),
}  # fmt: skip

# Below the words: no caption ever names these.
TEXTURES = ("flat", "stripes", "dots", "halves")
CAMERAS = ("still", "pan", "zoom")

MOST_OBJECTS = 3
_COUNTS = torch.tensor([0.5, 0.3, 0.2])  # shares of scenes with 1, 2 and 3 objects
_CAMERA_SHARES = torch.tensor([0.4, 0.4, 0.2])
_SMALLER = (0.2, 0.15)  # radius of the second and the third object, in half frames
_ROUND = ("circle", "ring")  # cannot be seen spinning


@dataclasses.dataclass(frozen=True)
class OpenScenes:
    """A batch of B scenes, one row each. Indices point into SHAPES, COLOURS, MOTIONS, ...

    Args:
        count: `(B,)` objects: the first is the largest, in front, and the one that moves along its
            path; the others sway where they are.
        shape, colour, texture: `(B, 3)`, of each object, there or not.
        outlined: `(B, 3)` bool.
        size, motion: `(B,)` of the first object.
        background, background_colour, camera: `(B,)`.
        jitter: `(B, 3, 8)` uniform in [0, 1), of each object: place, pace, tilt, texture.
        look: `(B, 8)` uniform in [0, 1): light, angle and phase of the background, camera, the
            moment of a picture.
    """

    count: Tensor
    shape: Tensor
    colour: Tensor
    texture: Tensor
    outlined: Tensor
    size: Tensor
    motion: Tensor
    background: Tensor
    background_colour: Tensor
    camera: Tensor
    jitter: Tensor
    look: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index: slice | Tensor) -> OpenScenes:
        parts = (getattr(self, field.name)[index] for field in dataclasses.fields(self))
        return OpenScenes(*parts)

    def words(self) -> dict[str, list[str]]:
        """Return the truth in words by slot, and of what a slot is made of.

        "background" is "striped blue", "second" is "red star" or "nothing".
        """
        colours, backdrops = list(COLOURS), list(BACKGROUND_COLOURS)
        second = [
            f"{colours[int(c)]} {SHAPES[int(s)]}" if n > 1 else "nothing"
            for n, c, s in zip(self.count, self.colour[:, 1], self.shape[:, 1], strict=True)
        ]
        kinds = [BACKGROUNDS[int(i)] for i in self.background]
        over = [backdrops[int(i)] for i in self.background_colour]
        return {
            "shape": [SHAPES[int(i)] for i in self.shape[:, 0]],
            "colour": [colours[int(i)] for i in self.colour[:, 0]],
            "size": [list(SIZES)[int(i)] for i in self.size],
            "motion": [MOTIONS[int(i)] for i in self.motion],
            "background": [f"{kind} {colour}" for kind, colour in zip(kinds, over, strict=True)],
            "second": second,
            "background_kind": kinds,
            "background_colour": over,
        }


def sample_scenes(num: int, seed: int, given: Mapping[str, str] | None = None) -> OpenScenes:
    """Draw `num` scenes, all of them or those that are as `given` says.

    Args:
        given: words by slot, as `{"background_colour": "green"}`, "background" as "wavy blue",
            "second" as "red star" or "nothing"; what is not given is drawn.

    Raises:
        ValueError: for an unknown slot or word, or words that no scene has together.
    """
    asked, rows, found = dict(given or {}), [], 0
    batch = 16384 if asked else 2 * num + 64  # some words are in one of 20,000 scenes
    for attempt in range(200):
        scenes = _draw(batch, seed * 1009 + attempt)
        for slot, word in asked.items():
            scenes = scenes[_has(scenes, slot, word).nonzero().flatten()]
        rows.append(scenes)
        found += len(scenes)
        if found >= num:
            return join(rows)[slice(num)]
    raise ValueError(
        f"given must be words that scenes can have together, but {found} of {200 * batch} have"
        f" {asked}. Give fewer of them."
    )


def _has(scenes: OpenScenes, slot: str, word: str) -> Tensor:
    """Tell `(B,)` which scenes have a word in a slot.

    Raises:
        ValueError: for an unknown slot or word.
    """
    parts = word.split(" ")
    if slot == "background" and len(parts) == 2:
        kind, colour = _has(scenes, "background_kind", parts[0]), parts[1]
        return kind & _has(scenes, "background_colour", colour)
    if slot == "second":
        if word == "nothing":
            return scenes.count == 1
        return (
            (scenes.count > 1)
            & (scenes.colour[:, 1] == _number("colour", parts[0]))
            & (scenes.shape[:, 1] == _number("shape", parts[-1]))
        )
    number = _number(slot, word)
    columns = {
        "shape": scenes.shape[:, 0], "colour": scenes.colour[:, 0], "size": scenes.size,
        "motion": scenes.motion, "background_kind": scenes.background,
        "background_colour": scenes.background_colour,
    }  # fmt: skip
    return columns[slot] == number


def _number(slot: str, word: str) -> int:
    if slot not in WORDS:
        raise ValueError(
            f"given must name slots of {', '.join((*WORDS, 'background', 'second'))}, but got"
            f" {slot!r}. Correct it."
        )
    if word not in WORDS[slot]:
        raise ValueError(
            f"{slot} must be one of {', '.join(WORDS[slot])}, but got {word!r}. Choose one of them."
        )
    return WORDS[slot].index(word)


def join(parts: Sequence[OpenScenes]) -> OpenScenes:
    """Put batches of scenes one after the other."""
    names = [field.name for field in dataclasses.fields(OpenScenes)]
    return OpenScenes(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _draw(num: int, seed: int) -> OpenScenes:
    """Draw scenes, and leave out those that cannot be seen."""
    generator = torch.Generator().manual_seed(seed)

    def pick(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (num, *shape), generator=generator)

    def share(chances: Tensor) -> Tensor:
        return torch.multinomial(chances.expand(num, -1), 1, generator=generator)[:, 0]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(num, *shape, generator=generator)

    scenes = OpenScenes(
        count=share(_COUNTS) + 1,
        shape=pick(len(SHAPES), MOST_OBJECTS), colour=pick(len(COLOURS), MOST_OBJECTS),
        texture=pick(len(TEXTURES), MOST_OBJECTS), outlined=uniform(MOST_OBJECTS) < 0.4,
        size=pick(len(SIZES)), motion=pick(len(MOTIONS)), background=pick(len(BACKGROUNDS)),
        background_colour=pick(len(BACKGROUND_COLOURS)), camera=share(_CAMERA_SHARES),
        jitter=uniform(MOST_OBJECTS, 8), look=uniform(8),
    )  # fmt: skip
    return scenes[_is_visible(scenes).nonzero().flatten()]


def _is_visible(scenes: OpenScenes) -> Tensor:
    """Tell which scenes can be told by eye: no round thing spins, no two colours are the same."""
    is_round = torch.tensor([name in _ROUND for name in SHAPES])[scenes.shape[:, 0]]
    keep = ~(is_round & (scenes.motion == MOTIONS.index("spin")))
    there = torch.arange(MOST_OBJECTS) < scenes.count[:, None]
    keep &= ~(there & world.same_name(scenes.colour, scenes.background_colour[:, None])).any(1)
    first = scenes.colour[:, :1] == scenes.colour[:, 1:]
    keep &= ~(there[:, 1:] & first).any(1)
    return keep & ~(there[:, 2] & (scenes.colour[:, 1] == scenes.colour[:, 2]))


# --- pixels ---------------------------------------------------------------------------------------


def render(
    scenes: OpenScenes,
    num_frames: int = NUM_FRAMES,
    size: int = FRAME_SIZE,
    times: Tensor | None = None,
) -> Tensor:
    """Draw the scenes.

    Args:
        times: of the frames of each clip, `(B, F)` in [0, 1]; None is `num_frames` from 0 to 1.

    Returns:
        `(B, 3, F, H, W)` float32 in [-1, 1], anti-aliased over one pixel.
    """
    tau = torch.linspace(0, 1, num_frames).expand(len(scenes), -1) if times is None else times
    x, y = _seen(scenes, tau, size)
    frames = _background(scenes, x, y)
    light = _light(scenes)
    for number in reversed(range(MOST_OBJECTS)):
        rows = (scenes.count > number).nonzero().flatten()
        if len(rows):
            frames[rows] = _draw_object(
                scenes[rows],
                number,
                tau[rows],
                x[rows],
                y[rows],
                2 / size,
                frames[rows],
                light[rows],
            )
    return frames * 2 - 1


def _seen(scenes: OpenScenes, tau: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return x and y `(B, F, H, W)` of the pixels in the world, seen by a camera that moves."""
    x, y = world.grid(size)
    angle = 2 * math.pi * scenes.look[:, 0]
    way = (tau - 0.5) * (0.15 + 0.15 * scenes.look[:, 1:2])
    pan = torch.where(scenes.camera[:, None] == CAMERAS.index("pan"), way, 0.0)
    zoom = torch.where(scenes.camera[:, None] == CAMERAS.index("zoom"), way, 0.0)
    zoom = zoom * torch.where(scenes.look[:, :1] < 0.5, -1.0, 1.0)
    scale = (1 + zoom)[:, :, None, None]
    dx, dy = (pan * angle.cos()[:, None], pan * angle.sin()[:, None])
    return x * scale + dx[:, :, None, None], y * scale + dy[:, :, None, None]


def _background(scenes: OpenScenes, x: Tensor, y: Tensor) -> Tensor:
    """Draw `(B, 3, F, H, W)` in [0, 1]."""
    base = torch.tensor(list(BACKGROUND_COLOURS.values()))[scenes.background_colour]
    theta, phase = (2 * math.pi * scenes.look[:, i, None, None, None] for i in (2, 3))
    along, across = x * theta.cos() + y * theta.sin(), y * theta.cos() - x * theta.sin()
    turn = 2 * math.pi / 0.55
    kinds = torch.stack(
        [
            torch.zeros_like(x),
            0.5 * along,
            0.28 * torch.sin(turn * along + phase),
            0.3 * torch.sin(turn * along + phase) * torch.sin(turn * across + phase),
            0.28 * torch.sin(turn * along + phase + 1.2 * torch.sin(turn / 2 * across)),
        ]
    )
    light = kinds[scenes.background, torch.arange(len(scenes))][:, None]
    base = base[:, :, None, None, None]
    return (base * (1 + light) + 0.06 * light).clamp(0, 1)


def _light(scenes: OpenScenes) -> Tensor:
    """Return where the light comes from, `(B, 3)`: x, y, and how strong it is."""
    angle = 2 * math.pi * scenes.look[:, 4]
    return torch.stack([angle.cos(), angle.sin(), 0.3 * scenes.look[:, 5]], 1)


def _draw_object(
    scenes: OpenScenes, number: int, tau: Tensor, x: Tensor, y: Tensor, pixel: float,
    frames: Tensor, light: Tensor,
) -> Tensor:  # fmt: skip
    """Return the frames with one object of each scene on them."""
    centre, angle, radius = _path(scenes, number, tau)
    dx, dy = (axis - centre[..., i, None, None] for i, axis in enumerate((x, y)))
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    radius = radius[..., None, None]
    u, v = (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius
    distance = _distances(scenes.shape[:, number], u, v) * radius
    alpha = (0.5 - distance / pixel).clamp(0, 1)
    shade = 1 + light[:, 2, None, None, None] * (
        dx * light[:, 0, None, None, None] + dy * light[:, 1, None, None, None]
    ) / radius  # fmt: skip
    shade = shade * (1 + _texture(scenes, number, u, v))
    rim = (0.5 + (distance + 0.13 * radius) / pixel).clamp(0, 1)
    rim = rim * scenes.outlined[:, number, None, None, None]
    shade = torch.lerp(shade, torch.full_like(shade, 0.35), rim)
    colour = torch.tensor(list(COLOURS.values()))[scenes.colour[:, number]][:, :, None, None, None]
    return torch.lerp(frames, (colour * shade[:, None]).clamp(0, 1), alpha[:, None])


def _texture(scenes: OpenScenes, number: int, u: Tensor, v: Tensor) -> Tensor:
    """Return how much lighter or darker the colour is at a place of the object."""
    turn = math.pi * (1.6 + 0.8 * scenes.jitter[:, number, 6, None, None, None])
    phase = 2 * math.pi * scenes.jitter[:, number, 7, None, None, None]
    kinds = torch.stack(
        [
            torch.zeros_like(u),
            0.25 * torch.sin(turn * (u + v) + phase),
            0.3 * torch.sin(turn * u + phase) * torch.sin(turn * v + phase),
            0.25 * torch.tanh(6 * (u * phase.cos() + v * phase.sin())),
        ]
    )
    return kinds[scenes.texture[:, number], torch.arange(len(scenes))]


def _path(scenes: OpenScenes, number: int, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre `(B, F, 2)`, angle `(B, F)` and radius `(B, F)` of an object."""
    if number == 0:
        return world.trajectory(scenes.motion, scenes.size, scenes.jitter[:, 0], tau)
    j = scenes.jitter[:, number, :, None]
    corner = torch.tensor([[-0.72, -0.72], [0.72, -0.72], [-0.72, 0.72], [0.72, 0.72]])
    # The second and the third never stand in one corner.
    place = ((4 * scenes.jitter[:, 1, 0]).long() + (number - 1) * 2) % 4
    sway = 0.08 * torch.sin(2 * math.pi * (tau * (0.5 + j[:, 1]) + j[:, 2]))
    along = 2 * math.pi * j[:, 3]
    centre = corner[place][:, None] + torch.stack([sway * along.cos(), sway * along.sin()], -1)
    tilt = (j[:, 4] - 0.5) * 0.5 + 0 * tau
    radius = _SMALLER[number - 1] * (0.95 + 0.1 * j[:, 5]) + 0 * tau
    return centre, tilt, radius


def _distances(shape: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return signed distances at unit radius, negative inside."""
    found = torch.empty_like(u)
    for index in shape.unique().tolist():
        rows = (shape == index).nonzero().flatten()
        found[rows] = _DISTANCES[SHAPES[index]](u[rows], v[rows])
    return found


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Two round lobes above a point, as the union of two circles and a triangle."""
    lobes = ((u.abs() - 0.45).square() + (v + 0.3).square()).sqrt() - 0.52
    point = torch.maximum(0.76 * u.abs() + 0.65 * v - 0.62, -0.1 - v)
    return torch.minimum(lobes, point)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u * u + v * v).sqrt() - 0.68).abs() - 0.24


def _diamond(u: Tensor, v: Tensor) -> Tensor:
    return 0.86 * u.abs() + 0.5 * v.abs() - 0.56


_DISTANCES = {**world.DISTANCES, "heart": _heart, "ring": _ring, "diamond": _diamond}

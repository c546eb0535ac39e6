"""Procedural video with exact ground truth: shapes moving over a background, and their captions.

A scene is a row of numbers (`Scenes`, a struct of arrays); `sample_scenes` draws rows from a seed,
`render` turns them into clips and `captions` into English. Everything is a function of the seed, so
no data set is ever stored.

Coordinates: the frame spans [-1, 1] in x (right) and y (down); time runs over [0, 1] from the first
to the last frame.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator

import torch
from PIL import Image

FRAME_SIZE = 64  # pixels
NUM_FRAMES = 19
FPS = 12

SHAPES = ("circle", "square", "triangle", "star", "cross", "moon")
MOTIONS = ("left", "right", "up", "down", "orbit", "spin", "grow", "bounce")
BACKGROUNDS = ("plain", "gradient", "texture")
SIZES = {"small": 0.27, "medium": 0.37, "large": 0.48}  # radius, in half frames
COLOURS = {
    "red": (0.90, 0.12, 0.14),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.97, 0.92, 0.22),
    "green": (0.14, 0.72, 0.24),
    "cyan": (0.15, 0.82, 0.88),
    "blue": (0.15, 0.30, 0.95),
    "purple": (0.62, 0.20, 0.82),
    "white": (0.97, 0.97, 0.97),
}
# Muted, so that every object colour stands out on every background that does not share its name.
BACKGROUND_COLOURS = {
    "black": (0.05, 0.05, 0.06),
    "grey": (0.45, 0.45, 0.46),
    "blue": (0.10, 0.15, 0.38),
    "green": (0.09, 0.28, 0.14),
    "purple": (0.27, 0.12, 0.34),
    "brown": (0.36, 0.22, 0.12),
}

SECOND_OBJECT_SHARE = 0.15
SECOND_RADIUS = 0.2
_CIRCLE, _SPIN = SHAPES.index("circle"), MOTIONS.index("spin")


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A batch of B scenes, one row each.

    Indices point into SHAPES, COLOURS, MOTIONS, ...; lengths are in half frames. `second_shape` is
    -1 if there is no second object. `jitter` (B, 8) holds uniform numbers in [0, 1) that place and
    pace the motion; keeping them raw means a scene is the same at any resolution or frame count.
    """

    shape: torch.Tensor  # (B,) int64
    colour: torch.Tensor  # (B,) int64
    size: torch.Tensor  # (B,) int64
    motion: torch.Tensor  # (B,) int64
    background: torch.Tensor  # (B,) int64
    background_colour: torch.Tensor  # (B,) int64
    second_shape: torch.Tensor  # (B,) int64, -1: none
    second_colour: torch.Tensor  # (B,) int64
    jitter: torch.Tensor  # (B, 8) float32

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: slice | torch.Tensor) -> Scenes:
        return Scenes(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def attributes(self) -> Iterator[dict[str, str | None]]:
        """Yield one dictionary of words per scene, in order."""
        for i in range(len(self)):
            second = int(self.second_shape[i])
            yield {
                "shape": SHAPES[int(self.shape[i])],
                "colour": list(COLOURS)[int(self.colour[i])],
                "size": list(SIZES)[int(self.size[i])],
                "motion": MOTIONS[int(self.motion[i])],
                "background": BACKGROUNDS[int(self.background[i])],
                "background_colour": list(BACKGROUND_COLOURS)[int(self.background_colour[i])],
                "second_shape": SHAPES[second] if second >= 0 else None,
                "second_colour": list(COLOURS)[int(self.second_colour[i])] if second >= 0 else None,
            }


def is_drawable(shape: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Tell which combinations are visible; a circle cannot be seen spinning."""
    return ~((shape == _CIRCLE) & (motion == _SPIN))


def is_held_out(shape: torch.Tensor, colour: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Tell which combinations (shape, colour, motion), 1 in 19, no training clip shows.

    Each single value still occurs in other combinations.
    """
    return (shape * 7 + colour * 3 + motion * 5) % 19 == 0


def sample_scenes(
    num: int, seed: int, split: str = "train", *, second_share: float = SECOND_OBJECT_SHARE
) -> Scenes:
    """Draw `num` scenes.

    Args:
        split: "train" (without held-out combinations), "heldout" (only those) or "all".

    Raises:
        ValueError: for an unknown split.
    """
    if split not in ("train", "heldout", "all"):
        raise ValueError(
            f'split must be "train", "heldout" or "all", but got {split!r}. Pass one of the three.'
        )
    generator = torch.Generator().manual_seed(seed)
    # Enough candidates for the rarest split (1 in 19 kept), with room to spare. The rule is fixed,
    # so that the scenes depend on the seed alone.
    candidates = num * 40 + 400 if split == "heldout" else num * 2 + 64

    def draw(high: int) -> torch.Tensor:
        return torch.randint(high, (candidates,), generator=generator)

    shape, colour, motion = draw(len(SHAPES)), draw(len(COLOURS)), draw(len(MOTIONS))
    keep = is_drawable(shape, motion)
    if split != "all":
        keep &= is_held_out(shape, colour, motion) == (split == "heldout")
    background_colour = draw(len(BACKGROUND_COLOURS))
    keep &= ~same_name(colour, background_colour)
    has_second = torch.rand(candidates, generator=generator) < second_share
    second_colour = draw(len(COLOURS))
    keep &= ~(
        has_second & ((second_colour == colour) | same_name(second_colour, background_colour))
    )
    second_shape = torch.where(has_second, draw(len(SHAPES)), -1)
    scenes = Scenes(
        shape, colour, draw(len(SIZES)), motion, draw(len(BACKGROUNDS)), background_colour,
        second_shape, second_colour, torch.rand(candidates, 8, generator=generator),
    )  # fmt: skip
    return scenes[keep.nonzero().flatten()[:num]]


WORDS = {"shape": SHAPES, "colour": tuple(COLOURS), "motion": MOTIONS}


def find_scenes(num: int, seed: int, **words: str | None) -> Scenes:
    """Find scenes of one object with given words for shape, colour or motion; None matches any.

    Raises:
        ValueError: for an unknown word, or a combination that cannot be seen.
    """
    scenes = sample_scenes(max(4096, 1024 * num), seed, "all", second_share=0.0)
    for name, word in words.items():
        if word is None:
            continue
        if word not in WORDS[name]:
            raise ValueError(
                f"{name} must be one of {', '.join(WORDS[name])}, but got {word!r}. Choose one of"
                " them."
            )
        scenes = scenes[(getattr(scenes, name) == WORDS[name].index(word)).nonzero().flatten()]
    if len(scenes) < num:
        said = " ".join(word for word in words.values() if word)
        raise ValueError(
            f"shape and motion must be a combination that can be seen, but got {said}. Change one."
        )
    return scenes[slice(num)]


def render_first_frame(scenes: Scenes) -> Image.Image:
    """Render the first frame of the first of some scenes."""
    pixels = (render(scenes[slice(1)], 2)[0, :, 0] + 1) * 127.5
    return Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())


def same_name(colour: torch.Tensor, background_colour: torch.Tensor) -> torch.Tensor:
    """Tell, element by element, which colours have the name of their background's."""
    names = [[a == b for b in BACKGROUND_COLOURS] for a in COLOURS]
    return torch.tensor(names)[colour, background_colour]


# --- pixels ---------------------------------------------------------------------------------------


def render(
    scenes: Scenes,
    num_frames: int = NUM_FRAMES,
    size: int = FRAME_SIZE,
    span: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw the scenes.

    Args:
        span: `(B,)` in (0, 1], the part of its path that an object covers in the clip; None is all
            of it.

    Returns:
        `(B, 3, F, H, W)` float32 in [-1, 1], anti-aliased over one pixel, ready for a video
        autoencoder.
    """
    x, y = grid(size)
    pixel = 2 / size
    frames = _background(scenes, x, y)[:, :, None].expand(-1, -1, num_frames, -1, -1)
    centre, angle, radius = _trajectory(scenes, num_frames, span)
    second = scenes.second_shape >= 0
    if second.any():
        frames = frames.clone()
        corner = _free_corner(centre[second])[:, None]
        still = torch.zeros(len(corner), 1)
        alpha = _coverage(
            scenes.second_shape[second],
            corner,
            still,
            torch.full_like(still, SECOND_RADIUS),
            x,
            y,
            pixel,
        )
        frames[second] = _blend(
            frames[second], alpha, _look_up_colour(scenes.second_colour[second])
        )
    alpha = _coverage(scenes.shape, centre, angle, radius, x, y, pixel)
    return _blend(frames, alpha, _object_colours(scenes)) * 2 - 1


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and y of the centres of the pixels, each (H, W)."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _object_colours(scenes: Scenes) -> torch.Tensor:
    """Return (B, 3): the colour of the moving object, near that of its name."""
    return (_look_up_colour(scenes.colour) + (scenes.jitter[:, 6:7] - 0.5) * 0.08).clamp(0, 1)


def _look_up_colour(index: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(COLOURS.values()))[index]  # (B, 3)


def _blend(frames: torch.Tensor, alpha: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    return torch.lerp(frames, colour[:, :, None, None, None], alpha[:, None])


def _background(scenes: Scenes, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Draw (B, 3, H, W) in [0, 1]: plain, a linear gradient, or stripes, at a random angle."""
    base = torch.tensor(list(BACKGROUND_COLOURS.values()))[scenes.background_colour]
    theta = scenes.jitter[:, 5, None, None] * 2 * math.pi
    along = x * theta.cos() + y * theta.sin()  # (B, H, W)
    kind = scenes.background[:, None, None]
    stripes = 0.28 * torch.sin(along * 2 * math.pi / 0.5)
    light = torch.where(
        kind == 1, 0.5 * along, torch.where(kind == 2, stripes, torch.zeros_like(along))
    )
    base = base[:, :, None, None]
    return (base * (1 + light[:, None]) + 0.06 * light[:, None]).clamp(0, 1)


def _trajectory(
    scenes: Scenes, num_frames: int, span: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tau = torch.linspace(0, 1, num_frames)[None]  # (1, F); (B, F) with a span for each clip
    tau = tau if span is None else tau * span[:, None]
    return trajectory(scenes.motion, scenes.size, scenes.jitter, tau)


def trajectory(
    motion: torch.Tensor, size: torch.Tensor, jitter: torch.Tensor, tau: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the path of a moving object.

    Args:
        motion, size: `(B,)`, as in `Scenes`.
        jitter: `(B, 8)` in [0, 1).
        tau: `(1, F)` or `(B, F)`, the share of its path that it has gone at each frame.

    Returns:
        Centre `(B, F, 2)`, angle `(B, F)` in radians and radius `(B, F)`.
    """
    j = jitter[:, :, None]
    sign = torch.where(j[:, 3] < 0.5, -1.0, 1.0)
    zero = torch.zeros(len(motion), tau.shape[1])
    run = (0.9 + 0.25 * j[:, 0]) * (tau - 0.5)
    drift_x, drift_y = 0.7 * (j[:, 1] - 0.5) + zero, 0.7 * (j[:, 2] - 0.5) + zero
    turn = sign * 2 * math.pi * (0.9 + 0.2 * j[:, 0]) * tau + 2 * math.pi * j[:, 4]
    orbit = 0.38 + 0.1 * j[:, 1]
    hop = 0.45 - (0.75 + 0.15 * j[:, 0]) * torch.sin(2 * math.pi * tau + math.pi * j[:, 4]).abs()
    paths = {
        "left": (-run, drift_y),
        "right": (run, drift_y),
        "up": (drift_x, -run),
        "down": (drift_x, run),
        "orbit": (orbit * turn.cos(), orbit * turn.sin()),
        "spin": (drift_x, drift_y),
        "grow": (0.5 * drift_x, 0.5 * drift_y),
        "bounce": (drift_x, hop),
    }
    centres = torch.stack([torch.stack(paths[name], -1) for name in MOTIONS])  # (M, B, F, 2)
    centre = centres[motion, torch.arange(len(motion))]
    tilt = (j[:, 5] - 0.5) * 0.5
    spin = sign * math.pi * (1.2 + 0.5 * j[:, 0]) * tau
    angle = tilt + torch.where(motion[:, None] == _SPIN, spin, zero)
    radius = torch.tensor(list(SIZES.values()))[size][:, None] * (0.95 + 0.1 * j[:, 7])
    growth = torch.where(motion[:, None] == MOTIONS.index("grow"), 0.45 + 0.85 * tau, zero + 1)
    return centre, angle, radius * growth


def _free_corner(centre: torch.Tensor) -> torch.Tensor:
    """Return (B, 2): the corner of the frame that the moving object stays furthest away from."""
    corners = torch.tensor([[-0.74, -0.74], [0.74, -0.74], [-0.74, 0.74], [0.74, 0.74]])
    distance = (centre[:, :, None] - corners).norm(dim=-1).amin(1)  # (B, 4)
    return corners[distance.argmax(1)]


def _coverage(shape, centre, angle, radius, x, y, pixel: float) -> torch.Tensor:
    """Return (B, F, H, W) in [0, 1]: how much of each pixel the object covers."""
    alpha = torch.empty(len(shape), centre.shape[1], *x.shape)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero().flatten()
        if len(rows) == 0:
            continue
        dx = x - centre[rows, :, 0, None, None]
        dy = y - centre[rows, :, 1, None, None]
        cos, sin = angle[rows].cos()[..., None, None], angle[rows].sin()[..., None, None]
        scale = radius[rows][..., None, None]
        distance = (
            DISTANCES[name]((dx * cos + dy * sin) / scale, (dy * cos - dx * sin) / scale) * scale
        )
        alpha[rows] = (0.5 - distance / pixel).clamp(0, 1)
    return alpha


# --- how much moves -------------------------------------------------------------------------------


def draw_spans(num: int, seed: int) -> torch.Tensor:
    """Draw (B,), the `span` of `render`: between a tenth of a path and all of it."""
    return 0.1 + 0.9 * torch.rand(num, generator=torch.Generator().manual_seed(seed))


def masks(scenes: Scenes, num_frames: int, span: torch.Tensor | None = None) -> torch.Tensor:
    """Return (B, F, H, W) in [0, 1]: where the moving object is."""
    x, y = grid(FRAME_SIZE)
    return _coverage(scenes.shape, *_trajectory(scenes, num_frames, span), x, y, 2 / FRAME_SIZE)


def segment_objects(scenes: Scenes, frames: torch.Tensor) -> torch.Tensor:
    """Find the object of a scene in a video of it by its colour: (B, F, H, W) in [0, 1].

    Args:
        scenes: without second objects.
        frames: (B, 3, F, H, W) in [-1, 1], generated or rendered.
    """
    backdrop = _background(scenes, *grid(frames.shape[-1]))[:, :, None]
    colour = _object_colours(scenes)[:, :, None, None, None] - backdrop
    return (((frames + 1) / 2 - backdrop) * colour).sum(1).div(colour.square().sum(1)).clamp(0, 1)


def amount_of_motion(masks: torch.Tensor) -> torch.Tensor:
    """Return (B,): how far the outline of an object moves in a clip, in half frames.

    It is the changed area over the length of the outline: the mean distance that a point of the
    outline moves along its normal, because of a path, a turn or growth. Size and contrast of the
    object do not matter.
    """
    pixel = 2 / masks.shape[-1]
    changed = masks.diff(dim=1).abs().sum((1, 2, 3))
    slope = torch.stack(torch.gradient(masks, dim=(2, 3))).square().sum(0).sqrt()
    return changed / slope.sum((2, 3)).mean(1).clamp_min(1.0) * pixel


# Signed distances (negative inside) at unit radius, y down, with sizes that give similar areas.


def _circle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * x + y * y).sqrt() - 0.88


def _box(x: torch.Tensor, y: torch.Tensor, half_x: float, half_y: float) -> torch.Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _box(x, y, 0.78, 0.78)


def _triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    sides = math.sqrt(3) / 2 * x.abs() - 0.5 * y - 0.55
    return torch.maximum(sides, y - 0.55)


def _cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.minimum(_box(x, y, 1.0, 0.33), _box(x, y, 0.33, 1.0))


def _moon(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    bite = ((x - 0.52) ** 2 + y * y).sqrt() - 0.74
    return torch.maximum((x * x + y * y).sqrt() - 1.0, -bite)


def _star(
    x: torch.Tensor, y: torch.Tensor, points: int = 5, outer: float = 1.15, inner: float = 0.5
) -> torch.Tensor:
    """Fold the plane into half a point; return the distance to the line from tip to notch."""
    sector = 2 * math.pi / points
    theta = torch.atan2(x, -y)
    theta = (theta - sector * (theta / sector).round()).abs()
    r = (x * x + y * y).sqrt()
    tip_x, notch_x, notch_y = outer, inner * math.cos(sector / 2), inner * math.sin(sector / 2)
    length = math.hypot(tip_x - notch_x, notch_y)
    normal_x, normal_y = notch_y / length, (tip_x - notch_x) / length
    return (r * theta.cos() - tip_x) * normal_x + r * theta.sin() * normal_y


DISTANCES = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross,
    "moon": _moon,
}  # fmt: skip


# --- words ----------------------------------------------------------------------------------------

SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium",), "large": ("large", "big")}
MOTION_PHRASES = {
    "left": ("moving left", "moving to the left", "sliding left", "drifting to the left"),
    "right": ("moving right", "moving to the right", "sliding right", "drifting to the right"),
    "up": ("moving up", "rising", "floating upwards", "moving upwards"),
    "down": ("moving down", "falling", "sinking downwards", "moving downwards"),
    "orbit": ("orbiting", "moving in a circle", "going round and round"),
    "spin": ("spinning", "rotating", "turning in place", "spinning on the spot"),
    "grow": ("growing", "getting bigger", "growing larger"),
    "bounce": ("bouncing", "bouncing up and down", "hopping up and down"),
}
BACKGROUND_WORDS = {
    "plain": ("{}", "plain {}"),
    "gradient": ("{}", "shaded {}"),
    "texture": ("{}", "striped {}"),
}
PREPOSITIONS = ("over", "on", "in front of")
SECOND_PHRASES = ("next to {}", "with {} in the corner", "and {} that stands still")
OPENINGS = ("", "", "", "a video of ", "a clip of ")


def captions(scenes: Scenes, seed: int) -> list[str]:
    """Write one plain English caption per scene.

    The phrasing, and what is left out, is drawn from `seed`.
    """
    rng = random.Random(seed)
    return [_caption(attributes, rng) for attributes in scenes.attributes()]


def _caption(attributes: dict[str, str | None], rng: random.Random) -> str:
    """Write a phrase, or sometimes a sentence with a capital and a full stop."""
    phrase = _phrase(attributes, rng)
    return f"{phrase[0].upper()}{phrase[1:]}." if rng.random() < 0.25 else phrase


def _phrase(attributes: dict[str, str | None], rng: random.Random) -> str:
    a = {key: value or "" for key, value in attributes.items()}
    size = (
        rng.choice(SIZE_WORDS[a["size"]])
        if rng.random() < (0.25 if a["size"] == "medium" else 0.6)
        else ""
    )
    subject = add_article(" ".join(filter(None, (size, a["colour"], a["shape"]))))
    motion = rng.choice(MOTION_PHRASES[a["motion"]])
    backdrop = rng.choice(BACKGROUND_WORDS[a["background"]]).format(a["background_colour"])
    where = (
        f"{rng.choice(PREPOSITIONS)} {add_article(backdrop)} background"
        if rng.random() < 0.8
        else ""
    )
    if a["second_shape"]:
        second = rng.choice(SECOND_PHRASES).format(
            add_article(f"{a['second_colour']} {a['second_shape']}")
        )
        motion = f"{motion} {second}"
    if where and rng.random() < 0.15:
        return f"{where}, {subject} {motion}"
    verb = "is " if rng.random() < 0.15 else ""
    opening = "" if verb else rng.choice(OPENINGS)
    return " ".join(filter(None, (f"{opening}{subject}", f"{verb}{motion}", where)))


def add_article(noun: str) -> str:
    """Return a noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def vocabulary() -> list[str]:
    """Return every word that a caption can contain, sorted: what the tokenizer has to know."""
    phrases = [
        *SHAPES, *COLOURS, *BACKGROUND_COLOURS, *PREPOSITIONS, *SECOND_PHRASES, *OPENINGS,
        "a an is background", "A An In On Over",
        *(w for group in (SIZE_WORDS, MOTION_PHRASES,
            BACKGROUND_WORDS) for words in group.values() for w in words),
    ]  # fmt: skip
    return sorted({word for phrase in phrases for word in phrase.replace("{}", " ").split()})

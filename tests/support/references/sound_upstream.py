"""Other people's measures of sound, run on painted and drawn inputs: what ours must compute.

    python tests/support/references/sound_upstream.py UPSTREAM OUT

reads from the folder UPSTREAM av_align.py (guyyariv/TempoTokens at bf0b1e3), vggish/ (the folder
torchvggish of harritaylor/torchvggish at f3f9096) and pann.py with pytorch_utils.py (of
gudgud96/frechet-audio-distance at 55971f6, frechet_audio_distance/models/), and writes
`sound.json` to the folder OUT. It needs torch, numpy, scipy, librosa, opencv-python, resampy,
soundfile and torchlibrosa, and no skipguide. The inputs are drawn by the functions here, which the
tests call.

`onsets`: librosa's strengths and times, by sound; `flow`: the mean motion of Farneback's flow, by
size; `av_align`: the authors' score, onsets and peaks, by video; `frechet`: fadtk's formula with
scipy.linalg.sqrtm; `vggish`, `pann`: features of the authors' networks with drawn weights."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

RATE = 22050
SIZES = ((64, 96), (130, 90), (40, 33))
FPS, FRAMES = 12, 36
# When things begin in a painted video: by case, times of the picture and of the sound.
VIDEOS: dict[str, tuple[list[float], list[float]]] = {
    "together": ([0.5, 1.25, 2.0], [0.5, 1.25, 2.0]),
    "apart": ([0.5, 1.25, 2.0], [0.8, 1.6, 2.4]),
    "some": ([0.5, 1.25, 2.0, 2.5], [0.5, 1.6, 2.0]),
}


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth picture `(height, width, 3)` uint8."""
    drawn = np.random.default_rng(seed).random((height // 4 + 3, width // 4 + 3, 3))
    y, x = np.arange(height) / 4, np.arange(width) / 4
    top, left = y.astype(int), x.astype(int)
    a, b = (y - top)[:, None, None], (x - left)[None, :, None]
    rows = drawn[top] * (1 - a) + drawn[top + 1] * a
    return ((rows[:, left] * (1 - b) + rows[:, left + 1] * b) * 255).astype(np.uint8)


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two frames, the second moved by 2 pixels to the left and 3 down."""
    height, width = SIZES[number]
    whole = texture(number, height + 20, width + 20)
    return whole[10 : 10 + height, 10 : 10 + width], whole[7 : 7 + height, 12 : 12 + width]


def moving(times: list[float]) -> np.ndarray:
    """A video `(F, H, W, 3)` whose picture jumps 4 pixels at each time, and rests else."""
    whole = texture(7, 64, 64 + 4 * 8)
    jumps = sorted(round(time * FPS) for time in times)
    shifts = [4 * sum(frame >= jump for jump in jumps) for frame in range(FRAMES)]
    return np.stack([whole[:, shift : shift + 64] for shift in shifts])


def clicks(times: list[float], seconds: float, rate: int = RATE) -> np.ndarray:
    """Bursts of noise that fade within a tenth of a second, over a faint hum: `(T,)` float32."""
    drawn = np.random.default_rng(3)
    t = np.arange(round(seconds * rate)) / rate
    found = 0.001 * np.sin(2 * np.pi * 100 * t)
    for time in times:
        begin = round(time * rate)
        fade = np.exp(-t[: len(t) - begin] * 40)
        found[begin:] += 0.4 * fade * drawn.standard_normal(len(fade))
    return np.clip(found, -1, 1).astype(np.float32)


def tones(seconds: float, rate: int) -> np.ndarray:
    """A chord that changes every quarter of a second: `(T,)` float32."""
    drawn = np.random.default_rng(5)
    t = np.arange(round(seconds * rate)) / rate
    parts = [np.zeros(0)]
    for begin in range(0, len(t), rate // 4):
        own = t[begin : begin + rate // 4]
        pitches = drawn.uniform(100, 4000, 4)
        parts.append(np.sin(2 * np.pi * pitches[:, None] * own).sum(0) / 8)
    return np.concatenate(parts).astype(np.float32)


SOUNDS = {"clicks": clicks([0.3, 0.9, 1.4], 2.0), "chords": tones(2.0, RATE)}


def frechet_sets() -> tuple[np.ndarray, np.ndarray]:
    """Features of windows `(N, 16)`, correlated, one set shifted and stretched."""
    drawn = np.random.default_rng(11)
    mix = drawn.standard_normal((16, 16))
    return drawn.standard_normal((90, 16)) @ mix, drawn.standard_normal((70, 16)) @ mix * 1.3 + 0.4


VGGISH_CHANNELS, VGGISH_WIDTHS = (3, 4, 6, 6, 8, 8), (20, 16, 12)  # 64 to 512; 4096, 4096, 128
PANN_CHANNELS, PANN_WIDTH = (4, 6, 8, 8, 10, 12), 16  # 64 to 2048; 2048


def drawn_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by name, each from a seed of its own: small, with variances that are positive."""
    found = {}
    for name, shape in sorted(shapes.items()):
        drawn = np.random.default_rng([ord(letter) for letter in name])
        values = drawn.standard_normal(shape) * 1.4 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        found[name] = (np.abs(values) + 0.5 if "running_var" in name else values).astype(np.float32)
    return found


def vggish_weights() -> dict[str, np.ndarray]:
    """A narrow VGGish under the keys of torchvggish."""
    shapes: dict[str, tuple[int, ...]] = {}
    places = (0, 3, 6, 8, 11, 13)  # of the convolutions
    for place, a, b in zip(places, (1, *VGGISH_CHANNELS), VGGISH_CHANNELS, strict=False):
        shapes |= {f"features.{place}.weight": (b, a, 3, 3), f"features.{place}.bias": (b,)}
    before = 24 * VGGISH_CHANNELS[-1]
    for place, width in zip((0, 2, 4), VGGISH_WIDTHS, strict=True):
        shapes |= {
            f"embeddings.{place}.weight": (width, before),
            f"embeddings.{place}.bias": (width,),
        }
        before = width
    return drawn_weights(shapes)


def pann_weights() -> dict[str, np.ndarray]:
    """A narrow CNN14 under the keys of its authors, without what has no drawn weights."""

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{part}": (width,) for part in parts}

    shapes: dict[str, tuple[int, ...]] = {
        **norm("bn0", 64), "fc1.weight": (PANN_WIDTH, PANN_CHANNELS[-1]), "fc1.bias": (PANN_WIDTH,),
        "fc_audioset.weight": (3, PANN_WIDTH), "fc_audioset.bias": (3,),
    }  # fmt: skip
    for place, (a, b) in enumerate(zip((1, *PANN_CHANNELS), PANN_CHANNELS, strict=False), 1):
        block = f"conv_block{place}"
        shapes |= {f"{block}.conv1.weight": (b, a, 3, 3), f"{block}.conv2.weight": (b, b, 3, 3)}
        shapes |= {**norm(f"{block}.bn1", b), **norm(f"{block}.bn2", b)}
    return drawn_weights(shapes)


# --- upstream -------------------------------------------------------------------------------------


def main(upstream: Path, out: Path) -> None:
    sys.path.insert(0, str(upstream))
    found = {
        "onsets": {name: _onsets(samples) for name, samples in SOUNDS.items()},
        "flow": [_flow(number) for number in range(len(SIZES))],
        "av_align": {name: _av_align(upstream, name) for name in VIDEOS},
        "frechet": _frechet(),
        "vggish": _vggish(),
        "pann": _pann(),
    }
    (out / "sound.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def _onsets(samples: np.ndarray) -> dict[str, Any]:
    librosa: Any = importlib.import_module("librosa")
    strength = librosa.onset.onset_strength(y=samples, sr=RATE)
    frames = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE)
    return {
        "strength": np.asarray(strength, float).round(5).tolist(),
        "times": librosa.frames_to_time(frames, sr=RATE).tolist(),
    }


def _flow(number: int) -> float:
    theirs: Any = importlib.import_module("av_align")
    first, second = (frame[..., ::-1].copy() for frame in pair(number))  # BGR
    return float(theirs.compute_of(first, second))


def _av_align(upstream: Path, name: str) -> dict[str, Any]:
    theirs: Any = importlib.import_module("av_align")
    soundfile: Any = importlib.import_module("soundfile")
    picture, sound = VIDEOS[name]
    path = upstream / f"{name}.wav"
    soundfile.write(path, clicks(sound, FRAMES / FPS), RATE, subtype="PCM_16")
    onsets = theirs.detect_audio_peaks(str(path))
    frames = [frame[..., ::-1].copy() for frame in moving(picture)]
    _, peaks = theirs.detect_video_peaks(frames, FPS)
    score = theirs.calc_intersection_over_union(onsets, peaks, FPS)
    return {"onsets": list(map(float, onsets)), "peaks": list(map(float, peaks)), "score": score}


def _frechet() -> float:
    linalg: Any = importlib.import_module("scipy.linalg")
    x, y = frechet_sets()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    apart = x.mean(0) - y.mean(0)
    root = np.trace(linalg.sqrtm(a.dot(b)).real)
    return float(apart.dot(apart) + np.trace(a) + np.trace(b) - 2 * root)


def _load(model: Any, wanted: dict[str, np.ndarray]) -> Any:
    torch: Any = importlib.import_module("torch")
    drawn = {name: torch.from_numpy(values) for name, values in wanted.items()}
    model.load_state_dict({**model.state_dict(), **drawn})
    return model.eval()


def _vggish() -> list[list[float]]:
    """As in fadtk and frechet-audio-distance: no PCA, without the last ReLU; narrower."""
    torch: Any = importlib.import_module("torch")
    theirs: Any = importlib.import_module("vggish.vggish")
    inputs: Any = importlib.import_module("vggish.vggish_input")
    parts, before = [], 1
    for place, width in enumerate(VGGISH_CHANNELS):
        parts += [torch.nn.Conv2d(before, width, 3, padding=1), torch.nn.ReLU()]
        parts += [torch.nn.MaxPool2d(2)] if place in (0, 1, 3, 5) else []
        before = width
    model = theirs.VGG(torch.nn.Sequential(*parts))
    widths = (24 * VGGISH_CHANNELS[-1], *VGGISH_WIDTHS)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model.embeddings = torch.nn.Sequential(
        layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]
    )
    _load(model, vggish_weights())
    examples = inputs.waveform_to_examples(tones(2.1, 16000), 16000)
    with torch.no_grad():
        return model(examples).double().tolist()


def _pann() -> dict[str, list[float]]:
    torch: Any = importlib.import_module("torch")
    theirs: Any = importlib.import_module("pann")
    model = theirs.Cnn14_16k(16000, 512, 160, 64, 50, 8000, 527)
    for place, (a, b) in enumerate(zip((1, *PANN_CHANNELS), PANN_CHANNELS, strict=False), 1):
        setattr(model, f"conv_block{place}", theirs.ConvBlock(a, b))
    model.fc1 = torch.nn.Linear(PANN_CHANNELS[-1], PANN_WIDTH)
    model.fc_audioset = torch.nn.Linear(PANN_WIDTH, 3)
    _load(model, pann_weights())
    with torch.no_grad():
        samples = torch.from_numpy(tones(2.1, 16000))[None]
        found = model(samples, None)["embedding"][0].double().tolist()
    return {"embedding": found, "filters": model.logmel_extractor.melW.double().sum(1).tolist()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

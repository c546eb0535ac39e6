"""Metrics that hear: the flow, the onsets and AV-Align of the authors, features of sounds, and the
Frechet audio distance of their windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipguide.files import sound, video
from skipguide.files.sound import Sound
from skipguide.metrics import evaluate, farneback, onsets, results, sounds, sync
from skipguide.metrics.evaluation import evaluate_run
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.metrics.networks import clap, panns, vggish
from skipguide.metrics.selection import Options, parse_metric
from skipguide.runs import Run
from support import beeps, clap_folder
from support.references import sound_upstream as upstream
from support.singing import singing

Tensor = torch.Tensor
FOUND: dict[str, Any] = json.loads(
    (Path(upstream.__file__).parent / "sound.json").read_text(encoding="utf-8")
)


def frames_of(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


# --- the authors' numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(upstream.SIZES)))
def test_the_flow_is_opencvs(number: int) -> None:
    first, second = (
        farneback.expand(farneback.to_grey(frames_of(np.ascontiguousarray(frame)[None])[0]))
        for frame in upstream.pair(number)
    )
    assert farneback.mean_motion(first, second) == pytest.approx(FOUND["flow"][number], rel=1e-5)
    # The picture moves by (-2, 3), and most of it stays inside.
    moved = farneback.flow(first, second).median(2).values.median(1).values
    assert moved.tolist() == pytest.approx([-2, 3], abs=0.1)


@pytest.mark.parametrize("name", upstream.SOUNDS)
def test_onsets_are_librosas(name: str) -> None:
    wanted = FOUND["onsets"][name]
    strength = onsets.strength(upstream.SOUNDS[name])
    assert strength.tolist() == pytest.approx(wanted["strength"], abs=2e-3)
    found = [place * onsets.HOP / onsets.RATE for place in onsets.pick_peaks(strength)]
    assert found == pytest.approx(wanted["times"])


@pytest.mark.parametrize("name", upstream.VIDEOS)
def test_av_align_is_the_authors(name: str) -> None:
    """Their script, on a painted video and its 16-bit sound."""
    picture, heard = upstream.VIDEOS[name]
    frames = frames_of(upstream.moving(picture))
    samples = upstream.clicks(heard, upstream.FRAMES / upstream.FPS)
    own = Sound.from_floats(samples, upstream.RATE)
    wanted = FOUND["av_align"][name]
    assert onsets.onset_times(own) == pytest.approx(wanted["onsets"])
    assert sync.av_align(frames, upstream.FPS, own) == pytest.approx(wanted["score"])


def test_vggish_is_torchvggishs(tmp_path: Path) -> None:
    model = _saved(vggish, upstream.vggish_weights(), tmp_path)
    found = vggish.features(model, torch.from_numpy(upstream.tones(2.1, 16000)))
    wanted = torch.tensor(FOUND["vggish"], dtype=torch.float64)
    assert found.shape == (2, upstream.VGGISH_WIDTHS[-1])  # a rest of 0.18 s is left out
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_panns_are_their_authors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    filters = slaney_filters()
    assert filters.sum(1).tolist() == pytest.approx(FOUND["pann"]["filters"], abs=1e-6)
    weights = {**upstream.pann_weights(), "logmel_extractor.melW": filters.numpy()}
    model = _saved(panns, weights, tmp_path)
    found = panns.features(model, torch.from_numpy(upstream.tones(2.1, 16000)))
    wanted = torch.tensor(FOUND["pann"]["embedding"], dtype=torch.float64)
    assert (found[0] - wanted).abs().max() < 1e-4 * wanted.abs().max()


def slaney_filters() -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    return torch.from_numpy(
        mel_filter_bank(257, 64, 50.0, 8000.0, 16000, "slaney", "slaney")
    ).float()


def _saved(module: Any, weights: dict[str, np.ndarray], folder: Path) -> Any:
    path = folder / "weights.pth"
    torch.save({"model": {name: torch.from_numpy(value) for name, value in weights.items()}}, path)
    return module.load(path).eval()


def test_the_distance_is_scipys() -> None:
    x, y = (torch.from_numpy(rows) for rows in upstream.frechet_sets())
    found = frechet_distance(Moments.from_features(x), Moments.from_features(y))
    assert found == pytest.approx(FOUND["frechet"], rel=1e-10)


# --- closed forms ---------------------------------------------------------------------------------

FPS = 25
TIMES, COUNT = [0.48, 1.04, 1.6], 50


def jumping(times: list[float], count: int = COUNT) -> Tensor:
    """A picture that moves at these times and rests else."""
    whole = upstream.texture(1, 48, 48 + 4 * len(times))
    jumps = [round(time * FPS) for time in times]
    shifts = [4 * sum(frame >= jump for jump in jumps) for frame in range(count)]
    return frames_of(np.stack([whole[:, shift : shift + 48] for shift in shifts]))


@pytest.mark.parametrize(
    ("late", "score"), [(0.0, 1.0), (0.2, 0.0), (-0.2, 0.0)], ids=["together", "after", "before"]
)
def test_beeps_with_the_picture_and_beside_it(late: float, score: float) -> None:
    own = beeps.beeps([time + late for time in TIMES], COUNT / FPS, 24000)
    assert sync.av_align(jumping(TIMES), FPS, own) == score


def test_events_are_divided_by_all_events() -> None:
    assert sync.align([1.0, 2.0], [1.0, 2.0], 25) == 1.0
    assert sync.align([1.0, 3.0], [1.03, 2.0], 25) == pytest.approx(1 / 3)
    assert sync.align([1.0], [1.04], 25) == 0.0  # a frame is too far
    assert sync.align([], [1.0], 25) == 0.0
    assert sync.align([0.99, 1.0, 1.01], [1.0], 25) == 3.0  # the authors' count: all of one peak
    with pytest.raises(ValueError, match=r"needs an onset of the sound or a peak of motion"):
        sync.align([], [], 25)


def test_silence_has_no_onsets() -> None:
    assert onsets.onset_times(Sound(np.zeros((2, 24000), np.int16), 24000)) == []


# --- evaluations ----------------------------------------------------------------------------------


def written(folder: Path, count: int, late: float = 0.0, seed: int = 0) -> Path:
    """Videos of one picture; in each the beeps have other pitches, and silence after them."""
    folder.mkdir()
    drawn = np.random.default_rng(seed)
    for number in range(count):
        times = [time + late for time in TIMES]
        heard = beeps.beeps(times, 2.8, 24000, drawn.uniform(200, 3000, len(times)).tolist())
        frames = jumping(TIMES).permute(0, 2, 3, 1).numpy()
        record = {"settings": {"prompt": f"beeps {number}"}}
        video.write(folder / f"{number} a-0.mp4", frames, FPS, record, [heard])
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Options]:
    """Generated and real videos, and the weights of small networks."""
    folder = tmp_path_factory.mktemp("sounds")
    weights = folder / "weights"
    weights.mkdir()
    for name, drawn in (
        ("vggish-10086976.pth", upstream.vggish_weights()),
        (
            "Cnn14_16k_mAP=0.438.pth",
            {**upstream.pann_weights(), "logmel_extractor.melW": slaney_filters().numpy()},
        ),
    ):
        torch.save({k: torch.from_numpy(v) for k, v in drawn.items()}, weights / name)
    clap_folder.save(weights / "clap-htsat-unfused")
    made, real = written(folder / "made", 4, 0.2, 1), written(folder / "real", 3)
    video.write(made / "silent.mp4", beeps.flashes(TIMES, COUNT, FPS, 48), FPS, {})
    return made, real, Options(weights=weights)


def test_the_prompt_of_a_clip_is_that_of_its_run(
    sets: tuple[Path, Path, Options], tmp_path: Path
) -> None:
    """Its file has the name of a key, and these have an empty record."""
    options = sets[2]
    assert options.weights is not None
    model = clap.load(Path(options.weights) / "clap-htsat-unfused")
    with Run.open(singing(tmp_path / "run")) as run:
        paths = [clip.video for clip in run.clips("done") if clip.video is not None]
        path = next(path for path in paths if sound.has_sound(path))
        heard = sound.read(path)
        found = next(evaluate_run(run, metrics=["clap_score"], options=options))[1]
    assert heard is not None
    (value,) = found.readings.values["clap_score"].values()
    assert value == pytest.approx(sounds.clap_score(model, heard, "a red star"), abs=1e-6)
    assert value != pytest.approx(sounds.clap_score(model, heard, path.stem), abs=1e-4)


def test_an_evaluation_hears(sets: tuple[Path, Path, Options], tmp_path: Path) -> None:
    made, real, options = sets
    asked = ["fad", "fad:panns", "fad:clap", "av_align", "clap_score"]
    result = evaluate(made, real, asked, options)
    assert not result.not_run
    frames, fps = video.read(made / "0 a-0.mp4")
    heard = sound.read(made / "0 a-0.mp4")
    assert heard is not None
    direct = sync.av_align(frames_of(frames), float(fps), heard)
    assert result.readings.values["av_align"]["0 a-0.mp4"] == direct
    assert -1 <= result["clap_score"].value <= 1
    skipped = {(one.video, one.metric, one.reason) for one in result.skipped}
    silent = {(video, metric) for video, metric, why in skipped if why == "it has no sound"}
    assert silent == {
        ("silent.mp4", name)
        for name in ("features vggish", "features panns", "features clap", "av_align", "clap_score")
    }
    # The distance is that of all windows of a set together.
    for kind, windows in (("vggish", 2), ("panns", 1), ("clap", 3)):
        names = result.readings.names("generated", kind)
        assert len(names) == 4
        assert result.readings.windows("generated", kind, names) == [windows] * 4
        x = result.readings.stack("generated", kind, names)
        y = result.readings.stack("reference", kind, result.readings.names("reference", kind))
        wanted = frechet_distance(Moments.from_features(x), Moments.from_features(y))
        label = parse_metric(f"fad:{kind}").label
        assert result[label].value == pytest.approx(wanted)
        assert any("too few for a covariance" in text for text in result[label].warnings)
    result.save(tmp_path / "all.json")
    assert results.load(tmp_path / "all.json").rows == result.rows


def test_parts_of_a_set_are_merged(sets: tuple[Path, Path, Options]) -> None:
    made, real, options = sets
    whole = evaluate(made, real, ["fad:vggish", "av_align"], options)
    parts = [
        evaluate(
            made, real, ["fad:vggish", "av_align"], Options(weights=options.weights, part=(i, 2))
        )
        for i in (1, 2)
    ]
    joined = results.merge(reversed(parts))
    assert joined["fad:vggish"].value == pytest.approx(whole["fad:vggish"].value, rel=1e-6)
    assert joined["fad:vggish"].videos == 4


def test_clap_is_transformers(tmp_path: Path) -> None:
    """Windows of 10 s every second, and their class's own embeddings, of length 1."""
    clap_folder.save(tmp_path / "clap")
    model = clap.load(tmp_path / "clap")
    samples = torch.from_numpy(upstream.tones(2.5, clap.RATE))
    found = clap.features(model, samples)
    assert found.shape == (3, clap_folder.WIDTH)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    whole = torch.nn.functional.pad(samples[2 * clap.RATE :], (0, int(9.5 * clap.RATE)))
    inputs = model.prepare(whole.numpy(), sampling_rate=clap.RATE, return_tensors="pt")
    inner: Any = model.model
    with torch.no_grad():
        wanted = inner.get_audio_features(input_features=inputs["input_features"].float())
    assert (found[2] - wanted.pooler_output[0]).abs().max() < 1e-3  # rounded to 16 bits before
    score = clap.text_score(model, samples, "a red star")
    assert score == clap.text_score(model, samples, "a red star")
    assert score != clap.text_score(model, samples, "a blue moon")


def test_what_hears_and_what_sees() -> None:
    assert parse_metric("fad", features="judge").label == "fad:vggish"
    assert parse_metric("fad", features="clap").label == "fad:clap"
    assert parse_metric("fvd", features="clap").label == "fvd:i3d"
    with pytest.raises(
        ValueError, match=r"^the features of fad must be vggish or clap or panns, bu"
    ):
        parse_metric("fad:i3d")
    with pytest.raises(
        ValueError, match=r"^the features of fvd must be i3d or .* but got 'vggish'"
    ):
        parse_metric("fvd:vggish")


@pytest.mark.parametrize("module", [vggish, panns, clap])
def test_other_weights_are_refused(module: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"must (hold|be a) .*\. Use "):
        module.load(tmp_path / "other.pth")


def test_a_clap_that_draws_what_it_hears_is_refused(tmp_path: Path) -> None:
    clap_folder.save(tmp_path / "clap", fusion=True)
    with pytest.raises(ValueError, match=r"does not fit \(it is one with fusion"):
        clap.load(tmp_path / "clap")

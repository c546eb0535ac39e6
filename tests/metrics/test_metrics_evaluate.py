"""Videos in, numbers out: `skipguide.metrics.evaluate`."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image

from skipguide.files import packaged
from skipguide.lab import judge as lab_judge
from skipguide.lab import readers
from skipguide.metrics import aggregate, evaluate, inputs, merge, results, weights
from skipguide.metrics import features as feature_files
from skipguide.metrics.catalog import EXTRACTORS, METRICS
from skipguide.metrics.networks import judge
from skipguide.metrics.selection import MetricRequest, Options
from support.measured import clips, spoiled, write
from support.untrained import save_judges

Tensor = torch.Tensor
SETS = ["fvd:judge", "kvd:judge", "coverage:judge", "inception_score:judge", "vendi:judge"]
ALL = [*SETS, "temporal_flickering"]


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    return clips(24, seed=1)


@pytest.fixture(scope="module")
def real() -> dict[str, Tensor]:
    return clips(20, seed=2)


@pytest.fixture(scope="module")
def whole(made: dict[str, Tensor], real: dict[str, Tensor]) -> results.Result:
    return evaluate(made, real, ALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos, and three with which something is wrong."""
    return spoiled(tmp_path_factory.mktemp("videos"), clips(8, seed=1))


def values(result: results.Result) -> dict[str, float]:
    return {row.metric: row.value for row in result.rows}


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_of_the_judge_are_those_of_the_lab(
    whole: results.Result, made: dict[str, Tensor], real: dict[str, Tensor]
) -> None:
    """lab/judge.py has its own way to read clips and its own Frechet distance."""
    features = []
    for one in (made, real):
        frames = torch.stack(list(one.values())).transpose(1, 2).float() / 127.5 - 1
        with torch.no_grad():
            features.append(lab_judge.load_judge()(frames)[1])
    assert whole["fvd:judge"].value == pytest.approx(lab_judge.frechet(*features), rel=1e-5)
    assert (whole["fvd:judge"].videos, whole["fvd:judge"].reference) == (24, 20)


def test_every_number_has_an_interval_around_it(whole: results.Result) -> None:
    assert [row.metric for row in whole.rows] == ALL
    for row in whole.rows:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
        low, high = METRICS[row.metric.partition(":")[0]].range
        assert low is None or row.low >= low
        assert high is None or row.high <= high


def test_small_sets_are_warned_of(whole: results.Result) -> None:
    warnings = " ".join(whole["fvd:judge"].warnings)
    assert "24 generated videos are few: below 256" in warnings
    assert (
        "20 reference videos are too few for a covariance of 128 features with full rank"
        in warnings
    )
    assert not whole["temporal_flickering"].warnings


@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_numbers_depend_neither_on_order_nor_on_batches(
    whole: results.Result, made: dict[str, Tensor], real: dict[str, Tensor], batch_size: int
) -> None:
    turned = dict(reversed(made.items()))
    again = evaluate(turned, real, ALL, Options(batch_size=batch_size))
    assert values(again) == pytest.approx(values(whole), rel=1e-4)


def test_a_frozen_video_does_not_flicker(made: dict[str, Tensor]) -> None:
    frozen = evaluate({"a": made["000"][:1].expand(5, -1, -1, -1)}, metrics=["temporal_flickering"])
    assert frozen["temporal_flickering"].value == 1
    blinking = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    blinking[1::2] = 51
    assert evaluate({"a": blinking}, metrics=["temporal_flickering"])[
        "temporal_flickering"
    ].value == pytest.approx(0.8)


def test_a_set_against_itself(made: dict[str, Tensor]) -> None:
    result = evaluate(made, made, ["fvd:judge", "coverage:judge", "kvd:judge"])
    assert result["fvd:judge"].value == pytest.approx(0, abs=1e-6)
    coverage = result["coverage:judge"]
    assert (coverage.value, coverage.low) == (
        1,
        pytest.approx(0.025 ** (1 / 24), rel=1e-6),
    )  # of 24 that all are, Clopper and Pearson's


def test_probabilities_of_the_judge_are_of_three_words_at_once(made: dict[str, Tensor]) -> None:
    model = judge.load(weights.find_weights("judge", None))
    p = judge.probabilities(model, torch.stack(list(made.values())))
    assert p.shape == (24, EXTRACTORS["judge"].classes)
    assert torch.allclose(p.sum(1), torch.ones(24, dtype=torch.float64))
    best = p[0].argmax()
    read = readers.CLOSED.read(made["000"].permute(0, 2, 3, 1).numpy())
    words = [list(lab_judge.HEADS[name]) for name in lab_judge.HEADS]
    shape, rest = divmod(int(best), len(words[1]) * len(words[2]))
    colour, motion = divmod(rest, len(words[2]))
    assert read == {
        "shape": words[0][shape],
        "colour": words[1][colour],
        "motion": words[2][motion],
    }


@pytest.mark.parametrize("prompts", [8, 19, 20])
def test_videos_of_one_prompt_are_left_out_together(prompts: int) -> None:
    """Prompts with three videos each that are alike: as uncertain as one video of each."""
    once = {f"prompt {i}": i / prompts for i in range(prompts)}
    thrice = {f"{name}-{i}": value for name, value in once.items() for i in range(3)}
    one, grouped, loose = (
        _scored(rows)
        for rows in (
            once,
            thrice,
            {name.replace("-", "x"): value for name, value in thrice.items()},
        )
    )
    assert (one.low, one.high) == pytest.approx((grouped.low, grouped.high), rel=1e-9)
    assert (loose.low or 0) > (grouped.low or 1)
    assert not grouped.warnings


def _scored(rows: dict[str, float], metric: str = "temporal_flickering") -> aggregate.ResultRow:
    (row,), _, _ = aggregate.score(
        feature_files.Readings(values={metric: rows}), [MetricRequest(metric)]
    )
    return row


def test_few_prompts_with_several_videos_have_no_interval() -> None:
    """Four of them cannot tell how much prompts differ, and the videos of one do not say it
    either."""
    row = _scored({f"prompt {i}-{j}": float(i) for i in range(4) for j in range(3)})
    assert (row.low, row.high) == (None, None)
    assert row.warnings[0].endswith("needs 5 different prompts or more, but there are 4")
    assert "the 12 generated videos are of 4 prompts" in row.warnings[1]
    assert row.warnings[1].endswith("rename the videos")
    assert len(_scored({f"prompt {i}": float(i) for i in range(4)}).warnings) == 1
    assert not _scored({f"prompt {i}": float(i) for i in range(5)}).warnings


def test_nobody_is_told_to_rename_the_clips_of_a_run() -> None:
    """They are measured under names that the run makes, of prompts that may have many lines."""
    names = [inputs.run_name(i, "a\nred star", seed) for i in range(4) for seed in range(3)]
    row = _scored({name: float(i) for i, name in enumerate(names)})
    assert row.warnings[1].endswith("videos are of 4 prompts, and videos of one prompt are similar")


def test_few_prompts_of_a_set_have_no_interval() -> None:
    """Of either set."""
    vectors = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    singles, grouped = [f"{i}" for i in range(16)], [f"{'ab'[i % 2]}-{i}" for i in range(16)]
    for generated, reference, side in (
        (grouped, singles, "generated"),
        (singles, grouped, "reference"),
    ):
        read = feature_files.Readings()
        read.add_vectors("generated", "judge", generated, vectors)
        read.add_vectors("reference", "judge", reference, vectors + 1)
        (row,), _, _ = aggregate.score(read, [MetricRequest("kvd", "judge")])
        assert row.low is None
        assert f"the 16 {side} videos are of 2 prompts" in row.warnings[-1]
        assert row.warnings[-2].startswith(
            "no interval: the interval of a measure of a set needs 8"
        )


def test_numbered_videos_of_one_name_are_each_by_itself() -> None:
    numbered = _scored({f"video-{i:04}": float(i % 3) for i in range(16)})
    named = _scored({f"{i}": float(i % 3) for i in range(16)})
    assert (numbered.low, numbered.high) == (named.low, named.high)
    assert not numbered.warnings


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.6306, 1.0), (0.0, 0.0, 0.3694)])
def test_eight_videos_that_all_move_are_not_certain(value: float, low: float, high: float) -> None:
    row = _scored({f"{i}": value for i in range(8)}, "dynamic_degree")
    assert (row.value, row.low, row.high) == (
        value,
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
    several = _scored({f"{i}-{j}": value for i in range(8) for j in range(5)}, "dynamic_degree")
    assert (several.low, several.high) == (row.low, row.high)  # of the prompts
    alike = _scored({f"{i}": value for i in range(8)})  # a mean of 1 that is no share
    assert alike.low is None
    assert "all 8 values are" in alike.warnings[0]


def test_the_open_judge_measures_by_the_same_metrics(
    made: dict[str, Tensor], real: dict[str, Tensor], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An untrained one: features are its own, and so are the classes, of more shapes."""
    monkeypatch.setattr(packaged, "WEIGHTS", save_judges(tmp_path))
    asked = ["fvd:open-judge", "kvd:open-judge", "vendi:open-judge", "inception_score:open-judge"]
    result = evaluate(made, real, asked)
    model = readers.load_weights(tmp_path / "open-judge" / "judge.safetensors")
    features, logits = [], {}
    for one in (real, made):
        frames = torch.stack(list(one.values())).transpose(1, 2).float() / 127.5 - 1
        with torch.no_grad():
            logits, own, _ = model(frames)
        features.append(own)
    assert result["fvd:open-judge"].value == pytest.approx(lab_judge.frechet(*features), rel=1e-4)
    chances = [logits[name].double().softmax(1) for name in ("shape", "colour", "motion")]
    joint = torch.einsum("bi,bj,bk->bijk", *chances).flatten(1)
    assert joint.shape == (24, EXTRACTORS["open-judge"].classes)
    divergence = (joint * (joint / joint.mean(0)).log()).sum(1).mean()
    score = result["inception_score:open-judge"].value
    assert math.log(score) == pytest.approx(float(divergence), rel=1e-2)
    assert [*result.weights] == ["open-judge"]


def test_the_judge_takes_the_nearest_of_fewer_frames(made: dict[str, Tensor]) -> None:
    """Frames between two others, mixed of both, would show two objects."""
    model, clip = judge.load(weights.find_weights("judge", None)), made["000"][:14]
    nearest = clip[[i * 14 // 19 for i in range(19)]]
    features = judge.features(model, clip[None]), judge.features(model, nearest[None])
    assert torch.allclose(*features, rtol=1e-5, atol=1e-5)


def test_sets_of_other_sizes_are_warned_of(made: dict[str, Tensor]) -> None:
    real = {name: clip[..., :48] if name < "010" else clip[..., :40] for name, clip in made.items()}
    warnings = evaluate(made, real, ["kvd:judge"])["kvd:judge"].warnings
    assert "the reference has videos of 2 sizes, all resized by the extractor" in warnings
    assert (
        "the generated videos are 64 x 64, the reference 40 x 64, both resized by the extractor"
        in warnings
    )


@pytest.mark.parametrize(
    ("real", "warned"), [(24.0, True), (12.0, False), (11.988, False), (None, False)]
)
def test_sets_of_other_rates_are_warned_of(real: float | None, warned: bool) -> None:
    vectors = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    read, names = feature_files.Readings(), [f"{i}" for i in range(8)]
    for side, rate in (("generated", 12.0), ("reference", real)):
        read.add_vectors(side, "judge", names, vectors)
        read.rates[side] = dict.fromkeys(names, rate)
    rows, _, _ = aggregate.score(
        read, [MetricRequest("kvd", "judge"), MetricRequest("vendi", "judge")]
    )
    warnings = [" ".join(row.warnings) for row in rows]
    found = "the generated videos have 12 frames a second, the reference 24" in warnings[0]
    assert found == ("frames a second" in warnings[0]) == warned
    assert "frames a second" not in warnings[1]  # compares with nothing


def test_rates_are_kept_and_missed_where_they_are_needed(
    tmp_path: Path, made: dict[str, Tensor]
) -> None:
    known, unknown = (
        evaluate({name: made["000"][:3]}, metrics=["temporal_flickering"], options=Options(fps=fps))
        for name, fps in (("a", 16.0), ("b", None))
    )
    known.save(tmp_path / "a.json")
    merged = merge([results.load(tmp_path / "a.json"), unknown])
    assert merged.readings.rates == {"generated": {"a": 16.0, "b": None}}
    read = feature_files.Readings(
        values={"dynamic_degree": {"a": 1.0, "b": 1.0}}, rates=merged.readings.rates
    )
    (row,), _, _ = aggregate.score(read, [MetricRequest("dynamic_degree")])
    assert "the frame rate of 1 videos is unknown" in row.warnings[0]
    (few,) = merged["temporal_flickering"].warnings  # has no need of it
    assert few.startswith("no interval")


# --- parts ----------------------------------------------------------------------------------------


def test_merged_parts_are_the_whole(
    tmp_path: Path, whole: results.Result, made: dict[str, Tensor], real: dict[str, Tensor]
) -> None:
    """Three workers, each of which reads its part of both sets and writes it down."""
    paths = [tmp_path / f"{i}.json" for i in (1, 2, 3)]
    for i, path in enumerate(paths):
        evaluate(made, real, ALL, Options(part=(i + 1, 3))).save(path)
    merged = merge(results.load(path) for path in reversed(paths))
    assert values(merged) == pytest.approx(values(whole), rel=1e-5)
    assert [(row.low, row.videos, row.warnings) for row in merged.rows] == [
        (pytest.approx(row.low, rel=1e-3, abs=1e-6), row.videos, row.warnings) for row in whole.rows
    ]


def test_a_saved_result_comes_back(tmp_path: Path, whole: results.Result) -> None:
    whole.save(tmp_path / "a.json")
    assert results.load(tmp_path / "a.json").payload() == whole.payload()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_two_videos_of_one_name_are_not_merged(made: dict[str, Tensor]) -> None:
    parts = [
        evaluate({"a": made[name]}, metrics=["temporal_flickering"]) for name in ("000", "001")
    ]
    with pytest.raises(
        ValueError,
        match=r"a video in several parts must .*, but a \(temporal_flickering\) does not",
    ):
        merge(parts)
    assert merge([parts[0], parts[0]])["temporal_flickering"].videos == 1


def test_parts_of_other_metrics_are_not_merged(made: dict[str, Tensor]) -> None:
    parts = [
        evaluate(made, metrics=[name], options=Options(part=(1, 9)))
        for name in ("temporal_flickering", "vendi:judge")
    ]
    with pytest.raises(
        ValueError,
        match=r"must have the same metrics and weights, but got temporal_flickering and vendi",
    ):
        merge(parts)


# --- what is wrong with videos --------------------------------------------------------------------


def test_videos_that_cannot_be_measured_are_named(folder: Path, real: dict[str, Tensor]) -> None:
    result = evaluate(folder, real, ALL, Options(batch_size=3))
    assert result["fvd:judge"].videos == 8
    assert result["temporal_flickering"].videos == 9  # with the small one
    reasons = {(one.video, one.metric): one.reason for one in result.skipped}
    assert "cannot be read as one" in reasons["broken.mp4", "all"]
    assert (
        reasons["one.mp4", "temporal_flickering"]
        == "at least 2 frames are needed, but it has 1 frame"
    )
    assert (
        reasons["one.mp4", "features judge"] == "at least 2 frames are needed, but it has 1 frame"
    )
    assert reasons["small.mp4", "set metrics"] == "it is 64 x 48, but most are 64 x 64"
    assert len(reasons) == 4


def test_frame_folders(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """Frames in the order of their numbers, without a rate unless one is given; previews beside
    videos are none."""
    frames = made["000"].permute(0, 2, 3, 1).numpy()
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i, frame in enumerate(frames[:12]):
        Image.fromarray(frame).save(tmp_path / "set" / "a" / f"frame_{i}.png")
    write(tmp_path / "set" / "b.mp4", made["001"])
    Image.fromarray(frames[0]).save(tmp_path / "set" / "b.png")
    previews, source, beside = inputs.find_videos(tmp_path / "set")
    assert (source.name, beside.name) == ("a", "b.mp4")
    assert (previews.name, previews.problem[:44]) == (
        "* (images)",
        "1 image beside videos are taken for previews",
    )
    assert torch.equal(source.read().stack(), made["000"][:12])
    assert source.read().fps is None
    assert inputs.find_videos(tmp_path / "set", fps=8)[1].read().fps == 8
    Image.fromarray(frames[0, :32]).save(tmp_path / "set" / "a" / "frame_99.png")
    (source,) = inputs.find_videos(tmp_path / "set" / "a")
    assert source.name == "a"
    _, skipped = evaluate(tmp_path / "set", metrics=["temporal_flickering"]).skipped
    assert re.search(r"frames must have one size, but .*a has 64 x 64 and 32 x 64", skipped.reason)


def test_every_video_of_a_folder_is_read_or_listed(tmp_path: Path, made: dict[str, Tensor]) -> None:
    """Other kinds of files than mp4, and folders of frames in one another, whose names must
    differ."""
    folder = tmp_path / "x"
    (folder / "x").mkdir(parents=True)
    for parent, i in itertools.product((folder, folder / "x"), (1, 2)):
        Image.fromarray(made["000"][i].permute(1, 2, 0).numpy()).save(parent / f"{i}.png")
    (folder / "more").mkdir()
    with av.open(str(folder / "more" / "b.MPEG"), "w", format="mpeg") as container:
        stream = container.add_stream("mpeg1video", rate=25, width=64, height=64, pix_fmt="yuv420p")
        for frame in made["000"][:4]:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy().copy(), "rgb24")
                )
            )
        container.mux(stream.encode())
    (folder / "more" / "c.y4m").write_text("YUV4MPEG2")
    result = evaluate(folder, metrics=["temporal_flickering"])
    assert set(result.readings.sizes["generated"]) == {".", "x", "more/b.MPEG"}
    assert result["temporal_flickering"].videos == 3
    (skipped,) = result.skipped
    assert (skipped.video, skipped.metric) == ("more/c.y4m", "all")
    assert "but it is a .y4m. Convert it" in skipped.reason


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ("none", r"videos must be a folder, but none is not one\. Check"),
        (
            {"a": torch.zeros(4, 3, 8, 8)},
            r"must be \(F, 3, H, W\) uint8 .* but a is \(4, 3, 8, 8\) torch.float32",
        ),
        ({"a": torch.zeros(4, 8, 8, 3, dtype=torch.uint8)}, r"but a is \(4, 8, 8, 3\) torch.uint8"),
    ],
)
def test_what_is_no_set_of_videos(videos: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(videos, metrics=["temporal_flickering"])


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must hold \.mp4, .* files or folders of images, but .* has none"
    ):
        evaluate(tmp_path, metrics=["temporal_flickering"])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["fed"], r"a metric must be one of fvd, .* but got 'fed'"),
        (
            ["fvd:c3d"],
            r"the features of fvd must be i3d or videomae or vjepa2 or judge or open-judge, but got"
            r" 'c3d'",
        ),
        (
            ["inception_score:i3d"],
            r"the features of inception_score must be c3d or judge or open-judge, but got 'i3d'",
        ),
        (
            ["temporal_flickering:judge"],
            r"cannot name an extractor, but got 'temporal_flickering:judge'",
        ),
        (
            ["fvd:judge"],
            r"fvd:judge needs reference videos, but got none\. Pass them with --reference",
        ),
        (["vendi"], r"i3d needs i3d_pretrained_400\.pt, but no folder .* Get it from https"),
        (
            ["imaging_quality"],
            (
                r"is licensed under CC BY-NC-SA 4\.0 \(.*Apache-2\.0\), so its use .* was not\."
                r" Pass"
                r" --non"
            ),
        ),
        (
            ["motion_smoothness"],
            r"amt-s\.pth is licensed under CC BY-NC 4\.0, so .* must be requested, but it was not",
        ),
    ],
)
def test_metrics_that_cannot_be_run_are_refused_before_a_video_is_read(
    metrics: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate("no such folder", metrics=metrics)


def test_without_names_all_is_run_that_can_be(tmp_path: Path, made: dict[str, Tensor]) -> None:
    result = evaluate(dict(list(made.items())[:4]), options=Options(features="judge"))
    assert {row.metric for row in result.rows} >= {
        "temporal_flickering",
        "vendi:judge",
        "inception_score:judge",
    }
    missing = {one.metric: one.reason for one in result.not_run}
    assert "needs reference videos" in missing["fvd:judge"]
    assert "--non-commercial" in missing["motion_smoothness"]
    usual = [row for row in METRICS.values() if not row.on_request and "video" in row.of]
    assert len(result.rows) + len(missing) == len(usual)
    result.save(tmp_path / "a.json")
    assert merge([results.load(tmp_path / "a.json")]).not_run == result.not_run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size must be at least 1, but got 0"),
        (dict(features="vgg"), "features must be one of i3d, .* but got 'vgg'"),
        (dict(fps=-1.0), "fps must be positive, but got -1"),
        (dict(part=(3, 2)), r"part must be \(i, n\) with 1 <= i <= n, but got \(3, 2\)"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)

"""The paper in miniature: rows and their order, runs that are stopped and go on, what is measured,
the report."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.cli.paper import _report_command
from skipguide.families.blocks import layer_sites
from skipguide.families.rows import FAMILIES
from skipguide.files import packaged
from skipguide.lab import judge, mochi, opensora, score_text, svd, training_loop, world
from skipguide.paper import (
    analysis,
    conclusions,
    cost,
    directions,
    experiments,
    figure2,
    measurements,
    models,
    plots,
    records,
    report,
    run,
    tables,
)
from skipguide.paper.analysis import Results
from skipguide.paper.rows import Row

Tensor = torch.Tensor
CFG, STG_ROW = experiments.experiments("lab-mochi")[2].rows[:2]


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Chunks of four clips, and a reference of two of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CHUNK", 4)
        patch.setattr(models, "NUM_REAL", 8)
        yield


def order(folder: Path, **more: Any) -> run.Order:
    options: dict[str, Any] = dict(
        models=("lab-mochi",), clips=8, rows="cfg-4.5*x1", batch=4, steps=2, dtype="float32"
    )
    return run.Order(folder, **{**options, **more})


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


# --- rows and their order -------------------------------------------------------------------------


@pytest.mark.parametrize("model", models.MODELS)
def test_names_tell_rows_apart(model: str) -> None:
    rows = [row for experiment in experiments.experiments(model) for row in experiment.rows]
    by_name = {row.name: row for row in rows}
    assert all(by_name[row.name] == row for row in rows)
    assert len({json.dumps(row.settings()) for row in rows}) == len(by_name)
    assert len({row.label for row in by_name.values()}) == len(by_name)


def test_layers_are_those_of_the_models() -> None:
    from diffusers.models.unets.unet_spatio_temporal_condition import (
        UNetSpatioTemporalConditionModel,
    )

    family = next(family for family in FAMILIES if family.name == "svd")
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**svd.UNET)
    assert set(experiments.STUDIES["lab-svd"].layers) == {
        place.address for place in layer_sites(family, unet)
    }
    assert len(experiments.STUDIES["lab-mochi"].layers) == mochi.TRANSFORMER["num_layers"]
    assert len(experiments.STUDIES["lab-opensora"].layers) == opensora.TRANSFORMER["num_layers"]


def test_all_rows_get_their_first_clips_before_any_gets_more() -> None:
    found = run.tasks(run.Order(Path("nowhere"), ("lab-mochi",), clips=512))
    guided = [task for task in found if task.row.source != "reference"]
    rounds = [
        max(0, math.ceil(math.log2((task.numbers[-1] + 1) / run.FIRST_LEVEL))) for task in guided
    ]
    assert rounds == sorted(rounds)
    assert {task.row.name for task in guided if task.numbers[0] < run.FIRST_LEVEL} == {
        task.row.name for task in guided
    }


def test_every_clip_is_made_once_and_a_map_stops_at_its_limit() -> None:
    found = run.tasks(run.Order(Path("nowhere"), ("lab-mochi",), clips=512))
    made = [(task.row.name, chunk) for task in found for chunk in task.chunks]
    assert len(made) == len(set(made))
    wanted = {
        one.row.name: one.clips_requested(512) for one in experiments.requested_rows("lab-mochi")
    }
    assert {name: models.CHUNK * sum(row == name for row, _ in made) for name in wanted} == wanted
    assert set(wanted.values()) == {256, 512, models.NUM_REAL}


def test_rows_bring_the_real_clips_that_they_are_measured_against() -> None:
    rows = [one.row for one in experiments.requested_rows("lab-mochi", "tables-1-2")]
    assert rows == [Row(source="reference"), CFG, STG_ROW]
    assert experiments.requested_rows("lab-mochi", "figure-2") == []


def test_parts_divide_the_work() -> None:
    whole = run.tasks(run.Order(Path("nowhere"), ("lab-mochi",), clips=64))
    parts = [
        run.tasks(run.Order(Path("nowhere"), ("lab-mochi",), clips=64, part=(i, 3)))
        for i in range(3)
    ]
    assert sorted(map(repr, whole)) == sorted(repr(task) for part in parts for task in part)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clips", "33"], "clips must be a multiple of 32 up to 2048, but got 33. Use 64."),
        (
            ["--clips", "4096"],
            "clips must be a multiple of 32 up to 2048, but got 4096. Use 2048.",
        ),
        (["--part", "2/2"], "part must be i/n with 0 <= i < n, but got 2/2."),
        (["--dtype", "float8"], "dtype must be one of bfloat16, float32, but got 'float8'."),
        (["--part", "half"], "--part must be i/n, but got 'half'."),
        (
            ["--model", "lab-wan"],
            "a model must be one of lab-mochi, lab-svd, lab-opensora, but got 'lab-wan'.",
        ),
        (
            ["--rows", "table-9"],
            "a pattern that matches some row or experiment, but 'table-9' matches none.",
        ),
        (["--weights", "folder"], "--weights must be MODEL=FOLDER, but got 'folder'."),
        (
            ["--weights", "lab-wan=folder"],
            "weights must be for lab-mochi, lab-svd, lab-opensora, but got some for lab-wan.",
        ),
    ],
)
def test_what_cannot_be_run_is_said_at_once(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, ["paper", "run", "--device", "cpu", "--folder", str(tmp_path / "runs"), *arguments]
    )
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "runs").exists()


def test_status_lists_rows_of_models_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "NAMES", ("lab-mochi",))
    result = CliRunner().invoke(
        app, ["paper", "status", "--folder", str(tmp_path), "--rows", "table-3", "--json"]
    )
    found = json.loads(result.stdout)["models"]
    assert set(found) == set(models.MODELS)
    assert found["lab-opensora"]["folder"] is None
    assert [row["done"] for row in found["lab-opensora"]["rows"]] == [0, 0, 0, 0]
    text = (
        CliRunner()
        .invoke(app, ["paper", "status", "--folder", str(tmp_path), "--model", "lab-opensora"])
        .stdout
    )
    assert "lab-opensora: model not there yet" in text


# --- clips ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of eight clips, without a stop."""
    folder = tmp_path_factory.mktemp("paper") / "whole"
    for rows in ("tables-1-2", "reference", "real"):
        list(run.run(order(folder, rows=rows)))
    return folder


def results(folder: Path) -> Results:
    place = order(folder).locate_records("lab-mochi")
    assert place is not None
    return Results.load("lab-mochi", place[0], 8)


def test_a_run_that_is_stopped_goes_on(made: Path, tmp_path: Path) -> None:
    stopped = run.run(order(tmp_path))
    what, progress = next(stopped)
    assert (what, progress.step, progress.steps) == ("clips", 1, 4)  # of the real clips
    assert next(stopped)[1].step == 2
    assert next(stopped)[1].step == 3
    stopped.close()
    first = [name for name in names_of(tmp_path) if "reference" not in name]
    assert len(first) == 1
    (tmp_path / first[0]).with_name(".0001.safetensors.part").write_bytes(b"half of it")
    before = (tmp_path / first[0]).stat().st_mtime_ns
    assert [progress.step for _, progress in run.run(order(tmp_path))] == [4]
    assert (tmp_path / first[0]).stat().st_mtime_ns == before
    assert list(run.run(order(tmp_path))) == []
    a, b = (results(folder).clips_of(STG_ROW) for folder in (made, tmp_path))
    assert a is not None
    assert b is not None
    assert torch.equal(a.features, b.features)
    assert torch.equal(a.values, b.values)


def test_clips_are_what_the_pipeline_makes_of_the_prompts_and_their_own_noise(made: Path) -> None:
    """Clip 5 alone, by the pipeline itself, without guide() and in a batch of one."""
    generator = models.ClipGenerator(
        "lab-mochi", packaged.packaged_path("lab-mochi"), "cpu", 2, "float32"
    )
    frames = generator.pipe(
        models.pool("lab-mochi").captions[5], height=64, width=64, num_frames=19,
        num_inference_steps=2, guidance_scale=4.5, max_sequence_length=32, output_type="pt",
        generator=torch.Generator().manual_seed(models.SEED + 5),
    ).frames.transpose(1, 2)  # fmt: skip
    reading = score_text.read_clips(judge.load_judge(), frames * 2 - 1)
    words, features = reading.words, reading.features
    recorded = results(made).clips_of(CFG)
    assert recorded is not None
    torch.testing.assert_close(recorded.features[5], features[0], rtol=1e-2, atol=1e-2)
    right = analysis.words_read_right(recorded, "lab-mochi")
    scenes = models.pool("lab-mochi").scenes
    assert {name: bool(right[name][5]) for name in words} == {
        name: bool(words[name][0] == getattr(scenes, name)[5]) for name in words
    }


def test_a_rescale_without_terms_is_refused() -> None:
    """guide() would leave it out, and the row would be plain CFG under another name."""
    with pytest.raises(ValueError, match=r"rescale needs a term, but got 0\.7 without one"):
        Row(4.5, rescale=0.7)


@pytest.mark.long
def test_cost_is_measured_side_by_side(made: Path, tmp_path: Path) -> None:
    place = records.RecordFolder(tmp_path)
    generator = models.ClipGenerator(
        "lab-mochi", packaged.packaged_path("lab-mochi"), "cpu", 2, "float32"
    )
    rows = experiments.cost_rows("lab-mochi")
    measuring = cost.measure(place, generator, rows, rounds=2)
    next(measuring)
    assert cost.load(place) is None
    list(measuring)
    found = cost.load(place)
    assert found is not None
    assert [found[row.name].passes for row in rows] == pytest.approx([2, 2.5, 2 + 11 / 12])
    assert all(len(one.seconds) == 2 for one in found.values())
    lines = tables.costs_table(cost.compare_costs(found, rows) or [], rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [row.label for row in rows]
    assert cost.compare_costs({name: found[name] for name in list(found)[1:]}, rows) is None
    one, two = cost.RowTiming(2, (1.0, 3.0, 2.0)), cost.RowTiming(2, (2.0, 3.0, 5.0))
    assert (one.median, two.ratio_to(one)) == (2.0, (2.0, 1.0, 2.5))


def test_rows_differ_and_say_what_they_cost(made: Path) -> None:
    found = results(made)
    plain, guided = found.clips_of(CFG), found.clips_of(STG_ROW)
    assert plain is not None
    assert guided is not None
    assert (plain.features - guided.features).abs().max() > 0.01
    assert found.passes(CFG) == 2
    assert found.passes(STG_ROW) == pytest.approx(2 + 6 / 12)
    assert (found.seconds(CFG) or 0) > 0


def test_records_of_other_settings_are_refused(made: Path, tmp_path: Path) -> None:
    place = records.RecordFolder(tmp_path)
    reading_ = measurements.Reading(torch.zeros(4, 128), torch.zeros(4, 22), torch.zeros(4, 3))
    records.save_chunk(place, CFG, 0, reading_, records.Cost(1, 1, 2), {"device": "cpu"})
    other = place.chunk_path(STG_ROW, 0)
    other.parent.mkdir()
    other.write_bytes(place.chunk_path(CFG, 0).read_bytes())
    assert records.load_clips(place, CFG, 8) is not None
    with pytest.raises(ValueError, match="the records of a row must have its settings"):
        records.load_clips(place, STG_ROW, 8)


def test_clips_of_one_motion_bucket_are_made_together() -> None:
    pool = models.pool("lab-svd")
    found = list(models.group_by_bucket(pool, range(64)))
    assert sorted(n for together, _ in found for n in together) == list(range(64))
    for together, bucket in found:
        own = svd.motion_bucket(pool.subset(together).motion_amounts(svd.FRAMES), torch.tensor(7.0))
        assert own.min() <= bucket + 0.5
        assert own.max() >= bucket - 0.5
    chunks = [{n // models.CHUNK for n in together} for together, _ in found]
    assert all(
        len(chunk) == 1 for chunk in chunks
    )  # so that a chunk alone is what it is among others


# --- what is measured -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving() -> tuple[world.Scenes, Tensor, Tensor]:
    """Scenes, real clips that cover parts of their paths, and how much moves in them."""
    scenes, spans = world.sample_scenes(48, 77, "all", second_share=0.0), world.draw_spans(48, 3)
    amount = world.amount_of_motion(world.masks(scenes, 19, spans))
    return scenes, world.render(scenes, 19, span=spans), amount


def test_motion_is_measured_without_knowing_the_backdrop(
    moving: tuple[world.Scenes, Tensor, Tensor],
) -> None:
    scenes, frames, amount = moving
    noisy = (
        frames + 0.05 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(-1, 1)
    for clips in (frames, noisy):
        found = measurements.measure_clips(scenes, clips)[:, 0]
        assert torch.corrcoef(torch.stack([found, amount]))[0, 1] > 0.97
        assert (found / amount).median() == pytest.approx(1, abs=0.05)


def test_flicker_and_sharpness(moving: tuple[world.Scenes, Tensor, Tensor]) -> None:
    scenes, frames, _ = moving
    blinking = frames + 0.2 * (torch.arange(19) % 2).view(1, 1, -1, 1, 1)
    blurred = torch.nn.functional.avg_pool3d(frames, (1, 5, 5), stride=1, padding=(0, 2, 2))
    real, blinks, blurs = (
        measurements.measure_clips(scenes, clips) for clips in (frames, blinking, blurred)
    )
    assert real[:, 1].max() < 1e-3
    torch.testing.assert_close(blinks[:, 1], torch.full((48,), 0.1), atol=0.01, rtol=0)
    assert (blurs[:, 2] < 0.75 * real[:, 2]).all()


# --- numbers --------------------------------------------------------------------------------------


def synthetic(features: Tensor, row: Row = CFG, first: int = 0) -> records.Clips:
    count = len(features)
    tensors = (
        torch.arange(first, first + count),
        features,
        torch.zeros(count, 22),
        torch.zeros(count, 3),
    )
    return records.Clips(row, *tensors, {}, ())


def test_sets_are_compared_on_the_same_prompts() -> None:
    """Of equal covariance, so that the distance is that of the means: 128 x 0.25 and 128."""
    features = torch.randn(
        400, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    clips = {
        CFG.name: synthetic(features + 0.5),
        STG_ROW.name: synthetic((features + 1)[:320], STG_ROW),
    }
    found = Results(
        "lab-mochi", records.RecordFolder(Path()), clips, analysis.Moments.from_features(features)
    )
    whole = found.estimate(CFG, "frechet")
    assert whole is not None
    assert whole.value == pytest.approx(32)
    assert whole.count == 400
    difference = found.difference(STG_ROW, CFG, "frechet")
    assert difference is not None
    assert difference.count == 320
    assert difference.sign == 1
    # the part of both distances that comes from having fewer clips than the reference is the same;
    # means of 320 differ
    assert difference.value == pytest.approx(96, rel=0.1)
    assert tables.verdict(difference, analysis.MEASURES["frechet"]) == "worse"
    same = found.difference(CFG, CFG, "frechet")
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert tables.verdict(same, analysis.MEASURES["frechet"]) == "not distinguishable"
    assert len(found.restrict_to([CFG, STG_ROW]).clips[CFG.name]) == 320
    assert found.restrict_to([CFG, STG_ROW], first=128).clips[CFG.name].numbers.tolist() == list(
        range(128, 320)
    )


def test_rows_that_share_no_prompt_are_made_and_cannot_be_compared() -> None:
    clips = {
        CFG.name: synthetic(torch.randn(32, 128)),
        STG_ROW.name: synthetic(torch.randn(32, 128), STG_ROW, 32),
    }
    found = Results("lab-mochi", records.RecordFolder(Path()), clips, None)
    table = next(one for one in experiments.experiments("lab-mochi") if one.name == "tables-1-2")
    assert tables.table(found, table) == (
        "Made, but there is no prompt of which all that are made have clips: CFG 4.5; CFG 4.5,"
        " STG-R 1 at 5."
    )
    empty = Results("lab-mochi", records.RecordFolder(Path()), {}, None)
    assert tables.table(empty, table) == "Not made yet: CFG 4.5; CFG 4.5, STG-R 1 at 5."


# --- Figure 2 -------------------------------------------------------------------------------------


def test_best_scale_is_where_the_error_is_least() -> None:
    generator = torch.Generator().manual_seed(0)
    c, p, target = (torch.randn(6, 50, generator=generator, dtype=torch.float64) for _ in range(3))
    values = figure2.compare(c, p, target)[None, None]
    one = directions.measure_direction(
        figure2.Alignment((("residual", "0"),), (0.5,), values), 0, 0
    )
    scales = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    errors = torch.stack([(c + s * (c - p) - target).square().sum() for s in scales])
    assert one.scale == pytest.approx(scales[errors.argmin()].item(), abs=1e-3)
    assert one.saved == pytest.approx(
        1 - (errors.min() / (c - target).square().sum()).item(), abs=1e-5
    )
    assert one.cosine.value == pytest.approx(
        torch.cosine_similarity(c - target, c - p).mean().item()
    )
    assert one.length == pytest.approx(((c - p).norm() / (c - target).norm()).item())
    assert one.both == pytest.approx(torch.cosine_similarity(c - target, p - target).mean().item())


def test_directions_of_lab_mochi_against_hooks_on_the_blocks(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weak model by a hook that hands back a block's inputs; conditions from the tokenizer and
    encoder by hand."""
    way = figure2.NoisingScheme(figure2._encode_latents, figure2._noise_mochi, (0.5,))
    clock = mock.Mock(side_effect=AssertionError("a stopwatch chose how it is measured"))
    monkeypatch.setattr(training_loop, "faster_dtype", clock)
    monkeypatch.setitem(figure2.NOISING_SCHEMES, "lab-mochi", way)
    generator = models.ClipGenerator(
        "lab-mochi", packaged.packaged_path("lab-mochi"), "cpu", 4, "float32"
    )
    place = records.RecordFolder(tmp_path)
    list(figure2.measure(place, generator, 4))
    found = figure2.load(place, 4)
    assert found is not None
    assert len(found.directions) == 25
    pipe, prompts = generator.pipe, models.pool("lab-mochi").subset(range(4))
    tokens = pipe.tokenizer(
        prompts.captions, padding="max_length", max_length=32, return_tensors="pt"
    )
    mask = tokens.attention_mask.bool()
    latents = way.encode(pipe, prompts.render_real(19))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(figure2.SEED))
    x = (latents + noise) / 2

    def predicted() -> Tensor:
        embeds = pipe.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        return pipe.transformer(x, embeds, torch.full((4,), 500.0), mask, return_dict=False)[0]

    with torch.no_grad():
        c = predicted()
        hook = pipe.transformer.transformer_blocks[5].register_forward_hook(
            lambda block, args, kwargs, output: (
                kwargs["hidden_states"],
                kwargs["encoder_hidden_states"],
            ),
            with_kwargs=True,
        )
        p = predicted()
        hook.remove()
    error, push = (c - latents + noise).flatten(1), (c - p).flatten(1)
    index = found.directions.index(("residual", "5"))
    measured = found.values[index, 0]
    torch.testing.assert_close(
        measured[:, 0].float(), torch.cosine_similarity(error, push), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(measured[:, 2].float(), push.square().sum(1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(measured[:, 3].float(), error.square().sum(1), atol=1e-2, rtol=1e-3)


# --- the report -----------------------------------------------------------------------------------


def test_every_field_of_the_template_is_known(tmp_path: Path) -> None:
    empty = report.Report(run.Order(tmp_path, clips=64), tmp_path / "paper")
    text = empty.fill(report.read_template(report.PAGE) + report.read_template(report.APPENDIX))
    assert "[[" not in text
    assert tables.NOT_YET in text
    with pytest.raises(
        ValueError,
        match=r"a field of the report must be one that report.py knows, but got \[\[value x\]\]",
    ):
        empty.fill("[[value x]]")
    for wrong in (
        "[[tables table-9]]",
        "[[plots x]]",
        "[[value lab-mochi table-3/9 right]]",
        "[[value lab-wan table-3/0 right]]",
    ):
        with pytest.raises(ValueError, match="a field of the report must be one"):
            empty.fill(wrong)


def test_no_conclusion_is_drawn_from_clips_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "NUM_REAL", 8)
    empty = report.Report(run.Order(tmp_path, clips=64), tmp_path / "paper")
    template = report.read_template(report.PAGE) + report.read_template(report.APPENDIX)
    text = empty.fill(template)
    blocks = conclusions.CONCLUSION.findall(template)
    assert len(blocks) >= 7
    for _, sentences in blocks:
        assert sentences.split("[[")[0] not in text  # up to its first number
    assert text.count("*No conclusion yet") == len(blocks)

    template = "[[concluded elsewhere]]\nThe middle does nothing.\n[[end]]\n"
    assert "fewer: elsewhere of lab-svd.*\n" in empty.fill(template)  # no other model has it
    known = empty.experiments["lab-svd"]["elsewhere"]
    for clips, concluded in ((known.most - 1, False), (known.most, True)):
        features = torch.zeros(clips, 2, dtype=torch.float64)
        rows = {row.name: synthetic(features, row) for row in known.rows}
        real = analysis.Moments.from_features(features)
        place = records.RecordFolder(tmp_path)
        empty.results["lab-svd"] = Results("lab-svd", place, rows, real)
        assert (empty.fill(template) == "The middle does nothing.\n") == concluded
    with pytest.raises(ValueError, match="a conclusion must name experiments, but got 'table-9'"):
        empty.fill(template.replace("elsewhere", "table-9"))


def test_a_line_of_all_models_is_written_for_those_that_have_its_experiment(tmp_path: Path) -> None:
    empty = report.Report(run.Order(tmp_path, clips=64), tmp_path / "paper")
    line = "- [[model *]]: [[value * {}/1 right]] and [[gain * {}/1 {}/0 right]], a * b\n"
    assert empty.fill(line.replace("{}", "table-3")) == "".join(
        f"- {model}: not made yet and not made yet, a * b\n" for model in models.MODELS
    )
    factorized = empty.fill(line.replace("{}", "table-4")).splitlines()
    assert [text.split(":")[0] for text in factorized] == ["- lab-svd", "- lab-opensora"]


def test_rows_of_an_experiment_are_counted_by_what_they_differ(small: None, tmp_path: Path) -> None:
    found = report.Report(run.Order(tmp_path, clips=64), tmp_path / "paper")
    features = torch.randn(400, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base, *rows = found.experiments["lab-mochi"]["map"].rows
    clips = {base.name: synthetic(features + 1, base)}
    for row, shift in zip(rows, (0.5, 2, 3, *[1] * (len(rows) - 3)), strict=True):
        clips[row.name] = synthetic(features + shift, row)
    place = records.RecordFolder(Path())
    found.results["lab-mochi"] = Results(
        "lab-mochi", place, clips, analysis.Moments.from_features(features)
    )
    counts, best = "[[counts lab-mochi map frechet]]", "[[best lab-mochi map frechet]]"
    assert found.fill(counts) == "1 better, 2 worse of 24"
    assert found.fill(best).startswith(f"{rows[0].label}, 4.0 (")
    del clips[rows[-1].name]
    partly = Results("lab-mochi", place, clips, analysis.Moments.from_features(features))
    found.results["lab-mochi"] = partly
    assert found.fill(counts) == "23 of 24 rows made yet"
    assert found.fill(best) == "24 of 25 rows made yet"


def test_no_verdict_on_fewer_clips_than_conclusions_are_drawn_from(made: Path) -> None:
    found = report.Report(order(made), made)
    assert found.fill("[[gain lab-mochi tables-1-2/1 tables-1-2/0 motion_amount]]")[0] in "+-"
    field = "[[verdict lab-mochi tables-1-2/1 tables-1-2/0 motion_amount]]"
    assert found.fill(field) == "no verdict yet"
    assert "None of the models" in found.fill("[[compare table-4/2 table-4/1]]")
    assert "None of the models" in found.fill("[[tables table-4]]")


def test_the_command_that_a_run_ends_with_reports_on_it(made: Path, tmp_path: Path) -> None:
    command = _report_command(order(made)).split()
    assert command[:2] == ["skipguide", "paper"]
    given = [*command[1:], "--docs", str(tmp_path)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "paper-in-miniature.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("- lab-mochi: "))
    assert " clips in " in line
    other = [*given[: given.index("--steps")], *given[given.index("--steps") + 2 :]]
    said = CliRunner().invoke(app, other).output.replace("\n", " ")
    assert "has those of lab-mochi 2-steps-float32" in said
    (tmp_path / "file").touch()
    for option in ("--folder", "--docs"):
        said = CliRunner().invoke(app, [*given, option, str(tmp_path / "file")]).output
        assert f"{option} must be a folder, but" in said.replace("\n", " ")


def test_fields_and_raw_numbers_agree(made: Path, tmp_path: Path) -> None:
    made_report = report.Report(order(made), tmp_path)
    made_report.write_numbers()
    with gzip.open(tmp_path / "lab-mochi-clips.csv.gz", "rt", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = {
            (line["experiment"], line["row"], line["measure"]): line
            for line in csv.DictReader(file)
        }
    for row, place in ((CFG, 0), (STG_ROW, 1)):
        mine = [line for line in lines if line["row"] == row.name]
        assert len(mine) == 8
        share = sum(all(line[word] == "1" for word in judge.HEADS) for line in mine) / 8
        assert float(rows["tables-1-2", row.name, "right"]["value"]) == pytest.approx(share)
        assert made_report.fill(f"[[value lab-mochi tables-1-2/{place} right]]").startswith(
            f"{share:.3f} ("
        )
        motion = sum(float(line["motion_amount"]) for line in mine) / 8
        assert float(rows["tables-1-2", row.name, "motion_amount"]["value"]) == pytest.approx(
            motion, rel=1e-3
        )


def test_figure_4_has_quality_against_distance_and_the_distance_along_each_scale(
    made: Path,
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report`")
    found, known = results(made), {one.name: one for one in experiments.experiments("lab-mochi")}
    figure: Any = plots.plot_scales(found, [known["figure-4-cfg"], known["figure-4-stg-high"]])
    values = [
        [found.estimate(row, name) for row in (CFG, STG_ROW)] for name in ("right", "frechet")
    ]
    right, distance = ([one.value for one in pair if one] for pair in values)
    title = f"{known['figure-4-stg-high'].title} (2 of 6 rows)"
    assert (
        figure.axes[0].containers[-1].get_label()
        == figure.axes[1].containers[-1].get_label()
        == title
    )
    (drawn, *_), (changed, *_) = (axes.containers[-1].lines for axes in figure.axes)
    assert (drawn.get_xdata().tolist(), drawn.get_ydata().tolist()) == (right, distance)
    assert changed.get_xdata().tolist() == [0, 1]
    assert changed.get_ydata().tolist() == pytest.approx([0, distance[1] - distance[0]])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [
        "CFG 4.5",
        "CFG 4.5",
        "STG 1",
    ]  # a line of one point, and the ends of the other
    assert (
        len(figure.axes[1].containers) == 1
    )  # nothing is known of the first point of the other line


def test_report_and_its_figures(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report`")
    written = report.write_report(order(made), tmp_path)
    names = {path.name for path in written}
    assert {
        "paper-in-miniature.md",
        "lab-mochi-scales.png",
        "rows.csv",
        "lab-mochi-clips.csv.gz",
    } <= names
    text = (tmp_path / "paper-in-miniature.md").read_text(encoding="utf-8")
    assert STG_ROW.label in text
    assert all((tmp_path / "paper" / name).is_file() for name in names - {"paper-in-miniature.md"})
    again = report.write_report(order(made), tmp_path / "again")
    pictures = [path for path in written if path.suffix != ".md"]
    assert [path.read_bytes() for path in pictures] == [
        path.read_bytes() for path in again if path.suffix != ".md"
    ]


# --- reports of a part ----------------------------------------------------------------------------


def without(made: Path, folder: Path, *patterns: str) -> Path:
    """A copy of records without those that a pattern fits."""
    shutil.copytree(made, folder)
    for pattern in patterns:
        found = list(folder.glob(f"lab-mochi/*/{pattern}"))
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def filled(folder: Path, text: str | None = None, **more: Any) -> str:
    found = report.Report(order(folder, **more), folder)
    both = report.read_template(report.PAGE) + report.read_template(report.APPENDIX)
    return found.fill(both if text is None else text)


def test_without_real_clips_there_are_no_frechet_distances_and_all_else(
    made: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report`")
    folder = without(made, tmp_path / "records", "reference")
    written = report.write_report(order(folder), tmp_path / "docs")
    assert not [path for path in written if path.name.endswith("-scales.png")]
    text = "".join(path.read_text(encoding="utf-8") for path in written if path.suffix == ".md")
    assert "; no Frechet distances" in text
    assert "No Frechet distances yet: the real clips to compare with are not made." in text
    line = next(line for line in text.splitlines() if line.startswith("- lab-mochi: Frechet"))
    assert line.startswith(
        "- lab-mochi: Frechet not made yet of an excess of not made yet; prompt read right "
    )
    assert "prompt read right not made yet" not in line
    with (tmp_path / "docs" / "paper" / "rows.csv").open(encoding="utf-8") as file:
        values = {(r["row"], r["measure"]): r["value"] for r in csv.DictReader(file)}
    assert values[STG_ROW.name, "frechet"] == ""
    assert float(values[STG_ROW.name, "vendi"]) > 1


def test_distances_to_some_of_the_real_clips_say_so_and_conclude_nothing(
    made: Path, tmp_path: Path
) -> None:
    folder = without(made, tmp_path / "records", "reference/0001.safetensors")
    text = filled(folder)
    assert "Frechet distances to 4 real clips" in text
    assert "Frechet distances to 4 of the 8 real clips" in text
    assert not report.Report(order(folder), folder).conclusions.is_complete(
        "lab-mochi", "tables-1-2"
    )


def test_a_row_that_is_missing_is_named_and_nothing_is_said_of_it(
    made: Path, tmp_path: Path
) -> None:
    text = filled(without(made, tmp_path / "records", STG_ROW.name))
    appendix = text[text.index("# The paper in miniature: all numbers") :]
    table = appendix[appendix.index("## Tables 1 and 2") : appendix.index("## What it costs")]
    assert f"Not made yet: {STG_ROW.label}." in table
    assert "on the same prompts and noise" not in table
    assert table.rstrip().endswith("- lab-mochi: not made yet")  # once, without verdicts
    verdicts = appendix[appendix.index("## What holds") : appendix.index("## Raw numbers")]
    assert not re.search("better|worse|distinguishable", verdicts[verdicts.index("|") :])


def test_rows_of_other_prompts_are_not_called_unmade(made: Path, tmp_path: Path) -> None:
    parts = (f"{CFG.name}/0001.safetensors", f"{STG_ROW.name}/0000.safetensors")
    text = filled(without(made, tmp_path / "records", *parts))
    assert f"all that are made have clips: {CFG.label}; {STG_ROW.label}." in text
    few = filled(made, "[[tables instead]]")
    assert f"no prompt from number 128 on of which all that are made have clips: {CFG.label}" in few


def test_a_report_of_nothing_says_what_there_is(made: Path, tmp_path: Path) -> None:
    folder = without(made, tmp_path / "records", CFG.name, STG_ROW.name, "real")
    with pytest.raises(ValueError, match="of lab-mochi there are none yet, at most the real ones"):
        report.write_report(order(folder), tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_a_damaged_record_is_named(made: Path, tmp_path: Path) -> None:
    folder = without(made, tmp_path / "records", "real")
    (path,) = folder.glob(f"lab-mochi/*/{CFG.name}/0001.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"whole safetensors file, but .*0001\.safetensors is dam"):
        report.write_report(order(folder), tmp_path / "docs")


def test_conclusions_are_those_of_the_packaged_models_as_they_sample(tmp_path: Path) -> None:
    """They were drawn by hand, from clips that other weights, steps or dtypes did not make."""
    template = "[[concluded elsewhere]]\nThe middle does nothing.\n[[end]]\n"
    usual = run.Order(tmp_path, clips=64)
    assert "No conclusion yet" in report.Report(usual, tmp_path).fill(template)
    others: list[dict[str, Any]] = [
        {"steps": 2},
        {"dtype": "float32"},
        {"weights": (("lab-svd", packaged.packaged_path("lab-svd")),)},
    ]
    for more in others:
        text = report.Report(run.Order(tmp_path, clips=64, **more), tmp_path).fill(template * 3)
        assert text.count("No conclusion: those that stand here are about the packaged") == 1
        assert "The middle" not in text
    said = {
        repr(more): report.Report(run.Order(tmp_path, **more), tmp_path).fill("[[sampling]]")
        for more in ({}, *others)
    }
    assert said["{}"].startswith(
        "Models run in bfloat16, as the paper's do, with half of their own"
    )
    assert said[repr(others[0])].startswith(
        "Models run in bfloat16, as the paper's do, with 2 steps"
    )
    assert said[repr(others[1])].startswith("Models run in float32, with half of their own steps")
    assert said[repr(others[2])].endswith("The weights of lab-svd are not those of the package.")


def test_a_part_of_figure_2_concludes_nothing(tmp_path: Path, made: Path) -> None:
    found = report.Report(order(made), made)
    part = figure2.Alignment((("residual", "1"),), (0.5,), torch.ones(1, 1, 4, 5))
    found.directions["lab-mochi"] = directions.measure_directions(part)
    assert not found.conclusions.is_complete("lab-mochi", "figure-2")


def test_flicker_that_is_nothing_everywhere_is_no_share() -> None:
    clips = {CFG.name: synthetic(torch.zeros(32, 4))}
    found = Results("lab-mochi", records.RecordFolder(Path()), clips, None).estimate(CFG, "flicker")
    assert found is not None
    assert (found.value, found.low, found.high) == (0, None, None)

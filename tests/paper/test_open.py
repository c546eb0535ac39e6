"""Open prompts: what is asked, what is measured, and the run, on an untrained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_mochi import AutoencoderKLMochi
from PIL import Image

from skipguide.lab import autoencoder, mochi, open_judge, open_world, text, training_loop
from skipguide.method.terms import STG
from skipguide.metrics.frechet import Moments
from skipguide.paper import analysis, directions, models, records
from skipguide.paper.figure2 import UNCOND
from skipguide.paper.open import clips as making
from skipguide.paper.open import errors, measures, numbers, page, picture, prompts, run, study
from skipguide.paper.open.study import Setting
from skipguide.paper.records import Clips
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate

# fewer and narrower layers than the model has, so that these tests take seconds
SMALL = dict(num_layers=4, num_attention_heads=2)
SMALL_VAE = dict(
    encoder_block_out_channels=(8, 32, 32, 32), decoder_block_out_channels=(8, 32, 32, 32)
)
LAYER = 2  # that is skipped
WEAK = 1  # the step whose weights the folder below has


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained lab-mochi-2, whose earlier state predicts zero."""
    folder = tmp_path_factory.mktemp("open") / "pipeline"
    vae = AutoencoderKLMochi(**{**autoencoder.OPEN_MOCHI_CONFIG, **SMALL_VAE})
    small = dataclasses.replace(mochi.OPEN, transformer={**mochi.OPEN.transformer, **SMALL})
    pipe = mochi.build(vae, small)
    pair = text.TrainingPair(pipe.transformer, pipe.text_encoder)
    schedule = training_loop.Schedule(steps=1, learning_rate=0.0, adam_rate=0.0, snapshots=(WEAK,))

    def loss(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        return torch.stack([p.float().sum() for p in pair.parameters()]).sum(), {}

    list(training_loop.fit(pair, loss, schedule, folder.parent / "transformer.ckpt"))
    torch.manual_seed(1)
    torch.nn.init.normal_(pipe.transformer.proj_out.weight, std=0.05)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> open_judge.OpenJudge:
    torch.manual_seed(0)
    network = open_judge.OpenJudge().eval()
    monkeypatch.setattr(open_judge, "load", lambda: network)
    return network


def test_all_kinds_describe_the_same_scenes_and_ask_for_what_they_name() -> None:
    closed, half, nothing = (prompts.pool(kind) for kind in prompts.KINDS)
    assert torch.equal(closed.truth, nothing.truth)
    assert closed.asked.all()
    assert not nothing.asked.any()
    share = half.asked.double().mean(0)
    assert ((share > 0.45) & (share < 0.55)).all()
    assert 0.08 < (~half.asked.any(1)).double().mean() < 0.13
    words = closed.scenes.words()
    column = prompts.HEADS.index("motion")
    for number in range(50):
        said = open_world.MOTIONS[int(closed.truth[number, column])]
        assert said == words["motion"][number]
        assert words["colour"][number] in closed.captions[number].lower()
        if half.asked[number, prompts.HEADS.index("colour")]:
            assert words["colour"][number] in half.captions[number].lower()


def made_up(kind: str, count: int = 64, wrong: tuple[str, ...] = ()) -> Clips:
    """Clips that the judge reads as their scenes are, but for some heads of the first half."""
    truth = prompts.pool(kind).truth[:count]
    parts = []
    for head, words in open_judge.HEADS.items():
        if head not in prompts.HEADS:
            parts.append(torch.zeros(count, len(words)))
            continue
        right = truth[:, prompts.HEADS.index(head)].clone()
        if head in wrong:
            right[: count // 2] = (right[: count // 2] + 1) % len(words)
        parts.append(torch.nn.functional.one_hot(right, len(words)).float())
    features = torch.randn(count, 128, generator=torch.Generator().manual_seed(0))
    return Clips(
        Row(), torch.arange(count), features, torch.cat(parts, 1), torch.zeros(count, 3), {}, ()
    )


def test_right_counts_what_was_asked_for_and_nothing_else() -> None:
    for kind in ("closed", "half"):
        right = measures.measures(kind)["right"].per_clip
        words = measures.measures(kind)["words"].per_clip
        assert right is not None
        assert words is not None
        assert right(made_up(kind), kind).mean() == 1
        asked = prompts.pool(kind).asked[:64]
        any_asked = asked.any(1)
        column = prompts.HEADS.index("size")
        hit = asked[:, column] & (torch.arange(64) < 32)
        expected = (~hit)[any_asked].double()
        assert torch.equal(right(made_up(kind, wrong=("size",)), kind), expected)
        lost = (hit / asked.sum(1).clamp_min(1))[any_asked].double()
        assert torch.allclose(words(made_up(kind, wrong=("size",)), kind), 1 - lost)
    assert "right" not in measures.measures("open")
    assert "entropy" not in measures.measures("closed")


def test_entropy_is_that_of_the_words_that_are_left_open() -> None:
    found = measures.measures("open")["entropy"].per_set
    assert found is not None
    truth = prompts.pool("open").truth[:64]
    by_hand = 0.0
    for column in range(truth.shape[1]):
        share = torch.bincount(truth[:, column]).double() / 64
        by_hand += float(torch.special.entr(share).sum() / torch.log(torch.tensor(2.0).double()))
    assert found(made_up("open")) == pytest.approx(by_hand / truth.shape[1])
    same = dataclasses.replace(made_up("open"), logits=made_up("open").logits[:1].expand(64, -1))
    assert found(same) == 0


def test_change_of_the_excess_against_a_closed_form() -> None:
    """Frechet distances of equal shapes are those of the means: 9 and 4 squared units, floor 1."""
    plain = made_up("open", 512)

    def moved(by: float) -> Clips:
        shift = torch.zeros(128)
        shift[0] = by
        return dataclasses.replace(plain, features=plain.features + shift)

    reference = Moments.from_features(plain.features)
    found = measures.excess_change(moved(2), moved(3), moved(1), reference)
    assert found.value == pytest.approx((4 - 9) / (9 - 1), rel=1e-3)
    assert found.low is not None
    assert found.low < found.value


def test_values_of_still_and_of_sharp_clips() -> None:
    still = torch.full((1, 3, 19, 64, 64), -1.0)
    still[..., 32:] = 1
    faint = still.clone()
    faint[..., 31] = 0  # a ramp over two pixels
    faint[:, :, 12:] *= -1
    found = making.read(open_judge.load(), torch.cat([still, faint])).values
    motion, sharpness = (found[:, making.VALUES.index(name)] for name in ("motion", "sharpness"))
    assert motion[0] == 0
    assert motion[1] > 0.05
    assert sharpness.tolist() == pytest.approx([1, 0.5], abs=0.01)


def order(weights: Path, folder: Path, *settings: Setting) -> run.Order:
    return run.Order(folder, weights, 8, settings or (Setting("half"),), steps=2, dtype="float32")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few rows, few clips at a time, and few real ones."""

    def named_rows(setting: Setting) -> dict[str, Row]:
        cfg = Row(2.0)
        early = dataclasses.replace(cfg, checkpoint=(WEAK, 1.0))
        strong = dataclasses.replace(cfg, terms=(STG((LAYER,), 1.0),))
        return {"real": analysis.REAL, "none": Row(), "cfg": cfg, "cfg+stg": strong, "auto": early}

    monkeypatch.setattr(study, "named_rows", named_rows)
    monkeypatch.setattr(prompts, "POOL", 16)
    monkeypatch.setattr(models, "CHUNK", 8)
    prompts.pool.cache_clear()
    yield
    prompts.pool.cache_clear()


def test_a_run_resumes_and_its_numbers_fill_the_page(
    weights: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = order(weights, tmp_path / "runs", Setting("half"), Setting("half", WEAK))
    whole = run.tasks(given)
    assert len(whole) == 2 * (2 + 5)  # two chunks of real clips, one of each row
    for progress in run.run(given):
        if progress.step == 4:
            break
    assert len(run.tasks(given)) == len(whole) - 4
    assert "clips are missing" in run.forecast(given)
    assert [p.steps for p in run.run(given)][-1] == len(whole) - 4
    assert run.tasks(given) == []
    assert list(run.run(given)) == []
    numbers.write(numbers.measure(given), tmp_path)
    found = numbers.read(tmp_path)
    row = found.row("half", "cfg+stg")
    assert row["passes"] == pytest.approx(2.25)
    assert {"frechet", "excess", "vendi", "entropy"} <= row["values"].keys()
    clips = records.load_clips(given.place(Setting("half")), analysis.REAL, 8)
    assert clips is not None
    one = directions.Direction(Estimate(-0.5, -0.6, -0.4, 8), 0.3, 0.1, 0.9, 0.2)
    key = ("residual", "1", directions.ALL_LEVELS)
    directions.write_directions({study.MODEL: {key: one}}, errors.path(tmp_path))
    fields = "[[table half]]\n[[progress half]]\n[[errors]]\n[[prompts closed]]"
    monkeypatch.setattr(page, "resources", _Template(fields))
    text = page.fill(tmp_path)
    assert "| residual 1 | 0.200 | **-0.5000 (-0.6000 to -0.4000)**" in text
    assert f"- {prompts.pool('closed').captions[0]}\n" in text
    assert f"CFG 2, STG-R 1 at {LAYER}" in text
    assert "nan" not in text


class _Template:
    """Stands for the package's files."""

    def __init__(self, text: str):
        self.text = text

    def files(self, _: str) -> _Template:
        return self

    def joinpath(self, _: str) -> _Template:
        return self

    def read_text(self, **_: Any) -> str:
        return self.text


def test_autoguidance_by_a_model_that_predicts_zero_is_a_stronger_model(weights: Path) -> None:
    """D = c + s (c - 0) is what a model predicts whose last layer is 1 + s times as large."""
    from skipguide.models import loading

    pipe = loading.load_pipeline(str(weights), "float32", "cpu")
    generator = making.Generator(pipe, weights, "half", steps=2)
    guided = generator.clips(Row(checkpoint=(WEAK, 0.5)), range(2))
    assert generator.passes(Row(checkpoint=(WEAK, 0.5))) == 2
    plain = generator.clips(Row(), range(2))
    with torch.no_grad():
        pipe.transformer.proj_out.weight *= 1.5
        pipe.transformer.proj_out.bias *= 1.5
    torch.testing.assert_close(guided, generator.clips(Row(), range(2)), atol=1e-4, rtol=0)
    assert (guided - plain).abs().max() > 0.03
    with pytest.raises(FileNotFoundError, match="after 77 steps"):
        making.load_earlier(pipe, weights, 77)


def test_the_picture_has_six_columns_and_moves(weights: Path, tmp_path: Path, few: None) -> None:
    from skipguide.models import loading

    pipe = loading.load_pipeline(str(weights), "float32", "cpu")
    made = {kind: making.Generator(pipe, weights, kind, steps=2) for kind in picture.HEADINGS}
    with Image.open(picture.make(made, tmp_path / "open" / "picture.webp")) as image:
        assert image.n_frames == 19  # type: ignore[attr-defined]
        assert image.width > 6 * 128
    assert picture.captions("closed")[0] == prompts.pool("closed").captions[0]


def test_orders_that_cannot_be(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 32 up to 2048, but got 50"):
        run.Order(tmp_path, weights, 50)


def test_rows_of_the_study_are_each_once_and_have_names() -> None:
    for setting in study.SETTINGS:
        rows = study.rows(setting)
        assert len({row.name for row in rows}) == len(rows)
        assert {"real", "none", "cfg", "cfg+stg"} <= study.named_rows(setting).keys()
        assert study.named_rows(setting)["cfg"].guidance_scale in study.CFG_SCALES
    assert models.CHUNK == 32


def test_errors_on_own_trajectories(weights: Path, few: None) -> None:
    """The better model is the same one but for a constant, so that the error is known."""
    from skipguide.models import loading

    pipe = loading.load_pipeline(str(weights), "float32", "cpu")
    same = making.load_earlier(pipe, weights, WEAK)
    same.transformer.load_state_dict(pipe.transformer.state_dict())
    moved = mochi.load_snapshot(weights, WEAK, pipe)
    moved.transformer.load_state_dict(pipe.transformer.state_dict())
    for one in (same, moved):  # what was kept is in float16
        one.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    with torch.no_grad():
        moved.transformer.proj_out.bias += 0.5
    model, better, worse = (making.Generator(p, weights, "half", 4) for p in (pipe, moved, same))
    chunks = list(errors.measure(model, better, worse, 8))
    assert len(chunks) == 1
    found = chunks[0][1]
    product, push, error = (found.column(name) for name in ("product", "push", "error"))
    assert found.directions[-2:] == (errors.EARLIER, UNCOND)
    assert len(found.directions) == 2 * SMALL["num_layers"] + 2
    assert found.values.shape[1:3] == (len(found.levels), 8)
    assert error.allclose(torch.tensor(0.25 * 24 * 4 * 8 * 8).double(), rtol=1e-3)
    assert (push[found.directions.index(errors.EARLIER)] < 1e-6).all()
    assert (push[:-2].sum((1, 2)) > 0).all()
    assert (product.abs() <= (push * error).sqrt() * 1.001).all()

"""lab-opensora: its training on small data, what it sees there against what the pipeline shows it,
scores, package."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from skipguide import STG, guide
from skipguide.files import packaged
from skipguide.lab import autoencoder, judge, model_card, opensora, score_text, text, train, world
from skipguide.opensora import (
    OpenSoraPipeline,
    OpenSoraRFlowScheduler,
    OpenSoraTransformer3DModel,
    prompts,
)
from support.short_training import short_stages

SMALL = dict(num_layers=2, num_attention_heads=2, attention_head_dim=16)
SMALL_VAE = dict(block_out_channels=(8, 8, 16, 16), norm_num_groups=4,
    temporal_block_out_channels=(16, 16, 16),
                 temporal_norm_num_groups=4)  # fmt: skip
CPU = torch.device("cpu")


def short() -> pytest.MonkeyPatch:
    """All stages of two steps, of narrower models, until it is undone."""
    patch = pytest.MonkeyPatch()
    short_stages("opensora", patch)
    patch.setattr(opensora, "TRANSFORMER", {**opensora.TRANSFORMER, **SMALL})
    patch.setattr(autoencoder, "OPENSORA_CONFIG", {**autoencoder.OPENSORA_CONFIG, **SMALL_VAE})
    patch.setattr(opensora, "BATCH_SIZE", 4)
    return patch


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, patch = tmp_path_factory.mktemp("training"), short()
    try:
        seen = [name for name, _ in train.train("opensora", folder, CPU)]
        assert seen == ["autoencoder"] * 2 + ["latents"] + ["transformer"] * 2
        assert list(train.train("opensora", folder, CPU)) == []
    finally:
        patch.undo()
    return folder


def load(folder: Path) -> Any:
    pipe = OpenSoraPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(trained: Path) -> Any:
    return load(trained / "pipeline")


# --- what a training leaves -----------------------------------------------------------------------


def test_it_runs_from_text_and_from_a_picture(trained: Path) -> None:
    """Found by diffusers, with the arguments of a call and with the pipeline's own defaults for the
    rest."""
    found = DiffusionPipeline.from_pretrained(trained / "pipeline")
    pipe: Any = found
    pipe.set_progress_bar_config(disable=True)
    assert type(found) is OpenSoraPipeline
    assert pipe.scheduler.config["base_resolution"] == 64 * 64
    call: dict[str, Any] = dict(
        height=64, width=64, num_frames=17, num_inference_steps=2, output_type="pt"
    )
    assert pipe("a red star", **call).frames.shape == (1, 17, 3, 64, 64)
    image = world.render_first_frame(world.sample_scenes(1, 1))
    made = pipe("a red star", image=image, fps=12, max_sequence_length=32, **call).frames
    assert made.shape == (1, 17, 3, 64, 64)
    assert made.isfinite().all()


def test_latents_have_mean_0_and_deviation_1(trained: Path, pipe: Any) -> None:
    measured = world.render(world.sample_scenes(4, 10**6), opensora.FRAMES)
    with torch.no_grad():
        latents = pipe.encode_video(measured)
    torch.testing.assert_close(
        latents.mean((0, 2, 3, 4)), torch.zeros(12), atol=0.03, rtol=0
    )  # weights in float16
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(12), atol=0.03, rtol=0)
    cached = fit_file(trained)["latents"].float()
    assert cached.mean((0, 2, 3, 4)).abs().max() < 0.5  # 4 other clips
    assert ((cached.std((0, 2, 3, 4)) - 1).abs() < 0.5).all()


def fit_file(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "latents.safetensors")


def test_cached_latents_are_what_the_pipeline_makes_of_clips_and_pictures(
    trained: Path, pipe: Any
) -> None:
    cached = fit_file(trained)
    scenes = opensora.training_scenes(len(cached["latents"]))
    frames = world.render(scenes, opensora.FRAMES)
    for name, given in {"latents": frames, "pictures": frames[:, :, :1]}.items():
        with torch.no_grad():
            expected = pipe.encode_video(given)
        assert cached[name].shape == expected.shape
        assert (
            cached[name] - expected
        ).square().mean().sqrt() < 0.05  # they may be computed in bfloat16


# --- what training sees ---------------------------------------------------------------------------


def test_targets_of_the_training_are_what_the_scheduler_makes_of_them() -> None:
    """With the target as prediction, steps from any timestep end at the clean latents; given frames
    stay."""
    scheduler = OpenSoraRFlowScheduler(**opensora.SCHEDULER)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 12, 5, 8, 8, generator=generator) for _ in range(2))
    pictures, given = torch.randn(2, 12, 1, 8, 8, generator=generator), torch.tensor([False, True])
    for first in range(5):
        scheduler.set_timesteps(5, height=64, width=64, num_frames=17)
        scheduler.set_begin_index(first)
        t = scheduler.timesteps[first].expand(2)
        sample, frame_mask, v = opensora.noise_latents(scheduler, x, pictures, given, noise, t)
        assert frame_mask.tolist() == [[True] * 5, [False] + [True] * 4]
        assert torch.equal(sample[1, :, :1], pictures[1])
        for timestep in scheduler.timesteps[first:]:
            stepped: Any = scheduler.step(v, timestep, sample, return_dict=False)
            sample = torch.where(frame_mask[:, None, :, None, None], stepped[0], sample)
        expected = torch.where(
            frame_mask[:, None, :, None, None], x, torch.cat([pictures, x[:, :, 1:]], 2)
        )
        torch.testing.assert_close(sample, expected, atol=1e-5, rtol=1e-5)


def test_timesteps_are_those_of_the_sampler() -> None:
    scheduler = OpenSoraRFlowScheduler(**opensora.SCHEDULER)
    table = opensora.sampler_timesteps(scheduler)
    assert (len(table), table[0].item()) == (1000, 1000)
    scheduler.set_timesteps(20, height=64, width=64, num_frames=17)
    torch.testing.assert_close(scheduler.timesteps, table[::50])
    drawn = opensora._sample_times(4000, table, torch.Generator().manual_seed(0))
    assert drawn.min() > 0
    assert drawn.max() <= 1000
    assert drawn.median() == pytest.approx(
        1000 * 5**0.5 / (1 + 5**0.5), abs=25
    )  # the middle of the table


def test_a_dropped_caption_is_what_the_pipeline_has_without_a_negative_prompt(pipe: Any) -> None:
    pair: Any = text.TrainingPair(pipe.transformer, pipe.text_encoder)
    words = ["A red star orbiting.", "a large blue moon growing over a green background"]
    prepared = [word.lower() for word in words]
    with torch.no_grad():
        expected = pipe.encode_prompt(
            words, max_sequence_length=opensora.MAX_TOKENS, clean_caption=False
        )
        kept = opensora.embed_captions(pair, pipe.tokenizer, prepared, torch.tensor([False, False]))
        dropped = opensora.embed_captions(
            pair, pipe.tokenizer, prepared, torch.tensor([True, False])
        )
    torch.testing.assert_close(kept, expected[:2])
    assert torch.equal(dropped[0][0], expected[2][0])
    assert torch.equal(dropped[1], expected[3])
    torch.testing.assert_close(dropped[0][1], expected[0][1])


def test_captions_are_as_the_pipeline_prepares_prompts(pipe: Any) -> None:
    scenes = world.sample_scenes(400, seed=12)
    found, plain = opensora.pipeline_captions(scenes, 3), world.captions(scenes, 3)
    forms = [
        [
            pipe._text_preprocessing(
                prompts.append_scores(one, points, None, None), clean_caption=False
            )[0]
            for one in plain
        ]
        for points in (None, opensora.AESTHETIC_SCORE)
    ]
    kinds = [
        ("" if caption == "" else forms.index(next(form for form in forms if form[i] == caption)))
        for i, caption in enumerate(found)
    ]
    assert 150 < kinds.count(1) < 250
    assert 2 < kinds.count("") < 30
    ids = pipe.tokenizer(found).input_ids
    assert max(map(len, ids)) <= opensora.MAX_TOKENS
    letters = set(
        pipe.tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz0123456789"))
    )
    assert not letters & {
        token for row in ids for token in row
    }  # whole words; a comma or a full stop may stand alone


def test_training_attention_equals_the_usual_one() -> None:
    torch.manual_seed(0)
    transformer: Any = OpenSoraTransformer3DModel(**{**opensora.TRANSFORMER, **SMALL})
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 4:] = False
    frame_mask = torch.ones(3, 5, dtype=torch.bool)
    frame_mask[2, 0] = False
    given = (
        torch.randn(3, 12, 5, 8, 8),
        torch.tensor([3.0, 500.0, 900.0]),
        torch.randn(3, 9, 96),
        mask,
        frame_mask,
    )
    with torch.no_grad():
        usual = transformer(*given, 12, 64, 64).sample
        transformer.set_attn_processor(opensora.PlainAttention())
        torch.testing.assert_close(
            transformer(*given, 12, 64, 64).sample, usual, atol=1e-4, rtol=1e-4
        )


def test_an_untrained_model_predicts_nothing_and_its_temporal_blocks_do_nothing() -> None:
    transformer: Any = OpenSoraTransformer3DModel(**{**opensora.TRANSFORMER, **SMALL})
    opensora._initialise(transformer)
    x, words = torch.randn(2, 12, 5, 8, 8), torch.randn(2, 9, 96)
    changed: list[bool] = []
    for block in transformer.temporal_blocks:
        block.register_forward_hook(
            lambda _, args, out: changed.append(not torch.equal(args[0], out))
        )
    with torch.no_grad():
        assert not transformer(x, torch.tensor(500.0), words).sample.any()
    assert changed == [False, False]


def test_an_untrained_autoencoder_keeps_what_a_frame_has() -> None:
    """Absolute colour comes through: two plain clips of different brightness have different latents
    and pictures."""
    torch.manual_seed(0)
    vae: Any = autoencoder.OPENSORA.build()
    clips = torch.stack([torch.full((3, 17, 32, 32), value) for value in (-0.8, 0.8)])
    with torch.no_grad():
        latents = autoencoder.OPENSORA.encode(vae, clips).mean
        made = autoencoder.OPENSORA.decode(vae, latents, 17)
    assert latents.shape == (2, 12, 5, 4, 4)
    assert (latents[0] - latents[1]).abs().mean() > 0.1
    assert (made[0] - made[1]).abs().mean() > 0.05


# --- scores and package ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(trained: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_text, "STEPS", 2)
        patch.setattr(autoencoder, "psnr", lambda *_: 1.0)  # of 128 clips
        for name in ("_judge_accuracy", "_score_reconstruction"):
            patch.setattr(score_text, name, functools.partial(getattr(score_text, name), num=4))
        terms = [
            STG(layers, 1.5, "attention") for layers in (["spatial:0"], ["spatial:1", "temporal:1"])
        ]
        scores = score_text.score(trained, 3, [1.0, 4.0], terms, lambda _: None, "opensora")
        with pytest.raises(ValueError, match="spatial"):
            score_text.score(trained, 3, [1.0], [STG(["spatial:9"])], lambda _: None, "opensora")
    (trained / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return scores


def test_scores(scored: dict[str, Any]) -> None:
    assert (
        scored["command"]
        == "skipguide lab score opensora --clips 3 --guidance-scale 1 --guidance-scale 4 --layers"
        " spatial:0 --layers spatial:1,temporal:1 --stg-scale 1.5 --skip attention"
    )
    rows = [(row["guidance_scale"], row["layers"], row["stg_scale"]) for row in scored["generated"]]
    assert rows == [
        (1.0, [], 0.0), (4.0, [], 0.0), (4.0, ["spatial:0"], 1.5),
        (4.0, ["spatial:1", "temporal:1"], 1.5)
    ]  # fmt: skip
    assert set(scored["judge_accuracy"]) == {"shape", "colour", "motion"}
    assert "| 4 | spatial:1,temporal:1 attention, 1.5 |" in score_text.format_table(scored)


def test_packed_with_its_card(
    trained: Path, scored: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path / "weights")
    paths = model_card.pack("opensora", trained, "a machine", tmp_path / "docs")
    assert paths == [tmp_path / "weights" / "lab-opensora", tmp_path / "docs" / "lab-opensora.md"]
    card = (paths[0] / "README.md").read_text(encoding="utf-8")
    assert card == paths[1].read_text(encoding="utf-8")
    assert "| transformer | OpenSoraTransformer3DModel |" in card
    assert scored["command"] in card
    assert load(paths[0]).transformer.config.num_layers == 2


def test_options_of_svd_are_refused() -> None:
    from typer.testing import CliRunner

    from skipguide.cli import app

    result = CliRunner().invoke(app, ["lab", "score", "opensora", "--temporal-scale", "3"])
    assert result.exit_code == 2
    assert "opensora does not use --temporal-scale, but got" in result.output


# --- the shipped model ----------------------------------------------------------------------------


shipped = pytest.mark.skipif(
    "lab-opensora" not in packaged.NAMES, reason="lab-opensora is not packaged yet"
)


@pytest.fixture(scope="module")
def lab() -> Any:
    return load(packaged.packaged_path("lab-opensora"))


@pytest.mark.long
@shipped
def test_generated_clips_show_what_the_prompt_says(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        score_text, "STEPS", 14
    )  # half of the card's read no worse (docs/decisions/049)
    scores = json.loads(
        (packaged.packaged_path("lab-opensora") / "scores.json").read_text(encoding="utf-8")
    )
    card = next(row for row in reversed(scores["generated"]) if not row["layers"])
    scenes = world.sample_scenes(24, seed=33, split="all", second_share=0.0)
    frames = score_text.generate(
        lab, world.captions(scenes, 33), card["guidance_scale"], 1, "opensora"
    )
    words = score_text.read_clips(judge.load_judge(), frames).words
    for name in judge.HEADS:
        right = (words[name] == getattr(scenes, name)).float().mean().item()
        assert right > max(card[name] - 0.25, 0.5), (
            name
        )  # chance is 1/6 or 1/8; 24 clips deviate by 0.1 or so


@shipped
def test_autoencoder_reconstructs_held_out_clips(lab: Any) -> None:
    assert autoencoder.psnr(lab.vae, autoencoder.OPENSORA, "heldout", num=4) >= 28


@shipped
def test_a_given_picture_is_the_first_frame(lab: Any) -> None:
    scenes = world.sample_scenes(2, seed=5, second_share=0.0)
    first = world.render(scenes, 2)[:, :, 0]
    made = lab(
        world.captions(scenes, 5), image=(first + 1) / 2, height=64, width=64, num_frames=17,
        fps=12, num_inference_steps=12, max_sequence_length=32, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    assert (made[:, 0] - (first + 1) / 2).square().mean() < 10**-2.2


@shipped
def test_space_and_time_are_skipped_apart_and_nothing_is_left(lab: Any) -> None:
    def call() -> torch.Tensor:
        return lab(
            "a red star orbiting", height=64, width=64, num_frames=17, fps=12,
            num_inference_steps=2, max_sequence_length=32, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames  # fmt: skip

    plain, found = call(), []
    for layer in ("spatial:4", "temporal:4"):
        with guide(lab, STG(layers=[layer])):
            found.append(call())
        with guide(lab, STG(layers=[layer]), share_prefix=False):
            assert torch.equal(call(), found[-1])
    assert (found[0] - found[1]).abs().max() > 0.01
    assert torch.equal(call(), plain)


@shipped
def test_card_is_the_same_in_the_package_and_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "lab-opensora.md"
    assert docs.read_text(encoding="utf-8") == (
        packaged.packaged_path("lab-opensora") / "README.md"
    ).read_text(encoding="utf-8")

"""lab-svd: its training on small data, what it is told in training against what the pipeline tells
it, its scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from skipguide import STG, guide
from skipguide.families import presets
from skipguide.files import packaged
from skipguide.lab import autoencoder, score_svd, svd, train, world
from support.short_training import short_stages

SMALL = dict(block_out_channels=(32, 32), num_attention_heads=(1, 1),
    down_block_types=svd.UNET["down_block_types"][1:],
             up_block_types=svd.UNET["up_block_types"][:2])  # fmt: skip


def pictures(frames: torch.Tensor) -> list[Any]:
    """(B, 3, H, W) in [-1, 1] as PIL images."""
    return VaeImageProcessor.numpy_to_pil(((frames + 1) / 2).permute(0, 2, 3, 1).numpy())


# --- the training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages, two steps each, of a narrower UNet."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        short_stages("svd", patch)
        patch.setattr(svd, "UNET", {**svd.UNET, **SMALL})
        patch.setattr(svd, "BATCH_SIZE", 2)
        patch.setattr(svd, "READER_BATCH", 2)
        seen = [name for name, _ in train.train("svd", folder, torch.device("cpu"))]
        assert seen == ["autoencoder"] * 2 + ["image encoder"] * 2 + ["latents"] + ["unet"] * 2
        assert list(train.train("svd", folder, torch.device("cpu"))) == []
    return folder


def load(folder: Path) -> Any:
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.long
def test_what_a_training_leaves_runs_and_is_scored(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_svd, "STEPS", 2)
    monkeypatch.setattr(score_svd, "BATCH", 1)
    monkeypatch.setattr(autoencoder, "psnr", lambda *_: 1.0)  # of 128 clips
    said: list[str] = []
    scores = score_svd.score(trained, 4, ["up:0"], 2.0, 0.5, 0.0, 0.7, said.append)
    settings = [row["setting"] for row in scores["generated"]]
    assert settings == [
        "CFG",
        "+ spatial 2",
        "+ spatial 2 + temporal 0.5",
    ]  # no row for a scale of 0
    passes = [row["passes_per_step"] for row in scores["generated"]]
    assert passes[0] == 2
    assert 2 < passes[1] < passes[2] < 4
    table = score_svd.format_table(scores)
    assert table.count("\n| ") == 7
    assert "| CFG, buckets turned around | 2.00 |" in table
    with pytest.raises(
        ValueError, match="clips must be more than 2, to compare buckets, but got 2"
    ):
        score_svd.score(trained, 2, ["up:0"], 2.0, 0.5, 0.0, 0.7, said.append)
    with pytest.raises(
        ValueError, match="layers of this UNetSpatioTemporalConditionModel must be from 0 to"
    ):
        score_svd.score(trained, 4, ["up:9"], 2.0, 0.5, 0.0, 0.7, said.append)
    assert (
        scores["command"]
        == "skipguide lab score svd --clips 4 --layers up:0 --spatial-scale 2 --temporal-scale 0.5"
        " --stg-scale 0 --rescale 0.7"
    )


def test_training_prepares_pictures_as_the_pipeline_does(trained: Path) -> None:
    pipe, seen = load(trained / "pipeline"), []
    first = world.render(world.sample_scenes(2, 1), 1)[:, :, 0]
    first = ((first + 1) * 127.5).round() / 127.5 - 1
    hook = pipe.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pipe._encode_image(pictures(first), "cpu", 1, False)
    hook.remove()
    torch.testing.assert_close(svd.pixel_values(first), seen[0], atol=1e-5, rtol=0)


def test_targets_of_the_training_are_what_the_scheduler_makes_of_them() -> None:
    """With the target as prediction, the scheduler's estimate of the clean latents is the clean
    latents."""
    scheduler = EulerDiscreteScheduler(**svd.SCHEDULER)
    scheduler.set_timesteps(6)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = (torch.randn(2, 14, 8, 8, 8, generator=generator) for _ in range(2))
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x, scaled, log_sigma, v = svd.noise_latents(x_0, noise, sigma.expand(2))
        torch.testing.assert_close(scheduler.scale_model_input(x, t), scaled)
        torch.testing.assert_close(t.expand(2), log_sigma, atol=1e-5, rtol=1e-5)
        estimate: Any = scheduler.step(v, t, x)
        torch.testing.assert_close(estimate.pred_original_sample, x_0, atol=2e-3, rtol=1e-3)


def test_conditions_are_in_range_and_the_bucket_is_the_amount_of_motion() -> None:
    scenes, spans = world.sample_scenes(64, 5), world.draw_spans(64, 5)
    fps, bucket, strength = svd.draw_conditions(scenes, spans, seed=5).unbind(1)
    assert set((fps + 1).tolist()) == set(range(5, 11))
    assert (strength >= svd.NOISE_AUG[0]).all()
    assert (strength <= svd.NOISE_AUG[1]).all()
    amount = world.amount_of_motion(world.masks(scenes, 14, spans))
    expected = (200 * amount * (fps + 1) / 7).clamp_max(255)
    assert (bucket - expected).abs().max() <= 0.5
    assert svd.motion_bucket(torch.tensor([9.0]), torch.tensor([7.0])) == 255


def test_spearman_against_closed_forms() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert score_svd.spearman(a, a.exp()) == pytest.approx(1)
    assert score_svd.spearman(a, -a) == pytest.approx(-1)
    b = torch.tensor([2.0, 1.0, 4.0, 3.0, 5.0])
    assert score_svd.spearman(a, b) == pytest.approx(1 - 6 * 4 / (5 * 24))
    tied = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0])  # ranks 1.5, 1.5, 3.5, 3.5, 5
    ranks = torch.tensor([1.5, 1.5, 3.5, 3.5, 5.0])
    expected = torch.corrcoef(torch.stack([a, ranks]))[0, 1].item()
    assert score_svd.spearman(a, tied) == pytest.approx(expected)


# --- the shipped model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab() -> Any:
    return load(packaged.packaged_path("lab-svd"))


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    return json.loads(
        (packaged.packaged_path("lab-svd") / "scores.json").read_text(encoding="utf-8")
    )


def test_components_are_the_real_classes(lab: Any) -> None:
    names = {name: type(part).__name__ for name, part in lab.components.items()}
    assert names == {
        "vae": "AutoencoderKLTemporalDecoder",
        "image_encoder": "CLIPVisionModelWithProjection",
        "unet": "UNetSpatioTemporalConditionModel",
        "scheduler": "EulerDiscreteScheduler",
        "feature_extractor": "CLIPImageProcessorPil",
    }
    assert lab.scheduler.config.prediction_type == "v_prediction"
    assert lab.scheduler.config.use_karras_sigmas
    assert lab.unet.config.num_frames == 14


@pytest.mark.long
def test_autoencoder_reconstructs_held_out_clips(lab: Any) -> None:
    assert autoencoder.psnr(lab.vae, autoencoder.SVD, "heldout", num=4) >= 30


def test_scores_are_those_that_were_asked_for(scores: dict[str, Any]) -> None:
    """Shape and colour in 95 % of clips, the bucket's correlation 0.7, the first frame 26 dB."""
    cfg = scores["generated"][0]
    assert cfg["setting"] == "CFG"
    assert cfg["shape"] >= 0.95
    assert cfg["colour"] >= 0.95
    assert cfg["motion"] >= 0.7
    assert cfg["first_frame_db"] >= 26


@pytest.mark.long
def test_generated_clips_are_as_good_as_the_card_says_and_move_as_the_bucket_says(
    lab: Any, scores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        score_svd, "STEPS", 12
    )  # half of the card's read no worse (docs/decisions/049)
    real, card = score_svd.RealClips(2), scores["generated"][0]
    found = {}
    for bucket in (15, 120):
        frames = score_svd.generate(lab, real.frames[:, :, 0], bucket, seed=3)
        assert frames.shape == (2, 3, 14, 64, 64)
        found[bucket] = score_svd.measure_clips(real, frames)
        assert found[bucket]["first_frame_db"] > card["first_frame_db"] - 3
    for name in ("shape", "colour"):
        assert (found[15][name] + found[120][name]) / 2 > card[
            name
        ] - 0.3  # one of 4 clips may be wrong
    assert found[120]["amount_of_motion"] > 2 * found[15]["amount_of_motion"]


@pytest.mark.long
def test_preset_on_the_lab_model(lab: Any) -> None:
    """Its setting is that of a row; the shared prefix gives the bits of full passes; afterwards
    nothing is left."""
    row = presets.preset_for(lab)
    assert row.model == "lab-svd"
    first = pictures(world.render(world.sample_scenes(1, 4), 1)[:, :, 0])

    def call() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return lab(
            first,
            height=64,
            width=64,
            num_inference_steps=3,
            generator=generator,
            output_type="latent",
        ).frames

    plain, terms = call(), STG.preset(lab)
    with guide(lab, terms) as handle:
        shared = call()
        assert handle.rescale == row.rescale
    with guide(lab, terms, share_prefix=False):
        assert torch.equal(call(), shared)
    assert (shared - plain).abs().max() > 0.01
    assert torch.equal(call(), plain)
    assert not math.isnan(handle.passes_per_step)


def test_card_is_the_same_in_the_package_and_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "lab-svd.md"
    assert docs.read_text(encoding="utf-8") == (
        packaged.packaged_path("lab-svd") / "README.md"
    ).read_text(encoding="utf-8")

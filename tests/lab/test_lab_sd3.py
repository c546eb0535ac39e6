"""lab-sd3: pictures of the open world, its training on small data, its card, the shipped model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from torch import nn

from skipguide import STG
from skipguide.files import packaged
from skipguide.lab import (
    autoencoder,
    mochi,
    model_card,
    open_world,
    score_text,
    sd3,
    stills,
    text_to_video,
    train,
)
from support.short_training import short_stages

SMALL = dict(num_layers=2, num_attention_heads=2, attention_head_dim=16, caption_projection_dim=32)


# --- pictures -------------------------------------------------------------------------------------


def test_a_picture_is_a_moment_of_its_clip() -> None:
    """Rendered alone, it is what a clip with a frame at this time shows there."""
    scenes = open_world.sample_scenes(8, 3)
    pictures = stills.render(scenes)
    assert pictures.shape == (8, 3, 1, 64, 64)
    moments = scenes.look[:, 6]
    for i, moment in enumerate(moments):
        times = torch.tensor([[0.0, float(moment), 1.0]])
        clip = open_world.render(scenes[slice(i, i + 1)], times=times)
        torch.testing.assert_close(clip[0, :, 1], pictures[i, :, 0], atol=1e-4, rtol=0)
    frames = open_world.render(scenes)
    assert torch.equal(
        frames, open_world.render(scenes, times=torch.linspace(0, 1, 19).expand(8, -1))
    )


def test_captions_of_pictures_say_nothing_of_motion() -> None:
    scenes = open_world.sample_scenes(400, 4)
    drawn = stills.captions(scenes, 1)
    assert not any("motion" in one.named for one in drawn)
    for slot in stills.SLOTS:
        assert 0.4 < sum(slot in one.named for one in drawn) / len(drawn) < 0.6
    nothing = stills.captions(scenes, 1, ())
    assert {one.text.lower().rstrip(".") for one in nothing} == {"", "a picture", "an image"}
    words = {word.strip(".,").lower() for one in drawn for word in one.text.split()}
    assert words <= set(stills.vocabulary())
    assert not words & {"clip", "video"}
    with pytest.raises(ValueError, match=r"named must be of shape, .*, but got motion"):
        stills.captions(scenes, 1, ["motion"])


# --- the training ---------------------------------------------------------------------------------


def test_one_weighted_token_is_as_256_tokens_of_zeros() -> None:
    """The training gives what the pipeline computes, without 255 of its tokens."""
    torch.manual_seed(0)
    model: Any = SD3Transformer2DModel(**{**sd3.TRANSFORMER, **SMALL})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    words, pooled = torch.randn(2, 7, 128), torch.randn(2, 128)
    x, time = torch.randn(2, sd3.CHANNELS, 16, 16), torch.tensor([30.0, 700.0])

    def run(zeros: int) -> torch.Tensor:
        tokens = nn.functional.pad(words, (0, 0, 0, zeros))
        with torch.no_grad():
            return model(x, tokens, pooled, time, return_dict=False)[0]

    whole, few = run(sd3.T5_TOKENS), run(1)
    assert (few - whole).abs().max() > 0.01 * whole.abs().max()  # it matters how many they are
    text_to_video._replace_processors(model, sd3.WeightedAttention())
    torch.testing.assert_close(run(1), whole, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        short_stages("sd3", patch)
        for name, value in SMALL.items():
            patch.setitem(sd3.TRANSFORMER, name, value)
        patch.setitem(sd3.AUTOENCODER_CONFIG, "block_out_channels", (16, 16, 32))
        patch.setattr(sd3, "BATCH_SIZE", 4)
        seen = [name for name, _ in train.train("sd3", folder, torch.device("cpu"))]
    assert seen == ["autoencoder"] * 2 + ["latents"] + ["transformer"] * 2
    return folder


@pytest.fixture(scope="module")
def pipe(trained: Path) -> Any:
    found = StableDiffusion3Pipeline.from_pretrained(trained / "pipeline")
    found.set_progress_bar_config(disable=True)
    return found


def test_latents_are_those_that_the_pipeline_decodes(trained: Path, pipe: Any) -> None:
    from safetensors.torch import load_file

    kept = load_file(trained / "latents.safetensors")["latents"].float()
    assert kept.shape == (4, sd3.CHANNELS, 16, 16)
    scenes = mochi.open_training_scenes(4)
    with torch.no_grad():
        decoded = pipe.vae.decode(kept / pipe.vae.config.scaling_factor
                                  + pipe.vae.config.shift_factor).sample  # fmt: skip
        again = autoencoder.reconstruct(pipe.vae, sd3.AUTOENCODER, stills.render(scenes))
    torch.testing.assert_close(decoded, again[:, :, 0], atol=0.02, rtol=0.02)


def test_the_transformer_reads_what_the_pipeline_makes_of_a_caption(pipe: Any) -> None:
    """Beside the tokens of zeros, of which the pipeline has 256."""
    texts = ["a small red star", ""]
    tokens, _ = text_to_video.tokenize(pipe.tokenizer, texts, sd3.MAX_TOKENS, torch.device("cpu"))
    encoders = nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2])
    with torch.no_grad():
        words, pooled = sd3.encode_captions(encoders, tokens)
        theirs, _, their_pooled, _ = pipe.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False
        )
    assert theirs.shape[1] == sd3.MAX_TOKENS + sd3.T5_TOKENS
    assert not theirs[:, sd3.MAX_TOKENS :].any()
    assert not words[:, -1].any()
    torch.testing.assert_close(words[:, :-1], theirs[:, : sd3.MAX_TOKENS])
    torch.testing.assert_close(pooled, their_pooled)


def test_scored_and_packed_with_its_card(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_text, "STEPS", 2)
    monkeypatch.setattr(autoencoder, "psnr", lambda *_: 1.0)
    scores = score_text.score(trained, 3, [1.0], [STG([1], 1.5)], lambda _: None, "sd3")
    rows = [(row["prompts"], row["layers"]) for row in scores["generated"]]
    assert rows == [(k, layers) for k in ("closed", "half", "open") for layers in ([], [1])]
    assert "motion" not in scores["judge_accuracy"]
    (trained / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path / "weights")
    paths = model_card.pack("sd3", trained, "a machine", tmp_path / "docs")
    assert [path.name for path in paths] == ["lab-sd3", "lab-sd3.md"]
    card = paths[1].read_text(encoding="utf-8")
    for line in ("| transformer | SD3Transformer2DModel |", scores["command"], "as 256"):
        assert line in card
    StableDiffusion3Pipeline.from_pretrained(paths[0])


def test_the_tokenizer_knows_the_words_and_spells_others_out() -> None:
    words = sd3.build_tokenizer()
    scenes = open_world.sample_scenes(300, 11)
    ids = words([one.text for one in stills.captions(scenes, 11, stills.SLOTS)]).input_ids
    assert max(map(len, ids)) <= sd3.MAX_TOKENS
    for word in stills.vocabulary():
        assert words.tokenize(word) == [f"{word}</w>"]
    assert words.tokenize("zebra")[-1].endswith("</w>")
    assert words.unk_token_id not in words("zebra", add_special_tokens=False).input_ids

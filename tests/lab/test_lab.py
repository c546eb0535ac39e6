"""The packaged lab-mochi and its judge: that they are what the model card says, on a sample that a
test can afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline

from skipguide import STG, guide
from skipguide.families import presets
from skipguide.files import packaged
from skipguide.lab import autoencoder, judge, mochi, readers, score_text, text, train, world
from support.short_training import short_stages

PROMPTS = [
    "a small red star orbiting over a blue background",
    "A large yellow moon spinning on a purple background.",
    "a green cross bouncing on a striped brown background",
    "an orange triangle moving left on a grey background",
]


@pytest.fixture(scope="module")
def lab(lab_mochi_dir: Path) -> Any:
    pipe = MochiPipeline.from_pretrained(lab_mochi_dir)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def scores(lab_mochi_dir: Path) -> dict[str, Any]:
    return json.loads((lab_mochi_dir / "scores.json").read_text(encoding="utf-8"))


def test_is_small_safetensors_in_diffusers_layout(lab_mochi_dir: Path) -> None:
    files = [path for path in lab_mochi_dir.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 160e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    index = json.loads((lab_mochi_dir / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "MochiPipeline"
    assert index["transformer"] == ["diffusers", "MochiTransformer3DModel"]


def test_components_are_the_real_classes(lab: Any) -> None:
    names = {name: type(part).__name__ for name, part in lab.components.items()}
    assert names == {
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKLMochi",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5Tokenizer",
        "transformer": "MochiTransformer3DModel",
    }
    assert len(lab.transformer.transformer_blocks) >= 12


def test_tokenizer_knows_every_caption_word_after_the_round_trip(lab: Any) -> None:
    captions = world.captions(world.sample_scenes(300, seed=11), seed=11)
    ids = lab.tokenizer(captions).input_ids
    assert ids == text.build_tokenizer()(captions).input_ids
    assert not any(lab.tokenizer.unk_token_id in row for row in ids)
    assert max(map(len, ids)) <= mochi.CLOSED.max_tokens


def test_training_attention_equals_diffusers(lab: Any) -> None:
    """Video tokens of the whole transformer, padding and all."""
    tokens = lab.tokenizer(PROMPTS, padding="max_length", max_length=28, return_tensors="pt")
    mask = tokens.attention_mask.bool()
    blocks = lab.transformer.transformer_blocks
    with torch.no_grad():
        text = lab.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        x = torch.randn(4, 12, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        inputs = (x, text, torch.tensor([3.0, 200.0, 500.0, 900.0]), mask)
        usual = lab.transformer(*inputs, return_dict=False)[0]
        kept = [block.attn1.processor for block in blocks]
        try:
            for block in blocks:
                block.attn1.processor = mochi.BatchedAttention()
            fast = lab.transformer(*inputs, return_dict=False)[0]
        finally:
            for block, processor in zip(blocks, kept, strict=True):
                block.attn1.processor = processor
    torch.testing.assert_close(fast, usual, atol=1e-4, rtol=1e-4)


def test_autoencoder_reconstructs_held_out_clips(lab: Any) -> None:
    assert autoencoder.psnr(lab.vae, autoencoder.MOCHI, "heldout", num=16) >= 30


def test_judge_reads_real_clips() -> None:
    accuracy = judge.accuracy(judge.load_judge(), "all", num=256)
    assert min(accuracy.values()) >= 0.97


def test_judge_reads_one_clip_of_any_size(lab: Any) -> None:
    scenes = world.sample_scenes(4, seed=21)
    for frames, words in zip(
        world.render(scenes, num_frames=25, size=96), scenes.attributes(), strict=True
    ):
        clip = ((frames.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
        assert readers.CLOSED.read(clip) == {name: words[name] for name in judge.HEADS}


def test_frechet_distance_against_closed_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1000, 6, generator=generator)
    assert judge.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert judge.frechet(a, a + 2) == pytest.approx(6 * 4, rel=1e-5)
    # N(0, 1) against N(0, 9), independent components: (3 - 1)^2 each
    assert judge.frechet(a, 3 * torch.randn(1000, 6, generator=generator)) == pytest.approx(
        24, rel=0.15
    )


def test_generated_clips_show_what_the_prompt_says(
    lab: Any, scores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        score_text, "STEPS", 14
    )  # half of the card's read no worse (docs/decisions/049)
    scenes = world.sample_scenes(12, seed=33, split="all", second_share=0.0)
    frames = score_text.generate(lab, world.captions(scenes, seed=33), 4.5, seed=1)
    assert frames.shape == (12, 3, 19, 64, 64)
    with torch.no_grad():
        logits, _ = judge.load_judge()(frames)
    card = next(
        row for row in scores["generated"] if row["guidance_scale"] == 4.5 and not row["layers"]
    )
    for name in judge.HEADS:
        right = (logits[name].argmax(1) == getattr(scenes, name)).float().mean().item()
        assert right > max(card[name] - 0.25, 0.5), (
            name
        )  # chance is 1/6 or 1/8; 12 clips deviate by 0.13 or so


def test_preset_and_guidance_on_the_lab_model(lab: Any) -> None:
    row = presets.preset_for(lab)
    assert row.model == "lab-mochi"
    options = dict(row.defaults)
    options.pop("fps")
    options["num_inference_steps"] = 4

    def call() -> torch.Tensor:
        return lab(
            PROMPTS[0], generator=torch.Generator().manual_seed(0), output_type="latent", **options
        ).frames

    plain = call()
    with guide(lab, STG.preset(lab)):
        guided = call()
    assert torch.equal(call(), plain)
    assert (guided - plain).abs().max() > 0.1


def test_missing_parts_of_a_training(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from skipguide.cli import app

    for arguments, needed in (
        (["lab", "score", "mochi", "--folder", str(tmp_path)], "pipeline/model_index.json"),
        (["lab", "pack", "mochi", "--folder", str(tmp_path)], "scores.json"),
        (
            [
                "lab",
                "train",
                "mochi",
                "--folder",
                str(tmp_path),
                "--stage",
                "transformer",
                "--device",
                "cpu",
            ],
            "vae/config.json",
        ),
        (["lab", "train", "wan"], "must be mochi, mochi-2, svd, opensora or sd3, but got 'wan'"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert needed in result.output


def test_card_is_the_same_in_the_package_and_in_the_docs(lab_mochi_dir: Path) -> None:
    docs = Path(__file__).parents[2] / "docs" / "lab-mochi.md"
    assert docs.read_text(encoding="utf-8") == (lab_mochi_dir / "README.md").read_text(
        encoding="utf-8"
    )


def test_no_file_is_too_large_for_a_repository() -> None:
    assert max(path.stat().st_size for path in packaged.WEIGHTS.rglob("*")) < 25e6


def test_no_config_tells_of_the_machine_that_trained_it() -> None:
    configs = list(packaged.WEIGHTS.rglob("config.json"))
    assert configs
    assert not [path for path in configs if '": "/' in path.read_text(encoding="utf-8")]


def test_unknown_packaged_model() -> None:
    known = "lab-mochi, lab-svd, lab-opensora"
    with pytest.raises(
        ValueError, match=f"a packaged model must be one of {known}, but got 'lab-wan'"
    ):
        packaged.packaged_path("lab-wan")


@pytest.mark.long
def test_training_stages_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four stages, two steps each, and what they leave is a pipeline that runs."""
    short_stages("mochi", monkeypatch)
    monkeypatch.setattr(mochi, "training_scenes", lambda num=16: world.sample_scenes(num, seed=1))
    cpu = torch.device("cpu")
    seen = [name for name, _ in train.train("mochi", tmp_path, cpu)]
    assert seen == ["autoencoder"] * 2 + ["latents"] + ["judge"] * 2 + ["transformer"] * 2
    assert list(train.train("mochi", tmp_path, cpu)) == []
    assert len((tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    pipe = MochiPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = dict(
        height=64, width=64, num_inference_steps=2, max_sequence_length=16
    )
    made: Any = pipe("a red star", output_type="pt", **options)
    assert made.frames.shape == (1, 19, 3, 64, 64)
    with pytest.raises(
        ValueError, match="one of autoencoder, latents, judge, transformer, but got 'vae'"
    ):
        list(train.train("mochi", tmp_path, cpu, "vae"))


def test_a_first_frame_for_lab_svd(tmp_path: Path) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from skipguide.cli import app

    def frame(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["lab", "frame", *arguments])

    out = tmp_path / "new" / "star.png"
    said = frame(str(out), "--shape", "star", "--colour", "red", "--motion", "left", "--seed", "3")
    assert f"skipguide generate --model lab-svd --image {out}" in said.stdout.replace("\n", "")
    with Image.open(out) as image:
        assert image.size == (64, 64)
    for arguments, needed in (
        ((str(out),), "exists. Pass --overwrite"),
        ((str(out.with_suffix(".jpg")),), "must be named .png"),
        ((".",), "the output must be a file, but . is a folder"),
        ((str(tmp_path / "x.png"), "--shape", "cube"), "shape must be one of circle"),
    ):
        result = frame(*arguments)
        assert (result.exit_code, needed in result.output) == (2, True)
    assert not (tmp_path / "x.png").exists()


def test_options_of_the_other_model_are_refused() -> None:
    from typer.testing import CliRunner

    from skipguide.cli import app

    for arguments, message in (
        (
            ["mochi", "--spatial-scale", "3"],
            "mochi does not use --spatial-scale, but got",
        ),
        (
            ["svd", "--guidance-scale", "3"],
            "svd does not use --guidance-scale, but got",
        ),
        (["mochi", "--layers", "up:0"], "layers of lab-mochi must be numbers, but got up:0"),
    ):
        result = CliRunner().invoke(app, ["lab", "score", *arguments])
        assert (result.exit_code, message in result.output) == (2, True), result.output


def test_a_package_is_not_replaced_by_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of another model: the card cannot be written, and what is packaged stays."""
    from skipguide.lab import model_card

    monkeypatch.setattr(packaged, "WEIGHTS", tmp_path / "weights")
    kept = tmp_path / "weights" / "lab-mochi" / "kept"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (tmp_path / "pipeline").mkdir()
    for name in ("pipeline/model_index.json", "judge.safetensors", "history.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "scores.json").write_text('{"clips": 1}', encoding="utf-8")
    with pytest.raises(KeyError):
        model_card.pack("mochi", tmp_path, "a machine", None)
    assert kept.exists()
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["lab-mochi"]

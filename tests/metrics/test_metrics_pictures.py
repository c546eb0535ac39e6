"""Metrics of pictures: features against pytorch-fid and transformers, distances against closed
forms, and what is refused for pictures and for videos."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import clips
from skipguide.metrics import alignment, evaluate
from skipguide.metrics.catalog import METRICS
from skipguide.metrics.networks import clip_picture, clip_text, inception_v3
from skipguide.metrics.selection import Options, parse_metric
from support.drawn import plan_of, swept
from support.references import pictures_upstream as upstream

Tensor = torch.Tensor
FOUND: dict[str, Any] = json.loads(
    (Path(upstream.__file__).parent / "pictures.json").read_text(encoding="utf-8")
)["inception"]
WORDS = ["<unk>", "<s>", "</s>", "prompt", "0", "1", "2", "red", "star"]


def small_inception(folder: Path) -> Path:
    """The network with a sixteenth of its channels, under the published name."""
    whole = FOUND["shapes"]
    shapes = {
        key: [side if side <= 7 else max(2, side // 16) for side in whole[key]] for key in whole
    }
    path = folder / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(upstream.inception_state(_joined(shapes)), path)
    return path


def _joined(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Let the inputs of a convolution be the outputs of what is before it."""
    outputs = {key: shape[0] for key, shape in shapes.items() if key.endswith("conv.weight")}
    before = 3
    for name, *_ in inception_v3._STEM:
        shapes[f"{name}.conv.weight"][1] = before
        before = outputs[f"{name}.conv.weight"]
    for name, kind in inception_v3._BLOCKS.items():
        total = before if kind.halves else 0
        for branch in kind.branches:
            inputs = before
            for layer in branch:
                layers = (layer,) if isinstance(layer, str) else layer
                for one in layers:
                    shapes[f"{name}.{one}.conv.weight"][1] = inputs
                inputs = sum(outputs[f"{name}.{one}.conv.weight"] for one in layers)
            total += inputs
        if not kind.halves:
            shapes[f"{name}.branch_pool.conv.weight"][1] = before
            total += outputs[f"{name}.branch_pool.conv.weight"]
        before = total
    shapes["fc.weight"][1] = before
    return shapes


def small_clip(folder: Path, name: str, side: int, patch: int) -> Path:
    """A small CLIP of transformers' own class, with a tokenizer of a few words."""
    torch.manual_seed(side)
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 9,
            "num_attention_heads": 1, "max_position_embeddings": 8, "eos_token_id": 2,
            "bos_token_id": 1}  # fmt: skip
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
              "num_attention_heads": 1, "image_size": side, "patch_size": patch}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPModel(config).save_pretrained(folder / name)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    words.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="</s>",
    )  # fmt: skip
    tokenizer.save_pretrained(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    small_inception(folder)
    small_clip(folder, "clip-vit-large-patch14", 224, 56)
    small_clip(folder, "clip-vit-large-patch14-336", 42, 14)
    torch.manual_seed(1)
    save_file({"weight": torch.randn(1, 24), "bias": torch.ones(1)}, folder / "head.safetensors")
    state = {"weight": torch.randn(1, 24), "bias": torch.ones(1)}
    torch.save(state, folder / "sa_0_4_vit_l_14_linear.pth")
    return folder


def pictures(seed: int, count: int = 12) -> dict[str, Tensor]:
    """Noise of one colour each, by names as of as many prompts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 1, 3, 40, 56)
    drawn = torch.randint(0, 100, shape, generator=generator, dtype=torch.uint8)
    tint = torch.randint(0, 150, (count, 1, 3, 1, 1), generator=generator, dtype=torch.uint8)
    return {f"prompt {i:02d}-0": one for i, one in enumerate(drawn + tint)}


# --- features -------------------------------------------------------------------------------------


def test_inception_has_the_features_of_pytorch_fid() -> None:
    with torch.device("meta"):  # so that nothing is drawn that is not used
        model = inception_v3.InceptionV3(FOUND["shapes"])
    model.load_state_dict(upstream.inception_state(FOUND["shapes"]), strict=False, assign=True)
    model.eval()
    (features,) = inception_v3.features(model, upstream.picture()[None, None])
    torch.testing.assert_close(
        features[:: upstream.STEP], torch.tensor(FOUND["features"]), rtol=1e-4, atol=1e-5
    )
    assert (features.mean().item(), features.std().item()) == pytest.approx(
        (FOUND["mean"], FOUND["std"]), rel=1e-4
    )
    (classes,) = inception_v3.probabilities(model, upstream.picture()[None, None])
    torch.testing.assert_close(classes, (features @ model.fc.weight.T).softmax(0))
    assert len(classes) == 1008


def test_another_network_is_not_taken_for_inception(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(3, 3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"must hold the InceptionV3 of FID, but it has no layer"):
        inception_v3.load(tmp_path / "x.pth")


def test_clip_has_the_embeddings_of_transformers(weights: Path) -> None:
    """Of a square picture, where Pillow resizes in the processor and torch here."""
    folder = weights / "clip-vit-large-patch14-336"
    picture = torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8)
    theirs, ours = CLIPModel.from_pretrained(folder), clip_picture.load(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size=42)
    pixels = processor(Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt")
    wanted = theirs.vision_model(pixels["pixel_values"]).pooler_output
    wanted = torch.nn.functional.normalize(theirs.visual_projection(wanted), dim=1)
    found = clip_picture.features(ours, picture[None, None])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (60, 90)])
def test_clip_score_is_the_cosine_of_transformers(weights: Path, height: int, width: int) -> None:
    folder = weights / "clip-vit-large-patch14"
    picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    theirs = CLIPModel.from_pretrained(folder)
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)("red star", return_tensors="pt")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)
    pixels = processor(Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt")
    with torch.no_grad():
        logits = theirs(input_ids=tokens.input_ids, pixel_values=pixels["pixel_values"])
        wanted = 100 * float(logits.logits_per_image / theirs.logit_scale.exp())
    model = clip_text.load(folder)
    assert alignment.clip_score(model, picture[None], "red star") == pytest.approx(
        max(wanted, 0), abs=0.2
    )
    both = alignment.clip_score(model, torch.stack([picture, 255 - picture]), "red star")
    one = [
        alignment.clip_score(model, frame[None], "red star") for frame in (picture, 255 - picture)
    ]
    assert both == pytest.approx(sum(one) / 2, abs=1e-4)


# --- evaluations ----------------------------------------------------------------------------------


def test_distances_of_sets_of_pictures(weights: Path) -> None:
    made, real = pictures(1), pictures(2)
    options = Options(weights=weights, pictures=True)
    result = evaluate(made, real, ["fid", "kid", "cmmd", "vendi", "inception_score"], options)
    assert not result.skipped
    rows = {row.metric: row for row in result.rows}
    assert {*rows} == {"fid:inception", "kid:inception", "cmmd:clip", "vendi:inception",
                       "inception_score:inception"}  # fmt: skip
    x, y = (
        torch.stack([rows[name] for name in sorted(rows)]).double()
        for rows in (result.readings.vectors[f"{side}/clip"] for side in ("generated", "reference"))
    )
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x), dtype=torch.float64), atol=1e-5,
                               rtol=0)  # fmt: skip

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / 200).exp().mean()

    closed_form = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert rows["cmmd:clip"].value == pytest.approx(float(closed_form), rel=1e-6)
    assert rows["fid:inception"].value > 0
    assert rows["fid:inception"].low is not None
    said = rows["fid:inception"].warnings
    assert any("12 generated pictures are few" in warning for warning in said)
    assert not any("video" in warning for warning in said)
    same = evaluate(made, made, ["fid", "cmmd"], options)
    assert [row.value for row in same.rows] == pytest.approx([0, 0], abs=1e-6)


def test_what_has_several_frames_is_refused_for_pictures_and_the_other_way(weights: Path) -> None:
    made = pictures(1, 3)
    options = Options(weights=weights, pictures=True)
    message = (
        "temporal_flickering measures videos, of which it needs 2 frames, but a picture has one."
        " For pictures take one of fid, kid, cmmd, "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        evaluate(made, metrics=["temporal_flickering"], options=options)
    with pytest.raises(ValueError, match=r"^fvd measures videos, of which it needs 16 frames, but"):
        evaluate(made, made, ["fvd"], options)
    with pytest.raises(
        ValueError, match=r"^fid measures pictures, one frame each, but these are vi"
    ):
        evaluate(made, made, ["fid"], Options(weights=weights))
    with pytest.raises(
        ValueError, match=r"^the features of vendi must be inception or clip, but go"
    ):
        evaluate(made, metrics=["vendi:judge"], options=options)
    result = evaluate(made, options=options)
    assert {row.metric for row in result.rows} == {"aesthetic_quality", "inception_score:inception",
                                                   "vendi:inception"}  # fmt: skip
    why = {one.metric: one.reason for one in result.not_run}
    assert why["dynamic_degree"] == "They need several frames, and a picture has one."


def test_a_picture_has_no_sound() -> None:
    with pytest.raises(ValueError, match=r"fad measures the sound of videos, and a picture has n"):
        parse_metric("fad:vggish", kind="image")


def test_every_metric_measures_something() -> None:
    assert all(row.of for row in METRICS.values())
    frames = {name for name, row in METRICS.items() if row.fewest_frames > 1}
    assert frames == {name for name in frames if METRICS[name].of == ("video",)}


def test_a_run_of_pictures_and_a_folder_are_measured(weights: Path, tmp_path: Path) -> None:
    plan = plan_of(prompts=3, seeds=2, num_frames=None, fps=None, height=24, width=24)
    swept(tmp_path / "run", plan)
    (tmp_path / "real").mkdir()
    for i in range(3):
        frames = np.full((1, 24, 24, 3), 60 * i, np.uint8)
        clips.write(tmp_path / f"real/{i}.png", frames, None, {"settings": {"prompt": "red star"}})
    words = ["evaluate", str(tmp_path / "run"), "--reference", str(tmp_path / "real"), "--weights",
             str(weights), "--json", "--metrics", "fid,clip_score,saturation"]  # fmt: skip
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    settings = json.loads(said.stdout)["settings"]
    assert [[row["metric"] for row in one["metrics"]] for one in settings] == [
        ["fid:inception", "clip_score", "saturation"]
    ] * 2
    assert [row["videos"] for row in settings[0]["metrics"]] == [6, 6, 6]
    words = ["evaluate", str(tmp_path / "real"), "--pictures", "--weights", str(weights), "--json",
             "--metrics", "clip_score"]  # fmt: skip
    (row,) = json.loads(CliRunner().invoke(app, words).stdout)["metrics"]
    assert row["videos"] == 3
    clips.sidecar_path(tmp_path / "real/0.png").unlink()
    Image.new("RGB", (24, 24)).save(tmp_path / "real/0.png")  # has no record
    found = json.loads(CliRunner().invoke(app, words).stdout)
    assert found["metrics"][0]["videos"] == 2
    assert [one["reason"] for one in found["skipped"]] == [
        "its prompt is not known: it is not of a run, and has no record of skipguide"
    ]

"""The extractors that transformers has, where weights are found, and that the rows of the catalog
are true."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide.metrics import alignment, evaluate, pixels, sounds, vbench, weights
from skipguide.metrics.catalog import EXTRACTORS, METRICS, WEIGHTS
from skipguide.metrics.inception import Predictions, inception_score
from skipguide.metrics.networks import videomae, vjepa2
from skipguide.metrics.selection import Options
from support import saved_networks
from support.measured import clips
from support.references import metrics_upstream as upstream

Tensor = torch.Tensor
FOUND: dict[str, Any] = json.loads(
    (Path(upstream.__file__).parent / "metrics.json").read_text(encoding="utf-8")
)


# --- weights --------------------------------------------------------------------------------------


def test_every_row_of_the_catalog_names_what_there_is() -> None:
    """A network of a row can be imported and has what the row says."""
    for name, row in EXTRACTORS.items():
        module = importlib.import_module(row.module)
        assert row.has_features == hasattr(module, "features"), name
        assert bool(row.classes) == hasattr(module, "probabilities"), name
        assert set(row.weights) <= set(WEIGHTS)
    for name, row in METRICS.items():
        if row.kind == "video":
            own = alignment if row.uses_text else pixels if row.on_request else vbench
            home = sounds if row.sound else own
            assert callable(getattr(home, name))
            assert set(row.weights) <= set(WEIGHTS)
            assert not row.module or callable(importlib.import_module(row.module).load)
        else:
            assert row.extractor in EXTRACTORS


def test_weights_are_found_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "amt-s.pth").write_bytes(b"abc")
    with pytest.raises(ValueError, match="must be requested"):
        weights.find_weights("amt", tmp_path)
    found = weights.identify(
        "amt", weights.find_weights("amt", tmp_path, non_commercial=True)
    ).record()
    assert (
        found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180's of abc
    assert found["path"] == "amt-s.pth"
    assert (found["commercial"], found["as_published"]) == (False, None)
    (tmp_path / WEIGHTS["musiq"].files[0]).write_bytes(b"abc")
    assert (
        weights.identify(
            "musiq", weights.find_weights("musiq", tmp_path, non_commercial=True)
        ).as_published
        is False
    )


def test_weights_in_the_hubs_cache_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "models--facebook--vjepa2-vitl-fpc64-256"
    snapshot = repo / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights.find_weights("vjepa2", None) == snapshot


# --- networks by transformers ---------------------------------------------------------------------


def test_videomae_is_that_of_its_authors(tmp_path: Path) -> None:
    torch.save({"module": upstream.videomae_state()}, tmp_path / "vmae.pth")
    model = videomae.load(tmp_path / "vmae.pth")
    frames = upstream.frames_of(*upstream.SIZES[0])
    features = videomae.features(model, torch.stack([frames, frames.flip(0)]))
    assert features[0].tolist() == pytest.approx(FOUND["videomae"], abs=2e-6)
    assert not torch.allclose(features[0], features[1], atol=1e-3)


@pytest.mark.parametrize("change", ["head.weight", "blocks.0.attn.qkv.weight", "more"])
def test_videomae_refuses_other_weights(tmp_path: Path, change: str) -> None:
    state = upstream.videomae_state()
    if state.pop(change, None) is None:
        state[change] = torch.zeros(1)
    torch.save(state, tmp_path / "vmae.pth")
    with pytest.raises(
        ValueError,
        match=r"weights must be those of a fine-tuned VideoMAE V2, but .*vmae\.pth does not fit",
    ):
        videomae.load(tmp_path / "vmae.pth")


@pytest.mark.parametrize("size", upstream.SIZES)
def test_frames_for_vjepa2_are_those_of_its_processor(size: tuple[int, int]) -> None:
    expected = FOUND["vjepa2"][f"{size[0]} x {size[1]}"]
    found = vjepa2.prepare_frames(upstream.frames_of(*size), upstream.CROP)
    assert found.flatten()[:: upstream.PIXELS].tolist() == pytest.approx(
        expected["pixels"], abs=1e-5
    )
    assert (found.mean().item(), found.std().item()) == pytest.approx(
        (expected["mean"], expected["std"]), abs=1e-5
    )


def test_vjepa2_reads_clips_from_a_folder(tmp_path: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=32, hidden_size=24, num_attention_heads=2, num_hidden_layers=2, mlp_ratio=2.0,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        frames_per_clip=16,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(tmp_path / WEIGHTS["vjepa2"].files[0])
    result = evaluate(clips(3, seed=1), metrics=["vendi:vjepa2"], options=Options(weights=tmp_path))
    assert 1 <= result["vendi:vjepa2"].value <= 3
    assert result.weights["vjepa2"]["licence"] == "MIT"
    with pytest.raises(ValueError, match="weights must be a V-JEPA 2 folder, but"):
        vjepa2.load(tmp_path)


# --- all of them ----------------------------------------------------------------------------------

NETWORKS = ("clip_l14", "laion_head", "clip_b32", "dino", "raft", "amt", "i3d", "c3d")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn weights of the networks that are not transformers' or large, under the names that are
    looked for."""
    folder, drawn = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("drawn")
    for network in NETWORKS:
        rows = ("c3d", "c3d_mean") if network == "c3d" else (network,)
        for path, row in zip(saved_networks.saved(network, drawn), rows, strict=True):
            path.rename(folder / WEIGHTS[row].files[0])
    return folder


def test_per_video_metrics_get_their_networks_the_frames_and_the_rate(published: Path) -> None:
    frames = upstream.frames_of(128, 136, count=5)
    options = Options(weights=published, non_commercial=True, fps=16.0)
    result = evaluate({"a": frames}, options=options)
    rows = {
        name: row
        for name, row in METRICS.items()
        if row.kind == "video" and name != "imaging_quality" and not row.on_request
    }
    assert set(rows) <= {row.metric for row in result.rows}
    for name, row in rows.items():
        paths = [weights.find_weights(key, published, non_commercial=True) for key in row.weights]
        model = importlib.import_module(row.module).load(*paths) if row.module else None
        assert result.readings.values[name]["a"] == getattr(vbench, name)(model, frames, 16.0)
    assert set(result.weights) == {*NETWORKS, "c3d_mean"}
    missing = {one.metric: one.reason for one in result.not_run}
    assert "musiq_spaq_ckpt-358bb6af.pth" in missing["imaging_quality"]


def test_i3d_and_c3d_see_the_first_sixteen_frames(published: Path) -> None:
    frames = upstream.frames_of(40, 48, count=18)
    made = {"long": frames, "enough": frames[:16], "short": frames[:15]}
    result = evaluate(
        made, metrics=["vendi", "inception_score"], options=Options(weights=published)
    )
    assert (result["vendi:i3d"].videos, result["inception_score:c3d"].videos) == (2, 2)
    assert {(one.video, one.reason) for one in result.skipped} == {
        ("short", "at least 16 frames are needed, but it has 15 frames")
    }
    features, classes = (
        result.readings.vectors[f"generated/{kind}"] for kind in ("i3d", "c3d.classes")
    )
    assert torch.allclose(features["long"], features["enough"], rtol=1e-4, atol=1e-5)
    both = torch.stack([classes["enough"], classes["long"]])
    expected = inception_score(Predictions.from_probabilities(both, epsilon=1e-7))  # TGAN's
    assert result["inception_score:c3d"].value == pytest.approx(expected, rel=1e-12)

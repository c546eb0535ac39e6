"""The networks of the metrics against their authors' own code, whose results are in
tests/support/references."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics import vbench
from skipguide.metrics.networks import amt, c3d, clip, dino, flow, i3d, musiq, raft
from skipguide.metrics.networks.padding import pad_same
from support.references import vbench_inputs as reference
from support.saved_networks import checkpoint, saved

Tensor = torch.Tensor

TOLERANCE = 1e-5  # length of the difference, of the length of what it is a difference to


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    probabilities = torch.tensor(reference.recorded()["values"]["c3d.probabilities"])
    return load_file(reference.RECORD.with_suffix(".safetensors")) | {
        "c3d.probabilities": probabilities
    }


def frames(case: str) -> Tensor:
    return torch.from_numpy(reference.video(case)).float()


def first_two(divisor: int, scale: float = 1.0) -> Tensor:
    """Two frames `(2, 1, 3, H, W)` with sides that the divisor divides."""
    return flow.pad_to_multiple(frames("large")[:2] * scale, divisor)[0][:, None]


CLIPS = torch.from_numpy(reference.clips())
COMPUTED: dict[str, tuple[Callable[..., nn.Module], Callable[[Any], Tensor]]] = {
    "raft.flow": (raft.load, lambda model: model(*first_two(8))[0, :, ::8, ::8]),
    "amt.middle": (amt.load, lambda model: model(*first_two(16, 1 / 255))[0, :, ::4, ::4]),
    "musiq.scores": (musiq.load, lambda model: model(vbench.resize_for_musiq(frames("wide")))),
    "dino.features": (dino.load, lambda model: model(vbench.resize_for_dino(frames("wide")))),
    "clip_b32.features": (clip.load, lambda model: model(vbench.resize_for_clip(frames("wide")))),
    "i3d.features": (i3d.load, lambda model: i3d.features(model, CLIPS)),
    "c3d.probabilities": (c3d.load, lambda model: c3d.probabilities(model, CLIPS)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_network_computes_what_its_authors_compute(
    name: str, tmp_path: Path, theirs: dict[str, Tensor]
) -> None:
    load, compute = COMPUTED[name]
    model = load(*saved(name.split(".")[0], tmp_path))
    ours = compute(model)
    difference = ((ours - theirs[name]).norm() / theirs[name].norm()).item()
    print(f"{name}: relative difference {difference:.1e}")
    assert ours.shape == theirs[name].shape
    assert difference <= TOLERANCE
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_dino_reads_transformers_layout_as_transformers_does(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        image_size=64,
    )
    config.layer_norm_eps = 1e-6
    vit = ViTModel(config).eval()
    vit.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = vit(images).last_hidden_state[:, 0]
    torch.testing.assert_close(dino.load(tmp_path)(images), expected, rtol=1e-5, atol=1e-5)


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "load"), [("raft", raft.load), ("dino", dino.load), ("clip_b32", clip.load)]
)
def test_keys_that_do_not_fit_are_counted_and_named(
    network: str, load: Any, tmp_path: Path
) -> None:
    weights = checkpoint(network)
    gone, bent = sorted(key for key in weights if key.endswith("bias"))[:2]
    del weights[gone]
    weights[bent] = torch.zeros(3, 5)
    path = tmp_path / "weights.pth"
    torch.save(weights | {"module.extra": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"1 missing: .*1 unexpected: .*extra; 1 of another shape: .*\(3, 5\)"
    ) as info:
        load(path)
    name = gone.removeprefix("module.")
    assert name in str(info.value)


@pytest.mark.parametrize("load", [raft.load, amt.load, musiq.load, dino.load, clip.load, i3d.load])
def test_another_networks_weights_are_refused(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth must hold"):
        load(path)


class Code:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("network/constants.pkl", b"")


UNREADABLE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "absent": ("no.pth", lambda path: None, "must be a file, or a folder with"),
    "an empty folder": ("folder", Path.mkdir, "must be a file, or a folder with"),
    "runs code": (
        "code.pth",
        lambda path: torch.save({"weight": Code()}, path),
        "is damaged or has objects",
    ),
    "a program": ("script.pt", torchscript, "is a TorchScript program"),
    "torn": ("torn.pth", lambda path: path.write_bytes(b"PK\3\4"), "is damaged or has objects"),
    "torn safetensors": (
        "torn.safetensors",
        lambda path: path.write_bytes(b"torn"),
        "must be a safetensors file",
    ),
    "a list": (
        "list.pth",
        lambda path: torch.save([torch.zeros(1)], path),
        "tensors by name, but got a list",
    ),
    "no tensors": (
        "none.pth",
        lambda path: torch.save({"epoch": 3}, path),
        "tensors by name, but has none",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_files_that_cannot_be_read_say_why(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, message = UNREADABLE[kind]
    write(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        checkpoints.read(tmp_path / name)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 16, 100, 171), r"shape \(3, 16, 100, 171\)"), (None, "no array of that name")],
)
def test_a_mean_clip_of_another_shape_is_refused(shape: Any, message: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"other": np.zeros(1)} if shape is None else {"mean": np.zeros(shape)}
    np.savez(tmp_path / "mean2.npz", **arrays)
    np.savez(tmp_path / "weights.npz", none=np.zeros(1))
    with pytest.raises(ValueError, match=message):
        c3d.load(tmp_path / "weights.npz", tmp_path / "mean2.npz")


def test_arrays_are_read_from_npz_only(tmp_path: Path) -> None:
    torn = tmp_path / "weights.npz"
    torn.write_bytes(b"torn")
    with pytest.raises(ValueError, match="must be an npz archive"):
        c3d.load(torn, torn)


@pytest.mark.parametrize(("features", "count"), [(i3d.features, 8), (c3d.probabilities, 15)])
def test_clips_of_another_length_are_refused(features: Any, count: int) -> None:
    with pytest.raises(ValueError, match=rf"but got {count}"):
        features(nn.Identity(), torch.zeros(1, count, 3, 8, 8, dtype=torch.uint8))


# --- closed forms ---------------------------------------------------------------------------------


def test_correlation_finds_where_features_went() -> None:
    torch.manual_seed(0)
    first = torch.nn.functional.normalize(torch.randn(1, 64, 24, 24), dim=1)
    moved = first.roll((2, 1), (2, 3))  # two rows down, one column to the right
    matches = flow.Correlation(flow.correlation(first, moved), radius=3)
    found = matches.lookup(flow.grid(first) + torch.tensor([1.0, 2.0])[:, None, None])
    finest = found[:, :49, :-2, :-1]  # of the features that did not leave the frame
    assert torch.allclose(
        finest[:, 24], torch.tensor(1 / 64**0.5), atol=1e-6
    )  # the middle of 7 x 7
    assert (finest.argmax(1) == 24).all()
    beside = matches.lookup(flow.grid(first) + torch.tensor([0.0, 2.0])[:, None, None])[
        :, :49, :-2, :-1
    ]
    assert (
        beside.argmax(1) == 24 + 7
    ).all()  # one step along x, which the published weights expect to be the slow one


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 12)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (1, 1), (2, 2), (3, 1)])
def test_same_padding_gives_a_place_for_every_stride(
    size: tuple[int, int], kernel: int, stride: int
) -> None:
    padded = pad_same(torch.ones(1, 1, *size), (kernel, kernel), (stride, stride))
    found = nn.functional.avg_pool2d(padded, kernel, stride)
    assert found.shape[2:] == tuple(math.ceil(side / stride) for side in size)
    assert padded.sum() == size[0] * size[1]


def test_padding_repeats_borders_and_tells_what_is_inside() -> None:
    image = torch.rand(1, 3, 13, 21)
    padded, inside = flow.pad_to_multiple(image, 8)
    assert padded.shape == (1, 3, 16, 24)
    assert torch.equal(padded[0][inside], image[0])
    assert torch.equal(padded[..., 0, 1:22], image[..., 0, :])

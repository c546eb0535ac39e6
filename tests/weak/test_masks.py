"""A mask in space and time for the push of a term. How latents lie is written down here."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skipguide import SLG, STG, guide
from skipguide.files import video as video_file
from skipguide.guider import SkipGuidance
from skipguide.method import formula, masks
from skipguide.method.request import GuidanceRequest
from skipguide.weak.push_masks import lay_out
from support import oracle
from support.matrix import LARGE
from support.played import played
from support.tiny import tiny
from support.tiny.base import Tiny

Tensor = torch.Tensor
# name: dimensions of its predictions
PREDICTIONS = {
    "WanPipeline": "bcthw",
    "MochiPipeline": "bcthw",
    "CogVideoXPipeline": "btchw",
    "HunyuanVideo15Pipeline": "bcthw",
    "LattePipeline": "bcthw",
    "Kandinsky5T2VPipeline": "bthwc",
    "StableVideoDiffusionPipeline": "btchw",
    "AnimateDiffPipeline": "bcthw",
    "CogView4Pipeline": "bchw",
    "LTXPipeline": "packed",
    "LTX2Pipeline": "packed",
}
LAYERS: dict[str, Any] = {"StableVideoDiffusionPipeline": "up:1", "AnimateDiffPipeline": "up:1"}


def term(name: str, **options: Any) -> STG:
    return STG([LAYERS.get(name, 1)], 1.3, **options)


def first_output(small: Tiny, *terms: Any, **options: Any) -> list[Tensor]:
    """What the pipeline gets from its first call of the denoiser; passes of ours are within it."""
    found: list[Any] = []
    depth = [0]

    def before(*_: Any) -> None:
        depth[0] += 1

    def after(_: Any, __: Any, output: Any) -> None:
        depth[0] -= 1
        if depth[0] == 0:
            found.append(output)

    with guide(small.pipe, *terms, **options):
        model = oracle.models(small)[0]
        hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
        oracle.run(small, **small.short)
        for hook in hooks:
            hook.remove()
    return oracle.samples(found[0])


def grid_of(name: str) -> tuple[int, int, int]:
    """Frames, rows and columns of the latents, from a prediction."""
    layout = PREDICTIONS[name]
    small = tiny(name)
    with oracle.listening(small) as heard:
        oracle.run(small, **small.short)
    shape = oracle.samples(heard[0].output)[0].shape
    if layout == "packed":
        inputs = heard[0].kwargs
        found = tuple(inputs[key] for key in ("num_frames", "height", "width"))
        assert int(np.prod(found)) == shape[1]
        return found  # type: ignore[return-value]
    sizes = dict(zip(layout, shape, strict=True))
    return sizes.get("t", 1), sizes["h"], sizes["w"]


# --- on pipelines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in LARGE else []) for name in PREDICTIONS],
)
def test_half_a_mask_is_the_push_in_its_half_and_nothing_in_the_other(name: str) -> None:
    """In one step: left of the middle what the whole push gives, right of it what none gives, to
    the last bit."""
    small, (frames, rows, columns) = tiny(name), grid_of(name)
    half = torch.zeros(frames, rows, columns)
    half[:, :, : columns // 2] = 1
    if frames > 1:
        half[0] = 0  # and not in the first frame
    none = first_output(small, term(name, mask=torch.zeros(1, 1, 1)))
    whole, some = first_output(small, term(name)), first_output(small, term(name, mask=half))
    layout = PREDICTIONS[name]
    shape = {"b": 1, "c": 1, "t": frames, "h": rows, "w": columns}
    where = half.bool()
    where = (
        where.reshape(1, -1, 1)
        if layout == "packed"
        else where.reshape([shape[letter] for letter in layout])
    ).expand_as(some[0])
    assert torch.equal(some[0][where], whole[0][where])
    assert torch.equal(some[0][~where], none[0][~where])
    assert not torch.equal(whole[0][~where], none[0][~where])
    assert all(torch.equal(a, b) for a, b in zip(some[1:], whole[1:], strict=True))  # the audio


@pytest.mark.parametrize("name", ["WanPipeline", "LTX2Pipeline", "StableVideoDiffusionPipeline"])
def test_ones_are_no_mask(name: str) -> None:
    small = tiny(name)
    runs = []
    for options in ({}, {"mask": torch.ones(1, 1)}, {"mask": torch.ones(grid_of(name))}):
        with guide(small.pipe, term(name, **options), rescale=0.3):
            runs.append(oracle.run(small, **small.short))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_zeros_are_cfg_alone() -> None:
    """To the last bit where cond and uncond are separate calls; a batch runs in halves."""
    small = tiny("WanPipeline")
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, term("WanPipeline", mask=torch.zeros(1, 1))):
        assert torch.equal(oracle.run(small, **small.short), plain)
    small = tiny("MochiPipeline")
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, term("MochiPipeline", mask=torch.zeros(1, 1))):
        torch.testing.assert_close(oracle.run(small, **small.short), plain, atol=2e-5, rtol=1e-4)


def test_masks_that_complete_each_other_are_two_terms() -> None:
    """A push by halves, each with a layer of its own, and with a mask for each sample."""
    small = tiny("WanPipeline")
    frames, rows, columns = grid_of("WanPipeline")
    left = torch.zeros(2, frames, rows, columns)
    left[0, :, :, : columns // 2] = left[1, :, : rows // 2] = 1
    found = first_output(small, STG([1], 1.3, mask=left), STG([2], 0.4, mask=1 - left))[0]
    one, two = first_output(small, STG([1], 1.3))[0], first_output(small, STG([2], 0.4))[0]
    where = left[:, None].bool().expand_as(found)
    assert torch.equal(found[where], one[where])
    assert torch.equal(found[~where], two[~where])


def test_normalized_orthogonal_rescaled_and_beside_slg() -> None:
    """By the formula: lengths and inner products are those of whole differences."""
    torch.manual_seed(0)
    c, p, q = (torch.randn(2, 3, 2, 4, 4) for _ in range(3))
    mask = torch.rand(1, 1, 2, 4, 4)
    ours = formula.skip_guidance(c, [p, q], [1.0, 2.0], True, None, [True, False], [mask, None])
    whole = [
        formula.skip_guidance(c, [p, q], scales, True, None, [True, False])
        for scales in ([1.0, 2.0], [1.0, 0.0])
    ]
    torch.testing.assert_close(ours, whole[0] - whole[1] + mask * whole[1])
    small = tiny("WanPipeline")
    runs = []
    for given in (torch.ones(1, 1), None):
        terms = STG([1], 1.0, normalize=True, mask=given), STG([2], 0.5), SLG([1])
        with guide(small.pipe, *terms, rescale=0.7, orthogonalize=True):
            runs.append(oracle.run(small, **small.short))
    assert torch.equal(*runs)


def test_the_deviation_is_that_of_the_masked_D() -> None:
    """A rescaled run by hand, from separate passes: Algorithm 4 on u + g (c - u) + s m (c - p)."""
    given, s, phi = tiny("WanPipeline"), 1.3, 0.7
    frames, rows, columns = grid_of("WanPipeline")
    left = torch.zeros(1, frames, rows, columns)
    left[..., : columns // 2] = 1
    with guide(given.pipe, STG([1], s, mask=left), rescale=phi):
        found = oracle.run(given, **given.short)
    done: list[list[torch.Tensor]] = []

    def D(i: int, _: int, c: torch.Tensor, u: torch.Tensor, g: Any) -> torch.Tensor:
        step, _ = oracle.calls_of_step(given, i, done, dict(given.short))
        weak = oracle.weakened(step.calls[0].model, ["blocks.1"], "residual", ["attn1"])
        with torch.no_grad():
            p = oracle.samples(weak(**step.cond))[0]
        pushed = u + g * (c - u) + s * left[:, None] * (c - p)
        dims = tuple(range(1, c.ndim))
        ratio = c.std(dims, keepdim=True) / pushed.std(dims, keepdim=True)
        done.extend([[pushed * (phi * ratio + 1 - phi)]] * 2)
        return done[-1][0]

    torch.testing.assert_close(found, played(given, D), atol=1e-4, rtol=1e-3)


def test_bfloat16_one_batch_and_reuse() -> None:
    small = tiny("MochiPipeline", torch.bfloat16)
    left = torch.zeros(1, 1, 4)
    left[..., :2] = 1
    plain = oracle.run(small)
    every: list[dict[str, Any]] = [{}, {"exact": False}, {"budget": 2.2}]
    for options in every:
        with guide(small.pipe, STG([1], 1.0, mask=left), **options):
            found = oracle.run(small)
        assert torch.isfinite(found).all()
        assert not torch.equal(found, plain)


def test_a_mask_on_predictions_beside_conditions_is_refused() -> None:
    with pytest.raises(ValueError, match="mask needs a model whose latents lie on one grid"):
        guide(tiny("HeliosPipeline").pipe, STG([1], mask=torch.ones(1, 1)))
    small = tiny("WanPipeline")
    with (
        guide(small.pipe, STG([1], mask=torch.ones(8, 1, 1))),
        pytest.raises(ValueError, match=r"the frames of the video, or of its 3 in the latents.* 8"),
    ):
        oracle.run(small, **small.short, num_frames=9)
    with (
        guide(small.pipe, STG([1], mask=torch.ones(3, 1, 1, 1))),
        pytest.raises(ValueError, match="mask must have one sample, or as many as the batch, 2"),
    ):
        oracle.run(small, **small.short)


# --- sizes ----------------------------------------------------------------------------------------


def test_latents_have_the_mean_of_their_pixels_and_frames() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(1, 9, 8, 12)
    found = masks.resize(pixels, 3, 2, 3)
    first = pixels[0, 0].reshape(2, 4, 3, 4).mean((1, 3))
    torch.testing.assert_close(found[0, 0], first)
    for n in (1, 2):  # frames 1 to 4, and 5 to 8
        group = pixels[0, 4 * n - 3 : 4 * n + 1].reshape(4, 2, 4, 3, 4).mean((0, 2, 4))
        torch.testing.assert_close(found[0, n], group)


def test_frames_without_one_of_its_own_go_into_equal_groups() -> None:
    pixels = torch.arange(8.0).reshape(1, 8, 1, 1) / 8
    torch.testing.assert_close(
        masks.resize(pixels, 4, 1, 1).flatten(), torch.tensor([0.5, 2.5, 4.5, 6.5]) / 8
    )
    assert masks.resize(pixels, 8, 2, 2)[0, 3].eq(3 / 8).all()
    assert masks.resize(pixels[:, :1], 5, 2, 2).shape == (1, 5, 2, 2)
    assert float(masks.resize(pixels, 1, 1, 1)) == pytest.approx(3.5 / 8)
    with pytest.raises(ValueError, match="frames of the video, or of its 3 in the latents"):
        masks.resize(pixels, 3, 1, 1)


def test_every_layout() -> None:
    mask = torch.rand(2, 3, 4, 5)
    assert torch.equal(lay_out(mask, "bcthw")[:, 0], mask)
    assert torch.equal(lay_out(mask, "btchw")[:, :, 0], mask)
    assert torch.equal(lay_out(mask, "bthwc")[..., 0], mask)
    assert torch.equal(lay_out(mask[:, :1], "bchw")[:, 0], mask[:, 0])
    tokens = lay_out(mask, "packed")
    assert tokens.shape == (2, 60, 1)
    assert torch.equal(tokens[1, 1 * 20 + 2 * 5 + 3, 0], mask[1, 1, 2, 3])


# --- files, and as text ---------------------------------------------------------------------------


def test_a_picture_and_a_video(tmp_path: Path) -> None:
    pixels = np.zeros((9, 16, 16, 3), np.uint8)
    pixels[5:, :, :8] = 255
    Image.fromarray(pixels[8]).save(tmp_path / "left.png")
    video_file.write(tmp_path / "late.mp4", pixels, Fraction(8), {})
    picture, video = (STG([1], mask=str(tmp_path / name)).mask for name in ("left.png", "late.mp4"))
    assert picture.values.shape == (1, 1, 16, 16)
    assert torch.equal(picture.values[0, 0], torch.from_numpy(pixels[8, ..., 0]) / 255)
    assert video.values.shape == (1, 9, 16, 16)
    wanted = torch.from_numpy(pixels[None, ..., 0]) / 255
    torch.testing.assert_close(video.values, wanted, atol=0.1, rtol=0)  # lossy
    term = STG([1], mask=tmp_path / "late.mp4")
    assert term == STG([1], mask=str(tmp_path / "late.mp4"))
    assert term != STG([1], mask=str(tmp_path / "left.png"))
    small = tiny("WanPipeline")
    with guide(small.pipe, STG([1], mask=tmp_path / "left.png")):
        named = oracle.run(small, **small.short)
    with guide(small.pipe, STG([1], mask=picture.values)):
        assert torch.equal(oracle.run(small, **small.short), named)


def test_plain_data_has_the_hash_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "left.png"
    Image.new("L", (16, 16), 255).save(file)
    request = GuidanceRequest.from_dict({"terms": f"layers=8 mask={file}"})
    content = json.loads(json.dumps(request.to_dict()))
    mask = content["terms"][0]["mask"]
    assert mask["file"] == str(file)
    assert len(mask["sha256"]) == 64
    assert GuidanceRequest.from_dict(content) == request
    guider = SkipGuidance(terms=list(request.terms))
    assert SkipGuidance.from_config(guider.config).terms == guider.terms  # type: ignore[union-attr]
    Image.new("L", (16, 16), 0).save(file)
    with pytest.raises(ValueError, match=r"the file that it was, .* Put the old file back, or"):
        GuidanceRequest.from_dict(content)


def test_a_tensor_is_no_plain_data() -> None:
    term = STG([1], mask=torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"that is a tensor cannot be written down\. Save it"):
        GuidanceRequest((term,)).to_dict()
    guider = SkipGuidance(terms=[term])
    assert guider.new(rescale=0.1).terms == guider.terms
    with pytest.raises(ValueError, match=r"a term of this one has a mask that is a tensor"):
        guider.save_config("nowhere")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3), r"the shape \(H, W\), .* but got \(3,\)"),
        (torch.ones(1, 1, 1, 1, 1), r"the shape \(H, W\)"),
        (torch.ones(0, 2), r"the shape \(H, W\)"),
        (torch.full((2, 2), 1.5), "values from 0 .* from 1.5 to 1.5. Divide"),
        (torch.full((2, 2), float("nan")), "values from 0"),
        ("nowhere.png", "there is no file 'nowhere.png'. Check the name"),
        (object(), "mask must be a tensor, or the name of a picture or video, but got <object"),
        ({"name": 1}, "mask must be the name of a file, with its sha256 or without"),
    ],
)
def test_wrong_masks_are_refused_at_once(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STG([1], mask=mask)

"""The models and the scheduler of Open-Sora 1.2 against upstream's own code, whose results are in
tests/support/references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from skipguide.opensora import original
from skipguide.opensora.autoencoder import AutoencoderKLOpenSora
from skipguide.opensora.scheduler import OpenSoraRFlowScheduler
from skipguide.opensora.transformer import OpenSoraTransformer3DModel
from support.references import opensora as reference

Tensor = torch.Tensor

TOLERANCE = 1e-5  # largest absolute difference to upstream in float32, where values go up to 9
SAMPLING = 5e-5  # after 5 steps, each of which multiplies rounding by 7 + 6


@pytest.fixture(autouse=True)
def _without_gradients(request: pytest.FixtureRequest) -> Any:
    with torch.set_grad_enabled("trains" in request.node.name):
        yield


@pytest.fixture(scope="module")
def transformer(opensora_checkpoints: Path) -> OpenSoraTransformer3DModel:
    return original.load_transformer(opensora_checkpoints / "transformer")


@pytest.fixture(scope="module")
def vae(opensora_checkpoints: Path) -> AutoencoderKLOpenSora:
    return original.load_autoencoder(opensora_checkpoints / "vae", **reference.spatial_config())


def check(what: str, ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal as far as float32 goes; `pytest -s` shows how far that is."""
    difference = (ours - theirs).abs().max().item()
    print(
        f"{what}: largest absolute difference {difference:.1e} of values up to"
        f" {theirs.abs().max().item():.3g}"
    )
    assert ours.shape == theirs.shape
    assert difference <= tolerance, what


def copied(model: Any) -> Any:
    """Another model with the same weights."""
    copy = type(model).from_config(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def wide(**changes: Any) -> dict[str, Any]:
    """Inputs of the transformer: two rows, five latent frames of 6 x 10, texts of 12 and 5
    tokens."""
    inputs = reference.case("transformer.wide")
    del inputs["sample"]
    return {**inputs, **changes}


# --- the transformer ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["wide", "wide-frames", "odd", "image"])
def test_the_transformer_is_upstreams(transformer: Any, case: str) -> None:
    inputs = reference.case(f"transformer.{case}")
    sample = inputs.pop("sample")
    check(f"transformer, {case}", transformer(**inputs).sample, sample)
    assert torch.equal(transformer(**inputs, return_dict=False)[0], transformer(**inputs).sample)


def test_padding_of_texts_changes_nothing(transformer: Any) -> None:
    text, mask = wide()["encoder_hidden_states"].clone(), torch.tensor([[1] * 5 + [0] * 7] * 2)
    text[:, 5:] = 1000.0
    padded = transformer(**wide(encoder_hidden_states=text, encoder_attention_mask=mask)).sample
    for short_mask in (torch.ones(2, 5, dtype=torch.bool), None):
        short = transformer(
            **wide(encoder_hidden_states=text[:, :5], encoder_attention_mask=short_mask)
        ).sample
        check("padded text", padded, short)


def test_a_frame_mask_of_ones_is_none(transformer: Any) -> None:
    ones = torch.ones(2, 5, dtype=torch.bool)
    check("all noisy", transformer(**wide(frame_mask=ones)).sample, transformer(**wide()).sample)


def test_given_frames_are_at_timestep_0_in_all_blocks(transformer: Any) -> None:
    """What enters the last layer; the last layer itself lets the timestep through to given frames,
    as upstream's."""
    entered: list[Tensor] = []
    handle = transformer.norm_out.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    try:
        transformer(**wide(frame_mask=torch.zeros(2, 5).bool()))
        transformer(**wide(timestep=torch.zeros(2)))
    finally:
        handle.remove()
    assert len(entered) == 3  # twice with a mask
    check("all given", entered[0], entered[2])


def test_rows_know_nothing_of_each_other(transformer: Any) -> None:
    sizes = dict(
        fps=torch.tensor([24.0, 8.0]),
        height=torch.tensor([48.0, 480.0]),
        width=torch.tensor([80.0, 800.0]),
    )
    inputs = wide(**sizes, frame_mask=torch.tensor([[0, 1, 1, 1, 1], [1, 1, 0, 1, 1]]).bool())
    both = transformer(**inputs).sample
    for row in (0, 1):
        alone = transformer(**{name: value[row : row + 1] for name, value in inputs.items()}).sample
        check(f"row {row} alone", both[row : row + 1], alone)


def test_one_number_does_for_all_rows(transformer: Any) -> None:
    numbers = dict(timestep=torch.tensor(500.0), fps=24, height=48, width=torch.tensor([80.0]))
    expanded = {name: torch.full((2,), float(value)) for name, value in numbers.items()}
    assert torch.equal(
        transformer(**wide(**numbers)).sample, transformer(**wide(**expanded)).sample
    )


@pytest.mark.parametrize("name", ["fps", "height", "timestep"])
def test_numbers_matter(transformer: Any, name: str) -> None:
    inputs = wide()
    changed = transformer(**{**inputs, name: inputs[name] / 2}).sample
    assert (changed - transformer(**inputs).sample).abs().max() > 0.01


def test_the_transformer_trains(transformer: Any) -> None:
    model = copied(transformer)
    model(
        **wide(frame_mask=torch.tensor([[0, 1, 1, 1, 1]] * 2).bool())
    ).sample.square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()
    )


def test_the_transformer_in_bfloat16(transformer: Any) -> None:
    model = copied(transformer)
    half = {name: wide()[name].bfloat16() for name in ("hidden_states", "encoder_hidden_states")}
    sample, exact = model.to(torch.bfloat16)(**wide(**half)).sample, transformer(**wide()).sample
    assert sample.dtype == torch.bfloat16
    error = (sample.float() - exact).std() / exact.std()
    print(f"transformer in bfloat16: relative error {error.item():.4f}")
    assert error < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_states": torch.zeros(2, 3, 5, 6, 10)},
            r"hidden_states must be \(B, 4, F, H, W\), but got \(2, 3,",
        ),
        ({"encoder_hidden_states": torch.zeros(2, 12, 7)}, r"must be \(2, L, 24\)"),
        ({"encoder_hidden_states": torch.zeros(1, 12, 24)}, "one text for each row"),
        (
            {"encoder_attention_mask": torch.ones(2, 11)},
            r"encoder_attention_mask must be \(2, 12\)",
        ),
        (
            {"frame_mask": torch.ones(2, 17).bool()},
            r"frame_mask must be \(2, 5\) for these inputs, but got \(2, 17\)",
        ),
        ({"fps": torch.ones(3)}, "fps must be one value, or one for each of the 2 rows, but has 3"),
    ],
)
def test_wrong_inputs_of_the_transformer(
    transformer: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**wide(**changes))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": (2, 2, 2)}, "one frame to a patch"),
        ({"attention_head_dim": 3, "num_attention_heads": 4}, "attention_head_dim must be even"),
        ({"attention_head_dim": 2, "num_attention_heads": 3}, "a multiple of 4"),
    ],
)
def test_wrong_sizes_of_the_transformer(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenSoraTransformer3DModel(num_layers=1, **config)


def test_attention_can_be_skipped(transformer: Any) -> None:
    from skipguide.families.identity_attention import plain_attention

    for block in (transformer.spatial_blocks[0], transformer.temporal_blocks[0]):
        tokens = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0))
        check("attention over one token", plain_attention(block.attn1, tokens), block.attn1(tokens))


def test_the_transformer_takes_diffusers_own_additions(transformer: Any) -> None:
    """Attention processors and caches act on every attention; LoRA trains on top."""
    from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
    from peft import LoraConfig

    model = copied(transformer)
    assert len(model.attn_processors) == 8  # 2 pairs of blocks, each with attn1 and attn2
    model.set_attn_processor(model.attn_processors)
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        )
    )
    check("with a cache", model(**wide()).sample, transformer(**wide()).sample)
    model.disable_cache()
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    check("with a fresh adapter", model(**wide()).sample, transformer(**wide()).sample)


# --- the VAE --------------------------------------------------------------------------------------


def normalization(vae: AutoencoderKLOpenSora) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    return mean, std


@pytest.mark.parametrize("case", ["long", "short", "image"])
def test_the_vae_is_upstreams(vae: Any, case: str) -> None:
    expected, (mean, std) = reference.case(f"vae.{case}"), normalization(vae)
    latents = vae.encode(expected["video"]).latent_dist.mode()
    check(f"encoded, {case}", (latents - mean) / std, expected["latents"])
    sample = vae.decode(
        expected["latents"] * std + mean, num_frames=expected["video"].shape[2]
    ).sample
    check(f"decoded, {case}", sample, expected["decoded"])


def test_both_posteriors_are_sampled_as_upstreams(vae: Any) -> None:
    expected, (mean, std) = reference.case("vae.sampled"), normalization(vae)
    generator = torch.Generator().manual_seed(reference.SEED)
    posterior = vae.encode(expected["video"], sample_spatial=True, generator=generator).latent_dist
    check("sampled", (posterior.sample(generator) - mean) / std, expected["latents"])


@pytest.mark.parametrize(
    ("frames", "latents"), [(1, 1), (4, 1), (5, 2), (16, 4), (17, 5), (18, 6), (34, 10), (51, 15)]
)
def test_latent_frames(vae: Any, frames: int, latents: int) -> None:
    assert vae.latent_frames(frames) == latents
    video = torch.zeros(1, 3, frames, 8, 16)
    encoded = vae.encode(video, return_dict=False)[0].mode()
    assert encoded.shape == (1, 4, latents, 1, 2)
    assert vae.decode(encoded, frames, return_dict=False)[0].shape == video.shape


def test_chunks_know_nothing_of_each_other_and_frames_nothing_of_the_future(vae: Any) -> None:
    video = reference.case("vae.long")["video"]
    latents = vae.encode(video).latent_dist.mode()
    check("second chunk", latents[:, :, 5:10], vae.encode(video[:, :, 17:34]).latent_dist.mode())
    conv = vae.temporal_vae.encoder.conv_in
    x = torch.randn(1, 4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    check("past only", conv(x)[:, :, :4], conv(x[:, :, :4]))


def test_slicing_and_micro_batches_change_nothing(vae: Any) -> None:
    video = torch.cat([reference.case("vae.short")["video"]] * 2).flip(4)
    latents = vae.encode(video).latent_dist.mode()
    sample = vae.decode(latents, 5).sample
    vae.enable_slicing()
    try:
        check("encoded in slices", vae.encode(video).latent_dist.mode(), latents)
        check("decoded in slices", vae.decode(latents, 5).sample, sample)
    finally:
        vae.disable_slicing()
    assert not vae.use_slicing


def test_tiling_is_that_of_the_spatial_part(vae: Any) -> None:
    video = torch.zeros(1, 3, 1, 40, 40)
    latents = vae.encode(video).latent_dist.mode()
    vae.enable_tiling()
    try:
        assert vae.spatial_vae.use_tiling
        tiled = vae.decode(vae.encode(video).latent_dist.mode(), 1).sample
    finally:
        vae.disable_tiling()
    whole = vae.decode(latents, 1).sample
    assert tiled.shape == whole.shape == video.shape
    assert not vae.spatial_vae.use_tiling
    assert not torch.equal(tiled, whole)


def test_the_vae_trains(vae: Any) -> None:
    model = copied(vae)
    video = reference.case("vae.short")["video"]
    out = model(video, sample_posterior=True, generator=torch.Generator().manual_seed(0)).sample
    (out - video).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_vae_in_bfloat16(vae: Any) -> None:
    model = copied(vae)
    expected = reference.case("vae.short")
    sample = model.to(torch.bfloat16)(expected["video"].bfloat16()).sample.float()
    exact = vae(expected["video"]).sample
    error = (sample - exact).std() / exact.std()
    print(f"VAE in bfloat16: relative error {error.item():.4f}")
    assert error < 0.05


def test_wrong_inputs_of_the_vae(vae: Any) -> None:
    with pytest.raises(
        ValueError, match=r"x must be a video \(B, 3, F, H, W\), but got \(1, 4, 5, 8, 8\)"
    ):
        vae.encode(torch.zeros(1, 4, 5, 8, 8))
    with pytest.raises(ValueError, match=r"z must be latents \(B, 4, f, h, w\)"):
        vae.decode(torch.zeros(1, 3, 5, 8, 8), 17)
    with pytest.raises(
        ValueError, match=r"num_frames=18 needs 6 latent frames, but z has 5\. Pass the num_frames"
    ):
        vae.decode(torch.zeros(1, 4, 5, 8, 8), 18)
    with pytest.raises(ValueError, match="num_frames must be at least 1, but got 0"):
        vae.latent_frames(0)
    with pytest.raises(ValueError, match="1 values for 2 widths, but got 3"):
        AutoencoderKLOpenSora(
            block_out_channels=(8,), norm_num_groups=8, temporal_block_out_channels=(8, 8)
        )


# --- the scheduler --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "num_frames"), reference.SIZES)
def test_timesteps_are_upstreams_to_the_last_bit(height: int, width: int, num_frames: int) -> None:
    scheduler = OpenSoraRFlowScheduler()
    scheduler.set_timesteps(30, height=height, width=width, num_frames=num_frames)
    assert torch.equal(
        scheduler.timesteps, reference.tensors()[f"scheduler.{height}x{width}x{num_frames}"]
    )
    assert scheduler.sigmas.shape == (31,)
    assert scheduler.sigmas[-1] == 0
    assert (scheduler.sigmas.diff() < 0).all()


def test_no_timestep_is_beyond_noise() -> None:
    """Upstream's first one is 1000.0001 for 64 x 48 pixels and 17 frames (no frame moves then), and
    0 / 0 for 5."""
    scheduler = OpenSoraRFlowScheduler()
    for height in range(16, 1100, 16):
        for frames in (1, 5, 17, 51):
            scheduler.set_timesteps(2, height=height, width=48, num_frames=frames)
            assert scheduler.timesteps.isfinite().all()
            assert 999.99 < scheduler.timesteps[0] <= 1000


def test_plain_timesteps() -> None:
    scheduler = OpenSoraRFlowScheduler(use_timestep_transform=False)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]
    discrete = OpenSoraRFlowScheduler(use_timestep_transform=False, use_discrete_timesteps=True)
    discrete.set_timesteps(3)
    assert discrete.timesteps.tolist() == [1000, 667, 333]


def test_steps_go_from_noise_to_video() -> None:
    generator = torch.Generator().manual_seed(0)
    video, noise = (torch.randn(2, 4, 3, 2, 2, generator=generator) for _ in range(2))
    scheduler = OpenSoraRFlowScheduler()
    scheduler.set_timesteps(7, height=480, width=854, num_frames=51)
    sample = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        check(
            f"on the line at {t.item():.0f}", sample, scheduler.add_noise(video, noise, t.expand(2))
        )
        sample = scheduler.step(
            video - noise, t, scheduler.scale_model_input(sample, t)
        ).prev_sample  # type: ignore
    check("at the end", sample, video)
    assert scheduler.step_index == 7


def test_a_run_can_begin_in_the_middle() -> None:
    scheduler, sample = OpenSoraRFlowScheduler(), torch.ones(1)
    size: Any = dict(height=512, width=512, num_frames=1)
    scheduler.set_timesteps(4, **size)
    found = scheduler.step(sample, scheduler.timesteps[2], sample, return_dict=False)[0]  # type: ignore[index]
    assert found.item() == pytest.approx(1.25)
    assert scheduler.step_index == 3
    scheduler.set_timesteps(4, **size)
    scheduler.set_begin_index(2)
    scheduler.step(sample, 0.0, sample)
    assert (scheduler.begin_index, scheduler.step_index) == (2, 3)


def test_noise_per_row_and_the_dtypes() -> None:
    scheduler, zeros, ones = OpenSoraRFlowScheduler(), torch.zeros(3, 2), torch.ones(3, 2)
    added = scheduler.add_noise(zeros, ones, torch.tensor([0.0, 250.0, 1000.0]))
    assert added[:, 0].tolist() == [0, 0.25, 1]
    assert torch.equal(
        scheduler.scale_noise(zeros, torch.tensor([0.0, 250.0, 1000.0]), ones), added
    )
    assert (
        scheduler.add_noise(zeros.bfloat16(), ones.bfloat16(), torch.tensor(5.0)).dtype
        == torch.bfloat16
    )
    scheduler.set_timesteps(2, height=512, width=512, num_frames=1)
    step = scheduler.step(ones.bfloat16(), scheduler.timesteps[0], zeros, return_dict=False)
    assert step[0].dtype == torch.float32  # type: ignore[index]


def test_wrong_inputs_of_the_scheduler() -> None:
    scheduler = OpenSoraRFlowScheduler()
    with pytest.raises(ValueError, match="Call set_timesteps first"):
        scheduler.step(torch.zeros(1), 1000.0, torch.zeros(1))
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1, but got 0"):
        scheduler.set_timesteps(0, height=8, width=8, num_frames=1)
    with pytest.raises(ValueError, match=r"needs height, width and num_frames.*got 8, None and 1"):
        scheduler.set_timesteps(2, height=8, num_frames=1)
    scheduler.set_timesteps(2, height=512, width=512, num_frames=1)
    with pytest.raises(
        ValueError, match=r"timestep must be one of scheduler\.timesteps, but got 3\.0"
    ):
        scheduler.step(torch.zeros(1), 3.0, torch.zeros(1))


# --- both, sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["text", "frames"])
def test_five_steps_are_upstreams(transformer: Any, case: str) -> None:
    """RFLOW.sample, written out: CFG 7 with the learned null caption under the prompt's mask, and
    given frames."""
    run = reference.case(f"sample.{case}")
    texts = torch.cat([transformer.null_caption.expand(2, -1, -1), run["prompt_embeds"]])
    numbers = {name: run[name].repeat(2) for name in ("fps", "height", "width")}
    scheduler = OpenSoraRFlowScheduler()
    height, width, num_frames = (int(run[name][0]) for name in ("height", "width", "num_frames"))
    scheduler.set_timesteps(5, height=height, width=width, num_frames=num_frames)

    latents, edit = run["latents"], run.get("frame_mask", torch.ones(2, 5))
    noisy = edit == 1
    for step, t in enumerate(scheduler.timesteps):
        before, moves = latents, edit * 1000 >= t
        if "noise" in run:
            new = scheduler.add_noise(latents, run["noise"][step], t)
            latents = torch.where((moves & ~noisy)[:, None, :, None, None], new, latents)
        noisy = moves
        frame_mask = moves.repeat(2, 1) if "noise" in run else None
        uncond, cond = transformer(
            torch.cat([latents] * 2),
            t,
            texts,
            run["prompt_attention_mask"].repeat(2, 1),
            frame_mask,
            **numbers,
            return_dict=False,
        )[0][:, :4].chunk(2)
        latents = scheduler.step(uncond + 7 * (cond - uncond), t, latents, return_dict=False)[0]  # type: ignore[index]
        latents = torch.where(moves[:, None, :, None, None], latents, before)
    check(f"5 steps, {case}", latents, run["output"], SAMPLING)


# --- saving and reading ---------------------------------------------------------------------------


def test_models_are_saved_and_read_bit_for_bit(transformer: Any, vae: Any, tmp_path: Path) -> None:
    for model in (transformer, vae):
        model.save_pretrained(tmp_path / type(model).__name__)
        again = type(model).from_pretrained(tmp_path / type(model).__name__)
        settings = json.loads((tmp_path / type(model).__name__ / "config.json").read_text())
        assert json.loads(json.dumps({name: again.config[name] for name in settings})) == settings
        ours, theirs = model.state_dict(), again.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(
        transformer.null_caption, reference.transformer_weights()["y_embedder.y_embedding"]
    )


def test_the_scheduler_is_saved_and_read(tmp_path: Path) -> None:
    OpenSoraRFlowScheduler(transform_scale=1.5).save_pretrained(tmp_path)
    again: Any = OpenSoraRFlowScheduler.from_pretrained(tmp_path)
    assert again.config["transform_scale"] == 1.5
    assert len(again) == 1000


def test_the_config_is_read_from_upstreams(transformer: Any, vae: Any) -> None:
    assert (transformer.config.num_layers, transformer.config.attention_head_dim) == (2, 16)
    assert vae.config.temporal_block_out_channels == (8, 16, 16, 32)
    assert vae.config.latents_std == reference.VAE["scale"]
    assert (vae.temporal_compression_ratio, vae.spatial_compression_ratio) == (4, 8)
    assert original._transformer_config({}) == {"out_channels": 8}
    assert (
        original._autoencoder_config(
            {"micro_frame_size": None, "vae_temporal": {"type": "VAE_Temporal_SD"}}
        )
        == {}
    )


def test_the_defaults_are_as_large_as_the_published_checkpoints() -> None:
    """model.safetensors has 4.84 GB and 1,573,430,548 bytes, in float32, with headers of some 100
    kB."""
    with torch.device("meta"):
        models = OpenSoraTransformer3DModel(), AutoencoderKLOpenSora()
    sizes = [4 * sum(value.numel() for value in model.state_dict().values()) for model in models]
    assert sizes == [pytest.approx(4.84e9, abs=5e6), pytest.approx(1_573_430_548, abs=1e5)]


def test_a_pickle_of_tensors_is_read_and_another_is_not(
    opensora_checkpoints: Path, transformer: Any, tmp_path: Path
) -> None:
    weights = load_file(opensora_checkpoints / "transformer" / "model.safetensors")
    (tmp_path / "config.json").write_text(
        (opensora_checkpoints / "transformer" / "config.json").read_text()
    )
    torch.save(weights, tmp_path / "pytorch_model.bin")
    again = original.load_transformer(tmp_path).state_dict()
    assert all(torch.equal(again[key], value) for key, value in transformer.state_dict().items())
    torch.save({"hidden": Path("/")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match="must hold only tensors, but it is damaged or has objects"
    ):
        original.load_transformer(tmp_path)
    torch.save(list(weights.values()), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        original.load_transformer(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"a folder with model\.safetensors or pytorch_model\.bin"
    ):
        original.load_transformer(tmp_path / "nowhere")


def rewrite(
    checkpoint: Path, to: Path, weights: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A checkpoint with other weights (None takes one out) and other values of its config."""
    state = {**load_file(checkpoint / "model.safetensors"), **(weights or {})}
    save_file(
        {key: value for key, value in state.items() if value is not None}, to / "model.safetensors"
    )
    (to / "config.json").write_text(
        json.dumps({**json.loads((checkpoint / "config.json").read_text()), **config})
    )
    return to


def test_keys_that_miss_or_are_too_many_are_named(
    opensora_checkpoints: Path, tmp_path: Path
) -> None:
    wrong = {
        "t_block.1.bias": None,
        "spatial_blocks.0.attn.qkv.weight": None,
        "what.is.this": torch.zeros(1),
    }
    wrong["final_layer.linear.bias"] = torch.zeros(3)
    with pytest.raises(
        ValueError, match="the weights must fit OpenSoraTransformer3DModel"
    ) as error:
        original.load_transformer(rewrite(opensora_checkpoints / "transformer", tmp_path, wrong))
    text = str(error.value)
    assert (
        "4 missing: spatial_blocks.0.attn1.to_k.weight, spatial_blocks.0.attn1.to_q.weight" in text
    )
    assert "1 unexpected: what.is.this" in text
    assert "1 of another shape: proj_out.bias (3,) instead of (32,)" in text
    deeper = rewrite(opensora_checkpoints / "transformer", tmp_path, depth=3)
    with pytest.raises(ValueError, match=r"46 missing: .* and 34 more"):
        original.load_transformer(deeper)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"skip_y_embedder": True}, "skip_y_embedder=True, which is not"),
        ({"pred_sigma": False}, "pred_sigma=False"),
    ],
)
def test_configs_that_are_not_supported(
    opensora_checkpoints: Path, tmp_path: Path, config: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        original.load_transformer(rewrite(opensora_checkpoints / "transformer", tmp_path, **config))


def test_other_rotations_and_other_vaes_are_refused(
    opensora_checkpoints: Path, tmp_path: Path
) -> None:
    rounded = {"rope.freqs": reference.transformer_weights()["rope.freqs"].bfloat16()}
    original.load_transformer(rewrite(opensora_checkpoints / "transformer", tmp_path, rounded))
    with pytest.raises(ValueError, match=r"rope\.freqs must be 10000"):
        original.load_transformer(
            rewrite(opensora_checkpoints / "transformer", tmp_path, {"rope.freqs": torch.ones(8)})
        )
    with pytest.raises(ValueError, match="must hold shift and scale, but lack scale"):
        original.load_autoencoder(rewrite(opensora_checkpoints / "vae", tmp_path, {"scale": None}))
    other = {"type": "VideoAutoencoderKLTemporalDecoder"}
    with pytest.raises(
        ValueError,
        match="must be of a VAE with a VideoAutoencoderKL, but has a VideoAutoencoderKLTemp",
    ):
        original.load_autoencoder(rewrite(opensora_checkpoints / "vae", tmp_path, vae_2d=other))

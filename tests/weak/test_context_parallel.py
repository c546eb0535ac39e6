"""Guidance in several processes that divide the tokens of one video, against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models._modeling_parallel import ContextParallelConfig, TensorParallelConfig

from skipguide import enable_context_parallel
from skipguide.families.schema import Stack
from skipguide.files import video
from skipguide.weak.attention import AttentionView
from skipguide.weak.shuffle import ShuffleTokens
from skipguide.weak.step_context import StepContext
from support import parallel
from support.parallel import CASES, GUIDER_CASES, KEY_CASES, Division
from support.saved import saved
from support.tiny import tiny

RING = {"ring_degree": 2}
ALL = tuple(CASES)
ONE_PART = "in ring attention it sees one part of the keys at a time"
IN_RINGS = {"soft": ONE_PART, "blur": ONE_PART, "frames": ONE_PART}
IN_TURN = "it sees shares of the video with text or sound between them"
BESIDE_TEXT = {"blur": IN_TURN, "frames": IN_TURN}
# What we have plans for: text beside the video in each attention, with a mask or without.
OURS = ("unguided", "residual 0", "residual 1", "attention 0", "soft", "shuffle 1", "slg shuffle 0")
MORE_OURS = (*KEY_CASES, "soft", "blur", "frames", "slg 0", "random", "every second")
# Wan's plan splits at its first block, that of LTX the inputs of the model, and that of Helios the
# inputs of its attentions and feed-forwards.
DIVISIONS = {
    "Wan": Division("wan", "WanPipeline", cases=ALL),
    "LTX, ring": Division("ltx", "LTXPipeline", RING, parallel.FULL_MASKS),
    "Mochi": Division("mochi", "MochiPipeline", call=parallel.short_prompts(16), cases=OURS),
    "HunyuanVideo": Division(
        "hunyuan", "HunyuanVideoPipeline", call=parallel.short_prompts(8), cases=OURS
    ),
    "CogVideoX": Division("cogvideox", "CogVideoXPipeline", cases=OURS),
}
OTHERS = {
    "Helios": Division(
        "helios", "HeliosPipeline", call={"height": 32, "width": 64},
        plan=parallel.blocks_that_are_there,
    ),
    "Wan, ring": Division("wan", "WanPipeline", RING, cases=ALL, refused=IN_RINGS),
    "Wan, around each block": Division(
        "wan", "WanPipeline", plan=parallel.around_each_block, cases=ALL
    ),
    "Wan 2.2": Division("wan", "WanPipeline 2.2"),
    "Wan 5B": Division("wan", "WanPipeline 5B"),
    "Wan image to video": Division("wan", "WanImageToVideoPipeline"),
    "Wan video to video": Division("wan", "WanVideoToVideoPipeline"),
    "LucyEdit": Division("wan", "LucyEditPipeline"),
    "ChronoEdit": Division("wan", "ChronoEditPipeline"),
    "SkipGuidance": Division("modular", "modular Wan", cases=tuple(GUIDER_CASES)),
    **{
        f"{name}, more terms": Division(
            module, pipeline, call=call, cases=MORE_OURS, refused=BESIDE_TEXT
        )
        for name, module, pipeline, call in (
            ("Mochi", "mochi", "MochiPipeline", {}),
            ("HunyuanVideo", "hunyuan", "HunyuanVideoPipeline", {}),
            ("Skyreels", "hunyuan", "HunyuanSkyreelsImageToVideoPipeline", {}),
            ("CogVideoX", "cogvideox", "CogVideoXPipeline", {}),
            ("CogVideoX 1.5", "cogvideox", "CogVideoXImageToVideoPipeline 1.5", {}),
            ("CogVideoX-2b", "cogvideox", "CogVideoXVideoToVideoPipeline", {}),
        )
    },
    "CogVideoX, ring": Division("cogvideox", "CogVideoXPipeline", RING),
    "HunyuanVideo, a user's plan": Division(
        "hunyuan", "HunyuanVideoPipeline", plan=parallel.both_streams,
        cases=(*KEY_CASES, "soft", "blur", "frames"), refused=BESIDE_TEXT,
    ),
}  # fmt: skip
FOUR = {
    "Wan, ring and Ulysses": Division("wan", "WanPipeline", {**RING, "ulysses_degree": 2}),
}
NAMES = [
    "Wan",
    *(
        pytest.param(name, marks=pytest.mark.matrix)
        for name in (*DIVISIONS, *OTHERS)
        if name != "Wan"
    ),
    *(pytest.param(name, marks=pytest.mark.long) for name in FOUR),
]


@pytest.mark.parametrize("name", NAMES)
def test_several_processes_make_the_video_that_one_makes(name: str, tmp_path: Path) -> None:
    division = {**DIVISIONS, **OTHERS, **FOUR}[name]
    world = division.world
    with parallel.processes(world, tmp_path, parallel.divided, division) as ranks:
        one = parallel.whole(division)
    for case in division.cases[1:]:
        assert (one[case] - one["unguided"]).abs().max() > 1e-2, f"{case} changes nothing"
    refused = {case: ranks[0][case] for case in one if isinstance(ranks[0][case], str)}
    assert refused.keys() == division.refused.keys()
    assert all(words in refused[case] for case, words in division.refused.items())
    gaps = {
        (case, rank): (latents[case] - one[case]).abs().max().item()
        for rank, latents in enumerate(ranks)
        for case in one.keys() - refused
    }
    assert {where: gap for where, gap in gaps.items() if not gap < 1e-5} == {}


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["Mochi", "HunyuanVideo", "CogVideoX"])
def test_a_plan_alone_is_not_enough(name: str, tmp_path: Path) -> None:
    """If this fails, diffusers has what is missing, and the row of the model may go."""
    division = replace(DIVISIONS[name], plan=parallel.ours_alone, cases=("unguided",))
    with parallel.processes(2, tmp_path, parallel.divided, division) as ranks:
        one = parallel.whole(division)["unguided"]
    gaps = [((latents["unguided"] - one).abs().max() / one.abs().max()).item() for latents in ranks]
    print(name, gaps)
    assert min(gaps) > 1e-2


# --- what cannot be divided -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "config", "words"),
    [
        ("MochiPipeline", ContextParallelConfig(ring_degree=2), "ring_degree is 2"),
        (
            "HunyuanVideoPipeline",
            ContextParallelConfig(ulysses_degree=2, ulysses_anything=True),
            "ulysses_anything is True",
        ),
        ("CogVideoXPipeline", ContextParallelConfig(ulysses_degree=3), "the 2 heads of CogVideoX"),
        (
            "HunyuanVideoImageToVideoPipeline token_replace",
            ContextParallelConfig(ulysses_degree=2),
            "treats those of the first frame apart",
        ),
        ("LattePipeline", ContextParallelConfig(ulysses_degree=2), "neither diffusers nor"),
        ("MochiPipeline", TensorParallelConfig(tp_degree=2), "ContextParallelConfig"),
    ],
)
def test_refused_at_once(pipeline: str, config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        enable_context_parallel(tiny(pipeline).pipe, config)


def test_processors_of_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        pass

    pipe = tiny("MochiPipeline").pipe
    monkeypatch.setattr(pipe.transformer.transformer_blocks[1].attn1, "processor", Own())
    with pytest.raises(ValueError, match="diffusers' own attention processors"):
        enable_context_parallel(pipe, ContextParallelConfig(ulysses_degree=2))


def test_without_processes_nothing_is_left_on_the_model() -> None:
    pipe = tiny("MochiPipeline").pipe
    attentions = [block.attn1 for block in pipe.transformer.transformer_blocks]
    before = [attention.processor for attention in attentions]
    with pytest.raises(RuntimeError, match="must be available and initialized"):
        enable_context_parallel(pipe, ContextParallelConfig(ulysses_degree=2))
    assert [attention.processor for attention in attentions] == before


# --- shuffled tokens ------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=pytest.mark.matrix), torch.bfloat16]
)
def test_shares_of_any_size_are_put_into_one_order(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, order = torch.randn(2, 8, 4, generator=generator).to(dtype), torch.randperm(8)
    sizes = (4, 3, 1)
    with parallel.processes(3, tmp_path, parallel.permuted_shares, sizes, order, x) as shares:
        pass
    assert [share.shape[1] for share in shares] == [*sizes]
    assert torch.equal(torch.cat(shares, 1), x[:, order])


def test_tokens_of_space_and_time_are_not_shuffled_in_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = tiny("OpenSoraPipeline").pipe.transformer.spatial_blocks[1]
    config = SimpleNamespace(context_parallel_config=SimpleNamespace())
    monkeypatch.setattr(block.attn1.processor, "_parallel_config", config, raising=False)
    view = AttentionView(StepContext("bcthw", {}), "spatial")
    stack = Stack("", 1, ("hidden_states",), {})
    proxy = ShuffleTokens(block, stack, None, view, "tokens", 0, "1", True)
    with pytest.raises(ValueError, match="needs all tokens of a frame, or of a place, in one"):
        proxy(torch.zeros(1, 4, 8))


@pytest.mark.matrix
def test_parallelism_may_be_switched_on_after_guidance(tmp_path: Path) -> None:
    division, case = Division("wan", "WanPipeline", cases=("shuffle 0",)), "shuffle 0"
    job = parallel.divided_while_guided
    with parallel.processes(2, tmp_path, job, division, case) as ranks:
        one = parallel.whole(division)[case]
    assert all((latents - one).abs().max() < 1e-5 for latents in ranks)


@pytest.mark.matrix
def test_the_example_makes_the_video_that_one_process_makes(tmp_path: Path) -> None:
    division = Division("wan", "WanPipeline", cases=("residual 0",))
    with parallel.processes(2, tmp_path, parallel.by_example, division) as ranks:
        one = parallel.whole(division)["residual 0"]
    first, _ = one.chunk(2)  # of two videos
    assert all((video.flatten() - first).abs().max() < 1e-5 for video in ranks)


@pytest.mark.long
def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    words = ["a red fox", "--model", str(saved("WanPipeline", tmp_path)), "--layer", "1"]
    words += ["--frames", "5", "--steps", "2", "--size", "32", "--out", str(tmp_path / "fox.mp4")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    found = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(parallel.EXAMPLE), *words],
        env={"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    frames, fps = video.read(tmp_path / "fox.mp4")
    assert frames.shape == (5, 32, 32, 3)
    assert fps == 16

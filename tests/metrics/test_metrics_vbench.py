"""VBench's metrics of one video against VBench's own code and closed forms.

The results of VBench's code are in tests/support/references."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from skipguide.metrics import vbench
from skipguide.metrics.networks import aesthetic, amt, clip, dino, musiq, raft
from support.references import vbench_inputs as reference
from support.saved_networks import saved

Tensor = torch.Tensor
Networks = Callable[[str], Any]

TOLERANCE = 1e-5  # relative
VALUES = reference.recorded()["values"]
NETWORKS: dict[
    str, tuple[Callable[..., nn.Module], tuple[str, ...]]
] = {  # of a metric: its loader, and what it loads
    "imaging_quality": (musiq.load, ("musiq",)),
    "aesthetic_quality": (aesthetic.load, ("clip_l14", "laion_head")),
    "background_consistency": (clip.load, ("clip_b32",)),
    "subject_consistency": (dino.load, ("dino",)),
    "motion_smoothness": (amt.load, ("amt",)),
    "dynamic_degree": (raft.load, ("raft",)),
}
MEASURED = [name for name in VALUES if name.split(".")[0] in (*NETWORKS, "temporal_flickering")]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """The network of a metric, with drawn weights; None where it needs none."""
    found: dict[str, Any] = {"temporal_flickering": None}

    def network(metric: str) -> Any:
        if metric not in found:
            load, parts = NETWORKS[metric]
            folder = tmp_path_factory.mktemp(metric)
            found[metric] = load(*(path for part in parts for path in saved(part, folder)))
        return found[metric]

    return network


def video(case: str) -> Tensor:
    return torch.from_numpy(reference.video(case))


def flat(*levels: int, height: int = 128, width: int = 136) -> Tensor:
    """A video whose frames are each of one grey."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, height, width)


@pytest.mark.parametrize("name", MEASURED)
def test_a_metric_is_what_vbench_says(name: str, networks: Networks) -> None:
    metric, case = name.split(".")
    ours = getattr(vbench, metric)(networks(metric), video(case), reference.VIDEOS[case][1])
    print(
        f"{name}: {ours:.6f}, relative difference {abs(ours - VALUES[name]) / max(ours, 1e-12):.1e}"
    )
    assert ours == pytest.approx(VALUES[name], rel=TOLERANCE)


@pytest.mark.parametrize("case", ["large", "fast", "slow"])
def test_motion_of_a_pair_is_what_vbench_compares_with_its_threshold(
    case: str, networks: Networks
) -> None:
    step = 3 if case == "fast" else 1  # of 24 frames per second, 8 are looked at
    pairs = itertools.pairwise(video(case)[::step])
    ours = list(vbench.motions(networks("dynamic_degree"), pairs, 0.05))
    print(
        f"motions.{case}:"
        f" {max(abs(a / b - 1) for a, b in zip(ours, VALUES[f'motions.{case}'], strict=True)):.1e}"
    )
    assert ours == pytest.approx(VALUES[f"motions.{case}"], rel=TOLERANCE)


class Sliding(nn.Module):
    """In the place of RAFT: flows to the right, of given lengths."""

    def __init__(self, lengths: list[float]) -> None:
        super().__init__()
        self.still = nn.Parameter(torch.zeros(()))
        self.lengths = iter(lengths)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        along = torch.full_like(first[:, :1], next(self.lengths))
        return torch.cat([along, torch.zeros_like(along)], 1)


@pytest.mark.parametrize("index", range(len(reference.FLOWS)), ids=str)
def test_flows_are_judged_as_by_vbench(index: int) -> None:
    flow = reference.FLOWS[index]
    frames = torch.zeros(flow[0], 3, *flow[1:], dtype=torch.uint8)
    moves = vbench.dynamic_degree(Sliding(reference.lengths(flow)), frames, None)
    static = vbench.is_static(Sliding(reference.lengths(flow)), frames, None)
    assert [bool(moves), static] == VALUES["decisions"][index]


@pytest.mark.parametrize(
    ("fps", "pairs"), [(None, 11), (8.0, 11), (11.9, 11), (12.1, 5), (24.0, 3), (60.0, 1)]
)
def test_motion_is_looked_for_about_8_times_a_second(fps: float | None, pairs: int) -> None:
    network = Sliding([0.0] * 20)
    vbench.dynamic_degree(network, flat(*range(12)), fps)
    assert 20 - len(list(network.lengths)) == pairs


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "score"),
    [((7, 7, 7), 1.0), ((0, 255, 0), 0.0), ((100, 151, 100), 0.8), ((51, 0, 0), 0.9)],
    ids=["frozen", "black and white", "a fifth", "once"],
)
def test_flickering_is_the_mean_difference_of_neighbours(
    levels: tuple[int, ...], score: float
) -> None:
    assert vbench.temporal_flickering(None, flat(*levels), None) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("metric", ["subject_consistency", "background_consistency"])
def test_a_frozen_video_is_consistent(metric: str, networks: Networks) -> None:
    frozen = video("small")[:1].expand(4, -1, -1, -1)
    assert getattr(vbench, metric)(networks(metric), frozen, None) == pytest.approx(1.0, abs=1e-6)


class Brightness(nn.Module):
    """In the place of DINO: 1 for a bright image, -1 for a dark one."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean((1, 2, 3)) - self.limit).sign()[:, None]


def test_opposite_frames_count_as_unlike_not_as_less() -> None:
    frames = flat(255, 0, 255)  # unlike the one before: 0 and 0; like the first: 0 and 1
    assert vbench.subject_consistency(Brightness(), frames, None) == pytest.approx((0 + 0.5) / 2)


@pytest.mark.parametrize(
    ("levels", "score"), [((90, 90, 90), 1.0), ((100, 151, 100, 151, 100), 0.8)]
)
def test_smoothness_is_the_difference_to_the_frame_between(
    levels: tuple[int, ...], score: float
) -> None:
    network = amt.AMTS().eval()
    for last in (network.decoder1[-1], network.comb_block[-1]):
        for parameter in last.parameters():
            nn.init.zeros_(parameter)  # nothing is added to what the flows fetch
    found = vbench.motion_smoothness(network, flat(*levels), None)
    assert found == pytest.approx(score, abs=1.01 / 255)  # VBench cuts off guesses to whole levels


def test_a_network_without_flow_sees_no_motion(networks: Networks) -> None:
    network = raft.RAFT().eval()
    for parameter in network.update_block.flow_head.parameters():
        nn.init.zeros_(parameter)
    assert list(vbench.motions(network, itertools.pairwise(video("slow")[:2]), 0.05)) == [0.0]
    assert vbench.dynamic_degree(network, video("slow")[:3], None) == 0.0


def test_order_and_number_of_frames_at_once_do_not_matter(networks: Networks) -> None:
    frames = torch.cat([video("small")] * 3 + [video("small")[:1]])
    network = networks("aesthetic_quality")
    together = vbench.aesthetic_quality(network, frames, None)
    apart = [vbench.aesthetic_quality(network, frame[None], None) for frame in frames]
    assert together == pytest.approx(sum(apart) / len(apart), rel=1e-6)
    assert together == pytest.approx(
        vbench.aesthetic_quality(network, frames.flip(0), None), rel=1e-6
    )


class OnMps(Tensor):
    """In the place of a tensor of Apple's GPUs, which have no float64."""

    def double(self) -> Any:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support"
            " float64."
        )

    def cpu(self, *args: Any, **kwargs: Any) -> Any:
        return self.as_subclass(Tensor)


def test_features_on_a_device_without_float64() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]).as_subclass(OnMps)
    assert vbench._mean(features) == pytest.approx(4 / 6)
    assert vbench._consistency(features) == pytest.approx((0 + 0.5) / 2)


# --- what cannot be measured ----------------------------------------------------------------------

ONE, TWO, SMALL = flat(1), flat(1, 2), flat(1, 2, 3, height=112, width=400)
REFUSED: dict[str, tuple[str, Any, Tensor, float | None, str]] = {
    "no network": ("imaging_quality", None, TWO, 8.0, "network of this metric"),
    "floats": ("temporal_flickering", None, TWO.float(), 8.0, r"\(2, 3, 128, 136\) torch.float32"),
    "channels last": ("temporal_flickering", None, TWO.movedim(1, 3), 8.0,
        r"\(2, 128, 136, 3\) torch.uint8"),
    "no frame": ("imaging_quality", Brightness(), TWO[:0], 8.0,
        "at least 1 frames, but got 0"),
    "one frame, flickering": ("temporal_flickering", None, ONE, 8.0,
        "at least 2 frames, but got 1"),
    "one frame, subject": ("subject_consistency", Brightness(), ONE, 8.0,
        "at least 2 frames, but got 1"),
    "two frames, smoothness": ("motion_smoothness", Sliding([]), TWO, 8.0,
        "at least 3 frames, but got 2"),
    "short, dynamic": ("dynamic_degree", Sliding([]), TWO, 24.0,
        "two frames at 8 fps, but got 2 frames at 24.0 fps"),
    "small, dynamic": ("dynamic_degree", Sliding([]), SMALL, 8.0,
        "more than 120 pixels a side, but got 112 x 400"),
    "small, static": ("is_static", Sliding([]), SMALL, 8.0,
        "more than 120 pixels a side, but got 112 x 400"),
    "small, smoothness": ("motion_smoothness", Sliding([]), SMALL, 8.0,
        "more than 112 pixels a side"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_measured_says_why(reason: str) -> None:
    metric, network, frames, fps, message = REFUSED[reason]
    with pytest.raises(ValueError, match=message):
        getattr(vbench, metric)(network, frames, fps)

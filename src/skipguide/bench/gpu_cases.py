"""What `skipguide bench --gpu` measures: four models at the size of their checkpoints, as data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skipguide.families.examples import Size, Workload, example_of

SECONDS = 530  # of the whole script, which must be over in 9 minutes


@dataclass(frozen=True)
class GpuCase:
    """A model of a family at the size of its checkpoint.

    Args:
        family: the name of its row.
        title: the model, as its makers call it.
        config: arguments of the denoiser's class that differ from its defaults, which are those of
            the checkpoint, and those that the example's inputs read.
        sizes: of the latents, by the names that modes use: "video" is 480p with 81 frames (or the
            nearest that the autoencoder makes), "short" a third of it, "few" so few tokens that
            they do not fill a large GPU.
        seconds: the share of SECONDS that it may take.
    """

    family: str
    title: str
    config: Mapping[str, Any]
    sizes: Mapping[str, Size]
    seconds: int

    def workload(self, size: str, small: bool) -> Workload:
        """Return a forward pass of the model at one of its sizes; `small` is the example's own."""
        example = example_of(self.family)
        if small:
            work = example.workload("small")
            return Workload({**work.config, **self.flags}, work.inputs, work.layer, work.terms)
        make = functools.partial(example.inputs, self.config, self.sizes[size])
        return Workload(self.config, make, example.layer, example.terms)

    @property
    def flags(self) -> dict[str, Any]:
        """The entries of the config that switch something on."""
        return {name: value for name, value in self.config.items() if value is True}


@dataclass(frozen=True)
class Mode:
    """One way of running a model, and what is measured in it.

    Args:
        name: for tables.
        size: a key of `GpuCase.sizes`.
        ways: those of `BenchmarkStep.ways`; None is all of them.
        share: of the seconds of the case.
        setup: the name of a function of `gpu_case.SETUPS`.
        needs_cuda: it is left out on other devices.
        steps: of the run whose last step is measured; where a step is short, one in the middle of a
            run, for the first one has checks to make.
    """

    name: str
    size: str
    ways: tuple[str, ...] | None = None
    share: float = 0.1
    setup: str = "plain"
    needs_cuda: bool = False
    steps: int = 1


# Mochi's autoencoder makes 6 k + 1 frames, the others 4 k + 1 or 8 k + 1. 848 x 480 or 832 x 480.
CASES = (
    GpuCase(
        "mochi", "Mochi 1 (10B), 85 frames", dict(in_channels=12, text_embed_dim=4096),
        dict(video=Size(15, 60, 106, 256), short=Size(5, 60, 106, 256), few=Size(2, 20, 36, 256)),
        seconds=115,
    ),
    GpuCase(
        "wan", "Wan 2.1 (14B)", dict(in_channels=16, text_dim=4096),
        dict(video=Size(21, 60, 104, 512), short=Size(7, 60, 104, 512), few=Size(2, 20, 36, 512)),
        seconds=165,
    ),
    GpuCase(
        "hunyuan", "HunyuanVideo (13B)",
        dict(in_channels=16, text_embed_dim=4096, pooled_projection_dim=768),
        dict(video=Size(21, 60, 106, 256), short=Size(7, 60, 106, 256), few=Size(2, 20, 36, 256)),
        seconds=165,
    ),
    GpuCase(
        "ltx-2", "LTX-2 (19B)",
        dict(in_channels=128, audio_in_channels=128, caption_channels=3840, perturbed_attn=True),
        dict(video=Size(11, 15, 26, 128), short=Size(4, 15, 26, 128), few=Size(2, 6, 9, 128)),
        seconds=85,
    ),
)  # fmt: skip

_OURS = ("cfg", "full", "shared", "batch")
# In the order in which they run: what changes the model for good comes last.
MODES = (
    Mode("eager, few tokens", "few", share=0.1, steps=3),
    Mode("eager, 480p x 81 frames", "video", _OURS, share=0.5),
    Mode(
        "compiled blocks, a third of the frames", "short", _OURS, 0.15, "compiled", steps=3
    ),
    Mode("CUDA graphs, few tokens", "few", _OURS, 0.15, "cuda_graphs", needs_cuda=True, steps=3),
    Mode(
        "offload with streams, a third of the frames", "short", _OURS, 0.1, "offload",
        needs_cuda=True, steps=3,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class GpuOptions:
    """The options of one run of the script.

    Args:
        device: "cuda", or "cpu" with `small`.
        small: take the small examples, to test the path.
        seconds: of the whole script.
        cases: the families to measure; all by default.
    """

    device: str = "cuda"
    small: bool = False
    seconds: float = field(default_factory=lambda: SECONDS)
    cases: tuple[str, ...] = field(default_factory=lambda: tuple(case.family for case in CASES))

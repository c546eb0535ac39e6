"""The catalog of metrics, networks and the sources of their weights, as rows of data.

`skipguide metrics` prints them. A new metric is a row of METRICS, a new extractor a row of
EXTRACTORS, a file that they need a row of WEIGHTS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Range = tuple[float | None, float | None]  # None: no bound
Kind = Literal["video", "image"]


@dataclass(frozen=True)
class Weights:
    """A weights file, or a transformers folder, that a network loads."""

    files: tuple[str, ...]  # names to look for; the first that exists is used
    where: str  # where it is published
    licence: str
    commercial: bool = True  # False: not used unless requested
    repo: str | None = None  # on the hub, whose cache is searched too
    sha256: str = ""  # of the first file, or a prefix of it, if the publisher states it
    packaged: str = ""  # the folder of skipguide.lab's weights that has it


@dataclass(frozen=True)
class Extractor:
    """A network that turns a clip into features or class probabilities, for the set metrics."""

    module: str  # has load(*paths) and what networks/clips.py says
    weights: tuple[str, ...]
    frames: int | None  # how many of the first frames of a video it sees; None: all of them
    width: int  # of the features, or the number of classes
    preparation: str
    fewest: int = 2  # frames
    has_features: bool = True
    classes: int = 0  # for which it gives probabilities; 0 if it gives none
    sound: bool = False  # whether it hears the sound of a video, and does not see its frames
    of: Kind = "video"  # what it sees; "image" sees one frame
    epsilon: float = 0.0  # added inside the logarithms of the Inception Score by its protocol


@dataclass(frozen=True)
class Metric:
    """A metric that gives one number for a set of videos, or one for each video."""

    name: str
    kind: Literal["set", "video"]
    what: str
    source: str
    range: Range
    better: Literal["higher", "lower"]
    extractor: str = ""  # the usual one of a set metric
    module: str = ""  # with the network of a per-video metric
    weights: tuple[str, ...] = ()
    reference: bool = False  # whether it needs a set to compare with
    fewest_videos: int = 1
    enough_videos: int = 1  # fewer cause a warning
    fewest_frames: int = 1
    # VBench: the values that count as 0 and as 1 in its quality score, and the weight there
    normalised: tuple[float, float] | None = None
    weight: float = 0.0
    share: Literal["", "generated", "reference"] = ""  # the videos that it is a share of, if any
    sound: bool = False  # whether it needs the sound of a video
    uses_rate: bool = False  # whether it picks frames by time
    on_request: bool = False  # whether an evaluation that names no metrics leaves it out
    uses_text: bool = False  # whether it compares a clip with its prompt
    of: tuple[Kind, ...] = ("video", "image")  # what it can measure
    picture_extractor: str = ""  # the usual one where pictures are measured, if it is another


_MIT, _APACHE, _BSD, _NC = "MIT", "Apache-2.0", "BSD-3-Clause", "CC BY-NC 4.0"
_NC_SA = "CC BY-NC-SA 4.0"
_NO_LICENCE = "none stated"

WEIGHTS: dict[str, Weights] = {
    "judge": Weights(("judge.safetensors",), "this package", _APACHE, packaged="judge"),
    "open-judge": Weights(("judge.safetensors",), "this package", _APACHE, packaged="open-judge"),
    "i3d": Weights(
        ("i3d_pretrained_400.pt",),
        "https://github.com/songweige/TATS, tats/fvd/: DeepMind's weights as a state dict",
        f"{_NO_LICENCE} (DeepMind's own: {_APACHE})",
    ),
    "videomae": Weights(
        ("vit_g_hybrid_pt_1200e_ssv2_ft.pth",),
        "https://huggingface.co/OpenGVLab/InternVideoMAE_models, mae-g/",
        f"{_NC} (VideoMAE V2's)", commercial=False,
    ),
    "vjepa2": Weights(
        ("vjepa2-vitl-fpc64-256",),
        "https://huggingface.co/facebook/vjepa2-vitl-fpc64-256, the folder", _MIT,
        repo="facebook/vjepa2-vitl-fpc64-256",
    ),
    "c3d": Weights(
        ("conv3d_deepnetA_ucf.npz",),
        "https://github.com/rezoo/tgan2, release v1.0: C3D tuned on UCF-101", _NO_LICENCE
    ),
    "c3d_mean": Weights(
        ("mean2.npz",), "https://github.com/rezoo/tgan2, release v1.0", _NO_LICENCE
    ),
    "musiq": Weights(
        ("musiq_spaq_ckpt-358bb6af.pth",),
        "https://github.com/chaofengc/IQA-PyTorch, release v0.1-weights",
        f"{_NC_SA} (IQA-PyTorch's, which converted it; google-research's original: {_APACHE})",
        commercial=False, repo="chaofengc/IQA-PyTorch-Weights", sha256="358bb6af",
    ),
    "clip_l14": Weights(
        ("clip-vit-large-patch14",), "https://huggingface.co/openai/clip-vit-large-patch14", _MIT,
        repo="openai/clip-vit-large-patch14",
    ),
    "laion_head": Weights(
        ("sa_0_4_vit_l_14_linear.pth",), "https://github.com/LAION-AI/aesthetic-predictor", _MIT
    ),
    "clip_b32": Weights(
        ("clip-vit-base-patch32",), "https://huggingface.co/openai/clip-vit-base-patch32", _MIT,
        repo="openai/clip-vit-base-patch32",
    ),
    "clip_l14_336": Weights(
        ("clip-vit-large-patch14-336",),
        "https://huggingface.co/openai/clip-vit-large-patch14-336, the folder", _MIT,
        repo="openai/clip-vit-large-patch14-336",
    ),
    "inception": Weights(
        ("pt_inception-2015-12-05-6726825d.pth",),
        "https://github.com/mseitzer/pytorch-fid, release fid_weights", _APACHE, sha256="6726825d",
    ),
    "dino": Weights(
        ("dino_vitbase16_pretrain.pth", "dino-vitb16"), "https://github.com/facebookresearch/dino",
        _APACHE,
        repo="facebook/dino-vitb16",
    ),
    "raft": Weights(("raft-things.pth",), "https://github.com/princeton-vl/RAFT, models.zip", _BSD),
    "vggish": Weights(
        ("vggish-10086976.pth",),
        "https://github.com/harritaylor/torchvggish, release v0.1: Google's weights", _APACHE,
    ),
    "panns": Weights(
        ("Cnn14_16k_mAP=0.438.pth",), "https://zenodo.org/records/3987831",
        "as its record states (the code: MIT)",
    ),
    "clap": Weights(
        ("clap-htsat-unfused",), "https://huggingface.co/laion/clap-htsat-unfused, the folder",
        _APACHE, repo="laion/clap-htsat-unfused",
    ),
    "amt": Weights(
        ("amt-s.pth",), "https://huggingface.co/lalala125/AMT", _NC, commercial=False,
        repo="lalala125/AMT"
    ),
}  # fmt: skip

EXTRACTORS: dict[str, Extractor] = {
    "i3d": Extractor(
        "skipguide.metrics.networks.i3d", ("i3d",), 16, 400,
        "first 16 frames, 224 x 224 bilinear, [-1, 1]; the logits of Kinetics-400 (StyleGAN-V)",
        fewest=16,
    ),
    "videomae": Extractor(
        "skipguide.metrics.networks.videomae", ("videomae",), 16, 1408,
        "first 16 frames, / 255, 224 x 224 bilinear without antialiasing, not normalised"
        " (content-debiased-fvd)",
        fewest=16,
    ),
    "vjepa2": Extractor(
        "skipguide.metrics.networks.vjepa2", ("vjepa2",), 16, 1024,
        "first 16 frames, short side 292 bilinear, centre 256 x 256, ImageNet's mean and deviation;"
        " mean over tokens",
        fewest=16,
    ),
    "c3d": Extractor(
        "skipguide.metrics.networks.c3d", ("c3d", "c3d_mean"), 16, 101,
        "first 16 frames, 128 x 128 cubic, BGR, mean clip subtracted, centre 112 x 112 (TGAN)",
        fewest=16, has_features=False, classes=101, epsilon=1e-7,
    ),
    "judge": Extractor(
        "skipguide.metrics.networks.judge", ("judge",), None, 128,
        "all frames, in time the nearest of 19, 64 x 64, [-1, 1]; it knows the clips of"
        " skipguide.lab and no others",
        classes=384,
    ),
    "vggish": Extractor(
        "skipguide.metrics.networks.vggish", ("vggish",), None, 128,
        "the sound, mono, 16 kHz, windows of 0.96 s, no PCA, before the last ReLU"
        " (frechet-audio-distance, fadtk)",
        sound=True,
    ),
    "clap": Extractor(
        "skipguide.metrics.networks.clap", ("clap",), None, 512,
        "the sound, mono, 48 kHz, windows of 10 s every second, filled up with silence (fadtk)",
        sound=True,
    ),
    "panns": Extractor(
        "skipguide.metrics.networks.panns", ("panns",), None, 2048,
        "the sound, mono, 16 kHz, all of it at once (frechet-audio-distance)", sound=True,
    ),
    "open-judge": Extractor(
        "skipguide.metrics.networks.judge", ("open-judge",), None, 128,
        "as for judge; it knows the clips of lab-mochi-2's world and no others",
        classes=576,
    ),
    "inception": Extractor(
        "skipguide.metrics.networks.inception_v3", ("inception",), 1, 2048,
        "299 x 299 bilinear without antialiasing, [-1, 1] (pytorch-fid)", fewest=1, classes=1008,
        of="image",
    ),
    "clip": Extractor(
        "skipguide.metrics.networks.clip_picture", ("clip_l14_336",), 1, 768,
        "centre square, 336 x 336 bicubic, CLIP's mean and deviation; of length 1 (CMMD)", fewest=1,
        of="image",
    ),
}  # fmt: skip


def _prdc_metric(
    name: str,
    what: str,
    source: str,
    share: Literal["", "generated", "reference"] = "",
    range: Range = (0, 1),
) -> Metric:
    return Metric(
        name, "set", what, source, range, "higher", extractor="i3d", reference=True,
        fewest_videos=6, enough_videos=1024, share=share, picture_extractor="inception",
    )  # fmt: skip


def _vbench_metric(
    name: str, what: str, normalised: tuple[float, float], network: str = "",
    weights: tuple[str, ...] = (), fewest_frames: int = 1, weight: float = 1.0,
    range: Range = (0, 1), share: Literal["", "generated"] = "", uses_rate: bool = False,
) -> Metric:  # fmt: skip
    """Return a row of VBench; `normalised` and `weight` are from scripts/constant.py at 45e79ec."""
    return Metric(
        name, "video", what, "VBench, arXiv:2311.17982", range, "higher", weights=weights,
        fewest_frames=fewest_frames, module=network and f"skipguide.metrics.networks.{network}",
        normalised=normalised, weight=weight, share=share, uses_rate=uses_rate,
        of=("video", "image") if fewest_frames == 1 else ("video",),
    )  # fmt: skip


def _pixel_metric(
    name: str, what: str, better: Literal["higher", "lower"] = "higher", range: Range = (0, 1),
    fewest_frames: int = 1, uses_rate: bool = False,
) -> Metric:  # fmt: skip
    """Return a row of what a video is like, which is not how good it is."""
    return Metric(
        name, "video", what, "this package", range, better, fewest_frames=fewest_frames,
        uses_rate=uses_rate, on_request=True,
        of=("video", "image") if fewest_frames == 1 else ("video",),
    )  # fmt: skip


def _sound_metric(
    name: str, what: str, source: str, range: Range, network: str = "",
    weights: tuple[str, ...] = (), fewest_frames: int = 1, uses_rate: bool = False,
) -> Metric:  # fmt: skip
    """Return a row of single videos with a sound, on request: most videos have none."""
    return Metric(
        name, "video", what, source, range, "higher", weights=weights, fewest_frames=fewest_frames,
        module=network and f"skipguide.metrics.networks.{network}", uses_rate=uses_rate,
        sound=True, on_request=True, of=("video",),
    )  # fmt: skip


_ROWS = (
    Metric(
        "fvd", "set", "Frechet distance between the features", "arXiv:1812.01717", (0, None),
        "lower",
        extractor="i3d", reference=True, fewest_videos=2, enough_videos=256, of=("video",),
    ),
    Metric(
        "kvd", "set", "squared maximum mean discrepancy of the features, cubic kernel, unbiased",
        "arXiv:1801.01401",
        (None, None), "lower", extractor="i3d", reference=True, fewest_videos=2, enough_videos=50,
        of=("video",),
    ),
    Metric(
        "fid", "set", "Frechet distance between the features of pictures", "arXiv:1706.08500",
        (0, None), "lower", extractor="inception", reference=True, fewest_videos=2,
        enough_videos=10_000, of=("image",),
    ),
    Metric(
        "kid", "set", "as kvd, of pictures", "arXiv:1801.01401", (None, None), "lower",
        extractor="inception", reference=True, fewest_videos=2, enough_videos=50, of=("image",),
    ),
    Metric(
        "cmmd", "set", "1,000 times the squared maximum mean discrepancy, Gaussian kernel, biased",
        "arXiv:2401.09603", (0, None), "lower", extractor="clip", reference=True, fewest_videos=2,
        enough_videos=1000, of=("image",),
    ),
    Metric(
        "inception_score", "set",
        "classes certain for each video and varied over all; at most their number",
        "arXiv:1611.06624", (1, None), "higher", extractor="c3d", fewest_videos=2,
        enough_videos=2048, picture_extractor="inception",
    ),
    _prdc_metric(
        "precision", "share of videos that lie among the reference", "arXiv:1904.06991",
        "generated",
    ),
    _prdc_metric(
        "recall", "share of the reference that lies among the videos", "arXiv:1904.06991",
        "reference",
    ),
    _prdc_metric(
        "density", "how densely the reference lies around the videos", "arXiv:2002.09797",
        range=(0, None),
    ),
    _prdc_metric(
        "coverage", "share of the reference with a video near it", "arXiv:2002.09797",
        "reference",
    ),
    Metric(
        "vendi", "set", "effective number of different videos; at most their number",
        "arXiv:2210.02410",
        (1, None), "higher", extractor="i3d", fewest_videos=2, enough_videos=50,
        picture_extractor="inception",
    ),
    Metric(
        "clip_score", "video", "100 times the cosine of frames and prompt by CLIP ViT-L/14, from 0",
        "arXiv:2104.08718", (0, 100), "higher", module="skipguide.metrics.networks.clip_text",
        weights=("clip_l14",), uses_text=True, on_request=True,  # the folder must be whole
    ),
    _vbench_metric("imaging_quality", "MUSIQ (SPAQ) per frame", (0.0, 1.0), "musiq", ("musiq",)),
    _vbench_metric(
        "aesthetic_quality", "LAION's head on CLIP ViT-L/14, per frame", (0.0, 1.0), "aesthetic",
        ("clip_l14", "laion_head"), range=(None, None),
    ),
    _vbench_metric(
        "motion_smoothness", "how well AMT-S guesses every other frame", (0.706, 0.9975), "amt",
        ("amt",), 3,
    ),
    _vbench_metric(
        "dynamic_degree", "share of videos in which RAFT sees motion", (0.0, 1.0), "raft",
        ("raft",), 2, 0.5,
        share="generated", uses_rate=True,
    ),
    _vbench_metric(
        "temporal_flickering", "1 - mean difference of neighbouring frames", (0.6293, 1.0),
        fewest_frames=2,
    ),
    _vbench_metric(
        "subject_consistency", "DINO likeness of frames to the first and to the one before",
        (0.1462, 1.0), "dino",
        ("dino",), 2,
    ),
    _vbench_metric(
        "background_consistency", "CLIP ViT-B/32 likeness of frames, likewise", (0.2615, 1.0),
        "clip",
        ("clip_b32",), 2,
    ),
    _pixel_metric(
        "motion", "mean difference of frames an eighth of a second apart", fewest_frames=2,
        uses_rate=True,
    ),
    _pixel_metric(
        "sharpness", "steepness of edges: 1 / the pixels that they ramp over", range=(0, None)
    ),
    _pixel_metric("saturation", "distance of pixels from grey", "lower"),
    Metric(
        "fad", "set", "Frechet distance between the features of the sounds", "arXiv:1812.08466",
        (0, None), "lower", extractor="vggish", reference=True, fewest_videos=2,
        enough_videos=256, sound=True, on_request=True, of=("video",),
    ),
    _sound_metric(
        "av_align", "onsets of the sound that come with a peak of motion, over all of both",
        "arXiv:2309.16429", (0, None), fewest_frames=3, uses_rate=True,
    ),
    _sound_metric(
        "clap_score", "likeness of the sound to the prompt", "arXiv:2211.06687", (-1, 1), "clap",
        ("clap",),
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}

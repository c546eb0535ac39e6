"""VBench's own code, and the code of the networks that it uses, run on the CPU: see
vbench_inputs.py.

    python tests/support/references/vbench_upstream.py UPSTREAM

reads the folders VBench (Vchitect/VBench at 45e79ec), pyiqa (chaofengc/IQA-PyTorch at 01ae427),
dino (facebookresearch/dino at 7c446df), CLIP (openai/CLIP at d05afc4) and TATS (songweige/TATS at
03bbce1) in UPSTREAM, and writes vbench.json and vbench.safetensors beside this file;
c3d_upstream.py adds C3D's. It needs torch, torchvision, scipy, opencv-python-headless, easydict,
omegaconf, imageio, tqdm, ftfy, regex and requests. The decoders of videos are replaced by arrays;
the networks are upstream's, DINO and CLIP narrower and with two blocks."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import vbench_inputs as reference
from safetensors.torch import save_file

Tensor = torch.Tensor

WIDTH, DEPTH, OUTPUTS = 128, 2, 48  # of the small DINO and CLIP
OPERATORS: list[Any] = []  # what torchvision misses beside a CPU build of torch, kept alive


# --- importing upstream ---------------------------------------------------------------------------


def prepare(upstream: Path) -> None:
    """Let upstream's modules be imported, without the packages' own __init__ and without
    decoders."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    OPERATORS.append(library)
    for name in (
        "vbench",
        "pyiqa",
        "pyiqa.archs",
        "pyiqa.utils",
        "pyiqa.data",
        "pyiqa.matlab_utils",
    ):
        package = types.ModuleType(name)
        folder = {"vbench": "VBench", "pyiqa": "pyiqa"}[name.split(".")[0]]
        package.__path__ = [str(upstream / folder / name.replace(".", "/"))]
        sys.modules[name] = package
    padding = importlib.import_module("pyiqa.matlab_utils.padding")
    vars(sys.modules["pyiqa.matlab_utils"]).update(vars(padding))
    sys.modules["decord"] = _decord()
    sys.path += [str(upstream / name) for name in ("CLIP", "TATS", "VBench")]


def _decord() -> types.ModuleType:
    module = types.ModuleType("decord")
    vars(module).update(
        VideoReader=_Reader, cpu=None, bridge=types.SimpleNamespace(set_bridge=lambda _: None)
    )
    return module


def _frames(path: str) -> np.ndarray:
    """`(F, H, W, 3)` of the video that is called CASE.mp4."""
    return np.ascontiguousarray(reference.video(Path(path).stem).transpose(0, 2, 3, 1))


class _Reader:
    """In place of decord's."""

    def __init__(self, path: str, num_threads: int) -> None:
        self.frames = _frames(path)

    def __len__(self) -> int:
        return len(self.frames)

    def get_batch(self, indices: range) -> Any:
        return types.SimpleNamespace(asnumpy=lambda: self.frames[list(indices)])


class _Capture:
    """In place of OpenCV's: BGR."""

    def __init__(self, path: str) -> None:
        self.left = list(_frames(path)[..., ::-1])
        self.rate = reference.VIDEOS[Path(path).stem][1]

    def get(self, _: int) -> float:
        return (
            self.rate or 8.0
        )  # a folder of images is taken whole, and so is a video at 8 frames per second

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, np.ascontiguousarray(self.left.pop(0))) if self.left else (False, None)

    def release(self) -> None: ...


# --- upstream's networks on drawn weights ---------------------------------------------------------


class Recorder:
    """The keys of every checkpoint, and upstream's networks with what is drawn for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: dict[str, dict[str, list[int]]] = {}

    def weights(self, network: str, model: torch.nn.Module, prefix: str = "") -> dict[str, Tensor]:
        shapes = {prefix + key: list(value.shape) for key, value in model.state_dict().items()}
        self.keys[network] = shapes
        drawn = {
            key: torch.from_numpy(value) for key, value in reference.drawn(shapes, network).items()
        }
        # the two names of one norm
        return {key: drawn[key.replace(".norm3.", ".downsample.1.")] for key in drawn}

    def filled(self, network: str, model: torch.nn.Module) -> Any:
        model.load_state_dict(self.weights(network, model))
        return model.eval()

    def file(self, network: str, weights: Any) -> str:
        path = self.folder / f"{network}.pth"
        torch.save(weights, path)
        return str(path)


def motion_networks(recorder: Recorder, upstream: Path) -> tuple[Any, Any, Any]:
    """DynamicDegree, StaticFilter and MotionSmoothness, each with its network."""
    from easydict import EasyDict  # pyright: ignore[reportMissingImports]

    dynamic_degree = importlib.import_module("vbench.dynamic_degree")
    motion_smoothness = importlib.import_module("vbench.motion_smoothness")
    static_filter = importlib.import_module("static_filter")
    vars(static_filter)["DEVICE"] = "cpu"
    options = EasyDict(model="", small=False, mixed_precision=False, alternate_corr=False)
    options.model = recorder.file(
        "raft", recorder.weights("raft", dynamic_degree.RAFT(options), "module.")
    )
    config = upstream / "VBench/vbench/third_party/amt/cfgs/AMT-S.yaml"
    network = importlib.import_module("vbench.third_party.amt.networks.AMT-S").Model()
    checkpoint = recorder.file("amt", {"state_dict": recorder.weights("amt", network)})
    smoothness = motion_smoothness.MotionSmoothness(str(config), checkpoint, "cpu")
    return (
        dynamic_degree.DynamicDegree(options, "cpu"),
        static_filter.StaticFilter(options, "cpu"),
        smoothness,
    )


def small_clip(recorder: Recorder, network: str, patch: int) -> Any:
    """OpenAI's image encoder; its weights are drawn in transformers' layout, which has other names
    for them."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH,
        num_attention_heads=WIDTH // 64, patch_size=patch, image_size=224, projection_dim=OUTPUTS,
    )  # fmt: skip
    weights = recorder.weights(network, CLIPVisionModelWithProjection(config))
    model = importlib.import_module("clip.model").VisionTransformer(
        224, patch, WIDTH, DEPTH, WIDTH // 64, OUTPUTS
    )
    model.load_state_dict(dict(_openai_names(weights)))
    model.eval().encode_image = lambda images: model(images)
    return model


def _openai_names(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    inside = "vision_model.embeddings."
    yield "proj", weights["visual_projection.weight"].T
    yield "conv1.weight", weights[f"{inside}patch_embedding.weight"]
    yield "class_embedding", weights[f"{inside}class_embedding"]
    yield "positional_embedding", weights[f"{inside}position_embedding.weight"]
    pairs = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    pairs |= {
        f"transformer.resblocks.{i}.{theirs}": f"encoder.layers.{i}.{ours}"
        for i in range(DEPTH)
        for theirs, ours in {
            "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj",
        }.items()
    }  # fmt: skip
    for kind in ("weight", "bias"):
        for theirs, ours in pairs.items():
            yield f"{theirs}.{kind}", weights[f"vision_model.{ours}.{kind}"]
        for i in range(DEPTH):
            parts = [
                weights[f"vision_model.encoder.layers.{i}.self_attn.{x}_proj.{kind}"] for x in "qkv"
            ]
            yield f"transformer.resblocks.{i}.attn.in_proj_{kind}", torch.cat(parts)


def small_dino(recorder: Recorder, upstream: Path) -> Any:
    # dino's utils has much that its network does not need
    sys.modules["utils"] = types.ModuleType("utils")
    vars(sys.modules["utils"])["trunc_normal_"] = torch.nn.init.trunc_normal_
    sys.path.insert(0, str(upstream / "dino"))
    network = importlib.import_module("vision_transformer").VisionTransformer(
        patch_size=16, embed_dim=WIDTH, depth=DEPTH, num_heads=WIDTH // 64, qkv_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    return recorder.filled("dino", network)


# --- running upstream -----------------------------------------------------------------------------


def one(metric: Callable[..., Any], *arguments: Any) -> float:
    """What a metric of VBench says of a single video."""
    return float(metric(*arguments)[0])


def decision(judge: Any, flow: tuple[int, int, int]) -> bool:
    """What upstream says of frames between which its network sees flows of these lengths, to the
    right."""
    frames, height, width = flow
    lengths = iter(reference.lengths(flow))

    def network(first: Tensor, *_: Any, **__: Any) -> tuple[None, Tensor]:
        along = torch.full_like(first[:, :1], next(lengths))
        return None, torch.cat([along, torch.zeros_like(along)], 1)

    images = [torch.zeros(1, 3, height, width)] * frames
    with (
        mock.patch.object(judge, "model", network),
        mock.patch.object(judge, "get_frames", return_value=images),
    ):
        return bool(judge.infer(".mp4"))


def motion(
    recorder: Recorder, upstream: Path, tensors: dict[str, Tensor]
) -> Iterator[tuple[str, Any]]:
    degree, static, smoothness = motion_networks(recorder, upstream)
    yield (
        "decisions",
        [[decision(judge, flow) for judge in (degree, static)] for flow in reference.FLOWS],
    )
    check = degree.check_move
    for case in ("large", "fast", "slow"):
        scores: list[float] = []
        degree.check_move = lambda found, kept=scores: kept.extend(found) or check(found)
        yield f"dynamic_degree.{case}", float(degree.infer(f"{case}.mp4"))
        yield f"motions.{case}", scores
        yield f"motion_smoothness.{case}", float(smoothness.motion_score(f"{case}.mp4"))
    first, second = torch.from_numpy(reference.video("large")[:2, None]).float()
    padder = importlib.import_module("vbench.third_party.RAFT.core.utils_core.utils").InputPadder(
        first.shape
    )
    with torch.no_grad():
        tensors["raft.flow"] = degree.model(*padder.pad(first, second), iters=20, test_mode=True)[
            1
        ][0, :, ::8, ::8]
        padder = importlib.import_module("vbench.third_party.amt.utils.utils").InputPadder(
            first.shape
        )
        pair = padder.pad(first / 255.0, second / 255.0)
        middle = smoothness.model(*pair, smoothness.embt, eval=True)["imgt_pred"]
        tensors["amt.middle"] = middle[0, :, ::4, ::4]


def appearance(
    recorder: Recorder, upstream: Path, tensors: dict[str, Tensor]
) -> Iterator[tuple[str, Any]]:
    metrics = {
        name: importlib.import_module(f"vbench.{name}")
        for name in (
            "imaging_quality",
            "aesthetic_quality",
            "background_consistency",
            "subject_consistency",
        )
    }
    musiq = recorder.filled("musiq", metrics["imaging_quality"].MUSIQ(pretrained=False))
    l14, b32 = small_clip(recorder, "clip_l14", 14), small_clip(recorder, "clip_b32", 32)
    head = recorder.filled("laion_head", torch.nn.Linear(OUTPUTS, 1))
    dino = small_dino(recorder, upstream)
    for case in ("small", "wide", "square"):
        path = [f"{case}.mp4"]
        with torch.no_grad():
            quality = one(metrics["imaging_quality"].technical_quality, musiq, path, "cpu")
            rating = one(metrics["aesthetic_quality"].laion_aesthetic, head, l14, path, "cpu")
            background = one(
                metrics["background_consistency"].background_consistency,
                b32,
                None,
                path,
                "cpu",
                False,
            )
        yield f"imaging_quality.{case}", quality
        yield f"aesthetic_quality.{case}", rating
        yield f"background_consistency.{case}", background
        yield (
            f"subject_consistency.{case}",
            one(metrics["subject_consistency"].subject_consistency, dino, path, "cpu", 0),
        )
    utils = importlib.import_module("vbench.utils")
    frames = torch.from_numpy(reference.video("wide")).float()
    with torch.no_grad():
        images = metrics["imaging_quality"].transform(frames, "longer")
        tensors["musiq.scores"] = torch.cat([musiq(image[None])[0] for image in images])
        tensors["dino.features"] = dino(utils.dino_transform(224)(frames))
        tensors["clip_b32.features"] = b32(utils.clip_transform(224)(frames))


def flickering() -> Iterator[tuple[str, Any]]:
    module = importlib.import_module("vbench.temporal_flickering")
    for case in reference.VIDEOS:
        yield f"temporal_flickering.{case}", float(module.cal_score(f"{case}.mp4"))


def i3d(recorder: Recorder, tensors: dict[str, Tensor]) -> None:
    module = importlib.import_module("tats.fvd.pytorch_i3d")
    kernels = {
        name: mock.MagicMock()
        for name in ("sklearn", "sklearn.metrics", "sklearn.metrics.pairwise")
    }
    with mock.patch.dict(sys.modules, kernels):  # of TATS's kernel distance
        fvd = importlib.import_module("tats.fvd.fvd")
    network = recorder.filled("i3d", module.InceptionI3d(400, in_channels=3))
    clips = fvd.preprocess(reference.clips().transpose(0, 1, 3, 4, 2), (224, 224))
    with torch.no_grad():
        tensors["i3d.features"] = network(clips)


def main(upstream: Path, temporary: Path) -> None:
    torch.set_num_threads(1)
    prepare(upstream)
    recorder, tensors = Recorder(temporary), {}
    with mock.patch("cv2.VideoCapture", _Capture), contextlib.redirect_stdout(sys.stderr):
        values = dict(flickering())
        values |= dict(appearance(recorder, upstream, tensors))
        values |= dict(motion(recorder, upstream, tensors))
        i3d(recorder, tensors)
    reference.record(recorder.keys, values)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        reference.RECORD.with_suffix(".safetensors"),
    )


if __name__ == "__main__":
    import tempfile

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))

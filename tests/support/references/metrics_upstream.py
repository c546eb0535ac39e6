"""Other people's metrics, run on drawn features: what ours must compute.

    python tests/support/references/metrics_upstream.py UPSTREAM OUT

reads from the folder UPSTREAM prdc_upstream.py (clovaai/generative-evaluation-prdc, prdc/prdc.py),
vendi_upstream.py (vertaix/Vendi-Score, vendi_score/vendi.py), mmd_polynomial.py (oooolga/JEDi) and
videomaev2_finetune.py (songweige/content-debiased-fvd), and writes `metrics.json` to the folder
OUT. It needs torch, numpy, scipy, scikit-learn, torchvision and transformers. Features, weights and
frames are drawn from seeds by the functions here, so they are not stored; the tests call the same
functions.

`frechet`: scipy.linalg.sqrtm in content-debiased-fvd's formula; `prdc`, `vendi`, `mmd`: theirs, by
case; `t`: 97.5 % quantiles of Student's t by scipy; `videomae`: features of VideoMAE V2's class
with the weights of `videomae_state`; `vjepa2`: some pixels of what transformers'
VJEPA2VideoProcessor makes of `frames_of`, and their mean and deviation."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

Tensor = torch.Tensor

CASES = {
    "plain": (60, 80, 8),
    "wide": (12, 20, 30),
}  # generated, reference, width: the second has no full rank
DEPTH, WIDTH, PATCH = 2, 128, 14  # of the small VideoMAE; two heads
SIZES = ((48, 80), (75, 50))  # height, width of frames for V-JEPA 2
CROP = 64
PIXELS = 997  # of the prepared frames, every so many are kept


def features_of(case: str) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64, correlated, one shifted and stretched."""
    n, m, width = CASES[case]
    generator = torch.Generator().manual_seed(len(case))
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) @ mix
    y = torch.randn(m, width, generator=generator, dtype=torch.float64) @ mix * 1.2 + 0.3
    return x, y


def videomae_state() -> dict[str, Tensor]:
    """A fine-tuned VideoMAE V2 as it is published, small, with drawn weights."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (WIDTH, 3, 2, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,),
        "fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,), "head.weight": (5, WIDTH),
        "head.bias": (5,),
    }  # fmt: skip
    block = {
        "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.q_bias": (WIDTH,),
        "attn.v_bias": (WIDTH,), "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
        "mlp.fc1.weight": (2 * WIDTH, WIDTH), "mlp.fc1.bias": (2 * WIDTH,),
        "mlp.fc2.weight": (WIDTH, 2 * WIDTH), "mlp.fc2.bias": (WIDTH,),
    }  # fmt: skip
    shapes |= {f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()}
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(shape, generator=generator) * 0.1
        for name, shape in sorted(shapes.items())
    }


def frames_of(height: int, width: int, count: int = 16) -> Tensor:
    """(count, 3, height, width) uint8, smooth in space."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.randint(0, 256, (count, 3, height // 8, width // 8), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").round().byte()


# --- upstream -------------------------------------------------------------------------------------


def _frechet(x: Any, y: Any) -> float:
    import numpy as np
    import scipy.linalg  # pyright: ignore[reportMissingImports]

    mean = np.square(x.mean(0) - y.mean(0)).sum()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(np.real(mean + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b))))


def _sets() -> dict[str, Any]:
    import mmd_polynomial as mmd  # pyright: ignore[reportMissingImports]
    import prdc_upstream as prdc  # pyright: ignore[reportMissingImports]
    import vendi_upstream as vendi  # pyright: ignore[reportMissingImports]

    found: dict[str, Any] = {"frechet": {}, "prdc": {}, "vendi": {}, "mmd": {}}
    for case in CASES:
        x, y = (features.numpy() for features in features_of(case))
        found["frechet"][case] = _frechet(x, y)
        found["prdc"][case] = {k: float(v) for k, v in prdc.compute_prdc(y, x, nearest_k=5).items()}
        found["vendi"][case] = float(vendi.score_dual(x))
        found["mmd"][case] = {
            "2, 0": float(mmd.mmd_poly(x, y, degree=2, coef0=0)),
            "3, 1": float(mmd.mmd_poly(x, y, degree=3, coef0=1)),
        }
    return found


def _videomae() -> list[float]:
    import videomaev2_finetune as upstream  # pyright: ignore[reportMissingImports]

    model = upstream.VisionTransformer(
        patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=WIDTH // 64, mlp_ratio=2,
        qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_classes=5,
    )  # fmt: skip
    model.load_state_dict(videomae_state())
    clip = (
        frames_of(*SIZES[0]).permute(1, 0, 2, 3).float() / 255
    )  # (3, F, H, W), as its preprocess_videomae
    clip = torch.nn.functional.interpolate(
        clip, size=(224, 224), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        return model.eval().forward_features(clip[None])[0].tolist()


def _vjepa2() -> dict[str, Any]:
    from transformers import VJEPA2VideoProcessor

    found = {}
    for height, width in SIZES:
        processor = VJEPA2VideoProcessor(crop_size=CROP)
        pixels = processor(frames_of(height, width), return_tensors="pt")["pixel_values_videos"][0]
        found[f"{height} x {width}"] = {
            "mean": pixels.mean().item(), "std": pixels.std().item(),
            "pixels": pixels.flatten()[::PIXELS].tolist()
        }  # fmt: skip
    return found


def main(upstream: Path, out: Path) -> None:
    """Write metrics.json."""
    import scipy.stats  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, str(upstream))
    found = {
        **_sets(),
        "t": {freedom: float(scipy.stats.t.ppf(0.975, freedom)) for freedom in (7, 10, 19, 100)},
        "videomae": _videomae(),
        "vjepa2": _vjepa2(),
    }
    (out / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Start the ComfyUI in COMFYUI_PATH, also where torchvision and torchaudio do not fit torch."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import runpy
import sys
import types


def _torchvision() -> object | None:
    """Define two schemas without kernels for a torchvision whose own do not load.

    The library that is returned must stay alive.
    """
    try:
        import torchvision  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        return None
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library


def _torchaudio() -> None:
    """Put an empty module in place of one that does not load: nothing here makes sound."""
    with contextlib.suppress(Exception):
        import torchaudio  # pyright: ignore[reportMissingImports]  # noqa: F401

        return
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)


if __name__ == "__main__":
    checkout = os.environ["COMFYUI_PATH"]
    library = _torchvision()
    _torchaudio()
    os.chdir(checkout)
    sys.path[0] = checkout
    sys.argv[0] = os.path.join(checkout, "main.py")
    runpy.run_path(sys.argv[0], run_name="__main__")

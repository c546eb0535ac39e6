"""Say what of this machine a generation can use: devices, memory, precisions, codecs, compiler."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from skipguide.files.text import first_line
from skipguide.method.protocols import PlainData
from skipguide.models.packages import is_installed

_FP8_CAPABILITY = (8, 9)  # Ada and Hopper are the first with products of fp8
SAMPLES = {
    "Latin with accents": "Größe é", "Chinese": "狐狸", "Japanese": "きつね", "Korean": "여우",
    "Cyrillic": "лиса", "Arabic": "ثعلب", "Devanagari": "लोमड़ी", "emoji": "🦊",
}  # fmt: skip


def list_devices() -> list[PlainData]:
    """Return a row for each device, the CPU last.

    Returns:
        `device`, `name`, `memory_bytes`, `free_bytes` (None where it is not told), `bfloat16`,
        `fp8`; a device that cannot be asked has an `error` in their place.
    """
    return [*_cuda_devices(), *_mps_device(), _cpu()]


def _cuda_devices() -> Iterator[PlainData]:
    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except Exception as error:  # a driver that does not fit
        yield {"device": "cuda", "error": first_line(error)}
        return
    for number in range(count):
        try:
            yield _cuda_device(number)
        except Exception as error:
            yield {"device": f"cuda:{number}", "error": first_line(error)}


def _cuda_device(number: int) -> PlainData:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    capability = (properties.major, properties.minor)
    return {
        "device": f"cuda:{number}", "name": properties.name, "memory_bytes": total,
        "free_bytes": free, "bfloat16": capability >= (8, 0) or bool(torch.version.hip),
        "fp8": capability >= _FP8_CAPABILITY,
    }  # fmt: skip


def _mps_device() -> Iterator[PlainData]:
    if not torch.backends.mps.is_available():
        return
    limit = torch.mps.recommended_max_memory()
    yield {
        "device": "mps", "name": "Apple GPU, which shares the main memory", "memory_bytes": limit,
        "free_bytes": None, "bfloat16": True, "fp8": False,
    }  # fmt: skip


def _cpu() -> PlainData:
    total, free = _main_memory()
    fast = torch.cpu._is_avx512_bf16_supported() if sys.platform != "darwin" else False
    return {
        "device": "cpu", "name": f"{processor_name()}, {torch.get_num_threads()} threads",
        "memory_bytes": total, "free_bytes": free, "bfloat16": True, "fp8": False,
        "bfloat16_fast": bool(fast),
    }  # fmt: skip


def _main_memory() -> tuple[int | None, int | None]:
    """Return the size of the main memory and what of it is free, in bytes."""
    info = Path("/proc/meminfo")
    if info.is_file():
        entries = (line.split() for line in info.read_text().splitlines())
        sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in entries if len(words) > 1}
        return sizes.get("MemTotal"), sizes.get("MemAvailable")
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    except (AttributeError, ValueError, OSError):
        return None, None


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device's memory, None where it is not told.

    What torch holds of a GPU's memory without using it counts as free."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return _main_memory()[1] if device.type == "cpu" else None


def free_disk(folder: Path) -> int | None:
    """Return the free bytes of the disk on which a folder is or would be."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    return None if there is None else shutil.disk_usage(there).free


def check_codecs() -> PlainData:
    """Return whether PyAV writes and reads what videos here are in: H.264."""
    try:
        import av

        av.Codec("libx264", "w")
        av.Codec("h264", "r")
    except Exception as error:
        return {"pyav": None, "h264": False, "error": str(error) or type(error).__name__}
    return {"pyav": av.__version__, "h264": True, "ffmpeg": av.ffmpeg_version_info}


def check_fonts() -> dict[str, bool]:
    """Return for some scripts whether a font is there that has them, for captions of pictures."""
    from skipguide.files import captions

    return {name: captions.drawable(text) == text for name, text in SAMPLES.items()}


def find_compiler() -> PlainData:
    """Return what --compile would use: a C++ compiler for the CPU, triton for a GPU."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return {"cpp": found and Path(found).name, "triton": is_installed("triton")}


def check_attention(device: str) -> list[PlainData]:
    """Return a row for each attention backend of diffusers that says whether it works here.

    Those that are there compute a small attention, and are compared with the plain formula. Those
    that would be downloaded from the hub first are not tried.

    Returns:
        `name`, `works` (None where it was not tried) and `why`, if it does not.
    """
    from diffusers.models import attention_dispatch as dispatch

    rows = []
    for backend in dispatch.AttentionBackendName:
        name = backend.value
        try:
            dispatch._check_attention_backend_requirements(backend)
        except Exception as error:
            rows.append({"name": name, "works": False, "why": first_line(error)})
            continue
        if name.endswith("_hub"):
            rows.append({"name": name, "works": None, "why": "its kernel comes from the hub"})
            continue
        why = _try_attention(functools.partial(_attend, backend), device)
        rows.append({"name": name, "works": why is None, "why": why})
    return rows


def _attend(backend: Any, query: torch.Tensor) -> torch.Tensor:
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    return dispatch_attention_fn(query, query, query, backend=backend)


def _try_attention(attend: Callable[[torch.Tensor], torch.Tensor], device: str) -> str | None:
    """Return why an attention over (B, N, heads, channels) fails here; None if it does not."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query = torch.randn(1, 64, 2, 64, generator=torch.Generator().manual_seed(0))
    scores = torch.einsum("bnhc,bmhc->bhnm", query, query) / 8
    expected = torch.einsum("bhnm,bmhc->bnhc", scores.softmax(-1), query)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # flex is slow without compilation, and says so
            found = attend(query.to(device, dtype)).float().cpu()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return first_line(error)
    wrong = (found - expected).abs().max().item() if found.shape == expected.shape else 1.0
    return None if wrong < 0.1 else f"its result is wrong by {wrong:.2g}"


def processor_name() -> str:
    """Return the name of the processor, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    lines = (
        cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        if cpuinfo.is_file()
        else []
    )
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

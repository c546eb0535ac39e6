"""Every block of Python in a page runs, on tiny pipelines in the place of published checkpoints, or
is a quotation of the repository's code.

What a page takes for given (a picture, a run, a LoRA) is made by its setup below. A block that
needs several processes or downloaded weights is compiled only, and its entry names the test that
runs the same."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.utils
import numpy as np
import pytest
import torch
import yaml
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

import skipguide
from skipguide.files import video
from skipguide.method.parsing import split_heads
from support.doc_pages import ROOT, Block, blocks, pages, read
from support.doc_pipelines import doc_pipeline, from_pretrained

Names = dict[str, Any]
CODE = {page: [b for b in blocks(read(page), page) if b.language == "python"] for page in pages()}
# (page, a word of the block) -> what runs the same.
COMPILED = {
    ("docs/many-gpus.md", "enable_context_parallel"): "weak/test_context_parallel.py",
    ("docs/parallel.md", "init_process_group"): "pipeline/test_branches.py",
    ("docs/parallel.md", "init_device_mesh"): "pipeline/test_branches.py",
    ("docs/serving.md", "trust_remote_code"): "pipeline/test_guided_folder.py",
    ("docs/tune.md", "skipguide.tune"): "tuning/test_tuning.py",
    ("docs/vbench.md", "musiq.load"): "metrics/test_metrics_vbench.py",
}
# Pages that quote the repository, which is what they are about.
QUOTING = ("docs/add-a-family.md", "docs/add-a-rule.md", "docs/add-a-weak-model.md")
# They load the folder that their setup saves.
LOADING = ("docs/sweeps.md",)
# Their models are the widest and the deepest; the others show that pages are run at all.
LONG = ("docs/ltx-2.md", "docs/weak-models.md", "docs/method.md")


# --- what pages take for given --------------------------------------------------------------------


class Guiding:
    """guide() as pages use it, one call below the other on one pipeline: each takes the one before
    off again, and layers of a UNet stand for a pipeline that has one."""

    def __init__(self, unet: str) -> None:
        self.unet, self.handle = unet, None

    def __call__(self, pipe: Any, *terms: Any, **options: Any) -> Any:
        if self.handle is not None:
            self.handle.remove()
        listed = [
            term for entry in terms for term in (entry if isinstance(entry, list) else [entry])
        ]
        layers = [split_heads(layer)[0] for term in listed for layer in _layers(term)]
        if any(str(layer).startswith(("up:", "mid:", "down:")) for layer in layers):
            pipe = pipe if hasattr(pipe, "unet") else _unet_pipeline(self.unet)
        self.handle = skipguide.guide(pipe, *terms, **options)
        return self.handle


def _layers(term: Any) -> list[Any]:
    found = getattr(term, "layers", ())
    return list(found) if isinstance(found, (list, tuple)) else []


@functools.cache
def _unet_pipeline(name: str) -> Any:
    return doc_pipeline(name)


def no_setup(folder: Path, names: Names) -> None:
    del folder, names


def tensors(folder: Path, names: Names) -> None:
    """Predictions, and a network that makes them."""
    del folder
    c, u, p = torch.randn(3, 2, 4, 3, 8, 8)
    names.update(c=c, u=u, p=p, x=c, t=0.5, label=1, no_class=0, scale=1.0, guidance_scale=3.0)
    names.update(network=lambda x, t, label, skip=None: x * t + label, image=picture())
    from skipguide.method import formula

    names["formula"] = formula


def lora_and_mask(folder: Path, names: Names) -> None:
    from support.loras import make_lora

    other = doc_pipeline("MochiPipeline")
    lora = make_lora(other, folder / "style.safetensors")
    names["pipe"].load_lora_weights(lora, adapter_name="style")
    names["smaller_transformer"] = doc_pipeline("MochiPipeline").transformer
    video.write(folder / "hand.mp4", np.full((7, 32, 32, 3), 255, np.uint8), 8, {})
    names["guide"] = Guiding("StableDiffusionXLPipeline")


def sound_and_guiders(folder: Path, names: Names) -> None:
    from skipguide.guider import SkipGuidance

    names["pipe"] = doc_pipeline("LTX2Pipeline")
    names.update(path=folder / "fox.mp4", SkipGuidance=SkipGuidance)


def modular(folder: Path, names: Names) -> None:
    """A Modular pipeline, after those of other kinds."""
    from diffusers.modular_pipelines.ltx2.modular_blocks_ltx2 import LTX2CoreDenoiseStep

    del folder
    names["pipe"] = LTX2CoreDenoiseStep().init_pipeline()


def open_sora(folder: Path, names: Names) -> None:
    names["pipe"] = doc_pipeline("OpenSoraPipeline")
    frames = [picture() for _ in range(17)]
    names.update(folder=folder, image=picture(), first=picture(), last=picture(), frames=frames)


def clips(folder: Path, names: Names) -> None:
    """Videos, real and generated."""
    del names
    noise = np.random.default_rng(0)
    for side in ("generated", "real"):
        (folder / side).mkdir()
        for number in range(4):
            frames = noise.integers(0, 256, (17, 64, 64, 3), np.uint8)
            video.write(folder / side / f"{number}.mp4", frames, 12, {})


def plan(folder: Path, names: Names) -> None:
    """A plan of one clip of a saved model."""
    from support.tiny_mochi import tiny_mochi

    tiny_mochi().save_pretrained(folder / "model")
    setting = dict(name="stg", stg=dict(layers=[1], scale=1.0))
    given = dict(
        model=str(folder / "model"), prompts=["a fox"], seeds=[0], settings=[setting],
        num_inference_steps=2, num_frames=7, height=32, width=32, guidance_scale=4.5,
    )  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    names.update(path=folder / "plan.yaml", folder=folder / "run", sharpness=lambda path: 1.0)


def shallow(folder: Path, names: Names) -> None:
    """A scan runs every layer, so that a few are enough."""
    pipe = doc_pipeline("MochiPipeline", num_layers=4)
    names.update(pipe=pipe, prompt="a fox", prompts=["a fox"], folder=folder)


def painted(folder: Path, names: Names) -> None:
    from support.painted import painted as paint_run

    del names
    paint_run(folder / "runs" / "first")


def serving(folder: Path, names: Names) -> None:
    names.update(folder=folder, DiffusersAdapterPipeline=object)


SETUPS: dict[str, Callable[[Path, Names], None]] = {
    "docs/add-a-metric.md": painted,
    "docs/lab-opensora.md": open_sora,
    "docs/layer-map.md": shallow,
    "docs/ltx-2.md": sound_and_guiders,
    "docs/method.md": tensors,
    "docs/metrics.md": clips,
    "docs/opensora.md": open_sora,
    "docs/serving.md": serving,
    "docs/sweeps.md": plan,
    "docs/weak-models.md": lora_and_mask,
    "docs/why.md": tensors,
}


# Before a block that has this word.
BEFORE = {("docs/ltx-2.md", "update_components"): modular}


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((32, 32)).convert("RGB")


# --- the tests ------------------------------------------------------------------------------------


@functools.cache
def repository_code() -> str:
    """All code of the repository, without its layout."""
    files = [path for top in ("src", "tests") for path in sorted((ROOT / top).rglob("*.py"))]
    return "\n".join(flat(path.read_text(encoding="utf-8")) for path in files)


def flat(code: str) -> str:
    """Code without its layout, which pages have as the formatter writes it."""
    code = "".join(code.replace("# fmt: skip", "").split())
    return re.sub(r",(?=[)\]}])", "", code)


def is_quotation(block: Block) -> bool:
    return block.page in QUOTING and flat(block.code) in repository_code()


def is_compiled_only(block: Block) -> bool:
    return any(page == block.page and word in block.code for page, word in COMPILED)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.long] if page in LONG else [])
        for page in CODE
        if any(not is_quotation(block) for block in CODE[page])
    ],
)
@pytest.mark.filterwarnings("ignore:.*", "error::SyntaxWarning")
def test_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture().save("fox.png")
    names: Names = {name: getattr(skipguide, name) for name in skipguide.__all__}
    names.update(skipguide=skipguide, torch=torch, guide=Guiding("StableVideoDiffusionPipeline"))
    names["pipe"] = doc_pipeline("MochiPipeline")
    SETUPS.get(page, no_setup)(tmp_path, names)
    if page not in LOADING:
        monkeypatch.setattr(DiffusionPipeline, "from_pretrained", from_pretrained(names["pipe"]))
    monkeypatch.setattr(diffusers.utils, "export_to_video", export)
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda self: None)
    for block in CODE[page]:
        code = None if is_quotation(block) else without_imports_of_guide(block)
        for (where, word), setup in BEFORE.items():
            if where == page and word in block.code:
                setup(tmp_path, names)
        if code and not is_compiled_only(block):
            exec(code, names)


def export(frames: Any, path: str, fps: int) -> None:
    """Stands for diffusers' own, which needs OpenCV."""
    assert len(frames) > 1
    assert path.endswith(".mp4")
    assert fps > 0


def without_imports_of_guide(block: Block) -> Any:
    """The block, with `guide` as it is in the names: pages import it, and put one call below the
    other on one pipeline."""
    tree = ast.parse("\n" * (block.line - 1) + block.code, block.page)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "skipguide":
            node.names = [alias for alias in node.names if alias.name != "guide"] or [
                ast.alias("__version__")
            ]
    return compile(tree, block.page, "exec")


def test_what_is_compiled_only_is_run_by_a_test() -> None:
    for (page, word), file in COMPILED.items():
        assert any(word in block.code for block in CODE[page]), f"{page} has no {word}"
        assert (ROOT / "tests" / file).is_file()


def test_a_block_that_is_wrong_is_found() -> None:
    text = "# A page\n\n```python\nguide(pipe, STG([99]))\n```\n"
    text += "\n- list\n\n  ```python\n  x = 1\n  ```\n"
    wrong, listed = blocks(text, "page.md")
    assert (wrong.line, listed.code) == (4, "x = 1\n")
    names: Names = dict(
        pipe=doc_pipeline("MochiPipeline"), guide=skipguide.guide, STG=skipguide.STG
    )
    with pytest.raises(ValueError, match=r"99"):
        exec(compile(wrong.code, "page.md", "exec"), names)
    assert not is_quotation(wrong)

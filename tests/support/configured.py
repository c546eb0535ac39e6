"""Models of which only the small files lie in a folder: as they are before their weights arrive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

# What stands in model_index.json for the text encoders that tiny pipelines do not have.
TEXT = ("transformers", "T5EncoderModel")


def save_configs(pipe: Any, folder: Path) -> Path:
    """Write the configurations of a pipeline and of its components, as a checkpoint has them."""
    pipe.save_config(folder)
    for name, component in pipe.components.items():
        if hasattr(component, "save_config"):
            component.save_config(folder / name)
        elif hasattr(getattr(component, "config", None), "save_pretrained"):
            component.config.save_pretrained(folder / name)
    index = json.loads((folder / "model_index.json").read_text())
    for name, entry in index.items():
        if entry == [None, None] and ("text_encoder" in name or "tokenizer" in name):
            index[name] = TEXT
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def without_weights(folder: Path, copy: Path) -> Path:
    """Copy a saved model, all but its weights."""
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors")))

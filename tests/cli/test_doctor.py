"""The doctor, on models that lie here as whole and as damaged as they do with people."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import psutil
import pytest
import tomllib
from typer.testing import CliRunner

from skipguide.cli import app, console
from skipguide.cli.doctor import examine
from skipguide.families import presets
from skipguide.files import hub_cache
from skipguide.models import machine, packages
from skipguide.models.checkpoint_facts import describe_checkpoint
from support.hub import add_to_cache

REVISIONS = ("0" * 40, "1" * 40)
PRESETS = tomllib.loads(Path(presets.__file__).with_name("presets.toml").read_text())["preset"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network; one of them looks at all backends."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the doctor uses the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def wan_folder(folder: Path, layers: int = 30, heads: int = 12) -> Path:
    """The small files of a Wan of a size, as on the hub."""
    transformer = {
        "_class_name": "WanTransformer3DModel", "num_layers": layers, "attention_head_dim": 128,
        "num_attention_heads": heads, "ffn_dim": 64, "in_channels": 16, "text_dim": 16,
    }  # fmt: skip
    index = {
        "_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"], "transformer_2": [None, None],
    }  # fmt: skip
    (folder / "transformer").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer" / "config.json").write_text(json.dumps(transformer))
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards = {"weight_map": dict(zip("ab", names, strict=True))}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(shards)
    )
    for name in names:
        (folder / "transformer" / name).write_bytes(b"weights")
    return folder


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "heads", "model"),
    [(30, 12, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), (40, 40, "Wan-AI/Wan2.1-T2V-14B-Diffusers")],
)
def test_a_model_has_the_preset_of_its_size(
    tmp_path: Path, layers: int, heads: int, model: str
) -> None:
    facts = describe_checkpoint(wan_folder(tmp_path / "wan", layers, heads))
    (row,) = (
        row for row in PRESETS if row["model"] == model and row.get("recommended")
        and row.get("kind", "stg") == "stg"
    )  # fmt: skip
    assert (facts["pipeline"], facts["family"], facts["missing_files"]) == (
        "WanPipeline",
        "wan",
        [],
    )
    assert (facts["preset"]["name"], facts["preset"]["source"]) == (row["name"], row["source"])


def test_a_model_of_another_size_has_none(tmp_path: Path) -> None:
    facts = describe_checkpoint(wan_folder(tmp_path / "wan", 31))
    assert facts["preset"] is None
    assert facts["note"].startswith("no preset: none is known for a WanPipeline of 31 blocks")


def test_what_a_download_has_not_brought_yet_is_named(tmp_path: Path) -> None:
    folder = wan_folder(tmp_path / "wan")
    last = folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    last.unlink()
    shutil.rmtree(folder / "scheduler")
    assert describe_checkpoint(folder)["missing_files"] == [
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors", "scheduler/",
    ]  # fmt: skip
    last.symlink_to(tmp_path / "blobs" / "gone")
    assert last.name in describe_checkpoint(folder)["missing_files"][0]


def test_saved_models_are_whole(tiny_mochi_dir: Path, lab_mochi_dir: Path, tmp_path: Path) -> None:
    for folder in (tiny_mochi_dir, lab_mochi_dir):
        assert describe_checkpoint(folder)["missing_files"] == []
    part = Path(shutil.copytree(tiny_mochi_dir, tmp_path / "part"))
    (part / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (part / "tokenizer" / "tokenizer_config.json").unlink()
    for path in (part / "tokenizer").iterdir():
        path.unlink()
    assert describe_checkpoint(part)["missing_files"] == [
        "tokenizer/config.json", "vae/*.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("index", "note"),
    [
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"_class_name": "StableAudioPipeline"}', "no family of skipguide"),
        ('{"_class_name": ["pipeline", "MyPipeline"]}', "no family of skipguide"),
        ("{}", "no family of skipguide"),
        ('{"_class_name": "LTXI2VLongMultiPromptPipeline"}', "cannot guide it: it calls"),
        ('{"_class_name": "WanPipeline"}', "its configuration cannot be read"),
    ],
)
def test_folders_that_are_something_else(tmp_path: Path, index: str, note: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    facts = describe_checkpoint(tmp_path)
    assert note in facts["note"]
    assert facts["preset"] is None


# --- the hub's cache ------------------------------------------------------------------------------


def test_models_of_the_cache(cache: Path, tmp_path: Path, tiny_mochi_dir: Path) -> None:
    wan = wan_folder(tmp_path / "wan")
    add_to_cache(cache, "me/wan", wan, REVISIONS[0])
    (wan / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    add_to_cache(cache, "me/wan", wan, REVISIONS[1], "main")
    add_to_cache(cache, "me/mochi", tiny_mochi_dir, REVISIONS[0], "main")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "a.safetensors").write_bytes(b"x" * 1000)
    add_to_cache(cache, "me/lora", tmp_path / "lora", REVISIONS[0], "main")
    (cache / "models--me--broken").mkdir()

    found = examine([])["models"]
    assert found["folder"] == str(cache)
    models = {(model["model"], model["revision"][0]): model for model in found["pipelines"]}
    assert set(models) == {("me/wan", "0"), ("me/wan", "1"), ("me/mochi", "0")}
    assert models["me/wan", "1"]["refs"] == ["main"]
    assert models["me/wan", "0"]["missing_files"] == []
    assert models["me/wan", "1"]["missing_files"][0].endswith("00001-of-00002.safetensors")
    assert models["me/wan", "0"]["preset"]["name"] == models["me/wan", "1"]["preset"]["name"]
    size = sum(path.stat().st_size for path in tiny_mochi_dir.rglob("*") if path.is_file())
    blobs = {path.resolve() for path in (cache / "models--me--mochi" / "snapshots").rglob("*")
             if path.is_file()}  # fmt: skip
    assert models["me/mochi", "0"]["bytes"] == sum(path.stat().st_size for path in blobs) <= size
    assert found["others"] == [{"model": "me/lora", "bytes": 1000}]
    assert "models--me--broken" in found["warnings"][0]


def test_without_a_cache_there_are_no_models(cache: Path) -> None:
    assert hub_cache.read_hub_cache().pipelines == ()
    cache.write_text("a file")
    assert hub_cache.read_hub_cache().pipelines == ()


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def fewer_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "check_attention", lambda device: [])


@pytest.mark.usefixtures("fewer_backends")
def test_a_machine_in_order(cache: Path, tmp_path: Path) -> None:
    add_to_cache(cache, "me/wan", wan_folder(tmp_path / "a" / "wan"), REVISIONS[0], "main")
    wan_folder(tmp_path / "more" / "one")
    wan_folder(tmp_path / "more" / "two", 40, 40)
    said = CliRunner().invoke(app, ["doctor", str(tmp_path / "more")])
    assert said.exit_code == 0, said.output
    assert "everything that it needs is here" in said.stdout.splitlines()[0]
    for text in (
        "me/wan @ 00000000 (main): ", "WanPipeline (family wan)", "preset wan", "Cosmos 1, Predict",
        "pip install cosmos_guardrail", str(tmp_path / "more" / "two"), "H.264",
    ):  # fmt: skip
        assert text in said.stdout
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert found["problems"] == []
    assert {row["name"]: row["version"] for row in found["packages"]}["torch"] == (
        metadata.version("torch")
    )


@pytest.mark.usefixtures("fewer_backends")
def test_an_incomplete_folder_is_to_be_mended(cache: Path, tmp_path: Path) -> None:
    folder = wan_folder(tmp_path / "wan")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    said = CliRunner().invoke(app, ["doctor", str(folder)])
    assert said.exit_code == 1
    assert "1 thing to mend" in said.stdout
    assert "lacks scheduler/config.json. Copy or download it again." in said.stdout
    none = CliRunner().invoke(app, ["doctor", "--json", str(tmp_path / "none")])
    assert none.exit_code == 1
    assert "must be a folder with a model_index.json" in json.loads(none.stdout)["problems"][0]


# --- packages and devices -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "state", "problem"),
    [
        ("torch>=99", "older", "skipguide needs torch>=99, but got "),
        ("torch<1", "newer", "skipguide needs torch<1, but got "),
        ("no-such-package>=1", "missing", "but got missing. Install with: pip install"),
    ],
)
@pytest.mark.usefixtures("fewer_backends")
def test_packages_that_are_not_as_needed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, requirement: str, state: str, problem: str
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: [requirement, "ruff; extra == 'dev'"])
    found = examine([])
    name = requirement.partition(">")[0].partition("<")[0]
    assert {row["name"]: row["state"] for row in found["packages"]}[name] == state
    assert problem in found["problems"][0]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_broken_package_stops_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(packages.importlib, "import_module", broken)
    said = CliRunner().invoke(app, ["doctor"])
    assert said.exit_code == 1, repr(said.exception)
    assert "broken: libtorch.so: cannot open shared object file" in said.stdout
    assert "not looked at: torch, diffusers and transformers are needed for this" in said.stdout


@pytest.mark.usefixtures("fewer_backends")
def test_a_section_that_fails_leaves_the_others(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(machine, "list_devices", fails)
    monkeypatch.setattr(machine, "check_fonts", fails)
    found = examine([])
    assert found["fonts"] == {"error": "RuntimeError: the driver is too old"}
    assert found["models"]["pipelines"] == []
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_pillow_has_a_font_with_the_letters_of_europe() -> None:
    assert machine.check_fonts()["Latin with accents"]


def test_the_memory_is_what_the_system_says() -> None:
    cpu = machine.list_devices()[-1]
    assert cpu["device"] == "cpu"
    assert cpu["memory_bytes"] == psutil.virtual_memory().total
    assert 0 < cpu["free_bytes"] <= cpu["memory_bytes"]


def test_attention_that_works_is_told_from_that_which_does_not() -> None:
    rows = {row["name"]: row for row in machine.check_attention("cpu")}
    assert rows["native"]["works"]
    assert rows["_native_math"]["works"]
    assert not rows["xformers"]["works"]
    why = machine._try_attention(lambda query: query * 9, "cpu")
    assert why is not None
    assert why.startswith("its result is wrong by ")


@pytest.mark.long
def test_the_cache_is_where_the_environment_says(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    """In a process of its own, because the hub's client reads that when it is imported."""
    add_to_cache(tmp_path / "hub", "me/mochi", tiny_mochi_dir, REVISIONS[0], "main")
    script = "import sys\nfrom skipguide.cli import main\nmain()"
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_CACHE"}
    said = subprocess.run(
        [sys.executable, "-c", script, "doctor", "--json"],
        capture_output=True, text=True, env={**environment, "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert said.stderr == ""
    assert [model["model"] for model in json.loads(said.stdout)["models"]["pipelines"]] == [
        "me/mochi"
    ]


@pytest.mark.parametrize(
    ("logger", "message", "hidden"),
    [
        ("torchao", "Failed to load a/_C_mxfp8.so: %s", True),
        ("torchao", "something else", False),
        ("torch.utils._pytree", "<enum 'A'> is an Enum subclass and is now natively", True),
        ("diffusers.quantizers.torchao.torchao_quantizer",
         "Unable to import `torchao` Tensor objects. This may affect", True),
    ],
)  # fmt: skip
def test_what_quantizers_say_of_themselves(logger: str, message: str, hidden: bool) -> None:
    """As torchao 0.18 and bitsandbytes 0.50 do at their import, before every verb."""
    console.hide_library_notices()
    record = logging.LogRecord(logger, logging.WARNING, "x", 1, message, None, None)
    assert bool(logging.getLogger(logger).filter(record)) != hidden


def test_a_broken_link_in_the_cache_is_said_with_its_repository(cache: Path) -> None:
    folder = cache / "models--some--one" / "snapshots" / REVISIONS[0]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to("/nope")
    (said,) = hub_cache.read_hub_cache(cache).warnings
    assert said.startswith("some/one: model.safetensors is a link to a file that is gone. Remove ")


def test_a_file_in_the_place_of_the_cache_has_to_be_mended(cache: Path) -> None:
    cache.write_text("")
    (said,) = examine([])["problems"]
    assert said.startswith(f"the hub's cache must be a folder, but {cache} is a file.")

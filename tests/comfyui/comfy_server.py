"""A headless ComfyUI with the pack and the tiny models, and graphs posted to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
Graph = dict[str, dict[str, Any]]


class Refused(Exception):
    """A graph that ComfyUI did not take, or that failed; the message is what it said."""


@dataclass(frozen=True)
class Result:
    """What a graph made: the latent it saved, the text it showed, its seconds of processor time."""

    latent: torch.Tensor
    text: str
    seconds: float


class Server:
    """A running ComfyUI.

    Args:
        base: its folder for models, custom_nodes and output.
        install: puts the pack into custom_nodes; None copies the folder.
    """

    def __init__(self, base: Path, install: Callable[[Path], None] | None = None) -> None:
        self.base = base
        _fill(base, install or _copy_pack)
        self.log = base / "log.txt"
        self._port = _free_port()
        self._process = self._start()
        self._wait()

    def _start(self) -> subprocess.Popen[bytes]:
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        command = [
            python, str(HERE / "launch.py"), "--cpu", "--port", str(self._port), "--base-directory",
            str(self.base), "--disable-auto-launch", "--use-pytorch-cross-attention",
            "--disable-metadata", "--database-url", "sqlite:///:memory:",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self) -> None:
        end = time.monotonic() + 600
        while self._process.poll() is None and time.monotonic() < end:
            try:
                self.ask("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(
            f"ComfyUI did not start. The end of its log:\n{self.log.read_text()[-4000:]}"
        )

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(20)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a GET, or to a POST of `body`."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error

    def run(self, graph: Graph) -> Result:
        """Post a graph and wait for it.

        Raises:
            Refused: if it is not taken or fails.
        """
        before = self._thread_seconds()
        prompt = self.ask("/prompt", {"prompt": graph})["prompt_id"]
        while not (history := self.ask(f"/history/{prompt}")):
            time.sleep(0.02)
        entry = history[prompt]
        messages = dict(entry["status"]["messages"])
        if entry["status"]["status_str"] != "success":
            said = messages.get("execution_error", {}).get("exception_message", str(messages))
            if "this ComfyUI has no" in said:
                pytest.skip(said)
            raise Refused(said)
        outputs = list(entry["outputs"].values())
        saved = [
            self.base / "output" / found["filename"]
            for output in outputs
            for found in output.get("latents", [])
        ]
        texts = [text for output in outputs for text in output.get("text", [])]
        latent = load_file(saved[0])["latent_tensor"] if saved else torch.empty(0)
        seconds = max(
            spent - before.get(thread, 0.0) for thread, spent in self._thread_seconds().items()
        )
        return Result(latent, "\n".join(texts), seconds)

    def _thread_seconds(self) -> dict[int, float]:
        """Return processor time by thread: one thread runs graphs, another one answers requests."""
        threads = psutil.Process(self._process.pid).threads()
        return {thread.id: thread.user_time + thread.system_time for thread in threads}


def _copy_pack(custom_nodes: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "comfyui", custom_nodes / "skipguide", ignore=ignore)


def _fill(base: Path, install: Callable[[Path], None]) -> None:
    for name in ("models", "input", "output", "temp", "user"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes").mkdir()
    install(base / "custom_nodes")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "tiny", base / "custom_nodes" / "tiny", ignore=ignore)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

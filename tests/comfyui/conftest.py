"""A real ComfyUI for these tests.

COMFYUI_PATH is a checkout of it, COMFYUI_PYTHON a Python that can run it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from comfy_server import Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "comfyui: needs a checkout of ComfyUI in COMFYUI_PATH")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip(
            "COMFYUI_PATH is not set: point it to a checkout of ComfyUI, as comfyui/README.md says"
        )
    running = Server(tmp_path_factory.mktemp("comfyui") / "base")
    yield running
    running.stop()

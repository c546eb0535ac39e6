"""Fixtures that the tests of the studio share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clock import Clock
from support.painted import painted
from support.served import Browsers, Served, run_chromium


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the secret of studios that a test starts away from that of the user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "skipguide" / "studio-secret"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with run_chromium() as browser:
        yield browser


@pytest.fixture
def browse(chromium: Any) -> Iterator[Browsers]:
    """Open pages of browsers that do not know each other. Requests may fail, scripts may not."""
    browsers = Browsers(chromium, viewport={"width": 1280, "height": 800})
    yield browsers
    browsers.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A run of one's own."""
    with Served(painted(tmp_path / "own")) as served:
        yield served


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page that must not complain, nor ask anybody but where it came from."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(20_000)
    said, asked = [], []
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert [
        text for text in said if "status of 400" not in text
    ] == []  # which tells of a refusal that is tested
    assert [
        url for url in asked if not url.startswith(("http://127.0.0.1:", "file:", "data:"))
    ] == []
    context.close()

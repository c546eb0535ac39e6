"""A studio that tests open in a real Chromium, in a thread or as a process of its own, and what
its videos show."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from skipguide.generate.run import StepProgress
from skipguide.studio import app
from skipguide.studio.access import Policy
from skipguide.studio.playground import Trials
from skipguide.studio.sharing import Sharing
from support.painted import FIRST, STEP, Painter

CHROMIUM = (
    os.environ.get("SKIPGUIDE_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
)
try:
    sync_api: Any = importlib.import_module("playwright.sync_api")
except ImportError:
    sync_api = None

# What every test in a browser is marked with.
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on the PATH, nor one named by SKIPGUIDE_CHROMIUM"
    ),
    pytest.mark.skipif(
        sync_api is None, reason="playwright is not installed: pip install playwright"
    ),
]

# The number of the frame that every video shows, from its grey; -1 for one that shows nothing.
READ = """() => [...document.querySelectorAll("main video:not(.coming)")].map((video) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 4, height: 4});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(video, 40, 40, 16, 16, 0, 0, 4, 4);
  const {data} = context.getImageData(0, 0, 4, 4);
  return data[3] ? Math.round((data[20] - FIRST) / STEP) : -1;
})""".replace("FIRST", str(FIRST)).replace("STEP", str(STEP))


class Stepping(Painter):
    """Paints in steps, and waits after the first until it may go on."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, jobs: Any, on_step: Any) -> Iterator[Any]:
        for event in super().run(jobs, on_step):
            yield event
            if on_step:
                on_step(StepProgress(1, 2, 2.0, 3.0))
                self.go.wait(60)
                on_step(StepProgress(2, 2, 2.0, 0.0))


class Served:
    """A studio of a run, in a thread."""

    def __init__(self, folder: Path, policy: Policy | None = None, sharing: Sharing | None = None):
        self.folder, self.engine = folder, Stepping()
        self.trials = Trials(folder, lambda: self.engine)
        made = app.create_app(folder, policy or Policy(), self.trials, sharing=sharing)
        config = uvicorn.Config(made, port=0, log_level="error")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Served:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.go.set()
        self.server.should_exit = True
        self.thread.join(30)


class Verb:
    """`skipguide studio` as a process of its own, which can be killed."""

    def __init__(self, folder: Path, port: int, *more: str):
        script = "from skipguide.cli import main; main()"
        command = [sys.executable, "-c", script, "studio", str(folder), "--port", str(port), *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def run_chromium() -> Iterator[Any]:
    """Run a Chromium without a window."""
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Browsers:
    """Opens pages of browsers that do not know each other.

    Args:
        usual: what the context of a page is, where its caller says nothing else.
    """

    def __init__(self, chromium: Any, **usual: Any) -> None:
        self._chromium, self._usual = chromium, usual
        self._contexts: list[Any] = []
        self._errors: list[str] = []

    def __call__(self, **how: Any) -> Any:
        self._contexts.append(self._chromium.new_context(**{**self._usual, **how}))
        page = self._contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        return page

    def close(self) -> None:
        """Close all of them; none may have had an error in a script."""
        for context in self._contexts:
            context.close()
        assert self._errors == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def until(page: Any, expression: str, is_so: Callable[[Any], Any] = bool) -> None:
    """Wait for something on the page. Playwright's own way is forbidden by the page's
    Content-Security-Policy."""
    end = time.monotonic() + 20
    while not is_so(found := page.evaluate(expression)):
        assert time.monotonic() < end, f"{expression} is still {found!r}"
        page.wait_for_timeout(30)

"""examples/serve_ray.py on a real Ray Serve of one replica: `make test-ray`."""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from skipguide import STG, guide
from skipguide.files import video
from skipguide.models.loading import load_pipeline

pytest.importorskip("ray.serve")

PORT = 8123
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_ray.py"
SMALL = {"prompt": "a small red star", "num_frames": 7, "height": 32, "width": 32, "seed": 3}


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_ray", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_ray"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    """One replica, and room for one request that waits."""
    import ray  # pyright: ignore[reportMissingImports]
    from ray import cloudpickle, serve  # pyright: ignore[reportMissingImports]

    ray.init(address="local", include_dashboard=False, logging_level="error", log_to_driver=False)
    module = example()
    cloudpickle.register_pickle_by_value(module)  # workers cannot import it
    serve.start(http_options={"port": PORT, "host": "127.0.0.1"})
    serve.run(module.application(gpus=0, replicas=1, queue=1))
    yield module
    serve.shutdown()
    ray.shutdown()


@contextlib.contextmanager
def asked(model: str = "lab-mochi", **more: Any) -> Iterator[http.client.HTTPResponse]:
    """Yield the answer to a request; the client goes away at the end of the block."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=600)
    headers = {"serve_multiplexed_model_id": model}
    connection.request("POST", "/", json.dumps({**SMALL, **more}), headers)
    with contextlib.closing(connection), connection.getresponse() as response:
        yield response


def answer(model: str = "lab-mochi", **more: Any) -> tuple[int, list[Any]]:
    """Return the status of a request, and the lines of its answer."""
    with asked(model, **more) as response:
        return response.status, [json.loads(line) for line in response if line.startswith(b"{")]


def test_steps_are_told_and_the_video_is_that_of_guide(served: Any, tmp_path: Path) -> None:
    status, (*steps, last) = answer(num_inference_steps=3)
    assert status == 200
    assert steps == [{"step": i, "of": 3} for i in (1, 2, 3)]
    (tmp_path / "served.mp4").write_bytes(base64.b64decode(last["mp4"]))
    pipe = load_pipeline("lab-mochi")
    with guide(pipe, STG.preset(pipe)):
        call = {name: value for name, value in SMALL.items() if name != "seed"}
        frames = pipe(
            **call, num_inference_steps=3, output_type="np",
            generator=torch.Generator().manual_seed(3),
        ).frames[0]  # fmt: skip
    video.write(tmp_path / "own.mp4", (frames * 255).round().astype("uint8"), 16, {})
    ours, own = (video.read(tmp_path / name)[0] for name in ("served.mp4", "own.mp4"))
    np.testing.assert_array_equal(ours, own)


def test_a_client_that_goes_away_ends_its_video(served: Any) -> None:
    """The next video begins long before the one that was given up would have ended."""
    started = time.monotonic()
    answer(num_inference_steps=4)
    per_step = (time.monotonic() - started) / 4
    many = 400
    with asked(num_inference_steps=many) as response:
        assert json.loads(response.readline()) == {"step": 1, "of": many}
    started = time.monotonic()
    assert "mp4" in answer(num_inference_steps=2)[1][-1]
    assert time.monotonic() - started < many * per_step / 4


def test_a_full_queue_is_said_so_at_once(served: Any) -> None:
    """While one video is made, one request may wait; of three at once two get 503."""
    with asked(num_inference_steps=60) as response:
        assert json.loads(response.readline()) == {"step": 1, "of": 60}
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: answer(num_inference_steps=2), range(3)))
        rest = [json.loads(line) for line in response]
    assert sorted(status for status, _ in answers) == [200, 503, 503]
    assert all("mp4" in lines[-1] for status, lines in answers if status == 200)
    assert "mp4" in rest[-1]


def test_what_cannot_be_served_is_refused(served: Any) -> None:
    status, (only,) = answer(model="lab-mochy")
    assert status == 400
    assert "Did you mean lab-mochi" in only["error"]
    status, (only,) = answer(num_inference_steps=3, height=33)
    assert "ValueError" in only["error"]

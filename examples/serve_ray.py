"""Guided videos as a service on Ray Serve.

    pip install 'skipguide[ray]' 'ray[serve]'
    python examples/serve_ray.py --gpus 1 --replicas 2 --queue 8
    curl -N localhost:8000 -H 'serve_multiplexed_model_id: Wan-AI/Wan2.1-T2V-1.3B-Diffusers' \
        -d '{"prompt": "a red fox in the snow", "num_frames": 81, "num_inference_steps": 50}'

The answer is JSON lines: {"step": 1, "of": 50}, ..., {"mp4": "... in base64"}, or {"error": ...}. A
client that goes away ends its video at the next step; 503 says that the queue is full.
docs/serving.md says more. Without a GPU: `--gpus 0`, with the model lab-mochi.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import torch
from ray import serve  # pyright: ignore[reportMissingImports]
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from skipguide import STG, guide
from skipguide.files import video
from skipguide.models.loading import load_pipeline

_CALL = {"prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps"}
_CALL |= {"guidance_scale"}


class Stopped(Exception):
    """The client is gone."""


class GuidedPipeline:
    """A pipeline with the published guidance of its model, which stays on it."""

    def __init__(self, model: str):
        self.pipe = load_pipeline(model)  # on the GPU, if there is one
        self.guidance = guide(self.pipe, STG.preset(self.pipe))

    def make(self, wanted: dict[str, Any], tell: Callable[[Any], None], gone: Any) -> bytes:
        """Return a video as mp4; `tell` each step, and stop at the next one when `gone` is set."""
        call = {name: wanted[name] for name in _CALL & set(wanted)}
        generator = torch.Generator().manual_seed(int(wanted.get("seed", 0)))

        def on_step(pipe: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
            if gone.is_set():
                raise Stopped
            tell({"step": index + 1, "of": len(pipe.scheduler.timesteps)})
            return {}

        frames = self.pipe(
            **call, generator=generator, output_type="np", callback_on_step_end=on_step
        ).frames[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            video.write(path, (frames * 255).round().astype("uint8"), wanted.get("fps", 16), wanted)
            return path.read_bytes()


@serve.deployment
class Videos:
    """A replica: one GPU (or group of them), one video at a time, the two models used last.

    Serve sends a request to a replica that has its model already, if one of them is free.
    """

    def __init__(self) -> None:
        self._device = threading.Lock()  # a video that was given up still has its last step to do

    @serve.multiplexed(max_num_models_per_replica=2)
    async def pipeline(self, model: str) -> GuidedPipeline:
        """Load a model; Serve keeps it, and drops that which was used longest ago."""
        return await asyncio.to_thread(GuidedPipeline, model)

    async def __call__(self, request: Request) -> Response:
        """Answer a POST with a stream, or with 400 for a model or a body that is none."""
        try:
            wanted = json.loads(await request.body())
            guided = await self.pipeline(serve.get_multiplexed_model_id())
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return StreamingResponse(self._stream(guided, wanted), media_type="application/x-ndjson")

    async def _stream(self, guided: GuidedPipeline, wanted: dict[str, Any]) -> AsyncIterator[str]:
        lines: asyncio.Queue[Any] = asyncio.Queue()
        gone, loop = threading.Event(), asyncio.get_running_loop()

        def tell(line: Any) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        def work() -> None:
            try:
                with self._device:
                    mp4 = guided.make(wanted, tell, gone)
                tell({"mp4": base64.b64encode(mp4).decode()})
            except Stopped:
                print("stopped: the client is gone", flush=True)
            except Exception as error:
                tell({"error": f"{type(error).__name__}: {error}"})
            finally:
                tell(None)

        threading.Thread(target=work, daemon=True).start()
        try:
            while (line := await lines.get()) is not None:
                yield json.dumps(line) + "\n"
        finally:
            gone.set()


def application(gpus: float, replicas: int, queue: int) -> serve.Application:
    """Return the application.

    Args:
        gpus: per replica; 0 is a CPU.
        replicas: how many videos are made at a time.
        queue: how many requests wait for a replica (at each proxy); the next one gets 503.
    """
    actor, videos = {"num_gpus": gpus, "num_cpus": 1}, cast(Any, Videos)
    return videos.options(
        num_replicas=replicas,
        ray_actor_options=actor,
        max_ongoing_requests=1,
        max_queued_requests=queue,
    ).bind()


def main() -> None:
    """Read the command line and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Guided videos as a service.")
    parser.add_argument("--gpus", type=float, default=1, help="per replica")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    serve.start(http_options={"port": args.port, "host": "0.0.0.0"})
    serve.run(application(args.gpus, args.replicas, args.queue), blocking=True)


if __name__ == "__main__":
    main()

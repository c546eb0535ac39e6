"""Open-Sora 1.2 as a diffusers pipeline: text and image to video, continuation, several loops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.video_processor import VideoProcessor
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from skipguide.opensora import buckets, checks, original, prompts
from skipguide.opensora.autoencoder import AutoencoderKLOpenSora
from skipguide.opensora.conditions import (
    Clip,
    Frames,
    OpenSoraCondition,
    collect_conditions,
)
from skipguide.opensora.latents import Generators, LatentsMixin
from skipguide.opensora.loops import Loops, LoopsMixin
from skipguide.opensora.scheduler import OpenSoraRFlowScheduler
from skipguide.opensora.transformer import OpenSoraTransformer3DModel

Tensor = torch.Tensor

IMAGE_FPS = 120  # what the model was told about single frames
DEFAULT_SIZE = ("240p", "9:16")


@dataclasses.dataclass
class OpenSoraPipelineOutput(BaseOutput):
    """The output of OpenSoraPipeline.

    `frames` is (B, F, H, W, 3) in [0, 1] for "np", (B, F, 3, H, W) for "pt", lists of images for
    "pil"; or latents.
    """

    frames: Any


class OpenSoraPipeline(prompts.PromptMixin, LoopsMixin, LatentsMixin, DiffusionPipeline):
    """Generates videos from text, images and clips with Open-Sora 1.2.

    Args:
        tokenizer, text_encoder: T5 v1.1 XXL; None if prompts come as embeddings.
        vae: compresses 17 frames to 5, and 8x8 pixels to one.
        transformer: predicts the velocity from noise to video.
        scheduler: rectified flow, with timesteps for the size of the video.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012

    scheduler: OpenSoraRFlowScheduler

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel,
        vae: AutoencoderKLOpenSora,
        transformer: OpenSoraTransformer3DModel,
        scheduler: OpenSoraRFlowScheduler,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            transformer=transformer,
            scheduler=scheduler,
        )
        # Published sizes such as 240x426 are not multiples of 8; the VAE, not this processor, cuts
        # the remainder off.
        self.video_processor = VideoProcessor(vae_scale_factor=1, do_resize=False)

    @classmethod
    def from_original(
        cls,
        transformer: str | Path,
        vae: str | Path,
        text_encoder: str | Path,
        torch_dtype: torch.dtype = torch.float32,
    ) -> OpenSoraPipeline:
        """Build a pipeline from folders as Open-Sora publishes them.

        `save_pretrained` then writes it in diffusers' layout.

        Args:
            transformer: hpcai-tech/OpenSora-STDiT-v3, downloaded.
            vae: hpcai-tech/OpenSora-VAE-v1.2, downloaded.
            text_encoder: DeepFloyd/t5-v1_1-xxl, downloaded: encoder and tokenizer.
            torch_dtype: of the weights.

        Raises:
            ValueError: for folders with anything else in them.
        """
        # The tokenizer comes first, because it fails quickly.
        tokenizer = T5Tokenizer.from_pretrained(text_encoder, local_files_only=True)
        denoiser: Any = original.load_transformer(transformer)
        autoencoder: Any = original.load_autoencoder(vae)
        encoder = T5EncoderModel.from_pretrained(
            text_encoder, dtype=torch_dtype, local_files_only=True
        )
        return cls(
            tokenizer,
            encoder,
            autoencoder.to(torch_dtype),
            denoiser.to(torch_dtype),
            OpenSoraRFlowScheduler(),
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image: Frames | Sequence[Frames] | None = None,
        video: Clip | Sequence[Clip] | None = None,
        conditions: OpenSoraCondition
        | Sequence[OpenSoraCondition]
        | Sequence[Sequence[OpenSoraCondition]]
        | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | str = 51,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,
        fps: float = 24,
        aesthetic_score: float | None = 6.5,
        motion_score: float | None = None,
        camera_motion: str | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | Sequence[Tensor] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        num_loops: int = 1,
        condition_frame_length: int = 5,
        condition_frame_edit: float = 0.0,
        align: int | None = 5,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: (
            Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None
        ) = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        clean_caption: bool = True,
        max_sequence_length: int = 300,
    ) -> OpenSoraPipelineOutput | tuple[Any]:
        """Generate videos, `num_videos_per_prompt` for each prompt.

        Args:
            prompt: what the video shows. `|0| a red fox |2| a blue one` is one text for loops 0 and
                1, another from 2.
            negative_prompt: what to lead away from; None is the null caption that the model was
                trained with.
            image: the first frame, or one per prompt; see `OpenSoraCondition.frames` for what it
                can be.
            video: a clip to continue, or one per prompt: its last 17 frames (per 5 of
                `condition_frame_length`) are the first ones of the new clip.
            conditions: `OpenSoraCondition`s, for every other use of given frames; or a list of them
                per prompt.
            height, width: in pixels, a published size (`buckets.image_size`) if possible; 240 x 426
                by default. If they are not multiples of 8, frames are cut down to one.
            num_frames: of a clip: 1 (an image), 17 or more, or "2s" ... "32s"; 51 and multiples of
                it were trained.
            num_inference_steps: how often the transformer runs.
            guidance_scale: g in u + g (c - u); CFG is on above 1.
            fps: what the model is told about the speed; an image has its own.
            aesthetic_score, motion_score, camera_motion: added to prompts that do not mention them;
                None adds nothing.
            num_videos_per_prompt: rows of the same prompt follow each other.
            generator: of the noise; one, or one per video.
            latents: the noise (B, C, f, h, w), or a list of one per loop.
            prompt_embeds, negative_prompt_embeds: (B, L, D) in place of texts, one row per prompt.
            prompt_attention_mask, negative_prompt_attention_mask: (B, L), true at real tokens; None
                if all are.
            num_loops: clips, each of which continues the one before it; the frames they share come
                out once.
            condition_frame_length: how many latent frames of a clip the next one starts with.
            condition_frame_edit: `OpenSoraCondition.edit_ratio` of these.
            align: what conditions' starts are aligned to; see `conditions.apply_mask_strategy`.
            output_type: "np", "pt", "pil" or "latent".
            return_dict: False returns a tuple.
            callback_on_step_end: called as f(pipe, step, timestep, tensors) after each step of a
                loop; may return other tensors, and end the run by setting `pipe._interrupt`.
            callback_on_step_end_tensor_inputs: of `latents` and `prompt_embeds`, whose first half
                is uncond.
            clean_caption: clean texts as in training.
            max_sequence_length: tokens of a prompt.

        Raises:
            ValueError: for arguments that are impossible, before any work.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if height is None and width is None:
            height, width = buckets.image_size(*DEFAULT_SIZE)
        whole = dict(
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            num_loops=num_loops,
            num_videos_per_prompt=num_videos_per_prompt,
            max_sequence_length=max_sequence_length,
        )
        height, width, *_ = checks.check_numbers(whole, fps, align)
        num_frames = buckets.parse_num_frames(num_frames)
        checks.check_output(
            output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        embeds = dict(
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
        )
        self._guidance_scale, self._current_timestep, self._interrupt = guidance_scale, None, False
        number = self._check_prompts(prompt, negative_prompt, embeds, max_sequence_length)
        rows = number * num_videos_per_prompt
        checks.check_generators(generator, rows)
        shape = self.latents_shape(rows, num_frames, height, width)
        noises = checks.check_latents(latents, shape, num_loops)
        last = dict(length=condition_frame_length, edit_ratio=condition_frame_edit)
        asked = ["video"] * (video is not None) + ["num_loops"] * (num_loops > 1)
        shared = self._check_continuation(
            asked, num_frames, condition_frame_length, condition_frame_edit
        )
        given = collect_conditions(image, video, conditions, number, last, shared)
        checks.check_conditions(given, shape, num_loops, self.vae.latent_frames)

        device = self._execution_device
        encoding = dict(
            clean_caption=clean_caption,
            max_sequence_length=max_sequence_length,
            negative_prompt=negative_prompt,
            num_videos_per_prompt=num_videos_per_prompt,
            **embeds,
        )
        texts = self._encode_texts(
            prompt, (aesthetic_score, motion_score, camera_motion), num_loops, encoding
        )
        given = [
            row
            for row in self.encode_conditions(given, height, width, device)
            for _ in range(num_videos_per_prompt)
        ]
        about = dict(height=height, width=width, fps=IMAGE_FPS if num_frames == 1 else fps)
        numbers = _repeat_per_row(about, len(texts[0][0]), device)
        report = functools.partial(
            self._report, callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        timesteps = dict(
            num_inference_steps=num_inference_steps,
            device=device,
            height=height,
            width=width,
            num_frames=num_frames,
        )
        loops = Loops(timesteps, shape, generator, noises, texts, numbers, align, last, report)
        parts, clips = self._run_loops(loops, given, decoded=output_type != "latent")
        self._current_timestep = None
        frames: Any = _concatenate(parts, condition_frame_length)
        if output_type != "latent":
            video_frames = _concatenate(clips, shared)
            frames = self.video_processor.postprocess_video(video_frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=frames) if return_dict else (frames,)

    def _check_prompts(
        self,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        embeds: dict[str, Tensor | None],
        longest: int,
    ) -> int:
        encoder = self.text_encoder if self.tokenizer is not None else None
        number = checks.check_prompts(prompt, negative_prompt, embeds, longest, encoder)
        if (
            self.do_classifier_free_guidance
            and negative_prompt is None
            and embeds["negative_prompt_embeds"] is None
        ):
            given = embeds["prompt_embeds"]
            prompts.check_null_caption(
                longest if given is None else given.shape[1], len(self.transformer.null_caption)
            )
        return number

    def _check_continuation(
        self, asked: Sequence[str], num_frames: int, length: int, edit_ratio: float
    ) -> int:
        """Return how many frames a clip takes over from the one before it.

        Args:
            asked: arguments of the call that make a clip continue another.
        """
        chunk, group = (
            self.vae.config["micro_frame_size"],
            self.vae.latent_frames(self.vae.config["micro_frame_size"]),
        )
        for name in asked:
            checks.check_continuation(name, num_frames, length, edit_ratio, group, chunk)
        return length // group * chunk

    def _encode_texts(
        self,
        prompt: str | Sequence[str] | None,
        scores: tuple[float | None, float | None, str | None],
        loops: int,
        encoding: dict[str, Any],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return embeddings and masks of each loop, [uncond, cond] or cond.

        Each text is encoded once, before all other work.
        """
        listed = [prompt] if isinstance(prompt, str) else prompt
        encoded: dict[tuple[str, ...] | None, tuple[Tensor, Tensor]] = {}
        wanted = [
            None
            if listed is None
            else tuple(
                prompts.append_scores(prompts.select_loop_text(one, loop), *scores)
                for one in listed
            )
            for loop in range(loops)
        ]
        for texts in dict.fromkeys(wanted):
            cfg = self.do_classifier_free_guidance
            embeds, mask, negative, its_mask = self.encode_prompt(
                texts, do_classifier_free_guidance=cfg, **encoding
            )
            if negative is not None and its_mask is not None:
                embeds, mask = torch.cat([negative, embeds]), torch.cat([its_mask, mask])
            encoded[texts] = embeds, mask
        return [encoded[texts] for texts in wanted]


def _repeat_per_row(
    values: Mapping[str, float], rows: int, device: torch.device
) -> dict[str, Tensor]:
    """Return each value `rows` times, as the transformer takes it."""
    return {name: torch.full((rows,), float(x), device=device) for name, x in values.items()}


def _concatenate(parts: Sequence[Tensor], shared: int) -> Tensor:
    """Join clips (B, C, F, H, W), without the first `shared` frames of all but the first clip."""
    return torch.cat(
        [part if i == 0 else part[:, :, shared:] for i, part in enumerate(parts)], dim=2
    )

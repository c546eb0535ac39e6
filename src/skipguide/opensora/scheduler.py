"""The rectified flow sampler of Open-Sora 1.2 as a diffusers scheduler."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

Tensor = torch.Tensor

FRAMES, LATENT_FRAMES = 17, 5  # a chunk of the VAE, before and after


class OpenSoraRFlowScheduler(SchedulerMixin, ConfigMixin):
    """Euler steps along straight lines from noise (t = 1000) to video (t = 0).

    Larger videos are denoised at later timesteps. Source: Open-Sora 1.2, `opensora/schedulers/rf/`.
    A sample at timestep t is `(1 - t / 1000) video + t / 1000 noise` and the model predicts the
    velocity `video - noise`; other flow schedulers of diffusers have the opposite sign.

    Args:
        num_train_timesteps: The timestep of pure noise.
        use_timestep_transform: Move the timesteps towards noise for videos larger than
            `base_resolution` and longer than `base_num_frames`; `set_timesteps` then needs their
            size.
        use_discrete_timesteps: Round the timesteps (before they are transformed).
        transform_scale: Move them by this additional factor. Upstream uses it in training only,
            where it is 1 as well.
        base_resolution: Pixels of a frame at which nothing is moved.
        base_num_frames: Latent frames at which nothing is moved.
    """

    _compatibles = []  # noqa: RUF012
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        use_timestep_transform: bool = True,
        use_discrete_timesteps: bool = False,
        transform_scale: float = 1.0,
        base_resolution: int = 512 * 512,
        base_num_frames: int = 1,
    ):
        self.sigmas = torch.linspace(1.0, 0.0, num_train_timesteps + 1)  # (N + 1,)
        self.timesteps = self.sigmas[:-1] * num_train_timesteps  # (N,)
        self.num_inference_steps: int | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """The number of steps taken; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The step to begin with, if it was set."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this step, whatever timestep comes first."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
    ) -> None:
        """Lay out the timesteps for a video of `height` x `width` pixels and `num_frames` frames.

        Sets `timesteps` `(N,)`, falling from 1000, and `sigmas` `(N + 1,)`, falling from 1 to 0.

        Raises:
            ValueError: Without steps, or without a size when the timesteps depend on it.
        """
        if num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1, but got {num_inference_steps}. Pass 30."
            )
        total = self.config["num_train_timesteps"]
        steps = [(1.0 - i / num_inference_steps) * total for i in range(num_inference_steps)]
        if self.config["use_discrete_timesteps"]:
            steps = [float(round(t)) for t in steps]
        sigmas = torch.tensor(steps) / total
        if self.config["use_timestep_transform"]:
            sigmas = self._shift_sigmas(sigmas, height, width, num_frames)
        self.timesteps = (sigmas * total).to(device)
        self.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)]).to(device)
        self.num_inference_steps = num_inference_steps
        self._step_index = self._begin_index = None

    def _shift_sigmas(
        self, sigmas: Tensor, height: int | None, width: int | None, num_frames: int | None
    ) -> Tensor:
        """Move the sigmas towards 1 by the square roots of how much larger and longer the video is.

        In float32 and in upstream's order of operations, so that the timesteps are upstream's to
        the last bit; only a sigma that rounding would lift above 1 is cut. Upstream counts latent
        frames in whole chunks, even if the VAE adds some for a remainder; videos shorter than a
        chunk, for which it would then divide 0 by 0, count as one latent frame.
        """
        if height is None or width is None or num_frames is None:
            raise ValueError(
                "set_timesteps needs height, width and num_frames, for larger videos are denoised"
                f" at later timesteps, but got {height}, {width} and {num_frames}. Pass all three,"
                " or use_timestep_transform=False."
            )
        latent_frames = max(num_frames // FRAMES * LATENT_FRAMES, 1)
        pixels = torch.tensor(float(height)) * torch.tensor(float(width))
        space = (pixels / self.config["base_resolution"]).sqrt()
        time = (torch.tensor(float(latent_frames)) / self.config["base_num_frames"]).sqrt()
        ratio = space * time * self.config["transform_scale"]
        return (ratio * sigmas / (1 + (ratio - 1) * sigmas)).clamp(max=1.0)

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """Return the sample unchanged; nothing is scaled."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take one Euler step in float32, and return the next sample in the dtype of `sample`.

        Args:
            model_output: The velocity from noise to video, of the shape of `sample`.
            timestep: One of `timesteps`; the first call looks up its position, later ones continue
                from there.
            sample: `(B, C, F, H, W)`, or any other shape.
        """
        if self.num_inference_steps is None:
            raise ValueError("step needs timesteps. Call set_timesteps first.")
        if self._step_index is None:
            self._step_index = (
                self._index_of(timestep) if self._begin_index is None else self._begin_index
            )
        sigma, following = self.sigmas[self._step_index], self.sigmas[self._step_index + 1]
        previous = (sample.float() + model_output.float() * (sigma - following)).to(sample.dtype)
        self._step_index += 1
        return SchedulerOutput(prev_sample=previous) if return_dict else (previous,)  # type: ignore[arg-type]

    def _index_of(self, timestep: Tensor | float) -> int:
        found = (
            self.timesteps == torch.as_tensor(timestep, device=self.timesteps.device)
        ).nonzero()
        if len(found) == 0:
            raise ValueError(
                f"timestep must be one of scheduler.timesteps, but got {float(timestep)}. Call"
                " set_timesteps first."
            )
        return int(found[0])

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return `(1 - t / 1000) original + t / 1000 noise`, for timesteps `(B,)` or a scalar."""
        clean = (
            1 - timesteps.to(original_samples.device).float() / self.config["num_train_timesteps"]
        )
        clean = clean.reshape(-1, *(1,) * (original_samples.ndim - 1))
        return (clean * original_samples + (1 - clean) * noise).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Call `add_noise`, under the name and argument order of diffusers' flow schedulers."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

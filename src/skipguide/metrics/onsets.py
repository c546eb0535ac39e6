"""The times at which sounds begin, with the numbers of librosa's onset_strength and onset_detect.

The strength of an onset is how much louder the bands of a mel spectrogram become from one frame to
the next (Boeck and Widmer's spectral flux, without their maximum filter); an onset is a peak of it
that stands out from its surroundings. The constants are librosa's defaults, with which AV-Align
calls it.
"""

from __future__ import annotations

import functools

import torch

from skipguide.files.sound import Sound

Tensor = torch.Tensor

RATE, HOP, WINDOW, BANDS = 22050, 512, 2048, 128  # of the spectrogram
_QUIETEST, _RANGE = 1e-10, 80.0  # power; decibels below the loudest
# Of a peak: frames around it, when it is the largest (before, from it on) and how far it must be
# above the mean (before, from it on), and how many frames come between two of them.
_NEAR, _AROUND, _ABOVE, _APART = (1, 1), (4, 5), 0.07, 1


def onset_times(sound: Sound) -> list[float]:
    """Return when sounds begin, in seconds from the first frame of the video."""
    return [place * HOP / RATE for place in pick_peaks(strength(sound.mono(RATE)))]


def strength(samples: Tensor | object) -> Tensor:
    """Return how much louder it becomes at each frame, `(N,)`, of samples `(T,)` at `RATE`."""
    power = _decibels(_mel(torch.as_tensor(samples, dtype=torch.float32)))
    rise = (power[:, 1:] - power[:, :-1]).clamp_min(0).mean(0)
    late = 1 + WINDOW // (2 * HOP)  # a frame is told by the middle of its window
    return torch.cat([rise.new_zeros(late), rise])[: power.shape[1]]


@functools.cache
def _filters() -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(WINDOW // 2 + 1, BANDS, 0.0, RATE / 2, RATE, "slaney", "slaney")
    return torch.from_numpy(filters).float().T


def _mel(samples: Tensor) -> Tensor:
    spectrum = torch.stft(
        samples, WINDOW, HOP, window=torch.hann_window(WINDOW), center=True, pad_mode="constant",
        return_complex=True,
    )  # fmt: skip
    return _filters() @ (spectrum.real.square() + spectrum.imag.square())


def _decibels(power: Tensor) -> Tensor:
    found = 10 * power.clamp_min(_QUIETEST).log10()
    return found.clamp_min(float(found.max()) - _RANGE)


def pick_peaks(values: Tensor) -> list[int]:
    """Return the places of the peaks of a strength `(N,)`, which is scaled to 0 to 1 before."""
    if not bool(values.any()):
        return []
    scaled = values - values.min()
    scaled = (scaled / scaled.max().clamp_min(torch.finfo(scaled.dtype).tiny)).tolist()
    found, place = [], 0
    while place < len(scaled):
        is_peak = _is_peak(scaled, place)
        found += [place] if is_peak else []
        place += 1 + (_APART if is_peak else 0)
    return found


def _is_peak(values: list[float], place: int) -> bool:
    near = values[max(0, place - _NEAR[0]) : place + _NEAR[1]]
    around = values[max(0, place - _AROUND[0]) : place + _AROUND[1]]
    return values[place] == max(near) and values[place] >= sum(around) / len(around) + _ABOVE

"""Divide the tokens of one video among processes, by diffusers' context parallelism.

diffusers has plans for some models (Wan, LTX-Video, ...). For those of families/token_shares.py it
has none, and a plan alone would not do: their attentions call torch by themselves, so that each
process would attend to its own share only, or have a mask for another order of tokens than the one
that arrives. Their processors are put into an `ExchangedAttention`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from skipguide.families import lookup
from skipguide.families.blocks import layer_sites
from skipguide.families.schema import Family
from skipguide.families.token_shares import TOKEN_SHARES, Dims, TokenShares
from skipguide.weak.attention import InterceptSDPA, SDPACall

Tensor = torch.Tensor


def enable_context_parallel(pipe: Any, config: Any) -> None:
    """Have each process compute a share of the tokens of a video.

    This is diffusers' `enable_parallelism(config=config)` on each denoiser of a pipeline, and works
    for Mochi, HunyuanVideo and CogVideoX too. It is for good, as in diffusers. Before or after
    guide() makes no difference; processors of attentions must be set before.

        pipe = MochiPipeline.from_pretrained("genmo/mochi-1-preview").to(device)
        enable_context_parallel(pipe, ContextParallelConfig(ulysses_degree=2))

    Args:
        pipe: a diffusers pipeline of a known family, the same in each process.
        config: diffusers' ContextParallelConfig.

    Raises:
        ValueError: for another kind of config, a model without a plan, one that cannot be divided,
            or degrees that do not suit it. Nothing is changed then.
        RuntimeError: if parallelism is on already.
    """
    from diffusers.models._modeling_parallel import ContextParallelConfig

    if not isinstance(config, ContextParallelConfig):
        raise ValueError(
            "context parallelism needs diffusers' ContextParallelConfig, such as"
            f" ContextParallelConfig(ulysses_degree=2), but got a {type(config).__name__}."
        )
    family = lookup.family_of(pipe)
    denoisers = lookup.denoisers_of(pipe, family)
    for denoiser in denoisers:
        _check(denoiser, family, config)
    for denoiser in denoisers:
        shares, own = _shares_of(denoiser), copy.copy(config)  # diffusers writes its mesh into it
        if shares is None:
            denoiser.enable_parallelism(config=own)
        else:
            _enable_by_row(denoiser, family, shares, own)


def _enable_by_row(denoiser: Any, family: Family, shares: TokenShares, config: Any) -> None:
    before = [(attention, attention.processor) for attention in _attentions(denoiser, family)]
    for attention, processor in before:
        attention.processor = ExchangedAttention(processor, shares.mask)
    try:
        denoiser.enable_parallelism(config=config, cp_plan=to_plan(shares))
    except Exception:  # there are no processes, or fewer than the degrees need
        for attention, processor in before:
            attention.processor = processor
        raise


def _shares_of(denoiser: nn.Module) -> TokenShares | None:
    names = [cls.__name__ for cls in type(denoiser).__mro__]
    return next((TOKEN_SHARES[name] for name in names if name in TOKEN_SHARES), None)


def _attentions(denoiser: nn.Module, family: Family) -> Iterator[Any]:
    """Yield the self-attentions of the blocks."""
    for site in layer_sites(family, denoiser):
        for (owner, name), _ in site.attentions():
            yield owner._modules[name]


def _check(denoiser: Any, family: Family, config: Any) -> None:
    """Check that a denoiser can be divided, before anything is changed.

    Raises:
        ValueError, RuntimeError: as `enable_context_parallel`.
    """
    name, shares = type(denoiser).__name__, _shares_of(denoiser)
    if getattr(denoiser, "_parallel_config", None) is not None:
        raise RuntimeError(
            f"context parallelism needs a {name} that is not divided yet, but this one is. Load the"
            " model again for other degrees."
        )
    if shares is None:
        if getattr(denoiser, "_cp_plan", None) is None:
            raise ValueError(
                f"context parallelism needs a plan of what to split, but neither diffusers nor"
                f" skipguide has one for {name}. Use guide(..., parallel=group), which divides the"
                " passes of a step instead, or make one video per GPU."
            )
        return
    if shares.unfit is not None and denoiser.config.get(shares.unfit[0]) == shares.unfit[1]:
        raise ValueError(
            f"context parallelism needs blocks that treat all tokens alike, but a {name} with"
            f' {shares.unfit[0]}="{shares.unfit[1]}" treats those of the first frame apart. Use'
            " guide(..., parallel=group), which divides the passes of a step instead."
        )
    if shares.mask and (config.ring_degree > 1 or config.ulysses_anything):
        raise ValueError(
            f"the attention of {name} has a mask for the text, which diffusers exchanges right with"
            " ulysses_degree and equal shares only, but ring_degree is"
            f" {config.ring_degree} and ulysses_anything is {config.ulysses_anything}. Use"
            " ulysses_degree alone."
        )
    for attention in _attentions(denoiser, family):
        _check_attention(attention, name, config)


def _check_attention(attention: Any, model: str, config: Any) -> None:
    if attention.heads % config.ulysses_degree and not config.ulysses_anything:
        raise ValueError(
            f"ulysses_degree must divide the {attention.heads} heads of {model}, but got"
            f" {config.ulysses_degree}. Use a degree that does."
        )
    processor = type(attention.processor)
    if processor.__module__.partition(".")[0] != "diffusers":
        raise ValueError(
            f"context parallelism needs diffusers' own attention processors in {model}, whose"
            f" masks and tokens it knows, but got a {processor.__name__} of"
            f" {processor.__module__}. Put diffusers' back."
        )


# --- the plan -------------------------------------------------------------------------------------


def to_plan(shares: TokenShares) -> dict[str, Any]:
    """Return a row as diffusers' plan."""
    from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput

    def split(dims: Dims) -> Any:
        if isinstance(dims, tuple):
            return [split(dim) for dim in dims]
        return ContextParallelInput(split_dim=dims)

    plan: dict[str, Any] = {
        path: {name: split(dims) for name, dims in inputs.items()}
        for path, inputs in shares.inputs.items()
    }
    for path, dims in shares.outputs.items():
        plan[path] = {
            i: ContextParallelInput(split_dim=dim, split_output=True) for i, dim in enumerate(dims)
        }
    for path, dim in shares.gathered.items():
        plan[path] = ContextParallelOutput(gather_dim=dim)
    return plan


# --- attention ------------------------------------------------------------------------------------


class ExchangedAttention:
    """A processor of diffusers, whose call of torch's attention sees the tokens of all processes.

    Projections, norms and rotary embeddings are those of the processor, on the tokens of this
    process. In the place of torch's attention diffusers' own is called, which has the exchange.

    Args:
        real: the processor.
        mask: as in `families.token_shares.TokenShares`.
    """

    # Both are set by diffusers: set_attention_backend() and enable_parallelism().
    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, real: Any, mask: str):
        self.real, self.mask = real, mask

    # By these names diffusers' Attention knows what to hand over. It runs outside of compiled code.
    @torch.compiler.disable
    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend over `(B, n, D)` and `(B, m, D')`, the video and the text of this process."""
        keys: Iterator[Tensor] | None = None
        if attention_mask is not None and self.mask == "text":
            keys = _keys_of_samples(attention_mask, hidden_states.shape[1])
            attention_mask = torch.ones_like(attention_mask)  # no token is left out of an exchange
        elif attention_mask is not None and self.mask == "joint":
            sizes = hidden_states.shape[1], encoder_hidden_states.shape[1]
            attention_mask = self._own_share(attention_mask, *sizes)
        with InterceptSDPA(lambda call: self._attend(call, keys)):
            return self.real(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                image_rotary_emb=image_rotary_emb,
            )

    def _attend(self, call: SDPACall, keys: Iterator[Tensor] | None) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        query, key, value = (call[name].transpose(1, 2) for name in ("query", "key", "value"))
        output = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=call.get("attn_mask") if keys is None else next(keys),
            scale=call.get("scale"),
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return output.transpose(1, 2)

    def _own_share(self, mask: Tensor, video: int, text: int) -> Tensor:
        """Return the entries of a joint mask that belong to the tokens of this process.

        diffusers gathers them in the order in which the tokens arrive.
        """
        config = self._parallel_config.context_parallel_config
        rank, text_start = config._ulysses_local_rank, mask.shape[-1] - text * config.ulysses_degree
        parts = [
            mask.narrow(-1, rank * video, video),
            mask.narrow(-1, text_start + rank * text, text),
        ]
        return torch.cat(parts, -1)


def _keys_of_samples(text_mask: Tensor, video: int) -> Iterator[Tensor]:
    """Yield for each sample `(1, 1, 1, n + m)`: which tokens of this process are seen as keys."""
    rows = text_mask.bool()
    keys = torch.cat([rows.new_ones(len(rows), video), rows], 1)
    yield from keys[:, None, None].split(1)

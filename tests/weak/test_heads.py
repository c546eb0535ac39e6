"""Some heads of a layer instead of all: against copies whose attention is written out in matrices,
head by head. The copies know nothing of skipguide."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from skipguide import SLG, STG, guide
from skipguide.families.lookup import family_of
from skipguide.method import parsing
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import Bin, Schedule
from skipguide.weak import attention as weak_attention
from support import oracle
from support.tiny import tiny
from support.written import assert_equal, attentions_of, paths_of

Tensor = torch.Tensor
LAYERS = {
    "MochiPipeline": 1, "WanPipeline": 1, "CogVideoXPipeline": 2, "LTX2Pipeline gated": 1,
    "HunyuanVideoPipeline": "single:0", "Kandinsky5T2VPipeline": 1, "LattePipeline": 1,
    "AnimateDiffPipeline": "up:1", "StableVideoDiffusionPipeline": "up:2",
}  # fmt: skip


def written_out(heads: Sequence[int], share: float) -> Any:
    """In the place of oracle.weakened: a copy in whose attentions the maps of some heads are
    (1 - share) of themselves and share of the identity."""

    def made(
        model: nn.Module, layers: Sequence[str], _: str, attentions: Sequence[str]
    ) -> nn.Module:
        weak = copy.deepcopy(model)
        for path in [f"{layer}.{name}" for layer in layers for name in attentions]:
            write_out(weak.get_submodule(path), heads, share, path)
        return weak

    return made


def write_out(attention: nn.Module, heads: Sequence[int], share: float, path: str) -> None:
    usual = torch.nn.functional.scaled_dot_product_attention

    def instead(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        maps = scores.softmax(-1)
        for head in heads:
            maps[:, head] = (1 - share) * maps[:, head] + share * torch.eye(query.shape[-2])
        return maps @ value

    def on(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        if not path.endswith("attn2") or kwargs.get("encoder_hidden_states") is None:
            torch.nn.functional.scaled_dot_product_attention = instead

    def off(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = usual

    attention.register_forward_pre_hook(on, with_kwargs=True)
    attention.register_forward_hook(off, always_call=True)


def count_of(name: str, layer: Any) -> int:
    """How many heads the attentions of a layer have."""
    small = tiny(name)
    (path, *_) = paths_of(small, [layer], "attention", None)
    first = next(
        oracle.models(small)[0].get_submodule(f"{path}.{attention}")
        for attention in attentions_of(small)
    )
    return getattr(first, "heads", None) or first.num_heads  # type: ignore[return-value]


@pytest.mark.diagonal
@pytest.mark.parametrize("skip", ["attention", "soft"])
@pytest.mark.parametrize("name", LAYERS)
def test_named_heads_are_those_of_matrices(
    name: str, skip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, layer = tiny(name), LAYERS[name]
    last = count_of(name, layer) - 1
    assert last > 0, "one head is a whole layer"
    term = STG([f"{layer}@{last}"], 1.3, skip, strength=0.3 if skip == "soft" else None)
    plain, runs = oracle.run(small, **small.short), []
    for share in (True, False):
        with guide(small.pipe, term, share_prefix=share):
            runs.append(oracle.run(small, **small.short))
    assert torch.equal(*runs)
    monkeypatch.setattr(
        oracle, "weakened", written_out([last], 1.0 if skip == "attention" else 0.3)
    )
    hand = oracle.Term(paths_of(small, [layer], "attention", None), skip, term.scales(2))
    assert_equal(small, runs[0], oracle.by_hand(small, [hand], attentions_of(small)), plain)


@pytest.mark.parametrize("name", LAYERS)
def test_all_heads_are_the_layer(name: str) -> None:
    small, layer = tiny(name), LAYERS[name]
    runs = []
    for written in (layer, f"{layer}@0-{count_of(name, layer) - 1}"):
        with guide(small.pipe, STG([written], 1.0, "attention")):
            runs.append(oracle.run(small, **small.short))
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", ["MochiPipeline", "WanPipeline", "LTX2Pipeline gated"])
def test_heads_one_after_the_other_are_the_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all heads are intercepted, what is left is what the projection to V alone gives."""
    small = tiny(name)
    with guide(small.pipe, STG([1], 1.0, "attention")):
        whole = oracle.run(small, **small.short)
    monkeypatch.setattr("skipguide.weak.weak_pass.count_heads", lambda _: -1)
    with guide(small.pipe, STG([f"1@0-{count_of(name, 1) - 1}"], 1.0, "attention")):
        torch.testing.assert_close(
            oracle.run(small, **small.short), whole, atol=small.atol, rtol=1e-4
        )


@pytest.mark.parametrize("skip", ["attention", "soft", "blur"])
@pytest.mark.parametrize("kv_heads", [6, 3, 1])
def test_other_heads_are_those_of_the_real_attention(skip: str, kv_heads: int) -> None:
    """To the last bit, also where several heads have keys and values in common."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 8, 4) for heads in (6, kv_heads, kv_heads))
    call: dict[str, Any] = dict(query=query, key=key, value=value, enable_gqa=kv_heads < 6)
    real = torch.nn.functional.scaled_dot_product_attention(**call)
    edit = weak_attention._EDITS_OF_HEADS[skip]
    view: Any = type("View", (), {"video_tokens": lambda _, n: (0, (n,))})()
    ours = weak_attention._edit_heads(edit, [4, 1])(call, view, 0.5 if skip == "soft" else None)
    changed = [h for h in range(6) if not torch.equal(ours[:, h], real[:, h])]
    assert changed == [1, 4]
    if skip == "attention":
        for head in changed:
            assert torch.equal(ours[:, head], value[:, head // (6 // kv_heads)])


def test_masks_are_those_of_their_heads() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    mask = torch.rand(2, 3, 5, 5) > 0.3
    mask[..., 0] = True
    call: dict[str, Any] = dict(query=query, key=key, value=value, attn_mask=mask)
    real = torch.nn.functional.scaled_dot_product_attention(**call)
    view: Any = None
    ours = weak_attention._edit_heads(weak_attention._EDITS_OF_HEADS["soft"], [2])(call, view, 0.4)
    torch.testing.assert_close(ours[:, 2], real[:, 2].lerp(value[:, 2], 0.4))


def test_terms_of_other_heads_in_one_batch_and_apart() -> None:
    small = tiny("MochiPipeline")
    terms = STG(["1@0"], 1.0, "attention"), STG(["1@1"], 0.5, "attention")
    runs = []
    for exact in (True, False):
        with guide(small.pipe, *terms, exact=exact):
            runs.append(oracle.run(small, **small.short))
    torch.testing.assert_close(*runs, atol=1e-4, rtol=1e-4)
    with guide(small.pipe, STG(["1@0"], 1.5, "attention")):
        assert (oracle.run(small, **small.short) - runs[0]).abs().max() > 1e-3


def test_heads_in_the_uncond_pass_and_in_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny("WanPipeline")
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, SLG(["1@1"], "attention")):
        ours = oracle.run(small, **small.short)
    monkeypatch.setattr(oracle, "weakened", written_out([1], 1.0))
    slg = oracle.Term(["blocks.1"], "attention", (0.0,))
    assert_equal(small, ours, oracle.by_hand(small, [], attentions_of(small), slg=slg), plain)
    with guide(small.pipe, Schedule([Bin((0.0, 2.0), ["1@1"], 1.0, "soft", strength=0.2)])):
        bins = oracle.run(small, **small.short)
    with guide(small.pipe, STG(["1@1"], 1.0, "soft", strength=0.2)):
        assert torch.equal(oracle.run(small, **small.short), bins)


# --- how they are written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("20@3,7", ("20@3,7",)),
        ("9,20@7,3", (9, "20@3,7")),
        ("20@0-2, 4", ("20@0,1,2,4",)),
        ("single:7@0-1,dual:3@2", ("single:7@0,1", "dual:3@2")),
        ("7-8@1", ("7@1", "8@1")),
        ("20@3,single:4", ("20@3", "single:4")),
        (["20@3,7", 9], ("20@3,7", 9)),
        ("20 @ 3", ("20@3",)),
    ],
)
def test_grammar(text: Any, layers: tuple[Any, ...]) -> None:
    assert parsing.parse_layers(text) == layers
    assert set(parsing.parse_layers(parsing.format_layers(layers))) == set(layers)


def test_plain_data_and_back() -> None:
    request = GuidanceRequest((STG(["20@3,7", 9], 1.0, "attention"),))
    content = request.to_dict()
    assert content == {"terms": [{"layers": ["20@3,7", 9], "scale": 1.0, "skip": "attention"}]}
    assert GuidanceRequest.from_dict(content).to_dict() == content
    assert GuidanceRequest.from_dict({"terms": "layers=9,20@3,7 skip=soft"}).terms[0].layers == [
        9, "20@3,7"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "skip", "message"),
    [
        (["1@"], "attention", "heads of a layer must be numbers from 0 on, .* but got '' behind"),
        (["1@a"], "attention", "but got 'a' behind the @"),
        (["1@3-1"], "attention", r"a range of heads must go upwards, but got '3-1'\. Write 1-3"),
        (["@1"], "attention", "a layer must be an int or \"stack:int\", but got '@1'"),
        (["1@0"], "residual", 'with skip="residual", which changes whole blocks. Leave the heads'),
        (["1@0"], "shuffle", r"heads must come with a skip that changes an attention \("),
    ],
)
def test_wrong_heads_are_refused_at_once(layers: Any, skip: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STG(layers, skip=skip)


def test_heads_that_are_not_there_are_refused_at_once() -> None:
    small = tiny("WanPipeline")
    count = count_of("WanPipeline", 1)
    with pytest.raises(
        ValueError,
        match=rf'heads of "blocks:1" of this WanTransformer3DModel must be from 0 to {count - 1}'
        rf" \({count} heads\), but got {count}\. Heads count from 0",
    ):
        guide(small.pipe, STG([f"1@0,{count}"], skip="attention"))
    with pytest.raises(ValueError, match=r'named repeatedly.* write its heads once, as in "1@0,1"'):
        guide(small.pipe, STG(["1@0", "1@1"], skip="attention"))
    with pytest.raises(ValueError, match="sana-video has none: its attention is linear"):
        guide(tiny("SanaVideoPipeline").pipe, STG(["1@0"], skip="attention"))


@pytest.mark.long
def test_every_attention_of_the_rows_tells_its_heads() -> None:
    """Each of the modules that a row names has a number of heads."""
    from skipguide.families.blocks import count_heads, layer_sites

    for name in LAYERS:
        small = tiny(name)
        for site in layer_sites(family_of(small.pipe), oracle.models(small)[0]):
            for (owner, key), _ in site.attentions():
                assert count_heads(owner._modules[key]) > 0


def test_a_backend_that_is_not_torchs_is_refused() -> None:
    small = tiny("WanPipeline")
    processor = small.pipe.transformer.blocks[1].attn1.processor
    processor._attention_backend = "flash"
    try:
        with pytest.raises(ValueError, match="heads of a layer need attention by torch itself"):
            guide(small.pipe, STG(["1@0"], skip="attention"))
        guide(small.pipe, STG([1], skip="attention")).remove()
    finally:
        processor._attention_backend = None

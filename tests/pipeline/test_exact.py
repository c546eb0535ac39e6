"""guide(..., exact=False): one batch where the pipeline has one, the same but for rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipguide import APG, SLG, STG, Random, guide
from skipguide.families.lookup import call_convention_of
from skipguide.families.rows import FAMILIES
from skipguide.method.request import GuidanceRequest
from skipguide.weak import joint_pass
from support import foreign, oracle
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.tiny_mochi import TINY_CALL, tiny_mochi
from support.written import GUIDED, UNETS, addresses, has_attention, is_unet, paths_of

# What rounding may move, as a share of what the push moves: the lengths over a run of two steps.
# Most families are at 1e-5; group norms over a few pixels make 1.4e-4 of it in the tiny SVD.
TOLERANCE = 5e-4


CFG_MODES = {name: calls.cfg_mode for row in FAMILIES for name, calls in row.pipelines.items()}
BATCHED = [name for name in GUIDED if CFG_MODES.get(name.split()[0]) == "batched"]


@pytest.fixture(params=BATCHED)
def small(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


def terms_of(small: Tiny) -> list[STG]:
    """Two terms that start in the same layer, and one that does not."""
    last = list(addresses(small).values())[-1]
    if is_unet(small):
        layer = next(
            layer
            for layer in last
            if all(paths_of(small, [layer], "residual", axis) for axis in ("spatial", "temporal"))
        )
        return [
            STG([layer], 1.3, "attention", "spatial"),
            STG(["mid:0"], 0.4),
            STG([layer], 0.7, "attention", "temporal"),
        ]
    skip = "attention" if has_attention(small, last[1]) else "residual"
    return [STG([last[1]], 1.3), STG([last[2]], 0.4, skip), STG([last[1]], 0.7, skip)]


def layers_of(term: STG) -> list[Any]:
    assert not isinstance(term.layers, Random)
    return list(term.layers)


@contextlib.contextmanager
def counted_calls(small: Tiny) -> Iterator[list[int]]:
    """Collect the rows of each call of the denoisers, those of guide() included."""
    rows: list[int] = []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        tensors = (v for v in (*args, *kwargs.values()) if torch.is_tensor(v) and v.ndim)
        rows.append(len(next(tensors)))

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in oracle.models(small)]
    yield rows
    for hook in hooks:
        hook.remove()


def guided(small: Tiny, *terms: Any, **options: Any) -> torch.Tensor:
    with guide(small.pipe, *terms, **options):
        return oracle.run(small, **small.short)


def assert_equal_but_for_rounding(
    small: Tiny, *terms: Any, call: Any = None, **options: Any
) -> torch.Tensor:
    """Compare a run with exact=False to the exact one; return the former."""
    call = {**small.short, **(call or {})}
    plain = oracle.run(small, **call)
    with guide(small.pipe, *terms, **options):
        exact = oracle.run(small, **call)
    with guide(small.pipe, *terms, exact=False, **options):
        ours = oracle.run(small, **call)
    pushed, moved = (exact - plain).norm(), (ours - exact).norm()
    assert pushed > 1e-3 * plain.norm()
    assert moved <= TOLERANCE * pushed
    return ours


# --- every batched family -------------------------------------------------------------------------


def test_one_batch_is_the_same_but_for_rounding(small: Tiny) -> None:
    terms = terms_of(small)
    ours = assert_equal_but_for_rounding(small, *terms, rescale=0.3)
    full = guided(small, *terms, rescale=0.3, exact=False, share_prefix=False)
    plain = oracle.run(small, **small.short)
    assert (full - ours).norm() <= TOLERANCE * (ours - plain).norm()


@pytest.mark.parametrize("name", UNETS)
def test_halves_of_layers_in_one_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both halves bypassed, one of them, and an attention in the other, whatever it costs."""
    monkeypatch.setattr(joint_pass, "LARGEST_WASTE", 9.0)
    small = tiny(name)
    (layer,) = layers_of(terms_of(small)[0])
    terms = [
        STG([layer], 1.3),
        STG([layer], 0.4, axis="temporal"),
        STG([layer], 0.7, "attention", "spatial"),
    ]
    assert_equal_but_for_rounding(small, *terms)
    with guide(small.pipe, *terms, exact=False) as handle:
        (guided_denoiser,) = handle._guided_denoisers.values()
        assert guided_denoiser.join_terms([0, 1, 2]) == [[0, 1, 2]]


def test_fewer_calls_on_more_rows(small: Tiny) -> None:
    terms = terms_of(small)
    with counted_calls(small) as plain:
        oracle.run(small, **small.short)
    with counted_calls(small) as rows:
        guided(small, *terms, exact=False)
    both, cond = plain[0], plain[0] // 2
    # a batch that has cond first runs in halves all the same
    apart = [cond] if call_convention_of(small.pipe).cond_first else []
    assert rows == [both, 2 * cond, cond, *apart] * len(plain)


def test_without_cfg_there_is_no_batch_to_keep(small: Tiny) -> None:
    if small.off:
        assert_equal_but_for_rounding(small, *terms_of(small), call=small.off)


@pytest.mark.diagonal
def test_slg_weakens_its_half_alone(small: Tiny) -> None:
    """The batch runs in halves where u is weakened, and with one term nothing is joined."""
    last = list(addresses(small).values())[-1]
    slg, stg = SLG([last[-2]]), STG([last[-1]], stop=0.5)
    assert torch.equal(guided(small, slg, stg, exact=False), guided(small, slg, stg))
    early = SLG([last[-2]], stop=0.5)
    assert_equal_but_for_rounding(small, early, STG([last[-1]]))


def test_a_pipeline_of_separate_calls_stays_exact() -> None:
    """Its row does not say which inputs are a batch, so that terms run one by one."""
    small = tiny("WanPipeline")
    terms = [STG([1], 1.3), STG([1], 0.7, "attention")]
    assert torch.equal(guided(small, *terms, exact=False), guided(small, *terms))


# --- with the rest of the method ------------------------------------------------------------------


def test_rules_windows_and_orthogonal_terms() -> None:
    small = tiny("MochiPipeline")
    terms = [STG([1], 1.3, stop=0.5), STG([1], 0.7, "attention"), STG([2], 0.4, start=0.5)]
    for options in ({"cfg": APG()}, {"orthogonalize": True}, {"rescale": 0.7}):
        assert_equal_but_for_rounding(small, *terms, **options)


@pytest.mark.parametrize("name", ["LattePipeline", "StableVideoDiffusionPipeline"])
def test_a_term_of_a_batch_runs_alone_where_the_others_rest(name: str) -> None:
    """The spatial term runs at every other step, and the temporal one starts later than both."""
    small = tiny(name)
    layer = "up:0" if is_unet(small) else 1
    spatial = STG([layer], 1.3, "attention", "spatial", every=2)
    temporal = STG([layer], 0.7, "attention", "temporal")
    assert_equal_but_for_rounding(small, spatial, temporal)
    with counted_calls(small) as rows:
        guided(small, spatial, temporal, exact=False)
    assert rows[1] == 2 * rows[3]


def test_guidance_of_the_pipelines_own() -> None:
    """LTX-2's STG and modality guidance are calls on the cond rows after the batch."""
    small = tiny("LTX2Pipeline")
    own = {"stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [2]}
    assert_equal_but_for_rounding(small, STG([1], 1.3), call=own)


def test_draws_other_skips_and_wasteful_batches_run_one_by_one() -> None:
    small = tiny("MochiPipeline")
    for terms in (
        [STG(Random(0.5), 1.0), STG([1], 0.7)],
        [STG([1], 1.0, "soft"), STG([1], 0.7)],
        [STG([1, 2, 3], 1.0), STG([1], 0.7)],  # the one would run two blocks for nothing
    ):
        with guide(small.pipe, *terms, exact=False) as handle:
            (guided_denoiser,) = handle._guided_denoisers.values()
            assert guided_denoiser.join_terms([0, 1]) == [[0], [1]]
            oracle.run(small, **small.short)
    with guide(small.pipe, STG([1], 1.0), STG([1], 0.7, "attention"), exact=False) as handle:
        (guided_denoiser,) = handle._guided_denoisers.values()
        assert guided_denoiser.join_terms([0, 1]) == [[0, 1]]


def test_rows_of_a_bypassed_block_hold_what_entered_it() -> None:
    """Modules are run once for each thing that is done to them, and rows are never mixed."""
    real = torch.nn.Linear(2, 2)
    twice = torch.nn.Sequential(torch.nn.Identity())
    x = torch.arange(8.0).reshape(4, 2)
    taken = joint_pass.TakeRows(real, [None, twice])(x)
    assert torch.equal(taken, torch.cat([real(x)[:2], x[2:]]))


@pytest.mark.parametrize("kind", [k for k in foreign.NO_CACHES if not k.startswith("compiled")])
def test_a_second_call_of_foreign_code_is_that_of_the_batch(kind: str) -> None:
    """What stands on the model without being a cache is told from one by running it again."""
    small = builders()["LTXPipeline"](torch.float32)
    off = foreign.NO_CACHES[kind](small.pipe.transformer)
    assert_equal_but_for_rounding(small, *terms_of(small))
    off()


def test_half_precision() -> None:
    """bfloat16 has 8 bits: rounding moves a thousand times as much as in float32."""
    pipe = tiny_mochi(torch.bfloat16)
    small = Tiny(pipe, {**TINY_CALL, "prompt": ["a red star"] * 2}, {})
    terms = terms_of(small)
    plain, exact = oracle.run(small, **small.short), guided(small, *terms)
    ours = guided(small, *terms, exact=False)
    pushed, moved = (exact - plain).float().norm(), (ours - exact).float().norm()
    assert moved < 0.1 * pushed


# --- the word -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, "no", None])
def test_exact_is_a_bool(value: Any) -> None:
    message = r"^exact must be True or False, but got .*\. Leave it out"
    with pytest.raises(ValueError, match=message):
        GuidanceRequest((STG([1]),), exact=value)


def test_plain_data() -> None:
    request = GuidanceRequest((STG([1]),), exact=False)
    assert request.to_dict()["exact"] is False
    assert GuidanceRequest.from_dict(request.to_dict()) == request
    assert "exact" not in GuidanceRequest((STG([1]),)).to_dict()
    terms, options = request.guide_arguments()
    small = tiny("MochiPipeline")
    with guide(small.pipe, *terms, **options) as handle:
        assert handle.request == request

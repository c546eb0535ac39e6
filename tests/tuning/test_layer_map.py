"""Ranks, their uncertainty and the files of a map, against textbook values and cases by hand."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipguide.families import published_layers
from skipguide.tuning.scan import map_files, published, ranking
from skipguide.tuning.scan.layer_map import (
    LEVELS,
    QUANTITIES,
    Cell,
    LayerMap,
    ScanOptions,
    ScanRecord,
    ScanState,
)


def record(
    layers: int = 6, seed: int = 0, skips: tuple[str, ...] = ("residual",), **values: Any
) -> ScanRecord:
    """The scan of a stack of layers, with quantities (layers * skips,), the same at all levels."""
    cells = tuple(Cell(f"blocks:{k}", skip) for k in range(layers) for skip in skips)
    count, random = len(cells), np.random.default_rng(seed)
    given = {name: random.uniform(0.1, 0.5, count) for name in QUANTITIES} | values
    push = random.normal(size=(count, 400))
    push /= np.linalg.norm(push, axis=1, keepdims=True)
    states = tuple(ScanState(i, 9, level, level, "transformer", True) for i, level in
                   enumerate(LEVELS))  # fmt: skip
    spent = np.ones(len(states))
    return ScanRecord(
        family="mochi", denoiser="MochiTransformer3DModel", depth=layers, width=64,
        outputs=("video",), shape=(1, 12, 3, 8, 8), cells=cells, num_places=layers, states=states,
        places=np.repeat(np.arange(layers, dtype=float), len(skips)),
        costs=np.linspace(1, 0.1, count),
        values={name: np.tile(np.asarray(v, float)[:, None], 4) for name, v in given.items()},
        gram=np.repeat((push @ push.T)[..., None], 4, 2), forwards=spent, strong_passes=spent,
        seconds_strong=spent, seconds_weak=spent,
    )  # fmt: skip


# --- ranks ----------------------------------------------------------------------------------------


def test_ranks_share_ties_and_leave_out_what_is_not_known() -> None:
    assert ranking.ranks([10, 30, 20, 20]).tolist() == [1, 4, 2.5, 2.5]
    found = ranking.ranks([math.nan, 5, 1])
    assert math.isnan(found[0])
    assert found[1:].tolist() == [2, 1]


def test_area_under_the_curve_counts_pairs() -> None:
    score, member = [0.9, 0.8, 0.7, 0.6, 0.6], [True, False, True, False, True]
    pairs = [
        (a > b) + (a == b) / 2
        for (a, i), (b, j) in itertools.product(zip(score, member, strict=True), repeat=2)
        if i and not j
    ]
    assert ranking.area_under_curve(score, member) == pytest.approx(np.mean(pairs))


def test_average_linkage_joins_by_the_mean_cosine() -> None:
    """0 and 1 push alike; 2 is near 1 and far from 0, so that its mean to both is below 0.5."""
    cosines = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0.7, 0], [0.1, 0.7, 1, 0.6], [0, 0, 0.6, 1]])
    assert ranking.clusters(cosines).tolist() == [1, 1, 2, 2]
    assert ranking.clusters(cosines, 0.95).tolist() == [1, 2, 3, 4]
    assert ranking.clusters(cosines, -1).tolist() == [1, 1, 1, 1]


def test_resamples_have_the_variance_of_the_mean() -> None:
    """Draws of n - 1 of n values, all of them: the variance of their means is s^2 / n."""
    values = np.array([1.0, 4.0, 2.0, 9.0])
    means = [values[list(chosen)].mean() for chosen in ranking.resamples(4)]
    assert len(means) == 4**3
    assert np.var(means) == pytest.approx(values.var(ddof=1) / 4)
    assert list(ranking.resamples(1)) == []
    drawn = list(ranking.resamples(12))
    assert len(drawn) == 2000
    assert drawn == list(ranking.resamples(12))


# --- the map --------------------------------------------------------------------------------------


def test_the_score_is_the_mean_of_three_ranks() -> None:
    """Six layers: hf ranks 0 1 2 3 4 5, -cos_c ranks 5 4 3 2 1 0, nearness to the middle 0 1 2 2 1
    0 (ties at their means); each from 0 to 1."""
    hf, cos = np.array([1, 2, 3, 4, 5, 6.0]) / 10, np.array([1, 2, 3, 4, 5, 6.0]) / 10
    found = LayerMap.build([record(hf=hf, cos_c=cos)])
    middle = np.array([0.5, 2.5, 4.5, 4.5, 2.5, 0.5]) / 5
    np.testing.assert_allclose(
        found.score, (np.arange(6) / 5 + np.arange(6)[::-1] / 5 + middle) / 3
    )
    assert found.kinds == ("edge", "edge", "", "", "", "")
    assert found.rank[2:].tolist() == [1, 2, 3, 4]
    assert np.isnan(found.rank[:2]).all()
    assert np.isnan(found.first_three).all()  # one prompt has no uncertainty


def test_without_frequencies_the_score_uses_the_rest() -> None:
    found = LayerMap.build([record(hf=np.full(6, np.nan), cos_c=np.arange(6.0))])
    middle = np.array([0.5, 2.5, 4.5, 4.5, 2.5, 0.5]) / 5
    np.testing.assert_allclose(found.score, (np.arange(6)[::-1] / 5 + middle) / 2)


def test_idle_and_broken_cells_are_named_and_never_listed() -> None:
    ratio = np.array([0.1, 0.1, 0.01, 0.9, math.inf, 0.3])
    found = LayerMap.build([record(ratio=ratio), record(seed=1, ratio=ratio)])
    assert found.kinds == ("edge", "edge", "idle", "broken", "broken", "")
    assert [cell.layer for cell in found.shortlist()] == ["blocks:5"]
    all_out = LayerMap.build([record(ratio=np.full(6, 0.001))])
    assert all_out.shortlist() == []
    assert set(all_out.kinds) == {"idle"}
    early = LayerMap.build([record(2)])
    assert early.kinds == ("", "")  # the first layers stay where there are no others


def test_ranks_are_as_sure_as_the_prompts_agree() -> None:
    same = [record(8, hf=np.linspace(0.1, 0.8, 8)) for _ in range(4)]
    found = LayerMap.build(same)
    np.testing.assert_array_equal(found.rank_low[2:], found.rank[2:])
    np.testing.assert_array_equal(found.rank_high[2:], found.rank[2:])
    assert sorted(found.first_three[2:]) == [0, 0, 0, 1, 1, 1]
    other = LayerMap.build([record(8, seed) for seed in range(4)])
    assert (other.rank_high - other.rank_low)[2:].max() >= 2
    assert (other.rank_low <= other.rank)[2:].all()
    assert (other.rank <= other.rank_high)[2:].all()
    assert np.nansum(other.first_three) == pytest.approx(3)


def test_the_shortlist_has_cells_that_differ() -> None:
    """By rank 4, 3, 5, 2, ...: with one neighbour each that is 4, 3 and not 5; and not what pushes
    as the first does."""
    found = LayerMap.build([record(10, hf=np.full(10, 0.3), cos_c=np.arange(10.0))])
    ranked = [found.cells[k].layer for k in found.order if not found.kinds[k]]
    chosen = [cell.layer for cell in found.shortlist()]
    assert chosen[:2] == ranked[:2]
    numbers = sorted(int(layer.split(":")[1]) for layer in chosen)
    assert numbers[2] - numbers[0] > 2
    alike = dataclasses.replace(found, clusters=np.ones(10, np.int64))
    assert [cell.layer for cell in alike.shortlist()] == ranked[:3]  # filled up by rank


def test_why_a_cell_is_passed_over_is_said() -> None:
    """Ranks 4, 3, 5, 6, 2, 7 of blocks; of these 5 pushes as 4 does, and 2 stands beside 3."""
    plain = LayerMap.build([record(8, hf=np.full(8, 0.3), cos_c=np.arange(8.0))])
    rank = np.array([np.nan, np.nan, 5, 2, 1, 3, 6, 4])
    found = dataclasses.replace(plain, rank=rank, clusters=np.array([1, 2, 3, 4, 5, 5, 6, 5]))
    assert [cell.layer for cell in found.shortlist()] == ["blocks:4", "blocks:3", "blocks:6"]
    assert found.passed_over() == {
        "blocks:5 residual": "pushes like blocks:4 residual",
        "blocks:7 residual": "pushes like blocks:4 residual",
        "blocks:2 residual": "next to blocks:3 residual",
    }
    between = dataclasses.replace(
        found, rank=np.array([np.nan, np.nan, 1, 3, 2, 4, 5, 6]), clusters=np.arange(8)
    )
    assert between.passed_over() == {
        "blocks:3 residual": "next to blocks:2 residual and blocks:4 residual"
    }
    assert found.passed_over(2) == {}  # those behind the last of a list were not looked at
    told = json.loads(found.to_json())["cells"]
    assert {one["name"]: one["passed_over"] for one in told if one["passed_over"]} == (
        found.passed_over()
    )
    assert LayerMap.from_json(found.to_json()).passed_over() == found.passed_over()


def test_records_and_maps_are_read_as_they_were_written() -> None:
    records = [record(5, seed, ("residual", "attention")) for seed in range(3)]
    read = [ScanRecord.from_bytes(one.to_bytes()) for one in records]
    np.testing.assert_array_equal(read[0].gram, records[0].gram)
    for name, values in records[0].values.items():
        np.testing.assert_array_equal(read[0].values[name], values)
    assert read[0].cells == records[0].cells
    assert read[0].states == records[0].states
    found = LayerMap.build(read)
    text = found.to_json()
    assert LayerMap.from_json(text).to_json() == text
    assert LayerMap.from_json(text).shortlist() == found.shortlist()
    assert "NaN" not in text
    assert "Infinity" not in text
    options = ScanOptions(skips=("residual",), axes=(None, "spatial"), layers=("blocks:3", 4))
    assert ScanOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="one prompt or more, but got none"):
        LayerMap.build([])
    with pytest.raises(ValueError, match="the same depth"):
        LayerMap.build([record(5), record(6)])
    with pytest.raises(ValueError, match="a scan record must be"):
        ScanRecord.from_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="must be whole"):
        ScanRecord.from_bytes(record().to_bytes()[:-40])
    with pytest.raises(ValueError, match="kind 'layer map'"):
        LayerMap.from_json('{"kind": "other"}')
    with pytest.raises(ValueError, match="must be JSON"):
        LayerMap.from_json("{")
    for wrong in ((0.0,), (1.5,), ()):
        with pytest.raises(ValueError, match="levels of a scan"):
            ScanOptions(levels=wrong)


def test_files_of_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib, and so without the picture (tests/cli/test_layers_map.py has one)."""
    monkeypatch.setattr(map_files.packages, "is_installed", lambda name: False)
    ratio = np.array([0.3, 0.3, 0.001, 0.9] + [0.3] * 8)
    skips = ("residual", "attention")
    found = LayerMap.build([record(6, seed, skips, ratio=ratio) for seed in range(4)])
    (note,) = map_files.write(found, tmp_path)
    assert "matplotlib" in note
    assert {path.name for path in tmp_path.iterdir()} == {"map.csv", "map.json"}
    rows = list(csv.DictReader((tmp_path / "map.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [cell.name for cell in found.cells]
    assert [float(row["hf"]) for row in rows] == pytest.approx(found.means["hf"], rel=1e-4)
    assert [row["kind"] for row in rows[:5]] == ["edge", "edge", "idle", "broken", ""]
    assert LayerMap.from_json((tmp_path / "map.json").read_text()).cells == found.cells


# --- published layers -----------------------------------------------------------------------------


def test_a_comparison_with_published_layers() -> None:
    best = published_layers.find_best_layers("mochi", 48)
    assert len(best.addresses) == 16
    assert "blocks:47" in best.addresses
    member = np.array([f"blocks:{k}" in best.addresses for k in range(48)])
    perfect = LayerMap.build([record(48, hf=member * 1.0, cos_c=-1.0 * member)])
    found = published.compare(dataclasses.replace(perfect, score=member * 1.0), best, 2000)
    assert (found.area, found.first, found.members, found.layers) == (1.0, 16, 16, 48)
    assert found.p_value == pytest.approx(1 / 2001)  # no list of 2,000 by chance is as good
    assert found.expected == pytest.approx(16 * 16 / 48)
    chance = dataclasses.replace(perfect, score=np.random.default_rng(1).uniform(size=48))
    assert 0.02 < published.compare(chance, best, 2000).p_value < 0.98
    with pytest.raises(ValueError, match="--published needs a model"):
        published_layers.find_best_layers("mochi", 12)


def test_the_p_value_is_that_of_all_permutations() -> None:
    score, member = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), [True, False, True, False, False]
    sums = [sum(pair) for pair in itertools.combinations(score, 2)]
    exact = np.mean([one >= 8 for one in sums])
    assert published.permutation_p_value(score, member, 40_000) == pytest.approx(exact, abs=0.01)


def damaged_records() -> dict[str, bytes]:
    """Files that look like a record, and are none."""
    import safetensors.numpy

    from support.drawn_tuning import record as drawn

    whole = drawn("a").to_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def with_header(content: object) -> bytes:
        text = json.dumps(content).encode()
        return len(text).to_bytes(8, "little") + text + body

    facts = json.loads(header["__metadata__"]["facts"])
    fewer = {**facts, "cells": facts["cells"][:-1]}
    told = {**header["__metadata__"], "facts": json.dumps(fewer)}
    nothing = {"format": header["__metadata__"]["format"], "facts": "{}"}
    return {
        "empty": b"",
        "cut": whole[:-40],
        "cut in its header": whole[:50],
        "a list": with_header([1]),
        "metadata of another kind": with_header({**header, "__metadata__": "x"}),
        "no facts": safetensors.numpy.save({"places": np.zeros(2)}, nothing),
        "fewer cells": with_header({**header, "__metadata__": told}),
    }


@pytest.mark.parametrize("kind", damaged_records())
def test_a_damaged_record_is_one(kind: str) -> None:
    with pytest.raises(ValueError, match="a scan record must be"):
        ScanRecord.from_bytes(damaged_records()[kind])

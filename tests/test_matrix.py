"""The choice of cases for `make test`: it stands for all families, and it leaves no test out."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from skipguide.families.rows import FAMILIES
from skipguide.families.schema import CallConvention, Family
from support.matrix import OWN_TESTS, REPRESENTATIVES, mark_matrix
from support.tiny import builders, without_cfg

# Those that never have CFG run with tests of their own, which have no matrix; so do some images.
REPRESENTED = {name.split()[0] for name in (*REPRESENTATIVES, *without_cfg(), *OWN_TESTS)}


class Item(SimpleNamespace):
    """As much of a collected test as the choice looks at."""

    def __init__(self, nodeid: str, table: bool = False, **params: Any):
        call = SimpleNamespace(params=params)
        super().__init__(nodeid=nodeid, callspec=call, table=table, marks=[])

    def add_marker(self, mark: Any) -> None:
        self.marks.append(mark.name)

    def get_closest_marker(self, name: str) -> Any:
        """A table is a test that is marked `diagonal`."""
        return self.table


def marks_of(*items: Any) -> list[list[str]]:
    mark_matrix(items)
    return [item.marks for item in items]


def test_cases_with_other_pipelines_are_of_the_matrix() -> None:
    items = [
        Item("a.py::test[x]", name="MochiPipeline", skip="residual"),
        Item("a.py::test[y]", name="AllegroPipeline", skip="residual"),
        Item("a.py::test[z]", skip="attention"),
        Item("a.py::other"),
    ]
    assert marks_of(*items) == [[], ["matrix"], [], []]


def test_a_function_keeps_its_first_case() -> None:
    names = ["LTXImageToVideoPipeline", "WanPipeline 5B", "LucyEditPipeline"]
    one = [Item(f"a.py::one[{name}]", name=name) for name in names]
    two = [Item(f"b.py::two[{name}]", name=name) for name in names[1:]]
    assert marks_of(*one, *two) == [[], ["matrix"], ["matrix"], [], ["matrix"]]


def test_names_that_are_no_tiny_pipelines_are_no_reason() -> None:
    values: list[Any] = ["TextToVideoZeroPipeline", "no WanPipeline", 3, None, ["LTXPipeline"]]
    items = [
        Item(f"a.py::a[{i}]", value=value) for i, value in enumerate(["MochiPipeline", *values])
    ]
    assert marks_of(*items) == [[]] * 6


def test_the_loops_of_modular_pipelines() -> None:
    names = ["modular Wan", "modular HunyuanVideo 1.5"]
    assert marks_of(*(Item(f"a.py::a[{v}]", name=v) for v in names)) == [[], ["matrix"]]


def test_a_diagonal_has_each_value_of_each_parameter() -> None:
    sizes = {"name": 8, "how": 5, "share": 2}
    rows = [dict(zip(sizes, row, strict=True)) for row in itertools.product(*map(range, [8, 5, 2]))]
    items = [Item(f"a.py::a[{i}]", table=True, **row) for i, row in enumerate(rows)]
    kept = [row for row, marks in zip(rows, marks_of(*items), strict=True) if not marks]
    assert len(kept) == 8
    assert {name: {row[name] for row in kept} for name in sizes} == {
        name: set(range(size)) for name, size in sizes.items()
    }


def test_a_diagonal_goes_through_the_representatives() -> None:
    pipelines = ["LTXPipeline", "MochiPipeline", "ConsisIDPipeline", "WanPipeline"]
    items = [
        Item(f"a.py::a[{name}-{skip}]", table=True, skip=skip, name=name)
        for skip in (0, 1)
        for name in pipelines
    ]
    kept = [item.nodeid for item, marks in zip(items, marks_of(*items), strict=True) if not marks]
    assert kept == ["a.py::a[MochiPipeline-0]", "a.py::a[WanPipeline-1]"]


# --- the choice itself ----------------------------------------------------------------------------


def way_of_calling(row: Family, calls: CallConvention) -> tuple[Any, ...]:
    return calls.cfg_mode, calls.scale_from_cond, len(row.outputs)


def shape_of_attention(row: Family) -> tuple[Any, ...]:
    projections = {f.__name__ for stack in row.stacks.values() for f in stack.attention.values()}
    return frozenset(projections), row.linear_attention, row.axes, row.unet is not None


def test_each_way_of_calling_and_each_shape_of_attention_has_a_representative() -> None:
    """A family of a new kind therefore needs one, or runs in `make test-matrix` alone."""
    assert {*builders(), *without_cfg()}.issuperset(REPRESENTATIVES)
    ways: dict[Any, bool] = {}
    shapes: dict[Any, bool] = {}
    for row in FAMILIES:
        for pipeline, calls in row.pipelines.items():
            way, shape = way_of_calling(row, calls), shape_of_attention(row)
            ways[way] = ways.get(way, False) or pipeline in REPRESENTED
            shapes[shape] = shapes.get(shape, False) or pipeline in REPRESENTED
    assert [way for way, there in ways.items() if not there] == []
    assert [shape for shape, there in shapes.items() if not there] == []

"""Keys that stand twice in YAML and JSON, which YAML's and JSON's readers pass over."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml

from skipguide import Schedule
from skipguide.method.documents import DuplicateKeys, load_json, load_yaml

PLAN = """\
model: lab-mochi
settings:
  - {name: cfg}
prompts: [a]
settings:
  - {name: stg, steps: 3, steps: 4}
"""


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    assert yaml.safe_load(PLAN)["settings"][0]["name"] == "stg"  # the first was lost
    with pytest.raises(DuplicateKeys) as raised:
        load_yaml(PLAN)
    assert str(raised.value) == (
        "steps stands twice on line 6, but only one of them can count. Keep one."
        " settings stands on line 2 and on line 5, but only one of them can count. Keep one."
    )


@pytest.mark.parametrize("text", ["{true: 1, yes: 2}", "{1: a, 0x1: b}", "{a: 1, ? a : 2}"])
def test_keys_of_one_meaning_are_one_key(text: str) -> None:
    with pytest.raises(DuplicateKeys, match="stands twice on line 1, but"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "a: 1", "- {a: 1}\n- {a: 2}", "[2026-11-29, 1.5, null, yes, 'yes']", "\ufeffa: [1]",
        "base: &base {a: 1, b: 2}\nfirst: {<<: *base, a: 3}\nsecond: {<<: [*base, {c: 1}], c: 4}",
        "x: &x\n  a: &y {b: 1}\ny: *x\nz: {<<: *y}",
    ],
)  # fmt: skip
def test_all_else_is_read_as_yaml_reads_it(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


def test_what_is_no_yaml_is_refused_as_before() -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml("a: [1")
    with pytest.raises(yaml.YAMLError):
        load_yaml("a: 1\n---\nb: 1")
    with pytest.raises(ValueError, match="month"):
        load_yaml("a: 2026-13-01")
    assert load_yaml("a: 2026-01-01") == {"a": datetime.date(2026, 1, 1)}


def test_json_is_refused_with_both_lines_too() -> None:
    assert load_json('{"0": {"prompt": "a"}, "1": {"prompt": "a"}}')["1"] == {"prompt": "a"}
    with pytest.raises(DuplicateKeys, match=r"^0 stands on line 2 and on line 3, but only one"):
        load_json('{\n"0": {"prompt": "a"},\n"0": {"prompt": "b"}}')
    with pytest.raises(DuplicateKeys, match=r"^0 stands twice on line 1\. Keep one of them\."):
        load_json('{\t"0": 1,\t"0": "\\ud83d"\t}')  # whose tabs YAML does not read


def test_a_schedule_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bins.yaml"
    path.write_text("- sigma: [0.0, 0.9]\n  layers: [28]\n  scale: 2.0\n  layers: [3]\n")
    with pytest.raises(ValueError, match="layers stands on line 2 and on line 4"):
        Schedule.from_yaml(path)

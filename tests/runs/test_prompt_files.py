"""Files of prompts as spreadsheets, editors and programs write them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Plan
from support.drawn import swept

PROMPTS = ['a "red" star, drifting', "ein Hund läuft", "犬が走る 🐕", "two\nlines", "plain"]


def read(folder: Path, name: str, content: str | bytes, **more: Any) -> Plan:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    plan = {"prompts": {"file": name, **more}, "settings": [{"name": "cfg"}]}
    return Plan.of({**plan, "height": 16, "width": 16, "num_frames": 3, "steps": 2}, folder)


def texts(plan: Plan) -> list[str | None]:
    return [prompt.text for prompt in plan.prompts]


def table(rows: list[list[str]], **options: Any) -> str:
    """What Python's own csv module makes of rows."""
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("p.csv", {}), ("p.csv", {"delimiter": ";"}), ("p.tsv", {"delimiter": "\t"}),
        ("P.CSV", {"lineterminator": "\n"}), ("p.csv", {"quoting": csv.QUOTE_ALL}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_what_the_csv_module_wrote(
    tmp_path: Path, name: str, options: dict[str, Any], encoding: str
) -> None:
    rows = [["id", "Prompt ", "seed"], *([str(i), text, "7"] for i, text in enumerate(PROMPTS))]
    plan = read(tmp_path, name, table(rows, **options).encode(encoding))
    assert texts(plan) == PROMPTS
    assert [(prompt.tags, prompt.seeds) for prompt in plan.prompts] == [
        ({"ids": [str(i)]}, (7,)) for i in range(len(PROMPTS))
    ]
    assert plan.notes == (f"{name} sets seed row by row.",)


def test_what_a_table_decides_and_what_not_is_said_before_it_begins(tmp_path: Path) -> None:
    text = "prompt,negative_prompt,style,gudance_scale\na star,blurred,flat,3\n"
    plan = read(tmp_path, "p.csv", text)
    assert plan.notes == (
        "p.csv sets negative_prompt row by row; gudance_scale and style are kept as tags and change"
        " nothing. Did you mean guidance_scale by gudance_scale?",
    )
    planned, *_ = swept(tmp_path / "run", plan)
    assert plan.notes[0] in planned.notes  # pyright: ignore[reportAttributeAccessIssue]
    assert not read(tmp_path, "p.csv", "prompt,dimension\na star,color\n").notes


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\nid;prompt\n1;a, b\n", 'id,prompt\n# no\n1,"a, b"\n#2,"c, d"\n',
        '# mine\n\nid,prompt\n1,"a, b"\n\n,\n', 'prompt\n"a, b"\n',
    ],
)  # fmt: skip
def test_what_spreadsheets_and_people_add_to_a_table(tmp_path: Path, content: str) -> None:
    assert texts(read(tmp_path, "p.csv", content)) == ["a, b"]


def test_a_table_names_pictures_and_dimensions(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    plan = read(tmp_path, "p.csv", 'prompt,image,dimension\na,a.png,"scene, color"\n,sub/b.png,\n')
    assert [(prompt.text, prompt.image) for prompt in plan.prompts] == [
        ("a", tmp_path / "a.png"), (None, tmp_path / "sub/b.png"),
    ]  # fmt: skip
    assert plan.prompts[0].tags == {"dimension": ["scene", "color"]}
    some = read(tmp_path, "p.csv", "prompt,dimension\na,scene\nb,color\n", dimensions=["color"])
    assert texts(some) == ["b"]
    inside = read(tmp_path, "p.csv", "prompt,image\na,b.png\n", images="sub")
    assert inside.prompts[0].image == tmp_path / "sub" / "b.png"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "a red star\na blue square\n", r"one of them prompt, but .* has the columns a red"
         r" star\. Name them; if each line is a prompt, name the file \.txt\."),
        ("p.csv", "id,text\n1,a\n", r"has the columns id, text\. Name them"),
        ("p.csv", "", r"has the columns none"),
        ("p.csv", "id,prompt\n1,a, b\n", r"no more cells than there are columns, 2, but line 2 of"
         r" .* has 3\. Put prompts with commas in quotes\."),
        ("p.csv", 'id,prompt\n1,"a\n2,b\n', r"line 2 of .* is not: unexpected end of data\. Most"
         r" often a closing quote is missing in its row: add it\. Put cells with quotes"),
        ("p.csv", f"id,prompt\n1,a\n2,{'b' * 200_000}\n", r"line 3 of .* is not: a cell has more"
         r" than 131072 characters\. Most often a closing quote is missing in its row: add it\."),
        ("p.csv", 'id,prompt\n1,a\n2,"b\n' + "3,c\n" * 50_000, r"line 3 of .* cell has more than"),
        ("p.csv", 'id,prompt\n1,"a "b" c"\n', r"line 2 of .*\. Put cells with quotes in quotes"),
        ("p.csv", "prompt,prompt_en\na,b\n", r"one column of prompts, but .* has prompt and"
         r" prompt_en, and either may be meant\. Rename the one that is not\."),
        ("p.csv", "prompt,id,prompt\na,1,b\n", r"columns .* must have names .* has prompt twice"),
        ("p.csv", "id,prompt\n1,a\n2,\n", r"line 3 of .* is .*'id': '2'.*\. Give it a prompt\."),
        ("p.txt", "id,prompt,seed\n1,a,7\n", r"begins with the columns id, prompt, seed\. Name it"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', r"line 2 of .* is not"),
        ("p.jsonl", '{"text": "a"}\n', r"line 1 of .* Give it a prompt"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n', r"^each line of p\.jsonl must"
         r" have every key once, but in \S+p\.jsonl prompt stands twice on line 1, but only one of"
         r" them can count\. Keep one\.$"),
        ("p.jsonl", '"x"\n\n"y"\n{"prompt": "a", "prompt": "b"}\n', r"stands twice on line 4, but"),
        ("p.jsonl", '"x"\n{"a":\t"b", "a":\t"c"}\n', r"a stands twice on line 2[.,]"),
        ("p.json", '{"0": "a",\n"0": "b"}', r"every key once, but in .* 0 stands on line 1 and on"),
        ("p.txt", "ein Hund läuft".encode("cp1252"), r"it is no UTF-8 text\. Save it as UTF-8\."),
        ("p.txt", "# only\n# comments\n", r"must have at least one, but .* has none"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, name, content)


@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson"])
def test_a_prompt_on_each_line_of_json(tmp_path: Path, name: str) -> None:
    rows = [PROMPTS[0], {"prompt": PROMPTS[1], "id": 3, "style": "flat"}, {"prompt_en": PROMPTS[2]}]
    content = "\r\n".join(json.dumps(row) for row in rows) + "\r\n\r\n"
    plan = read(tmp_path, name, content)
    assert texts(plan) == PROMPTS[:3]
    assert plan.prompts[1].tags == {"ids": ["3"], "style": "flat"}


def test_a_json_list_of_rows(tmp_path: Path) -> None:
    plan = read(tmp_path, "p.json", json.dumps([{"prompt": "a", "style": "flat"}, "b"]))
    assert [(prompt.text, prompt.tags) for prompt in plan.prompts] == [
        ("a", {"ids": ["0"], "style": "flat"}), ("b", {}),
    ]  # fmt: skip


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_of_text(tmp_path: Path, ends: str) -> None:
    """Of which only line ends end a prompt, not all that Unicode calls one."""
    lines = ["# a comment", "", "a red\u2028star", "  a, b; c  ", "\\#1 of all", "  # another"]
    plan = read(tmp_path, "p.txt", ends.join(lines))
    assert texts(plan) == ["a red\u2028star", "a, b; c", "#1 of all"]


def test_a_folder_of_texts_without_what_systems_leave_in_it(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/0000.txt").write_text("a fish")
    (tmp_path / "prompts/._0000.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    plan = Plan.of({"prompts": "prompts", "settings": [{"name": "cfg"}]}, tmp_path)
    assert texts(plan) == ["a fish"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0001.md", r"must hold \.txt files only, but .*prompts holds 0001\.md\. Move"),
        ("more.txt/0002.txt", r"must hold \.txt files only, but .*prompts holds more\.txt\. Move"),
        ("0003.txt", r"must hold one, but .*0003\.txt is empty\. Remove it"),
    ],
)
def test_a_folder_of_texts_that_would_not_all_be_read(
    tmp_path: Path, name: str, message: str
) -> None:
    path = tmp_path / "prompts" / name
    path.parent.mkdir(parents=True)
    path.write_text("")
    (tmp_path / "prompts/0000.TXT").write_text("a fish")
    with pytest.raises(ValueError, match=message):
        Plan.of({"prompts": "prompts", "settings": [{"name": "cfg"}]}, tmp_path)
    path.unlink()
    if path.parent.name != "prompts":
        path.parent.rmdir()
    plan = Plan.of({"prompts": "prompts", "settings": [{"name": "cfg"}]}, tmp_path)
    assert texts(plan) == ["a fish"]


def test_comments_between_rows_and_signs_in_cells(tmp_path: Path) -> None:
    text = 'prompt,id\n"a\n# b",1\n# no,2\n"# c",3\n\nd,"x'
    with pytest.raises(ValueError, match=r"line 7 of .* is not: unexpected end of data"):
        read(tmp_path, "p.csv", text)
    assert texts(read(tmp_path, "p.csv", text + '"')) == ["a\n# b", "# c", "d"]
    assert texts(read(tmp_path, "p.jsonl", '# all\n"a"\n  # b\n"# c"\n')) == ["a", "# c"]

"""Plans: what they mean, the prompt files of the benchmarks, and what is said of a wrong one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from skipguide.generate.resolve import resolve_guidance
from skipguide.runs import Plan, jobs
from skipguide.runs.jobs import ResolvedSetting, job_key
from skipguide.runs.plan_grid import to_settings
from skipguide.runs.prompt_rows import Prompt

PLAN = """
model: lab-mochi
prompts: ["a small red circle drifting left", "a large blue star orbiting"]
seeds: [0, 1]
num_inference_steps: 28
settings:
  - {name: cfg, guidance_scale: 4.5}
  - {name: stg, guidance_scale: 4.5, stg: {layers: [8], scale: 1.0, skip: residual}}
"""


def plan(**content: Any) -> Plan:
    return Plan.of(
        {"prompts": ["a"], "settings": [{"name": "cfg", "guidance_scale": 3}], **content}
    )


def test_a_plan_is_all_its_prompts_seeds_and_settings(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    found = Plan.read(tmp_path / "plan.yaml")
    assert found.clips == 8
    assert found.text == PLAN
    cfg, stg = (setting.generation for setting in found.settings)
    assert (cfg.steps, cfg.guidance_scale, cfg.guidance.stg_scale) == (28, 4.5, 0.0)
    flags = stg.guidance
    assert (flags.layers, flags.stg_scale, flags.skip) == ((8,), 1.0, "residual")


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ({}, {"stg_scale": 0.0}),  # no stg, no skipping
        ({"stg": "preset"}, {}),  # all from the model's preset
        ({"stg": {"layers": [8]}}, {"layers": [8], "stg_scale": 1.0}),  # the scale of STG() is 1
        (
            {"stg_scale": 2.0, "layers": "up:0"},
            {"stg_scale": 2.0, "layers": "up:0"},
        ),  # as in `generate --config`
        (
            {
                "stg": [
                    {"layers": ["up:0"], "scale": 2.0, "axis": "spatial", "skip": "attention"},
                    {"layers": ["up:0"], "scale": 0.5, "axis": "temporal", "skip": "attention"},
                ],
                "rescale": 0.7,
            },
            {
                "layers": ["up:0"],
                "skip": "attention",
                "spatial_scale": 2.0,
                "temporal_scale": 0.5,
                "rescale": 0.7,
            },
        ),
        (
            {"stg": {"random_share": 0.1, "skip": "soft", "strength": 0.5, "every": 2}},
            {"random_share": 0.1, "skip": "soft", "strength": 0.5, "every": 2, "stg_scale": 1.0},
        ),
        (
            {"stg": [{"layers": [1]}, {"random_share": 0.1, "scale": 2.0}], "rescale": 0.7},
            {
                "guidance": {"terms": [{"layers": [1]}, {"layers": {"random": 0.1}, "scale": 2.0}]},
                "rescale": 0.7,
            },
        ),
        (
            {"stg": {"layers": [1], "scale": [1.0, 0.5]}},
            {"guidance": {"terms": [{"layers": [1], "scale": [1.0, 0.5]}]}},
        ),
        ({"guidance": {"cfg": "apg"}}, {"guidance": {"cfg": "apg"}}),
        (
            {"num_inference_steps": 9, "stg": {"layers": [1], "start": 0.1, "stop": 0.9}},
            {"steps": 9, "layers": [1], "start": 0.1, "stop": 0.9, "stg_scale": 1.0},
        ),
    ],
)
def test_the_words_of_guide_are_settings_of_a_generation(
    words: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert to_settings(words) == settings


def test_a_grid_is_the_product_of_its_lists() -> None:
    entry = {"name": "stg", "stg": {"skip": "attention"}, "grid": {"guidance_scale": [1, 3.5],
             "stg": {"layers": [4, [5, 8], "dual:2"], "scale": [0.5, 2]}}}  # fmt: skip
    found = plan(settings=entry).settings
    assert len(found) == 12
    assert found[2].name == "stg guidance_scale=1 layers=5,8 scale=0.5"
    assert found[2].generation.guidance.layers == (5, 8)
    flags = [(s.generation.guidance_scale, s.generation.guidance) for s in found]
    assert {guidance.skip for _, guidance in flags} == {"attention"}
    every = {(g, guidance.layers, guidance.stg_scale) for g, guidance in flags}
    assert every == {
        (g, at, s) for g in (1, 3.5) for at in ((4,), (5, 8), ("dual:2",)) for s in (0.5, 2)
    }


def test_settings_are_for_every_model_or_for_the_one_they_name(tmp_path: Path) -> None:
    found = plan(
        model=["lab-mochi", "x/y"], settings=[{"name": "a"}, {"name": "b", "model": "x/y"}]
    ).settings
    assert [(s.generation.model, s.name) for s in found] == [
        ("lab-mochi", "a"),
        ("x/y", "a"),
        ("x/y", "b"),
    ]


# --- prompt files ---------------------------------------------------------------------------------

# The shapes of VBench@fed9982 VBench_full_info.json, @409bd3e vbench2_i2v_full_info.json and
# EvalCrafter@cc66701 metadata.json, prompts/; the texts are ours.
VBENCH = [
    {"prompt_en": "a toad, at rest", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a cat and a dog", "dimension": ["multiple_objects"],
     "auxiliary_info": {"multiple_objects": {"object": "cat and dog"}}},
    {"prompt_en": "a toad, at rest", "dimension": ["scene", "temporal_flickering"]},
]  # fmt: skip
I2V = [
    {
        "prompt_en": "ink, camera pans left",
        "dimension": ["camera_motion"],
        "image_type": "abstract",
        "image_name": "ink.jpg",
    }
]
CRAFTER = {
    "0000": {"prompt": "2 dogs at sea ", "attributes": {"count": "2 dog"}},
    "0001": {"prompt": "a fish", "attributes": {}},
    "0002": {"prompt": "a fish", "attributes": {}},
}


def prompts_in(
    folder: Path, content: Any, name: str = "prompts.json", **more: Any
) -> list[tuple[Any, Any]]:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    source = {"file": name, **more} if more else name
    found = Plan.of({"prompts": source, "settings": [{"name": "cfg"}]}, folder).prompts
    return [(prompt.text, prompt.tags) for prompt in found]


def test_a_file_of_a_schedule_is_what_is_in_it(tmp_path: Path) -> None:
    """Its name counts from the folder of the plan; another content is another setting, another name
    is not."""

    def read(name: str) -> Any:
        written = {
            "model": "lab-mochi",
            "prompts": ["p"],
            "seeds": [0],
            "settings": [{"name": "s", "schedule": name}],
        }
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        (setting,) = Plan.read(tmp_path / "plan.yaml").settings
        return setting

    (tmp_path / "bins.yaml").write_text(
        "- {sigma: [0.5, 1.1], layers: [5], scale: 1.0}", encoding="utf-8"
    )
    (tmp_path / "same.yaml").write_text(
        "- {sigma: [0.5, 1.1], layers: [5], scale: 1.0}", encoding="utf-8"
    )
    first = read("bins.yaml")
    assert first.generation.guidance.schedule[0]["layers"] == [5]
    assert read("same.yaml") == first
    (tmp_path / "bins.yaml").write_text(
        "- {sigma: [0.5, 1.1], layers: [2], scale: 8.0}", encoding="utf-8"
    )
    assert read("bins.yaml").generation != first.generation
    with pytest.raises(
        ValueError,
        match=r"a schedule must be a YAML file that can be read, but .*none\.yaml cannot",
    ):
        read("none.yaml")


def test_prompts_of_vbench(tmp_path: Path) -> None:
    both = {"dimension": ["temporal_flickering", "scene"]}
    objects = {"dimension": ["multiple_objects"], "auxiliary_info": VBENCH[1]["auxiliary_info"]}
    assert prompts_in(tmp_path, VBENCH) == [("a toad, at rest", both), ("a cat and a dog", objects)]
    assert prompts_in(tmp_path, VBENCH, dimensions=["multiple_objects"]) == [
        ("a cat and a dog", objects)
    ]
    assert prompts_in(tmp_path, VBENCH, first=1) == [("a toad, at rest", both)]


def test_prompts_of_vbench_with_their_images(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "ink.jpg").write_bytes(b"")
    (tmp_path / "i2v.json").write_text(json.dumps(I2V), encoding="utf-8")
    content = {"prompts": {"file": "i2v.json", "images": "pictures"}, "settings": [{"name": "cfg"}]}
    (prompt,) = Plan.of(content, tmp_path).prompts
    assert (prompt.text, prompt.image) == (
        "ink, camera pans left",
        tmp_path / "pictures" / "ink.jpg",
    )


def test_prompts_of_evalcrafter(tmp_path: Path) -> None:
    dogs = ("2 dogs at sea", {"ids": ["0000"], "attributes": {"count": "2 dog"}})
    assert prompts_in(tmp_path, CRAFTER) == [dogs, ("a fish", {"ids": ["0001", "0002"]})]
    (tmp_path / "prompts").mkdir()
    for number, row in CRAFTER.items():
        (tmp_path / "prompts" / f"{number}.txt").write_text(row["prompt"], encoding="utf-8")
    found = Plan.of({"prompts": "prompts", "settings": [{"name": "cfg"}]}, tmp_path).prompts
    assert [(prompt.text, prompt.tags) for prompt in found] == [
        ("2 dogs at sea", {"ids": ["0000"]}),
        ("a fish", {"ids": ["0001", "0002"]}),
    ]


def test_a_prompt_per_line_is_what_both_have_too(tmp_path: Path) -> None:
    lines = "\ufeffa fish\n\n  # a comment, no prompt \na fish\n"
    assert [text for text, _ in prompts_in(tmp_path, lines, "all.txt")] == ["a fish"]


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"settings": []}, r"settings of a plan must be a list of settings.*but got \[\]"),
        ({"prompts": []}, r"prompts of a plan must be a list of texts"),
        ({"prompts": ["a", {}]}, r"an image or both, but prompt 2 of the plan has neither"),
        ({"prompts": [{"prompt": "a", "sede": 3}]}, r"prompt 1 .* sede\. Did you mean 'seed'\?$"),
        ({"prompts": [{"prompt": "a", "seed": "x"}]}, r"seed of prompt 1 .* 0,3,7, or 0:4 .* 'x'"),
        ({"prompts": [{"prompt": "a", "steps": 0}]}, r"^prompt 1 of the plan: steps must be"),
        (
            {"prompts": [{"prompt": "a", "steps": 2, "num_inference_steps": 3}]},
            r"say a setting once, but prompt 1 of the plan has steps twice, once as num_inf",
        ),
        (
            {"prompts": "none.txt"},
            r"prompts must be a readable file, but none.txt is not: No such file",
        ),
        (
            {"prompts": [{"prompt": "a", "image": "none.png"}]},
            r"images of a plan must be files, but none.png is not",
        ),
        ({"seeds": [-1]}, r"seeds of a plan must be whole numbers from 0 .* but got \[-1\]"),
        (
            {"seeds": 3},
            r"seeds of a plan must be a list of whole numbers, as in \[0, 1\], but got 3",
        ),
        ({"sedes": [1]}, r"^a plan has model, .* but got 'sedes'\. Did you mean 'seeds'\?$"),
        ({"prompt": "b"}, r"but got 'prompt'\. Did you mean 'prompts'\?$"),
        ({"prompts": {"fiel": "a.txt"}}, r"^prompts of a plan must be .* Did you mean 'file'\?$"),
        ({"prompts": [{"promt": "a"}]}, r"^prompts of a plan must be .* Did you mean 'prompt'\?$"),
        ({"settings": [{"name": "a", "sgt": 3}]}, r"but got 'sgt'\. Did you mean 'stg'\?$"),
        ({"settings": [{"name": "  "}]}, r"the name of a setting must be a text"),
        ({"settings": [{"name": 3}]}, r"the name of a setting must be a text"),
        (
            {"settings": [{"name": "a"}, {"name": "a"}]},
            r"must have a name of its own, but several are called a",
        ),
        ({"settings": [{"name": "a", "model": "b/c"}]}, r"must be one of the plan's, but got b/c"),
        (
            {"settings": [{"name": "a", "seed": 3}]},
            r"cannot have seed, which belong to the prompts and seeds",
        ),
        ({"settings": [{"name": "a", "stg": {"scale": 1}}]}, r"stg must be a term with layers"),
        (
            {"settings": [{"name": "a", "stg": {"layers": [1], "scal": 1}}]},
            r"a term of stg has .* but got scal",
        ),
        (
            {"settings": [{"name": "a", "stg": {"layers": [1], "axis": "x"}}]},
            r"axis must be spatial, temporal",
        ),
        (
            {"settings": [{"name": "a", "stg": {"layers": [1], "axis": ["spatial"]}}]},
            r"axis must be .* \['spatial'\]",
        ),
        ({"settings": [{"name": "a", "cfg_rule": {"name": [1]}}]}, r"cfg must be one of"),
        (
            {"settings": [{"name": "a", "stg": "preset", "guidance": {"cfg": "apg"}}]},
            r"stg or guidance, but got both",
        ),
        (
            {"settings": [{"name": "a", "guidance": {"terms": [{"scale": "much"}]}}]},
            r"'a': scale must be a finite",
        ),
        (
            {"settings": [{"name": "a", "stg": {"layers": [1]}, "skip": "attention"}]},
            r"must have skip inside of it, but has it beside it",
        ),
        (
            {"settings": [{"name": "a", "guidance_scale": -1}, {"name": "b", "start": 2}]},
            r"'a': guidance_scale must be .* 'b': start must be",
        ),
        (
            {"settings": [{"name": "a", "grid": {"guidance_scale": 3}}]},
            r"grid must have a list of values",
        ),
    ],
)
def test_a_wrong_plan_says_what_is_needed(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**content)


def test_all_that_is_wrong_with_a_plan_is_said_at_once_and_once_each() -> None:
    """`seed` was said to be wrong in each setting, and nothing else was said."""
    settings = [
        {"name": "a", "guidance_scale": -1},
        {"name": "b", "gudance_scale": 3, "stg": {"layer": [8]}},
        {"name": "c", "stg": [{"layers": [1], "axis": "x"}, {"layers": []}], "seed": 3},
    ]
    with pytest.raises(ValueError, match="a plan has") as raised:
        plan(seed=[0], steps=0, prompts=["a", {}], seeds=[-1], settings=settings)
    said = str(raised.value)
    for part in (
        "but got 'seed'. Did you mean 'seeds'?",
        "must have a text, an image or both",
        "? a prompt of a plan",
        "steps must be a whole number >= 1, but got 0. Correct it.",
        "setting 'a': guidance_scale must be",
        "setting 'b': a setting must be one of",
        "but got 'gudance_scale'. Did you mean 'guidance_scale'?",
        "setting 'b': a term of stg has",
        "but got layer. Did you mean 'layers'?",
        "setting 'c': a setting cannot have seed",
        "setting 'c': axis must be spatial",
        "setting 'c': stg must be a term with layers",
        "seeds of a plan must be whole numbers from 0 to 2^63 - 1, but got [-1]",
    ):
        assert said.count(part) == 1, part


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            {"settings": [{"nam": "x", "guidance_scale": -3, "layres": 8, "guidance": {
                "terms": [{"layer": 8, "kind": "sgl"}], "cfgg": "apg"}}]},
            ["Did you mean 'name'?", "but got 'layres'. Did you mean 'layers'?",
             "but got cfgg. Did you mean 'cfg'?", "but got 'sgl'",
             "a term must name its layers, but got {'layer': 8, 'kind': 'sgl'}. Did you mean"
             " 'layers'?", "guidance_scale must be"],
        ),
        (
            {"settings": [{"nam": "x", "stg": {"laers": 3, "axis": "q"}}, {"nam": "y"}]},
            ["{'nam': 'y'}. Did you mean 'name'?", "but got laers. Did you mean 'layers'?",
             "axis must be spatial"],
        ),
        (
            {"settings": [{"name": "a", "grid": {"steps": 0, "stg": {"scale": {}}}, "layres": 2}]},
            ["grid must have a list of values", "Did you mean 'layers'?", "but got 0. Correct it."],
        ),
        ({"settings": [{"grid": 3}]}, ["grid must have a list of values"]),
        ({"settings": [{"name": 3, "grid": 3}]}, ["must be a text", "must have a list of values"]),
        (
            {"settings": ["cfg", {"name": "b", "layres": 8, "model": "x"}], "model": 3},
            ["settings of a plan must be", "model of a plan must be", "Did you mean 'layers'?"],
        ),
        (
            {"prompts": [{"promt": "a"}, {"imag": "b"}]},
            ["Did you mean 'prompt'?", "Did you mean 'image'?"],
        ),
        (
            {"settings": {"name": "a", "guidance": {"terms": "8 layers=9", "cfg": "apgg"}}},
            ["layers stands more than once", "Did you mean 'apg'?"],
        ),
    ],
)  # fmt: skip
def test_what_has_no_name_is_checked_too(content: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must") as raised:
        plan(**content)
    assert [str(raised.value).count(part) for part in parts] == [1] * len(parts), raised.value


def test_what_some_settings_have_wrong_names_them() -> None:
    settings = [{"name": name, "steps": 0} for name in "abcde"]
    with pytest.raises(ValueError, match=r"^settings 'a', 'b', 'c' and 2 more: steps must be"):
        plan(settings=[*settings, {"name": "f"}])


@pytest.mark.parametrize(
    "guidance",
    [{"preset": {"stg_scal": 1.0}}, {"terms": [{"layer": [8]}], "cfg": {"name": "apg", "etta": 1}}],
)
def test_misspelt_words_of_guidance_are_told(guidance: dict[str, Any]) -> None:
    """The first was a KeyError."""
    with pytest.raises(ValueError, match=r"Did you mean '(stg_scale|eta)'\?"):
        plan(settings=[{"name": "a", "guidance": guidance}])


@pytest.mark.parametrize(
    ("text", "said"),
    [("model: a\nmodel: b\n", r"count\. Keep one\.$"), ("a: [1,\nb: {", r"[^.]\. Check it\.$")],
)
def test_a_refusal_ends_in_one_full_stop(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        Plan.read(tmp_path / "p.yaml")


def test_a_plan_with_two_blocks_of_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"{PLAN}settings: []\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"settings stands on line 6 and on line 9, but only one"):
        Plan.read(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 3}, r"must be texts, VBench's rows .* but row a of .* is '3'"),
        (
            [{"prompt_en": "a", "dimension": 5}],
            r"must have texts as dimension, .* row 0 of .* has 5",
        ),
        (
            [{"prompt_en": "a", "image_name": 5}],
            r"must have texts as dimension, image_name and image",
        ),
        ([], r"must have at least one, but .* has none"),
        ("[", r"named .json must be JSON"),
    ],
)
def test_a_wrong_prompt_file_says_what_is_needed(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prompts_in(tmp_path, content)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"dimensions": ["colour"]}, r"some of multiple_objects, scene, .* but got colour"),
     ({"images": "."}, r"whose every row has an image_name, but 'a toad, at rest'")],
)  # fmt: skip
def test_what_a_prompt_file_lacks_is_said(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prompts_in(tmp_path, VBENCH, **more)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "3: 4", "seeds: 2020-13-45"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a plan must"):
        Plan.read(tmp_path / "plan.yaml")


# --- the keys of clips ----------------------------------------------------------------------------

# Of clips that the code made before there was a `guidance`; tests/support/pinned has more.
OLD_CONTENT = {
    "guidance_scale": 4.5, "layers": [5], "stg_scale": 1.0, "spatial_scale": 0.0, "every": 1,
    "temporal_scale": 0.0, "orthogonalize": False, "skip": "residual", "normalize": False,
    "start": 0.0, "stop": 1.0, "rescale": 0.0, "rescale_space": "prediction",
}  # fmt: skip


def key_of(**setting: Any) -> str:
    """The key of the one clip of a setting, for a model without a preset."""
    (entry,) = plan(settings=[{"name": "s", "guidance_scale": 4.5, **setting}]).settings
    complete = entry.generation.model_copy(
        update={"guidance": resolve_guidance(entry.generation.guidance, None), "device": "cpu"}
    )
    surveyed = ResolvedSetting(entry, complete, {"sha256": "0"})
    return job_key(surveyed, Prompt("a"), 0, None, {"torch": "1"})


def old_key(**content: Any) -> str:
    """A key as the code before computed it, from settings that it stored."""
    said = {
        "weights": {"sha256": "0"}, "prompt": "a", "image": None, "seed": 0, "device": "cpu",
        "versions": {"torch": "1"}, "setting": {**OLD_CONTENT, **content},
    }  # fmt: skip
    text = json.dumps(said, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("setting", "content"),
    [
        ({"stg": {"layers": [5]}}, {}),
        ({"layers": "5", "stg_scale": 1}, {}),
        ({"guidance": {"terms": [{"layers": 5, "scale": 1}]}}, {}),
        ({"guidance": {}}, {"layers": [], "stg_scale": 0.0}),
        (
            {
                "guidance": {
                    "terms": [{"layers": "7-9", "skip": "soft", "start": 0.5}],
                    "rescale": 0.7,
                    "cfg": "apg",
                }
            },
            {
                "layers": [7, 8, 9],
                "skip": "soft",
                "strength": 0.5,
                "start": 0.5,
                "rescale": 0.7,
                "cfg_rule": {"name": "apg"},
            },
        ),
        (
            {
                "guidance": {
                    "terms": [{"layers": {"random": 0.2}, "scale": 0.25}],
                    "restart": "0.4:0.6",
                }
            },
            {
                "layers": [],
                "random_share": 0.2,
                "stg_scale": 0.25,
                "restart": [{"window": [0.4, 0.6]}],
            },
        ),
        (
            {
                "guidance": {
                    "terms": [
                        {"layers": [1], "scale": 2.0, "axis": "spatial"},
                        {"layers": [1], "axis": "temporal"},
                    ],
                    "orthogonalize": True,
                }
            },
            {
                "layers": [1],
                "stg_scale": 0.0,
                "spatial_scale": 2.0,
                "temporal_scale": 1.0,
                "orthogonalize": True,
            },
        ),
    ],
)
def test_what_could_be_said_before_keeps_its_key(
    setting: dict[str, Any], content: dict[str, Any]
) -> None:
    assert key_of(**setting) == old_key(**content)


NEW = [
    {"terms": [{"layers": [5]}, {"layers": [8]}]},
    {"terms": [{"layers": [5]}, {"layers": [5], "axis": "spatial", "skip": "attention"}]},
    {"terms": [{"layers": [5], "axis": "temporal"}, {"layers": [5], "axis": "spatial"}]},
    {"terms": [{"layers": [5], "scale": [1.0, 0.5]}]},
    {"terms": [{"layers": [5], "seed": 3}]},
    {"terms": [{"layers": [5], "audio_scale": 0.5}]},
    {"terms": [{"layers": [5]}, {"kind": "slg", "layers": [5]}]},
    {"terms": [{"kind": "slg", "layers": [5]}]},
    {"terms": [{"layers": [5]}], "share_prefix": False},
    {"terms": [{"layers": [5]}], "exact": False},
    {"schedule": [{"sigma": [0, 1], "layers": [5], "scale": 1.0, "seed": 3}]},
]


def test_what_is_new_has_keys_of_its_own() -> None:
    keys = [key_of(guidance=guidance) for guidance in NEW]
    assert len({*keys, key_of(stg={"layers": [5]}), key_of()}) == len(NEW) + 2
    assert keys[0] == key_of(stg=[{"layers": [5]}, {"layers": [8]}])  # however it is spelt
    flags = {"layers": [5], "stg_scale": 1.0}
    assert key_of(guidance={"preset": {**flags, "exact": False}}) == keys[-2]
    assert key_of(**flags, exact=True) == key_of(**flags) == key_of(stg={"layers": [5]})


def test_changes_are_shown_without_whole_hashes() -> None:
    then = {"complete": {"lora": [{"path": "a.safetensors", "sha256": "ab" * 32}], "steps": 2}}
    now = {"lora": [{"path": "a.safetensors", "sha256": "cd" * 32}], "steps": 2}
    assert jobs._describe_changes(then, now) == (
        "lora = path='a.safetensors' sha256=abababab…, now path='a.safetensors' sha256=cdcdcdcd…"
    )

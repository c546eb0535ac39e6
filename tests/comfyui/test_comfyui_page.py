"""The page of ComfyUI in a real Chromium: texts, presets in words, warnings, help.

Nothing here looks at pixels, but at widgets and at the document.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_server import ROOT, Server
from test_comfyui_server import graph, slg

from support.served import BROWSER, run_chromium

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900), *BROWSER]

ADD = """kind => {
  const node = LiteGraph.createNode(kind);
  app.graph.add(node);
  return node.id;
}"""
CHOOSE = """([id, name, value]) => {
  const widget = app.graph.getNodeById(id).widgets.find(one => one.name === name);
  widget.value = value;
  widget.callback?.(value);
}"""
STATE = """id => Object.fromEntries(app.graph.getNodeById(id).widgets.map(
  one => [one.name, [one.value, !!one.disabled]]))"""
LINK = "([from, to]) => app.graph.getNodeById(from).connect(0, app.graph.getNodeById(to), 0)"


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    with run_chromium() as browser:
        opened = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
        opened.goto(server.url)
        registered = "window.app?.extensions?.some(one => one.name === 'skipguide')"
        opened.wait_for_function(f"{registered} && window.app.graph", timeout=120_000)
        opened.wait_for_function("'SkipGuideSTG' in LiteGraph.registered_node_types")
        opened.evaluate("app.graph.clear()")
        yield opened


def state(page: Any, node: int) -> dict[str, list[Any]]:
    return page.evaluate(STATE, node)


def wait_for_text(page: Any, node: int, words: str) -> str:
    page.wait_for_function(
        """([id, words]) => app.graph.getNodeById(id).widgets
           .find(one => one.name === 'said').value?.includes(words)""",
        arg=[node, words],
        timeout=60_000,
    )
    return state(page, node)["said"][0]


def test_preset_is_said_in_words_greys_what_it_overrides_and_is_applied(page: Any) -> None:
    node = page.evaluate(ADD, "SkipGuideSTG")
    page.evaluate(CHOOSE, [node, "preset", "ltx-2b"])
    text = wait_for_text(page, node, "ltx-2b, for Lightricks/LTX-Video: layer 19, attention")
    assert "configs/ltxv-2b-0.9.6-dev.yaml" in text
    greyed = {name for name, (_, disabled) in state(page, node).items() if disabled}
    assert {"layers", "skip", "scale", "rescale", "start_percent"} <= greyed
    assert not {"preset", "share_prefix", "said"} & greyed
    page.evaluate("id => app.graph.getNodeById(id).widgets.find("
                  "one => one.name === 'Apply preset').callback()", node)  # fmt: skip
    wait_for_text(page, node, "The values of ltx-2b")
    now = state(page, node)
    assert now["preset"] == ["custom", False]
    assert (now["layers"], now["skip"]) == (["19", False], ["attention", False])
    assert now["rescale"] == [0.7, False]


def test_ranges_of_a_schedule_are_applied(page: Any) -> None:
    node = page.evaluate(ADD, "SkipGuideSchedule")
    page.evaluate(CHOOSE, [node, "preset", "ltx-13b-dev"])
    wait_for_text(page, node, "a schedule of 6 ranges")
    page.evaluate("id => app.graph.getNodeById(id).widgets.find("
                  "one => one.name === 'Apply preset').callback()", node)  # fmt: skip
    wait_for_text(page, node, "The values of ltx-13b-dev")
    assert "layers=22,35,39 scale=4 cfg=6 rescale=0.5" in state(page, node)["bins"][0]


def test_nodes_show_their_texts_once_the_graph_ran(page: Any) -> None:
    """The widgets that the page adds are no inputs: the graph is taken as it is."""
    page.evaluate("app.graph.clear()")
    model, node, info = (
        page.evaluate(ADD, kind) for kind in ("TinyModel", "SkipGuideSTG", "SkipGuideInfo")
    )
    page.evaluate(CHOOSE, [model, "family", "ltx"])
    page.evaluate(CHOOSE, [node, "preset", "published for this model"])
    page.evaluate(LINK, [model, node])
    page.evaluate(LINK, [node, info])
    page.evaluate("app.queuePrompt(0)")
    assert "0.32 of a forward pass" in wait_for_text(page, info, "LTX-Video: block:0 to block:27")
    wait_for_text(page, node, "ltx-2b, for Lightricks/LTX-Video")
    kept = page.evaluate("() => app.graph.serialize().nodes.map(one => one.widgets_values)")
    assert not any("forward pass" in str(values) for values in kept)


def test_warnings_reach_the_page(server: Server, page: Any) -> None:
    server.run(graph("ltx", slg(layers="9"), cfg=1.0))
    toast = page.locator(".p-toast-message", has_text="SLG skips layers in the unconditional pass")
    toast.first.wait_for(timeout=20_000)


def test_every_node_has_a_help_page_and_other_words_for_the_search(server: Server) -> None:
    nodes = [name for name in server.ask("/object_info") if name.startswith("SkipGuide")]
    written = {path.stem for path in (ROOT / "comfyui" / "web" / "docs").glob("*.md")}
    assert set(nodes) == written
    for name in nodes:
        url = f"{server.url}/extensions/skipguide/docs/{name}.md"
        with urllib.request.urlopen(url) as answer:
            title = server.ask(f"/object_info/{name}")[name]["display_name"]
            assert answer.read().decode().startswith(f"# {title}\n")
    words = server.ask("/object_info/SkipGuideSLG")["SkipGuideSLG"].get("search_aliases")
    assert words is None or "wan slg" in words

"""The example workflows: from the format of the API to that of ComfyUI's page, and back.

    COMFYUI_PATH=... python tests/comfyui/workflow.py

writes comfyui/example_workflows/*.json, which the page opens, from
comfyui/example_workflows/api/*.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from comfy_server import ROOT, Graph, Server

FOLDER = ROOT / "comfyui" / "example_workflows"
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
_WIDTH, _GAP = 340, 60
Info = dict[str, Any]  # what /object_info says of each class


def api_graphs() -> dict[str, Graph]:
    """Return the examples, by name."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "api").glob("*.json"))
    }


def page_of(graph: Graph, info: Info) -> dict[str, Any]:
    """Return a graph in the format of the page.

    There nodes have places, links have numbers, and widgets are values in order.
    """
    order = {name: number for number, name in enumerate(_in_order(graph))}
    spots, links = _spots(graph, order, info), []
    for name in order:
        for slot, (given, _) in enumerate(_sockets(graph[name], info)):
            source, output = graph[name]["inputs"][given]
            kind = info[graph[source]["class_type"]]["output"][output]
            links.append([len(links) + 1, int(source), output, int(name), slot, kind])
    nodes = [_page_node(name, graph[name], order[name], spots[name], links, info) for name in order]
    return {
        "last_node_id": max(node["id"] for node in nodes), "last_link_id": len(links),
        "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def _page_node(
    name: str, node: dict[str, Any], order: int, spot: list[int], links: list[Any], info: Info
) -> dict[str, Any]:
    kind, number = node["class_type"], int(name)
    into = {link[4]: link[0] for link in links if link[3] == number}
    inputs = [
        {"name": given, "type": kind_of, "link": into[slot]}
        for slot, (given, kind_of) in enumerate(_sockets(node, info))
    ]
    outputs = [
        {
            "name": word,
            "type": kind_of,
            "links": [link[0] for link in links if (link[1], link[2]) == (number, slot)],
        }
        for slot, (word, kind_of) in enumerate(
            zip(info[kind]["output_name"], info[kind]["output"], strict=True)
        )
    ]
    found = {
        "id": number, "type": kind, "pos": spot, "size": [_WIDTH, _height(node, info)], "flags": {},
        "order": order, "mode": 0, "inputs": inputs, "outputs": outputs,
        "properties": {"Node name for S&R": kind}, "widgets_values": _values(node, info),
    }  # fmt: skip
    title = node.get("_meta", {}).get("title")
    return {**found, "title": title} if title else found


def graph_of(page: dict[str, Any], info: Info) -> Graph:
    """Return the graph that the page would post.

    Optional widgets that a later ComfyUI has behind the others keep their defaults.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    found: Graph = {}
    for node in page["nodes"]:
        values = iter(node["widgets_values"])
        inputs: dict[str, Any] = {}
        optional = info[node["type"]]["input_order"].get("optional", [])
        for name, _, options in _declared(node["type"], info, widgets=True):
            given = next(values, None)
            if given is None and name in optional:
                continue
            inputs[name] = given
            if options.get("control_after_generate"):
                next(values)
        inputs.update({entry["name"]: sources[entry["link"]] for entry in node["inputs"]})
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
        if "title" in node:
            found[str(node["id"])]["_meta"] = {"title": node["title"]}
    return found


def _declared(kind: str, info: Info, widgets: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, type and options of the inputs of a class that are widgets, or are not."""
    found = []
    for part in ("required", "optional"):
        for name in info[kind]["input_order"].get(part, []):
            declared, *rest = info[kind]["input"][part][name]
            word = "COMBO" if isinstance(declared, list) else declared
            if (word in _WIDGETS) == widgets:
                found.append((name, word, rest[0] if rest else {}))
    return found


def _sockets(node: dict[str, Any], info: Info) -> list[tuple[str, str]]:
    """Return the inputs of a node that are links, and their types."""
    declared = _declared(node["class_type"], info, widgets=False)
    return [(name, word) for name, word, _ in declared if name in node["inputs"]]


def _values(node: dict[str, Any], info: Info) -> list[Any]:
    values = []
    for name, _, options in _declared(node["class_type"], info, widgets=True):
        if name not in node["inputs"]:  # a later version's, which keeps its default
            continue
        values.append(node["inputs"][name])
        if options.get("control_after_generate"):
            values.append("fixed")
    return values


# --- where nodes lie ------------------------------------------------------------------------------


def _in_order(graph: Graph) -> list[str]:
    """Return the nodes, each behind those that it reads."""
    depth = {name: _depth(graph, name) for name in graph}
    return sorted(graph, key=lambda name: (depth[name], int(name)))


def _depth(graph: Graph, name: str) -> int:
    sources = [value[0] for value in graph[name]["inputs"].values() if isinstance(value, list)]
    return max((_depth(graph, source) + 1 for source in sources), default=0)


def _spots(graph: Graph, order: dict[str, int], info: Info) -> dict[str, list[int]]:
    """Return the places of nodes: columns by depth, from left to right."""
    below: dict[int, int] = {}
    spots = {}
    for name in order:
        column = _depth(graph, name)
        spots[name] = [column * (_WIDTH + _GAP), below.get(column, 0)]
        below[column] = spots[name][1] + _height(graph[name], info) + _GAP
    return spots


def _height(node: dict[str, Any], info: Info) -> int:
    long = sum(
        isinstance(value, str) and ("\n" in value or len(value) > 60)
        for value in node["inputs"].values()
    )
    rows = max(len(_sockets(node, info)), len(info[node["class_type"]]["output"])) + len(
        _values(node, info)
    )
    return 40 + 24 * rows + 90 * long


def main() -> None:
    """Write the files for the page."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "base")
        try:
            info = server.ask("/object_info")
        finally:
            server.stop()
    for name, graph in api_graphs().items():
        (FOLDER / f"{name}.json").write_text(
            json.dumps(page_of(graph, info), indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

// The map of the layers that a scan has made: a cell per layer and way to skip it, the shade is a
// quantity. Below it stand the numbers of the cell that is pointed at, tapped or reached by keys.

import { choice, el, short } from "studio/dom.js";
import { empty } from "studio/empty.js";
import { shading } from "studio/scatter.js";
import { plain } from "studio/words.js";

const LEAST = 20; // pixels of a cell with the layers beside each other; else they are rows
const BESIDE = 132; // pixels of what stands before them
const FIRST = 8; // cells of the list below the map
const HUES = 8; // of clusters
const KINDS = {
  idle: ({ idle }) =>
    `idle: skipping it changes next to nothing, |c − p| below ${idle} |c|. It is left out.`,
  broken: ({ broken }) =>
    `broken: skipping it changes nearly all, |c − p| above ${broken} |c|. It is left out.`,
  edge: ({ edge }) =>
    `edge: one of the first ${edge} layers. It is left out while there are others.`,
};
const shown = { quantity: "score", cell: null, watcher: null };

/** Draw the map of a run into its section, and anew when its width changes. */
export function mapSection(root, { map }) {
  shown.watcher?.disconnect();
  if (!map) {
    return root.replaceChildren(el("h2", {}, "Map of the layers"), empty("Nothing is scanned yet.",
      "The map appears here when its prompts are sampled."));
  }
  let wasWide = null;
  const draw = () => {
    const isWide = fits(root.clientWidth, map);
    if (isWide === wasWide) return;
    wasWide = isWide;
    fill(root, map, isWide);
  };
  draw();
  shown.watcher = new ResizeObserver(draw);
  return shown.watcher.observe(root);
}

function fits(width, map) {
  const most = Math.max(...stacksOf(map).map(({ layers }) => layers.length));
  return (width - BESIDE) / most >= LEAST;
}

function fill(root, map, isWide) {
  const names = [...map.quantities.map(({ name }) => name), "cluster"];
  if (!names.includes(shown.quantity)) shown.quantity = "score";
  if (!map.cells.some(({ name }) => name === shown.cell)) shown.cell = map.shortlist[0] ?? null;
  const options = names.map((name) => [name, titleOf(map, name)]);
  const pick = (value) => {
    shown.quantity = value;
    fill(root, map, isWide);
    root.querySelector("select").focus();
  };
  const detail = el("div", { class: "cell-detail", "aria-live": "polite" });
  root.replaceChildren(el("h2", {}, "Map of the layers"),
    el("p", {}, el("b", {}, "A ranking, not a verdict. "), about(map)),
    el("div", { class: "choices" },
      choice("Shade", options, shown.quantity, pick, { id: "scan-quantity" })),
    el("div", { class: isWide ? "scan wide-scan" : "scan" }, grids(map, isWide)),
    legend(map), detail, ranked(map));
  listen(root, map, detail);
}

function about({ prompts, levels, forwards, family, denoiser }) {
  const spent = forwards == null ? ""
    : ` Its weak passes took ${Math.round(forwards).toLocaleString("en")} forward passes.`;
  return `Each cell skips one layer of ${denoiser ?? family} on ${prompts}`
    + ` prompt${prompts === 1 ? "" : "s"} at ${levels.length} noise level${levels.length === 1
      ? "" : "s"}, and looks at what changes: p against c.${spent} It ranks layers and proves`
    + " nothing: held against exhaustive searches, its first cells were among the best on some"
    + " models and no better than the middle layer on another.";
}

function titleOf(map, name) {
  if (name === "cluster") return "clusters: which push the same way";
  return `${plain(name)}: ${map.quantities.find((quantity) => quantity.name === name).what}`;
}

// --- the cells ----------------------------------------------------------------------------------

/** The stacks of a model with their layers, and the ways in which they are skipped. */
function stacksOf(map) {
  const found = new Map();
  for (const cell of map.cells) {
    const [stack, layer] = cell.layer.includes(":") ? cell.layer.split(/:(.*)/) : ["", cell.layer];
    const way = [cell.skip, cell.axis].filter(Boolean).join(" ");
    if (!found.has(stack)) found.set(stack, { stack, layers: [], ways: [], at: new Map() });
    const own = found.get(stack);
    if (!own.layers.includes(layer)) own.layers.push(layer);
    if (!own.ways.includes(way)) own.ways.push(way);
    own.at.set(`${layer}/${way}`, cell);
  }
  return [...found.values()];
}

function grids(map, isWide) {
  const stacks = stacksOf(map);
  const shades = shadesOf(map);
  const several = stacks.length > 1;
  let isFirst = true;
  return stacks.map(({ stack, layers, ways, at }) => {
    const [across, down] = isWide ? [layers, ways] : [ways, layers];
    const cellAt = (row, column) => at.get(isWide ? `${column}/${row}` : `${row}/${column}`);
    const head = el("tr", {}, el("td"),
      across.map((name) => el("th", { scope: "col" }, name)));
    const rows = down.map((row) => el("tr", {}, el("th", { scope: "row" }, row),
      across.map((column) => {
        const cell = cellAt(row, column);
        if (!cell) return el("td");
        const mark = cellMark(map, cell, shades, isFirst);
        isFirst = false;
        return el("td", {}, mark);
      })));
    const title = several || stack ? el("h3", {}, stack || "layers") : null;
    return el("div", { class: "scrolled" }, title, el("table", {
      class: "scan-grid", "aria-label": `Layers of ${stack || "the model"}`,
    }, el("thead", {}, head), el("tbody", {}, rows)));
  });
}

/** One of five shades for a value; what is left out does not decide how deep they are. */
function shadesOf(map) {
  const counted = map.cells.filter(({ kind }) => !kind).map((cell) => valueOf(cell))
    .filter((value) => value != null);
  if (counted.length === 0) return () => 2;
  const shade = shading(counted);
  const [least, most] = [Math.min(...counted), Math.max(...counted)];
  return (value) => shade(Math.min(Math.max(value, least), most));
}

function valueOf(cell, name = shown.quantity) {
  return name === "cluster" ? cell.cluster : cell.values[name] ?? null;
}

/** A button that stands for a cell; one of all of them is reached by Tab, the others by arrows. */
function cellMark(map, cell, shades, isFirst) {
  const value = valueOf(cell);
  const place = map.shortlist.indexOf(cell.name) + 1;
  const isCluster = shown.quantity === "cluster";
  const shade = value == null ? "unmeasured"
    : isCluster ? `hue-${value % HUES}` : `cell-${shades(value)}`;
  const isChosen = shown.cell ? shown.cell === cell.name : isFirst;
  return el("button", {
    type: "button", class: `scan-cell ${shade} ${cell.kind}${place ? " listed" : ""}`,
    tabindex: isChosen ? 0 : -1, "data-cell": cell.name, "aria-label": saidOf(map, cell),
  }, place ? el("b", {}, place) : isCluster ? value : cell.kind === "broken" ? "×" : "");
}

function saidOf(map, cell) {
  const value = valueOf(cell);
  const place = map.shortlist.indexOf(cell.name) + 1;
  const rank = cell.rank == null ? cell.kind || "without a rank" : `rank ${rankOf(cell)}`;
  return `${cell.name}: ${shown.quantity} ${value == null ? "not known" : short(value)}, ${rank}`
    + (place ? `, number ${place} of the shortlist` : "");
}

function rankOf({ rank, rank_low: low, rank_high: high }) {
  return rank + (low == null ? "" : ` (${Math.round(low)} to ${Math.round(high)})`);
}

// --- pointing -----------------------------------------------------------------------------------

function listen(root, map, detail) {
  const cells = new Map(map.cells.map((cell) => [cell.name, cell]));
  const marks = [...root.querySelectorAll("button.scan-cell")];
  const show = (name) => {
    const cell = cells.get(name);
    detail.replaceChildren(...(cell ? details(map, cell) : [hint()]));
    for (const mark of marks) {
      const other = cells.get(mark.dataset.cell);
      mark.classList.toggle("same", Boolean(cell) && other.cluster === cell.cluster);
      mark.classList.toggle("here", other === cell);
    }
  };
  const choose = (mark) => {
    shown.cell = mark.dataset.cell;
    for (const other of marks) other.tabIndex = other === mark ? 0 : -1;
    show(shown.cell);
  };
  for (const mark of marks) {
    mark.addEventListener("pointerenter", ({ pointerType }) => {
      if (pointerType === "mouse") show(mark.dataset.cell);
    });
    mark.addEventListener("pointerleave", () => show(shown.cell));
    mark.addEventListener("click", () => choose(mark));
    mark.addEventListener("focus", () => choose(mark));
    mark.addEventListener("keydown", (event) => move(event, mark));
  }
  show(shown.cell);
}

/** Arrows go to the next cell in that direction, as in any grid. */
function move(event, mark) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const [down, across] = step[event.key] ?? [];
  if (down === undefined) return;
  event.preventDefault();
  const own = mark.closest("td"), row = own.parentElement;
  const rows = [...mark.closest(".scan").querySelectorAll("tbody tr")];
  const place = [...row.children].indexOf(own) + across;
  const next = rows[rows.indexOf(row) + down]?.children[place];
  next?.querySelector("button")?.focus();
}

function hint() {
  return el("p", { class: "quiet" }, "Point at a cell, tap it, or go there with Tab and the"
    + " arrows: its numbers stand here, and the cells that push the same way are marked.");
}

function details(map, cell) {
  const rows = map.quantities.map(({ name, what: title }) => {
    const mean = valueOf(cell, name);
    const [low, high] = cell.intervals[name] ?? [];
    const levels = cell.levels[name] ?? [];
    const interval = low == null ? "" : `${short(low)} to ${short(high)}`;
    return el("tr", {},
      el("th", { scope: "row" }, plain(name), el("span", { class: "quiet wide" }, title)),
      el("td", {}, short(mean)), el("td", {}, interval), el("td", { class: "wide" },
        levels.map(short).join("  ")));
  });
  const same = map.cells.filter((other) => other.cluster === cell.cluster && other !== cell);
  const chance = cell.first_three == null ? ""
    : `, among the first three in ${percent(cell.first_three)} of the`
    + " resamples of prompts";
  return [
    el("h3", {}, cell.name),
    el("p", {}, cell.kind ? KINDS[cell.kind](map.thresholds) : `Rank ${rankOf(cell)} of ${counted(map)}${chance}.`),
    el("p", { class: "quiet" }, `A weak pass costs ${short(cell.values.cost)} of a forward pass. `
      + (same.length ? `Pushes the same way: ${listed(same.map(({ name }) => name))}.`
        : "No other cell pushes the same way.")),
    el("div", { class: "scrolled" }, el("table", { class: "numbers" }, el("thead", {}, el("tr", {},
      ["Quantity", "Mean", "95 % interval"].map((name) => el("th", { scope: "col" }, name)),
      el("th", { scope: "col", class: "wide" }, `At noise ${map.levels.map(short).join("  ")}`))),
    el("tbody", {}, rows))),
  ];
}

function listed(names) {
  const MOST = 8;
  const more = names.length > MOST ? ` and ${names.length - MOST} more` : "";
  return names.slice(0, MOST).join(", ") + more;
}

function counted(map) {
  return map.cells.filter(({ rank }) => rank != null).length;
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}

// --- the list and what the marks mean -----------------------------------------------------------

function ranked(map) {
  const most = counted(map);
  const first = map.cells.filter(({ rank }) => rank != null).sort((a, b) => a.rank - b.rank)
    .slice(0, FIRST);
  const rows = first.map((cell) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"), el("b"));
    const at = (rank) => `${((rank - 1) / Math.max(most - 1, 1)) * 100}%`;
    bar.style.setProperty("--low", at(cell.rank_low ?? cell.rank));
    bar.style.setProperty("--high", at(cell.rank_high ?? cell.rank));
    bar.style.setProperty("--value", at(cell.rank));
    const place = map.shortlist.indexOf(cell.name) + 1;
    return el("tr", { class: place ? "listed" : "" },
      el("th", { scope: "row" }, cell.name,
        place || cell.passed_over
          ? el("span", { class: "quiet" }, place ? "shortlist" : cell.passed_over) : null),
      el("td", {}, rankOf(cell)), el("td", { class: "wide" }, bar),
      el("td", {}, cell.first_three == null ? "–" : percent(cell.first_three)),
      el("td", {}, short(cell.values.score)));
  });
  return el("div", { class: "scrolled" }, el("table", { class: "numbers", id: "scan-first" },
    el("caption", {}, map.prompts < 2 ? "With one prompt there are no intervals."
      : "In brackets: between which ranks 95 % of the resamples of prompts lie.",
    ` ${map.shortlist_rule ?? ""}`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "First cells"),
      el("th", { scope: "col" }, "Rank"), el("th", { class: "wide" }), el("th", { scope: "col" },
        "Among the first three"), el("th", { scope: "col" }, "Score"))),
    el("tbody", {}, rows)));
}

function legend(map) {
  const values = map.cells.filter(({ kind }) => !kind).map((cell) => valueOf(cell))
    .filter((value) => value != null);
  const mark = (kind, words, text = "") => el("span", { class: "key" },
    el("i", { class: `scan-cell ${kind}`, "aria-hidden": "true" }, text), words);
  const kinds = ["idle", "broken", "edge"].filter((kind) =>
    map.cells.some((cell) => cell.kind === kind));
  const scale = shown.quantity === "cluster" || values.length === 0 ? []
    : [el("span", { class: "legend" }, short(Math.min(...values)),
      [0, 1, 2, 3, 4].map((i) => el("span", { class: `cell-${i}` })), short(Math.max(...values)))];
  return el("p", { class: "scan-legend" }, scale,
    map.shortlist.length ? mark("cell-2 listed", "shortlist", el("b", {}, "1")) : null,
    kinds.map((kind) => mark(`cell-1 ${kind}`, kind, kind === "broken" ? "×" : "")));
}

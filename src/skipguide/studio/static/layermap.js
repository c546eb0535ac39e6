// The layer map: a row per layer, a column per all else that varies; the shade is a measure. A cell
// opens its clips.

import { button, choice, el, short } from "studio/dom.js";
import { empty } from "studio/empty.js";
import { firstQuality, isCost } from "studio/quality.js";
import { opener, shading } from "studio/scatter.js";
import { state, update } from "studio/state.js";
import { arrowed, betterOf, estimate, plain } from "studio/words.js";

const BESIDE = 12; // settings that are no cell of the map

export function renderMap(root, run) {
  if (run.maps.length === 0) {
    root.replaceChildren(empty("No setting of this run skips layers with a scale.",
      "The map has a row per layer and a column per scale. Sweep some, as in"
      + " `layers: [[4], [8]]` and `scale: [0.5, 1]` of a plan's grid, and it appears here."));
    return;
  }
  const measure = run.measure(state.measures.map) ?? firstQuality(run);
  const values = Object.values(measure?.values ?? {}).map((entry) => entry.value);
  const shades = shading(values, measure?.better === "lower");
  root.replaceChildren(
    head(run, measure),
    ...(firstQuality(run) ? [] : [unmeasured(run)]),
    el("div", { class: "maps" }, run.maps.map((map) => el("section", {},
      run.maps.length > 1 ? el("h2", {}, map.model) : null,
      table(run, map, measure, shades), without(run, map, measure, shades)))),
    legend(values, measure),
    others(run, measure) ?? "",
  );
}

/** What the settings of a model have that no row of its map is for. */
function without(run, map, measure, shades) {
  const inMap = new Set(map.cells.flat());
  const left = run.settings.filter(({ id, model }) => model === map.model && !inMap.has(id));
  if (left.length === 0 || !measure) return null;
  return el("p", { class: "without" }, "not in it:", left.slice(0, BESIDE).map((setting) => {
    const value = measure.values[setting.id];
    const mark = el("span", { class: value ? `cell-${shades(value.value)}` : "unmeasured" },
      `${setting.name} ${value ? short(value.value) : "·"}`);
    return opener(run, setting, mark, saidOf(measure, value));
  }));
}

/** The other metrics, small: one layer is seldom the best in all of them. */
function others(run, shown) {
  const measures = run.measures.filter((entry) => !isCost(entry) && entry !== shown);
  if (measures.length === 0 || !shown) return null;
  const small = (measure) => {
    const values = Object.values(measure.values).map((entry) => entry.value);
    const shades = shading(values, measure.better === "lower");
    const choose = () => update({ measures: { ...state.measures, map: measure.name } });
    return el("section", { title: measure.what },
      el("h3", {}, button(arrowed(measure), choose, { "data-measure": measure.name })),
      run.maps.map((map) => table(run, map, measure, shades)));
  };
  return el("section", { class: "others" }, el("h2", {}, "The other metrics"),
    el("div", { class: "maps" }, measures.map(small)));
}

function head(run, measure) {
  const none = measure ? [] : [["", "nothing: not measured"]];
  const options = run.measures.map((entry) => [entry.name, plain(entry.name)]);
  const pick = (value) => update({ measures: { ...state.measures, map: value } });
  const better = measure && betterOf(measure);
  return el("div", { class: "choices" },
    choice("Shade", [...none, ...options], measure?.name ?? "", pick, { id: "map-measure" }),
    measure ? el("span", { class: "quiet" }, measure.what, better && `; ${better}`) : null);
}

/** Only cost is known. It is not what a map is for, but can be chosen. */
function unmeasured({ counts }) {
  if (counts.done === 0) {
    return empty("Nothing is measured yet.", "No video is finished. A cell opens its clips.");
  }
  return empty("Quality is not measured yet.", "Run `skipguide evaluate RUN`: the map then opens on"
    + " its first metric. Votes are a measure too. Until then a cell opens its clips, and the shade"
    + " can be what they cost.");
}

function table(run, map, measure, shades) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Layers"),
    map.columns.map((name) => el("th", { scope: "col" }, name)));
  const rows = map.rows.map((layer, i) => el("tr", {}, el("th", { scope: "row" }, layer),
    map.cells[i].map((id) => cell(run, id, measure, shades))));
  return el("div", { class: "scrolled" },
    el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, rows)));
}

function cell(run, id, measure, shades) {
  if (id === null) return el("td", { class: "none" });
  const value = measure?.values[id];
  const setting = run.setting.get(id);
  const kind = value ? `cell-${shades(value.value)}` : "unmeasured";
  const mark = el("div", { class: kind, title: setting.name }, value ? short(value.value) : "·");
  return el("td", {}, opener(run, setting, mark, saidOf(measure, value)));
}

function saidOf(measure, value) {
  return value ? `${plain(measure.name)} ${estimate(value)}` : "not measured";
}

/** From the worst to the best, where that is known. */
function legend(values, measure) {
  if (values.length === 0) return el("p");
  const ends = [Math.min(...values), Math.max(...values)].map(short);
  if (measure.better === "lower") ends.reverse();
  const words = measure.better ? [" worst", " best"] : ["", ""];
  const steps = [0, 1, 2, 3, 4].map((i) => el("span", { class: `cell-${i}` }));
  return el("p", { class: "legend" }, `${ends[0]}${words[0]}`, steps, `${ends[1]}${words[1]}`);
}

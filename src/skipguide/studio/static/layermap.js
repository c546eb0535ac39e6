// The layer map: a row per layer, a column per all else that varies; the shade is a measure. A cell opens its clips.

import { choice, el, short } from "studio/dom.js";
import { opener, shading } from "studio/scatter.js";
import { state, update } from "studio/state.js";
import { estimate, plain } from "studio/words.js";

export function renderMap(root, run) {
  const measured = run.measures;
  if (run.maps.length === 0 || measured.length === 0) {
    root.replaceChildren(el("p", { class: "empty" }, "No setting with STG has been measured yet."));
    return;
  }
  const measure = run.measure(state.measures.map) ?? measured.find((entry) => entry.kind !== "cost") ?? measured[0];
  const options = measured.map((entry) => [entry.name, plain(entry.name)]);
  const values = Object.values(measure.values).map((entry) => entry.value);
  root.replaceChildren(
    el("div", { class: "choices" },
      choice("Shade", options, measure.name, (value) => update({ measures: { ...state.measures, map: value } }), { id: "map-measure" }),
      el("span", { class: "quiet" }, measure.what, { higher: "; higher is better", lower: "; lower is better" }[measure.better] ?? "")),
    ...run.maps.map((map) => table(run, map, measure, shading(values))),
    legend(values),
  );
}

function table(run, map, measure, shades) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Layers"), map.columns.map((name) => el("th", { scope: "col" }, name)));
  const rows = map.rows.map((layer, i) => el("tr", {}, el("th", { scope: "row" }, layer), map.cells[i].map((id) => cell(run, id, measure, shades))));
  return el("section", {}, run.maps.length > 1 ? el("h2", {}, map.model) : null,
    el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, rows)));
}

function cell(run, id, measure, shades) {
  if (id === null) return el("td", { class: "none" });
  const value = measure.values[id];
  const mark = el("div", { class: value ? `cell-${shades(value.value)}` : "unmeasured", title: run.setting.get(id).name }, value ? short(value.value) : "·");
  return el("td", {}, opener(run, run.setting.get(id), mark, value ? `${plain(measure.name)} ${estimate(value)}` : "not measured"));
}

function legend(values) {
  if (values.length === 0) return el("p");
  const steps = [0, 1, 2, 3, 4].map((i) => el("span", { class: `cell-${i}` }));
  return el("p", { class: "legend" }, short(Math.min(...values)), " ", steps, " ", short(Math.max(...values)));
}

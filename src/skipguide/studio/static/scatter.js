// Quality, diversity, cost: one point per setting, with its intervals. A point opens its clips.

import { choice, el, short, svg } from "studio/dom.js";
import { slotsOf, state, update } from "studio/state.js";
import { estimate, plain, summary } from "studio/words.js";

const WIDTH = 860, HEIGHT = 500, LEFT = 70, RIGHT = 24, TOP = 16, BOTTOM = 52;
const TICKS = 5;
const RADIUS = 6.5, LABEL = 14, LETTER = 6.8, FURTHEST = 40; // of names: height, width of a letter, tries up and down

export function renderScatter(root, run) {
  if (run.measures.length === 0) {
    root.replaceChildren(el("p", { class: "empty" }, "Nothing is measured yet: the first finished video brings its cost, `skipguide evaluate` the rest."));
    return;
  }
  const picked = axes(run);
  const points = run.settings
    .map((setting) => ({ setting, x: picked.x.values[setting.id], y: picked.y.values[setting.id], z: picked.colour.values[setting.id] }))
    .filter(({ x, y }) => x && y);
  root.replaceChildren(
    el("div", { class: "choices" }, pick(run, "x", "Across", picked), pick(run, "y", "Up", picked), pick(run, "colour", "Shade", picked)),
    points.length ? plot(run, points, picked) : el("p", { class: "empty" }, "No setting has both of these numbers."),
    table(run, picked),
  );
}

/** Diversity across, quality up, cost as shade, where they are measured. */
function axes(run) {
  const { measures } = run;
  const like = (pattern) => measures.find((measure) => pattern.test(measure.name));
  const judged = measures.find((measure) => measure.kind !== "cost" && measure.better);
  const fallback = { x: like(/vendi|recall|coverage|diversity/), y: like(/accuracy|fvd|quality|inception|precision/) ?? judged, colour: like(/passes_per_step/) };
  return Object.fromEntries(["x", "y", "colour"].map((axis, i) =>
    [axis, run.measure(state.measures[axis]) ?? fallback[axis] ?? measures[i] ?? measures[0]]));
}

function pick(run, axis, label, picked) {
  const options = run.measures.map((measure) => [measure.name, plain(measure.name) + ({ higher: " ↑", lower: " ↓" }[measure.better] ?? "")]);
  return choice(label, options, picked[axis].name, (value) => update({ measures: { ...state.measures, [axis]: value } }), { id: `axis-${axis}` });
}

/** A linear scale over the values and the ends of their intervals. */
function scale(estimates, from, to) {
  const values = estimates.flatMap(({ value, low, high }) => [value, low ?? value, high ?? value]);
  const least = Math.min(...values), most = Math.max(...values);
  const room = (most - least || Math.abs(most) || 1) * 0.08;
  const [a, b] = [least - room, most + room];
  const place = (value) => from + ((value - a) / (b - a)) * (to - from);
  const step = 10 ** Math.floor(Math.log10((b - a) / TICKS));
  const width = [1, 2, 5, 10].map((times) => times * step).find((size) => (b - a) / size <= TICKS + 1);
  const ticks = [];
  for (let tick = Math.ceil(a / width) * width; tick <= b; tick += width) ticks.push(+tick.toPrecision(12));
  return { place, ticks };
}

function plot(run, points, picked) {
  const x = scale(points.map((point) => point.x), LEFT, WIDTH - RIGHT);
  const y = scale(points.map((point) => point.y), HEIGHT - BOTTOM, TOP);
  const shades = shading(points.filter((point) => point.z).map((point) => point.z.value));
  const lines = [
    ...x.ticks.map((tick) => svg("g", {}, line(x.place(tick), TOP, x.place(tick), HEIGHT - BOTTOM, "rule"), text(x.place(tick), HEIGHT - BOTTOM + 18, short(tick), "middle"))),
    ...y.ticks.map((tick) => svg("g", {}, line(LEFT, y.place(tick), WIDTH - RIGHT, y.place(tick), "rule"), text(LEFT - 8, y.place(tick) + 4, short(tick), "end"))),
  ];
  const titles = [
    text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, title(picked.x), "middle", "axis"),
    svg("text", { x: 0, y: 0, "text-anchor": "middle", class: "axis", transform: `translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)` }, title(picked.y)),
  ];
  const places = points.map((point) => ({ ...point, left: x.place(point.x.value), top: y.place(point.y.value) }));
  const labels = apart(places);
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "group", "aria-label": `${title(picked.y)} over ${title(picked.x)}` },
    lines, titles,
    places.flatMap((point) => intervals(point, x, y)),
    places.map((point, i) => dot(run, point, labels[i], shades, picked)));
}

function title(measure) {
  const better = { higher: "higher is better", lower: "lower is better" }[measure.better];
  return plain(measure.name) + (better ? ` (${better})` : "");
}

function intervals({ x: across, y: up, left, top }, x, y) {
  return [
    across.low == null ? null : line(x.place(across.low), top, x.place(across.high), top, "interval"),
    up.low == null ? null : line(left, y.place(up.low), left, y.place(up.high), "interval"),
  ].filter(Boolean);
}

/** A place for the name of each point: the nearest one, right or left of it, that covers no other name and no point. */
function apart(places) {
  const taken = places.map(({ left, top }) => ({ from: left - RADIUS, to: left + RADIUS, at: top }));
  return places.map(({ left, top, setting }) => {
    const width = setting.title.length * LETTER;
    const tries = [...Array(2 * FURTHEST).keys()].flatMap((i) => {
      const at = top + (i % 2 ? 1 : -1) * Math.ceil(i / 2) * 4;
      return [{ from: left + 10, to: left + 10 + width, at }, { from: left - 10 - width, to: left - 10, at }];
    });
    const isFree = (place) => place.from > LEFT && place.to < WIDTH && place.at > TOP && place.at < HEIGHT - BOTTOM
      && !taken.some((other) => Math.abs(other.at - place.at) < LABEL && other.from < place.to && place.from < other.to);
    const found = tries.find(isFree) ?? tries[0];
    taken.push(found);
    const isRight = found.from > left;
    return { x: isRight ? found.from : found.to, y: found.at, anchor: isRight ? "start" : "end" };
  });
}

function dot(run, { setting, x, y, z, left, top }, label, shades, picked) {
  const numbers = `${plain(picked.x.name)} ${estimate(x)}, ${plain(picked.y.name)} ${estimate(y)}` + (z ? `, ${plain(picked.colour.name)} ${estimate(z)}` : "");
  return opener(run, setting, svg("g", { class: "point" },
    svg("title", {}, `${setting.title}: ${numbers}`),
    Math.abs(label.y - top) > LABEL ? line(left, top, label.x, label.y, "leader") : null,
    svg("circle", { cx: left, cy: top, r: RADIUS, class: z ? `shade-${shades(z.value)}` : "" }),
    text(label.x, label.y + 4, setting.title, label.anchor, "name")), numbers);
}

/** Let a mark of a plot open the clips of its setting, by pointer and by key; `said` is what can be seen of it. */
export function opener(run, setting, mark, said) {
  const open = () => openClips(run, setting.id);
  mark.setAttribute("role", "button");
  mark.setAttribute("tabindex", "0");
  mark.setAttribute("aria-label", `${setting.title}: ${said}. Open its clips`);
  mark.dataset.setting = setting.name;
  mark.addEventListener("click", open);
  mark.addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) { event.preventDefault(); open(); } });
  return mark;
}

/** A setting beside what it is to be compared with: the one without STG of the same model. */
function openClips(run, id) {
  const setting = run.setting.get(id);
  const isPlain = (other) => other.model === setting.model && !["stg_scale", "spatial_scale", "temporal_scale", "guidance", "schedule"].some((name) => other.parameters[name]);
  const base = run.settings.find((other) => isPlain(other) && other.id !== id);
  update({ view: "clips", mode: "grid", slots: slotsOf([...(base ? [base.id] : []), id]) });
}

/** Values to one of five shades. */
export function shading(values) {
  const least = Math.min(...values), most = Math.max(...values);
  return (value) => (most > least ? Math.round(((value - least) / (most - least)) * 4) : 2);
}

function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function text(x, y, content, anchor, kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

function table(run, picked) {
  const chosen = [...new Set([picked.x, picked.y, picked.colour])];
  const rows = run.settings.map((setting) => el("tr", {},
    el("th", { scope: "row" }, setting.title, el("span", { class: "quiet" }, summary(run, setting))),
    chosen.map((measure) => el("td", {}, measure.values[setting.id] ? estimate(measure.values[setting.id]) : "–"))));
  const heads = chosen.map((measure) => el("th", { scope: "col", title: measure.what }, plain(measure.name)));
  return el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Setting"), heads)), el("tbody", {}, rows),
    el("caption", {}, "In brackets: 95 % intervals, where there are five prompts or more (or the metric brought one)."));
}

// Quality, diversity, cost: one point per setting, with its intervals. A point opens its clips.

import { choice, el, short, svg } from "studio/dom.js";
import { empty } from "studio/empty.js";
import { firstQuality, isCost } from "studio/quality.js";
import { slotsOf, state, update } from "studio/state.js";
import { table } from "studio/table.js";
import { arrowed, betterOf, estimate, plain, summary } from "studio/words.js";

const LEFT = 62, RIGHT = 24, TOP = 16, BOTTOM = 52; // pixels around the plot
const LEAST = 280, SHAPE = 0.6, LOWEST = 260, ABOVE = 80; // its size, and what stands above it
const TICKS = 5;
const RADIUS = 6.5; // of a point
// Of names: height, width of a letter, tries up and down, letters on a narrow plot and a wide one.
const LABEL = 14, LETTER = 6.8, FURTHEST = 40, FEW = 18, MANY = 40;
const OF_STG = ["stg_scale", "spatial_scale", "temporal_scale", "guidance", "schedule"];

export function renderScatter(root, run) {
  if (run.measures.length === 0) {
    root.replaceChildren(empty("Nothing is measured yet.", run.counts.done
      ? "Run `skipguide evaluate RUN`. Its metrics appear here, two against each other."
      : "The first finished video brings its cost, `skipguide evaluate RUN` its quality, and raters"
        + " bring their votes."));
    return;
  }
  const picked = axes(run);
  const points = run.settings.map((setting) => {
    const [x, y, z] = ["x", "y", "colour"].map((axis) => picked[axis].values[setting.id]);
    return { setting, x, y, z };
  }).filter(({ x, y }) => x && y);
  const frame = el("div", { class: "plot-frame" });
  root.replaceChildren(
    el("div", { class: "choices" }, pick(run, "x", "Across", picked), pick(run, "y", "Up", picked),
      pick(run, "colour", "Shade", picked)),
    ...(firstQuality(run) ? [] : [empty("Quality is not measured yet: this is what videos cost.",
      "Run `skipguide evaluate RUN`, or let people vote: the plot then opens on quality.")]),
    el("div", { class: "plot-and-table" },
      points.length ? frame : empty("No setting has both of these numbers.",
        "Choose two others above, or measure the rest with `skipguide evaluate RUN`."),
      tableOf(run, picked)),
  );
  keepDrawn(frame, (size) => plot(run, points, picked, size));
}

/** Draw in the size that the frame has, so that letters are as large as elsewhere. */
function keepDrawn(frame, draw) {
  let drawnFor = 0;
  const redraw = () => {
    const width = Math.max(frame.clientWidth, LEAST);
    if (width === drawnFor || !frame.isConnected) return;
    drawnFor = width;
    const room = document.getElementById("main").clientHeight - ABOVE;
    const height = Math.max(Math.min(width * SHAPE, room), LOWEST);
    frame.replaceChildren(draw({ width, height: Math.round(height) }));
  };
  redraw();
  new ResizeObserver(redraw).observe(frame);
}

/** Diversity across, quality up, cost as shade, where they are measured. */
function axes(run) {
  const { measures } = run;
  const like = (pattern) => measures.find((measure) => pattern.test(measure.name));
  const y = like(/accuracy|fvd|quality|inception|precision/) ?? firstQuality(run);
  const other = measures.find((measure) => !isCost(measure) && measure !== y);
  const fallback = {
    x: like(/vendi|recall|coverage|diversity/) ?? other ?? like(/passes_per_step/),
    y: y ?? like(/seconds_per_step/),
    colour: like(/passes_per_step/),
  };
  return Object.fromEntries(["x", "y", "colour"].map((axis) =>
    [axis, run.measure(state.measures[axis]) ?? fallback[axis] ?? measures[0]]));
}

function pick(run, axis, label, picked) {
  const options = run.measures.map((measure) => [measure.name, arrowed(measure)]);
  const change = (value) => update({ measures: { ...state.measures, [axis]: value } });
  return choice(label, options, picked[axis].name, change, { id: `axis-${axis}` });
}

/** A linear scale over the values and the ends of their intervals. */
function scale(estimates, from, to) {
  const values = estimates.flatMap(({ value, low, high }) => [value, low ?? value, high ?? value]);
  const least = Math.min(...values), most = Math.max(...values);
  const room = (most - least || Math.abs(most) || 1) * 0.08;
  const [a, b] = [least - room, most + room];
  const place = (value) => from + ((value - a) / (b - a)) * (to - from);
  const step = 10 ** Math.floor(Math.log10((b - a) / TICKS));
  const width = [1, 2, 5, 10].map((times) => times * step)
    .find((size) => (b - a) / size <= TICKS + 1);
  const ticks = [];
  for (let tick = Math.ceil(a / width) * width; tick <= b; tick += width) {
    ticks.push(+tick.toPrecision(12));
  }
  return { place, ticks };
}

function plot(run, points, picked, { width, height }) {
  const right = width - RIGHT, bottom = height - BOTTOM;
  const x = scale(points.map((point) => point.x), LEFT, right);
  const y = scale(points.map((point) => point.y), bottom, TOP);
  const shades = shading(points.filter((point) => point.z).map((point) => point.z.value));
  const lines = [
    ...x.ticks.map((tick) => svg("g", {}, line(x.place(tick), TOP, x.place(tick), bottom, "rule"),
      text(x.place(tick), bottom + 18, short(tick), "middle"))),
    ...y.ticks.map((tick) => svg("g", {}, line(LEFT, y.place(tick), right, y.place(tick), "rule"),
      text(LEFT - 8, y.place(tick) + 4, short(tick), "end"))),
  ];
  const turned = `translate(14 ${(TOP + bottom) / 2}) rotate(-90)`;
  const titles = [
    text((LEFT + right) / 2, height - 10, title(picked.x), "middle", "axis"),
    svg("text", { x: 0, y: 0, "text-anchor": "middle", class: "axis", transform: turned },
      title(picked.y)),
  ];
  const most = width < 600 ? FEW : MANY;
  const places = points.map((point) => ({
    ...point, name: shortened(point.setting.title, most),
    left: x.place(point.x.value), top: y.place(point.y.value),
  }));
  const labels = apart(places, { width, bottom });
  return svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, class: "plot", role: "group",
    "aria-label": `${title(picked.y)} over ${title(picked.x)}`,
  }, lines, titles, places.flatMap((point) => intervals(point, x, y)),
  places.map((point, i) => dot(run, point, labels[i], shades, picked)));
}

function shortened(name, most) {
  return name.length <= most ? name : `${name.slice(0, most - 1)}…`;
}

function title(measure) {
  const better = betterOf(measure);
  return plain(measure.name) + (better ? ` (${better})` : "");
}

function intervals({ x: across, y: up, left, top }, x, y) {
  const [from, to] = [across.low, across.high].map((end) => end != null && x.place(end));
  const [low, high] = [up.low, up.high].map((end) => end != null && y.place(end));
  return [
    across.low == null ? null : line(from, top, to, top, "interval"),
    up.low == null ? null : line(left, low, left, high, "interval"),
  ].filter(Boolean);
}

/**
 * A place for the name of each point: the nearest one, right or left of it, that covers no other
 * name and no point.
 */
function apart(places, { width, bottom }) {
  const taken = places.map(({ left, top }) =>
    ({ from: left - RADIUS, to: left + RADIUS, at: top }));
  return places.map(({ left, top, name }) => {
    const wide = name.length * LETTER;
    const tries = [...Array(2 * FURTHEST).keys()].flatMap((i) => {
      const at = top + (i % 2 ? 1 : -1) * Math.ceil(i / 2) * 4;
      return [{ from: left + 10, to: left + 10 + wide, at },
        { from: left - 10 - wide, to: left - 10, at }];
    });
    const isFree = ({ from, to, at }) => from > LEFT && to < width && at > TOP && at < bottom
      && !taken.some((other) =>
        Math.abs(other.at - at) < LABEL && other.from < to && from < other.to);
    const found = tries.find(isFree) ?? tries[0];
    taken.push(found);
    const isRight = found.from > left;
    return { x: isRight ? found.from : found.to, y: found.at, anchor: isRight ? "start" : "end" };
  });
}

function dot(run, { setting, name, x, y, z, left, top }, label, shades, picked) {
  const shade = z ? `, ${plain(picked.colour.name)} ${estimate(z)}` : "";
  const [across, up] = [picked.x, picked.y].map((measure) => plain(measure.name));
  const numbers = `${across} ${estimate(x)}, ${up} ${estimate(y)}${shade}`;
  return opener(run, setting, svg("g", { class: "point" },
    svg("title", {}, `${setting.title}: ${numbers}`),
    Math.abs(label.y - top) > LABEL ? line(left, top, label.x, label.y, "leader") : null,
    svg("circle", { cx: left, cy: top, r: RADIUS, class: z ? `shade-${shades(z.value)}` : "" }),
    text(label.x, label.y + 4, name, label.anchor, "name")), numbers);
}

/**
 * Let a mark of a plot open the clips of its setting, by pointer and by key; `said` is what can be
 * seen of it.
 */
export function opener(run, setting, mark, said) {
  const open = () => openClips(run, setting.id);
  mark.setAttribute("role", "button");
  mark.setAttribute("tabindex", "0");
  mark.setAttribute("aria-label", `${setting.title}: ${said}. Open its clips`);
  mark.dataset.setting = setting.name;
  mark.addEventListener("click", open);
  mark.addEventListener("keydown", (event) => {
    if (!["Enter", " "].includes(event.key)) return;
    event.preventDefault();
    open();
  });
  return mark;
}

/** A setting beside what it is to be compared with: the one without STG of the same model. */
function openClips(run, id) {
  const setting = run.setting.get(id);
  const isPlain = (other) =>
    other.model === setting.model && !OF_STG.some((name) => other.parameters[name]);
  const base = run.settings.find((other) => isPlain(other) && other.id !== id);
  update({ view: "clips", mode: "grid", slots: slotsOf([...(base ? [base.id] : []), id]) });
}

/** Values to one of five shades; the deepest is the largest value, or `isTurned` the smallest. */
export function shading(values, isTurned = false) {
  const least = Math.min(...values), most = Math.max(...values);
  const place = (value) => (most > least ? Math.round(((value - least) / (most - least)) * 4) : 2);
  return (value) => (isTurned ? 4 - place(value) : place(value));
}

function line(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function text(x, y, content, anchor, kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

function tableOf(run, picked) {
  const chosen = [...new Set([picked.x, picked.y, picked.colour])];
  const cell = (value) => el("td", {}, value ? estimate(value) : "–");
  const rows = run.settings.map((setting) => el("tr", {},
    el("th", { scope: "row" }, setting.title,
      el("span", { class: "quiet" }, summary(run, setting))),
    chosen.map((measure) => cell(measure.values[setting.id]))));
  const heads = chosen.map((measure) => plain(measure.name));
  return table(["Setting", ...heads], rows, "In brackets: 95 % intervals, where there are five"
    + " prompts or more (or the metric brought one).");
}

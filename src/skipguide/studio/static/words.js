// Parameters and numbers of a setting in few words.

import { clamped } from "studio/clamp.js";
import { el, short } from "studio/dom.js";

const WORDS = {
  stg_scale: (value) => `s ${short(value)}`,
  spatial_scale: (value) => `spatial ${short(value)}`,
  temporal_scale: (value) => `temporal ${short(value)}`,
  guidance_scale: (value) => `g ${short(value)}`,
  layers: (value) => `layer${value.length === 1 ? "" : "s"} ${short(value)}`,
  skip: short,
  guidance: short,
  steps: (value) => `${value} steps`,
};

/** What a prompt is called: its text, or the picture that it starts from. */
export function titleOf({ text, image }) {
  return text || image;
}

/** The prompt and the seed above their videos. */
export function promptLine(run, { prompt, seed }) {
  const title = titleOf(run.prompt.get(prompt));
  return clamped(el("h1", { class: "prompt" }, title, el("small", {}, ` seed ${seed}`)),
    `above ${prompt}`);
}

/** What tells a setting from the others of the run. */
export function summary(run, setting) {
  const said = setting.parameters;
  const isOff = (name) => said[name] == null || said[name].length === 0 || (name.endsWith("_scale") && said[name] === 0);
  const names = run.varied.filter((name) => !isOff(name));
  return names.map((name) => (WORDS[name] ?? ((value) => `${plain(name)} ${short(value)}`))(said[name])).join(" · ");
}

export function plain(name) {
  return name.replaceAll("_", " ");
}

/** The name of a measure, with an arrow to where it is better. */
export function arrowed({ name, better }) {
  return plain(name) + ({ higher: " ↑", lower: " ↓" }[better] ?? "");
}

/** "higher is better" of a measure, or null. */
export function betterOf({ better }) {
  return { higher: "higher is better", lower: "lower is better" }[better] ?? null;
}

const COST = ["passes_per_step", "seconds_per_step"];

/** Numbers: {name, own, all, title} of a clip and of all videos of its setting, whichever is known. */
export function facts(run, setting, clip) {
  const own = { ...clip?.metrics, ...Object.fromEntries(COST.map((name) => [name, clip?.[name]])) };
  const ofAll = run.measures.filter((measure) => measure.values[setting.id] && (measure.kind !== "cost" || COST.includes(measure.name)));
  return ofAll.map(({ name, what, better, values }) => ({
    name: arrowed({ name, better }),
    own: own[name] == null ? "" : short(own[name]),
    all: short(values[setting.id].value),
    title: `${what}: ${estimate(values[setting.id])}, ${values[setting.id].count} videos`,
  }));
}

export function parameterRows(setting) {
  return Object.entries(setting.parameters)
    .filter(([name, value]) => value != null && value !== "" && name !== "model")
    .map(([name, value]) => [plain(name), short(value)]);
}

/** A value with its interval, where it has one. */
export function estimate(given) {
  return short(given.value) + interval(given, short);
}

/** A share with its interval, where it has one. */
export function percent(given) {
  return `${whole(given.value)} %${interval(given, whole)}`;
}

/** A share in whole percents, without their sign. */
export function whole(share) {
  return String(Math.round(share * 100));
}

function interval({ low, high }, said) {
  return low == null || high == null ? "" : ` (${said(low)} to ${said(high)})`;
}

/** What a clip is, in a word: a picture has no frames per second. */
export function nounOf(clip) {
  return clip?.fps === null && clip.status === "done" ? "picture" : "video";
}

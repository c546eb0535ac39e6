// What is chosen. It stands in the address after "#", so that a view can be kept and passed on.

import { isReport } from "studio/source.js";

export const MODES = ["grid", "wipe", "difference"];
const VIEWS = ["clips", "map", "plot", "votes", ...(isReport ? [] : ["try"])];
const KEYS = { tune: "u" }; // of views that share their first letter with another one

const listeners = new Set();
let slotNumber = 0;

export const state = {
  view: "clips",
  prompts: [], // ids of those shown
  seeds: [],
  slots: [], // {id, setting}: the columns; a slider changes the setting of a slot
  mode: "grid",
  pair: [0, 1], // places in slots, for wipe and difference
  gain: 4, // of the difference
  size: 0, // pixels of a cell where there are several rows; 0 is as many as there are settings
  details: false,
  measures: {}, // chosen axes: x, y, colour, map
  tag: null, // only rows with a clip of this tag
  tagged: new Set(), // "prompt/seed" of these rows
};

/** The views of a run; what `skipguide tune` has written goes before all others. */
export function viewsOf(run) {
  return run.tune ? ["tune", ...VIEWS] : VIEWS;
}

export function keyOf(view) {
  return KEYS[view] ?? view[0];
}

/** Called after each change, with what changed. */
export function listen(listener) {
  listeners.add(listener);
}

export function update(changes) {
  Object.assign(state, changes);
  state.pair = state.pair.map((place, i) => (place < state.slots.length ? place : Math.min(i, state.slots.length - 1)));
  history.replaceState(null, "", `#${written()}`);
  for (const listener of listeners) listener(changes);
}

export function slotsOf(settings) {
  return settings.map((setting) => ({ id: ++slotNumber, setting }));
}

export function toggleSetting(id) {
  const without = state.slots.filter((slot) => slot.setting !== id);
  const isShown = without.length < state.slots.length;
  if (isShown && without.length === 0) return;
  update({ slots: isShown ? without : [...state.slots, ...slotsOf([id])] });
}

/** Another setting in a slot; `steps` are those of the slider that chose it, and stay even at a 0 that several have. */
export function setSlot(slot, setting, steps) {
  update({ slots: state.slots.map((other) => (other.id === slot ? { ...other, setting, steps } : other)) });
}

/** The rows of the grid: prompt x seed, of a tag where one is chosen. */
export function rows() {
  const every = state.prompts.flatMap((prompt) => state.seeds.map((seed) => ({ prompt, seed })));
  if (state.tag === null) return every;
  return every.filter(({ prompt, seed }) => state.tagged.has(`${prompt}/${seed}`));
}

function written() {
  const { view, mode, prompts, seeds, slots, pair, measures, tag } = state;
  const said = { view, mode, prompts, seeds, settings: slots.map((slot) => slot.setting), pair, ...measures };
  if (tag !== null) said.tag = tag;
  return new URLSearchParams(Object.entries(said).map(([name, value]) => [name, String(value)]));
}

/** The state that an address says, as far as the run has it; the first few settings of the first prompt and seed else. */
export function start(run, hash) {
  const said = new URLSearchParams(hash.slice(1));
  const numbers = (name, known) => {
    const found = (said.get(name) ?? "").split(",").filter(Boolean).map(Number).filter((id) => known.includes(id));
    return found.length ? found : null;
  };
  const settings = numbers("settings", run.settings.map((setting) => setting.id));
  const word = (name, known, otherwise) => (known.includes(said.get(name)) ? said.get(name) : otherwise);
  Object.assign(state, {
    view: word("view", viewsOf(run), run.tune?.race || run.tune?.answer ? "tune" : "clips"),
    mode: word("mode", MODES, "grid"),
    prompts: numbers("prompts", run.prompts.map((prompt) => prompt.id)) ?? run.prompts.slice(0, 1).map((p) => p.id),
    seeds: numbers("seeds", run.seeds) ?? run.seeds.slice(0, 1),
    slots: slotsOf(settings ?? firstSettings(run)),
    tag: said.get("tag"),
    pair: numbers("pair", [...run.settings.keys()]) ?? [0, 1],
    measures: Object.fromEntries(["x", "y", "colour", "map"].flatMap((name) => (said.has(name) ? [[name, said.get(name)]] : []))),
  });
  if (state.pair.length !== 2) state.pair = [0, 1];
}

function firstSettings(run) {
  return run.settings.slice(0, 6).map((setting) => setting.id);
}

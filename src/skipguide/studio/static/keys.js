// The keys: one table, for doing and for telling.

import { button, el } from "studio/dom.js";
import { hearNext } from "studio/hearing.js";
import { exchange } from "studio/pair.js";
import { keyOf, slotsOf, state, toggleSetting, update, viewsOf } from "studio/state.js";
import { nextTheme } from "studio/theme.js";
import { fullSize, panBy, resetZoom, zoomBy } from "studio/zoom.js";

const PAN = 0.1;
// Where no clips play, these scroll the page.
const SCROLLING = new Set(["Space", "PageUp", "PageDown", "Home", "End", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]);

/** [keys, what they do, the doing]; the first key is the one that is told. */
function table({ run, transport, pair }) {
  const go = (name, order, by) => {
    const place = order.indexOf(state[name][0]) + by;
    update({ [name]: [order[(place + order.length) % order.length]] });
  };
  const prompts = run.prompts.map((prompt) => prompt.id);
  const pan = (x, y) => () => (state.mode === "wipe" && x ? pair.move(-Math.sign(x)) : panBy(x, y));
  return [
    [["Space"], "Play, pause", () => transport.toggle()],
    [["ArrowLeft", ","], "One frame back", () => transport.step(-1)],
    [["ArrowRight", "."], "One frame on", () => transport.step(1)],
    [["PageUp"], "Ten frames back", () => transport.step(-10)],
    [["PageDown"], "Ten frames on", () => transport.step(10)],
    [["Shift+PageUp"], "One window of rows up", () => scrollRows(-1)],
    [["Shift+PageDown"], "One window of rows down", () => scrollRows(1)],
    [["Home"], "First frame", () => transport.step(-Infinity)],
    [["End"], "Last frame", () => transport.step(Infinity)],
    [["["], "Slower", () => transport.faster(-1)],
    [["]"], "Faster", () => transport.faster(1)],
    [["l"], "Loop or not", () => transport.set({ loop: !transport.loop })],
    [["h"], "Hear the first video, the next one, none", () => hearNext(transport)],
    [["ArrowUp", "k"], "Prompt before", () => go("prompts", prompts, -1)],
    [["ArrowDown", "j"], "Next prompt", () => go("prompts", prompts, 1)],
    [["s"], "Next seed", () => go("seeds", run.seeds, 1)],
    [["a"], "All prompts and seeds, or one", () => everything(run)],
    [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "Show or hide a setting", (key) => run.settings[key - 1] && toggleSetting(run.settings[key - 1].id)],
    [["e"], "All settings, or the first six", () => update({ slots: slotsOf(run.settings.slice(0, state.slots.length < run.settings.length ? undefined : 6).map((s) => s.id)) })],
    [["g"], "Grid", () => update({ view: "clips", mode: "grid" })],
    [["w"], "Wipe between two", () => update({ view: "clips", mode: "wipe" })],
    [["d"], "Difference of two", () => update({ view: "clips", mode: "difference" })],
    [["x"], "Exchange the two", exchange],
    [["i"], "Numbers and parameters", () => update({ details: !state.details })],
    [["+", "="], "Larger", () => zoomBy(2)],
    [["-"], "Smaller", () => zoomBy(0.5)],
    [["0"], "All of the picture", resetZoom],
    [["f"], "Full size: a pixel of the picture is one of the screen", fullSize],
    [["Shift+ArrowLeft"], "Move the picture, or the line of a wipe", pan(PAN, 0)],
    [["Shift+ArrowRight"], "", pan(-PAN, 0)],
    [["Shift+ArrowUp"], "", pan(0, PAN)],
    [["Shift+ArrowDown"], "", pan(0, -PAN)],
    [["/"], "Find prompts", () => document.getElementById("filter")?.focus()],
    [["n"], "Light, dark, as the system", nextTheme],
    [["?"], "This list", showHelp],
    ...viewsOf(run).map((view) => [[keyOf(view)], `Go to: ${view}`, () => update({ view })]),
  ];
}

/** What is on top stays in sight at the bottom, or the other way round. */
function scrollRows(windows) {
  const root = document.getElementById("main");
  root.scrollBy({ top: windows * 0.9 * root.clientHeight });
}

function everything(run) {
  const all = state.prompts.length === run.prompts.length && state.seeds.length === run.seeds.length;
  const some = all ? 1 : undefined;
  update({ prompts: run.prompts.slice(0, some).map((prompt) => prompt.id), seeds: run.seeds.slice(0, some), mode: "grid" });
}

export function showHelp() {
  document.getElementById("help").showModal();
}

/** Listen to the keys, and write them down. `parts()` gives what they act on. */
export function listenToKeys(parts) {
  const find = (name) => table(parts()).find(([keys]) => keys.includes(name));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event) || document.querySelector("dialog[open]")) return;
    const name = event.key === " " ? "Space" : event.shiftKey && /^(Arrow|Page)/.test(event.key) ? `Shift+${event.key}` : event.key;
    const found = parts().run.settings.length > 0 && find(name); // of an empty run, no key acts
    if (!found || (state.view !== "clips" && SCROLLING.has(name))) return;
    event.preventDefault();
    found[2](name);
  });
  const rows = table(parts()).map(([keys, what]) => el("tr", {}, el("td", {}, told(keys)), el("td", {}, what)));
  const help = document.getElementById("help");
  help.replaceChildren(
    el("h2", {}, "Keys"), el("table", {}, rows),
    el("p", { class: "quiet" }, "Ctrl and the wheel (over pictures of one row the wheel alone), or a double click: larger at that place. Drag to move. Ctrl-click on a prompt or a seed: one more."),
    button("Close", () => help.close(), { key: "Esc" }),
  );
}

function told(keys) {
  const names = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
  const few = keys.length > 3 ? [keys[0], "…", keys.at(-1)] : keys;
  return few.map((key) => (key === "…" ? " … " : el("kbd", {}, key.replace(/Arrow\w+/, (name) => names[name]).replace("+", key.length > 1 ? " " : "+"))));
}

/** Keys within a field, and arrows and the space bar on what has its own use for them, are not ours. */
function isTyping(event) {
  const { target } = event;
  if (target.matches("input:not([type=range], [type=checkbox]), textarea, select")) return true;
  if (target.matches("input[type=range], [role=slider]")) return event.key.startsWith("Arrow") && target.id !== "scrub" && !target.classList.contains("divider");
  return event.key === " " && target.matches("button, input, summary, [role=button]");
}

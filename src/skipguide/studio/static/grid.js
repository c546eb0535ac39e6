// The grid: a row per prompt and seed, a column per chosen setting. Only what is near the window holds a video.

import { el, short } from "studio/dom.js";
import { Player } from "studio/player.js";
import { clipUrl } from "studio/source.js";
import { rows, setSlot, state } from "studio/state.js";
import { facts, parameterRows, summary, titleOf } from "studio/words.js";

const MARGIN = "150px"; // around the window, where videos are loaded already
const SMALLEST = 200, LEAST = 96, GAP = 14, NARROW = 8, PADDING = 32, HEADING = 60; // pixels, as in the style sheet
const MOST = 64; // videos at a time; a browser has decoders for some 75

export class Grid {
  constructor(root, run, transport) {
    Object.assign(this, { root, run, transport });
    this.cells = new Map();
    new ResizeObserver(() => this.#fit()).observe(root);
    this.onlooker = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.cell.player.seen = entry.intersectionRatio >= 0.5;
    }, { threshold: 0.5 });
    this.watcher = new IntersectionObserver((entries) => this.#moved(entries), { rootMargin: MARGIN });
  }

  /** Show what the state says; cells that stay keep their videos. */
  render() {
    const wanted = rows();
    const isOne = wanted.length === 1;
    const kept = new Set();
    const shown = wanted.map((row, i) => {
      const cells = state.slots.map((slot) => {
        const name = `${i}/${slot.id}`;
        kept.add(name);
        return this.#cell(name).show(row, slot, isOne).figure;
      });
      const heading = isOne ? null : this.#heading(row);
      return el("section", { class: "row", "aria-label": this.#title(row) }, heading, el("div", { class: "cells" }, cells));
    });
    for (const [name, cell] of this.cells) if (!kept.has(name)) this.#drop(name, cell);
    this.root.classList.toggle("one", isOne);
    this.root.replaceChildren(...(isOne ? [this.#caption(wanted[0])] : []), ...shown);
    this.#fit();
    this.transport.onchange();
  }

  clear() {
    for (const [name, cell] of this.cells) this.#drop(name, cell);
    this.root.replaceChildren();
  }

  /** Of one row, all videos as large as they can be in the window, if they are not too small then. */
  #fit() {
    const cells = [...this.cells.values()];
    if (cells.length === 0) return;
    const width = rows().length === 1 ? this.#largest(cells) : state.size || this.#abreast();
    this.root.style.setProperty("--cell", `${width}px`);
  }

  /** All settings of a row beside each other. */
  #abreast() {
    const count = state.slots.length;
    return Math.max(Math.floor((this.root.clientWidth - PADDING - (count - 1) * NARROW) / count), LEAST);
  }

  #largest(cells) {
    const { clientWidth, clientHeight } = this.root;
    const ratio = Math.min(...cells.map((cell) => cell.ratio));
    const text = Math.max(...cells.map((cell) => cell.caption.scrollHeight - (cell.numbers?.offsetHeight ?? 0)));
    const ways = cells.map((_, i) => {
      const lines = Math.ceil(cells.length / (i + 1));
      const across = (clientWidth - PADDING - i * GAP) / (i + 1);
      const down = ((clientHeight - HEADING) / lines - GAP - text) * ratio;
      return { lines, width: Math.min(across, down) };
    });
    const enough = 0.85 * Math.max(...ways.map((way) => way.width)); // fewer lines for a little less width
    const [found] = ways.filter((way) => way.width >= enough).sort((a, b) => a.lines - b.lines || b.width - a.width);
    return Math.floor(Math.min(Math.max(SMALLEST, found?.width ?? 0), clientWidth - PADDING));
  }

  #cell(name) {
    if (!this.cells.has(name)) {
      const cell = new Cell(this.run, this.transport);
      this.cells.set(name, cell);
      this.watcher.observe(cell.figure);
      this.onlooker.observe(cell.screen);
    }
    return this.cells.get(name);
  }

  #drop(name, cell) {
    this.watcher.unobserve(cell.figure);
    this.onlooker.unobserve(cell.screen);
    cell.leave();
    this.cells.delete(name);
  }

  #moved(entries) {
    const near = entries.filter((entry) => entry.isIntersecting);
    for (const entry of entries) if (!entry.isIntersecting) entry.target.cell.leave();
    let loaded = [...this.cells.values()].filter((cell) => cell.isNear).length;
    for (const entry of near) {
      if (entry.target.cell.isNear) continue;
      loaded += 1;
      entry.target.cell.enter(loaded <= MOST);
    }
  }

  #title(row) {
    return `${titleOf(this.run.prompt.get(row.prompt))}, seed ${row.seed}`;
  }

  #caption(row) {
    return el("h1", { class: "prompt" }, titleOf(this.run.prompt.get(row.prompt)), el("small", {}, ` seed ${row.seed}`));
  }

  #heading(row) {
    return el("h2", {}, titleOf(this.run.prompt.get(row.prompt)), el("small", {}, ` seed ${row.seed}`));
  }
}

/** One place of the grid. */
class Cell {
  constructor(run, transport) {
    Object.assign(this, { run, transport, isNear: false, clip: null });
    this.number = el("output", { class: "frame", title: "The frame on the screen" });
    this.note = el("p", { class: "note" });
    this.pan = el("div", { class: "pan" });
    this.screen = el("div", { class: "screen" }, this.pan, this.note);
    this.caption = el("figcaption");
    this.figure = el("figure", { class: "cell" }, this.screen, this.caption);
    this.figure.cell = this;
    this.screen.cell = this;
    this.player = new Player(this.pan);
    this.player.onframe = (frame) => {
      this.number.textContent = frame + 1;
      this.figure.dataset.frame = frame;
      if (!transport.playing) transport.onchange();
    };
    this.player.onerror = (reason) => this.#say(`The video cannot be played. ${reason}`);
  }

  show(row, slot, isOne) {
    const setting = this.run.setting.get(slot.setting);
    this.clip = this.run.clipAt(row.prompt, row.seed, slot.setting) ?? null;
    this.figure.dataset.setting = setting.name;
    this.ratio = this.clip?.width ? this.clip.width / this.clip.height : 1;
    this.screen.style.aspectRatio = this.ratio;
    this.caption.replaceChildren(...this.#caption(setting, slot, isOne));
    this.#load();
    return this;
  }

  enter(isAllowed) {
    this.isNear = isAllowed;
    if (isAllowed) this.#load();
    else this.#say("Too many videos in the window: make them larger.");
  }

  leave() {
    this.isNear = false;
    this.transport.remove(this.player);
    this.player.unload();
  }

  #load() {
    if (!this.isNear) return;
    const isDone = this.clip?.status === "done";
    this.#say(isDone ? "" : reason(this.clip));
    if (!isDone) {
      this.transport.remove(this.player);
      this.player.unload();
      return;
    }
    this.transport.add(this.player);
    this.player.load({ url: clipUrl(this.clip), frames: this.clip.frames, fps: this.clip.fps }, this.transport.frame);
  }

  #say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  #caption(setting, slot, isOne) {
    const place = this.run.settings.indexOf(setting);
    const hint = place < 9 ? el("kbd", {}, place + 1) : null;
    const title = el("div", { class: "title" }, hint, el("b", {}, setting.title), this.number);
    if (!isOne) return [title];
    return [title, el("div", { class: "quiet" }, summary(this.run, setting)), ...sliders(this.run, setting, slot), ...this.#details(setting)];
  }

  #details(setting) {
    this.numbers = null;
    if (!state.details) return [];
    const numbers = facts(this.run, setting, this.clip);
    const head = el("thead", {}, el("tr", {}, ["", "this", "all"].map((name) => el("th", { scope: "col" }, name))));
    const rows = numbers.map(({ name, own, all, title }) =>
      el("tr", { title }, el("th", { scope: "row" }, name), el("td", {}, own), el("td", {}, all)));
    const parameters = [["model", setting.model], ...parameterRows(setting)].map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
    const more = el("details", { ".open": Cell.opened, on: { toggle: () => { Cell.opened = more.open; } } },
      el("summary", {}, "All parameters"), el("table", {}, parameters));
    this.numbers = el("div", {}, el("table", {}, head, el("tbody", {}, rows)), more);
    return [this.numbers];
  }
}

Cell.opened = false; // one for all cells, so that rows stay comparable

function reason(clip) {
  if (!clip) return "Not in the plan.";
  if (clip.status === "failed") return `Failed: ${clip.error ?? "no reason is known"}`;
  return clip.status === "running" ? "Being made." : "Not made yet.";
}

/** A slider for each scale that varies alone: its stops are the settings that exist. */
export function sliders(run, setting, slot) {
  const shown = { ...slot.steps, ...setting.sliders };
  return Object.entries(shown).map(([name, steps]) => {
    const place = steps.findIndex(([, id]) => id === setting.id);
    const slider = el("input", {
      type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": `${run.labels[name]} of ${setting.title}`,
      "aria-valuetext": short(steps[place][0]), "data-slot": slot.id, "data-scale": name,
      on: { input: () => setSlot(slot.id, steps[Number(slider.value)][1], { [name]: steps }) },
    });
    slider.value = place;
    const stops = steps.map(([value], i) => el("span", { class: i === place ? "here" : "" }, short(value)));
    return el("label", { class: "slider" }, run.labels[name], el("span", { class: "track" }, slider, el("span", { class: "stops" }, stops)));
  });
}

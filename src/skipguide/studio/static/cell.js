// One place of the grid: a video, what it is, and its numbers.

import { isOutside, mark, noteOf } from "studio/annotations.js";
import { button, el, short } from "studio/dom.js";
import { speaker } from "studio/hearing.js";
import { Player } from "studio/player.js";
import { ask, isReport, playable } from "studio/source.js";
import { setSlot, state } from "studio/state.js";
import { facts, nounOf, parameterRows, summary } from "studio/words.js";

export class Cell {
  constructor(run, transport, loader) {
    Object.assign(this, { run, transport, loader, isNear: false, clip: null });
    this.number = el("output", { class: "frame", title: "The frame on the screen" });
    this.note = el("p", { class: "note" });
    this.pan = el("div", { class: "pan" });
    this.screen = el("div", { class: "screen" }, this.pan, this.note);
    this.caption = el("figcaption");
    this.figure = el("figure", { class: "cell" }, this.screen, this.caption);
    this.figure.cell = this;
    this.player = new Player(this.pan);
    this.player.onframe = (frame) => {
      this.number.textContent = frame + 1;
      this.figure.dataset.frame = frame;
      if (!transport.playing) transport.onchange();
    };
    this.player.onerror = (reason) => this.#broken(reason);
    const hear = (isHeard) => transport.hear(isHeard ? this.player : null);
    this.speaker = speaker(this.player, "this video", hear);
  }

  show(row, slot, isOne) {
    const setting = this.run.setting.get(slot.setting);
    this.clip = this.run.clipAt(row.prompt, row.seed, slot.setting) ?? null;
    this.figure.dataset.setting = setting.name;
    this.figure.classList.toggle("untagged", isOutside(this.clip));
    this.ratio = this.clip?.width ? this.clip.width / this.clip.height : 1;
    this.screen.style.aspectRatio = this.ratio;
    this.caption.replaceChildren(...this.#caption(setting, slot, isOne));
    if (!this.isDone) this.#say(reason(this.clip));
    else if (!this.player.clip) this.#say("");
    if (this.isNear) this.loader.ask(this);
    return this;
  }

  get isDone() {
    return this.clip?.status === "done";
  }

  /** It is near the window: its video is loaded when its turn comes. */
  enter() {
    this.isNear = true;
    this.loader.ask(this);
  }

  leave() {
    this.isNear = false;
    this.player.seen = false;
    this.#unload();
  }

  /** Its turn. */
  load() {
    if (!this.isDone) {
      this.#unload();
      return;
    }
    this.#say("");
    this.transport.add(this.player);
    this.player.load(playable(this.clip), this.transport.frame);
  }

  /** There are as many videos as a browser can play. */
  refuse() {
    this.#unload();
    if (this.isDone) this.#say("Too many videos in the window: make them larger.");
  }

  #unload() {
    this.loader.forget(this);
    this.transport.remove(this.player);
    this.player.unload();
    this.number.textContent = "";
    delete this.figure.dataset.frame;
  }

  async #broken(why) {
    const { clip } = this;
    this.number.textContent = "";
    delete this.figure.dataset.frame;
    const isAway = !isReport && await ask("GET", "/api/counts").then(() => false, (error) => error.isPassing);
    if (clip !== this.clip || !this.player.failed) return;
    const again = () => { this.player.unload(); this.load(); };
    const told = isAway ? ["The studio does not answer."]
      : [`The ${nounOf(clip)} cannot be shown.`, el("span", { class: "why" }, why, adviceOn(why, clip))];
    this.#say(...told, button("Try again", again));
  }

  #say(...parts) {
    this.note.replaceChildren(...parts.filter(Boolean));
    this.note.hidden = this.note.childNodes.length === 0;
  }

  #caption(setting, slot, isOne) {
    const place = this.run.settings.indexOf(setting);
    const hint = place < 9 ? el("kbd", {}, place + 1) : null;
    const title = el("div", { class: "title" }, hint, el("b", {}, setting.title),
      mark(this.run, this.clip, setting), this.clip?.sound ? this.speaker : null, this.number);
    if (!isOne) return [title];
    return [
      title, el("div", { class: "quiet" }, summary(this.run, setting)), noteOf(this.clip),
      ...sliders(this.run, setting, slot), ...this.#details(setting),
    ].filter(Boolean);
  }

  #details(setting) {
    this.numbers = null;
    if (!state.details) return [];
    const numbers = facts(this.run, setting, this.clip);
    const heads = ["", "this", "all"].map((name) => el("th", { scope: "col" }, name));
    const head = el("thead", {}, el("tr", {}, heads));
    const rows = numbers.map(({ name, own, all, title }) => el("tr", { title },
      el("th", { scope: "row" }, name), el("td", {}, own), el("td", {}, all)));
    const parameters = [["model", setting.model], ...parameterRows(setting)].map(([name, value]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
    const more = el("details",
      { ".open": Cell.opened, on: { toggle: () => { Cell.opened = more.open; } } },
      el("summary", {}, "All parameters"), el("table", {}, parameters));
    this.numbers = el("div", {}, el("table", {}, head, el("tbody", {}, rows)), more);
    return [this.numbers];
  }
}

const H264 = 'video/mp4; codecs="avc1.42E01E"';

/** What to do about a clip that a browser does not show. */
function adviceOn(why, clip) {
  if (clip.fps !== null && !document.createElement("video").canPlayType(H264)) {
    return " This browser has no H.264: use Chrome, Edge, Firefox or Safari.";
  }
  if (isReport) return " Is the folder “clips” beside this page? Keep them together.";
  return why.includes("404") ? " It is not in the run any more: sweep the plan again." : "";
}

Cell.opened = false; // one for all cells, so that rows stay comparable

/** Why there is no video, and what to do about it. */
function reason(clip) {
  if (!clip) return "Not in the plan.";
  if (clip.status === "failed") return `Failed: ${clip.error ?? "no reason is known"}`;
  return clip.status === "running" ? "Being made." : "Not made yet.";
}

/** A slider for each scale that varies alone: its stops are the settings that exist. */
function sliders(run, setting, slot) {
  const shown = { ...slot.steps, ...setting.sliders };
  return Object.entries(shown).map(([name, steps]) => {
    const place = steps.findIndex(([, id]) => id === setting.id);
    const slider = el("input", {
      type: "range", min: 0, max: steps.length - 1, step: 1,
      "aria-label": `${run.labels[name]} of ${setting.title}`,
      "aria-valuetext": short(steps[place][0]), "data-slot": slot.id, "data-scale": name,
      on: { input: () => setSlot(slot.id, steps[Number(slider.value)][1], { [name]: steps }) },
    });
    slider.value = place;
    const stops = steps.map(([value], i) =>
      el("span", { class: i === place ? "here" : "" }, short(value)));
    return el("label", { class: "slider" }, run.labels[name],
      el("span", { class: "track" }, slider, el("span", { class: "stops" }, stops)));
  });
}

// Two videos upon each other: one on each side of a line (wipe), or the difference of their pixels.

import { measureClamped } from "studio/clamp.js";
import { button, choice, el, followPointer } from "studio/dom.js";
import { speaker } from "studio/hearing.js";
import { Player } from "studio/player.js";
import { playable } from "studio/source.js";
import { rows, state, update } from "studio/state.js";
import { promptLine, summary } from "studio/words.js";

const GAINS = [1, 2, 4, 8, 16];
const STEP = 0.05; // of the line, per key

export class Pair {
  constructor(root, run, transport) {
    Object.assign(this, { root, run, transport, line: 0.5 });
    this.layers = ["first", "second"].map((name) => el("div", { class: `pan ${name}` }));
    this.players = this.layers.map((layer) => new Player(layer));
    this.speakers = this.players.map((player, i) => speaker(player, ["the left video", "the right video"][i],
      (isHeard) => transport.hear(isHeard ? player : null)));
    this.divider = el("div", {
      class: "divider", role: "slider", tabindex: 0, "aria-label": "Line between the two", "aria-valuemin": 0,
      "aria-valuemax": 100, on: { pointerdown: (event) => this.#grab(event) },
    });
    this.upper = el("div", { class: "upper" }, this.layers[1]);
    this.stage = el("div", { class: "screen stage" }, el("div", { class: "lower" }, this.layers[0]), this.upper, this.divider);
    this.note = el("p", { class: "note" });
    for (const player of this.players) {
      player.onerror = (reason) => this.#say(`One of the videos cannot be played. ${reason}`);
    }
  }

  render() {
    const row = rows()[0];
    const clips = state.pair.map((place) => this.run.clipAt(row.prompt, row.seed, state.slots[place]?.setting));
    this.speakers.forEach((node, i) => { node.hidden = !clips[i]?.sound; });
    const ready = clips.every((clip) => clip?.status === "done");
    this.#say(ready ? "" : "Both videos must be made to be compared. Choose two others.");
    if (ready) {
      clips.forEach((clip, i) => {
        const player = this.players[i];
        this.transport.add(player);
        player.onframe = () => { this.stage.dataset.frames = this.players.map((one) => one.frame).join(","); };
        player.load(playable(clip), this.transport.frame);
      });
      this.stage.style.setProperty("--ratio", clips[0].width / clips[0].height);
    }
    this.stage.dataset.mode = state.mode;
    this.stage.style.setProperty("--gain", state.gain);
    this.divider.hidden = state.mode !== "wipe";
    this.#place(this.line);
    this.root.replaceChildren(
      promptLine(this.run, row), this.#captions(), this.stage, this.note);
    measureClamped(this.root);
    this.transport.onchange();
  }

  clear() {
    for (const player of this.players) {
      this.transport.remove(player);
      player.unload();
    }
    this.root.replaceChildren();
  }

  /** Move the line by keys. */
  move(direction) {
    this.#place(this.line + direction * STEP);
  }

  #say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  #captions() {
    const options = state.slots.map((slot, place) => [place, this.run.setting.get(slot.setting).title]);
    const pick = (side, label) => el("div", {},
      choice(label, options, state.pair[side], (value) => {
        const pair = [...state.pair];
        pair[side] = Number(value);
        update({ pair });
      }, { "aria-label": `${label} video` }), this.speakers[side],
      el("span", { class: "quiet" }, summary(this.run, this.run.setting.get(state.slots[state.pair[side]].setting))));
    const gain = choice("times", GAINS.map((value) => [value, value]), state.gain, (value) => update({ gain: Number(value) }));
    const swap = button("Exchange", exchange, { key: "x" });
    return el("div", { class: "pair-captions" }, pick(0, "Left"), state.mode === "difference" ? gain : swap, pick(1, "Right"));
  }

  #place(line) {
    this.line = Math.min(Math.max(line, 0), 1);
    this.stage.style.setProperty("--line", `${this.line * 100}%`);
    this.divider.setAttribute("aria-valuenow", Math.round(this.line * 100));
  }

  #grab(event) {
    event.preventDefault();
    const box = this.stage.getBoundingClientRect();
    followPointer((next) => this.#place((next.clientX - box.left) / box.width));
  }
}

export function exchange() {
  update({ pair: [...state.pair].reverse() });
}

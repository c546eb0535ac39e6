// One task on the screen: its videos or pictures, large as they can be, and under the thumb what to answer.

import { Answers } from "studio/answers.js";
import { button, el } from "studio/dom.js";
import { hearNext, speaker } from "studio/hearing.js";
import { doingOnPictures, zooms } from "studio/looking.js";
import { Player } from "studio/player.js";
import { away, isBack, pause } from "studio/reach.js";
import { ask } from "studio/source.js";
import { isStill } from "studio/still.js";
import { Transport } from "studio/transport.js";
import { resetZoom, zoomable } from "studio/zoom.js";

const ENOUGH = 0.9; // of the frames of each video, before an answer can be given
const GAP = 8; // pixels between two videos, as in the style sheet
const NAMES = ["A", "B"];
const LOOK = 1000; // milliseconds that pictures are looked at, before an answer can be given
const PATIENCE = 4000; // milliseconds, until a browser that loads nothing is offered a click
let isHearing = false; // whether this rater wants sound, in the tasks to come too
const tries = new Map(); // of videos that did not play; a browser keeps what it has of an address

export class TaskView {
  /** @param tell {seen, send, skip, back, name, leave}: what the page does, and knows */
  constructor(root, found, task, tell) {
    Object.assign(this, { root, found, task, tell, since: null });
    this.isPair = task.videos.length === 2;
    this.isStill = task.videos.every(({ url }) => isStill(url));
    this.noun = this.isStill ? "picture" : "video";
    this.isOpen = tell.seen.has(task.id);
    this.isWaiting = false;
    this.transport = new Transport();
    this.transport.together = true;
    this.transport.onchange = () => this.#changed();
    this.transport.onend = () => this.#takeTurns();
    this.transport.onblocked = () => this.#offerStart(true);
    this.screens = task.videos.map((video, i) => this.#screen(video, this.isPair ? NAMES[i] : ""));
    this.#build();
    this.watcher = new ResizeObserver(() => this.#fit());
    this.watcher.observe(this.stage);
    resetZoom();
    zoomable(this.stage);
    this.#gate();
    root.querySelector("h1").focus({ preventScroll: true }); // who listens hears the next prompt
    this.patience = setTimeout(() => this.#offerStart(!this.#isThere), PATIENCE);
    this.transport.play();
  }

  close() {
    this.watcher.disconnect();
    clearTimeout(this.patience);
    clearTimeout(this.look);
    resetZoom();
    this.transport.playing = false;
    for (const { player } of this.screens) {
      this.transport.remove(player);
      player.unload();
    }
  }

  /** No answer while one is on its way. */
  wait(isWaiting = true) {
    this.isWaiting = isWaiting;
    this.#gate();
  }

  /** What a key does here; nothing that a button could not do now. */
  doingOf({ key, shiftKey }) {
    if (this.isStill) return doingOnPictures(key, shiftKey) ?? this.answers.doingOf(key);
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (shiftKey && key in steps) return () => this.transport.step(steps[key]);
    if (key === "h" && this.hasSound) return () => this.#hearNext();
    return key === " " ? () => this.transport.toggle() : this.answers.doingOf(key);
  }

  // --- what is on the screen --------------------------------------------------------------------

  #build() {
    const { total, left } = this.found;
    const done = total - left;
    this.place = el("output", { class: "number quiet" });
    const toggle = () => { this.#offerStart(false); this.transport.toggle(); };
    this.toggle = button("Play", toggle, { class: "play", key: "space" });
    this.start = button("▶", () => this.#begin(), {
      class: "start", "aria-label": "Play the videos", hidden: true,
    });
    this.told = el("p", { class: "told", role: "status" });
    this.root.classList.toggle("of-one", !this.isPair);
    const figures = this.screens.map(({ figure }) => figure);
    this.stage = el("div", { class: "stage-of-two" }, figures, this.start);
    this.answers = new Answers(this.found.questions, this.isPair, (given) => this.#send(given));
    const step = (sign, by, label, title) =>
      button(sign, () => this.transport.step(by), { "aria-label": label, title });
    const back = { key: "Backspace", class: "back", title: "To the task before" };
    this.root.replaceChildren(
      el("p", { class: "progress-line" },
        el("progress", { max: total, value: done, "aria-label": "Answered" }),
        el("span", { class: "count" }, `${done} of ${total}`),
        button(this.tell.name, this.tell.leave, { class: "who", title: "Vote as somebody else" })),
      el("h1", { class: "prompt", tabindex: -1 }, this.task.prompt),
      this.stage,
      el("div", { class: "playback" }, this.isStill ? zooms() : [this.toggle,
        step("‹", -1, "One frame back", "Shift ←"), step("›", 1, "One frame on", "Shift →")],
        this.told, this.place,
        this.tell.back ? button("Back", this.tell.back, back) : null),
      this.answers.root);
  }

  #screen(video, label) {
    const pan = el("div", { class: "pan" });
    const player = new Player(pan);
    const note = el("p", { class: "note" }, "Loading …");
    const hear = (isHeard) => this.#hear(isHeard ? player : null);
    const ear = video.sound ? speaker(player, label ? `video ${label}` : "the video", hear) : null;
    const seen = el("progress", {
      class: "seen", max: 1, value: 0, hidden: this.isStill, "aria-label": `Played of video ${label}`,
    });
    const letter = label ? el("b", { class: "letter" }, label) : null;
    const frame = el("div", { class: "screen" }, pan, note, letter, ear, seen);
    const screen = { player, note, seen, label, figure: el("figure", {}, frame) };
    player.load(addressed(video), 0);
    this.transport.add(player);
    const joined = player.onjoin;
    player.onjoin = () => { note.hidden = true; joined(); this.#listen(); };
    player.onframe = () => this.#shown(screen);
    player.onerror = (reason) => this.#failed(screen, video, reason);
    return screen;
  }

  // --- what is heard ----------------------------------------------------------------------------

  get hasSound() {
    return this.task.videos.some((video) => video.sound);
  }

  #hear(player) {
    isHearing = player !== null;
    this.transport.hear(player);
  }

  #hearNext() {
    hearNext(this.transport);
    isHearing = this.transport.heard !== null;
  }

  /** Who wanted sound in the task before wants it here. */
  #listen() {
    if (isHearing && this.transport.heard === null && this.#isThere) this.#hearNext();
  }

  /** Each time that they begin again, the other one is heard. */
  #takeTurns() {
    if (this.transport.heard === null) return;
    const others = this.screens.filter(({ player }) => player.clip?.sound && !player.isHeard);
    if (others.length) this.transport.hear(others[0].player);
  }

  /** Side by side or one below the other, whichever shows more. */
  #fit() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const count = this.screens.length;
    const [{ width: w, height: h }] = this.task.videos;
    const ratio = w && h ? w / h : 1;
    const across = Math.min((width - (count - 1) * GAP) / count, height * ratio);
    const down = Math.min(width, ((height - (count - 1) * GAP) / count) * ratio);
    this.stage.classList.toggle("stacked", down > across);
    this.stage.style.setProperty("--cell", `${Math.floor(Math.max(across, down))}px`);
    this.stage.style.setProperty("--ratio", ratio);
  }

  #changed() {
    const { playing, frame, frames } = this.transport;
    this.toggle.firstChild.data = playing ? "Pause" : "Play";
    this.place.textContent = this.#isThere && !this.isStill ? `${frame + 1} / ${frames}` : "";
    if (this.#isThere && playing) this.#offerStart(false);
  }

  get #isThere() {
    return this.screens.every(({ player }) => player.joined);
  }

  /** A large button, where the browser plays or loads nothing before it is pressed. */
  #offerStart(isNeeded) {
    this.start.hidden = !isNeeded || this.screens.some(({ player }) => player.failed);
  }

  #begin() {
    this.#offerStart(false);
    if (this.transport.playing) for (const { player } of this.screens) player.begin();
    else this.transport.toggle();
  }

  #shown({ player, seen }) {
    seen.value = Math.min(player.share / ENOUGH, 1);
    if (this.screens.every((screen) => screen.player.joined)) this.since ??= performance.now();
    if (this.isOpen || this.screens.some((screen) => screen.player.share < ENOUGH)) return;
    if (this.isStill) this.look = setTimeout(() => this.#admit(), LOOK);
    else this.#admit();
  }

  #admit() {
    this.isOpen = true;
    this.tell.seen.add(this.task.id);
    this.#gate();
  }

  // --- a video that does not play ---------------------------------------------------------------

  /** The reason is asked for: a video does not tell a missing file from a missing server. */
  async #failed(screen, video, reason) {
    this.#gate();
    tries.set(video.url, (tries.get(video.url) ?? 0) + 1);
    for (;;) {
      try {
        await ask("HEAD", video.url);
        break;
      } catch (error) {
        if (!this.#isHere(screen)) return isBack();
        if (!error.isPassing) {
          const isGone = error.status === 404;
          const why = isGone ? "It is not in the run any more." : error.message;
          return this.#tellFailed(screen, video, why);
        }
        away(`${error.message} The videos are loaded again when it is back.`);
        screen.wasAway = true;
        await pause(1);
      }
    }
    isBack();
    if (!this.#isHere(screen)) return undefined;
    if (screen.wasAway) return this.#reload(screen, video);
    return this.#tellFailed(screen, video, `This browser cannot play it. ${reason}`);
  }

  #isHere(screen) {
    return screen.figure.isConnected && screen.player.failed;
  }

  #reload(screen, video) {
    screen.wasAway = false;
    screen.note.textContent = "Loading …";
    screen.player.load(addressed(video), 0);
    this.#gate();
    this.transport.play();
  }

  #tellFailed(screen, video, reason) {
    screen.note.hidden = false;
    screen.note.textContent = `The ${this.noun} cannot be shown. ${reason}`;
    screen.again = () => this.#reload(screen, video);
    const again = () => {
      this.answers.ask();
      for (const { player, again: load } of this.screens) if (player.failed) load?.();
    };
    const name = `The ${this.noun}${screen.label ? ` ${screen.label}` : ""}`;
    this.answers.tell(`${name} cannot be shown, so there is nothing to judge here.`,
      button("Try again", again, { id: "again" }),
      button("Leave it out", this.tell.skip, { class: "action", id: "skip" }));
    return undefined;
  }

  // --- what is asked ----------------------------------------------------------------------------

  /**
   * Answers are open when both videos were on the screen to their ends, or both pictures for a
   * moment, and none is on its way.
   */
  #gate() {
    const isBroken = this.screens.some(({ player }) => player.failed);
    const isOpen = this.isOpen && !this.isWaiting && !isBroken;
    this.answers.open(isOpen);
    const what = this.isPair ? "both" : "it";
    const first = this.isStill ? `Look at ${what} first.` : `Watch ${what} to the end first.`;
    const words = isOpen || isBroken ? "" : first;
    this.told.textContent = this.isWaiting ? "Saving …" : words;
    this.place.hidden = !isOpen;
  }

  #send(answers) {
    const seconds = Math.min((performance.now() - (this.since ?? performance.now())) / 1000, 86400);
    this.tell.send(answers, seconds);
  }
}

function addressed(video) {
  const number = tries.get(video.url);
  return number ? { ...video, url: `${video.url}?${number}` } : video;
}

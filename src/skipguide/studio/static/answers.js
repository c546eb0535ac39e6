// What is asked about a task: which of two, or five numbers. Nothing can be answered before it is
// open, neither by pointer nor by key.

import { button, el } from "studio/dom.js";

const SIDES = { left: "A is better", tie: "No difference", right: "B is better" };
const KEYS = { left: "←", tie: "↓", right: "→" };
const SIDE_OF_KEY = {
  ArrowLeft: "left", a: "left", ArrowDown: "tie", ArrowRight: "right", b: "right",
};

export class Answers {
  /** @param questions {name: [title, text]}; `send` gets {name: answer} when all are answered */
  constructor(questions, isPair, send) {
    Object.assign(this, { questions, isPair, send, given: {}, isOpen: false });
    this.current = Object.keys(questions)[0];
    this.root = el("section", { class: "answers" });
    this.ask();
  }

  ask() {
    this.root.replaceChildren(...(this.isPair ? this.#sides() : this.#scales()));
    this.open(this.isOpen);
  }

  open(isOpen) {
    this.isOpen = isOpen;
    for (const answer of this.root.querySelectorAll(".answer")) answer.disabled = !isOpen;
    const goOn = this.root.querySelector("#go-on");
    if (goOn) goOn.disabled = !isOpen || this.#unanswered() !== undefined;
  }

  /** Say something in the place of the questions. */
  tell(text, ...buttons) {
    this.root.replaceChildren(
      el("p", { class: "failure" }, text), el("div", { class: "row-of-answers" }, buttons));
  }

  /** What a key does; nothing that a button could not do now. */
  doingOf(key) {
    const press = (id) => () => this.root.querySelector(`#${id}`)?.click();
    if (this.isPair) return SIDE_OF_KEY[key] ? press(SIDE_OF_KEY[key]) : null;
    if (key === "Enter") return press("go-on");
    return /^[1-5]$/.test(key) ? () => this.#rate(this.#unanswered(), key) : null;
  }

  #sides() {
    const [question, [, text]] = Object.entries(this.questions)[0];
    const pick = (side) => () => this.send({ [question]: side });
    return [el("h2", {}, text), el("div", { class: "row-of-answers" },
      Object.entries(SIDES).map(([side, words]) =>
        button(words, pick(side), { key: KEYS[side], class: "action answer", id: side })))];
  }

  #scales() {
    const entries = Object.entries(this.questions);
    const sets = entries.map(([name, [title, text]]) => el("fieldset", { "data-question": name },
      el("legend", {}, el("b", {}, title), " ", el("span", { class: "quiet" }, text)),
      el("div", { class: "row-of-answers" }, [1, 2, 3, 4, 5].map((value) =>
        button(String(value), () => this.#rate(name, value),
          { pressed: false, "data-value": value, class: "answer" })))));
    const steps = entries.map(([name, [title]], i) =>
      button(String(i + 1), () => this.#turnTo(name),
        { class: "step", "aria-label": `Question ${i + 1}: ${title}`, "data-step": name }));
    const goOn = button("Go on", () => this.#finish(),
      { key: "Enter", class: "action", id: "go-on", disabled: true });
    const hint = el("p", { class: "quiet hint" }, "1 is bad, 5 is good. ",
      el("span", { class: "of-keys" }, "Keys 1 to 5 answer the first question that is open."));
    const below = el("div", { class: "steps" }, el("span", { class: "of-steps" }, steps), goOn);
    queueMicrotask(() => this.#turnTo(this.current));
    return [hint, ...sets, below];
  }

  /** On a phone there is one question at a time. */
  #turnTo(name) {
    this.current = name;
    for (const set of this.root.querySelectorAll("fieldset")) {
      set.classList.toggle("current", set.dataset.question === name);
      for (const choice of set.querySelectorAll("button")) {
        const isGiven = choice.dataset.value === this.given[set.dataset.question];
        choice.setAttribute("aria-pressed", String(isGiven));
      }
    }
    for (const step of this.root.querySelectorAll(".step")) {
      step.setAttribute("aria-current", step.dataset.step === name ? "step" : "false");
      step.classList.toggle("answered", step.dataset.step in this.given);
    }
  }

  #rate(name, value) {
    if (name === undefined || !this.isOpen) return;
    this.given[name] = String(value);
    this.#turnTo(this.#unanswered() ?? name);
    this.open(this.isOpen);
  }

  #unanswered() {
    return Object.keys(this.questions).find((name) => !(name in this.given));
  }

  #finish() {
    if (this.isOpen && this.#unanswered() === undefined) this.send(this.given);
  }
}

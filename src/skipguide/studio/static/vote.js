// The blind test: one task after the other, by pointer or by key. Every answer is in the ledger before the next comes.

import { button, el, say } from "studio/dom.js";
import { Player } from "studio/player.js";
import { ask } from "studio/source.js";
import { applyTheme } from "studio/theme.js";
import { Transport } from "studio/transport.js";

const RATER = "skipguide-rater";
const root = document.getElementById("main");
const said = new URLSearchParams(location.hash.slice(1));
const test = { kind: said.get("kind") ?? "pair", settings: (said.get("settings") ?? "").split(",").filter(Boolean).map(Number) };
const transport = new Transport();
let rater, task, before = null, answers = {}, since = 0, busy = false;

applyTheme();
welcome();

function welcome() {
  const name = el("input", { type: "text", id: "rater", maxlength: 40, required: true, autocomplete: "off", ".value": localStorage.getItem(RATER) ?? "" });
  const begin = (event) => {
    event.preventDefault();
    rater = name.value.trim();
    localStorage.setItem(RATER, rater);
    if (rater) next();
  };
  root.replaceChildren(el("form", { class: "panel", on: { submit: begin } },
    el("h1", {}, test.kind === "pair" ? "Which video is better?" : "How good is this video?"),
    el("p", {}, test.kind === "pair"
      ? "You see two videos of one text at a time, in random order, and say which is better."
      : "You see one video at a time, in random order, and answer five questions on it."),
    el("p", {}, "You can close the page at any time and go on later under the same name."),
    el("label", {}, "Your name ", name), el("button", { type: "submit", class: "action" }, "Begin ", el("kbd", {}, "Enter"))));
  name.focus();
}

async function next() {
  try {
    const found = await ask("POST", "/api/study/next", { rater, ...test });
    if (found.task) show(found, found.task);
    else root.replaceChildren(el("section", { class: "panel", id: "finished" }, el("h1", {}, "That was all. Thank you!"), el("p", {}, `${found.total} of ${found.total}`)));
  } catch (error) {
    say(error.message, 3600);
  }
}

function show(found, current) {
  for (const player of transport.players) { transport.remove(player); player.unload(); }
  task = { found, current };
  answers = {};
  since = performance.now();
  const screens = current.videos.map((video, i) => screen(video, current.videos.length === 1 ? "" : ["Left", "Right"][i]));
  const place = el("output", { class: "number quiet" });
  transport.onchange = () => { place.textContent = `${transport.frame + 1} / ${transport.frames}`; };
  root.replaceChildren(
    el("p", { class: "quiet progress-line" }, el("progress", { max: found.total, value: found.total - found.left, "aria-label": "Done" }), ` ${found.total - found.left} of ${found.total}`),
    el("h1", { class: "prompt", tabindex: -1 }, current.prompt),
    el("div", { class: "screens" }, screens),
    el("p", { class: "choices" }, button("Play, pause", () => transport.toggle(), { key: "space" }), button("‹", () => transport.step(-1), { title: "←  with Shift" }), button("›", () => transport.step(1)), place),
    test.kind === "pair" ? sides(found) : scales(found),
    el("p", {}, before ? button("Back to the one before", back, { key: "Backspace" }) : null));
  root.querySelector("h1").focus(); // what had the focus is gone: whoever listens hears the next prompt
  transport.position = 0.5;
  transport.playing = false;
  transport.play();
}

function screen(video, label) {
  const pan = el("div", { class: "pan" });
  const player = new Player(pan);
  player.load(video, 0);
  transport.add(player);
  const frame = el("div", { class: "screen" }, pan);
  frame.style.setProperty("--ratio", video.width / video.height);
  return el("figure", {}, frame, el("figcaption", {}, label));
}

function sides(found) {
  const [question, [, text]] = Object.entries(found.questions)[0];
  const pick = (answer) => () => send({ [question]: answer });
  return el("section", { class: "answers" }, el("h2", {}, text), el("div", { class: "choices" },
    button("The left one", pick("left"), { key: "←", class: "action", id: "left" }),
    button("No difference", pick("tie"), { key: "↓", class: "action", id: "tie" }),
    button("The right one", pick("right"), { key: "→", class: "action", id: "right" })));
}

function scales(found) {
  const questions = Object.entries(found.questions).map(([name, [title, text]]) => el("fieldset", { "data-question": name },
    el("legend", {}, el("b", {}, title), " ", el("span", { class: "quiet" }, text)),
    el("div", { class: "chips" }, [1, 2, 3, 4, 5].map((value) => button(String(value), () => rate(name, value), { pressed: false, "data-value": value }))),
  ));
  return el("section", { class: "answers" }, el("p", { class: "quiet" }, "1 is bad, 5 is good. Keys 1 to 5 answer the first question that is open; Enter goes on."), questions,
    button("Go on", () => finish(), { key: "Enter", class: "action", id: "go-on", disabled: true }));
}

function rate(name, value) {
  answers[name] = String(value);
  for (const choice of root.querySelectorAll(`[data-question="${name}"] button`)) choice.setAttribute("aria-pressed", String(choice.dataset.value === String(value)));
  document.getElementById("go-on").disabled = openQuestion() !== undefined;
}

function openQuestion() {
  return Object.keys(task.found.questions).find((name) => !(name in answers));
}

function finish() {
  if (openQuestion() === undefined) send(answers);
}

async function send(given) {
  if (busy) return; // one answer per task, however often a key repeats
  busy = true;
  try {
    const seconds = Math.min((performance.now() - since) / 1000, 86400);
    await ask("POST", "/api/study/answer", { rater, task: task.current.id, answers: given, seconds });
    before = task;
    await next();
  } catch (error) {
    say(error.message);
  } finally {
    busy = false;
  }
}

function back() {
  if (!before) return;
  const { found, current } = before;
  before = null;
  show(found, current);
}

document.addEventListener("keydown", (event) => {
  if (!task || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const { key, shiftKey } = event;
  if ((key === "Enter" || key === " ") && event.target.closest("button, a, input, select")) return; // that is pressed
  const isPair = test.kind === "pair";
  const doing = {
    " ": () => transport.toggle(), Backspace: back,
    ArrowLeft: () => (shiftKey ? transport.step(-1) : isPair && document.getElementById("left")?.click()),
    ArrowRight: () => (shiftKey ? transport.step(1) : isPair && document.getElementById("right")?.click()),
    ArrowDown: () => isPair && document.getElementById("tie")?.click(),
    Enter: () => !isPair && finish(),
  }[key] ?? (!isPair && /^[1-5]$/.test(key) && (() => openQuestion() && rate(openQuestion(), key)));
  if (!doing) return;
  event.preventDefault();
  doing();
});

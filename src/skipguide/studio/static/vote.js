// The blind test: one task after the other. An answer is kept in this browser until it is in the
// ledger, and only then the next task comes.

import { button, el, hush, say } from "studio/dom.js";
import {
  forget, keepAnswer, keepRater, knownRaters, newKey, raterHere, unsent,
} from "studio/kept.js";
import { insist } from "studio/reach.js";
import { TaskView } from "studio/task.js";
import { applyTheme } from "studio/theme.js";

const root = document.getElementById("main");
const said = new URLSearchParams(location.hash.slice(1));
const test = {
  kind: said.get("kind") === "rating" ? "rating" : "pair",
  settings: (said.get("settings") ?? "").split(",").filter(Boolean).map(Number),
};
const isWhole = ["pair", "rating"].includes(said.get("kind")) && test.settings.length > 0
  && test.settings.every((id) => Number.isSafeInteger(id) && id > 0);
const isPair = test.kind === "pair";
const KEPT = "Your answer is kept here, and sent when it is back.";
const skipped = new Set(); // tasks whose videos do not play here
const seen = new Set(); // tasks whose videos were played once
let rater = null, run = "", view = null, before = null, busy = false;

applyTheme();
document.title = isPair ? "Which video is better?" : "How good is this video?";
addEventListener("hashchange", () => location.reload()); // another test
const here = raterHere();
if (!isWhole) broken("It does not say which videos the test is of.");
else if (here) begin(here);
else welcome();

// --- who votes ----------------------------------------------------------------------------------

function welcome(asked = "") {
  leave();
  before = null; // what another rater may have seen is not theirs
  skipped.clear();
  seen.clear();
  const known = asked ? [] : knownRaters();
  const key = newKey(); // one for the form, however often it is sent
  const name = el("input", {
    type: "text", id: "rater", maxlength: 40, required: true, autocomplete: "off",
    autocapitalize: "words", enterkeyhint: "go", ".value": asked,
  });
  const start = (event) => {
    event.preventDefault();
    if (name.value.trim()) begin({ name: name.value.trim(), key });
  };
  const again = known.map((one) =>
    button(`Go on as ${one.name}`, () => begin(one), { class: "action" }));
  root.replaceChildren(el("form", { class: "panel welcome", on: { submit: start } },
    el("h1", {}, document.title),
    el("p", {}, isPair
      ? "You see two videos of one text at a time, A and B, and say which is better."
      : "You see one video at a time, and answer five questions on it."),
    el("p", { class: "quiet" }, "You can close the page at any time, and go on later."),
    known.length ? el("div", { class: "known" }, again) : null,
    el("label", {}, known.length ? "Somebody else? Your name" : "Your name", name),
    el("button", { type: "submit", class: known.length ? "" : "action" },
      "Begin ", el("kbd", {}, "Enter"))));
  (again[0] ?? name).focus();
}

/** A link that opens no test: no name is asked for, and none is kept. */
function broken(why) {
  leave();
  document.title = "This link opens no test";
  root.replaceChildren(el("section", { class: "panel welcome", id: "broken" },
    el("h1", { tabindex: -1 }, document.title),
    el("p", {}, why),
    el("p", {}, "Ask whoever sent it for the whole link.")));
  root.querySelector("h1").focus();
}

/** Take a name; where it is taken, ask whether the two are one person. */
function begin(who, isSame = false) {
  if (busy) return;
  guarded(async () => {
    const body = { rater: who.name, key: who.key, same: isSame, ...test };
    const found = await fitting(insist("POST", "/api/study/begin", body));
    if (!found) return undefined;
    if (found.status === "taken") return ask(who, found);
    rater = { name: found.rater, key: who.key };
    run = found.run;
    keepRater(rater);
    return sendAndGoOn();
  });
}

/** What is answered; nothing where the link fits no test, which is told. */
async function fitting(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error.status !== 404) throw error;
    broken(error.message[0].toUpperCase() + error.message.slice(1));
    return null;
  }
}

function ask(who, { rater: name, votes, free }) {
  const other = { name: free, key: who.key };
  const answers = votes ? `${votes} answer${votes === 1 ? " is" : "s are"} given under it. ` : "";
  root.replaceChildren(el("section", { class: "panel welcome", id: "name-taken" },
    el("h1", { tabindex: -1 }, `${name} is taken`),
    el("p", {}, `Somebody has begun under this name. ${answers}Was that you, in another browser?`),
    el("div", { class: "known" },
      button(`Yes, go on as ${name}`, () => begin({ ...who, name }, true),
        { class: "action", id: "same" }),
      button(`No, begin as ${free}`, () => begin(other), { class: "action", id: "other" }),
      button("Choose another name", () => welcome(who.name)))));
  root.querySelector("h1").focus();
}

// --- tasks --------------------------------------------------------------------------------------

async function next() {
  const asked = { ...identity(), ...test, skipped: [...skipped].slice(-1000) };
  const found = await insist("POST", "/api/study/next", asked);
  if (found.task) show(found, found.task);
  else finished(found);
}

function identity() {
  return { rater: rater.name, key: rater.key };
}

function show(found, task) {
  leave();
  hush();
  view = new TaskView(root, found, task, {
    seen, send, skip, back: before ? back : null, name: rater.name,
    leave: () => { if (!busy) welcome(); },
  });
}

function leave() {
  view?.close();
  view = null;
}

function finished({ total, left, skipped: passed }) {
  leave();
  hush();
  const again = () => { skipped.clear(); if (!busy) guarded(next); };
  const were = passed === 1 ? "was" : "were";
  const open = `${passed} of them ${were} left out, because a video did not play.`;
  root.replaceChildren(el("section", { class: "panel welcome", id: "finished" },
    el("h1", { tabindex: -1 }, "That was all. Thank you!"),
    el("p", {}, `${total - left} of ${total} answered.`),
    passed ? el("p", {}, open) : null,
    el("div", { class: "known" },
      passed ? button("Try these again", again, { class: "action" }) : null,
      before ? button("Back to the one before", back, { key: "Backspace" }) : null)));
  root.querySelector("h1").focus();
}

async function send(answers, seconds) {
  if (busy) return; // one answer per task, however often a key repeats
  const { found, task } = view;
  keepAnswer(run, { ...identity(), task: task.id, answers, seconds });
  before = { found, task };
  await guarded(async () => {
    view.wait();
    await sendAndGoOn();
  });
}

/** Send what is kept, then show the next task; what can never be taken is told and forgotten. */
async function sendAndGoOn() {
  let refused = "";
  for (const { body } of unsent(run)) {
    if (body.rater !== rater.name) continue; // it waits for its rater
    try {
      await insist("POST", "/api/study/answer", { ...body, ...identity() }, KEPT);
    } catch (error) {
      if (![400, 409, 422].includes(error.status)) throw error;
      refused = `An answer could not be taken: ${error.message}`;
    }
    forget(run, body.task);
  }
  await next();
  if (refused) say(refused, 20);
}

async function guarded(doing) {
  busy = true;
  try {
    await doing();
  } catch (error) {
    say(error.message, 3600);
    view?.wait(false);
  } finally {
    busy = false;
  }
}

function skip() {
  if (busy) return;
  skipped.add(view.task.id);
  guarded(next);
}

function back() {
  if (!before || busy) return;
  const { found, task } = before;
  before = null;
  skipped.delete(task.id);
  show(found, task);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input")) return;
  const presses = event.key === "Enter" || event.key === " ";
  if (presses && event.target.closest("button, a")) return; // that is pressed
  const doing = event.key === "Backspace" && before ? back : view?.doingOf(event);
  if (!doing) return;
  event.preventDefault();
  doing();
});

// The blind test: one task after the other. An answer is kept in this browser until it is in the
// ledger, and only then the next task comes.

import { consentPanel } from "studio/consent.js";
import { button, confirmed, el, hush, say } from "studio/dom.js";
import {
  forget, hasAgreed, keepAgreed, keepAnswer, keepRater, knownRaters, newKey, raterHere, unsent,
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
const KEPT = "Your answer is kept here, and sent when it is back.";
const skipped = new Set(); // tasks whose videos do not play here
const seen = new Set(); // tasks whose videos were played once
let about = { study: null, needs_codes: false, what: "video" }; // what the server says of the test
let isPair = test.kind === "pair";
let rater = null, run = "", view = null, before = null, busy = false;

applyTheme();
addEventListener("hashchange", () => location.reload()); // another test
guarded(open);

/** Ask which test this is. A study is the server's; else the link says it. */
async function open() {
  about = await insist("GET", "/api/study");
  if (!isWhole && about.study) isPair = about.study.kind === "pair";
  document.title = isPair ? `Which ${about.what} is better?` : `How good is this ${about.what}?`;
  if (!isWhole && !about.study) return broken("It does not say which videos the test is of.");
  const consent = about.study?.consent;
  return consent && !hasAgreed(consent.sha256) ? askConsent(consent) : enter();
}

function enter() {
  const here = raterHere();
  if (here) setTimeout(() => begin(here)); // when what has asked is done
  else welcome();
}

/** Before a name is asked for, so that nothing is known of who does not agree. */
function askConsent(consent) {
  leave();
  const agree = () => { keepAgreed(consent.sha256); enter(); };
  const refuse = () => {
    root.replaceChildren(el("section", { class: "panel welcome", id: "refused" },
      el("h1", { tabindex: -1 }, "Then nothing is asked of you"),
      el("p", {}, "Nothing is kept. You can close this page."),
      button("Back to the text", () => askConsent(consent))));
    root.querySelector("h1").focus();
  };
  root.replaceChildren(consentPanel(consent, { agree, refuse }));
}

function testBody() {
  return isWhole ? test : {};
}

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
  const again = known.map((one) => [
    button(`Go on as ${one.name}`, () => begin(one), { class: "action" }),
    one.code && about.needs_codes ? codeLine(one) : null]);
  root.replaceChildren(el("form", { class: "panel welcome", on: { submit: start } },
    el("h1", {}, document.title),
    el("p", {}, isPair
      ? `You see two ${about.what}s of one text at a time, A and B, and say which is better.`
      : `You see one ${about.what} at a time, and answer some questions on it.`),
    about.study ? el("p", {}, `There are ${about.study.tasks} of them.`) : null,
    el("p", { class: "quiet" }, "You can close the page at any time, and go on later."),
    known.length ? el("div", { class: "known" }, again) : null,
    el("label", {}, known.length ? "Somebody else? Your name" : "Your name", name),
    el("button", { type: "submit", class: known.length ? "" : "action" },
      "Begin ", el("kbd", {}, "Enter"))));
  (again[0]?.[0] ?? name).focus();
}

function codeLine({ name, code }) {
  return el("p", { class: "quiet code" }, `To go on as ${name} in another browser: the code `,
    el("b", {}, code), ".");
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
function begin(who, isSame = false, code = "") {
  if (busy) return;
  guarded(async () => {
    const consent = about.study?.consent?.sha256 ?? null;
    const body = { rater: who.name, key: who.key, same: isSame, code, consent, ...testBody() };
    const found = await fitting(insist("POST", "/api/study/begin", body));
    if (!found) return undefined;
    if (found.status === "taken") return ask(who, found);
    rater = { name: found.rater, key: who.key, code: found.code };
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
  if (about.needs_codes) return askCode(who, name, other);
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

/** Raters do not know each other: a name alone proves nothing. */
function askCode(who, name, other) {
  const code = el("input", {
    type: "text", id: "code", maxlength: 20, autocomplete: "off", autocapitalize: "characters",
    enterkeyhint: "go",
  });
  const start = (event) => {
    event.preventDefault();
    if (code.value.trim()) begin({ ...who, name }, true, code.value.trim());
  };
  root.replaceChildren(el("form", { class: "panel welcome", id: "name-taken", on: { submit: start } },
    el("h1", { tabindex: -1 }, `${name} is taken`),
    el("p", {}, "If that was you in another browser, it has a code: press your name there."),
    el("label", {}, `The code of ${name}`, code),
    el("div", { class: "known" },
      el("button", { type: "submit", id: "same" }, `Go on as ${name}`),
      button(`Begin as ${other.name}`, () => begin(other), { class: "action", id: "other" }),
      button("Choose another name", () => welcome(who.name)))));
  root.querySelector("h1").focus();
}

// --- tasks --------------------------------------------------------------------------------------

async function next() {
  const asked = { ...identity(), ...testBody(), skipped: [...skipped].slice(-1000) };
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
  const open = `${passed} of them ${were} left out, because one did not play.`;
  root.replaceChildren(el("section", { class: "panel welcome", id: "finished" },
    el("h1", { tabindex: -1 }, "That was all. Thank you!"),
    el("p", {}, `${total - left} of ${total} answered.`),
    passed ? el("p", {}, open) : el("p", { class: "quiet" }, "You can close this page."),
    rater.code ? codeLine(rater) : null,
    el("div", { class: "known" },
      passed ? button("Try these again", again, { class: "action" }) : null,
      before ? button("Back to the one before", back, { key: "Backspace" }) : null,
      button("Ask for the removal of my answers", askRemoval, { class: "plain", id: "ask-removal" }))));
  root.querySelector("h1").focus();
}

async function askRemoval() {
  const question = `Ask whoever holds this test to remove all answers of ${rater.name}?`;
  if (busy || !await confirmed(question, "Ask for it")) return;
  guarded(async () => {
    await insist("POST", "/api/study/remove", identity());
    say("It is asked for. The answers are removed by whoever holds the test.", 20);
  });
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
    if (error.status === 428) return location.reload(); // there is another text of consent
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

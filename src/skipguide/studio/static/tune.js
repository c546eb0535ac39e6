// A run of `skipguide tune`: its answer or what goes on, how far it is, the race, and the map of
// the layers.

import { button, el, say, sentence, short } from "studio/dom.js";
import { raceSection } from "studio/race.js";
import { mapSection } from "studio/scanmap.js";
import { slotsOf, update } from "studio/state.js";

let drawn = null; // what is on the page

/** @param isAgain only the run is new: what is on the page stays where tune has written nothing */
export function renderTune(root, run, isAgain) {
  const { tune } = run;
  const isSame = drawn?.tune === tune && drawn.settings === run.settings.length;
  if (isAgain && isSame && root.querySelector(".tune")) return;
  drawn = { tune, settings: run.settings.length };
  const map = el("section", { id: "scan-map" });
  root.replaceChildren(el("div", { class: "tune" },
    tune.problems.map((problem) => el("p", { class: "problem", role: "alert" }, problem)),
    tune.race || tune.answer ? head(run, tune) : null,
    tune.race ? progress(tune) : null,
    tune.race ? raceSection(run, tune) : null,
    map));
  mapSection(map, tune);
}

// --- the answer, or what goes on ----------------------------------------------------------------

const VERDICTS = {
  use: "Use it", "not distinguishable": "Not distinguishable", "use CFG alone": "Use CFG alone",
  "not measured": "Not measured",
};

function head(run, { race, answer, votes }) {
  if (answer) return answerPanel(answer, run, race);
  if (race.waiting) return waitingPanel(race, votes);
  const now = race.stages.find(({ name }) => name === race.stage);
  const what = now ? `${titled(now.name)}. ${now.what ?? ""}` : "It begins.";
  const stopped = "No video is being made at this moment. If the command has ended, start the same"
    + " one again: it goes on from here.";
  return el("section", { class: "panel answer", id: "tune-head" },
    el("h2", {}, run.sweeping ? "Under way" : "Not finished"),
    el("p", { class: "first" }, sentence(what)),
    run.sweeping ? null : el("p", { class: "quiet" }, stopped));
}

function answerPanel(answer, run, race) {
  const [first, ...others] = answer.sentences ?? [];
  return el("section", { class: "panel answer", id: "tune-head", "data-verdict": answer.verdict },
    el("h2", {}, "The answer ",
      el("span", { class: "verdict" }, VERDICTS[answer.verdict] ?? answer.verdict)),
    el("p", { class: "first" }, sentence(first ?? "")),
    others.map((text) => el("p", {}, sentence(text))),
    answer.command ? line(answer.command) : null,
    answer.verdict === "not measured" ? sideBySide(run, race) : null,
    el("p", { class: "quiet" }, "Strips of both, and how it was measured: ",
      el("code", {}, "report.html"), " in the folder of the run."));
}

/** What was sampled without a metric is there to be looked at: all of it, on all its prompts. */
function sideBySide(run, race) {
  const names = new Set((race?.candidates ?? []).map(({ name }) => name));
  const ids = run.settings.filter(({ name }) => names.has(name)).map(({ id }) => id);
  const whole = run.prompts.map(({ id }) => id).filter((prompt) =>
    ids.every((id) => run.seeds.some((seed) => run.clipAt(prompt, seed, id)?.status === "done")));
  if (ids.length < 2 || whole.length === 0) return null;
  const open = () => update({ view: "clips", mode: "grid", slots: slotsOf(ids), prompts: whole });
  return el("p", { class: "choices" },
    button("Look at them side by side", open, { class: "action" }));
}

/** The line to type, with a button that copies it. */
function line(command) {
  const written = el("code", { class: "line", id: "tune-line", tabindex: 0 }, command);
  const copy = async () => {
    getSelection()?.selectAllChildren(written); // for browsers without a clipboard, off https
    await navigator.clipboard?.writeText(command).then(() => say("Copied."), () => {});
  };
  return el("div", { class: "line-to-type" }, written, button("Copy the line", copy));
}

function waitingPanel(race, votes) {
  const open = button("Ask raters", () => update({ view: "votes" }), { class: "action" });
  return el("section", { class: "panel answer", id: "tune-head" },
    el("h2", {}, "Waiting for votes"),
    votes ? votes.sentences.map((text, i) => el("p", i ? {} : { class: "first" }, text)) : null,
    el("p", {}, sentence(race.waiting)),
    votes && !votes.over ? el("p", { class: "choices" }, open) : null);
}

// --- how far it is ------------------------------------------------------------------------------

function progress({ race, map }) {
  const at = race.stages.findIndex(({ name }) => name === race.stage);
  const here = race.stage === "done" ? race.stages.length : at;
  const items = race.stages.map((stage, i) => stageItem(stage, i - here));
  const more = [["The plan", race.plan], ["Notes", race.notes]].filter(([, said]) => said?.length);
  return el("section", { id: "tune-stages" }, el("h2", {}, "How far it is"),
    el("ol", { class: "stages" }, items),
    el("p", { class: "quiet" }, budget(race.budget ?? {}, map?.forwards)),
    more.map(([title, said]) => el("details", { open: title === "The plan" && !race.rounds },
      el("summary", {}, title), el("ul", {}, said.map((text) => el("li", {}, sentence(text)))))));
}

/** @param from how many places after the stage that goes on */
function stageItem({ name, done, of, what }, from) {
  const when = from < 0 ? "past" : from > 0 ? "coming" : "now";
  const share = when === "past" ? 1 : of ? Math.min(done / of, 1) : 0;
  const counted = of == null ? (done ? `${done} so far` : "") : `${done} of ${of}`;
  const said = { past: counted || "done", now: counted || "begins", coming: "to come" }[when];
  return el("li", { class: when, "aria-current": when === "now" ? "step" : null, title: what },
    el("b", {}, titled(name)),
    el("progress", { max: 1, value: share, "aria-label": `${name}: ${said}` }),
    el("span", { class: "quiet number" }, said));
}

/** @param weak forward passes of the scan's weak ones, which runs of before did not count as used */
function budget({ passes_used: used, passes, seconds_used: spent, seconds, scan_passes: scan }, weak) {
  const of = (limit, said) => (limit == null ? "" : ` of ${said(limit)}`);
  const parts = [];
  const whole = (value) => Math.round(value).toLocaleString("en");
  if (used != null) parts.push(`${whole(used)}${of(passes, whole)} forward passes`);
  if (spent != null) parts.push(`${minutes(spent)}${of(seconds, minutes)} of sampling`);
  const counted = scan ? ` ${whole(scan)} of the passes are the scan's own.` : "";
  const beside = scan == null && weak ? ` The scan's weak passes, ${whole(weak)}, are not in it.`
    : counted;
  return parts.length ? `Used so far: ${parts.join(", ")}.${beside}` : "";
}

function minutes(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${short(seconds / 3600)} h`;
}

function titled(name) {
  return name[0].toUpperCase() + name.slice(1);
}

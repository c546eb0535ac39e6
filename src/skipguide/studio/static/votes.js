// What the raters said, and the way to a new test.

import { button, choice, el, say, short } from "studio/dom.js";
import { isReport } from "studio/source.js";
import { state } from "studio/state.js";
import { estimate } from "studio/words.js";

let kind = "pair";

export function renderVotes(root, run) {
  const { pair, rating } = run.votes;
  root.replaceChildren(...[
    isReport || !run.votes_allowed ? null : invitation(run),
    pair.votes + rating.votes === 0 ? el("p", { class: "empty" }, "Nobody has voted yet.") : null,
    pair.votes ? pairs(run, pair) : null,
    rating.votes ? ratings(run, rating) : null,
  ].filter(Boolean));
}

function invitation(run) {
  const ids = [...new Set(state.slots.map((slot) => slot.setting))];
  const names = ids.map((id) => run.setting.get(id).title).join(", ");
  const token = run.token_for_raters ? `?${new URLSearchParams({ token: run.token_for_raters })}` : "";
  const link = () => new URL(`vote${token}#${new URLSearchParams({ kind, settings: ids.join(",") })}`, location.href).href;
  const start = el("a", { href: link(), target: "_blank", class: "action", id: "start-test" }, "Open the test");
  const written = el("input", { type: "text", readonly: true, class: "link", id: "test-link", "aria-label": "The link for raters", ".value": link(), on: { focus: () => written.select() } });
  const copy = async () => { // browsers have a clipboard on https and on this machine only: else the link is marked for Ctrl-C
    written.select();
    await navigator.clipboard?.writeText(written.value).then(() => say("Copied."), () => {});
  };
  const kinds = [["pair", "which of two is better"], ["rating", "five questions on one video, 1 to 5"]];
  return el("section", { class: "panel" },
    el("h2", {}, "A blind test"),
    el("p", {}, `Of the settings that are chosen on the left: ${names}. Names are hidden, order and sides are random for each rater. Give the link to every rater; each can stop and go on at any time.`),
    el("p", { class: "choices" },
      choice("Ask", kinds, kind, (value) => { kind = value; start.href = written.value = link(); }, { id: "kind" }), start),
    el("p", { class: "choices" }, written, button("Copy the link", copy)),
    token ? el("p", { class: "quiet" }, "It opens this test and nothing else of the studio.") : null);
}

function pairs(run, found) {
  const order = Object.keys(found.strengths).sort((a, b) => found.strengths[b].value - found.strengths[a].value);
  const rows = order.map((id) => el("tr", {},
    el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    el("td", {}, percent(found.win_rates[id])), el("td", {}, bar(found.win_rates[id], 0, 1)),
    el("td", {}, estimate(found.strengths[id])), el("td", {}, found.strengths[id].count)));
  return el("section", {}, el("h2", {}, "Which is better"),
    table(["Setting", "Wins", "", "Bradley-Terry strength", "Comparisons"], rows,
      "A tie is half a win. Strengths are log odds with mean 0, each with one added tie against 0. In brackets: 95 %, bootstrap over prompts, from five prompts on."),
    el("p", { class: "quiet" }, found.left === null ? "" : `What was on the left won ${Math.round(found.left * 100)} % of the decided comparisons.`),
    agreement(found));
}

function ratings(run, found) {
  const questions = Object.keys(found.means);
  const ids = [...new Set(questions.flatMap((question) => Object.keys(found.means[question])))];
  const rows = ids.map((id) => el("tr", {}, el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    questions.map((question) => el("td", {}, found.means[question][id] ? estimate(found.means[question][id]) : "–"))));
  const heads = questions.map((question) => run.questions.rating[question]?.[0] ?? question);
  return el("section", {}, el("h2", {}, "Ratings, 1 to 5"), table(["Setting", ...heads], rows, "Means; in brackets 95 %, bootstrap over prompts."), agreement(found));
}

function agreement({ raters, agreement: { alpha, kappa }, votes }) {
  const people = Object.entries(raters).map(([name, count]) => `${name} (${count})`).join(", ");
  const alphas = Object.entries(alpha).filter(([, value]) => value !== null).map(([question, value]) => `${question} ${short(value)}`);
  const kappas = kappa.filter((entry) => entry.kappa !== null).map((entry) => `${entry.raters.join(" and ")} ${short(entry.kappa)} (${entry.count})`);
  return el("ul", { class: "quiet" },
    el("li", {}, `${votes} votes of ${people}.`),
    el("li", {}, alphas.length ? `Krippendorff's alpha (1 is full agreement, 0 is chance): ${alphas.join(", ")}.` : "Agreement needs two raters who judged the same."),
    kappas.length ? el("li", {}, `Cohen's kappa: ${kappas.join(", ")}.`) : null);
}

function table(heads, rows, caption) {
  return el("table", { class: "numbers" }, el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows), el("caption", {}, caption));
}

function percent({ value, low, high }) {
  const whole = (part) => `${Math.round(part * 100)}`;
  return low === null ? `${whole(value)} %` : `${whole(value)} % (${whole(low)} to ${whole(high)})`;
}

/** A point with its interval on a line, half marked. */
function bar({ value, low, high }, from, to) {
  const at = (number) => `${((number - from) / (to - from)) * 100}%`;
  const line = el("span", { class: "bar", "aria-hidden": "true" }, el("i"), el("b"));
  line.style.setProperty("--low", at(low ?? value));
  line.style.setProperty("--high", at(high ?? value));
  line.style.setProperty("--value", at(value));
  return line;
}

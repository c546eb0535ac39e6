// What the raters said.

import { el, short } from "studio/dom.js";
import { invitation } from "studio/invitation.js";
import { raters } from "studio/raters.js";
import { isReport } from "studio/source.js";
import { table } from "studio/table.js";
import { estimate } from "studio/words.js";

/** @param isAgain only the numbers are new: what a person has in hand above them stays */
export function renderVotes(root, run, reload, isAgain) {
  const shown = isAgain ? root.querySelector("#results") : null;
  if (shown) return shown.replaceChildren(...results(run, reload));
  return root.replaceChildren(...[
    isReport || !run.votes_allowed ? null : invitation(run),
    el("div", { id: "results" }, results(run, reload)),
  ].filter(Boolean));
}

function results(run, reload) {
  const { pair, rating } = run.votes;
  const none = el("p", { class: "empty" }, isReport ? "Nobody has voted."
    : "Nobody has voted yet. Votes appear here as they are given.");
  return [
    pair.votes + rating.votes === 0 ? none : null,
    pair.votes ? pairs(run, pair) : null,
    rating.votes ? ratings(run, rating) : null,
    run.raters.length ? raters(run, reload) : null,
  ].filter(Boolean);
}

// --- what they said -----------------------------------------------------------------------------

function pairs(run, found) {
  const strength = (id) => found.strengths[id].value;
  const order = Object.keys(found.strengths).sort((a, b) => strength(b) - strength(a));
  const rows = order.map((id) => el("tr", {},
    el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    el("td", {}, percent(found.win_rates[id])),
    el("td", { class: "wide" }, bar(found.win_rates[id], 0, 1)),
    el("td", {}, estimate(found.strengths[id])), el("td", {}, found.strengths[id].count)));
  const each = [...Object.values(found.win_rates), ...Object.values(found.strengths)];
  return el("section", {}, el("h2", {}, "Which is better"),
    table(["Setting", "Wins", ["", "wide"], "Bradley-Terry strength", "Comparisons"], rows,
      "A tie is half a win. Strengths are log odds with mean 0, each with one added tie against 0. "
      + intervals(each)),
    el("p", { class: "quiet" }, found.left === null ? ""
      : `What was shown first, on the left or above, won ${Math.round(found.left * 100)} % of the`
        + " decided comparisons."),
    agreement(found));
}

/** What is in brackets, and why there may be nothing. */
function intervals(estimates) {
  const without = estimates.filter(({ low, high }) => low == null || high == null);
  const reasons = [...new Set(without.map(({ reason }) => reason).filter(Boolean))];
  const why = reasons.length ? reasons.join("; ") : "too few prompts were judged";
  if (without.length === estimates.length) return `There are no intervals: ${why}.`;
  const but = without.length ? ` Where there is none: ${why}.` : "";
  return `In brackets: 95 % intervals over prompts.${but}`;
}

function ratings(run, found) {
  const questions = Object.keys(found.means);
  const ids = [...new Set(questions.flatMap((question) => Object.keys(found.means[question])))];
  const cell = (mean) => el("td", {}, mean ? estimate(mean) : "–");
  const rows = ids.map((id) => el("tr", {},
    el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    questions.map((question) => cell(found.means[question][id]))));
  const heads = questions.map((question) => run.questions.rating[question]?.[0] ?? question);
  const each = questions.flatMap((question) => Object.values(found.means[question]));
  return el("section", {}, el("h2", {}, "Ratings, 1 to 5"),
    table(["Setting", ...heads], rows, `Means. ${intervals(each)}`), agreement(found));
}

function agreement({ raters: counts, agreement: { alpha, kappa }, votes }) {
  const people = Object.entries(counts).map(([name, count]) => `${name} (${count})`).join(", ");
  const alphas = Object.entries(alpha).filter(([, value]) => value !== null)
    .map(([question, value]) => `${question} ${short(value)}`);
  const kappas = kappa.filter((entry) => entry.kappa !== null)
    .map((entry) => `${entry.raters.join(" and ")} ${short(entry.kappa)} (${entry.count})`);
  return el("ul", { class: "quiet" },
    el("li", {}, `${votes} votes of ${people}.`),
    el("li", {}, alphas.length
      ? `Krippendorff's alpha (1 is full agreement, 0 is chance): ${alphas.join(", ")}.`
      : "Agreement needs two raters who judged the same."),
    kappas.length ? el("li", {}, `Cohen's kappa: ${kappas.join(", ")}.`) : null);
}

function percent({ value, low, high }) {
  const whole = (part) => `${Math.round(part * 100)}`;
  const interval = low == null || high == null ? "" : ` (${whole(low)} to ${whole(high)})`;
  return `${whole(value)} %${interval}`;
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

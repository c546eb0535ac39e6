// What the raters said.

import { agreement } from "studio/agreement.js";
import { el } from "studio/dom.js";
import { empty } from "studio/empty.js";
import { invitation } from "studio/invitation.js";
import { matrix } from "studio/matrix.js";
import { bothNumbers, raters } from "studio/raters.js";
import { isReport } from "studio/source.js";
import { table } from "studio/table.js";
import { estimate, percent } from "studio/words.js";

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
  return [
    pair.votes + rating.votes === 0 && !run.votes.with_all ? nobody(run) : null,
    ...(pair.votes ? pairs(run, pair) : []),
    ...(rating.votes ? ratings(run, rating) : []),
    run.votes.with_all ? bothNumbers(run) : null,
    run.raters.length || run.removed?.length ? raters(run, reload) : null,
  ].filter(Boolean);
}

function nobody(run) {
  if (isReport) {
    return empty("Nobody had voted when this report was written.",
      "Votes are given in the studio: `skipguide studio RUN`. Then write the report again.");
  }
  if (!run.votes_allowed) {
    return empty("Nobody has voted, and nobody can here.",
      "The run cannot be written by whoever started this studio. Ask its owner for the right to"
      + " write, or open the studio on a copy of the run.");
  }
  return empty("Nobody has voted yet.", run.counts.done === 0
    ? "There is no finished video to judge. As soon as there are two of one prompt and seed, the"
      + " test above can begin."
    : "Open the test above, or give its link to others. Wins, ratings and how far raters agree"
      + " appear here while they vote.");
}

// --- what they said -----------------------------------------------------------------------------

function pairs(run, found) {
  const strength = (id) => found.strengths[id].value;
  const order = Object.keys(found.strengths).sort((a, b) => strength(b) - strength(a));
  const rows = order.map((id) => el("tr", {},
    el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    el("td", {}, percent(found.win_rates[id])),
    el("td", { class: "wide" }, bar(found.win_rates[id])),
    el("td", {}, estimate(found.strengths[id])), el("td", {}, found.strengths[id].count)));
  const each = [...Object.values(found.win_rates), ...Object.values(found.strengths)];
  const heads = ["Setting", "Wins", ["", "wide"], "Bradley-Terry strength", "Pairs"];
  return [
    el("section", { id: "wins" }, el("h2", {}, "Which is better"),
      table(heads, rows, "A tie is half a win. Strengths are log odds with mean 0, each with one"
        + ` added tie against 0. ${intervals(each)}`)),
    matrix(run, found, order.map(Number)),
    agreement(found, "comparisons"),
  ];
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
  return [
    el("section", {}, el("h2", {}, "Ratings, 1 to 5"),
      table(["Setting", ...heads], rows, `Means. ${intervals(each)}`)),
    agreement(found, "ratings"),
  ];
}

/** A share as a point with its interval on a line, half marked. */
function bar({ value, low, high }) {
  const at = (share) => `${share * 100}%`;
  const line = el("span", { class: "bar", "aria-hidden": "true" }, el("i"), el("b"));
  line.style.setProperty("--low", at(low ?? value));
  line.style.setProperty("--high", at(high ?? value));
  line.style.setProperty("--value", at(value));
  return line;
}

// Who votes: what each rater has judged and how attentively, and what can be done with their votes.

import { button, confirmed, el, say, short } from "studio/dom.js";
import { ask, isReport } from "studio/source.js";
import { table } from "studio/table.js";
import { estimate, percent } from "studio/words.js";

export function raters(run, reload) {
  const doing = async (method, path, body) => {
    try {
      await ask(method, path, body);
      await reload();
    } catch (error) {
      say(error.message);
    }
  };
  const remove = async ({ rater, votes }) => {
    const what = votes === 1 ? "one vote" : `all ${votes} votes`;
    const question = `Remove ${rater} and ${what}? They are kept aside, and can be brought back.`;
    if (!await confirmed(question, "Remove")) return;
    await doing("DELETE", `/api/raters?${new URLSearchParams({ name: rater })}`);
  };
  const bring = (rater) => doing("POST", "/api/raters/restore", { name: rater });
  const files = isReport ? null : el("p", { class: "choices" },
    el("a", { href: "/votes.csv", download: "votes.csv" }, "All votes as CSV"),
    el("a", { href: "/votes.json", download: "votes.json" }, "as JSON"));
  const [counted, others] = [false, true].map((isOut) =>
    run.raters.filter((row) => row.left_out === isOut));
  return el("section", { id: "raters" }, el("h2", {}, "Raters"),
    counted.length ? ratersTable(run, counted, remove) : null,
    others.length ? el("h3", {}, "Left out, for their attention checks") : null,
    others.length ? ratersTable(run, others, remove) : null,
    files, isReport ? null : removed(run, bring));
}

function ratersTable(run, rows, remove) {
  const hasChecks = rows.some((row) => row.checks);
  const hasChanges = rows.some((row) => row.changes);
  const canRemove = !isReport && run.votes_allowed;
  const lines = rows.map((row) => el("tr", { "data-rater": row.rater },
    el("th", { scope: "row" }, row.rater, row.asks_for_removal
      ? el("small", { class: "asks" }, " asks to be removed") : null),
    el("td", {}, row.pairs), el("td", {}, row.ratings),
    el("td", {}, row.median_seconds == null ? "–" : `${short(row.median_seconds)} s`),
    hasChecks ? el("td", {}, row.checks ? `${row.checks_passed} of ${row.checks}` : "–") : null,
    hasChanges ? el("td", {}, row.changes) : null,
    el("td", { class: "wide" }, row.newest ? when(row.newest) : "–"),
    canRemove ? el("td", {},
      button("Remove", () => remove(row), { "aria-label": `Remove ${row.rater}` })) : null));
  const heads = ["Rater", "Pairs", "Rated videos", "Median time",
    ...(hasChecks ? ["Checks as expected"] : []), ...(hasChanges ? ["Changed"] : []),
    ["Newest vote", "wide"]];
  return table(heads, lines, "Median time: of an answer, from the first picture on.");
}

/** Who was removed, and can be brought back. */
function removed(run, bring) {
  const kept = (run.removed ?? []).filter((row) => row.can_be_restored);
  if (!kept.length) return null;
  return el("p", { class: "choices", id: "removed" }, "Removed: ", kept.map((row) =>
    button(`Bring back ${row.rater} (${row.votes} votes)`, () => bring(row.rater))));
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString();
}

// --- with and without who is left out -----------------------------------------------------------

/** The numbers with and without the raters who failed the attention checks. */
export function bothNumbers(run) {
  const { with_all: all, pair, rating } = run.votes;
  const out = run.raters.filter((row) => row.left_out).map((row) => row.rater).join(", ");
  const rows = [
    ...both(run, "Wins", pair.win_rates, all.pair.win_rates, percent),
    ...Object.keys(all.rating.means).flatMap((question) =>
      both(run, run.questions.rating[question]?.[0] ?? question,
        rating.means[question] ?? {}, all.rating.means[question])),
  ];
  return el("section", { id: "left-out" }, el("h2", {}, "Without and with who was left out"),
    el("p", { class: "quiet" }, `Left out above: ${out}. ${all.rule}`),
    table(["Of", "Setting", "Without them", "With them"], rows, "Means, with their intervals."));
}

function both(run, what, without, withThem, said = estimate) {
  return Object.keys(withThem).map((id) => el("tr", {}, el("td", {}, what),
    el("th", { scope: "row" }, run.setting.get(Number(id)).title),
    el("td", {}, without[id] ? said(without[id]) : "–"),
    el("td", {}, said(withThem[id]))));
}

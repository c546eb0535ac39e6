// Who votes: what each rater has judged, and what can be done with their votes.

import { button, confirmed, el, say, short } from "studio/dom.js";
import { ask, isReport } from "studio/source.js";
import { table } from "studio/table.js";

export function raters(run, reload) {
  const remove = async ({ rater, votes }) => {
    const what = votes === 1 ? "one vote" : `all ${votes} votes`;
    const question = `Remove ${rater} and ${what}? They cannot be brought back: save them as a file`
      + " first.";
    if (!await confirmed(question, "Remove")) return;
    try {
      await ask("DELETE", `/api/raters?${new URLSearchParams({ name: rater })}`);
      await reload();
    } catch (error) {
      say(error.message);
    }
  };
  const rows = run.raters.map((row) => el("tr", { "data-rater": row.rater },
    el("th", { scope: "row" }, row.rater),
    el("td", {}, row.pairs), el("td", {}, row.ratings),
    el("td", {}, row.median_seconds == null ? "–" : `${short(row.median_seconds)} s`),
    el("td", { class: "wide" }, row.newest ? when(row.newest) : "–"),
    isReport || !run.votes_allowed ? null : el("td", {},
      button("Remove", () => remove(row), { "aria-label": `Remove ${row.rater}` }))));
  const files = isReport ? null : el("p", { class: "choices" },
    el("a", { href: "/votes.csv", download: "votes.csv" }, "All votes as CSV"),
    el("a", { href: "/votes.json", download: "votes.json" }, "as JSON"));
  const heads = ["Rater", "Pairs", "Rated videos", "Median time", ["Newest vote", "wide"]];
  return el("section", { id: "raters" }, el("h2", {}, "Raters"),
    table(heads, rows, "Median time: of an answer, from the first picture on."), files);
}

function when(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date.toLocaleString();
}

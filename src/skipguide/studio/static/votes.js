// What the raters said, the way to a new test, and who votes.

import { button, choice, confirmed, el, say, short } from "studio/dom.js";
import { ask, isReport } from "studio/source.js";
import { state } from "studio/state.js";
import { estimate } from "studio/words.js";

let kind = "pair";

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

// --- the link -----------------------------------------------------------------------------------

function invitation(run) {
  const ids = [...new Set(state.slots.map((slot) => slot.setting))];
  const names = ids.map((id) => run.setting.get(id).title).join(", ");
  const link = () => linkOf(run, ids);
  const start = el("a", { href: link(), target: "_blank", class: "action", id: "start-test" },
    "Open the test");
  const written = el("input", {
    type: "text", readonly: true, class: "link", id: "test-link",
    "aria-label": "The link for raters", ".value": link(), on: { focus: () => written.select() },
  });
  // Browsers have a clipboard on https and on this machine only: else the link is marked.
  const copy = async () => {
    written.select();
    await navigator.clipboard?.writeText(written.value).then(() => say("Copied."), () => {});
  };
  const kinds = [
    ["pair", "which of two is better"], ["rating", "five questions on one video, 1 to 5"],
  ];
  const update = (value) => {
    kind = value;
    start.href = written.value = link();
  };
  return el("section", { class: "panel" },
    el("h2", {}, "A blind test"),
    el("p", {}, `Of the settings that are chosen: ${names}. Names are hidden, order and sides are`
      + " random for each rater. Give the link to every rater; each can stop and go on at any"
      + " time."),
    el("p", { class: "choices" }, choice("Ask", kinds, kind, update, { id: "kind" }), start),
    el("p", { class: "choices" }, written, button("Copy the link", copy)),
    el("p", { class: "quiet", id: "reach" }, whoCanOpen(run)));
}

/** The link under a name that others reach, where the page itself was opened on this machine. */
function linkOf(run, ids) {
  const query = new URLSearchParams({ token: run.token_for_raters });
  const test = new URLSearchParams({ kind, settings: ids.join(",") });
  const link = new URL(`vote?${query}#${test}`, location.href);
  const [host] = run.hosts_for_raters;
  if (isHere(location.hostname) && host) link.hostname = host.includes(":") ? `[${host}]` : host;
  return link.href;
}

function isHere(name) {
  return name === "localhost" || name.startsWith("127.") || name === "[::1]";
}

function whoCanOpen(run) {
  const isAlone = isHere(location.hostname) && run.hosts_for_raters.length === 0;
  const opens = "It opens this test and nothing else of the studio.";
  const [name] = run.names_for_raters;
  if (isAlone && name) {
    return `This link opens on this machine only. Open this page under ${name}, and the link is for`
      + ` everybody who reaches that. ${opens}`;
  }
  if (!isAlone) return `Everybody who reaches this machine over the network can open it. ${opens}`;
  return [
    el("b", {}, "Nobody else can open this link: the studio listens on this machine only."),
    " For raters on other computers and phones, end the studio and start it again with ",
    el("code", {}, "--host 0.0.0.0"),
    `: then the link has this machine's address in its network. ${opens}`,
  ];
}

// --- who votes ----------------------------------------------------------------------------------

function raters(run, reload) {
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

function table(heads, rows, caption) {
  const head = (given) => {
    const [name, kindOf] = [given].flat();
    return el("th", { scope: "col", class: kindOf }, name);
  };
  return el("div", { class: "scrolled" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, heads.map(head))),
    el("tbody", {}, rows), el("caption", {}, caption)));
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

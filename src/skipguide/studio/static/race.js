// The race: a row per candidate, with its difference to CFG alone as a point on a line with its
// interval. A row opens the clips of the candidate beside those of CFG alone.

import { button, el, short } from "studio/dom.js";
import { slotsOf, update } from "studio/state.js";
import { whole } from "studio/words.js";

const COLUMNS = 7; // at most
const ROOM = 1.6; // how far an interval may reach beyond the largest difference, in its length
const EDGE = 0.04; // of the line, at both ends
const PLACES = { winner: 0, out: 2 }; // all others stand between them
const ROLES = {
  cfg: "CFG alone", "cfg-low": "CFG alone, lower", "cfg-price": "CFG alone at the price of STG",
  preset: "published preset", scan: "from the map", search: "search around the winner",
};
const STATES = {
  winner: "winner", baseline: "compared with", racing: "racing", stayed: "in to the end", sampled: "sampled",
  out: "out",
};

export function raceSection(run, tune) {
  const { race, votes } = tune;
  const rows = (race.candidates ?? []).map((one) => numbered(one, votes, tune));
  const heading = el("h2", {}, "The race");
  if (rows.length === 0) {
    return el("section", { id: "race" }, heading, el("p", { class: "quiet" },
      "Its candidates are known when the map is."));
  }
  const gain = ({ role, difference }) => difference ?? (role === "cfg" ? (votes ? 0.5 : 0) : -9e9);
  rows.sort((a, b) => (PLACES[a.state] ?? 1) - (PLACES[b.state] ?? 1) || gain(b) - gain(a));
  const line = lineOf(rows, votes);
  return el("section", { id: "race" }, heading, el("p", { class: "quiet" }, said(race, votes)),
    el("div", { class: "scrolled" }, el("table", { class: "race", role: "table" },
      el("thead", { role: "rowgroup" }, axis(line, votes)),
      el("tbody", { role: "rowgroup" }, rows.map((one) => [
        row(run, one, rows, line, votes), why(one)])))));
}

/** A candidate with the numbers that are shown: those of the votes where they are newer. */
function numbered(one, votes, { answer, race }) {
  if (one.state === "racing" && race.metric?.kind === "none") return { ...one, state: "sampled" };
  if (answer && one.state === "racing") return { ...one, state: "stayed" };
  if (!votes || answer) return one;
  const rate = votes.win_rates[one.name];
  const isOut = one.name in votes.out;
  const live = { best: votes.best[one.name] ?? null, clips: null };
  if (isOut) Object.assign(live, { state: "out", out_reason: votes.out[one.name] });
  if (rate) {
    const { value, low, high, votes: clips } = rate;
    Object.assign(live, { difference: value, low, high, clips });
  }
  return { ...one, ...live };
}

function said({ metric, rounds, prompts }, votes) {
  const lines = "The line is the 95 % interval, which holds at whatever moment one looks; an arrow"
    + " at its end says that it goes further, or is not known yet.";
  if (votes) {
    return "How often a setting wins against CFG alone in blind pairs, from all votes"
      + " (Bradley-Terry). The line is the 95 % interval of its posterior; a setting is out when"
      + " it is hardly the best.";
  }
  if (metric?.kind === "none") {
    return "Nothing is measured: no metric was given. Look at the clips side by side.";
  }
  const of = rounds ? ` after ${rounds} round${rounds === 1 ? "" : "s"}` : "";
  const count = prompts?.race?.length ? `, on at most ${prompts.race.length} prompts` : "";
  return `Differences of ${metric?.name || "the metric"} to CFG alone${of}${count}, the same for`
    + ` both as is the noise; to the right is better. ${lines}`;
}

// --- the line that all rows share ---------------------------------------------------------------

/** From where to where the lines go, and how a number is placed on them, 0 to 1. */
function lineOf(rows, votes) {
  if (votes) return { zero: 0.5, least: 0, most: 1, place: (value) => value };
  const known = rows.filter(({ difference }) => difference != null);
  const size = Math.max(...known.map(({ difference }) => Math.abs(difference)), 1e-9);
  const reach = (end, sign) => {
    const far = known.map((one) => sign * (one[end] ?? sign * Infinity))
      .filter(Number.isFinite);
    return sign * Math.min(Math.max(...far, size / 4), size * (1 + ROOM));
  };
  const least = reach("low", -1), most = reach("high", 1);
  const place = (value) =>
    EDGE + (1 - 2 * EDGE) * Math.min(Math.max((value - least) / (most - least), 0), 1);
  return { zero: 0, least, most, place };
}

function axis(line, votes) {
  const tick = (value, text) => {
    const mark = el("span", { class: "tick" }, text);
    mark.style.setProperty("--at", `${line.place(value) * 100}%`);
    return mark;
  };
  const ends = votes ? [tick(0.25, "25 %"), tick(0.75, "75 %")]
    : [tick(line.least, signed(line.least)), tick(line.most, signed(line.most))];
  const scale = el("div", { class: "forest axis", "aria-hidden": "true" },
    ends[0], tick(line.zero, votes ? "50 %" : "0"), ends[1]);
  const head = (name, kind = "") =>
    el("th", { scope: "col", role: "columnheader", class: kind }, name);
  return el("tr", { role: "row" }, head("Candidate"), head(scale, "line-of"),
    head(votes ? "Wins against CFG alone" : "Difference to CFG alone"),
    votes ? head("Is the best") : null, head(votes ? "Votes" : "Clips", "count-of"),
    head("Passes", "count-of"), head("State", "state-of"));
}

function row(run, one, rows, line, votes) {
  const cell = (kind, ...content) => el("td", { role: "cell", class: kind }, content);
  const told = one.difference == null ? "" : numbers(one, votes);
  return el("tr", { role: "row", class: one.state, "data-candidate": one.name },
    el("th", { scope: "row", role: "rowheader" }, opener(run, one, rows),
      el("span", { class: "quiet" }, described(one))),
    cell("line-of", forest(one, line)),
    cell("number", told, one.difference == null && one.role === "cfg" ? "–" : null),
    votes ? cell("number best", one.best == null ? "" : percents(one.best)) : null,
    cell("number count-of", one.clips || ""), cell("number count-of", short(one.passes)),
    cell("state-of", el("span", { class: "state" }, STATES[one.state] ?? one.state),
      one.round_out ? el("span", { class: "quiet" }, ` in round ${one.round_out}`) : null));
}

/** Why a candidate went: a line of its own below its row. */
function why({ out_reason: reason }) {
  if (!reason) return null;
  return el("tr", { role: "row", class: "why" },
    el("td", { role: "cell", colspan: COLUMNS }, capital(reason)));
}

/** A candidate is a setting of the run as soon as it has clips. */
function opener(run, { name, role }, rows) {
  const setting = run.settings.find((entry) => entry.name === name);
  if (!setting) return el("b", {}, name);
  const base = run.settings.find((entry) =>
    entry.name === rows.find((other) => other.role === "cfg")?.name);
  const ids = role === "cfg" || !base ? [setting.id] : [base.id, setting.id];
  return button(name, () => update({ view: "clips", mode: "grid", slots: slotsOf(ids) }), {
    class: "name", title: "Open its clips beside those of CFG alone",
  });
}

/** The place of a candidate in the race; of CFG alone what it is. */
function roleOf({ name, title, role }) {
  if (!title || title === name) return ROLES[role] ?? role;
  return role === "cfg-price" ? `${title}, the price of STG` : title;
}

function described(one) {
  const { scale, start, stop, cell } = one;
  const words = [roleOf(one)];
  if (cell) words.push(`${cell}, scale ${short(scale)}`);
  if (start > 0 || (stop != null && stop < 1)) words.push(`from ${short(start)} to ${short(stop)}`);
  return words.join(" · ");
}

/** The point with its interval; an end that is not on the line, or not known, is open. */
function forest({ difference, low, high, role }, line) {
  const found = el("div", { class: "forest", "aria-hidden": "true" });
  found.style.setProperty("--zero", `${line.place(line.zero) * 100}%`);
  if (difference == null) {
    if (role === "cfg") found.append(el("b", { class: "base" }));
    return found;
  }
  const ends = [low ?? -Infinity, high ?? Infinity];
  const open = [ends[0] < line.least ? "open-low" : "", ends[1] > line.most ? "open-high" : ""];
  found.append(el("i", { class: open.join(" ") }), el("b"));
  found.style.setProperty("--low", `${(ends[0] < line.least ? 0 : line.place(ends[0])) * 100}%`);
  found.style.setProperty("--high", `${(ends[1] > line.most ? 1 : line.place(ends[1])) * 100}%`);
  found.style.setProperty("--value", `${line.place(difference) * 100}%`);
  return found;
}

function numbers({ difference, low, high }, votes) {
  const one = votes ? (value) => whole(value) : signed;
  const unit = votes ? " %" : "";
  const ends = low == null && high == null ? ""
    : ` (${low == null ? "?" : one(low)} to ${high == null ? "?" : one(high)})`;
  return `${one(difference)}${unit}${ends}`;
}

function percents(share) {
  return share > 0 && share < 0.01 ? "below 1 %" : `${whole(share)} %`;
}

function signed(value) {
  const text = short(Math.abs(value));
  return value < 0 ? `−${text}` : value > 0 ? `+${text}` : "0";
}

function capital(text) {
  return text.startsWith("it ") ? `It${text.slice(2)}` : text; // others begin with a name
}

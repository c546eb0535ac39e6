// Each setting against each other one: who won how often. A cell opens the clips of both.

import { el } from "studio/dom.js";
import { slotsOf, update } from "studio/state.js";
import { whole } from "studio/words.js";

const STEPS = [0.05, 0.15, 0.3]; // of a share from a half: where the shade gets deeper
const LEGEND = [0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9];

/** @param order ids of settings, the strongest first: what is blue is above the diagonal then */
export function matrix(run, found, order) {
  const met = new Map(found.matrix.map((entry) => [`${entry.row}/${entry.column}`, entry]));
  const name = (id) => run.setting.get(id).title;
  const heads = order.map((id, i) => el("th", { scope: "col", title: name(id) },
    el("b", {}, i + 1), el("span", { class: "wide" }, name(id))));
  const rows = order.map((row, i) => el("tr", {},
    el("th", { scope: "row" },
      el("span", { class: "named" }, el("b", {}, i + 1), el("span", {}, name(row)))),
    order.map((column) => (row === column ? el("td", { class: "same", "aria-hidden": "true" })
      : cell(run, row, column, met.get(`${row}/${column}`))))));
  const corner = el("td", { class: "quiet" }, "row beats column");
  return el("section", { id: "matrix" }, el("h2", {}, "Each against each"),
    el("div", { class: "scrolled" }, el("table", { class: "matrix" },
      el("thead", {}, el("tr", {}, corner, heads)), el("tbody", {}, rows))),
    legend(),
    el("p", { class: "quiet" }, "How many of their comparisons the setting of the row won against"
      + " that of the column; a tie is half a win. Below: the 95 % interval over prompts, and the"
      + " number of comparisons. Bold where the interval leaves out 50\u00a0%. A cell opens the clips of"
      + " both."));
}

function cell(run, row, column, meeting) {
  const names = [row, column].map((id) => run.setting.get(id).title);
  if (!meeting) {
    const said = `${names[0]} and ${names[1]} were not compared`;
    return el("td", { class: "none", title: said, "aria-label": said }, "–");
  }
  const { share, wins, ties, losses } = meeting;
  const interval = share.low == null ? null : `${whole(share.low)} to ${whole(share.high)}`;
  const said = `${names[0]} won ${whole(share.value)} % against ${names[1]}`
    + (interval ? `, 95 % interval ${interval} %` : "")
    + `: ${wins} wins, ${ties} ties, ${losses} losses`;
  const open = () => update({ view: "clips", mode: "grid", slots: slotsOf([row, column]) });
  const isClear = share.low > 0.5 || (share.high != null && share.high < 0.5);
  return el("td", {}, el("button", {
    type: "button", class: `${shade(share.value)}${isClear ? " clear" : ""}`, title: said,
    "aria-label": `${said}. Open their clips`, "data-pair": `${row}/${column}`, on: { click: open },
  }, el("span", { class: "share" }, `${whole(share.value)}\u00a0%`),
  interval ? el("small", {}, interval) : null, el("small", {}, `of ${share.count}`)));
}

function shade(share) {
  const depth = STEPS.filter((step) => Math.abs(share - 0.5) >= step).length;
  return depth === 0 ? "even" : `${share > 0.5 ? "won" : "lost"}-${depth}`;
}

function legend() {
  return el("p", { class: "legend", "aria-hidden": "true" }, "loses",
    LEGEND.map((share) => el("span", { class: shade(share) })), "wins");
}

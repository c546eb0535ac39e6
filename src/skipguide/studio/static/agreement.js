// Whether the raters agree: each measure in a sentence, with what its values mean.

import { el, short } from "studio/dom.js";
import { table } from "studio/table.js";
import { whole } from "studio/words.js";

const FEW = 6; // pairs of raters that are told one by one; more are a table to open
// Landis and Koch, Biometrics 33 (1977): up to which kappa an agreement has which name.
const NAMES = [
  [-Number.EPSILON, "less agreement than guessing gives"], [0.2, "slight agreement"],
  [0.4, "fair agreement"], [0.6, "moderate agreement"], [0.8, "substantial agreement"],
  [Infinity, "almost perfect agreement"],
];

/** @param of "comparisons" or "ratings": what was judged */
export function agreement({ raters: counts, agreement: { alpha, kappa }, votes, left }, of) {
  const people = Object.entries(counts).map(([name, count]) => `${name} (${count})`).join(", ");
  return el("section", { class: "agreement" }, el("h2", {}, `Do raters agree on ${of}?`),
    el("p", {}, `${votes} votes of ${people}.`),
    first(left), ofAll(alpha), ofTwo(kappa.filter((entry) => entry.kappa !== null), of));
}

/** Whether raters favoured a side. */
function first(left) {
  if (left == null) return null;
  return el("p", {}, el("b", {}, `First shown: ${whole(left)} %. `),
    "So often what was on the left, or above, won a decided comparison. About 50 % is as it should"
    + " be; far from it, raters favoured a side whatever it showed.");
}

function ofAll(alpha) {
  const known = Object.entries(alpha).filter(([, value]) => value !== null);
  if (known.length === 0) {
    return el("p", {}, "Agreement needs two raters who judged the same, and answers that are not"
      + " all one. Give the link to one more rater.");
  }
  const told = known.map(([question, value]) =>
    el("li", {}, el("b", {}, `${question} ${short(value)}`), `: ${reliability(value)}`));
  return el("div", {}, el("p", {}, el("b", {}, "Krippendorff's alpha "),
    "says how far all raters agree beyond chance, also where some skipped something: 1 is full"
    + " agreement, 0 is what guessing gives, below 0 they contradict each other. From 0.8 on the"
    + " votes count as reliable, from 0.667 on as good enough for tentative conclusions."),
  el("ul", { id: "alphas" }, told));
}

function reliability(alpha) {
  if (alpha >= 0.8) return "reliable";
  if (alpha >= 0.667) return "good enough for tentative conclusions";
  return alpha > 0 ? "raters differ too much to rely on single answers; means still say something"
    : "no more agreement than guessing gives";
}

function ofTwo(kappas, of) {
  if (kappas.length === 0) return null;
  const weighted = of === "ratings" ? ", where answers two steps apart count four times as much as"
    + " those one step apart" : "";
  const intro = el("p", {}, el("b", {}, "Cohen's kappa "),
    `says how far two raters agree beyond chance on what both judged${weighted}: 1 is always the`
    + " same, 0 is what guessing gives. Up to 0.2 it is called slight, to 0.4 fair, to 0.6"
    + " moderate, to 0.8 substantial, above that almost perfect.");
  if (kappas.length <= FEW) {
    return el("div", {}, intro, el("ul", { id: "kappas" }, kappas.map(({ raters, kappa, count }) =>
      el("li", {}, el("b", {}, `${raters.join(" and ")} ${short(kappa)}`),
        `: ${nameOf(kappa)}, on ${count} ${of}`))));
  }
  const inOrder = [...kappas].sort((a, b) => a.kappa - b.kappa);
  const [least, middle, most] = [0, inOrder.length >> 1, inOrder.length - 1]
    .map((i) => short(inOrder[i].kappa));
  const rows = inOrder.map(({ raters, kappa, count }) => el("tr", {},
    el("th", { scope: "row" }, raters.join(" and ")), el("td", {}, short(kappa)),
    el("td", {}, nameOf(kappa)), el("td", {}, count)));
  return el("div", {}, intro, el("details", { id: "kappas" },
    el("summary", {}, `${kappas.length} pairs of raters: from ${least} to ${most}, half of them`
      + ` below ${middle}`),
    table(["Raters", "Kappa", "Meaning", `Common ${of}`], rows, "The least agreement first.")));
}

function nameOf(kappa) {
  return NAMES.find(([upTo]) => kappa <= upTo)[1];
}

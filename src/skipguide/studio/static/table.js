// A table of numbers.

import { el } from "studio/dom.js";

let number = 0;

/** Where the window is narrow the table scrolls; what is said of it, below, does not. */
export function table(heads, rows, caption) {
  const id = `said-of-table-${number += 1}`;
  const head = (given) => {
    const [name, kindOf] = [given].flat();
    return el("th", { scope: "col", class: kindOf }, name);
  };
  return el("div", {},
    el("div", { class: "scrolled" }, el("table", { class: "numbers", "aria-describedby": id },
      el("thead", {}, el("tr", {}, heads.map(head))), el("tbody", {}, rows))),
    el("p", { class: "quiet caption", id }, caption));
}

// A table of numbers.

import { el } from "studio/dom.js";

export function table(heads, rows, caption) {
  const head = (given) => {
    const [name, kindOf] = [given].flat();
    return el("th", { scope: "col", class: kindOf }, name);
  };
  return el("div", { class: "scrolled" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, heads.map(head))),
    el("tbody", {}, rows), el("caption", {}, caption)));
}

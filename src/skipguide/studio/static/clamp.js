// Long texts: a few lines of them, and the rest at a click.

import { el } from "studio/dom.js";

const opened = new Set(); // what a person has opened stays so when the page is drawn anew

/**
 * Something of a few lines, with a button for the rest; the text is what has the class "text" in
 * it, or all of it. `name` says which text it is.
 */
export function clamped(content, name) {
  const more = el("button", { type: "button", class: "rest", hidden: true, on: { click: turn } });
  const box = el("div", { class: "clamped" }, content, more);
  if (!content.querySelector(".text")) content.classList.add("text");
  function turn() {
    if (!opened.delete(name)) opened.add(name);
    tell();
  }
  function tell() {
    const isOpen = opened.has(name);
    box.classList.toggle("open", isOpen);
    more.textContent = isOpen ? "less" : "more";
    more.setAttribute("aria-expanded", String(isOpen));
    more.setAttribute("aria-label", isOpen ? "Show less of the text" : "Show all of the text");
  }
  tell();
  return box;
}

/** Offer the rest of those that have one. All are measured at once, which costs one layout. */
export function measureClamped(root) {
  requestAnimationFrame(() => {
    const boxes = [...root.querySelectorAll(".clamped")].filter((box) => box.isConnected);
    const isLong = boxes.map((box) => {
      const text = box.querySelector(".text");
      return box.classList.contains("open") || text.scrollHeight > text.clientHeight + 2;
    });
    boxes.forEach((box, i) => { box.querySelector(".rest").hidden = !isLong[i]; });
  });
}

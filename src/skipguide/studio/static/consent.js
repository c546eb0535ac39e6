// The text that a rater must accept before anything is asked or kept. Of Markdown it has headings,
// lists, and bold and slanted words; everything else is shown as it is written.

import { button, el } from "studio/dom.js";

/** @param tell {agree, refuse}: what the page does then */
export function consentPanel({ text }, tell) {
  return el("section", { class: "panel welcome consent", id: "consent" },
    el("div", { class: "text", tabindex: 0 }, blocksOf(text)),
    el("div", { class: "known" },
      button("I have read this and agree", tell.agree, { class: "action", id: "agree" }),
      button("I do not agree", tell.refuse, { id: "refuse" })));
}

function blocksOf(text) {
  return text.replaceAll("\r", "").split(/\n\s*\n/).flatMap((block) => blockOf(block.trim()));
}

function blockOf(block) {
  const lines = block.split("\n");
  const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
  if (heading) {
    const rest = lines.slice(1).join("\n").trim();
    const title = el(heading[1].length === 1 ? "h1" : "h2", {}, inline(heading[2]));
    return rest ? [title, ...[blockOf(rest)].flat()] : [title];
  }
  const items = lines.map((line) => /^(?:[-*]|(\d+)[.)])\s+(.*)$/.exec(line));
  if (items.every(Boolean)) {
    const tag = items[0][1] ? "ol" : "ul";
    return [el(tag, {}, items.map((item) => el("li", {}, inline(item[2]))))];
  }
  return [el("p", {}, lines.flatMap((line, i) => [i ? " " : "", ...inline(line)]))];
}

function inline(line) {
  return line.split(/(\*\*[^*]+\*\*|\*[^*]+\*|_[^_]+_)/).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return el("b", {}, part.slice(2, -2));
    if (/^\*.+\*$/.test(part) || /^_.+_$/.test(part)) return el("i", {}, part.slice(1, -1));
    return part;
  });
}

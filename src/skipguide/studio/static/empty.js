// What a view says where it has nothing to show: what is missing, and what to do about it.

import { el, sentence } from "studio/dom.js";

/** @param words sentences; what stands in `backquotes` is a command. `more` are buttons. */
export function empty(title, words, ...more) {
  return el("section", { class: "empty", role: "status" }, el("h2", {}, title),
    el("p", {}, sentence(words)), more.length ? el("p", { class: "choices" }, more) : null);
}

/** Of a run without settings: there is nothing to choose from in any view. */
export function emptyRun(run) {
  return empty("There is nothing in this run yet.", run.sweeping
    ? "A sweep has just begun. Its settings and videos appear here by themselves."
    : "Fill it with `skipguide sweep PLAN --out RUN`. What is made appears here by itself.");
}

/** What to do about videos that are not there; null where there is nothing to say. */
export function unfinished({ counts, sweeping }, isReport) {
  const { done, failed } = counts;
  const missing = counts.pending + counts.running;
  if (done > 0 || failed + missing === 0) return null;
  if (missing === 0) {
    return empty(`All ${failed} videos failed.`, "The reasons stand in their places. When they are"
      + " mended, `skipguide sweep PLAN --retry-failed` makes them.");
  }
  if (isReport) return empty("No video was finished when this report was written.", "");
  return empty(`No video is finished yet: 0 of ${missing + failed}.`, sweeping
    ? "A sweep is running. Each video appears here when it is finished."
    : "No sweep is running. Start it again, `skipguide sweep PLAN`: it goes on where it ended.");
}

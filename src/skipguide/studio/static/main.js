// The page: reads the run, and shows what the state says.

import { followTag } from "studio/annotations.js";
import { controls } from "studio/controls.js";
import { button, el, hush, keepingFocus, say } from "studio/dom.js";
import { empty, emptyRun, unfinished } from "studio/empty.js";
import { Grid } from "studio/grid.js";
import { listenToKeys, showHelp } from "studio/keys.js";
import { renderMap } from "studio/layermap.js";
import { Pair } from "studio/pair.js";
import { away, insist, isBack, pause } from "studio/reach.js";
import { renderScatter } from "studio/scatter.js";
import { renderSide } from "studio/side.js";
import { ask, isReport, loadRun } from "studio/source.js";
import { keyOf, listen, start, state, update, viewsOf } from "studio/state.js";
import { applyTheme, nextTheme } from "studio/theme.js";
import { Transport } from "studio/transport.js";
import { leaveTry, renderTry } from "studio/try.js";
import { renderTune } from "studio/tune.js";
import { renderVotes } from "studio/votes.js";
import { zoomable } from "studio/zoom.js";

const POLL = 5, POLL_VOTES = 2; // seconds, while a sweep or raters write

const root = document.getElementById("main");
const transport = new Transport();
let run, grid, pair, shown;
let seen = null; // the state of the run when it was read last

async function begin() {
  applyTheme();
  run = await loadRun(insist);
  start(run, location.hash);
  grid = new Grid(root, run, transport);
  pair = new Pair(root, run, transport);
  controls(document.getElementById("transport"), transport);
  zoomable(root);
  listenToKeys(() => ({ run, transport, pair }));
  document.getElementById("theme").addEventListener("click", nextTheme);
  document.getElementById("help-button").addEventListener("click", showHelp);
  const choosing = (isOn) => () => document.body.classList.toggle("choosing", isOn);
  document.getElementById("choose").addEventListener("click", choosing(true));
  document.getElementById("choose-done").addEventListener("click", choosing(false));
  listen(render);
  document.addEventListener("run-changed", () => reload().catch(({ message }) => say(message)));
  addEventListener("hashchange", () => { // a link to another view of this run
    start(run, location.hash);
    update({ view: state.view });
  });
  update({});
  if (!isReport) poll();
}

/** Read the run again: a sweep, a trial or a vote has added to it. */
async function reload() {
  const before = run;
  run = await loadRun(ask);
  if (run === before) return run;
  if (before.settings.length === 0) start(run, location.hash);
  for (const part of [grid, pair]) part.run = run;
  for (const cell of grid.cells.values()) cell.run = run;
  render({});
  return run;
}

/** Follow the run. While the server is away the page says so, and goes on by itself. */
async function poll() {
  for (let wasAway = false; ; ) {
    await pause(state.view === "votes" || wasAway ? POLL_VOTES : POLL);
    try {
      const now = await ask("GET", "/api/counts");
      if ((wasAway || isNew(now)) && state.view !== "try") {
        await reload();
        seen = now.state;
      }
      isBack();
      wasAway = false;
    } catch (error) {
      away(error.isPassing ? `${error.message} It is tried again by itself.` : error.message);
      wasAway = true;
    }
  }
}

/** Whether anything was written to the run, by whomever. */
function isNew({ sweeping, state: written }) {
  return sweeping !== run.sweeping || written !== seen;
}

function render(changes) {
  keepingFocus(() => draw(changes));
}

function draw(changes) {
  document.title = `${run.name} · skipguide studio`;
  document.getElementById("run-name").textContent = run.name;
  const isEmpty = run.settings.length === 0;
  document.body.dataset.view = isEmpty ? "none" : state.view;
  const views = viewsOf(run).map((view) => button(view[0].toUpperCase() + view.slice(1),
    () => update({ view }), { key: keyOf(view), pressed: state.view === view }));
  document.getElementById("views").replaceChildren(...views);
  document.getElementById("counts").textContent = counted();
  if (isEmpty) {
    if (state.view === "tune") renderTune(root, run, Object.keys(changes).length === 0);
    else root.replaceChildren(emptyRun(run));
    return;
  }
  followTag(run);
  renderSide(document.getElementById("side"), run);
  renderView(changes);
}

function renderView(changes) {
  const view = state.view === "clips" && state.mode !== "grid" ? "pair" : state.view;
  const isAgain = Object.keys(changes).length === 0; // the run is new, not what is chosen
  if (view !== shown) {
    for (const part of [grid, pair]) part.clear();
    leaveTry();
    if (shown) hush(); // what was said belongs to the view that is left
    root.className = `view-${view}`;
    root.scrollTop = 0;
    shown = view;
    transport.playing &&= ["clips", "pair"].includes(view);
  } else if (view === "try" && isAgain) return; // what is typed stays
  grid.notice = unfinished(run, isReport);
  const views = {
    tune: () => renderTune(root, run, isAgain),
    clips: () => grid.render(),
    pair: () => pair.render(),
    map: () => renderMap(root, run),
    plot: () => renderScatter(root, run),
    votes: () => renderVotes(root, run, reload, isAgain),
    try: () => renderTry(root, run, reload),
  };
  views[view]();
}

function counted() {
  const { done, failed, pending, running } = run.counts;
  const missing = pending + running;
  const parts = [
    done === 1 ? "1 clip" : `${done} clips`, failed && `${failed} failed`,
    missing && `${missing} to make`, run.sweeping && "a sweep is running",
  ];
  return parts.filter(Boolean).join(" · ");
}

begin().catch((error) => {
  const again = button("Try again", () => location.reload(), { class: "action" });
  root.replaceChildren(el("div", { role: "alert" },
    empty("The run cannot be shown.", error.message, again)));
});

// The choice of prompts, seeds and settings.

import { tagSection } from "studio/annotations.js";
import { clamped, measureClamped } from "studio/clamp.js";
import { button, choice, el, short } from "studio/dom.js";
import { slotsOf, state, toggleSetting, update } from "studio/state.js";
import { summary, titleOf } from "studio/words.js";

const FILTER_FROM = 12; // prompts
let sought = "";

export function renderSide(root, run) {
  const scroll = root.querySelector(".prompts")?.scrollTop ?? 0;
  const parts = [prompts(run), seeds(run), settings(run), tagSection(run), layout()];
  root.replaceChildren(...parts.filter(Boolean));
  root.querySelector(".prompts").scrollTop = scroll;
  measureClamped(root);
}

function prompts(run) {
  const all = state.prompts.length === run.prompts.length;
  const every = () => update({
    prompts: all ? state.prompts.slice(0, 1) : run.prompts.map((prompt) => prompt.id),
  });
  const heading = el("h2", {}, "Prompts ", el("kbd", {}, "↑"), el("kbd", {}, "↓"),
    button("all", every, { pressed: all }));
  const list = el("ul", { class: "prompts" }, found(run));
  const isLong = run.prompts.length >= FILTER_FROM;
  return el("section", {}, heading, isLong ? filter(run) : null, list);
}

/** The prompts that have what is sought, each as an item of the list. */
function found(run) {
  return run.prompts.filter(matches).map((prompt) =>
    el("li", {}, clamped(choose(run, prompt), `side ${prompt.id}`)));
}

function choose(run, prompt) {
  const order = run.prompts.map(({ id }) => id);
  return el("button", {
    type: "button", "aria-pressed": String(state.prompts.includes(prompt.id)),
    title: tagsOf(prompt),
    on: { click: (event) => update({ prompts: chosen(state.prompts, prompt.id, order, event) }) },
  }, el("span", { class: "text" }, titleOf(prompt)));
}

/** What the prompt file says of a prompt; nothing where it says nothing. */
function tagsOf({ tags }) {
  return tags && Object.keys(tags).length ? short(tags) : null;
}

function matches(prompt) {
  const said = `${prompt.text} ${prompt.image} ${JSON.stringify(prompt.tags)}`;
  return said.toLowerCase().includes(sought.toLowerCase());
}

function filter(run) {
  const field = el("input", {
    type: "search", id: "filter", placeholder: "Find in prompts and tags  /",
    "aria-label": "Find prompts", ".value": sought,
    on: {
      input: () => {
        sought = field.value;
        document.querySelector(".prompts").replaceChildren(...found(run));
        measureClamped(document.getElementById("side"));
      },
    },
  });
  return field;
}

function seeds(run) {
  const all = state.seeds.length === run.seeds.length;
  const chips = run.seeds.map((seed) => button(String(seed),
    (event) => update({ seeds: chosen(state.seeds, seed, run.seeds, event) }),
    { pressed: state.seeds.includes(seed) }));
  const choose = () => update({ seeds: all ? state.seeds.slice(0, 1) : [...run.seeds] });
  return el("section", {},
    el("h2", {}, "Seeds ", el("kbd", {}, "s"), button("all", choose, { pressed: all })),
    el("div", { class: "chips" }, chips));
}

/** A click chooses one, with Ctrl one more or less, with Shift all up to there. */
function chosen(now, id, order, event) {
  if (event.shiftKey) {
    const ends = [order.indexOf(now[0]), order.indexOf(id)].sort((a, b) => a - b);
    return order.slice(ends[0], ends[1] + 1);
  }
  if (!(event.ctrlKey || event.metaKey)) return [id];
  const others = now.filter((other) => other !== id);
  const next = others.length < now.length ? others : [...now, id];
  return next.length ? order.filter((other) => next.includes(other)) : now;
}

function settings(run) {
  const shown = new Set(state.slots.map((slot) => slot.setting));
  const every = shown.size === run.settings.length;
  const choose = (ids) => update({ slots: slotsOf(ids) });
  const heading = el("h2", {}, "Settings",
    button("all", () => choose(run.settings.slice(0, every ? 1 : undefined).map((s) => s.id)),
      { pressed: every }));
  const models = new Set(run.settings.map((setting) => setting.model));
  const lines = run.settings.map((setting, i) => {
    const first = models.size > 1 && (i === 0 || run.settings[i - 1].model !== setting.model);
    return [
      first ? el("li", { class: "model" }, setting.model) : null,
      el("li", {}, el("label", {},
        el("input", {
          type: "checkbox", ".checked": shown.has(setting.id),
          on: { change: () => toggleSetting(setting.id) },
        }),
        el("span", {}, el("b", {}, setting.name),
          el("span", { class: "quiet" }, summary(run, setting))),
        i < 9 ? el("kbd", {}, i + 1) : null)),
    ];
  });
  return el("section", {}, heading, el("ul", { class: "settings" }, lines));
}

function layout() {
  if (state.prompts.length * state.seeds.length === 1) return el("section");
  const sizes = [
    [0, "as the window has room"], [120, "small"], [180, "medium"], [240, "large"],
    [360, "very large"],
  ];
  const change = (value) => update({ size: Number(value) });
  return el("section", {}, choice("Videos", sizes, state.size, change));
}

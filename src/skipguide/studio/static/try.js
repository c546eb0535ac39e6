// Try a layer and a scale: ask the loaded model for a video, and see it beside the others.

import { button, choice, el, hush, say, short } from "studio/dom.js";
import { ask } from "studio/source.js";
import { slotsOf, state, update } from "studio/state.js";
import { parameterRows } from "studio/words.js";

const FIELDS = [
  ["layers", { placeholder: "8 or 8, 9" }], ["stg_scale", { inputmode: "decimal" }],
  ["spatial_scale", { inputmode: "decimal" }], ["temporal_scale", { inputmode: "decimal" }],
  ["guidance_scale", { inputmode: "decimal" }], ["cfg_rule", { placeholder: "plain CFG, or apg eta=0.2" }],
  ["nag", { placeholder: "off, or 5 tau=2.5 alpha=0.25" }], ["steps", { inputmode: "numeric" }],
  ["start", { inputmode: "decimal" }], ["stop", { inputmode: "decimal" }],
  ["rescale", { inputmode: "decimal" }],
];
const SKIPS = ["residual", "attention", "soft", "blur", "frames", "tokens", "shuffle"];
const OF_AXES = ["spatial_scale", "temporal_scale"]; // of interest only where the run has some
const POLL = 500; // milliseconds
const shown = new Set(); // trials whose end is known to the page
let timer = 0;

export function renderTry(root, run, reload) {
  if (!run.trials_allowed) {
    const why = run.votes_allowed ? "This studio was started without trials, so it makes no videos."
        : "The run cannot be written, so no videos can be added to it.";
    root.replaceChildren(el("p", { class: "empty" }, why));
    return;
  }
  const queue = el("section", { class: "queue", "aria-live": "polite" });
  root.replaceChildren(el("div", { class: "try" }, form(run), queue));
  watch(queue, reload);
}

export function leaveTry() {
  clearTimeout(timer);
}

function form(run) {
  const base = run.setting.get(state.slots.at(-1).setting);
  const fields = FIELDS.filter(([name]) => !OF_AXES.includes(name) || run.settings.some((setting) => setting.parameters[name]));
  const inputs = Object.fromEntries(fields.map(([name, given]) => [name, el("input", { type: "text", name, ".value": written(base.parameters[name]), ...given })]));
  const skips = [...(run.presets.length ? [["", "the preset's"]] : []), ...SKIPS.map((name) => [name, name])];
  const skip = el("select", { name: "skip" }, skips.map(([name, text]) => el("option", { value: name, ".selected": base.parameters.skip === name }, text)));
  const terms = el("textarea", { name: "term", rows: 2, maxlength: 2000, placeholder: "layers=9 scale=1 skip=attention\nkind=slg layers=4", ".value": termLines(base) });
  const prompt = el("textarea", { name: "prompt", rows: 3, maxlength: 4000, ".value": run.prompt.get(state.prompts[0]).text ?? "" });
  const picture = pictures(run);
  const preset = presets(run, (name) => leaveTo(name, { base, inputs, skip, terms, others }));
  const others = el("div", {}, kept(base.parameters));
  const seed = el("input", { type: "text", name: "seed", inputmode: "numeric", ".value": String(state.seeds[0]) });
  const send = async (event) => {
    event.preventDefault();
    hush();
    try {
      const own = { guidance: null, skip: skip.value || null, ...numbers(inputs), term: lines(terms.value), preset: preset.chosen() };
      const given = { ...(own.preset ? withoutGuidance(base.parameters) : base.parameters), ...own };
      await ask("POST", "/api/trials", { model: base.model, prompt: prompt.value || null, seed: Number(seed.value), parameters: allowed(given), image_of: picture.chosen() });
    } catch (error) {
      say(error.message);
    }
  };
  const quick = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event); };
  return el("form", { on: { submit: send, keydown: quick } },
    choice("Start from", run.settings.map((setting) => [setting.id, setting.title]), base.id, (id) => update({ slots: [...state.slots.slice(0, -1), ...slotsOf([Number(id)])] })),
    el("label", {}, run.labels.prompt, prompt), picture.fields, el("label", {}, run.labels.seed, seed),
    preset.field,
    fields.map(([name]) => el("label", {}, run.labels[name], inputs[name])),
    el("label", {}, run.labels.skip, skip),
    el("label", { title: "What the fields above cannot say: one term per line, its parts as name=value" },
      `${run.labels.term}, one per line`, terms),
    others,
    el("button", { type: "submit", class: "action" }, "Make it ", el("kbd", {}, "Ctrl Enter")),
    el("p", { class: "quiet" }, `Model: ${base.model}. What is left empty is the preset's, or the model's own.`));
}

/** The presets that may be chosen: those of one's own, and what a tune of this run has found. */
function presets(run, change) {
  if (run.presets.length === 0) return { chosen: () => null, field: null };
  const field = choice(run.labels.preset, [["", "none"], ...run.presets.map((name) => [name, name])], "", change, { name: "preset" });
  return { chosen: () => field.querySelector("select").value || null, field };
}

/** Leave open what a preset says when one is chosen; without one the fields are the setting's again. */
function leaveTo(name, { base, inputs, skip, terms, others }) {
  for (const [field, input] of Object.entries(inputs)) {
    if (OF_PRESET.includes(field)) input.value = name ? "" : written(base.parameters[field]);
  }
  skip.value = name ? "" : base.parameters.skip;
  terms.value = name ? "" : termLines(base);
  others.replaceChildren(...[kept(name ? withoutGuidance(base.parameters) : base.parameters)].filter(Boolean));
}

function withoutGuidance(parameters) {
  return Object.fromEntries(Object.entries(parameters).filter(([name]) => !OF_PRESET.includes(name)));
}

/** What a trial has of its setting without a field here, so that nothing is in it unsaid. */
function kept(parameters) {
  const hasField = new Set([...FIELDS.map(([name]) => name), "skip", "guidance"]);
  const others = Object.fromEntries(Object.entries(parameters).filter(([name]) => !hasField.has(name)));
  const told = parameterRows({ parameters: others }).map(([name, value]) => `${name} ${value}`);
  return told.length ? el("p", { class: "quiet", id: "kept" }, `As in the setting: ${told.join(" · ")}.`) : null;
}

/** The pictures of the run, each once, to start from; at first that of the prompt that is looked at. */
function pictures(run) {
  const now = run.prompt.get(state.prompts[0]);
  const each = new Map([...run.prompts, now].filter((prompt) => prompt.image).map((prompt) => [`${prompt.image_sha256} ${prompt.image}`, prompt]));
  if (each.size === 0) return { chosen: () => null, fields: [] };
  const none = run.prompts.some((prompt) => !prompt.image) ? [["", "none"]] : [];
  const field = choice(run.labels.image, [...none, ...[...each.values()].map(({ id, image }) => [id, image])], now.image ? now.id : "", show, { name: "picture" });
  const gone = el("p", { class: "quiet", hidden: true }, "This picture is not in the run: sweep its plan once more to keep it.");
  const thumbnail = el("img", { class: "thumbnail", alt: "The picture", on: { error: () => { thumbnail.hidden = true; gone.hidden = false; } } });
  function show(id) {
    thumbnail.hidden = !id;
    gone.hidden = true;
    if (id) thumbnail.src = `/images/${id}`;
  }
  show(now.image ? now.id : "");
  return { chosen: () => Number(field.querySelector("select").value) || null, fields: [field, thumbnail, gone] };
}

const OF_STG = ["layers", "skip", "strength", "normalize", "every", "start", "stop", "orthogonalize"];
const SCALES = ["stg_scale", "spatial_scale", "temporal_scale"];

// What a preset says, so that it is not taken from the setting that a trial starts from.
const OF_PRESET = [...OF_STG, ...SCALES, "guidance_scale", "rescale", "term", "slg_layers", "random_share", "schedule", "nag", "guidance"];

/** Without what is empty, and without what has no effect where STG is off. Layers without any scale have the preset's. */
function allowed(parameters) {
  const isOn = parameters.preset || SCALES.some((name) => parameters[name]) || (parameters.layers && SCALES.every((name) => parameters[name] == null));
  const isIdle = (name) => (OF_STG.includes(name) && !isOn) || (name === "rescale" && !isOn && !parameters.term);
  return Object.fromEntries(Object.entries(parameters).filter(([name, value]) => value != null && name !== "model" && !isIdle(name)));
}

/** The terms of a setting that the fields cannot say, as lines of `--term`. */
function termLines(setting) {
  if (!setting.parameters.guidance) return "";
  return (setting.guidance.terms ?? []).map((term) => Object.entries(term).map(([name, value]) => `${name}=${part(value)}`).join(" ")).join("\n");
}

function part(value) {
  return Array.isArray(value) ? value.join(",") : value?.random ? `random:${value.random}` : String(value);
}

/** NAG as `--nag` takes it: "5 tau=2.5". */
function nag({ scale, ...parts }) {
  return [short(scale), ...Object.entries(parts).map(([key, value]) => `${key}=${part(value)}`)].join(" ");
}

/** A rule of CFG as `--cfg-rule` takes it: "apg eta=0.2". */
function rule({ name, ...parts }) {
  return [name, ...Object.entries(parts).map(([key, value]) => `${key}=${part(value)}`)].join(" ");
}

function lines(text) {
  const found = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return found.length ? found : null;
}

function written(value) {
  if (value?.name) return rule(value);
  if (value?.scale !== undefined) return nag(value);
  return value == null ? "" : Array.isArray(value) ? value.join(", ") : String(value);
}

function numbers(inputs) {
  return Object.fromEntries(Object.entries(inputs).map(([name, input]) => {
    const text = input.value.trim();
    if (!text) return [name, null];
    if (name === "layers") return [name, text.split(/[\s,]+/).join(",")]; // read there as everywhere: 8, 7-9, single:3
    return [name, Number.isFinite(Number(text)) ? Number(text) : text]; // the server says what a number must be
  }));
}

async function watch(queue, reload) {
  clearTimeout(timer);
  try {
    const trials = await ask("GET", "/api/trials");
    const over = trials.filter((trial) => trial.state === "done" && !shown.has(trial.id));
    const isFirst = !queue.dataset.watched;
    queue.dataset.watched = "yes";
    for (const trial of over) shown.add(trial.id);
    if (over.length && !isFirst) await reload();
    list(queue, trials, reload);
  } catch (error) {
    if (!error.isPassing) say(error.message); // of a server that is away the page tells anyhow
  }
  if (queue.isConnected) timer = setTimeout(() => watch(queue, reload), POLL);
}

/** The newest first. What is there stays there, so that its buttons can be hit. */
function list(queue, trials, reload) {
  if (!queue.firstChild) queue.append(el("h2", {}, "Asked for"), el("p", { class: "quiet" }, "The first video takes longer: the model is loaded."));
  const shownNow = [...queue.querySelectorAll("article")].filter((article) => !article.dataset.lost);
  const known = new Map(shownNow.map((article) => [article.id, article]));
  for (const trial of trials) {
    const article = known.get(`trial-${trial.id}`) ?? line(trial);
    known.delete(article.id);
    if (!article.isConnected) queue.querySelector("p").after(article);
    refresh(article, trial, reload);
  }
  for (const gone of known.values()) drop(gone);
}

/** A trial that the server has no more: an old one, or one that ended with a server before. */
function drop(article) {
  if (!["waiting", "running"].includes(article.dataset.state)) return article.remove();
  const [, , progress, words, actions] = article.children;
  article.dataset.state = "failed";
  article.dataset.lost = "yes";
  words.textContent = "lost: the studio was started anew meanwhile. Ask for it again.";
  progress.hidden = true;
  return actions.replaceChildren(button("Close", () => article.remove()));
}

function line(trial) {
  return el("article", { class: "trial", id: `trial-${trial.id}` },
    el("b"), el("p", { class: "quiet" }, [trial.ask.prompt, trial.image, `seed ${trial.ask.seed}`].filter(Boolean).join(" · ")), el("progress"), el("p", { class: "told" }), el("div"));
}

function refresh(article, trial, reload) {
  const [name, , progress, words, actions] = article.children;
  name.textContent = trial.name;
  words.textContent = told(trial);
  progress.hidden = trial.state !== "running";
  progress.max = trial.steps || 1;
  if (trial.steps) progress.value = trial.step;
  if (article.dataset.state === trial.state) return;
  article.dataset.state = trial.state;
  const cancel = () => ask("DELETE", `/api/trials/${trial.id}`).catch((error) => say(error.message));
  actions.replaceChildren(...[
    ["waiting", "running"].includes(trial.state) ? button("Cancel", cancel) : null,
    trial.state === "done" ? button("See it", async () => show(trial, await reload())) : null,
  ].filter(Boolean));
}

function told(trial) {
  if (trial.state !== "running") return trial.error ? `${trial.state}: ${trial.error}` : trial.state;
  if (!trial.steps) return "loading the model, checking the setting";
  return trial.step < trial.steps ? `step ${trial.step} of ${trial.steps}, ${Math.ceil(trial.seconds_left)} s left` : "decoding";
}

function show(trial, run) {
  const clip = run.clips.find((entry) => entry.key === trial.key);
  if (!clip) return say("The video is not in the run any more.");
  const others = state.slots.map((slot) => slot.setting).filter((id) => id !== clip.setting && run.clipAt(clip.prompt, clip.seed, id));
  return update({ view: "clips", mode: "grid", prompts: [clip.prompt], seeds: [clip.seed], slots: slotsOf([...others, clip.setting]) });
}

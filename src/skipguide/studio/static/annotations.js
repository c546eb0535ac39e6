// Tags and notes on clips and on the run: to see, to choose clips by, to write.

import { button, el } from "studio/dom.js";
import { ask, isReport } from "studio/source.js";
import { slotsOf, state, update } from "studio/state.js";
import { titleOf } from "studio/words.js";

let before = null; // what was chosen before the clips of a tag were

/** What a clip says of itself beside its title; a click opens it to read or write. */
export function mark(run, clip, setting) {
  if (!clip) return null;
  const isEmpty = clip.tags.length === 0 && !clip.note;
  if (isEmpty && !canWrite(run)) return null;
  const name = `${setting.title}: ${titleOf(run.prompt.get(clip.prompt))}, seed ${clip.seed}`;
  return el("button", {
    type: "button", class: isEmpty ? "mark empty" : "mark", title: told(clip) || "Tags and a note",
    "aria-label": `Tags and note of ${name}${isEmpty ? "" : `: ${told(clip)}`}`,
    on: { click: () => open(run, name, clip.key, clip) },
  }, clip.tags.join(", ") || (clip.note ? "note" : "+ tag"));
}

/** The note of a clip below it, where there is room. */
export function noteOf(clip) {
  return clip?.note ? el("p", { class: "written" }, clip.note) : null;
}

/** The tags of the run and of its clips, for the side. */
export function tagSection(run) {
  const counts = countTags(run);
  const { tags, note } = run.written;
  if (!canWrite(run) && counts.size + tags.length + note.length === 0) return null;
  const write = canWrite(run)
    ? button("write", () => open(run, run.name, null, run.written), { id: "write-run" }) : null;
  const chips = [...counts].map(([tag, count]) => button(`${tag} ${count}`,
    () => choose(run, tag), { pressed: state.tag === tag, "data-tag": tag }));
  return el("section", { id: "tags" }, el("h2", {}, "Tags and notes", write),
    tags.length ? el("p", { class: "run-tags" }, tags.join(", ")) : null,
    note ? el("p", { class: "written" }, note) : null,
    el("div", { class: "chips" }, chips));
}

/** Find the rows of the chosen tag; where there is none among what is shown, all are shown. */
export function followTag(run) {
  const clips = state.tag === null ? [] : run.clips.filter(({ tags }) => tags.includes(state.tag));
  state.tagged = new Set(clips.map(({ prompt, seed }) => `${prompt}/${seed}`));
  const isShown = ({ prompt, seed }) => state.prompts.includes(prompt) && state.seeds.includes(seed);
  if (!clips.some(isShown)) state.tag = null;
}

export function isOutside(clip) {
  return state.tag !== null && !clip?.tags.includes(state.tag);
}

function canWrite(run) {
  return !isReport && run.votes_allowed;
}

function told({ tags, note }) {
  return [tags.join(", "), note].filter(Boolean).join("; ");
}

function countTags(run) {
  const counts = new Map();
  for (const tag of run.clips.flatMap(({ tags }) => tags)) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  return new Map([...counts].sort(([a], [b]) => a.localeCompare(b)));
}

/** Show all clips of a tag, or once more what was shown before. */
function choose(run, tag) {
  if (state.tag === tag) {
    update({ tag: null, ...before });
    return;
  }
  const { prompts, seeds, slots } = state;
  if (state.tag === null) before = { prompts, seeds, slots };
  const tagged = new Set(run.clips.filter(({ tags }) => tags.includes(tag)).map((c) => c.setting));
  update({
    tag, view: "clips", mode: "grid", prompts: run.prompts.map(({ id }) => id), seeds: [...run.seeds],
    slots: slotsOf(run.settings.map(({ id }) => id).filter((id) => tagged.has(id))),
  });
}

// --- writing --------------------------------------------------------------------------------------

function open(run, name, clip, { tags, note }) {
  const wanted = new Set(tags);
  const known = new Set([...tags, ...(clip === null ? [] : countTags(run).keys())]);
  const chips = el("div", { class: "chips" });
  const field = el("input", { id: "new-tag", maxlength: 40, placeholder: "New tag", "aria-label": "New tag" });
  const text = el("textarea", { id: "note", rows: 4, "aria-label": "Note", ".value": note, readonly: !canWrite(run) });
  const problem = el("p", { class: "problem", role: "alert" });
  const close = () => { dialog.close(); dialog.remove(); };
  const draw = () => chips.replaceChildren(...[...known].map((tag) => button(tag, () => {
    if (!wanted.delete(tag)) wanted.add(tag);
    draw();
  }, { pressed: wanted.has(tag), disabled: !canWrite(run) })));
  const add = () => {
    const tag = field.value.trim();
    if (!tag) return;
    known.add(tag);
    wanted.add(tag);
    field.value = "";
    draw();
  };
  const save = async () => {
    add();
    const changes = {
      clip, note: text.value, add: [...wanted].filter((tag) => !tags.includes(tag)),
      remove: tags.filter((tag) => !wanted.has(tag)),
    };
    try {
      await ask("POST", "/api/annotations", changes);
    } catch (error) {
      problem.textContent = error.message;
      return;
    }
    close();
    document.dispatchEvent(new Event("run-changed"));
  };
  const tagging = canWrite(run) ? el("form", {
    class: "choices", on: { submit: (event) => { event.preventDefault(); add(); } },
  }, field, el("button", {}, "Add")) : null;
  const ends = canWrite(run) ? [button("Save", save, { class: "action", id: "save" }), button("Cancel", close)]
    : [button("Close", close)];
  const dialog = el("dialog", { class: "annotation", on: { cancel: close } },
    el("h2", {}, "Tags and note"), el("p", { class: "quiet" }, name), chips, tagging, text, problem,
    el("p", { class: "choices" }, ends));
  draw();
  document.body.append(dialog);
  dialog.showModal();
}

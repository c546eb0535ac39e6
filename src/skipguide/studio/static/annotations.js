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
    on: { click: () => new Form(run, name, clip.key, clip).open() },
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
    ? button("write", () => new Form(run, run.name, null, run.written).open(), { id: "write-run" })
    : null;
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
  const isShown = ({ prompt, seed }) =>
    state.prompts.includes(prompt) && state.seeds.includes(seed);
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
  for (const tag of run.clips.flatMap(({ tags }) => tags)) {
    counts.set(tag, (counts.get(tag) ?? 0) + 1);
  }
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
  const clips = run.clips.filter(({ tags }) => tags.includes(tag));
  const tagged = new Set(clips.map(({ setting }) => setting));
  update({
    tag, view: "clips", mode: "grid",
    prompts: run.prompts.map(({ id }) => id), seeds: [...run.seeds],
    slots: slotsOf(run.settings.map(({ id }) => id).filter((id) => tagged.has(id))),
  });
}

// --- writing -------------------------------------------------------------------------------------

/** The dialog for one clip, or for the run where `clip` is null. */
class Form {
  constructor(run, name, clip, { tags, note }) {
    Object.assign(this, { name, clip, tags, note, isOpen: canWrite(run) });
    this.wanted = new Set(tags);
    this.known = new Set([...tags, ...(clip === null ? [] : countTags(run).keys())]);
    this.chips = el("div", { class: "chips" });
    this.field = el("input", {
      id: "new-tag", maxlength: 40, placeholder: "New tag", "aria-label": "New tag",
    });
    this.text = el("textarea", {
      id: "note", rows: 4, "aria-label": "Note", ".value": note, readonly: !this.isOpen,
    });
    this.problem = el("p", { class: "problem", role: "alert" });
  }

  open() {
    const submit = (event) => { event.preventDefault(); this.#add(); };
    const tagging = el("form", { class: "choices", on: { submit } }, this.field,
      el("button", {}, "Add"));
    const save = button("Save", () => this.#save(), { class: "action", id: "save" });
    const close = button(this.isOpen ? "Cancel" : "Close", () => this.#close());
    this.dialog = el("dialog", { class: "annotation", on: { cancel: () => this.#close() } },
      el("h2", {}, "Tags and note"), el("p", { class: "quiet" }, this.name), this.chips,
      this.isOpen && tagging, this.text, this.problem,
      el("p", { class: "choices" }, this.isOpen && save, close));
    this.#draw();
    document.body.append(this.dialog);
    this.dialog.showModal();
  }

  #close() {
    this.dialog.close();
    this.dialog.remove();
  }

  #draw() {
    const toggle = (tag) => () => {
      if (!this.wanted.delete(tag)) this.wanted.add(tag);
      this.#draw();
    };
    this.chips.replaceChildren(...[...this.known].map((tag) =>
      button(tag, toggle(tag), { pressed: this.wanted.has(tag), disabled: !this.isOpen })));
  }

  #add() {
    const tag = this.field.value.trim();
    if (!tag) return;
    this.known.add(tag);
    this.wanted.add(tag);
    this.field.value = "";
    this.#draw();
  }

  async #save() {
    this.#add(); // what is typed and not added yet
    const add = [...this.wanted].filter((tag) => !this.tags.includes(tag));
    const remove = this.tags.filter((tag) => !this.wanted.has(tag));
    try {
      const { clip, text } = this;
      const note = text.value === this.note ? null : text.value; // somebody else's stays
      await ask("POST", "/api/annotations", { clip, note, add, remove });
    } catch (error) {
      this.problem.textContent = error.message;
      return;
    }
    this.#close();
    document.dispatchEvent(new Event("run-changed"));
  }
}

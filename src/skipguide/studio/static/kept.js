// What a rater's browser keeps: who votes here, and answers until the server has them.

const RATERS = "skipguide-raters"; // [{name, key, code}], the last one first
const UNSENT = "skipguide-unsent"; // [{run, body}], the oldest first
const NOW = "skipguide-rater-now"; // whose turn it is in this tab, over a reload
const AGREED = "skipguide-agreed"; // hashes of the texts of consent that were accepted here
const MOST = 6; // raters

const memory = new Map(); // of a browser that keeps nothing

function read(name, store) {
  try {
    return JSON.parse(store().getItem(name)) ?? memory.get(name);
  } catch {
    return memory.get(name);
  }
}

/** A list that is kept for good; empty where something else stands in its place. */
function listOf(name) {
  const found = read(name, always);
  return Array.isArray(found) ? found : [];
}

function write(name, value, store) {
  memory.set(name, value);
  try {
    store().setItem(name, JSON.stringify(value));
  } catch { /* as above */ }
}

const always = () => localStorage, here = () => sessionStorage;

export function knownRaters() {
  return listOf(RATERS);
}

export function keepRater(rater) {
  const others = knownRaters().filter(({ name }) => name !== rater.name);
  write(RATERS, [rater, ...others].slice(0, MOST), always);
  write(NOW, rater.name, here);
}

/** Who votes in this tab already, where the page was loaded again. */
export function raterHere() {
  const name = read(NOW, here);
  return knownRaters().find((rater) => rater.name === name) ?? null;
}

/** Whether this text of consent was accepted in this browser. */
export function hasAgreed(hash) {
  return listOf(AGREED).includes(hash);
}

export function keepAgreed(hash) {
  write(AGREED, [hash, ...listOf(AGREED)].slice(0, 2 * MOST), always);
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is for https alone
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Answers of a run that the server is not known to have. */
export function unsent(run) {
  return listOf(UNSENT).filter((entry) => entry.run === run);
}

export function keepAnswer(run, body) {
  forget(run, body.task);
  write(UNSENT, [...listOf(UNSENT), { run, body }], always);
}

export function forget(run, task) {
  const isOther = (entry) => entry.run !== run || entry.body.task !== task;
  write(UNSENT, listOf(UNSENT).filter(isOther), always);
}

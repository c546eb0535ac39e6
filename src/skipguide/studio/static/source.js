// Where the data comes from: the server, or, in a report, the page itself.

const embedded = document.getElementById("data");

export const isReport = embedded !== null;

let known = null; // what the server has told of the run
let shown = null; // the same, with what finds its parts

/**
 * The run, with what finds its parts; `load` gets from the server what is new of it. Where nothing
 * is, it is the same object as before.
 */
export async function loadRun(load) {
  if (isReport) return indexed(JSON.parse(embedded.textContent));
  const since = known ? `?since=${known.version}` : "";
  const told = await load("GET", `/api/run${since}`);
  if (told.since && told.version === told.since) return shown;
  known = merged(known, told);
  shown = indexed(known);
  return shown;
}

/** The whole of a run from what was known of it and what has changed since. */
function merged(before, told) {
  if (!told.since) return told;
  const clips = new Map(before.clips.map((clip) => [placeOf(clip), clip]));
  for (const place of told.gone) clips.delete(place);
  for (const clip of told.clips) clips.set(placeOf(clip), clip);
  return { ...before, ...told.parts, version: told.version, clips: [...clips.values()] };
}

function placeOf({ prompt, seed, setting }) {
  return cellKey(prompt, seed, setting);
}

/** The same address in both: a folder beside the page, or a path of the server. */
function clipUrl(clip) {
  return `clips/${clip.key}${clip.suffix}`;
}

/** A clip as a player takes it; a picture is one frame of a second. */
export function playable(clip) {
  return { url: clipUrl(clip), frames: clip.frames, fps: clip.fps ?? 1, sound: clip.sound };
}

const PATIENCE = 20, PATIENCE_RUN = 120; // seconds; the whole of a large run takes some
const PASSING = [408, 425, 429, 502, 503, 504]; // too late, too early, too many, a busy proxy or disk

/** A request that failed. It is passing where the same request may succeed a little later. */
export class Failed extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    this.status = status; // 0: nothing answered
    this.wait = wait; // seconds that the server asks for
    this.isPassing = status === 0 || PASSING.includes(status);
  }
}

/** A request to the server; its word where it refuses. */
export async function ask(method, path, body = undefined) {
  const headers = { "Content-Type": "application/json" };
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers };
  const signal = AbortSignal.timeout((path.startsWith("/api/run") ? PATIENCE_RUN : PATIENCE) * 1000);
  const answer = await fetch(path, { method, credentials: "same-origin", signal, ...sent })
    .catch(() => { throw new Failed("The studio does not answer."); });
  const content = await answer.json().catch(() => ({}));
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  if (!answer.ok) throw new Failed(wordsOf(content, answer.status), answer.status, wait);
  return content;
}

function wordsOf({ error, detail }, status) {
  const words = error ?? detail ?? `the server answered ${status}.`;
  return words[0].toUpperCase() + words.slice(1);
}

function indexed(run) {
  const byId = (rows) => new Map(rows.map((row) => [row.id, row]));
  const several = new Set(run.settings.map((setting) => setting.model)).size > 1;
  const titleOf = ({ name, model }) => (several ? `${name}, ${model.split("/").at(-1)}` : name);
  const settings = run.settings.map((setting) => ({ ...setting, title: titleOf(setting) }));
  const cells = new Map(run.clips.map((clip) => [placeOf(clip), clip]));
  return {
    ...run,
    settings,
    setting: byId(settings),
    prompt: byId(run.prompts),
    clipAt: (prompt, seed, setting) => cells.get(cellKey(prompt, seed, setting)),
    measure: (name) => run.measures.find((measure) => measure.name === name),
  };
}

function cellKey(prompt, seed, setting) {
  return `${prompt}/${seed}/${setting}`;
}

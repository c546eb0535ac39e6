// Where the data comes from: the server, or, in a report, the page itself.

const embedded = document.getElementById("data");

export const isReport = embedded !== null;

/** The run, with what finds its parts; `load` gets it from the server. */
export async function loadRun(load) {
  return indexed(isReport ? JSON.parse(embedded.textContent) : await load("GET", "/api/run"));
}

/** The same address in both: a folder beside the page, or a path of the server. */
export function clipUrl(clip) {
  return `clips/${clip.key}.mp4`;
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
  const signal = AbortSignal.timeout((path === "/api/run" ? PATIENCE_RUN : PATIENCE) * 1000);
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
  const settings = run.settings.map((setting) => ({ ...setting, title: several ? `${setting.name}, ${setting.model.split("/").at(-1)}` : setting.name }));
  const cells = new Map(run.clips.map((clip) => [cellKey(clip.prompt, clip.seed, clip.setting), clip]));
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

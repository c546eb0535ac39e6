// Where the data comes from: the server, or, in a report, the page itself.

const embedded = document.getElementById("data");

export const isReport = embedded !== null;

export async function loadRun() {
  const run = isReport ? JSON.parse(embedded.textContent) : await ask("GET", "/api/run");
  return indexed(run);
}

/** The same address in both: a folder beside the page, or a path of the server. */
export function clipUrl(clip) {
  return `clips/${clip.key}.mp4`;
}

/** A request to the server; its word where it refuses. */
export async function ask(method, path, body = undefined) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await fetch(path, { method, credentials: "same-origin", ...sent });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? inWords(content.detail) ?? `the server answered ${answer.status}`);
  return content;
}

function inWords(detail) {
  if (!Array.isArray(detail)) return detail;
  return detail.map((entry) => `${entry.loc?.at(-1)}: ${entry.msg}`).join("; ");
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

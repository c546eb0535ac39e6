// The way to a new test: the link for raters, and who can open it.

import { button, choice, el, say } from "studio/dom.js";
import { state } from "studio/state.js";

let kind = "pair";

export function invitation(run) {
  const ids = [...new Set(state.slots.map((slot) => slot.setting))];
  const names = ids.map((id) => run.setting.get(id).title).join(", ");
  const link = () => linkOf(run, ids);
  const start = el("a", { href: link(), target: "_blank", class: "action", id: "start-test" },
    "Open the test");
  const written = el("input", {
    type: "text", readonly: true, class: "link", id: "test-link",
    "aria-label": "The link for raters", ".value": link(), on: { focus: () => written.select() },
  });
  // Browsers have a clipboard on https and on this machine only: else the link is marked.
  const copy = async () => {
    written.select();
    await navigator.clipboard?.writeText(written.value).then(() => say("Copied."), () => {});
  };
  const kinds = [
    ["pair", "which of two is better"], ["rating", "five questions on one video, 1 to 5"],
  ];
  const update = (value) => {
    kind = value;
    start.href = written.value = link();
  };
  return el("section", { class: "panel" },
    el("h2", {}, "A blind test"),
    el("p", {}, `Of the settings that are chosen: ${names}. Names are hidden, order and sides are`
      + " random for each rater. Give the link to every rater; each can stop and go on at any"
      + " time."),
    el("p", { class: "choices" }, choice("Ask", kinds, kind, update, { id: "kind" }), start),
    el("p", { class: "choices" }, written, button("Copy the link", copy)),
    el("p", { class: "quiet", id: "reach" }, whoCanOpen(run)));
}

/** The link under a name that others reach, where the page itself was opened on this machine. */
function linkOf(run, ids) {
  const query = new URLSearchParams({ token: run.token_for_raters });
  const test = new URLSearchParams({ kind, settings: ids.join(",") });
  const link = new URL(`vote?${query}#${test}`, location.href);
  const [host] = run.hosts_for_raters;
  if (isHere(location.hostname) && host) link.hostname = host.includes(":") ? `[${host}]` : host;
  return link.href;
}

function isHere(name) {
  return name === "localhost" || name.startsWith("127.") || name === "[::1]";
}

function whoCanOpen(run) {
  const isAlone = isHere(location.hostname) && run.hosts_for_raters.length === 0;
  const opens = "It opens this test and nothing else of the studio.";
  const [name] = run.names_for_raters;
  if (isAlone && name) {
    return `This link opens on this machine only. Open this page under ${name}, and the link is for`
      + ` everybody who reaches that. ${opens}`;
  }
  if (!isAlone) return `Everybody who reaches this machine over the network can open it. ${opens}`;
  return [
    el("b", {}, "Nobody else can open this link: the studio listens on this machine only."),
    " For raters on other computers and phones, end the studio and start it again with ",
    el("code", {}, "--host 0.0.0.0"),
    `: then the link has this machine's address in its network. ${opens}`,
  ];
}

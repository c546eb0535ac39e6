// The way to a test: the link for raters with its QR code, and who can open it.

import { button, choice, el, say, sentence } from "studio/dom.js";
import { state } from "studio/state.js";

let kind = "pair";

export function invitation(run) {
  const race = run.study ? null : raceOf(run);
  const ids = race ? race.ids : [...new Set(state.slots.map((slot) => slot.setting))];
  if (race) kind = "pair";
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
  const code = qrCode(link());
  const kinds = [
    ["pair", "which of two is better"], ["rating", "five questions on one video, 1 to 5"],
  ];
  const update = (value) => {
    kind = value;
    start.href = written.value = link();
    code.show(link());
  };
  const ask = run.study || race ? null : choice("Ask", kinds, kind, update, { id: "kind" });
  return el("section", { class: "panel" },
    el("h2", {}, run.study ? `Study ${run.study.number}` : race ? "The race of this tuning"
      : "A blind test"),
    el("p", {}, run.study ? describeStudy(run.study) : race ? sentence(describeRace(race))
      : describeTest(run, ids)),
    el("p", { class: "choices" }, ask, start),
    el("p", { class: "choices" }, written, button("Copy the link", copy)),
    code.root,
    el("p", { class: "quiet", id: "reach" }, run.sharing ? whoIsOutside(run) : whoCanOpen(run)));
}

function describeTest(run, ids) {
  const names = ids.map((id) => run.setting.get(id).title).join(", ");
  return `Of the settings that are chosen: ${names}. Names are hidden, order and sides are`
    + " random for each rater. Give the link to every rater; each can stop and go on at any"
    + " time.";
}

/** What `skipguide tune --votes` asks for now; null where it asks for nothing. */
function raceOf(run) {
  const asked = run.tune?.race?.votes;
  if (!asked || !run.tune.votes) return null;
  const ids = run.settings.filter(({ name }) => asked.names.includes(name)).map(({ id }) => id);
  return ids.length > 1 ? { ids, ...run.tune.votes } : null;
}

function describeRace({ votes, more_votes: more, over, why }) {
  const have = `${votes} vote${votes === 1 ? " is" : "s are"} there`;
  if (over) return `${have}. ${why} Start the same \`skipguide tune\` again: it goes on from there.`;
  return `${have}${more ? `, about ${more} more are expected to be needed` : ""}. Each rater is shown`
    + " the pair whose answer tells most of which setting is the best, on the prompt on which that"
    + " pair was judged least often. Names are hidden, and sides are random.";
}

function describeStudy(study) {
  const what = study.kind === "pair" ? "pairs" : "videos";
  const checks = study.checks ? ` and ${study.checks} attention checks` : "";
  const consent = study.consent
    ? ` Each accepts the text of consent ${study.consent.slice(0, 12)} first.` : "";
  return `Each rater judges ${study.tasks} ${what}${checks} of ${study.settings.join(", ")}.`
    + ` ${study.begun_by} of at most ${study.most_raters} raters have begun.${consent}`
    + (study.checks ? ` ${study.rule}` : "");
}

/** The link under a name that others reach, where the page itself was opened on this machine. */
function linkOf(run, ids) {
  const test = run.study ? "" : `#${new URLSearchParams({ kind, settings: ids.join(",") })}`;
  if (run.sharing) return run.sharing.link + test;
  const query = new URLSearchParams({ token: run.token_for_raters });
  const link = new URL(`vote?${query}${test}`, location.href);
  const [host] = run.hosts_for_raters;
  if (isHere(location.hostname) && host) link.hostname = host.includes(":") ? `[${host}]` : host;
  return link.href;
}

/** The QR code of a link, closed at first: what a camera sees on a screen, it opens. */
function qrCode(link) {
  const picture = el("img", { class: "qr", width: 200, height: 200, alt: "QR code of the link" });
  const files = el("span", { class: "choices" });
  const root = el("details", { id: "qr" }, el("summary", {}, "QR code for phones"), picture, files);
  const show = (text) => {
    const address = (ending) => `/qr.${ending}?${new URLSearchParams({ text })}`;
    picture.dataset.src = address("svg");
    if (root.open) picture.src = picture.dataset.src;
    files.replaceChildren(...["svg", "png"].map((ending) => el("a",
      { href: address(ending), download: `raters.${ending}` }, `As ${ending.toUpperCase()}`)));
  };
  root.addEventListener("toggle", () => { if (root.open) picture.src = picture.dataset.src; });
  show(link);
  return { root, show };
}

function isHere(name) {
  return name === "localhost" || name.startsWith("127.") || name === "[::1]";
}

function whoIsOutside({ sharing }) {
  const opens = "The link opens this test and nothing else of the studio.";
  if (!sharing.fingerprint) return `${sharing.told} ${opens}`;
  const own = sharing.tls === "self-signed" ? " Browsers warn of it once, because nobody else has"
    + " signed it: raters compare this fingerprint, and go on." : "";
  return [
    `${sharing.told} ${opens} TLS certificate, valid until ${sharing.until.slice(0, 10)}, SHA-256: `,
    el("code", { id: "fingerprint" }, sharing.fingerprint), `.${own}`,
  ];
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
    el("code", {}, "--share lan"),
    `: then they reach the test, and nothing else, in this machine's network. ${opens}`,
  ];
}

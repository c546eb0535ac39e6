// Which video is heard: none before a click or a key, as browsers want it, and never more than one.

import { el, svg } from "studio/dom.js";

const SPEAKER = "M2 6h3l4-3v10l-4-3H2z";
const WAVES = "M11 5.5a3.6 3.6 0 0 1 0 5M12.6 3.4a6.6 6.6 0 0 1 0 9.2";
const CROSS = "M11.5 6l4 4M15.5 6l-4 4";

/** A button that lets a video be heard and no other; `press` is told whether it shall be. */
export function speaker(player, name, press) {
  const shown = svg("path", { class: "strokes", d: CROSS });
  const node = el("button", {
    type: "button", class: "speaker", "aria-pressed": "false", "aria-label": `Hear ${name}`,
    on: { click: () => press(!player.isHeard) },
  }, svg("svg", { viewBox: "0 0 17 16", "aria-hidden": "true" }, svg("path", { d: SPEAKER }), shown));
  player.onheard = (isHeard) => {
    node.setAttribute("aria-pressed", String(isHeard));
    shown.setAttribute("d", isHeard ? WAVES : CROSS);
  };
  player.onheard(player.isHeard);
  return node;
}

/** The first video that has a sound is heard, then the next one, and after the last one none. */
export function hearNext(transport) {
  const those = withSound(transport);
  transport.hear(those[those.indexOf(transport.heard) + 1] ?? null);
}

/** The players that have a sound, as they stand on the page. */
export function withSound(transport) {
  const those = [...transport.players].filter((player) => player.clip?.sound && player.joined);
  const isBefore = (a, b) => a.screen.compareDocumentPosition(b.screen) & Node.DOCUMENT_POSITION_FOLLOWING;
  return those.sort((a, b) => (isBefore(a, b) ? -1 : 1));
}

// The transport bar: what a person sees of the clock.

import { button, choice, el } from "studio/dom.js";
import { hearNext } from "studio/hearing.js";
import { MODES, state, update } from "studio/state.js";
import { SPEEDS } from "studio/transport.js";
import { fullSize, resetZoom, zoomBy } from "studio/zoom.js";

/** Fill the bar, and keep it up to date with the clock. */
export function controls(root, transport) {
  const play = button("Play", () => transport.toggle(), { key: "space", id: "play" });
  const loop = button("Loop", () => transport.set({ loop: !transport.loop }), { key: "l", pressed: true, id: "loop" });
  const sound = button("Sound", () => hearNext(transport), {
    key: "h", pressed: false, hidden: true, id: "sound", title: "Hear the first video, the next one, none",
  });
  const scrub = el("input", {
    type: "range", id: "scrub", min: 0, step: 1, "aria-label": "Frame",
    on: { input: () => { transport.playing = false; transport.seek(Number(scrub.value)); } },
  });
  const place = el("output", { id: "place", class: "number" });
  const drift = el("output", { id: "drift", class: "number quiet", title: "Largest distance between two videos, in frames" });
  const speed = choice("Speed", SPEEDS.map((value) => [value, `${value}×`]), 1,
    (value) => transport.set({ speed: Number(value) }), { id: "speed", title: "Slower [, faster ]" });
  const modes = MODES.map((mode) => button(mode[0].toUpperCase() + mode.slice(1), () => update({ mode }), { key: mode[0], "data-mode": mode }));
  const numbers = button("Numbers", () => update({ details: !state.details }), { key: "i", pressed: false });
  root.replaceChildren(
    play,
    button("‹", () => transport.step(-1), { class: "step", title: "One frame back (←)", "aria-label": "One frame back" }),
    button("›", () => transport.step(1), { class: "step", title: "One frame on (→)", "aria-label": "One frame on" }),
    scrub, place, drift,
    el("span", { class: "more" }, speed, loop, sound,
      el("span", { class: "group", role: "group", "aria-label": "Way to compare" }, modes),
      numbers,
      el("span", { class: "group", role: "group", "aria-label": "Zoom" },
        button("−", () => zoomBy(0.5), { title: "Smaller (-)", "aria-label": "Smaller" }),
        button("All", resetZoom, { title: "All of it (0)" }),
        button("1:1", fullSize, { title: "Full size: a pixel of it is one of the screen (f)" }),
        button("+", () => zoomBy(2), { title: "Larger (+)", "aria-label": "Larger" }))),
  );
  const speeds = speed.querySelector("select");
  transport.onchange = () => { // on each frame of the page
    const { frame, frames } = transport; // the second looks at all players
    play.firstChild.data = transport.playing ? "Pause" : "Play";
    loop.setAttribute("aria-pressed", String(transport.loop));
    document.body.classList.toggle("stills", transport.isStill);
    sound.hidden = ![...transport.players].some((player) => player.clip?.sound);
    sound.setAttribute("aria-pressed", String(transport.heard !== null));
    scrub.max = frames - 1;
    scrub.value = frame;
    place.textContent = `${frame + 1} / ${frames} · ${(frame / transport.fps).toFixed(2)} s`;
    drift.textContent = `drift ${transport.drift}`;
    speeds.value = String(transport.speed);
    numbers.setAttribute("aria-pressed", String(state.details));
    for (const entry of modes) entry.setAttribute("aria-pressed", String(entry.dataset.mode === state.mode));
  };
}

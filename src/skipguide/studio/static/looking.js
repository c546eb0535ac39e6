// How a rater looks at pictures: buttons and keys that zoom and move all of them together.

import { button } from "studio/dom.js";
import { fullSize, panBy, resetZoom, zoomBy } from "studio/zoom.js";

const PAN = 0.1; // of a picture, per key

/** What a key does on pictures that are compared; nothing for other keys. */
export function doingOnPictures(key, shiftKey) {
  const moves = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] };
  if (shiftKey && key in moves) return () => panBy(...moves[key]);
  const others = {
    "+": () => zoomBy(2), "=": () => zoomBy(2), "-": () => zoomBy(0.5), 0: resetZoom, f: fullSize,
  };
  return others[key] ?? null;
}

/** The buttons below pictures. */
export function zooms() {
  return [
    button("−", () => zoomBy(0.5), { title: "Smaller (-)", "aria-label": "Smaller" }),
    button("All", resetZoom, { title: "All of it (0), or a double click" }),
    button("1:1", fullSize, { title: "Full size: a pixel of it is one of the screen (f)" }),
    button("+", () => zoomBy(2), { title: "Larger (+), or the wheel", "aria-label": "Larger" }),
  ];
}

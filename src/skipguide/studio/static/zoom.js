// One zoom and one place for all videos and pictures: three variables of the style sheet.

import { followPointer } from "studio/dom.js";

const LARGEST = 16;
const view = { scale: 1, x: 0, y: 0 }; // x and y in parts of a video's size

export function zoomBy(factor, at = { x: 0.5, y: 0.5 }) {
  const scale = Math.min(Math.max(view.scale * factor, 1), LARGEST);
  const kept = scale / view.scale; // what is under the pointer stays there
  view.x = at.x - (at.x - view.x) * kept;
  view.y = at.y - (at.y - view.y) * kept;
  view.scale = scale;
  apply();
}

/** So large that a pixel of the first clip in the window is one of the screen; all of it if that is larger. */
export function fullSize() {
  for (const shown of document.querySelectorAll(".screen .pan :is(img, video)")) {
    const { width } = shown.closest(".screen").getBoundingClientRect();
    const pixels = shown.naturalWidth ?? shown.videoWidth;
    if (pixels && width) return zoomBy(pixels / (width * devicePixelRatio) / view.scale);
  }
  return undefined;
}

export function panBy(x, y) {
  view.x += x;
  view.y += y;
  apply();
}

export function resetZoom() {
  Object.assign(view, { scale: 1, x: 0, y: 0 });
  apply();
}

function apply() {
  const least = 1 - view.scale;
  view.x = Math.min(Math.max(view.x, least), 0);
  view.y = Math.min(Math.max(view.y, least), 0);
  const { style, classList } = document.documentElement;
  style.setProperty("--zoom", view.scale);
  style.setProperty("--pan-x", `${view.x * 100}%`);
  style.setProperty("--pan-y", `${view.y * 100}%`);
  classList.toggle("zoomed", view.scale > 1);
}

/**
 * Let a person zoom with Ctrl and the wheel or a double click, and drag, on the videos within an
 * element; on pictures with the wheel alone, where it has no rows to scroll.
 */
export function zoomable(root) {
  root.addEventListener("wheel", (event) => {
    const screen = event.target.closest(".screen");
    if (!screen || !(event.ctrlKey || event.metaKey || isFree(screen))) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), placeIn(screen, event));
  }, { passive: false });
  root.addEventListener("dblclick", (event) => {
    const screen = event.target.closest(".screen");
    if (!screen) return;
    if (view.scale > 1) resetZoom();
    else zoomBy(4, placeIn(screen, event));
  });
  root.addEventListener("pointerdown", (event) => drag(event));
}

function isFree(screen) {
  return screen.querySelector("img") !== null && !screen.closest(".rows");
}

function placeIn(screen, event) {
  const box = screen.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

function drag(event) {
  const screen = event.target.closest(".screen");
  if (!screen || view.scale === 1 || event.button !== 0 || event.target.closest(".divider")) return;
  const box = screen.getBoundingClientRect();
  let { clientX, clientY } = event;
  const move = (next) => {
    panBy((next.clientX - clientX) / box.width, (next.clientY - clientY) / box.height);
    ({ clientX, clientY } = next);
  };
  followPointer(move);
}

// Going on while the server is away: a line that says so, and requests that are made until they
// are answered.

import { button, el } from "studio/dom.js";
import { ask } from "studio/source.js";

const WAITS = [0.5, 1, 2, 4, 8]; // seconds after each try; the last one from then on

const words = el("span");
const line = el("p", { id: "away", role: "status", hidden: true }, words,
  button("Try now", () => wake()));
let wake = () => {};

/** Say that something is away until `isBack`; the line takes the place of the one before. */
export function away(text) {
  if (!line.isConnected) document.body.prepend(line);
  if (words.textContent !== text) words.textContent = text;
  line.hidden = false;
}

export function isBack() {
  line.hidden = true;
}

/** Wait, but not longer than until the network, the page or the person is there again. */
export function pause(seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, seconds * 1000);
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      document.removeEventListener("visibilitychange", done);
      resolve();
    }
    wake = done;
    addEventListener("online", done);
    document.addEventListener("visibilitychange", done);
  });
}

/** Ask until there is an answer. What the server refuses for good is thrown. */
export async function insist(method, path, body, meanwhile = "It is tried again by itself.") {
  for (let tries = 0; ; tries += 1) {
    try {
      const found = await ask(method, path, body);
      isBack();
      return found;
    } catch (error) {
      if (!error.isPassing) {
        isBack();
        throw error;
      }
      away(`${error.message} ${meanwhile}`);
      await pause(Math.max(WAITS[Math.min(tries, WAITS.length - 1)], error.wait));
    }
  }
}

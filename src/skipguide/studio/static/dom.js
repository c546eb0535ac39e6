// Elements from data. Text becomes text: nothing in here, or anywhere in the studio, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `on` holds its listeners, what begins with "." is set as a property, the rest as attributes. */
export function el(tag, given = {}, ...children) {
  return filled(document.createElement(tag), given, children);
}

export function svg(tag, given = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), given, children);
}

function filled(node, { on = {}, ...given }, children) {
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith(".")) node[name.slice(1)] = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** A button that says which key does the same. */
export function button(label, click, { key = "", pressed = null, ...given } = {}) {
  const hint = key ? [" ", el("kbd", {}, key)] : [];
  const state = pressed === null ? {} : { "aria-pressed": String(pressed) };
  return el("button", { type: "button", ...state, ...given, on: { click } }, label, ...hint);
}

/** A labelled choice. Options are [value, text]. */
export function choice(label, options, value, change, given = {}) {
  const select = el(
    "select",
    { ...given, on: { change: () => change(select.value) } },
    options.map(([key, text]) => el("option", { value: key, ".selected": String(key) === String(value) }, text)),
  );
  return el("label", {}, label, " ", select);
}

/** A sentence, with what stands in `backquotes` as a command. */
export function sentence(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

/** Any value of a setting in words; a number as short as it can be read. */
export function short(value) {
  if (value == null) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(short).join(value.some(hasParts) ? "; " : ", ");
  if (hasParts(value)) return parts(value);
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 100 ? value.toFixed(1) : String(+value.toPrecision(3));
}

function hasParts(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What has parts, as a rule of CFG or a restart: "apg, eta 0.2", "window 0.4 to 0.6, repeats 2". */
function parts({ name, ...others }) {
  const isRange = (key, value) => ["window", "sigma"].includes(key) && value?.length === 2;
  const told = Object.entries(others).map(([key, value]) =>
    `${key.replaceAll("_", " ")} ${isRange(key, value) ? value.map(short).join(" to ") : short(value)}`);
  return [...(name == null ? [] : [String(name)]), ...told].join(", ");
}

/** Ask before something that cannot be undone; true if the person wants it. */
export function confirmed(question, words) {
  return new Promise((resolve) => {
    const end = (answer) => () => { dialog.close(); dialog.remove(); resolve(answer); };
    const dialog = el("dialog", { class: "confirm", on: { cancel: end(false) } }, el("p", {}, question),
      el("p", { class: "choices" }, button(words, end(true), { class: "action", id: "confirmed" }), button("Keep", end(false))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Draw anew, and give the keyboard back to what took the place of what had it. */
export function keepingFocus(draw) {
  const places = [];
  for (let node = document.activeElement; node && node !== document.body; node = node.parentElement) {
    places.unshift([...node.parentElement.children].indexOf(node));
  }
  draw();
  if (document.activeElement !== document.body) return;
  const found = places.reduce((node, place) => node?.children[place], document.body);
  if (found && places.length) found.focus({ preventScroll: true });
}

/** Follow the pointer until it is let go, or the browser takes it to scroll. */
export function followPointer(move) {
  const end = new AbortController();
  const { signal } = end;
  addEventListener("pointermove", move, { signal });
  for (const name of ["pointerup", "pointercancel"]) {
    addEventListener(name, () => end.abort(), { signal });
  }
}

let timer = 0;

/** A word to the person, for a few seconds, or until they have read it or gone on. */
export function say(text, seconds = 6) {
  const message = document.getElementById("message");
  message.replaceChildren(el("span", {}, text),
    el("button", { type: "button", "aria-label": "Close", on: { click: hush } }, "×"));
  message.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(hush, Math.min(seconds * 1000, 2 ** 31 - 1));
}

/** What was said belongs to what is not on the screen any more. */
export function hush() {
  clearTimeout(timer);
  const message = document.getElementById("message");
  message.hidden = true;
  message.replaceChildren();
}

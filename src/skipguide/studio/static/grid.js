// The grid: a row per prompt and seed, a column per chosen setting. Of many rows only those near
// the window are on the page, and only what is nearer holds a video.

import { Cell } from "studio/cell.js";
import { measureClamped } from "studio/clamp.js";
import { el } from "studio/dom.js";
import { rowsWithin, sizeOfOne, sizesOfMany } from "studio/layout.js";
import { Loader } from "studio/loader.js";
import { rows, state } from "studio/state.js";
import { promptLine, titleOf } from "studio/words.js";

const NEAR = "300px"; // around the window, where videos are loaded already
const READY = 700; // pixels around the window, where rows are on the page already

export class Grid {
  constructor(root, run, transport) {
    Object.assign(this, { root, run, transport, wanted: [], sizes: null, top: null });
    this.notice = null; // what is to be said above the videos
    this.cells = new Map(); // "row/slot" -> Cell
    this.sections = new Map(); // row -> its element
    this.loader = new Loader();
    this.rows = el("div", { class: "rows" });
    new ResizeObserver(() => this.#fit()).observe(root);
    root.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.onlooker = this.#observer({ threshold: 0.5 }, (cell, { intersectionRatio }) => {
      cell.player.seen = intersectionRatio >= 0.5;
    });
    this.watcher = this.#observer({ rootMargin: NEAR }, (cell, { isIntersecting }) => {
      if (isIntersecting !== cell.isNear) cell[isIntersecting ? "enter" : "leave"]();
    });
  }

  #observer(options, told) {
    return new IntersectionObserver((entries) => {
      for (const entry of entries) told(entry.target.closest("figure").cell, entry);
    }, { root: this.root, ...options });
  }

  /** Show what the state says; cells that stay keep their videos. */
  render() {
    this.wanted = rows();
    const isOne = this.wanted.length === 1;
    this.root.classList.toggle("one", isOne);
    if (isOne) this.#renderOne();
    else this.#renderMany();
    this.transport.onchange();
  }

  clear() {
    for (const name of [...this.cells.keys()]) this.#drop(name);
    this.sections.clear();
    this.rows.replaceChildren();
    this.wanted = [];
    this.root.replaceChildren();
  }

  #renderOne() {
    const [row] = this.wanted;
    const section = this.#section(0);
    for (const i of [...this.sections.keys()]) if (i !== 0) this.#remove(i);
    this.#dropOthers();
    this.root.replaceChildren(...this.#noticed(promptLine(this.run, row), section));
    measureClamped(this.root);
    this.#fit();
  }

  #renderMany() {
    const { top } = this; // before the page is another one
    if (this.rows.parentNode !== this.root || this.notice || this.root.childElementCount > 1) {
      this.root.replaceChildren(...this.#noticed(this.rows));
    }
    this.sizes = null;
    const kept = [...this.sections.keys()]; // the others are made as they are to be
    this.#fit();
    for (const i of kept) if (this.sections.has(i)) this.#section(i);
    this.#dropOthers();
    this.#scrollTo(top);
  }

  #noticed(...shown) {
    return [this.notice, ...shown].filter(Boolean);
  }

  /** Keep the row that was at the top there, where it is still among them. */
  #scrollTo(top) {
    const place = top ? this.wanted.findIndex((row) => isSame(row, top.row)) : -1;
    const { height, abreast } = this.sizes;
    const wanted = place < 0 ? 0 : Math.floor(place / abreast) * height + top.below * height;
    if (Math.abs(this.root.scrollTop - wanted) > 1) this.root.scrollTop = wanted;
    this.#scrolled();
  }

  #fit() {
    if (this.wanted.length === 0) return;
    const window = { width: this.root.clientWidth, height: this.root.clientHeight };
    if (this.wanted.length > 1) this.#fitMany(window);
    else {
      const cells = [...this.cells.values()].map(({ ratio, caption, numbers }) =>
        ({ ratio, text: caption.scrollHeight - (numbers?.offsetHeight ?? 0) }));
      this.root.style.setProperty("--cell", `${sizeOfOne(window, cells)}px`);
    }
  }

  #fitMany(window) {
    const before = this.sizes;
    const { top, wanted } = this;
    this.sizes = sizesOfMany(window, {
      rows: wanted.length, count: state.slots.length, size: state.size, ratio: this.#tallest(),
    });
    const { cell, columns, line, abreast, height } = this.sizes;
    const { style } = this.rows;
    for (const [name, value] of Object.entries({ cell, line })) {
      style.setProperty(`--${name}`, `${value}px`);
    }
    style.setProperty("--columns", columns);
    style.height = `${Math.ceil(wanted.length / abreast) * height}px`;
    for (const [i, section] of this.sections) this.#place(section, i);
    if (before && before.height !== height) this.#scrollTo(top);
    else this.#scrolled();
  }

  /** All rows are as high as the one with the tallest videos, so that their places are known. */
  #tallest() {
    const ratios = this.wanted.flatMap(({ prompt, seed }) => state.slots.map(({ setting }) => {
      const clip = this.run.clipAt(prompt, seed, setting);
      return clip?.width ? clip.width / clip.height : Infinity;
    }));
    const least = ratios.reduce((a, b) => Math.min(a, b), Infinity);
    return Number.isFinite(least) ? least : 1;
  }

  /** Put the rows near the window onto the page, and take the others away. */
  #scrolled() {
    if (this.wanted.length < 2 || !this.sizes) return;
    const { scrollTop, clientHeight } = this.root;
    const from = scrollTop - this.rows.offsetTop;
    const { first, last } = rowsWithin(
      this.sizes, this.wanted.length, from - READY, from + clientHeight + READY);
    for (const i of [...this.sections.keys()]) if (i < first || i >= last) this.#remove(i);
    for (let i = first; i < last; i += 1) if (!this.sections.has(i)) this.#section(i);
    const { height, abreast } = this.sizes;
    const line = Math.max(0, Math.floor(from / height));
    const row = this.wanted[Math.min(line * abreast, this.wanted.length - 1)];
    this.top = { row, below: Math.max(0, from / height - line) };
  }

  #section(i) {
    const isOne = this.wanted.length === 1;
    const row = this.wanted[i];
    if (!row) return this.#remove(i);
    const cells = state.slots.map((slot) =>
      this.#cell(`${i}/${slot.id}`).show(row, slot, isOne).figure);
    const section = this.sections.get(i) ?? el("section", { class: "row" });
    const place = isOne ? "" : `, row ${i + 1} of ${this.wanted.length}`;
    const title = `${titleOf(this.run.prompt.get(row.prompt))}, seed ${row.seed}`;
    section.setAttribute("aria-label", title + place);
    const heading = isOne ? [] : [el("h2", { title }, ...this.#heading(row))];
    section.replaceChildren(...heading, el("div", { class: "cells" }, cells));
    if (!isOne) this.#place(section, i);
    if (!isOne && section.parentNode !== this.rows) this.#insert(section, i);
    this.sections.set(i, section);
    return section;
  }

  /** In the order of the rows, for who reads or tabs through them. */
  #insert(section, i) {
    const after = [...this.sections.keys()].filter((other) => other > i);
    const next = after.length ? this.sections.get(Math.min(...after)) : null;
    this.rows.insertBefore(section, next?.parentNode === this.rows ? next : null);
  }

  #place({ style }, i) {
    const { abreast, height, share, width } = this.sizes;
    style.width = `${width}px`;
    style.top = `${Math.floor(i / abreast) * height}px`;
    style.left = `${(i % abreast) * share}px`;
  }

  #remove(i) {
    const section = this.sections.get(i);
    this.sections.delete(i);
    for (const figure of section?.querySelectorAll("figure") ?? []) this.#drop(figure.cell.name);
    section?.remove();
  }

  #cell(name) {
    if (!this.cells.has(name)) {
      const cell = new Cell(this.run, this.transport, this.loader);
      cell.name = name;
      this.cells.set(name, cell);
      this.watcher.observe(cell.figure);
      this.onlooker.observe(cell.screen);
    }
    return this.cells.get(name);
  }

  /** Cells of settings that are not shown any more. */
  #dropOthers() {
    const shown = new Set(state.slots.map((slot) => slot.id));
    for (const name of [...this.cells.keys()]) {
      const [row, slot] = name.split("/").map(Number);
      if (!shown.has(slot) || !this.sections.has(row)) this.#drop(name);
    }
  }

  #drop(name) {
    const cell = this.cells.get(name);
    if (!cell) return;
    this.watcher.unobserve(cell.figure);
    this.onlooker.unobserve(cell.screen);
    cell.leave();
    this.cells.delete(name);
  }

  #heading({ prompt, seed }) {
    return [titleOf(this.run.prompt.get(prompt)), el("small", {}, ` seed ${seed}`)];
  }
}

function isSame(row, other) {
  return row.prompt === other.prompt && row.seed === other.seed;
}

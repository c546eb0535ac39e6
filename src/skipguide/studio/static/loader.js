// Which cells near the window get a video, and when: those in the window first, a few at a time,
// so that a page that scrolls past a hundred of them stays smooth.

const MOST = 64; // videos at a time; a browser has decoders for some 75
const PER_FRAME = 2; // videos that begin to load in one frame of the page
const COMING = 8; // videos that are on their way at a time

export class Loader {
  constructor() {
    this.asked = new Set();
    this.loaded = new Set();
    this.refused = new Set();
    this.isWaiting = false;
  }

  ask(cell) {
    this.asked.add(cell);
    this.#wait();
  }

  /** It is not near any more, or has no video: there is room for another one. */
  forget(cell) {
    this.asked.delete(cell);
    this.refused.delete(cell);
    if (!this.loaded.delete(cell)) return;
    for (const other of this.refused) this.asked.add(other);
    this.refused.clear();
    if (this.asked.size) this.#wait();
  }

  #wait() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => this.#turn());
  }

  #turn() {
    this.isWaiting = false;
    const coming = [...this.loaded].filter(({ player }) => player.next && !player.failed).length;
    let room = Math.min(PER_FRAME, COMING - coming);
    const inOrder = [...this.asked].sort((a, b) => Number(b.player.seen) - Number(a.player.seen));
    for (const cell of inOrder) {
      const isNew = cell.isDone && !this.loaded.has(cell);
      if (isNew && this.loaded.size >= MOST) {
        cell.refuse(); // which forgets it
        this.refused.add(cell);
      } else if (!isNew || room > 0) {
        if (isNew) room -= 1;
        this.#start(cell);
      }
    }
    if (this.asked.size) this.#wait();
  }

  #start(cell) {
    this.asked.delete(cell);
    cell.load();
    if (cell.isDone) this.loaded.add(cell);
  }
}

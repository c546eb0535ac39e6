// The one clock of the page. All videos follow it; none leads, so none is special when it is slow or taken away. Only
// the one that is heard keeps the time, as long as it plays.

export const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

export class Transport {
  constructor() {
    this.players = new Set();
    this.position = 0.5; // in frames; the frame on the screen is its whole part
    this.playing = false;
    this.loop = true;
    this.speed = 1;
    this.together = false; // nothing moves before all videos can
    this.heard = null; // the one player that is heard
    this.onend = () => {}; // before it begins again
    this.onchange = () => {}; // after every move and every change
    this.onblocked = () => {}; // the browser plays nothing before a click
    this.before = 0;
  }

  get frame() {
    return Math.floor(this.position);
  }

  /** Of the longest clip on the page. */
  get frames() {
    return Math.max(1, ...[...this.players].map((player) => player.clip?.frames ?? 1));
  }

  /** Whether all that is on the page stands still, as pictures do. */
  get isStill() {
    const clips = [...this.players].map((player) => player.clip).filter(Boolean);
    return clips.length > 0 && clips.every(({ frames }) => frames === 1);
  }

  get fps() {
    for (const player of this.players) if (player.clip) return player.clip.fps;
    return 24;
  }

  /** Frames between the one that is furthest and the one that is last, of those in the window and not at their end. */
  get drift() {
    const moving = [...this.players].filter((player) => player.joined && player.seen && this.frame < player.last);
    const shown = moving.map((player) => player.frame).filter((frame) => frame !== null);
    return shown.length ? Math.max(...shown) - Math.min(...shown) : 0;
  }

  add(player) {
    this.players.add(player);
    player.onblocked = () => {
      if (player === this.heard) return this.hear(null); // it may play, but not aloud
      if (this.playing) this.pause();
      this.onblocked();
    };
    player.onjoin = () => { if (!this.playing) player.seek(this.frame); this.onchange(); };
  }

  remove(player) {
    this.players.delete(player);
    if (this.heard === player) this.hear(null);
  }

  play() {
    if (this.playing || this.isStill) return;
    if (this.frame >= this.frames - 1) this.seek(0);
    this.playing = true;
    this.before = performance.now();
    requestAnimationFrame((now) => this.#tick(now));
    this.onchange();
  }

  pause() {
    this.playing = false;
    this.seek(this.frame);
  }

  /** By a click or a key, in which every browser lets videos start. */
  toggle() {
    if (this.playing) return this.pause();
    for (const player of this.players) player.begin();
    return this.play();
  }

  seek(frame) {
    this.position = Math.min(Math.max(frame, 0), this.frames - 1) + 0.5;
    for (const player of this.players) player.seek(this.frame);
    this.onchange();
  }

  step(frames) {
    this.playing = false;
    this.seek(this.frame + frames);
  }

  set(changes) {
    Object.assign(this, changes);
    this.onchange();
  }

  /** Let one player be heard, or none. */
  hear(heard) {
    for (const player of new Set([this.heard, heard])) player?.hear(player === heard);
    this.heard = heard;
    this.onchange();
  }

  faster(places) {
    const place = SPEEDS.indexOf(this.speed) + places;
    this.set({ speed: SPEEDS[Math.min(Math.max(place, 0), SPEEDS.length - 1)] });
  }

  #tick(now) {
    if (!this.playing) return;
    const passed = Math.max(now - this.before, 0) / 1000;
    this.before = now;
    const players = [...this.players];
    if (this.#waits(players)) {
      for (const player of players) player.hold();
    } else {
      const rate = this.fps * this.speed, lead = this.heard?.leads ? this.heard : null;
      this.position = lead ? lead.position : this.position + passed * rate;
      if (this.position >= this.frames) this.#end();
      else for (const player of players) player === lead ? player.lead(rate) : player.follow(this.position, rate, passed);
    }
    this.onchange();
    requestAnimationFrame((later) => this.#tick(later));
  }

  /** While a video loads the others stay where they are, and a clock without any video stands. */
  #waits(players) {
    const missing = players.filter((player) => !player.joined).length;
    const lacks = this.together ? missing > 0 : missing === players.length; // of none, all lack
    return lacks || players.some((player) => player.stalled);
  }

  #end() {
    if (this.loop) {
      this.onend();
      this.seek(0);
    } else {
      this.position = this.frames - 0.5;
      this.pause();
    }
  }
}

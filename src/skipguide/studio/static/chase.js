// A video that comes while the clock runs: it waits, unseen, a little ahead of the clock, starts
// when the clock comes by, and is in step before anybody sees it.

const LEAD = 0.12; // seconds that a browser takes to go to a place, at first
const START = 0.03; // seconds that it takes to start
const CLOSE = 0.35; // frames off the clock with which it is in step
const FURTHEST = 4; // frames off before it goes to a new place
const TURNS = 2; // calls in a row that find it in step

export class Chase {
  constructor(video, fps, refused) {
    Object.assign(this, { video, fps, refused, lead: LEAD, turns: 0, isAimed: false });
  }

  /**
   * Once per frame of the page; true when the video is in step.
   * `position` is in frames, `rate` in frames per second.
   */
  follow(position, rate) {
    const { video } = this;
    if (video.seeking) return false;
    const off = video.currentTime * this.fps - position; // frames
    if (!this.isAimed || off < -FURTHEST || off > FURTHEST + 2 * this.lead * rate) {
      this.#aim(position, rate);
      return false;
    }
    if (video.paused) {
      if (off > START * rate) return false;
      video.play().catch(this.refused);
    }
    const speed = (rate / this.fps) * Math.min(Math.max(1 - off, 0.25), 4);
    video.playbackRate = Math.min(Math.max(speed, 0.07), 15);
    const isInStep = Math.abs(off) < CLOSE && video.readyState >= 3 && video.currentTime > 0;
    this.turns = isInStep ? this.turns + 1 : 0;
    return this.turns >= TURNS;
  }

  /** Go to where the clock will be when the video is there. */
  #aim(position, rate) {
    if (this.isAimed) this.lead = Math.min(this.lead * 1.5, 1);
    this.isAimed = true;
    this.video.pause();
    this.video.currentTime = (position + this.lead * rate) / this.fps;
  }
}

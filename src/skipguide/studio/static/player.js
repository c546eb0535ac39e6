// One video or picture on the page: loads it, goes to a frame, follows a clock, and knows which frame is on
// the screen. A video that comes while the clock runs is shown when it is in step, not before.

import { Chase } from "studio/chase.js";
import { isStill, still } from "studio/still.js";

const FURTHEST = 3; // frames off before it jumps instead of running faster or slower
const PATIENCE = 400; // milliseconds between two jumps

export class Player {
  /** @param screen the element that the video is put into */
  constructor(screen) {
    this.screen = screen;
    this.video = null;
    this.next = null; // the one that is coming, not yet on the screen
    this.chase = null; // of that one, while the clock runs
    this.clip = null; // {url, frames, fps, sound}
    this.frame = null; // the one on the screen
    this.drawn = new WeakMap(); // video -> the frame that it has drawn last
    this.isSeen = true;
    this.onframe = () => {};
    this.onerror = () => {}; // with the browser's reason
    this.onblocked = () => {}; // the browser plays nothing before a click
    this.wanted = 0;
    this.jumped = 0;
    this.shown = new Set(); // frames that were on the screen, at least in passing
    this.failed = false;
    this.isMoving = false; // by the clock
    this.isHeard = false; // never more than one of the page
    this.onheard = () => {}; // when that changes
  }

  /** Show a clip from a frame on; what was shown before stays until the new one can be. */
  load(clip, frame) {
    if (clip.url === this.clip?.url && !this.failed) return;
    this.clip = clip;
    this.shown = new Set();
    this.failed = false;
    if (this.next) free(this.next);
    const video = isStill(clip.url) ? still() : document.createElement("video");
    Object.assign(video, {
      muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true,
    });
    video.tabIndex = -1;
    video.classList.add("coming");
    this.next = video;
    this.chase = null;
    this.wanted = frame;
    video.addEventListener("loadeddata", () => this.#go(video), { once: true });
    video.addEventListener("seeked", () => this.#arrived(video));
    video.addEventListener("error", () => this.#failed(video));
    video.addEventListener("suspend", () => this.#prime(video));
    this.#watch(video);
    video.src = clip.url;
    this.screen.append(video);
  }

  /** Free the video and its decoder: a browser has some 75 of them for a page. */
  unload() {
    for (const video of [this.video, this.next]) if (video) free(video);
    Object.assign(this, { video: null, next: null, chase: null, clip: null, frame: null });
  }

  /** Be heard, or not any more; by a click or a key, as browsers want it. */
  hear(isHeard) {
    this.isHeard = isHeard;
    if (this.video) this.video.muted = !isHeard;
    this.onheard(isHeard);
  }

  /** Whether it keeps the time, because it is heard and plays: a sound that follows would waver. */
  get leads() {
    if (!this.isHeard || !this.joined || this.stalled || !this.clip.sound) return false;
    return this.isMoving && !this.video.paused && !this.atEnd;
  }

  get position() {
    return this.video.currentTime * this.clip.fps;
  }

  /** Play on evenly; `rate` is in frames per second. */
  lead(rate) {
    this.wanted = Math.floor(this.position);
    const speed = rate / this.clip.fps;
    if (this.video.playbackRate !== speed) this.video.playbackRate = speed;
  }

  /** Whether it shows something, so that the others wait for it. */
  get joined() {
    return this.video !== null;
  }

  /** Whether it is in the window. Browsers draw no frames of those outside. */
  get seen() {
    return this.isSeen;
  }

  set seen(isSeen) {
    if (isSeen && !this.isSeen) this.frame = null; // what it had on the screen last is long ago
    this.isSeen = isSeen;
  }

  /** How much of it has been on the screen, 0 to 1. */
  get share() {
    return this.clip ? this.shown.size / this.clip.frames : 0;
  }

  /** Start within a click, where a browser lets nothing start by itself. */
  begin() {
    const video = this.video ?? this.next;
    video?.play().then(() => this.#calm(video), () => {});
  }

  /** Whether the others should wait for it. */
  get stalled() {
    if (this.failed) return false;
    return this.joined && (this.video.seeking || (this.video.readyState < 3 && !this.atEnd));
  }

  get atEnd() {
    return this.video.currentTime >= this.#time(this.clip.frames - 1);
  }

  get last() {
    return this.clip.frames - 1;
  }

  /** Stop at a frame. */
  seek(frame) {
    this.wanted = frame;
    this.isMoving = false;
    this.chase = null;
    for (const video of [this.video, this.next]) {
      if (!video || video.readyState < 1) continue;
      if (!video.paused) video.pause();
      if (!video.seeking) this.#go(video);
    }
  }

  /**
   * Keep up with a clock. `position` is in frames, `rate` in frames per second, `passed` since the
   * last call in seconds.
   */
  follow(position, rate, passed) {
    if (this.next) this.#chase(position, rate);
    if (!this.joined) return;
    const { video, clip } = this;
    if (position >= clip.frames) {
      if (!video.paused || this.wanted !== this.last) this.seek(this.last);
      return;
    }
    this.wanted = Math.floor(position);
    this.isMoving = true;
    const off = video.currentTime * clip.fps - position;
    const isFar = Math.abs(off) > FURTHEST && !video.seeking;
    if (isFar && performance.now() - this.jumped > PATIENCE) {
      this.jumped = performance.now();
      video.currentTime = position / clip.fps;
    }
    // Where calls are rare, a larger gain would overshoot.
    const gain = Math.min(1, 0.5 / (rate * passed));
    const correction = Math.min(Math.max(1 - gain * off, 0.25), 2);
    const speed = Math.min(Math.max((rate / clip.fps) * correction, 0.07), 15);
    if (Math.abs(video.playbackRate - speed) > 0.02) video.playbackRate = speed;
    if (video.paused) video.play().catch((error) => this.#refused(error));
  }

  /** Bring the one that is coming into step with the clock, and show it then. */
  #chase(position, rate) {
    const video = this.next;
    this.wanted = Math.min(Math.floor(position), this.last);
    if (video.readyState < 1) return;
    if (position >= this.last) { // over before it is there: its last frame will do
      this.chase = null;
      return;
    }
    this.chase ??= new Chase(video, this.clip.fps, (error) => this.#refused(error));
    if (this.chase.follow(position, rate)) this.#show(video);
  }

  /** Stay where it is while another one catches up. */
  hold() {
    this.isMoving = false;
    if (this.chase) { // nothing to run after
      this.chase = null;
      this.next.pause();
      this.#go(this.next);
    }
    if (this.joined && !this.video.paused) this.video.pause();
  }

  /** The middle of a frame is surely in it. */
  #time(frame) {
    return (Math.min(Math.max(frame, 0), this.last) + 0.5) / this.clip.fps;
  }

  /**
   * Even where it seems to be there already: a video that has just been stopped can show the frame
   * after its time.
   */
  #go(video) {
    if (video !== this.video && video !== this.next) return; // taken away before its data came
    if (video === this.next && this.chase) return;
    video.currentTime = this.#time(this.wanted);
  }

  #arrived(video) {
    if (video !== this.video && video !== this.next) return;
    if (video === this.next && this.chase) return; // on its way to where the clock will be
    const isThere = Math.abs(video.currentTime - this.#time(this.wanted)) <= 0.1 / this.clip.fps;
    if (video === this.next && (isThere || !this.joined)) this.#show(video);
    if (video.paused && !isThere) this.#go(video);
  }

  #show(video) {
    if (this.video) free(this.video);
    this.video = video;
    this.next = null;
    this.chase = null;
    video.muted = !this.isHeard;
    video.classList.remove("coming");
    this.frame = null;
    this.screen.classList.toggle("tiny", video.videoWidth <= 160);
    this.#tell();
    this.onjoin?.();
  }

  /** Some browsers load nothing before something plays, as on a phone that saves its battery. */
  #prime(video) {
    if (video !== this.next || video.readyState >= 2) return;
    video.play().then(() => this.#calm(video), (error) => this.#refused(error));
  }

  /** It was started to make it load: the clock starts it when all are there. */
  #calm(video) {
    const isMoving = video === this.next ? this.chase !== null : this.isMoving;
    if (!isMoving) video.pause();
  }

  /** A video that is taken away meanwhile is refused too; that is no news. */
  #refused(error) {
    if (error.name === "NotAllowedError") this.onblocked();
  }

  #failed(video) {
    if (video !== this.video && video !== this.next) return;
    this.failed = true;
    if (video === this.next && this.video) { // a frame of another clip is none of this one
      free(this.video);
      Object.assign(this, { video: null, frame: null });
    }
    this.onerror(video.error?.message ?? "");
  }

  #watch(video) {
    const { fps } = this.clip;
    // A browser that does not tell which frame it shows is taken to show the one that is due.
    const isTold = "requestVideoFrameCallback" in video;
    const again = (call) => (isTold
      ? video.requestVideoFrameCallback(call)
      : requestAnimationFrame((now) => call(now, { mediaTime: video.currentTime })));
    const draw = (_, { mediaTime }) => {
      if (video !== this.video && video !== this.next) return;
      if (isTold || video.readyState >= 2) {
        this.drawn.set(video, Math.round(mediaTime * fps));
        if (video === this.video) this.#tell();
      }
      again(draw);
    };
    again(draw);
  }

  /** Say which frame is on the screen, as far as the browser has told. */
  #tell() {
    const frame = this.drawn.get(this.video);
    if (frame === undefined) return;
    this.#mark(this.frame ?? -1, frame);
    this.frame = frame;
    this.onframe(frame);
  }

  /** Frames that a busy machine leaves out in playing count as shown; those of a jump do not. */
  #mark(before, frame) {
    const isPlaying = frame > before && frame - before <= Math.max(2, this.clip.fps / 2);
    for (let i = isPlaying ? before + 1 : frame; i <= Math.min(frame, this.last); i += 1) {
      this.shown.add(i);
    }
  }
}

/** A video that is merely forgotten keeps its decoder until the browser cleans up. */
function free(video) {
  video.removeAttribute("src");
  video.load();
  video.remove();
}

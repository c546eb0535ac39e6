// One video on the page: loads it, goes to a frame, follows a clock, and knows which frame is on the screen.

const FURTHEST = 3; // frames off before it jumps instead of running faster or slower
const PATIENCE = 400; // milliseconds between two jumps

export class Player {
  /** @param screen the element that the video is put into */
  constructor(screen) {
    this.screen = screen;
    this.video = null;
    this.clip = null; // {url, frames, fps}
    this.frame = null; // the one on the screen
    this.seen = true; // in the window; browsers draw no frames of those outside
    this.joined = false; // it shows something, and so the others wait for it
    this.onframe = () => {};
    this.wanted = 0;
    this.jumped = 0;
  }

  /** Show a clip from a frame on; what was shown before stays until the new one can be. */
  load(clip, frame) {
    if (clip.url === this.clip?.url) return;
    this.clip = clip;
    this.next?.remove();
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
    video.tabIndex = -1;
    video.classList.add("coming");
    this.next = video;
    this.wanted = frame;
    video.addEventListener("loadeddata", () => this.#go(video), { once: true });
    video.addEventListener("seeked", () => this.#arrived(video));
    video.addEventListener("error", () => this.onerror?.(video.error?.message ?? ""));
    this.#watch(video);
    video.src = clip.url;
    this.screen.append(video);
  }

  /** Free the video and its decoder: a browser has some 75 of them for a page. */
  unload() {
    for (const video of [this.video, this.next]) {
      if (!video) continue;
      video.removeAttribute("src");
      video.load();
      video.remove();
    }
    Object.assign(this, { video: null, next: null, clip: null, frame: null, joined: false });
  }

  /** Whether the others should wait for it. */
  get stalled() {
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
    const video = this.video ?? this.next;
    if (!video || video.readyState < 1) return;
    if (!video.paused) video.pause();
    if (!video.seeking) this.#go(video);
  }

  /** Keep up with a clock. `position` is in frames, `rate` in frames per second, `passed` since the last call in seconds. */
  follow(position, rate, passed) {
    if (!this.joined) return;
    const { video, clip } = this;
    if (position >= clip.frames) {
      if (!video.paused || this.wanted !== this.last) this.seek(this.last);
      return;
    }
    this.wanted = Math.floor(position);
    const off = video.currentTime * clip.fps - position;
    if (Math.abs(off) > FURTHEST && !video.seeking && performance.now() - this.jumped > PATIENCE) {
      this.jumped = performance.now();
      video.currentTime = position / clip.fps;
    }
    const gain = Math.min(1, 0.5 / (rate * passed)); // where calls are rare, a larger one would overshoot
    const correction = Math.min(Math.max(1 - gain * off, 0.25), 2);
    const speed = Math.min(Math.max((rate / clip.fps) * correction, 0.07), 15);
    if (Math.abs(video.playbackRate - speed) > 0.02) video.playbackRate = speed;
    if (video.paused) video.play().catch(() => {}); // a video that is taken away meanwhile
  }

  /** Stay where it is while another one catches up. */
  hold() {
    if (this.joined && !this.video.paused) this.video.pause();
  }

  #time(frame) {
    return (Math.min(Math.max(frame, 0), this.last) + 0.5) / this.clip.fps; // the middle of a frame is surely in it
  }

  /** Even where it seems to be there already: a video that has just been stopped can show the frame after its time. */
  #go(video) {
    if (video !== this.video && video !== this.next) return; // its data came after it was taken away
    video.currentTime = this.#time(this.wanted);
  }

  #arrived(video) {
    if (video !== this.video && video !== this.next) return;
    if (video === this.next) {
      this.video?.remove();
      this.video = video;
      this.next = null;
      video.classList.remove("coming");
      this.joined = true;
      this.screen.classList.toggle("tiny", video.videoWidth <= 160);
      this.onjoin?.();
    }
    if (video.paused && Math.abs(video.currentTime - this.#time(this.wanted)) > 0.1 / this.clip.fps) this.#go(video);
  }

  #watch(video) {
    const { fps } = this.clip;
    const shown = (_, { mediaTime }) => {
      if (video !== this.video && video !== this.next) return;
      this.frame = Math.round(mediaTime * fps);
      this.onframe(this.frame);
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback(shown);
  }
}

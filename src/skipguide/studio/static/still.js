// A picture as a video of one frame, which is on the screen as soon as it is loaded.

const NAMES = /\.(png|webp)(\?|$)/;

/** Whether an address is that of a picture. */
export function isStill(url) {
  return NAMES.test(url);
}

/** A picture with as much of a video as a player asks for; of its one frame it is in the middle. */
export function still() {
  const image = document.createElement("img");
  const tell = (name) => image.dispatchEvent(new Event(name));
  Object.defineProperties(image, {
    readyState: { get: () => (image.complete && image.naturalWidth ? 4 : 0) },
    videoWidth: { get: () => image.naturalWidth },
    currentTime: { get: () => 0.5, set: () => tell("seeked") },
  });
  image.addEventListener("load", () => tell("loadeddata"));
  return Object.assign(image, {
    draggable: false, alt: "", paused: true, seeking: false, playbackRate: 1, error: null,
    load: () => {}, pause: () => {}, play: () => Promise.resolve(),
    requestVideoFrameCallback: (call) =>
      image.addEventListener("load", () => call(0, { mediaTime: 0 }), { once: true }),
  });
}

// How large the videos of the grid are, and how many stand beside each other. Numbers are pixels.

const GAP = 14, NARROW = 8; // between the videos of one row, and where there are several rows
const BETWEEN = 24; // between two rows that stand beside each other
const PADDING = 32, HEADING_OF_ONE = 60, SMALLEST = 200, LEAST = 96;
const WISHED = 240; // width of a video where several rows share the window
const HEADING = 26, CAPTION = 24, BELOW = 14; // heights that studio.css gives to the parts of a row

/**
 * One row: all videos as large as they can be in the window, if they are not too small then.
 * `cells` are {ratio, text}: the shape of each, and the height of what stands below it.
 */
export function sizeOfOne(window, cells) {
  const ratio = Math.min(...cells.map((cell) => cell.ratio));
  const text = Math.max(...cells.map((cell) => cell.text));
  const width = window.width - PADDING;
  const ways = cells.map((_, i) => {
    const lines = Math.ceil(cells.length / (i + 1));
    const across = (width - i * GAP) / (i + 1);
    const down = ((window.height - HEADING_OF_ONE) / lines - GAP - text) * ratio;
    return { lines, width: Math.min(across, down) };
  });
  // Fewer lines for a little less width.
  const enough = 0.85 * Math.max(...ways.map((way) => way.width));
  const [found] = ways.filter((way) => way.width >= enough)
    .sort((a, b) => a.lines - b.lines || b.width - a.width);
  const smallest = Math.min(SMALLEST, (width - GAP) / 2); // two beside each other on a phone
  return Math.floor(Math.min(Math.max(smallest, found?.width ?? 0), width));
}

/**
 * Several rows of `count` videos each. Where a row leaves room, the next one stands beside it.
 * `size` is the chosen width of a video; 0 lets the window decide. `ratio` is that of the tallest.
 */
export function sizesOfMany(window, { rows, count, size, ratio }) {
  const width = window.width - PADDING;
  const one = (of) => count * of + (count - 1) * NARROW;
  const fitting = (width + BETWEEN) / (one(size || WISHED) + BETWEEN);
  const whole = size ? Math.floor(fitting) : Math.round(fitting);
  const abreast = Math.min(Math.max(whole, 1), rows);
  const share = (width - (abreast - 1) * BETWEEN) / abreast; // of one row
  const fitted = Math.floor((share - (count - 1) * NARROW) / count);
  const cell = Math.min(size || Math.max(fitted, LEAST), Math.floor(share));
  const columns = Math.max(1, Math.min(count, Math.floor((share + NARROW) / (cell + NARROW))));
  const lines = Math.ceil(count / columns);
  const line = Math.ceil(cell / ratio) + CAPTION;
  const height = HEADING + lines * line + (lines - 1) * NARROW + BELOW;
  const own = Math.floor(share);
  return { cell, columns, line, abreast, height, width: own, share: own + BETWEEN };
}

/** Which of the rows stand in a part of the page. */
export function rowsWithin({ height, abreast }, rows, from, to) {
  const first = Math.max(0, Math.floor(from / height)) * abreast;
  const last = Math.min(rows, Math.max(0, Math.ceil(to / height)) * abreast);
  return { first: Math.min(first, last), last };
}

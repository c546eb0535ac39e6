// Which measure says how good videos are, where nobody has chosen one.

export function isCost({ kind }) {
  return kind === "cost";
}

/** The first metric that there is, of sets before single videos, votes after both; never a cost. */
export function firstQuality({ measures }) {
  const quality = measures.filter((measure) => !isCost(measure));
  return quality.find(({ better }) => better) ?? quality[0] ?? null;
}

/** Colour maps as tables of 256 colours, and the colours of the page for a canvas. */

export type ColorMap = Uint8ClampedArray;

/** Polynomials fitted to matplotlib's viridis, lowest power first. */
const VIRIDIS = [
  [0.2777, 0.1051, -0.3309, -4.6342, 6.2283, 4.7764, -5.4355],
  [0.0054, 1.4046, 0.2148, -5.7991, 14.1799, -13.7451, 4.6459],
  [0.334, 1.3846, 0.0951, -19.3324, 56.6906, -65.353, 26.3124],
];

const ENDS = [
  [33, 102, 172],
  [247, 247, 247],
  [178, 24, 43],
];

function table(color: (t: number) => number[]): ColorMap {
  const colors = new Uint8ClampedArray(256 * 3);
  for (let index = 0; index < 256; index += 1) colors.set(color(index / 255), index * 3);
  return colors;
}

export const COLOR_MAPS = {
  gray: table((t) => [255 * t, 255 * t, 255 * t]),
  viridis: table((t) =>
    VIRIDIS.map((powers) => 255 * powers.reduceRight((sum, factor) => sum * t + factor, 0)),
  ),
  /** Of values about zero: blue below, red above. */
  diverging: table((t) => {
    const [from, to] = t < 0.5 ? [ENDS[0], ENDS[1]] : [ENDS[1], ENDS[2]];
    return from.map((value, channel) => value + (to[channel] - value) * ((t * 2) % 1.0001));
  }),
};

/** Values as an image; NaN is transparent. */
export function image(
  values: ArrayLike<number>,
  width: number,
  height: number,
  [low, high]: [number, number],
  colors: ColorMap,
): ImageData {
  const picture = new ImageData(width, height);
  const scale = 255 / (high - low || 1);
  const { data } = picture;
  for (let index = 0; index < width * height; index += 1) {
    const value = values[index];
    if (value !== value) continue;
    const color = 3 * Math.max(0, Math.min(255, Math.round((value - low) * scale)));
    data[4 * index] = colors[color];
    data[4 * index + 1] = colors[color + 1];
    data[4 * index + 2] = colors[color + 2];
    data[4 * index + 3] = 255;
  }
  return picture;
}

export interface Theme {
  /** Of what is NaN. */
  missing: string;
  ground: string;
  ink: string;
  muted: string;
  rule: string;
  accent: string;
  font: string;
}

export function theme(): Theme {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    missing: color("missing"),
    ground: color("ground"),
    ink: color("ink"),
    muted: color("muted"),
    rule: color("rule"),
    accent: color("accent"),
    font: `11px ${style.fontFamily}`,
  };
}

/** What `draw` returns, with the light colours of the page: a picture is for a paper. */
export function onPaper<T>(draw: () => T): T {
  const { classList } = document.documentElement;
  classList.add("paper");
  try {
    return draw();
  } finally {
    classList.remove("paper");
  }
}

/** A colour bar with its numbers, in a box of the canvas. */
export function drawColorBar(
  context: CanvasRenderingContext2D,
  colors: Theme,
  [left, top, width, height]: [number, number, number, number],
  [low, high]: [number, number],
  map: ColorMap,
  label: (value: number) => string,
  hasMissing: boolean,
): void {
  const bottom = top + height - (hasMissing ? 22 : 0);
  const gradient = context.createLinearGradient(0, bottom, 0, top);
  for (let at = 0; at <= 16; at += 1) {
    const from = 3 * Math.round((at / 16) * 255);
    gradient.addColorStop(at / 16, `rgb(${map.slice(from, from + 3).join()})`);
  }
  context.fillStyle = gradient;
  context.fillRect(left, top, width, bottom - top);
  context.strokeStyle = colors.rule;
  context.strokeRect(left + 0.5, top + 0.5, width - 1, bottom - top - 1);
  context.fillStyle = colors.muted;
  context.textAlign = "left";
  for (const [value, y, baseline] of [
    [high, top, "top"],
    [(low + high) / 2, (top + bottom) / 2, "middle"],
    [low, bottom, "bottom"],
  ] as const) {
    context.textBaseline = baseline;
    context.fillText(label(value), left + width + 5, y);
  }
  if (!hasMissing) return;
  context.textBaseline = "middle";
  context.fillText("NaN", left + width + 5, top + height - 6);
  context.fillStyle = colors.missing;
  context.fillRect(left, top + height - 12, width, 12);
}

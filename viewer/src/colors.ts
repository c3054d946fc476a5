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
    ground: color("ground"),
    ink: color("ink"),
    muted: color("muted"),
    rule: color("rule"),
    accent: color("accent"),
    font: `11px ${style.fontFamily}`,
  };
}

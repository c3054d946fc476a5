/** Numbers, sizes and dtypes as they are shown. */

/** 1234567 → "1,234,567" */
export function count(n: number): string {
  return n.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

/** 1234567 → "1.2 MB"; decimal units, as dj-npy says them elsewhere. */
export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes < 9.95 && unit > 0 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

/** "<i2" → "int16"; a structured dtype in short. */
export function dtypeName(dtype: string): string {
  const match = /^[<>|=]([biufcmMSUV?])(\d+)(\[.*\])?$/.exec(dtype);
  if (!match) return dtype.length > 24 ? "structured" : dtype;
  const [, kind, digits, unit = ""] = match;
  const size = Number(digits);
  const name = { i: "int", u: "uint", f: "float", c: "complex" }[kind];
  const big = dtype.startsWith(">") ? " (big-endian)" : "";
  if (name) return `${name}${size * 8}${big}`;
  if (kind === "b" || kind === "?") return "bool";
  if (kind === "M") return `datetime64${unit}`;
  if (kind === "m") return `timedelta64${unit}`;
  return { S: `bytes of ${size}`, U: `text of ${size}`, V: `records of ${size} B` }[kind] ?? dtype;
}

export function shapeText(shape: number[]): string {
  return shape.length ? shape.map(count).join(" × ") : "scalar";
}

/** A number in at most `digits` significant digits, without a long tail of zeros. */
export function short(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return String(value);
  const absolute = Math.abs(value);
  if (Number.isInteger(value) && absolute < 1e7) return count(value);
  if (absolute !== 0 && (absolute < 1e-3 || absolute >= 1e7)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
}

/** How many values are NaN, of `each` numbers that are one value together. */
export function nans(numbers: ArrayLike<number> | undefined, each = 1): number {
  if (!(numbers instanceof Float32Array || numbers instanceof Float64Array)) return 0;
  let number = 0;
  for (let at = 0; at < numbers.length; at += each)
    if (Number.isNaN(numbers[at]) || Number.isNaN(numbers[at + each - 1])) number += 1;
  return number;
}

/** The unit that a comment says: "raw voltage (uV)", "in uV", "uV"; empty if it does not. */
export function unitOf(comment: string): string {
  const [, inBrackets, after, alone] =
    /[([]\s*([^\s()[\],;]{1,12})\s*[)\]]\s*$|\bin\s+([^\s,;.]{1,12})\.?$|^([^\s,;.]{1,4})$/.exec(comment.trim()) ?? [];
  return inBrackets ?? after ?? alone ?? "";
}

/** What the values of an array are: its attribute, and the unit if its comment says one. */
export function quantity({ attribute, comment }: { attribute: string; comment: string }): string {
  const unit = unitOf(comment);
  return (attribute || "value") + (unit && ` (${unit})`);
}

/** A number at an axis whose ticks are `step` apart: with as many digits as tell them apart. */
export function tick(value: number, step: number): string {
  const digits = Math.ceil(Math.log10(Math.abs(value) / step) + 1e-9) + 1;
  return short(value, Math.max(1, Math.min(15, Number.isFinite(digits) ? Math.max(4, digits) : 4)));
}

/** The number of 1, 2, 5 times a power of ten that is next above `value`. */
export function nice(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5].find((digit) => digit * power >= value * 0.999) ?? 10;
  return step * power;
}

/** From the bytes of an array, as `/api/slice` sends them, to numbers to draw and text to read. */
import type { Binary, Header } from "./api";

export interface Values {
  shape: number[];
  text: (index: number) => string;
  /** For drawing; a number a value. Absent for what has no numbers. */
  numbers?: NumberArray;
  /** Real and imaginary part in turn, for complex values. */
  complex?: Float32Array | Float64Array;
  /** The fields of a structured dtype. */
  fields?: [name: string, values: Values][];
  /** What the numbers are, where these are not the values: "seconds since 2026-01-01". */
  unit?: string;
  /** What one should know of the numbers, e.g. that they are rounded. */
  note?: string;
}

export type NumberArray =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array;

const TYPED = {
  i1: Int8Array,
  u1: Uint8Array,
  b1: Uint8Array,
  i2: Int16Array,
  u2: Uint16Array,
  i4: Int32Array,
  u4: Uint32Array,
  f4: Float32Array,
  f8: Float64Array,
} as const;

/** A field of a structured dtype as NumPy's `descr` has it; without a name it is padding. */
export type Field = [name: string | [string, string], type: string | Field[], shape?: number[]];

export function decode({ header, bytes }: Binary<Header>, descr: unknown): Values {
  const { shape, dtype } = header;
  if (Array.isArray(descr)) return structured(descr, bytes, shape);
  if (/^[<>|=]?[SU]/.test(dtype)) {
    const texts = (JSON.parse(new TextDecoder().decode(bytes)) as unknown[]).flat(Infinity);
    return { shape, text: (index) => String(texts[index]) };
  }
  const values = plain(dtype, bytes, shape);
  if (header.rounded) values.note = "Values are rounded to 64-bit floating point to be shown.";
  return values;
}

function plain(dtype: string, bytes: Uint8Array<ArrayBuffer>, shape: number[]): Values {
  const [, code, unit = ""] = /^[<>|=]?(\w\d+)(?:\[(.*)\])?$/.exec(dtype) ?? [];
  const { buffer, byteOffset, byteLength } = bytes;
  if (code in TYPED) {
    const type = TYPED[code as keyof typeof TYPED];
    const numbers = new type(buffer, byteOffset, byteLength / type.BYTES_PER_ELEMENT);
    if (code === "b1") return { shape, numbers, text: (index) => (numbers[index] ? "True" : "False") };
    if (code === "f4") return { shape, numbers, text: (index) => singleText(numbers[index]) };
    return { shape, numbers, text: (index) => numberText(numbers[index]) };
  }
  if (code === "f2") {
    const numbers = Float32Array.from(new Uint16Array(buffer, byteOffset, byteLength / 2), half);
    return { shape, numbers, text: (index) => String(Number(numbers[index].toPrecision(5))) };
  }
  if (code === "c8" || code === "c16") {
    const complex =
      code === "c8"
        ? new Float32Array(buffer, byteOffset, byteLength / 4)
        : new Float64Array(buffer, byteOffset, byteLength / 8);
    const part = code === "c8" ? singleText : numberText;
    const text = (index: number) => {
      const imaginary = part(complex[2 * index + 1]);
      return `${part(complex[2 * index])} ${imaginary.startsWith("-") ? "−" : "+"} ${imaginary.replace(/^-/, "")}j`;
    };
    return { shape, complex, text };
  }
  if (code === "i8" || code === "u8") {
    const type = code === "i8" ? BigInt64Array : BigUint64Array;
    const integers = new type(buffer, byteOffset, byteLength / 8);
    const text = (index: number) => String(integers[index]);
    let [lowest, highest] = [integers[0] ?? 0n, integers[0] ?? 0n];
    for (const value of integers) {
      if (value < lowest) lowest = value;
      if (value > highest) highest = value;
    }
    if (-EXACT <= lowest && highest <= EXACT)
      return { shape, numbers: Float64Array.from(integers, Number), text };
    // A plot draws differences of such values only if the common part is taken off.
    const note =
      highest - lowest <= EXACT
        ? `Values are beyond 2^53: plots show the difference from ${lowest}, the matrix the values.`
        : "Some values are beyond 2^53: plots round them, the matrix shows them exactly.";
    const from = highest - lowest <= EXACT ? lowest : 0n;
    const numbers = Float64Array.from(integers, (value) => Number(value - from));
    return { shape, numbers, note, text };
  }
  if (code === "M8" || code === "m8") {
    const ticks = new BigInt64Array(buffer, byteOffset, byteLength / 8);
    const from = code === "M8" ? (ticks.find((tick) => tick !== NAT) ?? 0n) : 0n;
    const numbers = Float64Array.from(ticks, (tick) => (tick === NAT ? NaN : Number(tick - from)));
    const since = code === "M8" ? ` since ${dateText(from, unit)}` : "";
    return {
      shape,
      numbers,
      unit: `${UNITS[unit] ?? unit}${since}`,
      note: unit && `Plots show ${UNITS[unit] ?? unit}${since}.`,
      text: (index) =>
        ticks[index] === NAT
          ? "NaT"
          : code === "M8"
            ? dateText(ticks[index], unit)
            : `${ticks[index]} ${unit}`,
    };
  }
  const itemsize = sizeOf(dtype) || 1;
  const item = (index: number) => bytes.subarray(index * itemsize, (index + 1) * itemsize);
  if (code?.startsWith("S")) return { shape, text: (index) => latin(item(index)) };
  if (code?.startsWith("U")) return { shape, text: (index) => unicode(item(index)) };
  return { shape, text: (index) => hex(item(index)) };
}

function structured(descr: Field[], bytes: Uint8Array<ArrayBuffer>, shape: number[]): Values {
  const items = shape.reduce((product, length) => product * length, 1);
  const fields: [string, Values][] = [];
  const record = sizeOf(descr);
  let offset = 0;
  for (const [title, type, subshape = []] of descr) {
    const name = Array.isArray(title) ? title[1] : title;
    const width = sizeOf(type) * subshape.reduce((product, length) => product * length, 1);
    if (name) {
      const column = new Uint8Array(items * width);
      for (let index = 0; index < items; index += 1)
        column.set(bytes.subarray(index * record + offset, index * record + offset + width), index * width);
      fields.push([name, field(type, column, shape, subshape)]);
    }
    offset += width;
  }
  const text = (index: number) => `(${fields.map(([, values]) => values.text(index)).join(", ")})`;
  return { shape, fields, text };
}

function field(
  type: string | Field[],
  column: Uint8Array<ArrayBuffer>,
  shape: number[],
  subshape: number[],
): Values {
  const values =
    typeof type === "string"
      ? plain(type, littleEndian(type, column), [...shape, ...subshape])
      : structured(type, column, [...shape, ...subshape]);
  if (!subshape.length) return values;
  const each = subshape.reduce((product, length) => product * length, 1);
  const text = (index: number) =>
    `[${Array.from({ length: Math.min(each, 8) }, (_, part) => values.text(index * each + part)).join(", ")}${each > 8 ? ", …" : ""}]`;
  return { shape, text };
}

function sizeOf(type: string | Field[]): number {
  if (typeof type !== "string")
    return type.reduce(
      (sum, [, part, subshape = []]) =>
        sum + sizeOf(part) * subshape.reduce((product, length) => product * length, 1),
      0,
    );
  const [, kind, digits] = /^[<>|=]?(\w)(\d+)/.exec(type) ?? ["", "V", "0"];
  return Number(digits) * (kind === "U" ? 4 : 1);
}

/** In place: values of a big-endian field turned round. */
function littleEndian(type: string, column: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const [, kind] = /^>(\w)/.exec(type) ?? [];
  if (!kind || "SV".includes(kind)) return column;
  const width = kind === "U" ? 4 : kind === "c" ? sizeOf(type) / 2 : sizeOf(type);
  for (let start = 0; start < column.length; start += width)
    column.subarray(start, start + width).reverse();
  return column;
}

function numberText(value: number): string {
  return Number.isNaN(value) ? "nan" : Math.abs(value) === Infinity ? (value > 0 ? "inf" : "-inf") : String(value);
}

/** The shortest text that is this float32: 0.1, not 0.10000000149011612. */
function singleText(value: number): string {
  for (let digits = 6; digits < 9 && Number.isFinite(value); digits += 1) {
    const text = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(text)) === value) return text;
  }
  return numberText(value);
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const NAT = -(2n ** 63n);
const EXACT = 2n ** 53n;
const UNITS: Record<string, string> = {
  Y: "years",
  M: "months",
  W: "weeks",
  D: "days",
  h: "hours",
  m: "minutes",
  s: "seconds",
};

/** Parts of a second, or seconds, in a unit of datetime64. */
const PER_SECOND: Record<string, bigint> = {
  s: 1n,
  ms: 10n ** 3n,
  us: 10n ** 6n,
  ns: 10n ** 9n,
  ps: 10n ** 12n,
  fs: 10n ** 15n,
  as: 10n ** 18n,
};
const SECONDS: Record<string, bigint> = { m: 60n, h: 3600n, D: 86400n, W: 604800n };

function dateText(tick: bigint, unit: string): string {
  const [, multiple, name] = /^(\d*)(\w+)$/.exec(unit) ?? ["", "", unit];
  const ticks = tick * BigInt(multiple || 1);
  if (name === "Y") return String(1970n + ticks);
  if (name === "M") {
    const month = Number(((ticks % 12n) + 12n) % 12n);
    return `${1970n + (ticks - BigInt(month)) / 12n}-${String(month + 1).padStart(2, "0")}`;
  }
  const per = PER_SECOND[name] ?? 1n;
  const fraction = ((ticks % per) + per) % per;
  const seconds = ((ticks - fraction) / per) * (SECONDS[name] ?? 1n);
  const date = new Date(Number(seconds) * 1000);
  if (Number.isNaN(date.getTime())) return `${tick} ${unit} since 1970`;
  const [day, clock] = date.toISOString().split(/[TZ.]/);
  if (name === "D" || name === "W") return day;
  return `${day}T${clock}${per > 1n ? `.${String(fraction).padStart(String(per).length - 1, "0")}` : ""}`;
}

function latin(item: Uint8Array): string {
  return String.fromCharCode(...item).replace(/\0+$/, "");
}

function unicode(item: Uint8Array): string {
  const view = new DataView(item.buffer, item.byteOffset, item.byteLength);
  let text = "";
  for (let offset = 0; offset < item.byteLength; offset += 4)
    text += String.fromCodePoint(Math.min(view.getUint32(offset, true), 0x10ffff));
  return text.replace(/\0+$/, "");
}

function hex(item: Uint8Array): string {
  const text = Array.from(item.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return item.length > 16 ? `${text} …` : text;
}

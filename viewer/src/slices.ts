/** Which part of an array is shown, as in an index: `17,0:512,:`. */

export type Part = number | [start: number, stop: number];

/** Most bytes that one slice may have, and most numbers that a plot draws well. */
export const MOST_BYTES = 64_000_000;
const MOST_POINTS = 1_000_000;
const MOST_ROWS = 500_000;
const MOST_COLUMNS = 50_000;

/** Whether an array is an image in colours: to the server, it is a stack of three. */
export function isColoured({ shape, dtype }: { shape: number[]; dtype: string }): boolean {
  return dtype === "|u1" && shape.length > 2 && [3, 4].includes(shape.at(-1)!);
}

export type Kind = "line" | "heat" | "rgb" | "matrix";

/** The longest a shown axis may be. A texture of the GPU is bounded, and so is what a browser lays out. */
export function longest(kind: Kind, texture: number, across: boolean): number {
  if (kind === "line") return MOST_POINTS;
  if (kind === "matrix") return across ? MOST_COLUMNS : MOST_ROWS;
  return texture;
}

/** What is shown when the address says nothing: the shown axes from their beginning, as far as fits. */
export function firstParts(
  shape: number[],
  shown: number[],
  limit: (axis: number) => number,
  itemsize: number,
): Part[] {
  const parts: Part[] = shape.map((length, axis) =>
    shown.includes(axis) ? [0, Math.min(length, limit(axis))] : 0,
  );
  let room = Math.floor(MOST_BYTES / itemsize);
  // The last axes first: they lie together in the file.
  for (const axis of [...shown].sort((a, b) => b - a)) {
    const part = parts[axis] as [number, number];
    part[1] = Math.min(part[1], Math.max(1, room));
    room = Math.floor(room / part[1]);
  }
  return parts;
}

/** From what is typed; undefined where it is no selection of this shape. */
export function parseParts(text: string, shape: number[]): Part[] | undefined {
  const parts = text.split(",").map((part, axis): Part | undefined => {
    const length = shape[axis] ?? 0;
    if (!part.includes(":")) {
      const at = Number(part || NaN);
      return Number.isInteger(at) && at >= 0 && at < length ? at : undefined;
    }
    const [from, to] = part.split(":");
    const start = from.trim() ? Number(from) : 0;
    const stop = to.trim() ? Math.min(Number(to), length) : length;
    return Number.isInteger(start) && Number.isInteger(stop) && start >= 0 && start < stop
      ? [start, stop]
      : undefined;
  });
  return parts.length === shape.length && parts.every((part) => part !== undefined)
    ? (parts as Part[])
    : undefined;
}

export function formatParts(parts: Part[]): string {
  return parts.map((part) => (typeof part === "number" ? part : part.join(":"))).join(",");
}

export function extent(part: Part): number {
  return typeof part === "number" ? 1 : part[1] - part[0];
}

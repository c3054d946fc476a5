/** Drawing of traces and of their heat map on a canvas. Lengths are CSS pixels. */
import { COLOR_MAPS, image, theme, type Theme } from "./colors";
import { nice } from "./text";

export interface Frame {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Lowest and highest value of each pixel, for each channel: `lowest[channel * width + pixel]`. */
export interface Traces {
  start: number;
  /** Pixels, and the samples that each stands for; the last one perhaps for fewer. */
  width: number;
  each: number;
  first: number;
  count: number;
  lowest: Float32Array | Float64Array;
  highest: Float32Array | Float64Array;
}

export interface Scale {
  start: number;
  stop: number;
  /** Subtracted of each channel. */
  offsets: number[];
  /** Data units between two neighbouring channels. */
  spacing: number;
  gain: number;
}

const MARGIN = { left: 64, right: 12, top: 8, bottom: 26 };

export function frameOf(width: number, height: number): Frame {
  return {
    left: MARGIN.left,
    top: MARGIN.top,
    width: Math.max(1, width - MARGIN.left - MARGIN.right),
    height: Math.max(1, height - MARGIN.top - MARGIN.bottom),
  };
}

export function ticks(start: number, stop: number, most: number): number[] {
  const step = nice((stop - start) / Math.max(1, most));
  const values = [];
  for (let n = Math.ceil(start / step - 1e-9); n * step <= stop + step * 1e-9; n += 1)
    values.push(n * step || 0); // not -0
  return values;
}

/** An empty plot, in device pixels of the screen; returns what to draw on. */
export function begin(canvas: HTMLCanvasElement, width: number, height: number) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d")!;
  const colors = theme();
  context.scale(ratio, ratio);
  context.fillStyle = colors.ground;
  context.fillRect(0, 0, width, height);
  context.font = colors.font;
  context.lineWidth = 1;
  return { context, colors };
}

export function drawAxis(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  [start, stop]: [number, number],
  label: (value: number, step: number) => string,
): void {
  const values = ticks(start, stop, frame.width / 90);
  const step = values.length > 1 ? values[1] - values[0] : stop - start;
  context.strokeStyle = colors.rule;
  context.fillStyle = colors.muted;
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const value of values) {
    const x = Math.round(frame.left + ((value - start) / (stop - start)) * frame.width) + 0.5;
    line(context, x, frame.top, x, frame.top + frame.height + 4);
    const text = label(value, step);
    const half = context.measureText(text).width / 2;
    const most = frame.left + frame.width + MARGIN.right - half - 2;
    context.fillText(text, Math.min(x, most), frame.top + frame.height + 8);
  }
  context.strokeRect(frame.left + 0.5, frame.top + 0.5, frame.width - 1, frame.height - 1);
}

function line(context: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** Where a value of a channel is drawn. */
function vertical(frame: Frame, traces: Traces, scale: Scale) {
  const row = frame.height / traces.count;
  const factor = (scale.gain / scale.spacing) * row;
  return (channel: number, value: number) =>
    frame.top + (channel + 0.5) * row - (value - scale.offsets[channel]) * factor;
}

export function drawTraces(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  traces: Traces,
  scale: Scale,
): void {
  const { width, each, lowest, highest } = traces;
  const pixels = frame.width / (scale.stop - scale.start);
  const y = vertical(frame, traces, scale);
  const x = (pixel: number) =>
    frame.left + (traces.start + (pixel + (each > 1 ? 0.5 : 0)) * each - scale.start) * pixels;
  const dots = each * pixels > 6;
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top, frame.width, frame.height);
  context.clip();
  context.lineJoin = "round";
  for (let channel = 0; channel < traces.count; channel += 1) {
    context.strokeStyle = context.fillStyle = channel % 2 ? colors.ink : colors.accent;
    context.beginPath();
    let drawing = false;
    for (let pixel = 0; pixel < width; pixel += 1) {
      const low = lowest[channel * width + pixel];
      const high = highest[channel * width + pixel];
      if (low !== low) {
        drawing = false; // NaN: a gap
        continue;
      }
      const place = x(pixel);
      const top = y(channel, high);
      if (drawing) context.lineTo(place, top);
      else context.moveTo(place, top);
      if (high !== low) context.lineTo(place, Math.max(y(channel, low), top + 1));
      else if (!drawing) context.lineTo(place + 0.5, top); // else one sample alone is nothing
      drawing = true;
      if (dots) context.fillRect(place - 1.5, top - 1.5, 3, 3);
    }
    context.stroke();
  }
  context.restore();
}

/** Of each pixel, the value that is further from the channel's offset. */
export function drawHeat(
  context: CanvasRenderingContext2D,
  frame: Frame,
  traces: Traces,
  scale: Scale,
): void {
  const { width, count, lowest, highest } = traces;
  const values = new Float32Array(width * count);
  for (let index = 0; index < values.length; index += 1) {
    const offset = scale.offsets[Math.floor(index / width)];
    const below = lowest[index] - offset;
    const above = highest[index] - offset;
    values[index] = -below > above ? below : above;
  }
  const limit = scale.spacing / scale.gain;
  const picture = document.createElement("canvas");
  picture.width = width;
  picture.height = count;
  picture
    .getContext("2d")!
    .putImageData(image(values, width, count, [-limit, limit], COLOR_MAPS.diverging), 0, 0);
  const pixels = frame.width / (scale.stop - scale.start);
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top, frame.width, frame.height);
  context.clip();
  context.imageSmoothingEnabled = false;
  context.drawImage(
    picture,
    frame.left + (traces.start - scale.start) * pixels,
    frame.top,
    width * traces.each * pixels,
    frame.height,
  );
  context.restore();
}

/** Numbers of the channels at the left; of a single trace, its values. */
export function drawLabels(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  traces: Traces,
  scale: Scale,
  label: (value: number) => string,
): void {
  context.fillStyle = colors.muted;
  context.strokeStyle = colors.rule;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const { count, first } = traces;
  if (count === 1) {
    const half = scale.spacing / scale.gain / 2;
    const y = vertical(frame, traces, scale);
    for (const value of ticks(scale.offsets[0] - half, scale.offsets[0] + half, frame.height / 40)) {
      line(context, frame.left, y(0, value), frame.left + frame.width, y(0, value));
      context.fillText(label(value), frame.left - 8, y(0, value));
    }
    return;
  }
  const every = nice(Math.max(1, (14 * count) / frame.height));
  for (let channel = 0; channel < count; channel += 1)
    if ((first + channel) % every === 0)
      context.fillText(
        String(first + channel),
        frame.left - 8,
        frame.top + ((channel + 0.5) * frame.height) / count,
      );
}

/** The middle value of each channel (or zero), and a spacing at which most do not overlap. */
export function statistics(
  traces: Traces,
  removeOffset: boolean,
): { offsets: number[]; spacing: number } {
  const { width, count, lowest, highest } = traces;
  const offsets: number[] = [];
  const ranges: number[] = [];
  for (let channel = 0; channel < count; channel += 1) {
    const low = lowest.subarray(channel * width, (channel + 1) * width);
    const high = highest.subarray(channel * width, (channel + 1) * width);
    const middles = Float64Array.from(low, (value, pixel) => (value + high[pixel]) / 2)
      .filter(Number.isFinite)
      .sort();
    const offset = removeOffset ? (middles[middles.length >> 1] ?? 0) : 0;
    offsets.push(offset);
    const reaches = Float64Array.from(low, (value, pixel) =>
      Math.max(high[pixel] - offset, offset - value),
    )
      .filter(Number.isFinite)
      .sort();
    // Of several channels, a spike may reach over its neighbours.
    const quantile = count === 1 ? 1 : 0.98;
    ranges.push(2 * (reaches[Math.floor(quantile * (reaches.length - 1))] ?? 0));
  }
  ranges.sort((a, b) => a - b);
  return { offsets, spacing: nice(ranges[Math.floor(0.9 * (count - 1))] || 1) };
}

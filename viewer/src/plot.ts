/** Drawing of traces and of their heat map on a canvas. Lengths are CSS pixels. */
import { COLOR_MAPS, image, theme, type Theme } from "./colors";
import { drawColorBar } from "./colors";
import { nice, short, tick } from "./text";

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
  /** How many values of each pixel are NaN, if any is. */
  missing?: Float32Array | Float64Array;
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

const MARGIN = { left: 76, right: 12, top: 8, bottom: 40 };
/** At the right of a frame, for a colour bar. */
const BAR = 72;

export function frameOf(width: number, height: number, hasBar = false): Frame {
  return {
    left: MARGIN.left,
    top: MARGIN.top,
    width: Math.max(1, width - MARGIN.left - MARGIN.right - (hasBar ? BAR : 0)),
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
export function begin(
  canvas: HTMLCanvasElement,
  width: number,
  height: number,
  ratio = devicePixelRatio || 1,
) {
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
  name: string,
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
  context.fillText(name, frame.left + frame.width / 2, frame.top + frame.height + 24);
}

/** The name of the vertical axis, along it. */
export function drawName(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  name: string,
): void {
  context.save();
  context.translate(4, frame.top + frame.height / 2);
  context.rotate(-Math.PI / 2);
  context.fillStyle = colors.muted;
  context.textAlign = "center";
  context.textBaseline = "top";
  context.fillText(name, 0, 0, frame.height);
  context.restore();
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

/**
 * Each channel in a lane of its own, in which it stays. Where some values of a pixel are NaN, the
 * line is broken and pale; where all are, there is none. A mark at the bottom of the lane shows both.
 */
export function drawTraces(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  traces: Traces,
  scale: Scale,
): void {
  const { width, each, lowest, highest, missing } = traces;
  const pixels = frame.width / (scale.stop - scale.start);
  const y = vertical(frame, traces, scale);
  const x = (pixel: number) =>
    frame.left + (traces.start + (pixel + (each > 1 ? 0.5 : 0)) * each - scale.start) * pixels;
  const dots = each * pixels > 6;
  const row = frame.height / traces.count;
  for (let channel = 0; channel < traces.count; channel += 1) {
    const lane = frame.top + channel * row;
    context.save();
    context.beginPath();
    context.rect(frame.left, lane, frame.width, row);
    context.clip();
    context.lineJoin = "round";
    context.strokeStyle = context.fillStyle = channel % 2 ? colors.ink : colors.accent;
    const [line, pale, marks] = [new Path2D(), new Path2D(), new Path2D()];
    let drawing = false;
    for (let pixel = 0; pixel < width; pixel += 1) {
      const at = channel * width + pixel;
      const [low, high] = [lowest[at], highest[at]];
      const place = x(pixel);
      if (missing?.[at]) {
        const wide = Math.max(2, Math.ceil(each * pixels)); // whole pixels: not to be overlooked
        marks.rect(Math.floor(place - wide / 2), Math.floor(lane + row) - 4, wide, 3);
        drawing = false;
      }
      if (low !== low) continue;
      // What is beyond the lane is a line at its edge: nothing would look like NaN.
      const top = Math.max(lane + 0.5, Math.min(lane + row - 1.5, y(channel, high)));
      const bottom = Math.max(top + 1, Math.min(lane + row - 0.5, y(channel, low)));
      if (missing?.[at]) {
        pale.moveTo(place, top);
        pale.lineTo(place, bottom);
        continue;
      }
      if (drawing) line.lineTo(place, top);
      else line.moveTo(place, top);
      if (high !== low) line.lineTo(place, bottom);
      else if (!drawing) line.lineTo(place + 0.5, top); // else one sample alone is nothing
      drawing = true;
      if (dots) context.fillRect(place - 1.5, top - 1.5, 3, 3);
    }
    context.stroke(line);
    context.globalAlpha = 0.35;
    context.stroke(pale);
    context.globalAlpha = 1;
    context.fillStyle = colors.missing;
    context.fill(marks);
    context.restore();
  }
}

/** Of each pixel, the value that is further from the channel's offset; NaN has a colour of its own. */
export function drawHeat(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  traces: Traces,
  scale: Scale,
): void {
  const { width, count, lowest, highest, missing } = traces;
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
  const drawn = image(values, width, count, [-limit, limit], COLOR_MAPS.diverging);
  missing?.forEach((number, at) => {
    if (number && drawn.data[4 * at + 3]) drawn.data[4 * at + 3] = 128; // some values of a pixel
  });
  if (width && count) picture.getContext("2d")!.putImageData(drawn, 0, 0);
  const bar: [number, number, number, number] = [
    frame.left + frame.width + 12, frame.top, 14, Math.min(200, frame.height),
  ];
  drawColorBar(context, colors, bar, [-limit, limit], COLOR_MAPS.diverging, short, !!missing);
  const pixels = frame.width / (scale.stop - scale.start);
  context.save();
  context.beginPath();
  context.rect(frame.left, frame.top, frame.width, frame.height);
  context.clip();
  context.imageSmoothingEnabled = false;
  const place: [number, number, number, number] = [
    frame.left + (traces.start - scale.start) * pixels,
    frame.top,
    width * traces.each * pixels,
    frame.height,
  ];
  context.fillStyle = colors.missing;
  if (missing) context.fillRect(...place);
  if (width && count) context.drawImage(picture, ...place);
  context.restore();
}

/** Numbers of the channels at the left; of a single trace, its values. */
export function drawLabels(
  context: CanvasRenderingContext2D,
  colors: Theme,
  frame: Frame,
  traces: Traces,
  scale: Scale,
): void {
  context.fillStyle = colors.muted;
  context.strokeStyle = colors.rule;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const { count, first } = traces;
  if (count === 1) {
    const half = scale.spacing / scale.gain / 2;
    const y = vertical(frame, traces, scale);
    const values = ticks(scale.offsets[0] - half, scale.offsets[0] + half, frame.height / 40);
    for (const value of values) {
      line(context, frame.left, y(0, value), frame.left + frame.width, y(0, value));
      const text = tick(value, values.length > 1 ? values[1] - values[0] : half);
      context.fillText(text, frame.left - 8, y(0, value), frame.left - 24);
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
    // Of several channels, a spike may be cut at the end of its lane.
    const quantile = count === 1 ? 1 : 0.98;
    ranges.push(2 * (reaches[Math.floor(quantile * (reaches.length - 1))] ?? 0));
  }
  ranges.sort((a, b) => a - b);
  // Of constant values, a tenth of them: else no digit at the axis would differ.
  const constant = Math.abs(offsets[0] ?? 0) / 10 || 1;
  return { offsets, spacing: nice(ranges[Math.floor(0.9 * (count - 1))] || constant) };
}

/** A recording: one axis is long, the others are channels. */
import { useEffect, useMemo, useRef, useState, type RefObject } from "react";
import { change, move, number, useAddress } from "./address";
import { floats, getBinary, useLoad, type Params, type TraceHeader } from "./api";
import { onPaper } from "./colors";
import { captioned, FINE } from "./figure";
import { useOverview } from "./overview";
import {
  begin,
  drawAxis,
  drawHeat,
  drawLabels,
  drawName,
  drawTraces,
  frameOf,
  statistics,
  type Scale,
  type Traces,
} from "./plot";
import { count, quantity, short, size, unitOf } from "./text";
import {
  Choice,
  Entry,
  Failure,
  Select,
  useDark,
  useRested,
  useSettling,
  useSize,
  Working,
  type ViewProps,
} from "./ui";
import { centred, clamped, panned, useMoves, zoomed, type View } from "./window";

interface Data {
  asked: string;
  header: TraceHeader;
  traces: Traces;
}

async function load(params: Params, signal: AbortSignal): Promise<Data> {
  const answer = await getBinary<TraceHeader>("trace", params, signal);
  const { start, of, width, channels } = answer.header;
  const values = floats(answer);
  const size = width * (channels[1] - channels[0]);
  const traces = {
    start,
    width,
    each: of,
    first: channels[0],
    count: channels[1] - channels[0],
    lowest: values.subarray(0, size),
    highest: values.subarray(size, 2 * size),
    missing: values.length > 2 * size ? values.subarray(2 * size) : undefined,
  };
  return { asked: JSON.stringify(params), header: answer.header, traces };
}

export function Trace({ info, array, show }: ViewProps) {
  const { query } = useAddress();
  const axis = number(query, "axis", info.axis);
  const length = info.shape[axis] ?? 0;
  const channels = info.shape.reduce((product, n, at) => (at === axis ? product : product * n), 1);
  const heat = query.get("plot") === "heat";
  const [first, last] = channelRange(query.get("channels"), channels, heat ? 512 : 16);
  const rate = number(query, "rate", 0);
  const gain = number(query, "gain", 1);
  const removeOffset = query.get("offset") !== "0";

  const settled = clamped(number(query, "start", 0), number(query, "stop", length), length);
  const [start, stop] = settled;
  const [view, setView] = useSettling(settled, ([start, stop]) => {
    const whole = start === 0 && stop === length;
    move({ start: whole ? null : start, stop: whole ? null : stop });
  });

  const area = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const { width, height } = useSize(area);
  const frame = useMemo(() => frameOf(width, height, heat), [width, height, heat]);
  const pixels = useRested(width && Math.round(frame.width), 0);
  const dark = useDark();

  const [inexact, setInexact] = useState(false);
  const { progress, version } = useOverview(array, axis, inexact);
  const params = { ...array, axis, start, stop, channels: `${first}:${last}`, width: pixels };
  const asked = JSON.stringify(params);
  const { value, error, loading } = useLoad<Data>(
    pixels && length ? (signal) => load(params, signal) : null,
    [asked, version],
  );
  useEffect(() => setInexact(value ? !value.header.exact : false), [value]);

  const found = useMemo(
    () => (value ? statistics(value.traces, removeOffset) : undefined),
    [value, removeOffset],
  );
  const spacing = number(query, "spacing", 0);
  // Kept in the address once found, so that the picture does not jump while one moves about.
  useEffect(() => {
    if (found && !spacing && value?.asked === asked) change({ spacing: found.spacing });
  }, [found, spacing, asked]);

  const scale: Scale | undefined = found && {
    start: view[0],
    stop: view[1],
    offsets: found.offsets,
    spacing: spacing || found.spacing,
    gain,
  };

  const unit = unitOf(info.comment);
  const apart = scale && `${short(scale.spacing / scale.gain)}${unit && ` ${unit}`} apart`;
  const vertical =
    last - first < 2 ? quantity(info) : heat ? `channel; colours: ${quantity(info)}` : `channel${apart ? ` (${apart})` : ""}`;
  const draw = (target: HTMLCanvasElement, ratio?: number) => {
    const { context, colors } = begin(target, width, height, ratio);
    const perUnit = rate || 1;
    const label = (at: number, step: number) => (rate ? at.toFixed(decimals(step)) : count(at));
    const name = rate ? "time (s)" : info.shape.length > 1 ? `sample (axis ${axis})` : "sample";
    drawAxis(context, colors, frame, [view[0] / perUnit, view[1] / perUnit], label, name);
    drawName(context, colors, frame, vertical);
    if (!value || !scale) return;
    drawLabels(context, colors, frame, value.traces, scale);
    if (heat) drawHeat(context, colors, frame, value.traces, scale);
    else drawTraces(context, colors, frame, value.traces, scale);
  };
  useEffect(() => {
    if (canvas.current && width && height) draw(canvas.current);
  }, [value, scale?.spacing, gain, removeOffset, heat, rate, view[0], view[1], width, height, dark]);
  const latest = useRef(draw);
  latest.current = draw;
  const notes = useRef<string[]>([]);
  notes.current = [
    info.comment,
    `samples ${count(view[0])} to ${count(view[1])} of ${count(length)}` +
      (rate ? `, ${short(rate, 6)} Hz` : "") +
      (channels > 1 ? `; channels ${first} to ${last - 1} of ${count(channels)}` : "") +
      (removeOffset ? "; without the offset of each channel" : ""),
    value ? exactness(value.header) + (value.header.nan ? `; ${missing(value.header)}` : "") : "",
  ];

  const around = info.shape.length > 2 ? ":" : `${first}:${last}`;
  const selection = info.shape
    .map((_, at) => (at === axis ? `${start}:${stop}` : around))
    .join(",");
  useEffect(() => {
    const png = async () => {
      const picture = document.createElement("canvas");
      onPaper(() => latest.current(picture, Math.max(FINE, devicePixelRatio)));
      return captioned(picture, width, height, info.title, notes.current);
    };
    show({ selection, png });
  }, [selection, show, width, height]);

  const handlers = useMoves(canvas, frame, view, setView, length);
  const page = (by: number) => {
    const shown = last - first;
    const from = Math.max(0, Math.min(first + by * shown, channels - 1));
    if (from < channels && from !== first)
      move({ channels: `${from}:${Math.min(from + shown, channels)}` });
  };
  const zoom = (factor: number) => {
    setView((now) => zoomed(now, (now[0] + now[1]) / 2, factor, length));
  };
  const pan = (by: number) => setView((now) => panned(now, by * (now[1] - now[0]), length));
  const keys: Record<string, () => void> = {
    ArrowLeft: () => pan(-0.2),
    ArrowRight: () => pan(0.2),
    ArrowUp: () => zoom(0.5),
    ArrowDown: () => zoom(2),
    "+": () => zoom(0.5),
    "-": () => zoom(2),
    "0": () => setView(() => [0, length]),
    Home: () => setView((now) => panned(now, -length, length)),
    End: () => setView((now) => panned(now, length, length)),
    PageUp: () => page(-1),
    PageDown: () => page(1),
    g: () => change({ gain: step(gain, 1.5) }),
    s: () => change({ gain: step(gain, 1 / 1.5) }),
  };

  if (length === 0 || channels === 0)
    return <Failure message={`There is nothing to draw: the shape is ${info.shape.join(" × ")}.`} />;
  return (
    <>
      <div className="tools">
        <Choice
          label="Plot"
          value={heat ? "heat" : "traces"}
          options={{ traces: "Traces", heat: "Heat map" }}
          onChange={(plot) =>
            change({ plot: plot === "heat" ? plot : null, channels: null }, false)
          }
        />
        {channels > 1 && (
          <span className="group">
            <button onClick={() => page(-1)} disabled={first === 0} aria-label="Channels before">
              ‹
            </button>
            <Entry
              label="Channels"
              value={`${first}:${last}`}
              width={8}
              onChange={(text) => change({ channels: text || null })}
            />
            <span className="muted">of {count(channels)}</span>
            <button onClick={() => page(1)} disabled={last >= channels} aria-label="Channels after">
              ›
            </button>
          </span>
        )}
        <span className="group">
          <button onClick={keys.s} aria-label="Less gain">
            −
          </button>
          <Entry
            label="Gain"
            value={short(gain, 3)}
            width={4}
            onChange={(text) => change({ gain: Number(text) > 0 ? text : null })}
          />
          <button onClick={keys.g} aria-label="More gain">
            +
          </button>
        </span>
        <span className="group">
          <Entry
            label={heat ? "Limit ±" : "Spacing"}
            width={6}
            value={String(spacing || "")}
            onChange={(text) => change({ spacing: Number(text) > 0 ? text : null })}
          />
          <button onClick={() => change({ spacing: found?.spacing, gain: null })}>Fit</button>
        </span>
        <label className="check">
          <input
            type="checkbox"
            checked={removeOffset}
            onChange={(event) =>
              change({ offset: event.target.checked ? null : 0, spacing: null })
            }
          />
          Remove offset
        </label>
        <Entry
          label="Rate"
          value={rate ? String(rate) : ""}
          placeholder="Hz"
          onChange={(text) => change({ rate: Number(text) > 0 ? text : null })}
        />
        {info.shape.length > 1 && (
          <Select
            label="Axis"
            value={String(axis)}
            options={info.shape.map((_, at) => String(at))}
            onChange={(at) =>
              change({ axis: at, start: null, stop: null, channels: null, spacing: null }, false)
            }
          />
        )}
        <button onClick={keys["0"]} disabled={view[0] === 0 && view[1] === length}>
          Whole
        </button>
      </div>
      <div
        ref={area}
        className="plot"
        tabIndex={0}
        role="group"
        aria-label={`${heat ? "Heat map" : "Traces"} of ${info.title}. Arrow keys move and zoom.`}
        onKeyDown={(event) => {
          const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
          if (!act) return;
          event.preventDefault();
          act();
        }}
      >
        <canvas ref={canvas} style={{ width, height }} {...handlers} />
        {error && <Failure message={error} />}
        <Readout
          canvas={canvas}
          describe={(x, y) => {
            if (!value || !scale) return "";
            const { traces } = value;
            const { each } = traces;
            const sample = view[0] + ((x - frame.left) / frame.width) * (view[1] - view[0]);
            const channel = Math.floor(((y - frame.top) / frame.height) * traces.count);
            const pixel = Math.floor((sample - traces.start) / each + (each > 1 ? 0 : 0.5));
            if (x < frame.left || !(channel in scale.offsets)) return "";
            if (pixel < 0 || pixel >= traces.width) return "";
            const low = traces.lowest[channel * traces.width + pixel];
            const high = traces.highest[channel * traces.width + pixel];
            const at = each > 1 ? Math.round(sample) : traces.start + pixel;
            const time = rate ? ` (${(at / rate).toFixed(4)} s)` : "";
            const nan = traces.missing?.[channel * traces.width + pixel] ?? 0;
            const some = nan && low === low ? `, ${count(nan)} NaN` : "";
            const values = low === high ? short(low, 6) : `${short(low, 6)} … ${short(high, 6)}`;
            return `sample ${count(at)}${time}, channel ${traces.first + channel}: ${values}${some}`;
          }}
        />
      </div>
      <Position view={view} length={length} heat={heat} onMove={(to) => setView((now) => centred(now, to, length))} />
      <p className="state" role="status">
        {value && (
          <span className={value.header.exact ? undefined : "sampled"}>{exactness(value.header)}</span>
        )}
        {value && value.header.nan > 0 && <span className="missing">{missing(value.header)}</span>}
        {value && !value.header.exact && progress?.state === "running" && (
          <Working what="Computing the exact overview" done={progress.done} />
        )}
        {progress?.state === "failed" && <span className="failure">{progress.error}</span>}
        {loading && <span className="muted">reading …</span>}
      </p>
    </>
  );
}

function exactness(header: TraceHeader): string {
  const read = header.bytes > 0 ? `; ${size(header.bytes)} read` : "";
  const samples = `${count(header.stop - header.start)} samples`;
  if (!header.exact)
    return `sampled: each pixel stands for ${count(header.of)} samples, of which ${count(header.read)} were read${read}`;
  return `exact: ${header.of > 1 ? `lowest and highest of each ${count(header.of)} of ` : ""}${samples}${read}`;
}

function missing({ nan, values, exact }: TraceHeader): string {
  return `${count(nan)} of ${count(values)} values${exact ? "" : " that were read"} are NaN`;
}

/** Where in the whole recording the window is; a click moves it there. */
function Position(props: {
  view: View;
  length: number;
  heat: boolean;
  onMove: (to: number) => void;
}) {
  const { view, length } = props;
  return (
    <div
      className={props.heat ? "position beside-bar" : "position"}
      aria-hidden
      onPointerDown={(event) => {
        const box = event.currentTarget.getBoundingClientRect();
        props.onMove(((event.clientX - box.left) / box.width) * length);
      }}
    >
      <div
        style={{
          left: `${(100 * view[0]) / length}%`,
          width: `max(2px, ${(100 * (view[1] - view[0])) / length}%)`,
        }}
      />
    </div>
  );
}

/** What is under the pointer. */
function Readout(props: {
  canvas: RefObject<HTMLCanvasElement>;
  describe: (x: number, y: number) => string;
}) {
  const text = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const target = props.canvas.current;
    if (!target) return;
    const moved = (event: PointerEvent) => {
      if (text.current) text.current.textContent = props.describe(event.offsetX, event.offsetY);
    };
    const left = () => text.current && (text.current.textContent = "");
    target.addEventListener("pointermove", moved);
    target.addEventListener("pointerleave", left);
    return () => {
      target.removeEventListener("pointermove", moved);
      target.removeEventListener("pointerleave", left);
    };
  });
  return <div ref={text} className="readout" />;
}

function decimals(step: number): number {
  return Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
}

function step(gain: number, factor: number): number {
  return Number((gain * factor).toPrecision(3));
}

/** "16:32" → [16, 32], within what there is. */
function channelRange(text: string | null, channels: number, most: number): View {
  const [first, last] = (text ?? "").split(/[:–-]/).map((part) => Number.parseInt(part, 10));
  const from = Math.max(0, Math.min(first || 0, channels - 1));
  const to = Number.isFinite(last) && last > from ? last : from + most;
  return [from, Math.min(to, channels, from + 1024)];
}

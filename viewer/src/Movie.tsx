/** A movie or a stack: frames along one axis. */
import { useEffect, useMemo, useRef, useState } from "react";
import { change, number, useAddress } from "./address";
import { getComputed, pause, useLoad, type FrameHeader, type Params } from "./api";
import { ColorBar } from "./ColorBar";
import { COLOR_MAPS, drawColorBar, image, onPaper } from "./colors";
import { decode } from "./decode";
import { Frames, type Picture } from "./frames";
import { Pointed } from "./Pointed";
import { Series } from "./Series";
import { captioned, FINE } from "./figure";
import { begin, drawAxis, drawName, ticks, type Frame } from "./plot";
import { count, nans, quantity, short } from "./text";
import {
  Choice,
  Entry,
  Failure,
  Select,
  useSettling,
  useSize,
  Working,
  type ViewProps,
} from "./ui";

/** The axes of the image: the two longest but that of the frames. */
function imageAxes(shape: number[], axis: number): number[] {
  const rest = shape.map((_, at) => at).filter((at) => at !== axis);
  return rest
    .sort((a, b) => shape[b] - shape[a] || b - a)
    .slice(0, 2)
    .sort((a, b) => a - b);
}

export function Movie({ info, array, show }: ViewProps) {
  const { query } = useAddress();
  const { shape } = info;
  const axis = number(query, "axis", info.axis);
  const length = shape[axis] ?? 0;
  const [yAxis, xAxis] = imageAxes(shape, axis);
  const given = new Map(
    (query.get("other") ?? "").split(",").map((pair) => pair.split(":").map(Number) as [number, number]),
  );
  const others = shape
    .map((_, at) => at)
    .filter((at) => at !== axis && at !== yAxis && at !== xAxis)
    .map((at) => [at, Math.min(given.get(at) || 0, shape[at] - 1)] as const);
  const other = others.map((pair) => pair.join(":")).join(",") || undefined;
  const rate = number(query, "fps", 20);
  const kind = query.get("show") ?? "frame";
  const box = query.get("box");
  const map = query.get("map") === "viridis" ? "viridis" : "gray";
  const params: Params = { ...array, axis, other };
  const name = JSON.stringify([params, kind]);

  const [index, setIndex] = useSettling(
    Math.max(0, Math.min(number(query, "index", 0), length - 1)),
    (at) => change({ index: at }),
  );
  const go = (to: number) => setIndex(() => Math.max(0, Math.min(to, length - 1)));
  const frames = useMemo(
    () => new Frames(name, params, length, Math.max(1, info.nbytes / Math.max(1, length))),
    [name],
  );
  const [playing, setPlaying] = useState(false);
  const [played, setPlayed] = useState<Picture>();
  const [failure, setFailure] = useState("");
  const [done, setDone] = useState(0);
  const still = useLoad<Picture>(
    length === 0
      ? null
      : kind === "frame"
        ? playing
          ? null
          : (signal) => frames.get(index, signal)
        : async (signal) => {
            setDone(0);
            const answer = await getComputed<FrameHeader>(
              "projection",
              { ...params, kind },
              signal,
              setDone,
            );
            return { of: name, header: answer.header, values: decode(answer, undefined).numbers! };
          },
    [name, kind === "frame" ? index : 0, playing],
  );
  const picture = [still.value, played].find((one) => one?.of === name);

  useEffect(() => {
    if (!playing) return;
    const controller = new AbortController();
    const { signal } = controller;
    const play = async () => {
      let due = performance.now();
      for (let next = index; ; next = (next + 1) % length) {
        const frame = await frames.play(next, signal);
        // What came late is not caught up with: frames are not to be skipped.
        due = Math.max(due + 1000 / rate, performance.now());
        await pause(due - performance.now(), signal);
        setPlayed(frame);
        setIndex(() => next);
      }
    };
    setFailure("");
    setPlayed(undefined); // else what was played last would be seen again
    play().catch((error: Error) => {
      if (signal.aborted) return;
      setFailure(error.message);
      setPlaying(false);
    });
    return () => controller.abort(new DOMException("stopped", "AbortError"));
  }, [playing, rate, frames]);

  const low = number(query, "low", NaN);
  const high = number(query, "high", NaN);
  const limits: [number, number] | undefined =
    low < high ? [low, high] : picture && percentiles(picture.header);
  // Kept in the address once found, so that the contrast does not flicker from frame to frame.
  useEffect(() => {
    if (picture && limits && !(low < high)) change({ low: limits[0], high: limits[1] });
  }, [picture, low, high]);

  const canvas = useRef<HTMLCanvasElement>(null);
  const area = useRef<HTMLDivElement>(null);
  const room = useSize(area);
  const [height, width] = picture?.header.shape ?? [shape[yAxis], shape[xAxis]];
  const scale = Math.max(0, Math.min((room.width - BAR) / width, room.height / height));
  const missing = useMemo(() => nans(picture?.values), [picture]);
  useEffect(() => {
    if (!canvas.current || !picture || !limits) return;
    canvas.current.width = width;
    canvas.current.height = height;
    canvas.current
      .getContext("2d")!
      .putImageData(image(picture.values, width, height, limits, COLOR_MAPS[map]), 0, 0);
  }, [picture, limits?.[0], limits?.[1], map, width, height]);

  const selection = shape
    .map((_, at) => {
      if (at === axis) return kind === "frame" ? String(index) : ":";
      return String(others.find(([which]) => which === at)?.[1] ?? ":");
    })
    .join(",");
  useEffect(
    () =>
      show({
        selection,
        more: kind === "frame" ? undefined : { kind, axis },
        png: () => latest.current(),
      }),
    [selection, kind, show],
  );
  const latest = useRef<() => Promise<Blob | null>>(async () => null);
  latest.current = async () => {
    const source = canvas.current;
    if (!source || !picture || !limits) return null;
    // Small images are enlarged by whole numbers, so that each pixel is as large as the others.
    const ratio = FINE;
    const enlarged = Math.max(1, Math.round(480 / Math.max(width, height)));
    const frame = { left: 76, top: 8, width: width * enlarged, height: height * enlarged };
    const [wide, high] = [Math.max(360, frame.left + frame.width + 110), frame.height + 54];
    const target = document.createElement("canvas");
    onPaper(() => {
      const { context, colors } = begin(target, wide, high, ratio);
      drawAxis(context, colors, frame, [0, width], count, `axis ${xAxis}`);
      drawRows(context, frame, height);
      drawName(context, colors, frame, `axis ${yAxis}`);
      context.fillStyle = colors.missing;
      context.fillRect(frame.left, frame.top, frame.width, frame.height);
      context.imageSmoothingEnabled = false;
      context.drawImage(source, frame.left, frame.top, frame.width, frame.height);
      const bar: [number, number, number, number] = [
        frame.left + frame.width + 14, frame.top, 14, Math.min(240, frame.height),
      ];
      drawColorBar(context, colors, bar, limits, COLOR_MAPS[map], short, missing > 0);
    });
    const what = kind === "frame" ? `frame ${count(index)} of ${count(length)}` : `${kind} of ${count(length)} frames`;
    const places = others.map(([at, place]) => `, axis ${at}: ${place}`).join("");
    return captioned(target, wide, high, info.title, [
      info.comment,
      `${quantity(info)}, ${what} along axis ${axis}${places}`,
      missing ? `${count(missing)} of ${count(width * height)} values are NaN` : "",
    ]);
  };

  const toggle = () => setPlaying(!playing && kind === "frame" && length > 1);
  const keys: Record<string, () => void> = {
    ArrowLeft: () => go(index - 1),
    ArrowRight: () => go(index + 1),
    PageUp: () => go(index - 10),
    PageDown: () => go(index + 10),
    Home: () => go(0),
    End: () => go(length - 1),
    " ": toggle,
  };
  if (length === 0 || info.nbytes === 0)
    return <Failure message={`There is nothing to draw: the shape is ${shape.join(" × ")}.`} />;
  const error = still.error ?? failure;
  return (
    <>
      <div className="tools">
        <Choice
          label="Shown"
          value={kind}
          options={{ frame: "Frame", mean: "Mean", max: "Max", std: "Std" }}
          onChange={(value) => {
            setPlaying(false);
            change({ show: value === "frame" ? null : value, low: null, high: null }, false);
          }}
        />
        <span className="group">
          <Entry
            label="Contrast"
            value={limits ? short(limits[0]) : ""}
            onChange={(text) => change({ low: plainNumber(text) })}
          />
          <Entry
            label="to"
            value={limits ? short(limits[1]) : ""}
            onChange={(text) => change({ high: plainNumber(text) })}
          />
          <button
            title="From the 1st to the 99th percentile of this image"
            onClick={() => picture && change(named(percentiles(picture.header)))}
          >
            1–99 %
          </button>
          <button
            title="From the lowest to the highest value of this image"
            onClick={() =>
              picture && change(named(extremes(picture.header)))
            }
          >
            Full
          </button>
        </span>
        <Select
          label="Colours"
          value={map}
          options={["gray", "viridis"]}
          onChange={(value) => change({ map: value === "gray" ? null : value })}
        />
        <Select
          label="Frames along axis"
          value={String(axis)}
          options={shape.map((_, at) => String(at))}
          onChange={(at) => {
            setPlaying(false);
            change({ axis: at, index: null, other: null, box: null, low: null, high: null }, false);
          }}
        />
        {others.map(([at, value]) => (
          <Entry
            key={at}
            label={`Axis ${at}`}
            value={String(value)}
            width={5}
            placeholder={`0 to ${shape[at] - 1}`}
            onChange={(text) => {
              const changed = others.map(([which, old]) => [which, which === at ? Number(text) || 0 : old]);
              change({ other: changed.map((pair) => pair.join(":")).join(",") });
            }}
          />
        ))}
        <Entry
          label="Box y, x"
          value={box ?? ""}
          width={16}
          placeholder="click the image"
          onChange={(text) => change({ box: text || null })}
        />
        {box && <button onClick={() => change({ box: null })}>Clear</button>}
      </div>
      <div
        ref={area}
        className="plot image"
        tabIndex={0}
        role="group"
        aria-label={`Frame ${index} of ${info.title}. Arrow keys step, space plays.`}
        onKeyDown={(event) => {
          const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key];
          if (!act) return;
          event.preventDefault();
          act();
        }}
      >
        {!error && (
          <Pointed
            canvas={canvas}
            scale={scale}
            width={width}
            height={height}
            box={box}
            values={picture?.values}
          />
        )}
        {!error && limits && (
          <ColorBar
            limits={limits}
            map={map}
            height={Math.min(200, height * scale)}
            missing={missing > 0}
          />
        )}
        {error && <Failure message={error} />}
      </div>
      {kind === "frame" && (
        <div className="tools player">
          <button onClick={toggle} disabled={length < 2}>
            {playing ? "Pause" : "Play"}
          </button>
          <input
            type="range"
            aria-label="Frame"
            min={0}
            max={length - 1}
            value={index}
            onChange={(event) => {
              setPlaying(false);
              go(Number(event.target.value));
            }}
          />
          <Entry
            label="Frame"
            value={String(index)}
            onChange={(text) => go(Number.parseInt(text, 10) || 0)}
          />
          <span className="muted">of {count(length)}</span>
          <Entry
            label="Rate"
            value={String(rate)}
            width={4}
            onChange={(text) => change({ fps: Number(text) > 0 ? Math.min(Number(text), 60) : null })}
          />
          <span className="muted">frames a second</span>
        </div>
      )}
      {box && <Series params={params} box={box} index={index} length={length} name={quantity(info)} onPick={go} />}
      <p className="state" role="status">
        {picture && (
          <span>
            {quantity(info)}; across: axis {xAxis}, down: axis {yAxis}
          </span>
        )}
        {missing > 0 && (
          <span className="missing">
            {count(missing)} of {count(width * height)} values are NaN
          </span>
        )}
        {picture?.header.rounded && <span>Values are rounded to be drawn. </span>}
        {still.loading && kind !== "frame" && <Working what={`Computing the ${kind}`} done={done} />}
        {still.loading && kind === "frame" && <span className="muted">reading …</span>}
      </p>
    </>
  );
}

/** Room for the colour bar beside the image. */
const BAR = 84;

/** Numbers of the rows at the left of a picture. */
function drawRows(context: CanvasRenderingContext2D, frame: Frame, rows: number): void {
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const row of ticks(0, rows, frame.height / 40))
    context.fillText(count(row), frame.left - 8, frame.top + (row / rows) * frame.height);
}

/** From the 1st to the 99th percentile; wider where these are the same. */
function percentiles({ p1, p99, lowest, highest }: FrameHeader): [number, number] {
  if (p1 !== null && p99 !== null && p1 < p99) return [p1, p99];
  return extremes({ lowest, highest });
}

function extremes({ lowest, highest }: Pick<FrameHeader, "lowest" | "highest">): [number, number] {
  const low = lowest ?? 0;
  return highest !== null && low < highest ? [low, highest] : [low, low + 1];
}

function named([low, high]: [number, number]) {
  return { low, high };
}

function plainNumber(text: string): number | null {
  const value = Number(text.replaceAll(",", ""));
  return text === "" || !Number.isFinite(value) ? null : value;
}

/** Any slice of any array, drawn by H5Web. Loaded when first needed: it is most of the page's weight. */
import { ScaleType } from "@h5web/lib";
import { useEffect, useMemo, useRef, useState } from "react";
import { change, number, useAddress } from "./address";
import { getBinary, useLoad, type Header } from "./api";
import { decode, type Field } from "./decode";
import { Drawing } from "./Drawing";
import { captioned, figure as drawnFigure } from "./figure";
import {
  extent,
  firstParts,
  formatParts,
  isColoured,
  longest,
  MOST_BYTES,
  parseParts,
  type Kind,
  type Part,
} from "./slices";
import { count, nans, quantity, shapeText, size } from "./text";
import { Choice, Entry, Failure, Select, useSettling, type ViewProps } from "./ui";

const KINDS: Record<Kind, string> = { line: "Line", heat: "Heat map", rgb: "RGB", matrix: "Matrix" };

/** Longest side of a texture that this machine draws; unknown without WebGL. */
function textureSide(): number {
  const context = document.createElement("canvas").getContext("webgl2");
  const side = (context?.getParameter(context.MAX_TEXTURE_SIZE) as number | undefined) ?? 0;
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return side;
}

export default function Slices({ info, array, show }: ViewProps) {
  const { query } = useAddress();
  const { shape, descr } = info;
  const itemsize = info.nbytes / Math.max(1, shape.reduce((product, n) => product * n, 1)) || 1;
  const [texture] = useState(textureSide);

  const fields = fieldsOf(descr);
  const field = fields.find(({ name }) => name === query.get("field"));
  const fieldName = field?.name ?? "";
  const type = fields.length ? (field?.type ?? "") : info.dtype;
  const drawable = /^[<>|=]?[biufcmM]/.test(type);
  const complex = /^[<>|=]?c/.test(type);
  const plots = texture > 0 && drawable && shape.length > 0;
  const kinds = (Object.keys(KINDS) as Kind[]).filter(
    (kind) =>
      kind === "matrix" ||
      (plots && kind === "line") ||
      (plots && kind === "heat" && shape.length > 1) ||
      (plots && kind === "rgb" && shape.length > 2 && [3, 4].includes(shape.at(-1)!) && !complex),
  );
  const wanted = query.get("plot") as Kind;
  // Of dates, a plot could show the differences only.
  const dates = /^[<>|=]?M8/.test(type);
  const usual = dates ? "matrix" : isColoured(info) && plots ? "rgb" : shape.length > 1 && plots ? "heat" : kinds[0];
  const kind = kinds.includes(wanted) ? wanted : usual;

  // The axes that are shown, vertical first; the last axis of an RGB image is its colours.
  const axes = shape.map((_, axis) => axis).slice(0, kind === "rgb" ? -1 : undefined);
  const flat = kind === "line" || (fields.length > 0 && !fieldName) || axes.length < 2;
  const x = axes.length ? Math.min(number(query, "x", axes.at(-1)!), axes.length - 1) : -1;
  const free = axes.filter((axis) => axis !== x);
  const y = flat ? -1 : free.includes(number(query, "y", NaN)) ? number(query, "y", NaN) : free.at(-1)!;
  const shown = [y, x, kind === "rgb" ? shape.length - 1 : -1].filter((axis) => axis >= 0);
  const limit = (axis: number) => longest(kind, texture || 8192, axis === x && !flat);

  const typed = query.get("slice");
  const parsed = useMemo(
    () => (typed === null ? undefined : parseParts(typed, shape)),
    [typed, shape],
  );
  const ready = useMemo(() => {
    const first = firstParts(shape, shown, limit, itemsize);
    if (!parsed) return first;
    // Another plot shows other axes: what was one place becomes a range, and the reverse.
    return parsed.map((part, axis): Part => {
      if (shown.includes(axis)) return typeof part === "number" ? first[axis] : part;
      return typeof part === "number" ? part : part[0];
    });
  }, [parsed, shape, shown.join(), kind, itemsize]);
  const [parts, setParts] = useSettling<Part[]>(ready, (next) =>
    change({ slice: formatParts(next) }),
  );
  const setPart = (axis: number, part: Part) =>
    setParts((now) => now.map((old, at) => (at === axis ? part : old)));

  const selection = formatParts(ready);
  const bytes = ready.reduce((product: number, part) => product * extent(part), itemsize);
  const broken = [
    shape.includes(0) && `There is nothing to show: an axis of ${shapeText(shape)} is empty.`,
    typed !== null &&
      !parsed &&
      `"${typed}" is no slice of ${shapeText(shape)}: give one index or range start:stop per axis, within the shape.`,
    bytes > MOST_BYTES &&
      `This slice has ${size(bytes)}; at most ${size(MOST_BYTES)} are shown at once. Take a shorter range.`,
    ...shown.map(
      (axis) =>
        extent(ready[axis]) > limit(axis) &&
        `${KINDS[kind]} draws at most ${count(limit(axis))} along an axis here, and the range of axis ${axis} has ${count(extent(ready[axis]))}. Take a shorter range.`,
    ),
  ].find(Boolean);

  const { value, error, loading } = useLoad(
    broken
      ? null
      : async (signal) => {
          const answer = await getBinary<Header>("slice", { ...array, selection }, signal);
          return { selection, values: decode(answer, descr) };
        },
    [selection, broken],
  );

  const figure = useRef<HTMLDivElement>(null);
  useEffect(
    () =>
      show({
        selection,
        more: fieldName ? { field: fieldName } : undefined,
        png: kind === "matrix" ? undefined : () => latest.current(),
      }),
    [selection, fieldName, kind, show],
  );
  // H5Web takes its colours from the page when it is drawn anew.
  const [, setDrawn] = useState(0);
  const latest = useRef<() => Promise<Blob | null>>(async () => null);
  latest.current = async () => {
    const plot = figure.current;
    if (!plot) return null;
    const { classList } = document.documentElement;
    try {
      classList.add("paper");
      setDrawn((before) => before + 1);
      for (let frames = 0; frames < 3; frames += 1) await new Promise(requestAnimationFrame);
      const picture = await drawnFigure(plot);
      const { width, height } = plot.getBoundingClientRect();
      const of = `${quantity(info)}${fieldName && `, field ${fieldName}`} [${selection}]`;
      return picture && (await captioned(picture, width, height, info.title, [info.comment, of, values?.note ?? "", nanText]));
    } finally {
      classList.remove("paper");
      setDrawn((before) => before + 1);
    }
  };
  const whole = value?.selection === selection ? value.values : undefined;
  const values =
    whole && fieldName ? whole.fields?.find(([name]) => name === fieldName)?.[1] : whole;
  const nan = useMemo(
    () => (values?.complex ? nans(values.complex, 2) : nans(values?.numbers)),
    [values],
  );
  const nanText = nan && kind !== "matrix" ? `${count(nan)} of ${count(extentOf(values!.shape))} values are NaN${kind === "heat" ? ": white" : ""}.` : "";
  const starts = [y, x].map((axis) => (axis < 0 ? 0 : (ready[axis] as [number, number])[0]));
  // The range was cut to what can be drawn: said, so that nobody takes the part for the whole.
  const cut = ready
    .map((part, axis) =>
      shown.includes(axis) && extent(part) < shape[axis]
        ? `axis ${axis}: ${formatParts([part])} of ${count(shape[axis])}`
        : "",
    )
    .filter(Boolean)
    .join(", ");

  return (
    <>
      <div className="tools">
        {kinds.length > 1 && (
          <Choice
            label="Plot"
            value={kind}
            options={Object.fromEntries(kinds.map((one) => [one, KINDS[one]]))}
            onChange={(plot) => change({ plot, zoom: null, low: null, high: null }, false)}
          />
        )}
        {fields.length > 0 && (
          <Select
            label="Field"
            value={fieldName}
            options={{ "": "all", ...Object.fromEntries(fields.map(({ name }) => [name, name])) }}
            onChange={(field) => change({ field: field || null, plot: null, zoom: null }, false)}
          />
        )}
        {axes.length > 1 && (
          <Select
            label={kind === "matrix" && !flat ? "Columns: axis" : kind === "matrix" ? "Rows: axis" : "x: axis"}
            value={String(x)}
            options={axes.map(String)}
            onChange={(axis) => change({ x: axis, y: null, slice: null, zoom: null })}
          />
        )}
        {!flat && axes.length > 2 && (
          <Select
            label={kind === "matrix" ? "Rows: axis" : "y: axis"}
            value={String(y)}
            options={free.map(String)}
            onChange={(axis) => change({ y: axis, slice: null, zoom: null })}
          />
        )}
        <Look kind={kind} complex={complex} />
      </div>
      {shape.length > 0 && (
        <div className="tools axes">
          {axes.map((axis) => (
            <AxisPart
              key={axis}
              axis={axis}
              length={shape[axis]}
              part={parts[axis]}
              shown={shown.includes(axis)}
              onChange={(part) => setPart(axis, part)}
              onText={(text) =>
                change({
                  slice: parts.map((part, at) => (at === axis ? text : formatParts([part]))).join(","),
                })
              }
            />
          ))}
        </div>
      )}
      <div
        ref={figure}
        className={`plot h5web ${kind}`}
        tabIndex={0}
        role="group"
        aria-label={`${KINDS[kind]} of ${info.title}. Arrow keys move and zoom.`}
      >
        {broken || error ? (
          <Failure message={broken || error!} />
        ) : (
          values && (
            <Drawing
              values={values}
              kind={kind}
              transposed={y > x && y >= 0}
              labels={[y >= 0 ? `axis ${y}` : "", x >= 0 ? `axis ${x}` : ""]}
              quantity={values.unit ?? (fieldName || quantity(info))}
              starts={starts}
            />
          )
        )}
      </div>
      <p className="state" role="status">
        {cut && <span className="sampled">A part: {cut}. </span>}
        {kind === "matrix" && starts.some(Boolean) && (
          <span>Rows and columns are counted from the beginning of the part. </span>
        )}
        {values?.note && <span>{values.note} </span>}
        {nanText && <span>{nanText} </span>}
        {texture === 0 && <span>This browser has no WebGL: numbers only. </span>}
        {loading && <span className="muted">reading …</span>}
      </p>
    </>
  );
}

function extentOf(shape: number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** The fields of a structured dtype; the type is empty for one that has no single numbers. */
function fieldsOf(descr: unknown): { name: string; type: string }[] {
  if (!Array.isArray(descr)) return [];
  return (descr as Field[])
    .map(([title, type, subshape]) => ({
      name: Array.isArray(title) ? title[1] : title,
      type: typeof type === "string" && !subshape ? type : "",
    }))
    .filter(({ name }) => name);
}

/** One axis: an index with a slider, or a range that is shown. */
function AxisPart(props: {
  axis: number;
  length: number;
  part: Part;
  shown: boolean;
  onChange: (part: Part) => void;
  onText: (text: string) => void;
}) {
  const { axis, length, part } = props;
  if (props.shown || typeof part !== "number")
    return (
      <Entry
        label={`Axis ${axis}`}
        value={typeof part === "number" ? String(part) : part.join(":")}
        width={15}
        placeholder={`0:${length}`}
        onChange={(text) => props.onText(text || `0:${length}`)}
      />
    );
  return (
    <span className="group">
      <Entry label={`Axis ${axis}`} value={String(part)} onChange={props.onText} />
      <input
        type="range"
        aria-label={`Index of axis ${axis}`}
        min={0}
        max={Math.max(0, length - 1)}
        value={part}
        onChange={(event) => props.onChange(Number(event.target.value))}
      />
      <span className="muted">of {count(length)}</span>
    </span>
  );
}

const PARTS = { amplitude: "Amplitude", phase: "Phase", real: "Real", imaginary: "Imaginary" };

/** How it is drawn: scale, colours and limits. */
function Look({ kind, complex }: { kind: Kind; complex: boolean }) {
  const { query } = useAddress();
  if (kind === "matrix" || kind === "rgb") return null;
  const limit = (name: "low" | "high", label: string) => (
    <Entry
      label={label}
      value={query.get(name) ?? ""}
      placeholder="auto"
      onChange={(text) => change({ [name]: text && Number.isFinite(Number(text)) ? text : null })}
    />
  );
  return (
    <>
      {complex && (
        <Select
          label="Part"
          value={query.get("part") ?? "amplitude"}
          options={PARTS}
          onChange={(part) => change({ part, low: null, high: null })}
        />
      )}
      <Select
        label="Scale"
        value={query.get("scale") ?? ScaleType.Linear}
        options={[ScaleType.Linear, ScaleType.Log, ScaleType.SymLog]}
        onChange={(scale) => change({ scale: scale === ScaleType.Linear ? null : scale })}
      />
      {kind === "heat" && (
        <Select
          label="Colours"
          value={query.get("map") ?? "Viridis"}
          options={["Viridis", "Greys", "Inferno", "Cividis", "RdBu", "Turbo"]}
          onChange={(map) => change({ map: map === "Viridis" ? null : map })}
        />
      )}
      <span className="group">
        {limit("low", "From")}
        {limit("high", "to")}
      </span>
    </>
  );
}

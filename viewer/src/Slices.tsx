/** Any slice of any array, drawn by H5Web. Loaded when first needed: it is most of the page's weight. */
import {
  ColorBar,
  HeatmapVis,
  LineVis,
  MatrixVis,
  RgbVis,
  ScaleType,
  getDomain,
  type ColorMap,
  type Domain,
} from "@h5web/lib";
import "@h5web/lib/styles.css";
import ndarray from "ndarray";
import { useEffect, useMemo, useRef, useState } from "react";
import { Camera } from "./Camera";
import { change, number, useAddress } from "./address";
import { getBinary, useLoad, type Header } from "./api";
import { decode, type NumberArray, type Values } from "./decode";
import { figurePng } from "./figure";
import {
  extent,
  firstParts,
  formatParts,
  longest,
  MOST_BYTES,
  parseParts,
  type Kind,
  type Part,
} from "./slices";
import { count, shapeText, size } from "./text";
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

  const fields = Array.isArray(descr) && Array.isArray(descr[0]) ? (descr as unknown[][]) : [];
  const names = fields.map(([title]) => String(Array.isArray(title) ? title[1] : title)).filter(Boolean);
  const fieldName = names.includes(query.get("field") ?? "") ? query.get("field")! : "";
  const drawable = fields.length
    ? /^[<>|=]?[biufcmM]/.test(String(fields.find(([title]) => title === fieldName)?.[1] ?? ""))
    : /^[<>|=]?[biufcmM?]/.test(info.dtype);
  const complex = /^[<>|=]?c/.test(info.dtype);
  const plots = texture > 0 && drawable && shape.length > 0;
  const kinds = (Object.keys(KINDS) as Kind[]).filter(
    (kind) =>
      kind === "matrix" ||
      (plots && kind === "line") ||
      (plots && kind === "heat" && shape.length > 1) ||
      (plots && kind === "rgb" && shape.length > 2 && [3, 4].includes(shape.at(-1)!) && !complex),
  );
  const wanted = query.get("plot") as Kind;
  const usual = kinds.includes("rgb") ? "rgb" : shape.length > 1 && plots ? "heat" : kinds[0];
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
  const ready = useMemo(() => {
    const parsed = typed === null ? undefined : parseParts(typed, shape);
    const first = firstParts(shape, shown, limit, itemsize);
    if (!parsed) return first;
    // Another plot shows other axes: what was one place becomes a range, and the reverse.
    return parsed.map((part, axis): Part => {
      if (shown.includes(axis)) return typeof part === "number" ? first[axis] : part;
      return typeof part === "number" ? part : part[0];
    });
  }, [typed, shape, shown.join(), kind, itemsize]);
  const [parts, setParts] = useSettling<Part[]>(ready, (next) =>
    change({ slice: formatParts(next) }),
  );
  const setPart = (axis: number, part: Part) =>
    setParts((now) => now.map((old, at) => (at === axis ? part : old)));

  const selection = formatParts(ready);
  const bytes = ready.reduce((product: number, part) => product * extent(part), itemsize);
  const broken =
    shape.includes(0)
      ? `There is nothing to show: an axis of ${shapeText(shape)} is empty.`
      : typed !== null && !parseParts(typed, shape)
        ? `"${typed}" is no slice of ${shapeText(shape)}: one index or range start:stop per axis, within the shape.`
        : bytes > MOST_BYTES
          ? `This slice has ${size(bytes)}; at most ${size(MOST_BYTES)} are shown at once. Take a shorter range.`
          : (ready
              .map((part, axis) =>
                shown.includes(axis) && extent(part) > limit(axis)
                  ? `${KINDS[kind]} draws at most ${count(limit(axis))} along an axis here, and the range of axis ${axis} has ${count(extent(part))}. Take a shorter range.`
                  : "",
              )
              .find(Boolean) ?? "");

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
    () => show({ selection, png: kind === "matrix" ? undefined : () => figurePng(figure.current) }),
    [selection, kind, show],
  );
  const whole = value?.selection === selection ? value.values : undefined;
  const values =
    whole && fieldName ? whole.fields?.find(([name]) => name === fieldName)?.[1] : whole;
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
        {names.length > 0 && (
          <Select
            label="Field"
            value={fieldName}
            options={{ "": "all", ...Object.fromEntries(names.map((name) => [name, name])) }}
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
          <Failure message={broken || error || ""} />
        ) : (
          values && (
            <Drawing
              values={values}
              kind={kind}
              transposed={y > x && y >= 0}
              complex={complex}
              labels={[y >= 0 ? `axis ${y}` : "", x >= 0 ? `axis ${x}` : ""]}
              starts={[y, x].map((axis) => (typeof ready[axis] === "object" ? (ready[axis] as number[])[0] : 0))}
            />
          )
        )}
      </div>
      <p className="state" role="status">
        {cut && <span className="sampled">A part: {cut}. </span>}
        {values?.note && <span>{values.note} </span>}
        {texture === 0 && <span>This browser has no WebGL: numbers only. </span>}
        {loading && <span className="muted">reading …</span>}
      </p>
    </>
  );
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
      {limit("low", "From")}
      {limit("high", "to")}
    </>
  );
}

function Drawing(props: {
  values: Values;
  kind: Kind;
  transposed: boolean;
  complex: boolean;
  labels: [string, string];
  starts: number[];
}) {
  const { values, kind, labels } = props;
  const { query } = useAddress();
  const part = query.get("part") ?? "amplitude";
  const { numbers, rows, columns } = useMemo(() => {
    const drawn = values.complex ? partOf(values.complex, part) : values.numbers;
    const [rows, columns] = values.shape.length < 2 ? [1, values.shape[0] ?? 1] : values.shape;
    return props.transposed && kind !== "matrix" && drawn && kind !== "rgb"
      ? { numbers: transpose(drawn, rows, columns), rows: columns, columns: rows }
      : { numbers: drawn, rows, columns };
  }, [values, part, props.transposed, kind]);
  const scale = (query.get("scale") as ScaleType.Linear | null) ?? ScaleType.Linear;
  const auto = useMemo(
    () => (numbers && kind !== "matrix" ? getDomain(numbers, { scaleType: scale }) : undefined),
    [numbers, scale, kind],
  );
  const flatDomain: Domain = auto && auto[0] === auto[1] ? [auto[0] - 1, auto[0] + 1] : (auto ?? [0, 1]);
  const low = number(query, "low", flatDomain[0]);
  const high = number(query, "high", flatDomain[1]);
  const domain: Domain = low < high ? [low, high] : flatDomain;
  const indexes = (start: number, length: number) =>
    start ? Float64Array.from({ length }, (_, at) => start + at) : undefined;
  const [yStart, xStart] = props.starts;
  const map = (query.get("map") as ColorMap | null) ?? "Viridis";

  if (kind === "matrix") return <Matrix values={values} transposed={props.transposed} />;
  if (!numbers) return <Failure message="This dtype has no numbers to draw; the matrix shows it." />;
  if (!auto)
    return (
      <Failure
        message={
          scale === ScaleType.Linear
            ? "Every value is NaN or infinite: there is nothing to draw."
            : `No value can be drawn on a ${scale} scale.`
        }
      />
    );
  if (kind === "line")
    return (
      <LineVis
        dataArray={ndarray(numbers, [columns])}
        domain={padded(domain, scale)}
        scaleType={scale}
        abscissaParams={{ label: labels[1], value: indexes(xStart, columns) }}
        showGrid
      >
        <Camera />
      </LineVis>
    );
  if (kind === "heat")
    return (
      <>
        <HeatmapVis
        dataArray={ndarray(numbers, [rows, columns])}
        domain={domain}
        scaleType={scale}
        colorMap={map}
        aspect="auto"
        abscissaParams={{ label: labels[1], value: indexes(xStart, columns) }}
        ordinateParams={{ label: labels[0], value: indexes(yStart, rows) }}
        flipYAxis
      >
        <Camera />
      </HeatmapVis>
      <ColorBar domain={domain} scaleType={scale} colorMap={map} invertColorMap={false} withBounds />
      </>
    );
  return (
    <RgbVis
      dataArray={ndarray(colors(numbers), values.shape)}
      abscissaParams={{ label: labels[1] }}
      ordinateParams={{ label: labels[0] }}
      flipYAxis
    >
      <Camera />
    </RgbVis>
  );
}

function Matrix({ values, transposed }: { values: Values; transposed: boolean }) {
  if (!values.shape.length && !values.fields)
    return <output className="scalar">{values.text(0)}</output>;
  if (values.fields) {
    const { fields } = values;
    return (
      <MatrixVis
        dims={[values.shape[0] ?? 1, fields.length]}
        cellFormatter={(row, column) => fields[column][1].text(row)}
        cellWidth={160}
        columnHeaders={fields.map(([name]) => name)}
      />
    );
  }
  const [rows, columns = 1] = values.shape;
  const widest = Math.max(...[0, 1, 2, 3].map((at) => values.text(at % Math.max(1, rows * columns)).length));
  return (
    <MatrixVis
      dims={transposed ? [columns, rows] : [rows, columns]}
      cellFormatter={(row, column) =>
        values.text(transposed ? column * columns + row : row * columns + column)
      }
      cellWidth={Math.min(600, Math.max(96, 24 + 8 * widest))}
    />
  );
}

function partOf(complex: Float32Array | Float64Array, part: string): NumberArray {
  const value = {
    amplitude: Math.hypot,
    phase: (real: number, imaginary: number) => Math.atan2(imaginary, real),
    real: (real: number) => real,
    imaginary: (_: number, imaginary: number) => imaginary,
  }[part] ?? Math.hypot;
  return Float64Array.from({ length: complex.length / 2 }, (_, at) =>
    value(complex[2 * at], complex[2 * at + 1]),
  );
}

function transpose(numbers: NumberArray, rows: number, columns: number): NumberArray {
  const turned = numbers.slice();
  for (let row = 0; row < rows; row += 1)
    for (let column = 0; column < columns; column += 1)
      turned[column * rows + row] = numbers[row * columns + column];
  return turned;
}

/** Colours as H5Web draws them: bytes, or fractions of one. */
function colors(numbers: NumberArray): Uint8Array | Float32Array {
  if (numbers instanceof Uint8Array) return numbers;
  let most = 1;
  for (const value of numbers) if (value > most) most = value;
  const full = most <= 1 ? 1 : most <= 255 ? 255 : most <= 65535 ? 65535 : most;
  return Float32Array.from(numbers, (value) => value / full);
}

/** A line at the very edge of a plot is hard to see. */
function padded([low, high]: Domain, scale: ScaleType): Domain {
  if (scale !== ScaleType.Linear) return [low, high];
  const margin = (high - low) * 0.04;
  return [low - margin, high + margin];
}

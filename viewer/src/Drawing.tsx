/** A slice drawn by H5Web: line, heat map, RGB or matrix. */
import {
  CurveType,
  getDomain,
  HeatmapVis,
  LineVis,
  MatrixVis,
  RgbVis,
  ScaleType,
  type ColorMap,
  type Domain,
} from "@h5web/lib";
import "@h5web/lib/styles.css";
import ndarray from "ndarray";
import { useMemo } from "react";
import { Camera } from "./Camera";
import { number, useAddress } from "./address";
import type { NumberArray, Values } from "./decode";
import type { Kind } from "./slices";
import { Failure } from "./ui";

export function Drawing(props: {
  values: Values;
  kind: Kind;
  transposed: boolean;
  labels: [string, string];
  quantity: string;
  starts: number[];
}) {
  const { values, kind, labels } = props;
  const { query } = useAddress();
  const part = query.get("part") ?? "amplitude";
  const { numbers, rows, columns } = useMemo(() => {
    const drawn = values.complex ? partOf(values.complex, part) : values.numbers;
    const [rows, columns, depth = 1] =
      values.shape.length < 2 ? [1, values.shape[0] ?? 1] : values.shape;
    return props.transposed && kind !== "matrix" && drawn
      ? { numbers: transpose(drawn, rows, columns, depth), rows: columns, columns: rows }
      : { numbers: drawn, rows, columns };
  }, [values, part, props.transposed, kind]);
  const scale = (query.get("scale") as ScaleType.Linear | null) ?? ScaleType.Linear;
  const auto = useMemo(
    () => (numbers && kind !== "matrix" ? getDomain(numbers, { scaleType: scale }) : undefined),
    [numbers, scale, kind],
  );
  const flatDomain: Domain = auto && auto[0] === auto[1] ? around(auto[0]) : (auto ?? [0, 1]);
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
        curveType={columns < 200 ? CurveType.LineAndGlyphs : CurveType.LineOnly}
        abscissaParams={{ label: labels[1], value: indexes(xStart, columns) }}
        ordinateLabel={props.quantity}
        showGrid
      >
        <Camera />
      </LineVis>
    );
  if (kind === "heat")
    return (
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
    );
  return (
    <RgbVis
      dataArray={ndarray(colors(numbers), [rows, columns, values.shape[2]])}
      abscissaParams={{ label: labels[1], value: indexes(xStart, columns) }}
      ordinateParams={{ label: labels[0], value: indexes(yStart, rows) }}
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
        cellWidth={Math.min(240, cellWidth(values.shape[0] ?? 1, fields.map(([, each]) => each.text)))}
        columnHeaders={fields.map(([name]) => name)}
      />
    );
  }
  const [rows, columns = 1] = values.shape;
  return (
    <MatrixVis
      dims={transposed ? [columns, rows] : [rows, columns]}
      cellFormatter={(row, column) =>
        values.text(transposed ? column * columns + row : row * columns + column)
      }
      cellWidth={cellWidth(rows * columns, [values.text])}
    />
  );
}

/** Wide enough for the first values; H5Web has one width for all columns. */
function cellWidth(length: number, texts: ((index: number) => string)[]): number {
  let widest = 0;
  for (const text of texts)
    for (let at = 0; at < Math.min(length, 50); at += 1) widest = Math.max(widest, text(at).length);
  return Math.min(500, Math.max(96, 24 + 7.5 * widest));
}

function around(value: number): Domain {
  const margin = Math.abs(value) / 10 || 1;
  return [value - margin, value + margin];
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

/** Rows as columns; `depth` numbers belong together. */
function transpose(numbers: NumberArray, rows: number, columns: number, depth: number): NumberArray {
  const turned = numbers.slice();
  for (let row = 0; row < rows; row += 1)
    for (let column = 0; column < columns; column += 1)
      for (let at = 0; at < depth; at += 1)
        turned[(column * rows + row) * depth + at] = numbers[(row * columns + column) * depth + at];
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

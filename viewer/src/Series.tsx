/** The trace of a pixel or a box of a movie. */
import { useEffect, useRef } from "react";
import { floats, getBinary, useLoad, type Header, type Params } from "./api";
import { begin, drawAxis, drawName, frameOf, ticks } from "./plot";
import { count, nans, tick } from "./text";
import { Failure, useDark, useSize } from "./ui";

interface SeriesHeader extends Header {
  step: number;
}

/** The mean of a pixel or box in each frame; a click goes to that frame. */
export function Series(props: {
  params: Params;
  box: string;
  index: number;
  length: number;
  /** Of the vertical axis. */
  name: string;
  onPick: (index: number) => void;
}) {
  const { params, box, index, length } = props;
  const { value, error, loading } = useLoad(
    async (signal) => {
      const answer = await getBinary<SeriesHeader>("series", { ...params, box }, signal);
      return { header: answer.header, values: floats(answer) };
    },
    [JSON.stringify(params), box],
  );
  const missing = nans(value?.values);
  const area = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const { width, height } = useSize(area);
  const dark = useDark();
  const frame = frameOf(width, height);
  useEffect(() => {
    if (!canvas.current || !width || !height) return;
    const { context, colors } = begin(canvas.current, width, height);
    const x = (at: number) => frame.left + ((at + 0.5) / length) * frame.width;
    drawAxis(context, colors, frame, [0, length], count, "frame");
    drawName(context, colors, frame, props.name);
    context.strokeStyle = colors.muted;
    context.strokeRect(x(index), frame.top, 0.01, frame.height);
    if (!value) return;
    let [low, high] = [Infinity, -Infinity];
    for (const at of value.values)
      if (Number.isFinite(at)) [low, high] = [Math.min(low, at), Math.max(high, at)];
    if (low === high) {
      const margin = Math.abs(low) / 10 || 1; // else no digit at the axis would differ
      [low, high] = [low - margin, high + margin];
    }
    const span = high - low;
    const y = (at: number) => frame.top + 4 + ((high - at) / span) * (frame.height - 8);
    context.fillStyle = colors.muted;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const values = low <= high ? ticks(low, high, frame.height / 24) : [];
    for (const at of values)
      context.fillText(tick(at, values[1] - values[0] || span), frame.left - 8, y(at), frame.left - 24);
    context.strokeStyle = colors.accent;
    context.beginPath();
    let drawing = false;
    value.values.forEach((at, n) => {
      const place = x(n * value.header.step);
      if (Number.isFinite(at)) {
        if (drawing) context.lineTo(place, y(at));
        else context.moveTo(place - 0.5, y(at)); // one value alone would be nothing
        context.lineTo(place, y(at));
      }
      drawing = Number.isFinite(at); // NaN: a gap
    });
    context.stroke();
  }, [value, index, length, width, height, dark]);
  return (
    <>
      <div ref={area} className="plot series">
        <canvas
          ref={canvas}
          style={{ width, height }}
          onClick={(event) => {
            const at = (event.nativeEvent.offsetX - frame.left) / frame.width;
            props.onPick(Math.floor(at * length));
          }}
        />
        {error && <Failure message={error} />}
      </div>
      <p className="state" role="status">
        {loading && <span className="muted">reading the trace …</span>}
        {value && value.header.step > 1 && (
          <span className="sampled">sampled: one of every {count(value.header.step)} frames was read</span>
        )}
        {value && value.header.step === 1 && <span>exact: the mean of the box in each frame</span>}
        {value && missing > 0 && (
          <span className="missing">
            {count(missing)} of {count(value.values.length)} means are NaN
          </span>
        )}
      </p>
    </>
  );
}

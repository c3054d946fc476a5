/** An image on which one points: a click chooses a pixel, a drag a box. */
import { useState } from "react";
import { change } from "./address";
import { short } from "./text";

export function Pointed(props: {
  canvas: React.RefObject<HTMLCanvasElement>;
  scale: number;
  width: number;
  height: number;
  box: string | null;
  values?: ArrayLike<number>;
}) {
  const { scale, width, height, values } = props;
  const [from, setFrom] = useState<number[]>();
  const [to, setTo] = useState<number[]>();
  const at = (event: React.PointerEvent) => [
    Math.max(0, Math.min(height - 1, Math.floor(event.nativeEvent.offsetY / scale))),
    Math.max(0, Math.min(width - 1, Math.floor(event.nativeEvent.offsetX / scale))),
  ];
  const dragged = from && to && [0, 1].map((n) => [Math.min(from[n], to[n]), Math.max(from[n], to[n]) + 1]);
  const box = dragged ?? props.box?.split(",").map((range) => range.split(":").map(Number));
  const good = box?.length === 2 && box.flat().every(Number.isFinite) && box.flat().length === 4;
  return (
    <div className="picture" style={{ width: width * scale || 0, height: height * scale || 0 }}>
      <canvas
        ref={props.canvas}
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          setFrom(at(event));
          setTo(at(event));
        }}
        onPointerMove={(event) => setTo(at(event))}
        onPointerUp={() => {
          setFrom(undefined);
          if (dragged) change({ box: dragged.map((range) => range.join(":")).join(",") });
        }}
        onPointerLeave={() => setTo(undefined)}
      />
      {good && (
        <div
          className="box"
          style={{
            top: box[0][0] * scale,
            left: box[1][0] * scale,
            height: (box[0][1] - box[0][0]) * scale,
            width: (box[1][1] - box[1][0]) * scale,
          }}
        />
      )}
      {to && values && (
        <div className="readout">
          y {to[0]}, x {to[1]}: {short(values[to[0] * width + to[1]], 6)}
        </div>
      )}
    </div>
  );
}

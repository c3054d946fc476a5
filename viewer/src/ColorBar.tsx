/** The colour bar beside a movie, with its numbers. */
import { useEffect, useRef } from "react";
import { COLOR_MAPS, drawColorBar } from "./colors";
import { begin } from "./plot";
import { short } from "./text";
import { useDark } from "./ui";

const WIDTH = 74;

export function ColorBar(props: {
  limits: [number, number];
  map: keyof typeof COLOR_MAPS;
  height: number;
  missing: boolean;
}) {
  const { limits, map, height, missing } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const dark = useDark();
  useEffect(() => {
    if (!canvas.current || height < 20) return;
    const { context, colors } = begin(canvas.current, WIDTH, height);
    drawColorBar(context, colors, [0, 0, 14, height], limits, COLOR_MAPS[map], short, missing);
  }, [limits[0], limits[1], map, height, missing, dark]);
  return (
    <canvas
      ref={canvas}
      className="colorbar"
      style={{ width: WIDTH, height }}
      role="img"
      aria-label={`Colours from ${short(limits[0])} to ${short(limits[1])}`}
    />
  );
}

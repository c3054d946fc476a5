/** Inside a plot of H5Web: its zoom in the address, and the keyboard. */
import { useVisCanvasContext } from "@h5web/lib";
import { useFrame, useThree } from "@react-three/fiber";
import { useEffect, useRef } from "react";
import { move, useAddress } from "./address";

/** Scale (1 is the whole) and centre (0 is the middle) along x and y, as parts of the whole. */
type Zoom = [scaleX: number, scaleY: number, x: number, y: number];

const WHOLE: Zoom = [1, 1, 0, 0];

export function Camera() {
  const camera = useThree((state) => state.camera);
  const invalidate = useThree((state) => state.invalidate);
  const { visSize, canvasArea } = useVisCanvasContext();
  const { width, height } = visSize;
  const zoom = useAddress().query.get("zoom") ?? format(WHOLE);
  /** What the address has; undefined until the camera has been set by it. */
  const written = useRef<string>();
  const timer = useRef<ReturnType<typeof setTimeout>>();

  const read = (): Zoom => [
    camera.scale.x,
    camera.scale.y,
    camera.position.x / width,
    camera.position.y / height,
  ];
  const set = ([scaleX, scaleY, x, y]: Zoom) => {
    const within = (at: number, scale: number) =>
      Math.max((scale - 1) / 2, Math.min((1 - scale) / 2, at));
    camera.scale.set(scaleX, scaleY, 1);
    camera.position.x = within(x, scaleX) * width;
    camera.position.y = within(y, scaleY) * height;
    camera.updateMatrixWorld();
    invalidate();
  };

  // Of another size, too: the camera's position is in pixels.
  useEffect(() => {
    clearTimeout(timer.current);
    const parts = zoom.split(",").map(Number);
    set(parts.length === 4 && parts.every(Number.isFinite) ? (parts as Zoom) : WHOLE);
    written.current = format(read());
  }, [camera, zoom, width, height]);

  useFrame(() => {
    const now = format(read());
    clearTimeout(timer.current);
    // A frame may be drawn before the camera is set.
    if (written.current === undefined || now === written.current) return;
    timer.current = setTimeout(() => {
      written.current = now;
      move({ zoom: now === format(WHOLE) ? null : now });
    }, 150);
  });
  useEffect(() => () => clearTimeout(timer.current), []);

  useEffect(() => {
    const plot = canvasArea.closest(".plot") as HTMLElement | null;
    const pressed = (event: KeyboardEvent) => {
      if (event.target !== plot || event.ctrlKey || event.metaKey || event.altKey) return;
      const [scaleX, scaleY, x, y] = read();
      const by = (factor: number): Zoom => [
        Math.min(1, scaleX * factor),
        Math.min(1, scaleY * factor),
        x,
        y,
      ];
      const next: Record<string, Zoom> = {
        ArrowLeft: [scaleX, scaleY, x - 0.2 * scaleX, y],
        ArrowRight: [scaleX, scaleY, x + 0.2 * scaleX, y],
        PageUp: [scaleX, scaleY, x, y + 0.2 * scaleY],
        PageDown: [scaleX, scaleY, x, y - 0.2 * scaleY],
        ArrowUp: by(0.5),
        ArrowDown: by(2),
        "+": by(0.5),
        "-": by(2),
        "0": WHOLE,
      };
      if (!(event.key in next)) return;
      event.preventDefault();
      set(next[event.key]);
    };
    plot?.addEventListener("keydown", pressed);
    return () => plot?.removeEventListener("keydown", pressed);
  });
  return null;
}

function format(zoom: Zoom): string {
  return zoom.map((part) => Number(part.toFixed(5))).join(",");
}

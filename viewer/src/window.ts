/** The window of samples that is shown, and how wheel and drag move it. */
import { useEffect, useRef, type MouseEvent, type PointerEvent, type RefObject } from "react";

/** Fewest samples that a zoom goes down to. */
const CLOSEST = 8;

export type View = [start: number, stop: number];

/** Wheel and drag: zoom about the pointer, and pan. */
export function useMoves(
  canvas: RefObject<HTMLCanvasElement>,
  frame: { left: number; width: number },
  view: View,
  setView: (next: (now: View) => View) => void,
  length: number,
) {
  const grabbed = useRef<{ x: number; view: View }>();
  const at = ([start, stop]: View, x: number) =>
    start + ((x - frame.left) / frame.width) * (stop - start);
  useEffect(() => {
    const target = canvas.current;
    if (!target) return;
    // By hand: React's listener is passive and could not keep the page from scrolling.
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      const along = event.shiftKey ? event.deltaY : event.deltaX;
      if (Math.abs(along) > Math.abs(event.deltaY) || event.shiftKey)
        setView((now) => panned(now, (along / frame.width) * (now[1] - now[0]), length));
      else setView((now) => zoomed(now, at(now, event.offsetX), 1.0018 ** event.deltaY, length));
    };
    target.addEventListener("wheel", wheel, { passive: false });
    return () => target.removeEventListener("wheel", wheel);
  });
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.button !== 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      grabbed.current = { x: event.clientX, view };
    },
    onPointerMove: (event: PointerEvent) => {
      const from = grabbed.current;
      if (!from) return;
      const samples = ((from.x - event.clientX) / frame.width) * (from.view[1] - from.view[0]);
      setView(() => panned(from.view, samples, length));
    },
    onPointerUp: () => (grabbed.current = undefined),
    onPointerCancel: () => (grabbed.current = undefined),
    onDoubleClick: (event: MouseEvent) =>
      setView((now) =>
        zoomed(now, at(now, event.nativeEvent.offsetX), event.shiftKey ? 4 : 0.25, length),
      ),
  };
}

export function clamped(start: number, stop: number, length: number): View {
  const span = Math.min(length, Math.max(CLOSEST, Math.round(stop - start)));
  const from = Math.max(0, Math.min(Math.round(start), length - span));
  return [from, from + span];
}

export function panned([start, stop]: View, samples: number, length: number): View {
  return clamped(start + samples, stop + samples, length);
}

export function centred([start, stop]: View, to: number, length: number): View {
  return panned([start, stop], to - (start + stop) / 2, length);
}

export function zoomed([start, stop]: View, about: number, factor: number, length: number): View {
  const span = Math.max(CLOSEST, Math.min(length, (stop - start) * factor));
  const from = about - ((about - start) / (stop - start)) * span;
  return clamped(from, from + span, length);
}

/** Small parts that several screens share. */
import { useEffect, useId, useLayoutEffect, useRef, useState } from "react";
import type { ReactNode, RefObject } from "react";
import type { ArrayInfo, Params } from "./api";

/** What the view of an array says of itself to the buttons above it. */
export interface Shown {
  /** As in an index: "120000:150000,0:16". */
  selection: string;
  /** More for `/api/code`: a projection. */
  more?: Params;
  png?: () => Promise<Blob | null>;
}

export interface ViewProps {
  info: ArrayInfo;
  array: Params;
  show: (shown: Shown) => void;
}

/** The heading of a view. Once a link has led there, the keyboard goes on from it. */
export function Heading({ children }: { children: ReactNode }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    if (document.activeElement?.matches("main") && heading.current) heading.current.focus();
  }, []);
  return (
    <h1 ref={heading} tabIndex={-1}>
      {children}
    </h1>
  );
}

/** To what there is to look at: the plot, the rows, or the view. */
export function toContent(): void {
  const main = document.querySelector<HTMLElement>("main");
  (main?.querySelector<HTMLElement>(".plot[tabindex], .scroll") ?? main)?.focus();
}

/** Seen when the keyboard comes to it. */
export function Skip({ children }: { children: ReactNode }) {
  return (
    <button className="skip" onClick={toContent}>
      {children}
    </button>
  );
}

export function Failure({ message }: { message: string }) {
  return (
    <p role="alert" className="failure">
      {message}
    </p>
  );
}

export function Field({ label, children }: { label: string; children: ReactNode }) {
  return (
    <label className="field">
      <span>{label}</span>
      {children}
    </label>
  );
}

/** Options of which one is taken, side by side. */
export function Choice(props: {
  label: string;
  value: string;
  options: Record<string, string>;
  onChange: (value: string) => void;
}) {
  const name = useId();
  return (
    <fieldset className="choice" aria-label={props.label}>
      {Object.entries(props.options).map(([value, text]) => (
        <label key={value}>
          <input
            type="radio"
            name={name}
            checked={value === props.value}
            onChange={() => props.onChange(value)}
          />
          <span>{text}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Select(props: {
  label: string;
  value: string;
  options: Record<string, string> | string[];
  onChange: (value: string) => void;
}) {
  const options = Array.isArray(props.options)
    ? props.options.map((option) => [option, option])
    : Object.entries(props.options);
  return (
    <Field label={props.label}>
      <select value={props.value} onChange={(event) => props.onChange(event.target.value)}>
        {options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </Field>
  );
}

/** Text that counts once Enter is pressed or the box is left; Escape takes back. */
export function Entry(props: {
  label: string;
  value: string;
  width?: number;
  placeholder?: string;
  onChange: (value: string) => void;
}) {
  const [text, setText] = useState(props.value);
  useEffect(() => setText(props.value), [props.value]);
  const commit = () => text !== props.value && props.onChange(text.trim());
  return (
    <Field label={props.label}>
      <input
        type="text"
        spellCheck={false}
        value={text}
        placeholder={props.placeholder}
        style={{ width: `${props.width ?? 7}ch` }}
        onChange={(event) => setText(event.target.value)}
        onBlur={commit}
        onKeyDown={(event) => {
          if (event.key === "Enter") commit();
          if (event.key === "Escape") setText(props.value);
        }}
      />
    </Field>
  );
}

export function Working({ what, done }: { what: string; done?: number }) {
  return (
    <span className="working" role="status">
      {what} <progress max={1} value={done} />
      {done !== undefined && ` ${Math.floor(done * 100)} %`}
    </span>
  );
}

export interface Size {
  width: number;
  height: number;
}

/** The size of an element in CSS pixels; zero until it is known. */
export function useSize(element: RefObject<HTMLElement>): Size {
  const [size, setSize] = useState({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const target = element.current;
    if (!target) return;
    const measure = () => setSize({ width: target.clientWidth, height: target.clientHeight });
    measure(); // before anything is painted, so that what is to be drawn is asked for at once
    const observer = new ResizeObserver(measure);
    observer.observe(target);
    return () => observer.disconnect();
  }, [element]);
  return size;
}

/** `value` once it has rested for some milliseconds; at once the first time it is not `empty`. */
export function useRested<T>(value: T, empty: T, rest = 150): T {
  const [rested, setRested] = useState(value);
  const text = JSON.stringify(value);
  const first = JSON.stringify(rested) === JSON.stringify(empty);
  useEffect(() => {
    const timer = setTimeout(() => setRested(value), first ? 0 : rest);
    return () => clearTimeout(timer);
  }, [text]);
  return first ? value : rested;
}

/**
 * A value of the address that changes often, as a zoom does: changed at once on the screen, and
 * by `commit` in the address when it has rested.
 */
export function useSettling<T>(
  value: T,
  commit: (value: T) => void,
): [T, (next: (now: T) => T) => void] {
  const [now, setNow] = useState(value);
  const latest = useRef(value);
  const timer = useRef<ReturnType<typeof setTimeout>>();
  const text = JSON.stringify(value);
  useEffect(() => {
    clearTimeout(timer.current);
    setNow((latest.current = value));
  }, [text]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const set = (next: (now: T) => T) => {
    const settled = (latest.current = next(latest.current));
    setNow(settled);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => commit(settled), 120);
  };
  return [now, set];
}

/** Whether the system wants a dark page; plots on a canvas are drawn anew when it changes. */
export function useDark(): boolean {
  const [query] = useState(() => matchMedia("(prefers-color-scheme: dark)"));
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const listener = () => setDark(query.matches);
    query.addEventListener("change", listener);
    return () => query.removeEventListener("change", listener);
  }, [query]);
  return dark;
}

export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export function canvasPng(canvas: HTMLCanvasElement | null): Promise<Blob | null> {
  return new Promise((resolve) => (canvas ? canvas.toBlob(resolve) : resolve(null)));
}

export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page in a notebook's cell may not use the clipboard; the selection of a text box may.
    const box = document.createElement("textarea");
    box.value = text;
    document.body.append(box);
    box.select();
    const copied = document.execCommand("copy");
    box.remove();
    if (!copied) throw new Error("The browser does not allow the page to copy.");
  }
}

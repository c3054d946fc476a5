/** Requests to the server of `dj-npy view`, and the types of its answers. */
import { useEffect, useState } from "react";

const token = new URLSearchParams(location.search).get("token") ?? "";

export type Params = Record<string, string | number | undefined>;

export interface Table {
  name: string;
  class: string;
  tier: string;
  arrays: string[];
  rows: number | null;
  bytes: number | null;
}

export interface Schemas {
  schemas: { name: string; tables: Table[] }[];
  /** Tables that DataJoint cannot open. */
  unlisted: string[];
  version: string;
}

/** Rows of tables, counted; `most + 1` for a table with more than `most`. */
export interface Counts {
  rows: Record<string, number>;
  most: number;
}

export interface Attribute {
  name: string;
  type: string;
  key: boolean;
  array: boolean;
  nullable: boolean;
  comment: string;
}

/** A foreign key: the attributes of the child, and those of its parent that they refer to. */
export interface ForeignKey {
  table: string;
  class: string;
  attributes: Record<string, string>;
}

export interface TableInfo {
  name: string;
  class: string;
  comment: string;
  definition: string;
  attributes: Attribute[];
  parents: ForeignKey[];
  children: ForeignKey[];
  rows: number | null;
  estimated: boolean;
}

export interface ArrayValue {
  shape: number[];
  dtype: string;
  nbytes: number;
}

export type Value =
  | null
  | string
  | number
  | boolean
  | ArrayValue
  | { error: string }
  | { bytes: number }
  | { codec: string };

export interface Rows {
  rows: Value[][];
  /** The parameters with which the rows after these are asked for. */
  next: Record<string, string> | null;
  count: number | null;
}

export interface ArrayInfo extends ArrayValue {
  descr?: unknown;
  path: string;
  store: string;
  title: string;
  attribute: string;
  /** Of the attribute, where units are said. */
  comment: string;
  view: "trace" | "movie" | "h5web";
  axis: number;
}

/** The header of a binary answer; which fields there are depends on what was asked. */
export interface Header {
  shape: number[];
  dtype: string;
  rounded?: boolean;
}

export interface TraceHeader extends Header {
  start: number;
  stop: number;
  width: number;
  channels: [number, number];
  exact: boolean;
  of: number;
  read: number;
  bytes: number;
  /** How many of how many values that were read are NaN. */
  nan: number;
  values: number;
}

export interface FrameHeader extends Header {
  lowest: number | null;
  highest: number | null;
  p1: number | null;
  p99: number | null;
}

export interface Progress {
  state?: "absent" | "running" | "complete" | "failed";
  done: number;
  error?: string;
}

export interface Binary<H> {
  header: H;
  /** Begins at a multiple of 8 bytes of its buffer. */
  bytes: Uint8Array<ArrayBuffer>;
}

async function request(path: string, params: Params, init?: RequestInit): Promise<Response> {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params))
    if (value !== undefined) query.set(name, String(value));
  let response: Response;
  try {
    response = await fetch(`api/${path}?${query}`, {
      ...init,
      headers: { Authorization: `token ${token}` },
    });
  } catch (error) {
    if (init?.signal?.aborted) throw error;
    throw new Error("The server of dj-npy view does not answer. Has its process ended?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = JSON.parse(text).error ?? sentence;
  } catch {
    // Not of our server's making: the status is what there is to say.
  }
  throw new Error(sentence);
}

export async function getJson<T>(path: string, params: Params = {}, signal?: AbortSignal) {
  return (await (await request(path, params, { signal })).json()) as T;
}

export async function postJson<T>(path: string, params: Params, signal?: AbortSignal) {
  return (await (await request(path, params, { signal, method: "POST" })).json()) as T;
}

export async function getBlob(path: string, params: Params): Promise<Blob> {
  return (await request(path, params)).blob();
}

async function unpack<H>(response: Response): Promise<Binary<H>> {
  const buffer = await response.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as H;
  return { header, bytes: new Uint8Array(buffer, Math.ceil((4 + length) / 8) * 8) };
}

export async function getBinary<H>(path: string, params: Params, signal?: AbortSignal) {
  return unpack<H>(await request(path, params, { signal }));
}

/** What the server computes in the background (status 202 while it does), with its progress. */
export async function getComputed<H>(
  path: string,
  params: Params,
  signal: AbortSignal,
  onProgress: (done: number) => void,
): Promise<Binary<H>> {
  for (;;) {
    const response = await request(path, params, { signal });
    if (response.status !== 202) return unpack<H>(response);
    onProgress(((await response.json()) as Progress).done);
    await pause(400, signal);
  }
}

export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const aborted = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", aborted);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", aborted, { once: true });
  });
}

export function floats(binary: Binary<Header>): Float32Array | Float64Array {
  const { buffer, byteOffset, byteLength } = binary.bytes;
  return binary.header.dtype === "<f8"
    ? new Float64Array(buffer, byteOffset, byteLength / 8)
    : new Float32Array(buffer, byteOffset, byteLength / 4);
}

export interface Loaded<T> {
  value?: T;
  error?: string;
  loading: boolean;
}

/**
 * What `load` returns, loaded anew when one of `keys` changes; the request before is aborted.
 * The last value stays while the next one loads. Nothing is loaded while `load` is null.
 */
export function useLoad<T>(
  load: ((signal: AbortSignal) => Promise<T>) | null,
  keys: unknown[],
): Loaded<T> {
  const [loaded, setLoaded] = useState<Loaded<T>>({ loading: load !== null });
  useEffect(() => {
    if (!load) {
      setLoaded({ loading: false });
      return;
    }
    const controller = new AbortController();
    setLoaded((before) => ({ value: before.value, loading: true }));
    load(controller.signal).then(
      (value) => controller.signal.aborted || setLoaded({ value, loading: false }),
      (error: Error) =>
        controller.signal.aborted || setLoaded({ error: error.message, loading: false }),
    );
    return () => controller.abort(new DOMException("superseded", "AbortError"));
  }, keys);
  return loaded;
}

/**
 * The address after `#`: everything that is shown, so that a reload or a shared link shows the same.
 *
 *     #/SCHEMA.TABLE?where=…&order=…             a table
 *     #/SCHEMA.TABLE/ATTRIBUTE/KEYJSON?view=…    an array of one row
 *     #/given/N?view=…                           an array that `dj_npy.view` was given
 */
import { useMemo, useSyncExternalStore } from "react";
import type { Params } from "./api";

export interface Address {
  table?: string;
  /** The parameters that name an array in a request, if the address is that of an array. */
  array?: Params;
  query: URLSearchParams;
}

export function parse(hash: string): Address {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [table, attribute, key] = path.split("/").map(decoded);
  const query = new URLSearchParams(search);
  if (table === "given") return { array: { given: attribute }, query };
  if (attribute) return { table, array: { table, attribute, key: key ?? "{}" }, query };
  return { table: table || undefined, query };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function tableAddress(table: string, query: Record<string, string> = {}): string {
  const search = new URLSearchParams(query).toString();
  return `#/${encodeURIComponent(table)}${search && `?${search}`}`;
}

export function arrayAddress(table: string, attribute: string, key: unknown): string {
  return `#/${[table, attribute, JSON.stringify(key)].map(encodeURIComponent).join("/")}`;
}

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  addEventListener("popstate", listener);
  return () => {
    listeners.delete(listener);
    removeEventListener("popstate", listener);
  };
}

/** Goes to `hash`. With `replace`, Back does not return to what is shown now. */
export function go(hash: string, replace = false, state: unknown = null): void {
  if (hash === location.hash) return;
  if (replace) history.replaceState(history.state, "", hash);
  else history.pushState(state, "", hash);
  for (const listener of listeners) listener();
}

export type Changes = Record<string, string | number | null | undefined>;

/** Changes parameters of the present address; null or undefined removes one. */
export function change(changes: Changes, replace = true, state: unknown = null): void {
  const [path, search = ""] = location.hash.split(/\?(.*)/s);
  const query = new URLSearchParams(search);
  for (const [name, value] of Object.entries(changes))
    if (value === null || value === undefined) query.delete(name);
    else query.set(name, String(value));
  const text = query.toString();
  go(`${path || "#/"}${text && `?${text}`}`, replace, state);
}

/** Most milliseconds between moves that Back undoes at once. */
const GESTURE = 1000;
let moved = -Infinity;

/** A move or a zoom: Back undoes it, together with those that it followed at once. */
export function move(changes: Changes): void {
  const now = performance.now();
  change(changes, now < moved + GESTURE);
  moved = now;
}

export function useAddress(): Address {
  const hash = useSyncExternalStore(subscribe, () => location.hash);
  return useMemo(() => parse(hash), [hash]);
}

/** What a link led away from; the next view gives its heading the focus, or the link that led there. */
let left: string | undefined;

export function leave(hash: string): void {
  left = hash.split("?")[0];
}

/** The address that was left, once: undefined if nobody followed a link. */
export function arrived(): string | undefined {
  const from = left;
  left = undefined;
  return from;
}

/** A number of the address, or `otherwise` where it has none. */
export function number(query: URLSearchParams, name: string, otherwise: number): number {
  const text = query.get(name);
  return text !== null && text !== "" && Number.isFinite(Number(text)) ? Number(text) : otherwise;
}

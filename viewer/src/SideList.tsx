/** Schemas and their tables. */
import { useState, type KeyboardEvent } from "react";
import { go, tableAddress } from "./address";
import type { Counts, Schemas, Table } from "./api";
import { count, size } from "./text";

/** Most tables that are listed at once; the filter finds the others. */
const MOST = 500;

export function SideList(props: { schemas: Schemas; counts?: Counts; current?: string }) {
  const { schemas, counts, current } = props;
  const [filter, setFilter] = useState("");
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = schemas.schemas
    .map(({ name, tables }) => ({
      name,
      tables: tables
        .filter((table) => {
          const text = `${table.class} ${table.name} ${table.arrays.join(" ")}`;
          return words.every((word) => text.toLowerCase().includes(word));
        })
        .sort((a, b) => a.class.localeCompare(b.class)),
    }))
    .filter(({ tables }) => tables.length || !words.length);
  const first = found.find(({ tables }) => tables.length)?.tables[0];
  return (
    <nav aria-label="Tables" className="side" onKeyDown={walk}>
      <input
        type="search"
        placeholder="Filter tables"
        aria-label="Filter tables"
        value={filter}
        onChange={(event) => setFilter(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || !first) return;
          event.currentTarget.blur();
          go(tableAddress(first.name));
        }}
      />
      <p className="muted">Rows (≈ estimated) and table size</p>
      {found.map((schema) => {
        const held = schema.tables.some((table) => table.name === current);
        return (
          <details key={`${schema.name} ${words.length > 0} ${held}`} open={found.length < 6 || held || words.length > 0}>
            <summary>
              {schema.name} <span className="muted">{count(schema.tables.length)}</span>
            </summary>
            <ul>
              {schema.tables.slice(0, MOST).map((table) => (
                <Item key={table.name} table={table} counts={counts} current={current} />
              ))}
            </ul>
            {schema.tables.length > MOST && (
              <p className="muted">{count(schema.tables.length - MOST)} more: use the filter.</p>
            )}
          </details>
        );
      })}
      {!first && words.length > 0 && <p className="muted">No table has this in its name.</p>}
      {schemas.unlisted.length > 0 && (
        <p className="muted" title={schemas.unlisted.join("\n")}>
          Not listed: {schemas.unlisted.slice(0, 3).join(", ")}
          {schemas.unlisted.length > 3 && ` and ${count(schemas.unlisted.length - 3)} more`}. DataJoint
          opens no table in PostgreSQL with capitals or spaces in its name.
        </p>
      )}
    </nav>
  );
}

/** ↓ and ↑ go from table to table. */
function walk(event: KeyboardEvent<HTMLElement>) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  const places = [...event.currentTarget.querySelectorAll<HTMLElement>("input, details[open] li a")];
  const at = places.indexOf(document.activeElement as HTMLElement);
  const next = at < 0 ? undefined : places[at + by];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

/** An estimate of 0 is none: the table may have been filled a moment ago. */
function rowsText(table: Table, counts: Counts | undefined): string {
  const counted = counts?.rows[table.name];
  if (counts && counted !== undefined && counted <= counts.most) return count(counted);
  const most = counts && counted !== undefined ? counts.most : 0;
  if ((table.rows ?? 0) > most) return `≈ ${count(table.rows!)}`;
  return most ? `> ${count(most)}` : "";
}

function Item(props: { table: Table; counts?: Counts; current?: string }) {
  const { table, current } = props;
  const facts = [
    rowsText(table, props.counts),
    table.bytes ? size(table.bytes) : "",
  ].filter(Boolean);
  return (
    <li>
      <a
        href={tableAddress(table.name)}
        className={table.tier === "part" ? "part" : undefined}
        aria-current={table.name === current ? "page" : undefined}
        title={`${table.name} (${table.tier})${table.arrays.length ? `, arrays: ${table.arrays.join(", ")}` : ""}`}
      >
        <span className={table.arrays.length ? "holds" : undefined}>{table.class}</span>
        <span className="muted">{facts.join(" · ")}</span>
      </a>
    </li>
  );
}

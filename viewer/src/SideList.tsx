/** Schemas and their tables. */
import { useState } from "react";
import { tableAddress } from "./address";
import type { Schemas, Table } from "./api";
import { count, size } from "./text";

/** Most tables that are listed at once; the filter finds the others. */
const MOST = 500;

export function SideList({ schemas, current }: { schemas: Schemas; current?: string }) {
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
  return (
    <nav aria-label="Tables" className="side">
      <input
        type="search"
        placeholder="Filter tables"
        aria-label="Filter tables"
        value={filter}
        onChange={(event) => setFilter(event.target.value)}
      />
      <p className="muted">Estimated rows and table size</p>
      {found.map((schema) => {
        const held = schema.tables.some((table) => table.name === current);
        return (
          <details key={`${schema.name} ${words.length > 0} ${held}`} open={found.length < 6 || held || words.length > 0}>
            <summary>
              {schema.name} <span className="muted">{count(schema.tables.length)}</span>
            </summary>
            <ul>
              {schema.tables.slice(0, MOST).map((table) => (
                <Item key={table.name} table={table} current={current} />
              ))}
            </ul>
            {schema.tables.length > MOST && (
              <p className="muted">{count(schema.tables.length - MOST)} more: use the filter.</p>
            )}
          </details>
        );
      })}
      {!found.length && <p className="muted">No table has this in its name.</p>}
    </nav>
  );
}

function Item({ table, current }: { table: Table; current?: string }) {
  const facts = [
    table.rows === null ? "" : count(table.rows),
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

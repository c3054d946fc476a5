/** A table: its rows in pages, with the arrays of each. */
import { Fragment, useEffect } from "react";
import { arrayAddress, arrived, change, tableAddress, useAddress } from "./address";
import {
  getJson,
  useLoad,
  type ArrayValue,
  type Attribute,
  type ForeignKey,
  type Rows,
  type TableInfo,
  type Value,
} from "./api";
import { count, dtypeName, shapeText, size } from "./text";
import { Entry, Failure, Heading } from "./ui";

const LIMIT = 100;

/** Without the parameters that say which page of rows is shown. */
const FIRST = { after: null, offset: null, page: null, open: null };

export function TablePage({ table }: { table: string }) {
  const { query } = useAddress();
  const where = query.get("where") ?? undefined;
  const order = query.get("order") ?? undefined;
  const after = query.get("after") ?? undefined;
  const offset = query.get("offset") ?? undefined;
  const opened = query.get("open");
  const { value: info, error } = useLoad(
    (signal) => getJson<TableInfo>("table", { table }, signal),
    [table],
  );
  const asked = [table, where, order, after, offset].join("\n");
  const rows = useLoad(
    async (signal) => ({
      asked,
      ...(await getJson<Rows>(
        "rows",
        { table, restriction: where, order, after, offset, limit: LIMIT },
        signal,
      )),
    }),
    [asked],
  );
  const counted = useLoad(
    where
      ? (signal) => getJson<Rows>("rows", { table, restriction: where, limit: 0, count: 1 }, signal)
      : null,
    [table, where],
  );
  useEffect(() => {
    document.title = `${info?.class ?? table} · dj-npy`;
  }, [info, table]);

  // Back from an array: on with its link.
  useEffect(() => {
    if (!info || !rows.value) return;
    const from = arrived();
    const links = [...document.querySelectorAll<HTMLElement>("td a.chip")];
    if (from && document.activeElement?.matches("main, h1"))
      links.find((link) => link.getAttribute("href") === from)?.focus();
  }, [info, rows.value]);

  if (error) return <Failure message={error} />;
  if (!info) return <p className="state muted">reading …</p>;
  const { attributes } = info;
  const shown = rows.value;
  return (
    <article className="table">
      <header>
        <Heading>
          {info.class || table} <span className="muted">{table}</span>
        </Heading>
        {info.comment && <p>{info.comment}</p>}
        <p className="facts">
          {info.rows === null ? "many rows" : `${info.estimated ? "≈ " : ""}${plural(info.rows)}`}
          {where && counted.value?.count != null && `, ${plural(counted.value.count)} with this restriction`}
          <Links title="Parents" keys={info.parents} />
          <Links title="Children" keys={info.children} />
        </p>
        <details className="definition">
          <summary>Definition</summary>
          <pre>{info.definition}</pre>
        </details>
        <div className="tools">
          <span className="restriction">
            <Entry
              label="Restriction"
              value={where ?? ""}
              width={48}
              placeholder="subject = 'a' AND day > '2024-01-01'"
              onChange={(text) => change({ ...FIRST, where: text || null }, false)}
            />
          </span>
          {where && (
            <button onClick={() => change({ ...FIRST, where: null }, false)}>Clear</button>
          )}
        </div>
      </header>
      {rows.error ? (
        <Failure message={rows.error} />
      ) : (
        <div className="scroll" tabIndex={0} role="region" aria-label="Rows" aria-busy={rows.loading}>
          <table>
            <thead>
              <tr>
                <th aria-label="References" />
                {attributes.map((attribute) => (
                  <Head key={attribute.name} attribute={attribute} order={order} />
                ))}
                <td />
              </tr>
            </thead>
            <tbody>
              {shown?.rows.map((row) => {
                const key = keyOf(attributes, row);
                const text = JSON.stringify(key);
                return (
                  <Fragment key={text}>
                    <tr>
                      <td>
                        <button
                          className="open"
                          aria-label="Parents and children of this row"
                          aria-expanded={opened === text}
                          onClick={() => change({ open: opened === text ? null : text })}
                        >
                          {opened === text ? "▾" : "▸"}
                        </button>
                      </td>
                      {row.map((value, at) => (
                        <Cell
                          key={attributes[at].name}
                          value={value}
                          attribute={attributes[at]}
                          link={arrayAddress(table, attributes[at].name, key)}
                        />
                      ))}
                      <td />
                    </tr>
                    {opened === text && (
                      <tr className="opened">
                        <td />
                        <td colSpan={attributes.length + 1}>
                          <Links title="Parents" keys={info.parents} row={rowOf(attributes, row)} up />
                          <Links title="Children" keys={info.children} row={rowOf(attributes, row)} />
                          {!info.parents.length && !info.children.length && (
                            <span className="muted">No foreign key leads from or to this table.</span>
                          )}
                        </td>
                      </tr>
                    )}
                  </Fragment>
                );
              })}
            </tbody>
          </table>
          {shown?.rows.length === 0 && (
            <p className="muted none">{where ? "No row fits this restriction." : "No rows."}</p>
          )}
        </div>
      )}
      <div className="tools pages">
        <button disabled={!after && !offset} onClick={() => change(FIRST, false)}>
          First
        </button>
        <button disabled={!history.state?.next} onClick={() => history.back()}>
          Previous
        </button>
        <button
          disabled={!shown?.next || shown.asked !== asked}
          onClick={() => {
            const page = Number(query.get("page") ?? 1) + 1;
            change({ ...FIRST, ...shown!.next, page }, false, { next: true });
          }}
        >
          Next
        </button>
        <span className="muted" role="status">
          {rows.loading
            ? "reading …"
            : `page ${count(Number(query.get("page") ?? 1))}, ${LIMIT} rows a page`}
        </span>
      </div>
    </article>
  );
}

function plural(rows: number): string {
  return `${count(rows)} ${rows === 1 ? "row" : "rows"}`;
}

type Row = Record<string, Value>;

function rowOf(attributes: Attribute[], row: Value[]): Row {
  return Object.fromEntries(attributes.map(({ name }, at) => [name, row[at]]));
}

function keyOf(attributes: Attribute[], row: Value[]): Row {
  return Object.fromEntries(
    attributes.flatMap(({ name, key }, at) => (key ? [[name, row[at]]] : [])),
  );
}

/** Foreign keys to whole tables, or, for a row, to what belongs to that row. */
function Links(props: { title: string; keys: ForeignKey[]; row?: Row; up?: boolean }) {
  const { keys, row } = props;
  if (!keys.length) return null;
  return (
    <span className="links">
      <span className="muted">{props.title}</span>
      {keys.map(({ table, class: name, attributes }) => {
        const pairs = Object.entries(attributes);
        const where = row && Object.fromEntries(
          pairs.map(([child, parent]) => (props.up ? [parent, row[child]] : [child, row[parent]])),
        );
        // A nullable foreign key that is not set leads nowhere.
        if (where && Object.values(where).includes(null)) return null;
        const renamed = pairs.filter(([child, parent]) => child !== parent);
        return (
          <a
            key={table + JSON.stringify(attributes)}
            href={tableAddress(table, where && { where: JSON.stringify(where) })}
            title={pairs.map(([child, parent]) => (child === parent ? child : `${child} → ${parent}`)).join(", ")}
          >
            {name}
            {renamed.length > 0 && ` (${renamed.map(([child]) => child).join(", ")})`}
          </a>
        );
      })}
    </span>
  );
}

function Head({ attribute, order }: { attribute: Attribute; order?: string }) {
  const { name, type, comment, key, array } = attribute;
  const sorted = order === name ? "ascending" : order === `-${name}` ? "descending" : undefined;
  const next = sorted === "ascending" ? `-${name}` : sorted === "descending" ? null : name;
  return (
    <th aria-sort={sorted} title={comment ? `${type}: ${comment}` : type}>
      {array ? (
        name
      ) : (
        <button
          className={key ? "key" : undefined}
          onClick={() => change({ ...FIRST, order: next }, false)}
        >
          {name}
          {sorted && <span aria-hidden> {sorted === "ascending" ? "↑" : "↓"}</span>}
        </button>
      )}
    </th>
  );
}

function Cell(props: { value: Value; attribute: Attribute; link: string }) {
  const { value, attribute } = props;
  if (value === null) return <td className="muted">null</td>;
  if (typeof value === "object") {
    if ("shape" in value)
      return (
        <td>
          <Chip value={value} link={props.link} />
        </td>
      );
    if ("error" in value) return <td className="failure">{value.error}</td>;
    if ("bytes" in value) return <td className="muted">{size(value.bytes)} of bytes</td>;
    if ("codec" in value) return <td className="muted">{value.codec}</td>;
    return <td className="text">{JSON.stringify(value)}</td>;
  }
  const text = String(value);
  if (typeof value === "number" || /^(int|big|small|tiny|float|double|decimal|num)/.test(attribute.type))
    return <td className="number">{text}</td>;
  return (
    <td className="text" title={text.length > 40 ? text : undefined}>
      {text}
    </td>
  );
}

function Chip({ value, link }: { value: ArrayValue; link: string }) {
  return (
    <a className="chip" href={link}>
      {shapeText(value.shape)} <span>{dtypeName(value.dtype)}</span>{" "}
      <span className="muted">{size(value.nbytes)}</span>
    </a>
  );
}

/** One array: what it is, the views of it, and the way from the picture to code. */
import { lazy, Suspense, useCallback, useEffect, useRef, useState } from "react";
import { change, parse, tableAddress, useAddress } from "./address";
import { getBlob, getJson, useLoad, type ArrayInfo, type Params } from "./api";
import { Movie } from "./Movie";
import { isColoured } from "./slices";
import { dtypeName, shapeText, size } from "./text";
import { Trace } from "./Trace";
import { Choice, copy, Failure, Heading, save, Skip, type Shown } from "./ui";

const Slices = lazy(() => import("./Slices"));

const VIEWS = { trace: "Recording", movie: "Movie", h5web: "Slices" };

export function ArrayPage({ array }: { array: Params }) {
  const { query } = useAddress();
  const { value: info, error } = useLoad(
    (signal) => getJson<ArrayInfo>("array", array, signal),
    [JSON.stringify(array)],
  );
  const shown = useRef<Shown>();
  const show = useCallback((next: Shown) => {
    shown.current = next;
  }, []);
  useEffect(() => {
    if (info) document.title = `${info.title} · dj-npy`;
  }, [info]);

  if (error) return <Failure message={error} />;
  if (!info) return <p className="state muted">reading …</p>;
  const views = Object.keys(VIEWS).filter((view) => suits(info, view));
  const view = views.includes(query.get("view") ?? "") ? query.get("view")! : info.view === "movie" && isColoured(info) ? "h5web" : info.view;
  const empty = info.shape.includes(0);
  return (
    <article className="array">
      <header>
        <Heading>
          <Title array={array} title={info.title} />
        </Heading>
        <Skip>To the plot</Skip>
        <p className="facts">
          <b>{shapeText(info.shape)}</b> <b>{dtypeName(info.dtype)}</b> <b>{size(info.nbytes)}</b>{" "}
          {info.comment && <span>{info.comment} </span>}
          {info.path && (
            <span className="muted" title={`${info.store}: ${info.path}`}>
              {info.path}
            </span>
          )}
        </p>
        <div className="bar">
          {views.length > 1 && !empty && (
            <Choice
              label="View"
              value={view}
              options={Object.fromEntries(
                views.map((name) => [name, VIEWS[name as keyof typeof VIEWS]]),
              )}
              onChange={(name) => change(only({ view: name }), false)}
            />
          )}
          <Buttons info={info} array={array} shown={shown} />
        </div>
      </header>
      {empty && (
        <div className="plot">
          <Failure message={`There is nothing to draw: an axis of ${shapeText(info.shape)} is empty.`} />
        </div>
      )}
      {!empty && view === "trace" && <Trace info={info} array={array} show={show} />}
      {!empty && view === "movie" && <Movie info={info} array={array} show={show} />}
      {!empty && view === "h5web" && (
        <Suspense fallback={<p className="state muted">loading H5Web …</p>}>
          <Slices info={info} array={array} show={show} />
        </Suspense>
      )}
    </article>
  );
}

/** These parameters and none of those that are there: each view has its own. */
function only(changes: Record<string, string>) {
  const { query } = parse(location.hash);
  return { ...Object.fromEntries([...query.keys()].map((name) => [name, null])), ...changes };
}

function suits({ shape, dtype, view }: ArrayInfo, name: string): boolean {
  if (name === view || name === "h5web") return true;
  if (!/^[<>|=]?[biufc?]\d*$/.test(dtype)) return false;
  return name === "trace" ? Math.max(0, ...shape) >= 1000 : shape.length >= 3;
}

function Title({ array, title }: { array: Params; title: string }) {
  if (!array.table) return title;
  const key = String(array.key);
  const pairs = Object.entries(JSON.parse(key) as Record<string, unknown>);
  return (
    <>
      <a href={tableAddress(String(array.table))}>{array.table}</a>
      <span className="muted"> · </span>
      {array.attribute}
      <span className="muted"> · </span>
      <a href={tableAddress(String(array.table), { where: key })} title="This row">
        {pairs.map(([name, value]) => `${name} = ${value}`).join(", ")}
      </a>
    </>
  );
}

function Buttons(props: {
  info: ArrayInfo;
  array: Params;
  shown: React.RefObject<Shown | undefined>;
}) {
  const { info, array, shown } = props;
  const empty = info.shape.includes(0);
  const [said, setSaid] = useState("");
  const [failed, setFailed] = useState("");
  const run = (what: string, act: () => Promise<string | void>) => () => {
    setSaid("");
    setFailed("");
    act().then(
      (text) => setSaid(text ?? what),
      (error: Error) => setFailed(error.message),
    );
  };
  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), 6000);
    return () => clearTimeout(timer);
  }, [said]);
  const name = info.title.replaceAll(/[^\w.-]+/g, "_");
  const params = () => ({ ...array, selection: shown.current?.selection, ...shown.current?.more });
  return (
    <span className="buttons">
      <span role="status" className="muted said">
        {said}
      </span>
      {failed && (
        <span role="alert" className="failure">
          {failed}
        </span>
      )}
      <button onClick={run("Link copied", () => copy(location.href))}>Copy link</button>
      <button
        title="The code that fetches what is shown"
        onClick={run("Python copied", async () => {
          const { code } = await getJson<{ code: string }>("code", params());
          await copy(code);
        })}
      >
        Copy Python
      </button>
      {!empty && (
        <button
          onClick={run("Saved", async () => {
            const blob = await shown.current?.png?.();
            if (!blob) throw new Error("There is no picture here.");
            save(blob, `${name}.png`);
          })}
        >
          PNG
        </button>
      )}
      {["npy", "csv"].map((format) => (
        <button
          key={format}
          title={`The values that are shown, as a .${format} file`}
          onClick={run("Saved", async () => {
            save(await getBlob("export", { ...params(), format }), `${name}.${format}`);
          })}
        >
          {format}
        </button>
      ))}
    </span>
  );
}

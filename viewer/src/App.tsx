import { Component, useEffect, useLayoutEffect, useRef, useState, type ReactNode } from "react";
import { leave, useAddress } from "./address";
import { getJson, useLoad, type Counts, type Params, type Schemas } from "./api";
import { ArrayPage } from "./ArrayPage";
import { SideList } from "./SideList";
import { TablePage } from "./TablePage";
import { Failure, Skip, toContent } from "./ui";

export function App() {
  const { table, array } = useAddress();
  const { value: schemas, error } = useLoad(
    (signal) => getJson<Schemas>("schemas", {}, signal),
    [],
  );
  const [listed, setListed] = useState(false);
  const name = JSON.stringify([table, array]);
  const counts = useLoad(
    schemas ? (signal) => getJson<Counts>("counts", {}, signal) : null,
    [schemas !== undefined],
  );
  const main = useRef<HTMLElement>(null);
  const shown = useRef({ name, hash: location.hash });
  useLayoutEffect(() => {
    if (shown.current.name !== name) {
      leave(shown.current.hash);
      setListed(false);
      // Else the focus would be lost with the link, or stay in the list.
      main.current?.focus({ preventScroll: true });
    }
    shown.current = { name, hash: location.hash };
  });
  const chosen = table !== undefined || array !== undefined;
  // In a narrow window, the list is in place of what was chosen.
  const open = listed || (schemas !== undefined && !chosen);
  return (
    <div className={open ? "page listed" : "page"}>
      <Skip>{array ? "To the plot" : "To the content"}</Skip>
      <aside>
        <div className="brand">
          <a href="#/">dj-npy</a>
          <span className="muted">{schemas?.version}</span>
          {chosen && (
            <button className="narrow" aria-expanded={open} onClick={() => setListed(!listed)}>
              Tables
            </button>
          )}
          <Keys />
        </div>
        {schemas && (
          <SideList schemas={schemas} counts={counts.value} current={table ?? tableOf(array)} />
        )}
      </aside>
      <main ref={main} tabIndex={-1}>
        <Boundary key={name}>
          {array ? (
            <ArrayPage array={array} />
          ) : table ? (
            <TablePage table={table} />
          ) : error ? (
            <Failure message={error} />
          ) : (
            schemas && <p className="state muted">Choose a table.</p>
          )}
        </Boundary>
      </main>
    </div>
  );
}

/** The table that an array is in. */
function tableOf(array: Params | undefined): string | undefined {
  return array?.table === undefined ? undefined : String(array.table);
}

/** A fault of the page's own is said where the view would be. */
class Boundary extends Component<{ children: ReactNode }, { error?: Error }> {
  override state: { error?: Error } = {};

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    const { error } = this.state;
    return error ? <Failure message={`The page failed: ${error.message}`} /> : this.props.children;
  }
}

const KEYS = [
  ["?", "these keys"],
  ["/", "filter tables: ↓ ↑ go through them, Enter opens the first"],
  ["p", "to the plot, or to the rows"],
  ["← →", "plots: move; movies: a frame back or on"],
  ["↑ ↓", "plots: closer, further"],
  ["0", "plots: the whole"],
  ["Home End", "recordings and movies: to the beginning, to the end"],
  ["Page up, Page down", "recordings: channels; movies: ten frames; others: up and down"],
  ["g s", "recordings: more gain, less gain"],
  ["Space", "movies: play, pause"],
  ["Wheel, drag, double click", "recordings: zoom, move, closer"],
];

function Keys() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const typing = (event.target as HTMLElement).matches("input, select, textarea");
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "?") dialog.current?.showModal();
      else if (event.key === "/")
        document.querySelector<HTMLElement>("input[type=search]")?.focus();
      else if (event.key === "p") toContent();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  return (
    <>
      <button
        className="help"
        aria-label="Keys"
        title="Keys (?)"
        onClick={() => dialog.current?.showModal()}
      >
        ?
      </button>
      <dialog ref={dialog} aria-label="Keys">
        <dl>
          {KEYS.map(([key, what]) => (
            <div key={key}>
              <dt>{key}</dt>
              <dd>{what}</dd>
            </div>
          ))}
        </dl>
        <p className="muted">The keys of a plot work when it has the focus.</p>
        <form method="dialog">
          <button>Close</button>
        </form>
      </dialog>
    </>
  );
}

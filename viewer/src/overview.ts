import { useEffect, useState } from "react";
import { getJson, pause, postJson, type Params, type Progress } from "./api";

/**
 * Has the server compute the exact overview once it was `wanted`, as long as one looks at the
 * array: the server stops when nobody asks. `version` grows when it is there.
 */
export function useOverview(array: Params, axis: number, wanted: boolean) {
  const name = JSON.stringify([array, axis]);
  const [begun, setBegun] = useState("");
  const [progress, setProgress] = useState<Progress>();
  const [version, setVersion] = useState(0);
  useEffect(() => {
    if (wanted) setBegun(name);
  }, [name, wanted]);
  useEffect(() => {
    setProgress(undefined);
    if (begun !== name) return;
    const controller = new AbortController();
    const { signal } = controller;
    const follow = async () => {
      const params = { ...array, axis };
      let now = await postJson<Progress>("overview", params, signal);
      while (now.state !== "complete") {
        setProgress(now);
        await pause(250, signal);
        // Absent: ended in favour of another, while this page was asleep.
        const ask = now.state === "absent" ? postJson : getJson;
        now = await ask<Progress>("overview", params, signal);
      }
      setProgress(now);
      setVersion((before) => before + 1);
    };
    follow().catch((error: Error) => {
      if (!signal.aborted) setProgress({ state: "failed", done: 0, error: error.message });
    });
    return () => controller.abort(new DOMException("left", "AbortError"));
  }, [name, begun]);
  return { progress, version };
}

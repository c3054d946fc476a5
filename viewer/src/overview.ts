import { useEffect, useState } from "react";
import { getJson, pause, postJson, type Params, type Progress } from "./api";

/** Has the server compute the exact overview while `wanted`; `version` grows when it is there. */
export function useOverview(array: Params, axis: number, wanted: boolean) {
  const [progress, setProgress] = useState<Progress>();
  const [version, setVersion] = useState(0);
  const name = JSON.stringify([array, axis]);
  useEffect(() => {
    setVersion(0);
    setProgress(undefined);
  }, [name]);
  useEffect(() => {
    if (!wanted || version > 0) return;
    const controller = new AbortController();
    const { signal } = controller;
    const follow = async () => {
      let now = await postJson<Progress>("overview", { ...array, axis }, signal);
      while (now.state === "running") {
        setProgress(now);
        await pause(500, signal);
        now = await getJson<Progress>("overview", { ...array, axis }, signal);
      }
      setProgress(now);
      if (now.state === "complete") setVersion(1);
    };
    follow().catch((error: Error) => {
      if (!signal.aborted) setProgress({ state: "failed", done: 0, error: error.message });
    });
    return () => controller.abort(new DOMException("left", "AbortError"));
  }, [name, wanted, version]);
  return { progress, version };
}

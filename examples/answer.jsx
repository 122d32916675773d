import { useEffect, useMemo, useState } from "react";
import { newKey } from "../static/client.js"; // your copy of your relay's /client.js

/** One question's answer, as it comes, through every cut. `relay`: new Relay("https://relay.example"). */
export function Answer({ relay, question }) {
  const key = useMemo(newKey, [question]); // one generation, however often React runs the effect
  const [{ run, text, state }, set] = useState({ text: "", state: "connecting" });
  useEffect(() => {
    let follower, left = false;
    const update = (change) => left || set((old) => ({ ...old, ...change }));
    const show = () => update({ text: follower.answer.text });
    const end = ({ reason, error }) => update({ run: null, state: error?.message ?? reason });
    relay.start({ prompt: question }, key).then((run) => {
      if (left) return;
      update({ run });
      const on = { token: show, replace: show, snapshot: show, end };
      follower = relay.follow(run, { ...on, state: (state) => state === "ended" || update({ state }) });
    }, (error) => update({ state: error.message }));
    return () => (left = true) && follower?.close(); // the answer itself goes on
  }, [relay, question, key]);
  return <article>{text} <small>{state}</small> {run && <button onClick={() => relay.stop(run)}>Stop</button>}</article>;
}

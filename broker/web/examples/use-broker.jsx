// A React hook over the client, to be copied. `options` are those of Client; what has to
// make a new connection when it changes is in the list of the effect.

import { useEffect, useMemo, useState, useSyncExternalStore } from "react";
import { Client, EventStore } from "stream-broker-client";

export function useBroker(options) {
  const { url, session } = options;
  const store = useMemo(() => new EventStore({ notifyMs: 50 }), [url, session]);
  const [connection, setConnection] = useState({ state: "idle" });
  const [client, setClient] = useState(null);

  useEffect(() => {
    const made = new Client({ ...options, store });
    const leave = made.on("state", setConnection);
    setClient(made);
    made.connect();
    return () => {
      leave();
      made.close();
    };
  }, [url, session, store]);

  const events = useSyncExternalStore(
    store.subscribe,
    store.getSnapshot,
    store.getSnapshot,
  );
  return { events, connection, client };
}

export function Conversation({ session }) {
  const { events, connection, client } = useBroker({ session, lastEventId: "-100" });
  const isOpen = connection.state === "open";
  return (
    <>
      <p>{connection.state}</p>
      <ol>
        {events.map((event) => (
          <li key={event.id}>{JSON.stringify(event.data)}</li>
        ))}
      </ol>
      <button
        disabled={!isOpen}
        onClick={() => client.send("user_input", { content: "hi" }).catch(console.error)}
      >
        Say hi
      </button>
    </>
  );
}

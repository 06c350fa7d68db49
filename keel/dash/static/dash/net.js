// Asking the server, and hearing of what is new. A page that nobody sees hears nothing; shown again, it goes on from its cursor.
import { say } from "./text.js";

export class Refused extends Error {}

export async function get(path, values = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) for (const one of [value].flat()) if (one !== null && one !== undefined) query.append(key, one);
  let answer;
  try {
    answer = await fetch(`${path}?${query}`);
  } catch {
    throw new Refused(say("live.lost"));
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused([said.error?.message ?? `HTTP ${answer.status}`, said.error?.todo].filter(Boolean).join(": "));
  return said;
}

export function trouble(error) {
  const place = document.getElementById("trouble");
  place.hidden = !error;
  place.textContent = error ? error.message : "";
}

/** Follow the stream: `heard` has a function for each kind of event; `at` is the cursor to begin with. */
export function follow(runs, heard, at = "") {
  const state = document.getElementById("live");
  let source = null;
  let cursor = at;
  const show = (on) => {
    state.textContent = say(on ? "live.on" : "live.off");
    state.dataset.live = on ? "on" : "off";
  };
  const open = () => {
    const query = new URLSearchParams(runs.map((r) => ["r", r]));
    if (cursor) query.set("at", cursor);
    source = new EventSource(`/api/stream?${query}`);
    source.onopen = () => show(true);
    source.onerror = () => {
      show(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(() => source?.readyState === EventSource.CLOSED && open(), 2000);
    };
    for (const [kind, take] of Object.entries(heard))
      source.addEventListener(kind, (event) => {
        cursor = event.lastEventId;
        take(JSON.parse(event.data));
      });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) open();
  });
  addEventListener("pagehide", () => source?.close());
  open();
}

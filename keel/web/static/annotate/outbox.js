// Votes on their way. An event is written to the disk first, then sent in order, again and again with the same id, until the server has
// answered. What the server refuses is kept and told. All tabs of one account share the outbox; one of them sends at a time.
import { Refused, Unreachable } from "./api.js";
import { locked } from "./tabs.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30000;

/** How many answers more an event makes: a correction none, one that takes an answer back one less. */
const more = (body) => (body.take_back ? -1 : body.replaces ? 0 : 1);

/** 128 random bits as a UUID; `crypto.randomUUID` exists on https and loopback alone. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [8, 4, 4, 4, 12]
    .map((n, i, sizes) =>
      hex.substr(
        sizes.slice(0, i).reduce((a, b) => a + b, 0),
        n,
      ),
    )
    .join("-");
}

export class Outbox extends EventTarget {
  #timer = 0;
  #fails = 0;
  #draining = null;
  #again = false;
  #writing = 0;
  #stopped = false;
  #unkept = new Map(); // events that the disk did not take

  /** Events: "change" (counts), "receipt" (detail {event, response}), "refused" (detail event), "signedout". */
  constructor(disk, api, user, tabs) {
    super();
    Object.assign(this, { disk, api, user, tabs, reachable: true });
    tabs.listen("outbox", () => this.#changed(false));
    tabs.listen("receipt", (detail) => this.#tell("receipt", detail));
    addEventListener("online", () => this.kick());
    document.addEventListener("visibilitychange", () => !document.hidden && this.kick());
    addEventListener("beforeunload", (event) => this.#atRisk && event.preventDefault());
    this.counts = { waiting: 0, refused: 0, answers: 0 }; // answers: how many more there are when what waits is sent
  }

  /** Send what an earlier page left. */
  async start() {
    await this.#changed(false);
    return this.kick();
  }

  /** Would something be lost if the page went now? */
  get #atRisk() {
    return this.#writing > 0 || this.#unkept.size > 0 || (!this.disk.durable && this.counts.waiting + this.counts.refused > 0);
  }

  /** Keep an event and send it when it can be sent. Returns when it is on the disk. */
  async add(path, body) {
    this.#writing++;
    this.counts.waiting++;
    this.counts.answers += more(body);
    await this.#keep({ user: this.user, path, body, state: "waiting", at: new Date().toISOString() });
    this.#writing--;
    this.#changed();
    this.kick();
  }

  rows = async () => [...(await this.disk.all("events")).filter((row) => row.user === this.user), ...this.#unkept.values()];

  /** Handles of items whose answers are not with the server yet, and of those that it refused. */
  async handles() {
    return new Set((await this.rows()).map((row) => row.body.handle));
  }

  async discard(seq) {
    await this.#drop(seq);
    this.#changed();
  }

  async #keep(event) {
    if (this.#unkept.has(event.seq)) return void this.#unkept.set(event.seq, event);
    try {
      await this.disk.put("events", event);
    } catch {
      const seq = event.seq ?? `here-${newId()}`; // the disk is full: it lives as long as the page, which asks before it goes
      this.#unkept.set(seq, { ...event, seq });
    }
  }

  async #drop(seq) {
    if (!this.#unkept.delete(seq)) await this.disk.drop("events", seq);
  }

  /** The person is somebody else now, or nobody: nothing more goes out from here. */
  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** Send now what waits, unless that is being done. */
  kick() {
    clearTimeout(this.#timer);
    if (this.#stopped) return Promise.resolve();
    if (this.#draining) {
      this.#again = true;
      return this.#draining;
    }
    this.#draining = locked(`keel-outbox-${this.user}`, () => this.#drain()).finally(() => {
      this.#draining = null;
      if (this.#again) {
        this.#again = false;
        this.kick();
      }
    });
    return this.#draining;
  }

  async #drain() {
    for (const event of await this.rows()) {
      if (event.state !== "waiting") continue;
      if (this.#stopped || !(await this.#sent(event))) return;
    }
  }

  /** True when the event is done with, one way or the other. */
  async #sent(event) {
    try {
      const response = await this.api.send(event.path, event.body);
      await this.#drop(event.seq);
      this.#reached(true);
      const detail = { event, response };
      this.#tell("receipt", detail);
      this.tabs.send("receipt", detail);
      return true;
    } catch (error) {
      return this.#failed(event, error);
    } finally {
      this.#changed();
    }
  }

  async #failed(event, error) {
    const refused = error instanceof Refused;
    if (refused && error.status === 401) {
      this.#tell("signedout", error.code);
      return false;
    }
    if (refused && error.status < 500 && error.status !== 408 && error.status !== 429) {
      const told = { status: error.status, message: error.message, todo: error.todo };
      await this.#keep({ ...event, state: "refused", error: told });
      this.#reached(true);
      this.#tell("refused", { ...event, error: told });
      return true;
    }
    if (!refused && !(error instanceof Unreachable)) throw error;
    this.#reached(refused);
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#fails++) * (0.75 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.kick(), Math.max(wait, (error.wait ?? 0) * 1000));
    return false;
  }

  #reached(reachable) {
    if (reachable) this.#fails = 0;
    this.reachable = reachable;
  }

  async #changed(tell = true) {
    const rows = await this.rows();
    const count = (state) => rows.filter((row) => row.state === state).length;
    const answers = rows.reduce((sum, row) => sum + (row.state === "waiting" ? more(row.body) : 0), 0);
    this.counts = { waiting: count("waiting"), refused: count("refused"), answers };
    if (tell) this.tabs.send("outbox");
    this.#tell("change");
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// Items ahead of the person: fetched, drawn and their pictures decoded before they are needed.
import { Refused, Unreachable } from "./api.js";

const MOST = 20; // items that the server gives in one call
const TRIES = 3;
const STALE_MS = 86400000; // a lease that ended so long ago: the item is somebody else's by now

export class Queue extends EventTarget {
  #ready = [];
  #gone = new Set(); // answered here, whether or not the server knows
  #filling = null;
  #again = false;

  /**
   * `fetch(n)` -> {items, ...}: the open leases first, then new ones. `prepare(item, page)` -> entry with `item`, drawn.
   * Events: "ready" (something can be shown), "empty" (the server has nothing more), "offline", "refused" (detail error), "broken" (an
   * item that cannot be drawn: it is left out).
   */
  constructor({ fetch, prepare, outbox, tabs, disk, user, place, ahead }) {
    super();
    Object.assign(this, { fetch, prepare, outbox, tabs, disk, user, place, ahead });
    tabs.listen("answered", (handle) => this.#answered(handle, false));
    tabs.listen("reopened", (handle) => this.#gone.delete(handle));
  }

  /** How many items to keep ready. */
  keep(ahead) {
    this.ahead = Math.max(1, Math.min(ahead, MOST - 1));
  }

  get length() {
    return this.#ready.length;
  }

  /** The next entry, or null. What is taken counts as shown: `answered` or `putBack` follows. */
  next() {
    const entry = this.#ready.shift() ?? null;
    this.current = entry?.item.handle ?? null;
    return entry;
  }

  putBack(entry) {
    this.#ready.unshift(entry);
    this.current = null;
  }

  answered(handle) {
    this.#answered(handle, true);
  }

  /** The answer is taken back: the server gives the item again, to whichever tab asks first. */
  reopened(handle) {
    this.#gone.delete(handle);
    this.tabs.send("reopened", handle);
  }

  /** Have `ahead` items ready. Calls while it is being done are one more round: what the server said may be old by then. */
  fill() {
    if (this.#filling) {
      this.#again = true;
      return this.#filling;
    }
    this.#filling = this.#fill().finally(() => {
      this.#filling = null;
      if (this.#again) this.fill();
    });
    this.#again = false;
    return this.#filling;
  }

  /** Items kept from before a reload, for when the server cannot be reached. */
  async restore() {
    const rows = (await this.disk.all("items")).filter((row) => row.user === this.user && row.place === this.place);
    const taken = await this.outbox.handles();
    for (const row of rows.sort((a, b) => a.order - b.order)) {
      if (Date.now() - Date.parse(row.item.until) > STALE_MS) await this.disk.drop("items", row.handle);
      else if (!taken.has(row.handle) && !this.#has(row.handle)) await this.#take(row.item, row.page);
    }
  }

  async #fill() {
    for (let tries = 0; tries < TRIES && this.length < this.ahead; tries++) {
      const taken = await this.outbox.handles();
      const held = this.length + taken.size + (this.current ? 1 : 0) + tries * this.ahead; // with what other tabs may hold
      const n = Math.min(MOST, this.ahead + held);
      let page;
      try {
        page = await this.fetch(n);
        this.offline = false;
      } catch (error) {
        return this.#failed(error);
      }
      this.keep(page.ahead ?? this.ahead);
      const fresh = page.items.filter(({ handle }) => !taken.has(handle) && !this.#gone.has(handle) && !this.#has(handle));
      let got = 0;
      for (const item of fresh) if (this.length < this.ahead && (await this.#take(item, page))) got++;
      if (!got && (page.items.length < n || n === MOST)) break; // the server gave all it has, or all it gives
    }
    if (!this.length && !this.current) this.#tell("empty");
  }

  async #take(item, page) {
    if (!(await this.tabs.claim(item.handle))) return false;
    if (this.#gone.has(item.handle) || this.#has(item.handle)) return false;
    const { items: _, ...rest } = page;
    const entry = await this.prepare(item, rest).catch((error) => this.#broken(item, error));
    if (!entry || this.#gone.has(item.handle)) return false;
    this.#ready.push(entry);
    await this.disk.put("items", {
      handle: item.handle,
      user: this.user,
      place: this.place,
      order: Date.now() + this.length,
      item,
      page: rest,
    });
    this.#tell("ready");
    return true;
  }

  #broken(item, error) {
    console.error(error);
    this.#gone.add(item.handle);
    this.#tell("broken");
  }

  #failed(error) {
    this.offline = true;
    if (error instanceof Unreachable || (error instanceof Refused && (error.status >= 500 || error.status === 429))) {
      this.#tell("offline", error);
    } else this.#tell("refused", error);
  }

  #has(handle) {
    return this.current === handle || this.#ready.some(({ item }) => item.handle === handle);
  }

  #answered(handle, here) {
    this.#gone.add(handle);
    this.#ready = this.#ready.filter(({ item }) => item.handle !== handle);
    if (!here) return;
    if (this.current === handle) this.current = null;
    this.disk.drop("items", handle);
    this.tabs.send("answered", handle);
    this.tabs.free(handle);
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

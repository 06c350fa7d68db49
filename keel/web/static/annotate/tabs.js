// Several tabs of one account: they tell each other what happened and never show the same item twice.

/** Run a job while no other tab runs one of that name. Without Web Locks (plain http) it just runs: events have ids, nothing doubles. */
export function locked(name, job) {
  return navigator.locks ? navigator.locks.request(name, job) : job();
}

export class Tabs {
  #channel;
  #listeners = new Map();
  #claims = new Map(); // handle -> function that gives it free

  constructor(user) {
    this.user = user;
    if (typeof BroadcastChannel === "undefined") return;
    this.#channel = new BroadcastChannel(`keel-annotate-${user}`);
    this.#channel.onmessage = ({ data }) => this.#listeners.get(data.name)?.forEach((listener) => listener(data.detail));
  }

  listen(name, listener) {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }

  send(name, detail) {
    this.#channel?.postMessage({ name, detail });
  }

  /** Take an item for this tab; false when another tab has it. The browser frees it when the tab goes. */
  claim(handle) {
    if (this.#claims.has(handle) || !navigator.locks) return Promise.resolve(true);
    return new Promise((resolve) => {
      navigator.locks.request(`keel-item-${this.user}-${handle}`, { ifAvailable: true }, (lock) => {
        if (!lock) return resolve(false);
        return new Promise((free) => {
          this.#claims.set(handle, free);
          resolve(true);
        });
      });
    });
  }

  free(handle) {
    this.#claims.get(handle)?.();
    this.#claims.delete(handle);
  }
}

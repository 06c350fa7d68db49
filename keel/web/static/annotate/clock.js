// How long a person was at work on an item. Only `performance.now()`: setting the computer's clock changes nothing.
const SIGNS = ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchmove"];

/**
 * Milliseconds at work: the gaps between signs of life, each counted up to `idleMs`; nothing while the page is hidden.
 */
export class ActiveClock {
  #sum = 0;
  #last = 0;
  #away = document.hidden;

  constructor(idleMs, now = () => performance.now()) {
    this.idleMs = idleMs;
    this.now = now;
    for (const name of SIGNS) addEventListener(name, () => this.#sign(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#leave() : this.#come()));
    this.restart();
  }

  restart() {
    this.#sum = 0;
    this.#last = this.now();
    this.#away = document.hidden;
  }

  read() {
    return Math.round(this.#sum + this.#open());
  }

  #open() {
    return this.#away ? 0 : Math.max(0, Math.min(this.now() - this.#last, this.idleMs));
  }

  #sign() {
    this.#sum += this.#open();
    this.#last = this.now();
  }

  #leave() {
    this.#sum += this.#open();
    this.#away = true;
  }

  #come() {
    this.#away = false;
    this.#last = this.now();
  }
}

const FLOOR_MS = 200; // nobody has read anything by then: it is a second click or a key that bounced

/** The time gate: closed until an item was before the person's eyes for `minMs`. */
export class Gate {
  #timer = 0;

  constructor(clock, changed) {
    Object.assign(this, { clock, changed, minMs: 0 });
  }

  close(minMs) {
    this.minMs = Math.max(FLOOR_MS, minMs);
    this.#look();
  }

  get left() {
    return Math.max(0, this.minMs - this.clock.read());
  }

  get open() {
    return this.left <= 0;
  }

  #look() {
    clearTimeout(this.#timer);
    this.changed(this.left, this.minMs > FLOOR_MS);
    if (!this.open) this.#timer = setTimeout(() => this.#look(), Math.min(250, this.left + 5));
  }
}

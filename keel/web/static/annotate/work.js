// The person's work: show an item, take the answer, show the next at once, send the answer meanwhile. Undo is a new answer that names the
// old one.
import { translate } from "./dom.js";
import { language } from "./i18n.js";
import { newId } from "./outbox.js";

const REMEMBERED = 20; // answers that may be taken back

export class Work extends EventTarget {
  #past = []; // {entry's item and page, event_id, answer, reason}, newest last
  #correcting = null;
  #reopening = false; // an answer is being taken back: until it is shown no key means anything
  #waiting = null; // the event of a training item whose answer is on its way
  #pressed = 0; // when the last key or button was pressed
  current = null;

  /** Events: "shown", "answered" (detail {first: not a correction}), "takenback", "change", "feedback" (detail {item, answer, feedback}), "undone". */
  constructor({ stage, queue, outbox, clock, gate, redraw, announce }) {
    super();
    Object.assign(this, { stage, queue, outbox, clock, gate, redraw, announce });
    for (const name of ["keydown", "click"]) addEventListener(name, (event) => (this.#pressed = event.timeStamp), { capture: true });
    outbox.addEventListener("receipt", ({ detail }) => this.#receipt(detail));
    outbox.addEventListener("refused", ({ detail }) => this.#refused(detail));
    queue.addEventListener("ready", () => this.current || this.next());
  }

  get correcting() {
    return this.#correcting !== null;
  }

  get canUndo() {
    return this.#past.length > 0 && !this.#correcting && !this.#waiting && !this.#reopening;
  }

  /** What keys can do now. */
  actions() {
    const undo = this.canUndo ? { undo: () => this.undo() } : this.correcting ? { take_back: () => this.takeBack() } : {};
    if (!this.current) return undo;
    const { component, panes, reason } = this.current;
    const free = { ...panes.actions(), ...undo, ...(reason ? { reason: () => reason.focus() } : {}) };
    return this.gate.open && !this.#waiting && !this.#reopening ? { ...component.actions(), ...free } : free;
  }

  /** May the item be answered now? Says why not. */
  ready() {
    if (!this.gate.open) this.announce("gate_closed");
    return this.gate.open && !this.#waiting && !this.#reopening;
  }

  /** Take the answer of the present item. `said`: an answer that needs no more than the act itself (nothing wrong, cannot judge). */
  vote(said = null) {
    const entry = this.current;
    if (!entry || !this.ready()) return false;
    const answer = said ?? entry.component.answer();
    if (!answer) return this.#refuse(entry.component.missing?.() ?? "choose_first");
    const reason = entry.reason?.value.trim() ?? "";
    if (entry.page.reason === "required" && !reason) {
      entry.reason.focus();
      return this.#refuse("reason_missing");
    }
    this.#take(entry, answer, reason);
    return true;
  }

  #refuse(key) {
    this.announce(key);
    return false;
  }

  #take(entry, answer, reason) {
    const began = this.#pressed;
    const old = this.#correcting;
    const event = { event_id: newId(), handle: entry.item.handle, answer, reason, active_ms: this.clock.read() };
    if (old) event.replaces = old.event_id;
    const past = { item: entry.item, page: entry.page, event_id: event.event_id, answer, reason };
    const training = entry.page.state === "training";
    this.#correcting = null;
    this.queue.answered(entry.item.handle);
    if (training) this.#waiting = past;
    else {
      this.#past = [...this.#past, past].slice(-REMEMBERED);
      this.current = null;
      this.next(began);
    }
    this.outbox.add("/api/judgements", event);
    this.#tell("answered", { first: !old });
    if (training) this.#tell("change");
  }

  /** The next item, if there is one ready. */
  next(began = 0) {
    const entry = this.queue.next();
    if (entry) this.#show(entry, began);
    else this.stage.replaceChildren();
    painted().then(() => this.queue.fill()); // first what the person waits for
    this.#tell("change");
  }

  /** Show the last answered item again, with what was said. The old answer stands until there is another. */
  async undo() {
    if (!this.canUndo) return;
    const past = this.#past.at(-1);
    const entry = await this.#reopened(past);
    if (!entry) return;
    if (this.current) this.queue.putBack(this.current);
    this.#correcting = past;
    this.#show(entry, 0);
    entry.component.restore(past.answer);
    if (entry.reason) entry.reason.value = past.reason;
    this.#tell("undone");
    this.#tell("change");
  }

  /** The item of a past answer, drawn again, and out of the past; null when its answer cannot be taken back any more. */
  async #reopened(past) {
    this.#reopening = true;
    try {
      const entry = await this.redraw(past.item, past.page);
      if (!this.#past.includes(past)) return null; // refused, or revealed, meanwhile
      this.#past = this.#past.filter((other) => other !== past);
      return entry;
    } finally {
      this.#reopening = false;
    }
  }

  /** The old answer is right after all. */
  keepOld() {
    if (!this.#correcting) return;
    this.#past.push(this.#correcting);
    this.#correcting = null;
    this.current = null;
    this.next();
  }

  /** The answer that is shown again is taken back with nothing in its place: the item is open, and comes again after those that are ready. */
  takeBack() {
    const old = this.#correcting;
    if (!old) return;
    const handle = old.item.handle;
    this.#correcting = null;
    this.current = null;
    this.queue.reopened(handle);
    this.outbox.add("/api/undo", { event_id: newId(), handle, replaces: old.event_id, take_back: true });
    this.#tell("takenback");
    this.next();
    this.announce("taken_back");
  }

  /** The person has read what a training item teaches. */
  goOn() {
    this.#waiting = null;
    this.current = null;
    this.next();
  }

  #show(entry, began) {
    this.current = entry;
    if (entry.drawn.language !== language()) translate(entry.element); // it was drawn before the language changed
    const hadFocus = !document.activeElement || document.activeElement === document.body || this.stage.contains(document.activeElement);
    this.stage.replaceChildren(entry.element);
    scrollTo({ top: 0, behavior: "instant" });
    if (hadFocus) this.stage.focus({ preventScroll: true });
    this.clock.restart();
    this.gate.close(this.correcting ? 0 : (entry.page.min_read_ms ?? 0));
    if (began) measure(began);
    this.#tell("shown");
  }

  #receipt({ event, response }) {
    const mine = this.#waiting?.event_id === event.body.event_id ? this.#waiting : null;
    const past = mine ?? this.#past.find(({ event_id }) => event_id === event.body.event_id);
    if (response?.feedback && past) {
      this.#past = this.#past.filter((other) => other !== past); // what was revealed cannot be taken back
      this.#tell("feedback", { item: past.item, answer: past.answer, feedback: response.feedback, blocking: Boolean(mine) });
    } else if (mine) this.goOn();
    this.queue.fill(); // what the server holds back until an answer is in comes now
    this.#tell("change");
  }

  #refused(event) {
    this.#past = this.#past.filter(({ event_id }) => event_id !== event.body.event_id);
    if (this.#waiting?.event_id === event.body.event_id) this.goOn();
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** From the key press to the frame after the one that shows the next item: what the person waits for. */
function measure(began) {
  painted().then(() => performance.measure("keel-next-item", { start: began, end: performance.now() }));
}

/** Kept when the next frame is on the screen; in a page that is hidden there is none, so a quarter of a second is the most. */
function painted() {
  return new Promise((resolve) => {
    setTimeout(resolve, 250);
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(0);
    });
  });
}

// Pictures: decoded before they are shown, zoomed and moved together.
import { h } from "./dom.js";

const SAFE = /^(?:\/media\/[\w./-]+|data:image\/(?:png|jpeg|gif|webp);base64,[\w+/=]+)$/;
const STEP = 1.25;
const LARGEST = 12;
const PAN = 0.1; // of the pane, a press of an arrow key

/** Fetch and decode a picture; resolves to the element, with `failed` set when it could not be had. Never rejects. */
export async function picture(source) {
  const image = new Image();
  image.draggable = false;
  image.decoding = "sync"; // it is decoded already when it is put on the page
  if (!SAFE.test(source)) return Object.assign(image, { failed: true });
  image.src = source;
  await image.decode().catch(() => (image.failed = true));
  return image;
}

/** Panes of one item that share one zoom: what is looked at in one is looked at in all. */
export class Panes {
  scale = 1;
  x = 0; // of the pane's width and height
  y = 0;
  #panes = [];

  /** A pane around a picture, with its buttons. `number`: which picture of the item it is. */
  pane(image, number, many) {
    if (image.failed) return h("p", { class: "note bad", role: "status", say: "image_failed" });
    image.alt = "";
    const view = h("div", { class: "view", tabindex: "0", role: "img", sayLabel: [many ? "image_n" : "image", { n: number }] }, image);
    const button = (say, act, text) => h("button", { type: "button", class: "small", sayLabel: say, sayTitle: say, onclick: act, text });
    const tools = h(
      "div",
      { class: "tools" },
      button("zoom_in", () => this.zoom(STEP), "+"),
      button("zoom_out", () => this.zoom(1 / STEP), "−"),
      button("zoom_reset", () => this.reset(), "1:1"),
    );
    this.#panes.push({ view, image });
    this.#listen(view);
    return h("figure", { class: "media" }, view, tools);
  }

  get any() {
    return this.#panes.length > 0;
  }

  zoom(factor, at = { x: 0.5, y: 0.5 }) {
    const scale = Math.min(LARGEST, Math.max(1, this.scale * factor));
    const grown = scale / this.scale;
    this.x = at.x - (at.x - this.x) * grown;
    this.y = at.y - (at.y - this.y) * grown;
    this.scale = scale;
    this.#draw();
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.#draw();
  }

  move(x, y) {
    this.x += x;
    this.y += y;
    this.#draw();
  }

  actions() {
    return this.any ? { zoom_in: () => this.zoom(STEP), zoom_out: () => this.zoom(1 / STEP), zoom_reset: () => this.reset() } : {};
  }

  #draw() {
    const edge = 1 - this.scale;
    this.x = Math.min(0, Math.max(edge, this.x));
    this.y = Math.min(0, Math.max(edge, this.y));
    for (const { view, image } of this.#panes) {
      image.style.transform = `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
      view.dataset.zoom = this.scale.toFixed(3);
      view.classList.toggle("zoomed", this.scale > 1);
    }
  }

  #listen(view) {
    const fingers = new Map();
    const inside = (event) => {
      const box = view.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    view.addEventListener("pointerdown", (event) => {
      view.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, inside(event));
    });
    view.addEventListener("pointermove", (event) => this.#drag(fingers, event.pointerId, inside(event)));
    for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, (event) => fingers.delete(event.pointerId));
    view.addEventListener("dblclick", (event) => (this.scale > 1 ? this.reset() : this.zoom(2, inside(event))));
    view.addEventListener("wheel", (event) => this.#wheel(event, inside(event)), { passive: false });
    view.addEventListener("keydown", (event) => this.#arrow(event));
  }

  #drag(fingers, id, to) {
    const from = fingers.get(id);
    if (!from) return;
    const other = [...fingers].find(([name]) => name !== id)?.[1];
    fingers.set(id, to);
    if (!other) return this.move(to.x - from.x, to.y - from.y);
    const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) || 1e-6;
    this.zoom(apart(to, other) / apart(from, other), { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 });
  }

  /** With Ctrl (or two fingers on a touch pad) it zooms; without, the page scrolls. */
  #wheel(event, at) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 200), at);
  }

  #arrow(event) {
    const way = { ArrowLeft: [PAN, 0], ArrowRight: [-PAN, 0], ArrowUp: [0, PAN], ArrowDown: [0, -PAN] }[event.key];
    if (!way || this.scale === 1 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.move(...way);
  }
}

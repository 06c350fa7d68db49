// Dragging chips by Pointer Events: mouse, pen and finger alike. Targets are elements with `data-drop`.
const FAR = 6; // pixels: less is a click

export class Drag {
  justDropped = false;
  #chip = null;
  #from = null;
  #moving = false;

  /** `drop(chip, dataset)` is called with what the chip was dropped on. */
  constructor(root, drop) {
    this.drop = drop;
    this.root = root;
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    root.addEventListener("pointerup", (event) => this.#up(event));
    root.addEventListener("pointercancel", () => this.#end());
  }

  #down(event) {
    this.justDropped = false;
    const chip = event.target.closest(".chip");
    if (!chip || event.button !== 0 || this.#chip) return;
    this.#chip = chip;
    this.#from = { x: event.clientX, y: event.clientY };
  }

  #move(event) {
    if (!this.#chip) return;
    const x = event.clientX - this.#from.x;
    const y = event.clientY - this.#from.y;
    if (!this.#moving && Math.hypot(x, y) < FAR) return;
    if (!this.#moving) {
      this.#moving = true;
      this.root.setPointerCapture(event.pointerId);
      this.root.classList.add("dragging");
      this.#chip.classList.add("moving");
    }
    this.#chip.style.transform = `translate(${x}px, ${y}px)`;
    this.#mark(this.#target(event));
  }

  #up(event) {
    const chip = this.#chip;
    const moved = this.#moving;
    const target = moved && this.#target(event);
    this.#end();
    this.justDropped = moved;
    if (target) this.drop(chip, target.dataset);
  }

  #target(event) {
    const found = document
      .elementsFromPoint(event.clientX, event.clientY)
      .find((element) => element.dataset.drop && this.root.contains(element));
    return found ?? null;
  }

  #mark(target) {
    for (const element of this.root.querySelectorAll(".over")) if (element !== target) element.classList.remove("over");
    target?.classList.add("over");
  }

  #end() {
    this.#mark(null);
    this.#chip?.classList.remove("moving");
    if (this.#chip) this.#chip.style.transform = "";
    this.root.classList.remove("dragging");
    this.#chip = this.#from = null;
    this.#moving = false;
  }
}

// All pictures of a view: which are seen, what they show, and asking for their numbers together.
import { Chart } from "./chart.js";
import { get, trouble } from "./net.js";
import { percent, say, shortNames } from "./text.js";

const TOGETHER = 12; // pictures a call
const byId = (id) => document.getElementById(id);

export class Board {
  constructor(runs) {
    Object.assign(this, { runs, names: shortNames(runs), events: [], charts: [], asking: false, timer: 0, shown: "" });
    this.look = { low: null, high: null, smooth: 0, bands: true, log: false, pool: false };
    this.watcher = new IntersectionObserver((seen) => this.see(seen), { rootMargin: "200px" });
    this.sizes = new ResizeObserver(() => this.charts.forEach((c) => c.resize()));
    this.sizes.observe(byId("part-curves"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((c) => c.restyle()));
    this.tools();
  }

  tools() {
    const on = (id, kind, act) => byId(id).addEventListener(kind, () => act(byId(id)));
    on("filter", "input", () => this.filter());
    on("smooth", "input", (e) => this.redraw({ smooth: Number(e.value) }));
    on("bands", "change", (e) => this.redraw({ bands: e.checked }));
    on("log", "change", (e) => this.redraw({ log: e.checked }));
    on("pool", "change", (e) => {
      this.look.pool = e.checked;
      this.again();
    });
    const ends = () => this.zoom(byId("low").value === "" ? null : Number(byId("low").value), byId("high").value === "" ? null : Number(byId("high").value));
    on("low", "change", ends);
    on("high", "change", ends);
    on("whole", "click", () => this.zoom(null, null));
    byId("rest-part").addEventListener("toggle", () => this.ask());
  }

  /** What there is: pictures are made once, and again only when others are there. */
  build(view) {
    const groups = view.runs.map((run) => run.group).filter(Boolean);
    byId("pool-label").hidden = new Set(groups).size === groups.length;
    const reading = view.runs.filter((run) => run.read < 1);
    const notes = [...reading.map((run) => say("curves.reading", { run: run.id, share: percent(run.read) })), view.left_out ? say("curves.left_out", { n: view.left_out }) : ""].filter(Boolean);
    byId("reading").hidden = !notes.length;
    byId("reading").textContent = notes.join(" ");
    const key = JSON.stringify([view.charts, view.fans, view.rest]);
    if (key === this.shown) return;
    this.shown = key;
    this.watcher.disconnect();
    const make = (spec) => {
      const known = this.charts.find((c) => JSON.stringify(c.spec) === JSON.stringify(spec));
      return known ?? new Chart(spec, this);
    };
    const main = view.charts.map(make);
    const fans = view.fans.map((key_) => make({ key: key_, fan: true, metrics: [FAN_METRICS[key_]] }));
    const rest = view.rest.map((name) => make({ key: "", metrics: [name] }));
    this.charts = [...main, ...fans, ...rest];
    byId("main-charts").replaceChildren(...main.map((c) => c.element));
    byId("fans").replaceChildren(...fans.map((c) => c.element));
    byId("rest").replaceChildren(...rest.map((c) => c.element));
    byId("fans-part").hidden = !fans.length;
    byId("rest-part").hidden = !rest.length;
    byId("rest-part").querySelector("summary").textContent = say("curves.rest", { n: rest.length });
    if (!main.length && rest.length) byId("rest-part").open = true;
    if (!this.charts.length) byId("main-charts").textContent = say("curves.none");
    for (const chart of this.charts) this.watcher.observe(chart.element);
    this.filter();
  }

  filter() {
    const text = byId("filter").value.trim();
    let fits = (names) => text.toLowerCase().split(/\s+/).every((word) => names.toLowerCase().includes(word));
    if (text.startsWith("/") && text.length > 1) {
      try {
        const wanted = new RegExp(text.replace(/^\/|\/$/g, ""), "i");
        fits = (names) => names.split(" ").some((name) => wanted.test(name));
      } catch {
        fits = () => true;
      }
    }
    let hits = 0;
    for (const chart of this.charts) {
      const fit = !text || fits(`${chart.spec.metrics.join(" ")} ${chart.title}`);
      chart.element.hidden = !fit;
      hits += fit && chart.element.parentElement?.id === "rest";
    }
    if (text && hits) byId("rest-part").open = true;
  }

  redraw(change) {
    Object.assign(this.look, change);
    this.charts.forEach((c) => c.draw());
  }

  zoom(low, high) {
    if (low !== null && high !== null && high <= low) return;
    Object.assign(this.look, { low, high });
    byId("low").value = low ?? "";
    byId("high").value = high ?? "";
    byId("whole").disabled = low === null && high === null;
    this.again();
  }

  see(seen) {
    for (const { target, isIntersecting } of seen) {
      const chart = this.charts.find((c) => c.element === target);
      if (!chart) continue;
      chart.visible = isIntersecting;
      if (isIntersecting && !chart.stale) chart.draw();
    }
    this.ask();
  }

  again() {
    this.charts.forEach((c) => { c.stale = true; });
    this.ask();
  }

  soon(ms = 400) {
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.ask();
    }, ms);
  }

  async ask() {
    if (this.asking) return this.soon(50);
    const wanted = this.charts.filter((c) => c.visible && c.stale && !c.element.hidden).slice(0, TOGETHER);
    if (!wanted.length) return;
    this.asking = true;
    const { low, high, pool } = this.look;
    const pixels = Math.max(100, Math.round(wanted[0].place.clientWidth - 56));
    wanted.forEach((c) => { c.stale = false; });
    try {
      const found = await get("/api/curves", { r: this.runs, c: wanted.map((c) => JSON.stringify(c.ask)), low, high, px: pixels, pool: pool ? 1 : null });
      const same = low === this.look.low && high === this.look.high && pool === this.look.pool;
      wanted.forEach((chart, i) => (same ? chart.set(found.charts[i]) : (chart.stale = true)));
      document.body.dataset.drawn = "yes";
      trouble(null);
    } catch (error) {
      wanted.forEach((c) => { c.stale = true; });
      trouble(error);
      this.asking = false;
      return this.soon(3000);
    }
    this.asking = false;
    return this.ask();
  }

  /** New steps of a run. */
  take(run, rows) {
    for (const chart of this.charts) {
      if (chart.visible ? !chart.append(run, rows) : true) chart.stale = true;
    }
    this.soon();
  }

  tell(events) {
    this.events = events.filter((e) => ["warning", "verdict", "emergency"].includes(e.kind));
    this.charts.forEach((c) => c.visible && c.plot?.redraw(false));
  }
}

const FAN_METRICS = { fan_reward: "reward", fan_eval_reward: "eval/reward", fan_length: "completions/mean_length", fan_eval_length: "eval/completions/mean_length" };

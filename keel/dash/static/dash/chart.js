// One picture: curves with bands over steps.
import { h } from "../site/dom.js";
import { drawMarks, near } from "./marks.js";
import { known, number, say } from "./text.js";

const HEIGHT = 210;
const MOST_NEW = 120; // steps added at the end before the picture is asked for again

let style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(name).trim();

function smoothed(values, share) {
  if (!share) return values;
  let [sum, weight] = [0, 0];
  return values.map((v) => {
    if (v === null) return null;
    [sum, weight] = [share * sum + (1 - share) * v, share * weight + (1 - share)];
    return sum / weight;
  });
}

export class Chart {
  constructor(spec, board) {
    Object.assign(this, { spec, board, data: null, plot: null, stale: true, visible: false, fresh: 0, key: "" });
    this.title = spec.key && known(`chart.${spec.key}`) ? say(`chart.${spec.key}`) : spec.metrics[0];
    const under = spec.key && spec.metrics.length === 1 && this.title !== spec.metrics[0] ? h("code", { class: "soft" }, spec.metrics[0]) : null;
    this.place = h("div", { class: "plot" });
    this.legend = h("ul", { class: "legend" });
    this.said = h("p", { class: "said" });
    this.element = h("article", { class: "card chart", "data-chart": spec.key || spec.metrics[0], "data-metrics": spec.metrics.join(" ") }, h("h3", {}, this.title, under && " ", under), this.place, this.legend, this.said);
  }

  get ask() {
    return this.spec.fan ? this.spec.key : this.spec.metrics;
  }

  get events() {
    return this.board.events;
  }

  colour(name) {
    return colour(name);
  }

  colourOf(curve) {
    return colour(`--c${this.indexOf(curve) % 8 + 1}`);
  }

  indexOf(curve) {
    return this.board.runs.length > 1 ? this.board.runs.indexOf(curve.run) : Math.max(0, this.spec.metrics.indexOf(curve.metric));
  }

  nameOf(curve) {
    const many = curve.n ? ` × ${curve.n}` : "";
    return this.board.runs.length > 1 ? this.board.names[this.board.runs.indexOf(curve.run)] + many : curve.metric;
  }

  set(data) {
    this.data = data;
    this.stale = false;
    this.fresh = 0;
    this.draw();
  }

  get lost() {
    return this.data?.lost || [];
  }

  get holes() {
    return (this.data?.curves || []).flatMap((c) => (c.holes || []).map(([at, kind]) => [this.data.x[at], kind]));
  }

  /** The numbers for uPlot, and what each line is. */
  lines() {
    const { smooth, bands, log } = this.board.look;
    const [columns, lines, pairs] = [[this.data.x], [{}], []];
    const put = (values, line) => {
      columns.push(log ? values.map((v) => (v > 0 ? v : null)) : values);
      lines.push({ spanGaps: true, points: { show: false }, ...line });
      return lines.length - 1;
    };
    this.data.curves.forEach((curve, i) => {
      const ink = this.colourOf(curve);
      const pair = (low, high, alpha, width) => {
        if (!bands || !curve[low]) return;
        const edge = { stroke: `${ink}80`, width };
        const ends = [put(curve[high], edge), put(curve[low], edge)];
        if (alpha) pairs.push({ series: ends, fill: ink + alpha });
      };
      pair("low", "high", curve.n ? "" : "2e", this.spec.fan ? 0.5 : 1); // of pooled seeds lines: their interval may be wider
      pair("inner_low", "inner_high", "40", 0);
      if (smooth && !curve.low) put(curve.mean, { stroke: `${ink}55`, width: 1 });
      const few = curve.mean.reduce((n, v) => n + (v !== null), 0) <= 40;
      const points = few ? { show: true, size: 5, stroke: ink, fill: ink } : { show: false };
      put(smoothed(curve.mean, smooth), { label: String(i), stroke: ink, width: 1.6, points });
    });
    return { columns, lines, pairs };
  }

  draw() {
    if (!this.data || !this.visible) return;
    const { columns, lines, pairs } = this.lines();
    const empty = columns[0].length === 0;
    this.place.classList.toggle("empty", empty);
    const key = JSON.stringify([lines, pairs, this.board.look.log, colour("--ink")]);
    if (this.plot && key === this.key && !empty) this.plot.setData(columns);
    else {
      this.plot?.destroy();
      this.plot = empty ? null : new uPlot(this.options(lines, pairs), columns, this.place);
      this.key = key;
    }
    this.tell();
    const [low, high] = [columns[0][0] ?? 0, columns[0].at(-1) ?? 0];
    this.place.setAttribute("role", "img");
    this.place.setAttribute("aria-label", say("curves.chart", { title: this.title, low: number(low), high: number(high) }));
    this.element.dataset.steps = columns[0].length;
    this.element.dataset.last = high;
  }

  options(lines, pairs) {
    const { log } = this.board.look;
    const axis = { stroke: colour("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    return {
      width: Math.max(120, this.place.clientWidth),
      height: HEIGHT,
      padding: [10, 12, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "steps", setSeries: false },
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        bind: { dblclick: () => () => this.board.zoom(null, null) },
      },
      scales: {
        x: { time: false, range: (u, low, high) => this.rangeX(low, high) },
        y: { distr: log ? 3 : 1, range: (u, low, high) => this.rangeY(low, high, log) },
      },
      axes: [
        { ...axis, size: 26, incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 20000, 25000, 50000, 100000, 200000, 500000, 1000000, 10000000], values: (_, at) => at.map((v) => (v >= 10000 ? `${number(v / 1000)}k` : number(v))), space: 60 },
        { ...axis, size: 56, values: (_, at) => at.map((v) => (v === null ? "" : number(v, 4))) },
      ],
      series: lines,
      bands: pairs,
      hooks: {
        draw: [(u) => drawMarks(u, this)],
        setCursor: [() => this.tell()],
        setSelect: [
          (u) => {
            if (u.select.width < 4) return;
            const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            this.board.zoom(Math.max(0, Math.floor(from)), Math.ceil(to));
          },
        ],
      },
    };
  }

  rangeX(low, high) {
    const { low: from, high: to } = this.board.look;
    const lost = this.lost.flatMap((c) => c.points.map((p) => p[0]));
    const first = from ?? lost.reduce((a, b) => Math.min(a, b), low ?? 0);
    const last = to ?? lost.reduce((a, b) => Math.max(a, b), high ?? 1);
    return first === last ? [first - 0.5, last + 0.5] : [first, last];
  }

  rangeY(low, high, log) {
    const lost = this.lost.flatMap((c) => c.points.flatMap((p) => [p[1], p[2]])).filter((v) => typeof v === "number" && (!log || v > 0));
    const [least, most] = [lost.reduce((a, b) => Math.min(a, b), low ?? Infinity), lost.reduce((a, b) => Math.max(a, b), high ?? -Infinity)];
    if (!(least <= most)) return log ? [0.1, 1] : [0, 1];
    if (log) return least === most ? [least / 2, least * 2] : [least / 1.2, most * 1.2];
    const room = most - least || Math.abs(most) * 0.1 || 0.5;
    const bottom = least - 0.06 * room;
    return [least >= 0 && bottom < 0 ? 0 : bottom, most + 0.08 * room];
  }

  /** Under the picture: each curve's value at the cursor, or its last one; and what was told there. */
  tell() {
    const at = this.plot?.cursor.idx ?? null;
    const rows = this.data.curves.map((curve) => {
      const last = at === null ? curve.mean.findLastIndex((v) => v !== null) : nearest(curve.mean, at);
      const mean = last < 0 ? null : curve.mean[last];
      const hole = (curve.holes || []).find(([i]) => i === at)?.[1];
      const low = curve.low?.[last];
      const range = low !== undefined && low !== null && low !== curve.high[last] ? h("small", {}, ` ${number(low)} … ${number(curve.high[last])}`) : "";
      return h("li", {}, h("i", { class: "swatch", style: { background: this.colourOf(curve) } }), h("span", { class: "name" }, this.nameOf(curve)), h("b", {}, hole ?? number(mean)), range);
    });
    this.legend.replaceChildren(...rows);
    if (at === null || !this.plot) {
      this.said.replaceChildren();
      return;
    }
    const told = near(this.plot, this.events);
    this.said.replaceChildren(h("b", {}, `${say("curves.step")} ${number(Math.round(this.data.x[at]), 9)}`), ...told.map((e) => h("span", { class: `tellwhat ${e.level}` }, ` ${say(`event.${e.kind}`)} ${e.step}: ${e.message}`)));
  }

  /** New steps of a run; false when the picture must be asked for again. */
  append(run, rows) {
    if (!this.data || this.stale) return true;
    if (this.spec.fan || this.data.curves.some((c) => c.n)) return false;
    const { x, curves } = this.data;
    for (const row of rows) {
      const step = row.step;
      const mine = curves.filter((c) => c.run === run && row[c.metric] !== undefined);
      if (!mine.length || typeof step !== "number") continue;
      if (this.board.look.high !== null && step > this.board.look.high) continue;
      const last = x.at(-1);
      if (last !== undefined && step < last) return false;
      if (step !== last) {
        x.push(step);
        this.fresh += 1;
        for (const c of curves) for (const part of ["mean", "low", "high"]) c[part]?.push(null);
      }
      for (const c of mine) {
        const value = row[c.metric];
        if (typeof value !== "number") {
          c.holes = [...(c.holes || []), [x.length - 1, value]];
          continue;
        }
        c.mean[x.length - 1] = value;
        if (c.low) {
          c.low[x.length - 1] = Math.min(c.low[x.length - 1] ?? value, value);
          c.high[x.length - 1] = Math.max(c.high[x.length - 1] ?? value, value);
        }
      }
    }
    this.draw();
    return this.fresh < MOST_NEW;
  }

  resize() {
    if (this.plot && this.place.clientWidth) this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT });
  }

  restyle() {
    style = getComputedStyle(document.documentElement);
    this.draw();
  }
}

/** Where a curve has a value, at or before `at`. */
function nearest(values, at) {
  let i = at;
  while (i >= 0 && values[i] === null) i -= 1;
  return i;
}

// Numbers, shares, times and intervals as people read them, in the page's language.
import { texts } from "./call.js";
import { h } from "./dom.js";

const language = document.documentElement.lang;
const decimals = (x) => (Math.abs(x) < 0.005 ? 0 : x).toFixed(2);

export const whole = (n) => new Intl.NumberFormat(language).format(n);
export const percent = (x) => (x === null ? "–" : new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(x));

export function when(at) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  return new Intl.DateTimeFormat(language, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(date);
}

export const hour = (t) => new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(new Date(t * 1000));

export function seconds(s) {
  if (s === null) return "–";
  return s < 90 ? `${s.toFixed(1)} s` : `${(s / 60).toFixed(1)} min`;
}

export function hours(x) {
  if (x === null) return "–";
  return x < 1 ? `${Math.max(1, Math.round(x * 60))} min` : `${x.toFixed(x < 10 ? 1 : 0)} h`;
}

/** A value with its interval, drawn on a line from `from` to `to`. */
export function interval(value, low, high, from = 0, to = 1, marks = []) {
  if (value === null) return h("span", { class: "soft" }, "–");
  const at = (x) => `${(100 * (Math.min(to, Math.max(from, x)) - from)) / (to - from)}%`;
  const width = `${(100 * (Math.min(to, high) - Math.max(from, low))) / (to - from)}%`;
  return h(
    "span",
    { class: "interval", title: `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]` },
    h(
      "span",
      { class: "line", "aria-hidden": "true" },
      ...marks.map((m) => h("i", { class: "mark", style: { left: at(m) } })),
      h("i", { class: "range", style: { left: at(low), width } }),
      h("i", { class: "dot", style: { left: at(value) } }),
    ),
    h("span", { class: "figures" }, decimals(value), h("small", {}, ` ${decimals(low)}–${decimals(high)}`)),
  );
}

/** hits of n with its interval. */
export function rate(r, from = 0, to = 1, marks = []) {
  if (!r.n) return h("span", { class: "soft" }, "–");
  const shown = interval(r.rate, r.low, r.high, from, to, marks);
  shown.title = `${r.hits} / ${r.n} · ${shown.title}`;
  return shown;
}

export const say = (key, values = {}) => (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

// Words and numbers in the page's language.
export const texts = JSON.parse(document.getElementById("texts").textContent);
export const language = document.documentElement.lang;

export const say = (key, values = {}) => (texts[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
export const known = (key) => key in texts;

const MINUS = "−";

/** A number in about four digits, with a real minus sign; names of what is not finite stay. */
export function number(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (typeof x !== "number") return String(x);
  if (!Number.isFinite(x)) return String(x);
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e6 || size < 1e-4 ? x.toExponential(Math.max(0, digits - 2)) : String(Number(x.toPrecision(digits)));
  return text.replace("-", MINUS);
}

export const whole = (n) => new Intl.NumberFormat(language).format(n);
export const percent = (x) => new Intl.NumberFormat(language, { style: "percent" }).format(x);

export function when(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return "";
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short", hourCycle: "h23", timeZone: "UTC" }).format(date);
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; n >= 1000 && at < units.length - 1; at += 1) n /= 1000;
  return `${number(n, 3)} ${units[at]}`;
}

/** Names without the beginning that all of them share, up to a border of folders. */
export function shortNames(names) {
  if (names.length < 2) return names;
  const parts = names.map((n) => n.split("/"));
  let same = 0;
  while (parts.every((p) => p.length > same + 1 && p[same] === parts[0][same])) same += 1;
  return parts.map((p) => p.slice(same).join("/"));
}

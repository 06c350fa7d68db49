// The words of the page in the reader's language. One catalogue a language, the same keys in each.
const LANGUAGES = ["en", "zh"];
let words = {};
let now = "en";

/** Fill the {names} of a text of the catalogue. An unknown key shows itself, so that it is noticed. */
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(typeof values[name] === "function" ? values[name]() : (values[name] ?? "")));
}

export const language = () => now;

/** Load a catalogue. `chosen`: the reader asked for it, so the server is told, which remembers it for all its pages. */
export async function setLanguage(asked, chosen = false) {
  const name = LANGUAGES.includes(asked) ? asked : "en";
  const response = await fetch(new URL(`./${name}.json`, import.meta.url));
  if (!response.ok) throw new Error(`catalogue ${name}: ${response.status}`);
  words = await response.json();
  now = name;
  document.documentElement.lang = name === "zh" ? "zh-Hans" : name;
  if (chosen) fetch(`/login?lang=${name}`).catch(() => null); // unreachable: the choice lasts as long as the page
}

export const otherLanguage = () => LANGUAGES[(LANGUAGES.indexOf(now) + 1) % LANGUAGES.length];

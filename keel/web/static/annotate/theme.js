// Light, dark, or as the system is.
const STORED = "keel-theme";
const THEMES = ["auto", "light", "dark"];

export function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

export function setTheme(name) {
  document.documentElement.dataset.theme = THEMES.includes(name) ? name : "auto";
}

export function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  try {
    localStorage.setItem(STORED, theme());
  } catch {
    // storage is switched off: it lasts as long as the page
  }
}

export function storedTheme() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}

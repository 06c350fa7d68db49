// Elements from plain values: texts are set as text, never as markup. Whatever people or models wrote stays harmless.
export function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== undefined && c !== null && c !== false));
  return element;
}

export function table(heads, rows) {
  return h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((x) => h("th", { scope: "col", title: x.title }, x.text ?? x)))), h("tbody", {}, ...rows));
}

/** Put new children in place of the old ones, unless somebody is just using one of them. */
export function fill(id, ...children) {
  const place = document.getElementById(id);
  if (place.contains(document.activeElement) && document.activeElement !== place) return;
  place.replaceChildren(...children);
}

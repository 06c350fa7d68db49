// Calls of the JSON API. Every change carries the session's own value, which no other site can read.
export const texts = JSON.parse(document.getElementById("texts").textContent);

let csrf = "";

export class Refused extends Error {
  constructor(status, body) {
    const told = body.error || {};
    super(told.message || `HTTP ${status}`);
    this.status = status;
    this.todo = told.todo || "";
    this.code = told.code || "";
  }
}

export async function call(path, body, method) {
  const headers = {};
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    headers["x-csrf"] = csrf || "page";
  }
  let answer;
  try {
    answer = await fetch(path, { method: method || (body === undefined ? "GET" : "POST"), headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, { error: { code: "network", message: texts["error.network"] } });
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, said);
  return said;
}

export async function me() {
  const found = await call("/api/me");
  csrf = found.csrf;
  return found;
}

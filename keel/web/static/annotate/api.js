// The server's calls. Whoever calls gets the response's body, `Refused` (the server said no) or `Unreachable` (nobody knows).
export class Refused extends Error {
  constructor(status, code, message, todo, wait) {
    super(message);
    Object.assign(this, { status, code, todo, wait }); // wait: seconds that the server asks for, or null
  }
}

export class Unreachable extends Error {}

const TIMEOUT_MS = 20000;

export class Api {
  constructor() {
    this.csrf = "";
    this.user = ""; // whose page this is; nothing goes out in another's name
  }

  async me() {
    const me = await this.#call("GET", "/api/me");
    if (this.user && me.name !== this.user) throw new Refused(401, "other_account", `signed in as ${me.name}`, "", null);
    this.csrf = me.csrf;
    return me;
  }

  items(campaign, n) {
    return this.#call("GET", `/api/campaigns/${encodeURIComponent(campaign)}/items?n=${n}`);
  }

  adjudications(campaign, n) {
    return this.#call("GET", `/api/campaigns/${encodeURIComponent(campaign)}/adjudications?n=${n}`);
  }

  guideline(version) {
    return this.#call("GET", `/api/guidelines/${encodeURIComponent(version)}`);
  }

  /** One event of the outbox. A stale CSRF token is renewed once: the session may have been opened again in another tab. */
  async send(path, body) {
    try {
      return await this.#call("POST", path, body);
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "csrf") throw error;
      await this.me();
      return this.#call("POST", path, body);
    }
  }

  logout() {
    return this.#call("POST", "/api/logout", {});
  }

  async #call(method, path, body) {
    const headers = { accept: "application/json" };
    if (method !== "GET") Object.assign(headers, { "content-type": "application/json", "x-csrf": this.csrf || "page" });
    let response;
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      response = await fetch(path, {
        method,
        headers,
        signal,
        body: body && JSON.stringify(body),
        credentials: "same-origin",
        redirect: "error",
      });
    } catch (error) {
      throw new Unreachable(String(error));
    }
    return answered(response);
  }
}

async function answered(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // not JSON: a proxy's page, or a response that broke off
    if (response.ok) throw new Unreachable("the response broke off");
  }
  if (response.ok) return body;
  const wait = Number(response.headers.get("retry-after"));
  const told = body?.error ?? {};
  const message = told.message || response.statusText || `HTTP ${response.status}`;
  throw new Refused(response.status, told.code ?? "", message, told.todo ?? "", wait > 0 ? wait : null);
}

// Sign in, or take part by invitation.
import { call, me, texts } from "./call.js";

const form = document.querySelector("form");
const error = document.getElementById("error");

function tell(what) {
  const known = texts[`error.${what.code}`];
  error.textContent = known || [what.message, what.todo].filter(Boolean).join(" · ");
  error.hidden = false;
}

async function send(job) {
  const buttons = [...form.querySelectorAll("button")];
  buttons.forEach((b) => (b.disabled = true));
  error.hidden = true;
  try {
    await job();
    location.assign("/");
  } catch (what) {
    buttons.forEach((b) => (b.disabled = false));
    tell(what);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.id === "login") {
    send(() => call("/api/login", { name: form.elements.name.value, password: form.elements.password.value }));
    return;
  }
  const platform = JSON.parse(document.getElementById("platform").textContent);
  const path = `/api/invitations/${encodeURIComponent(form.dataset.token)}`;
  const body = Object.keys(platform).length
    ? { platform }
    : { name: form.elements.name.value, password: form.elements.password.value };
  send(() => call(path, body));
});

document.getElementById("as-me")?.addEventListener("click", () => {
  send(async () => {
    await me();
    await call(`/api/invitations/${encodeURIComponent(form.dataset.token)}`, {});
  });
});

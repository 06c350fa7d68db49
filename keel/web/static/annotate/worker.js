// Keeps the page and its files, so that it opens without the network. The server's files win whenever the server answers; votes, items and
// pictures never pass through here.
const KEPT = "keel-annotate";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

/** The page tells what it is made of, once it runs. */
self.addEventListener("message", ({ data, source }) => {
  const addresses = Array.isArray(data) ? data.filter(ours) : [];
  caches
    .open(KEPT)
    .then((cache) => Promise.all(addresses.map((address) => renewed(cache, address).catch(() => null))))
    .then(() => source?.postMessage("kept"));
});

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && ours(event.request.url)) event.respondWith(answer(event.request));
});

function ours(address) {
  const { origin, pathname } = new URL(address);
  return origin === self.location.origin && (pathname === "/annotate" || pathname.startsWith("/static/"));
}

async function answer(request) {
  const cache = await caches.open(KEPT);
  try {
    const response = await fetch(request);
    if (fit(response)) cache.put(request.url, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request.url);
    if (kept) return kept;
    throw error;
  }
}

async function renewed(cache, address) {
  const response = await fetch(address);
  if (fit(response)) await cache.put(address, response);
}

/** A page that led elsewhere (to the sign-in) is not kept under this one's name. */
const fit = (response) => response.ok && response.type === "basic" && !response.redirected;

// What survives a reload: events that wait to be sent, items that were fetched, and who works here. IndexedDB; memory where there is none.
const NAME = "keel-annotate";
const STORES = { events: { keyPath: "seq", autoIncrement: true }, items: { keyPath: "handle" }, facts: { keyPath: "name" } };

export async function openDisk() {
  try {
    const database = await opened();
    database.onversionchange = () => database.close();
    return new Disk(database);
  } catch {
    return new Memory(); // a private window, or storage is full or forbidden: the page says so
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => Object.entries(STORES).forEach(([name, options]) => request.result.createObjectStore(name, options));
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error);
  });
}

class Disk {
  durable = true;

  constructor(database) {
    this.database = database;
  }

  /** Writes; the promise is kept when the transaction is on the disk. Returns the key. */
  put = (store, row) => this.#do(store, "readwrite", (s) => s.put(row));
  drop = (store, key) => this.#do(store, "readwrite", (s) => s.delete(key));
  all = (store) => this.#do(store, "readonly", (s) => s.getAll());
  get = (store, key) => this.#do(store, "readonly", (s) => s.get(key));

  #do(store, mode, job) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(store, mode, {
        durability: mode === "readwrite" && store === "events" ? "strict" : "relaxed",
      });
      const request = job(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error ?? request.error);
    });
  }
}

class Memory {
  durable = false;
  #stores = Object.fromEntries(Object.keys(STORES).map((name) => [name, new Map()]));
  #seq = 0;

  async put(store, row) {
    const path = STORES[store].keyPath;
    if (STORES[store].autoIncrement && row[path] === undefined) row[path] = ++this.#seq;
    this.#stores[store].set(row[path], structuredClone(row));
    return row[path];
  }

  drop = async (store, key) => void this.#stores[store].delete(key);
  all = async (store) => [...this.#stores[store].values()].map((row) => structuredClone(row));
  get = async (store, key) => structuredClone(this.#stores[store].get(key));
}

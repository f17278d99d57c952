// Asks the server. Leaving a request (its signal) ends the computation there, too.

export class Refused extends Error {
  constructor({ type, message }) {
    super(message.charAt(0).toUpperCase() + message.slice(1));
    this.type = type;
  }
}

// What comes of a fetch, or of reading what it brought; a server that is gone is told of like a refusal.
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ type: "Gone", message: "The server does not answer; is it still running?" });
  }
}

async function answered(address, options) {
  const response = await reached(fetch(address, options));
  if (response.ok) return response;
  if (response.status === 401) location.assign("login"); // the session has ended
  let told = { type: "Refused", message: `the server answered with ${response.status}` };
  try {
    told = (await response.json()).error || told;
  } catch { /* no JSON: what is there already is told */ }
  throw new Refused(told);
}

const json = async (address, options) => reached((await answered(address, options)).json());

const posted = (body, signal, more = {}) => ({
  method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json", ...more },
});

export const get = (address) => json(address);

export const post = (address, body, signal) => json(address, posted(body, signal));

export const upload = (blob, name, signal) =>
  json(`api/photos?name=${encodeURIComponent(name)}`, { method: "POST", body: blob, signal, headers: { "content-type": "application/octet-stream" } });

// A file: its name and content.
export async function download(address, body, signal) {
  const response = await answered(address, posted(body, signal));
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") || "") || [null, "map"];
  return { name, content: await reached(response.blob()) };
}

// A computation that tells how far it is: lines of JSON, the last with the result or the error.
export async function compute(address, body, signal, tell) {
  const response = await answered(address, posted(body, signal, { accept: "application/x-ndjson" }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    const lines = (value || "").split("\n");
    lines[0] = begun + lines[0];
    begun = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if (told.error) throw new Refused(told.error);
      if ("result" in told) return told.result;
      tell(told.progress);
    }
    if (done) throw new Refused({ type: "Gone", message: "The server ended before the answer was there." });
  }
}

// What is under way, one thing of each kind at a time: beginning another ends the one before, whose answer is then dropped.
export class Tasks {
  constructor() {
    this.running = new Map();
  }

  begin(kind) {
    this.end(kind);
    const control = new AbortController();
    const task = { signal: control.signal, abort: () => control.abort(), isCurrent: () => this.running.get(kind) === task };
    this.running.set(kind, task);
    return task;
  }

  // Whether it was still the current one.
  done(kind, task) {
    if (!task.isCurrent()) return false;
    this.running.delete(kind);
    return true;
  }

  end(...kinds) {
    for (const kind of kinds.length ? kinds : [...this.running.keys()]) {
      const task = this.running.get(kind);
      this.running.delete(kind);
      if (task) task.abort();
    }
  }

  has(kind) {
    return this.running.has(kind);
  }
}

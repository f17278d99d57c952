// Asks the server. Leaving a request (its signal) ends the computation there, too.

export class Refused extends Error {
  constructor(status, { type, message }) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

async function refusal(response) {
  if (response.status === 401) location.assign("login"); // the session has ended
  let told = { type: "Refused", message: `the server answered with ${response.status}` };
  try {
    told = (await response.json()).error || told;
  } catch { /* no JSON: what is there already is told */ }
  return new Refused(response.status, { ...told, message: sentence(told.message) });
}

async function fetched(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { type: "Gone", message: "The server does not answer; is it still running?" });
  }
}

export async function get(address) {
  const response = await fetched(address);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

const posted = (body, signal, more = {}) => ({
  method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json", ...more },
});

export async function post(address, body, signal) {
  const response = await fetched(address, posted(body, signal));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

// A file: its name and content.
export async function download(address, body, signal) {
  const response = await fetched(address, posted(body, signal));
  if (!response.ok) throw await refusal(response);
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") || "") || [null, "map"];
  return { name, content: await response.blob() };
}

// A computation that tells how far it is: lines of JSON, the last with the result or the error.
export async function compute(address, body, signal, tell) {
  const response = await fetched(address, posted(body, signal, { accept: "application/x-ndjson" }));
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value || "";
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if (told.error) throw new Refused(told.status, { ...told.error, message: sentence(told.error.message) });
      if ("result" in told) return told.result;
      tell(told.progress);
    }
    if (done) throw new Refused(0, { type: "Gone", message: "The server ended before the answer was there." });
  }
}

export async function upload(blob, name, signal) {
  const address = `api/photos?name=${encodeURIComponent(name)}`;
  const response = await fetched(address, { method: "POST", body: blob, signal, headers: { "content-type": "application/octet-stream" } });
  if (!response.ok) throw await refusal(response);
  return response.json();
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

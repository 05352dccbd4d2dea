// The server's API as this page uses it: an answer as a stream of events, and the pages about health and numbers.

/** An error that the server told, with its HTTP status (0: in the middle of a stream) and the seconds to wait. */
export class Refusal extends Error {
  constructor(message, status, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The server could not be reached, or the connection broke before the answer's end. */
export class Lost extends Error {}

export const key = {
  get: () => sessionStorage.getItem("key") || localStorage.getItem("key") || "",
  set(value, keep) {
    key.forget();
    (keep ? localStorage : sessionStorage).setItem("key", value);
  },
  forget() {
    sessionStorage.removeItem("key");
    localStorage.removeItem("key");
  },
};

async function call(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Lost(error.message);
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => null);
  const message = body?.error?.message || `${reply.status} ${reply.statusText}`;
  throw new Refusal(message, reply.status, Number(reply.headers.get("Retry-After")) || 0);
}

/** Asks for an answer; calls `onChunk` with each chunk of it. Resolves at its end; raises Refusal, Lost or AbortError. */
export async function answer(request, onChunk, signal) {
  const reply = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost(error.message);
    }
    if (piece.done) throw new Lost("the stream ended before the answer did");
    // Only the new piece is searched: a line of a megabyte arrives in hundreds of pieces.
    if (!piece.value.includes("\n")) { waiting += piece.value; continue; }
    const lines = (waiting + piece.value).split("\n");
    waiting = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const text = line.slice(5).trim();
      if (text === "[DONE]") return;
      const chunk = JSON.parse(text);
      if (chunk.error) throw new Refusal(chunk.error.message, 0);
      onChunk(chunk);
    }
  }
}

export async function models() {
  return (await (await call("/v1/models")).json()).data;
}

/** Returns "" where the server is ready, else the reason; null where it cannot be reached. */
export async function notReady() {
  try {
    await call("/readyz");
    return "";
  } catch (error) {
    if (!(error instanceof Refusal)) return null;
    return error.message;
  }
}

/** Returns the metrics as a list of {name, labels, value}. */
export async function metrics() {
  const found = [];
  for (const line of (await (await call("/metrics")).text()).split("\n")) {
    const parts = /^([a-z_]+)(?:\{(.*)\})? ([-+0-9.eE]+)$/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] || "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, mark) => (mark === "n" ? "\n" : mark));
    }
    found.push({ name: parts[1], labels, value: Number(parts[3]) });
  }
  return found;
}

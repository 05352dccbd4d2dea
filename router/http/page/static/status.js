// The status view: workers, load, cache hits and errors, from the server's own metrics.

import { metrics } from "./client.js";
import { word } from "./words.js";

const EVERY_MS = 2000;

let timer = 0;

/** Shows the view and keeps it fresh until `hide`. */
export function show(section) {
  section.hidden = false;
  clearTimeout(timer);
  refresh(section);
}

export function hide(section) {
  section.hidden = true;
  clearTimeout(timer);
}

async function refresh(section) {
  try {
    draw(section, await metrics());
  } catch (error) {
    section.replaceChildren(Object.assign(document.createElement("p"), { className: "wrong", textContent: `${word("unreachable")}: ${error.message}` }));
  }
  if (!section.hidden) timer = setTimeout(refresh, EVERY_MS, section);
}

function draw(section, found) {
  const sum = (name, test = () => true) => found.filter((each) => each.name === name && test(each.labels)).reduce((total, each) => total + each.value, 0);
  const of = (name, worker) => found.find((each) => each.name === name && each.labels.worker === worker)?.value;
  const workers = [...new Set(found.filter((each) => each.name === "qwenserve_worker_ready").map((each) => each.labels.worker))].sort();
  const prompt = sum("qwenserve_prompt_tokens_total");
  const cached = sum("qwenserve_cached_tokens_total");
  const last = (reason) => found.find((each) => each.name === "qwenserve_last_error_timestamp_seconds" && each.labels.reason === reason)?.value ?? 0;
  const errors = found.filter((each) => each.name === "qwenserve_errors_total" && each.value > 0)
    .map((each) => ({ reason: each.labels.reason, count: each.value, last: last(each.labels.reason) }))
    .sort((a, b) => b.last - a.last);
  section.replaceChildren(
    heading(word("workers")),
    table([word("worker"), word("status"), word("running"), word("queued"), word("freeKv")], workers.map((worker) => [
      worker,
      of("qwenserve_worker_ready", worker) ? word("ready") : word("notReady"),
      of("qwenserve_worker_running", worker), of("qwenserve_worker_queued", worker), of("qwenserve_worker_free_kv_blocks", worker),
    ])),
    heading(word("requests")),
    table([word("running"), word("total"), word("hitRate")], [[
      sum("qwenserve_running_requests"), sum("qwenserve_requests_total"), prompt ? `${((100 * cached) / prompt).toFixed(1)} %` : "–",
    ]]),
    heading(word("errors")),
    errors.length ? table([word("errors"), word("total"), word("last")], errors.map((each) => [each.reason, each.count, when(each.last)])) : paragraph(word("noErrors")),
  );
}

function when(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString(document.documentElement.lang) : "–";
}

function heading(text) {
  return Object.assign(document.createElement("h2"), { textContent: text });
}

function paragraph(text) {
  return Object.assign(document.createElement("p"), { textContent: text });
}

function table(head, rows) {
  const node = document.createElement("table");
  const top = node.createTHead().insertRow();
  for (const text of head) top.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" }));
  const body = node.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of row) {
      const cell = line.insertCell();
      cell.textContent = value === undefined || value === -1 ? "–" : String(value);
      if (typeof value === "number") cell.className = "number";
    }
  }
  return node;
}

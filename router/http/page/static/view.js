// The nodes of a conversation: one for each message, made anew when it changes as a whole, filled as an answer arrives.

import { copyButton, render } from "./markdown.js";
import { word } from "./words.js";

function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function button(name, act) {
  const node = element("button", "", word(name));
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

/** Returns a message's node. `acts` has what the person may do with it: edit, regenerate, results. */
export function messageNode(message, acts) {
  const node = element("article", `message ${message.role}`);
  node.setAttribute("aria-label", word({ user: "you", assistant: "assistant", tool: "result" }[message.role]));
  if (message.role === "assistant") fillAnswer(node, message, acts);
  else fillText(node, message, acts);
  return node;
}

function fillText(node, message, acts) {
  node.append(element("div", "text", message.content));
  if (message.role !== "user") return;
  const actions = element("div", "actions");
  actions.append(button("edit", () => editor(node, message, acts)));
  node.append(actions);
}

function editor(node, message, acts) {
  const field = element("textarea");
  field.value = message.content;
  field.rows = Math.min(12, message.content.split("\n").length + 1);
  field.setAttribute("aria-label", word("edit"));
  const actions = element("div", "actions");
  actions.append(
    button("resend", () => acts.resend(field.value)),
    button("cancel", () => node.replaceWith(messageNode(message, acts))),
  );
  node.replaceChildren(field, actions);
  field.focus();
}

function fillAnswer(node, message, acts) {
  const thought = element("details", "thought");
  thought.append(element("summary"), element("div", "text"));
  const answer = element("div", "answer");
  const calls = element("div", "calls");
  node.append(thought, answer, calls);
  showAnswer(node, message, { whole: true });
  if (!acts) return;
  const actions = element("div", "actions");
  actions.append(copyButton(() => message.content, "copyAnswer"), button("regenerate", acts.regenerate), element("span", "quiet", numbers(message)));
  node.append(actions);
  if (message.calls?.length && acts.results) node.append(resultForm(message, acts));
}

function resultForm(message, acts) {
  const form = element("form", "call");
  const fields = message.calls.map((call) => {
    const label = element("label", "", `${word("result")} ${call.name}`);
    const field = element("textarea");
    field.rows = 2;
    label.append(field);
    form.append(label);
    return field;
  });
  const send = element("button", "", word("sendResults"));
  form.append(send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    acts.results(message.calls.map((call, n) => ({ role: "tool", callId: call.id, content: fields[n].value })));
  });
  return form;
}

function numbers(message) {
  const parts = [];
  if (message.stopped) parts.push(word("stopped"));
  const usage = message.usage;
  if (usage) {
    parts.push(`${usage.prompt_tokens} → ${usage.completion_tokens} ${word("tokens")}`);
    const cached = usage.prompt_tokens_details?.cached_tokens;
    if (cached) parts.push(`${cached} ${word("cached")}`);
  }
  if (message.firstS) parts.push(`${word("time")} ${message.firstS.toFixed(2)} s`);
  if (message.tokensPerS) parts.push(`${message.tokensPerS.toFixed(1)} ${word("tokens")}/s`);
  if (message.finish && message.finish !== "stop" && message.finish !== "tool_calls") parts.push(message.finish);
  return parts.join(" · ");
}

/** Brings an answer's node up to date with its message. */
export function showAnswer(node, message, { whole = false } = {}) {
  const thought = node.querySelector(".thought");
  thought.hidden = !message.reasoning;
  if (message.reasoning) {
    const done = message.thoughtS !== undefined;
    thought.querySelector("summary").textContent = done ? word("thought", message.thoughtS.toFixed(1)) : word("thinking");
    append(thought.querySelector(".text"), message.reasoning.trimStart());
  }
  const answer = node.querySelector(".answer");
  if (whole || answer.dataset.shown !== String(message.content.length)) {
    answer.replaceChildren(...(message.content ? [render(message.content)] : []));
    answer.dataset.shown = String(message.content.length);
  }
  const calls = node.querySelector(".calls");
  calls.replaceChildren(...(message.calls || []).map(callNode));
}

function append(node, text) {
  // Only what is new, so that a selection inside a growing thought stays.
  if (text.startsWith(node.textContent)) node.append(text.slice(node.textContent.length));
  else node.textContent = text;
}

function callNode(call) {
  const node = element("div", "call");
  node.append(element("span", "quiet", `${word("call")} `), element("strong", "", call.name));
  let text = call.args;
  try {
    text = JSON.stringify(JSON.parse(call.args), null, 2);
  } catch { /* arguments that are still arriving, or that are no JSON: shown as they are */ }
  const block = element("pre");
  block.append(element("code", "", text), copyButton(() => call.args));
  node.append(block);
  return node;
}

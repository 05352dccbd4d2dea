// The conversations of this browser, kept in its storage. A message is {role, content, reasoning?, thoughtS?, calls?,
// callId?, usage?, ...}: what is shown, and what the next request is made of.

const KEY = "conversations";

let kept = read();

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) && found.length ? found : [fresh()];
  } catch {
    return [fresh()];
  }
}

function fresh() {
  return { id: crypto.randomUUID ? crypto.randomUUID() : String(Date.now() + Math.random()), title: "", messages: [], draft: "" };
}

export const all = () => kept;

/** Writes everything down. Returns false where the browser has no room for it. */
export function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
    return true;
  } catch {
    return false;
  }
}

export function add() {
  // An empty one is at hand already: no heap of them.
  if (kept[0].messages.length) kept.unshift(fresh());
  return kept[0];
}

export function remove(id) {
  kept = kept.filter((each) => each.id !== id);
  if (!kept.length) kept = [fresh()];
}

export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  return first ? first.content.trim().slice(0, 60) : "";
}

/** Returns the messages as the API takes them. */
export function asRequest(messages, system) {
  const sent = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.role === "assistant") {
      const calls = (message.calls || []).map(({ id, name, args }) => ({ id, type: "function", function: { name, arguments: args } }));
      sent.push({
        role: "assistant",
        content: message.content,
        ...(message.reasoning ? { reasoning_content: message.reasoning } : {}),
        ...(calls.length ? { tool_calls: calls } : {}),
      });
    } else if (message.role === "tool") {
      sent.push({ role: "tool", tool_call_id: message.callId, content: message.content });
    } else {
      sent.push({ role: message.role, content: message.content });
    }
  }
  return sent;
}

/** Returns a conversation as Markdown. */
export function asMarkdown(conversation, names) {
  const parts = [`# ${titleOf(conversation)}`];
  for (const message of conversation.messages) {
    parts.push(`## ${names[message.role] || message.role}`);
    if (message.reasoning) parts.push(message.reasoning.trim().split("\n").map((line) => `> ${line}`).join("\n"));
    if (message.content) parts.push(message.content);
    for (const call of message.calls || []) parts.push("```json\n" + JSON.stringify({ name: call.name, arguments: call.args }) + "\n```");
  }
  return parts.join("\n\n") + "\n";
}

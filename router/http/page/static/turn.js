// One answer on its way into a conversation: asked for, filled in as it arrives, asked for again when the connection breaks.

import { answer, Lost, Refusal } from "./client.js";

const PAUSES_S = [1, 2, 4, 8, 15];

/**
 * Asks for an answer and fills `message`. `show` is called whenever it changed, `waiting(seconds, retryNow)` before each
 * further try, `waiting(0)` when one begins. Resolves to "done" or "stopped"; raises Refusal, or Lost after the last try.
 */
export async function run(request, message, { show, waiting, signal }) {
  for (let tries = 0; ; tries++) {
    const began = performance.now();
    try {
      await answer(request, (chunk) => { take(chunk, message, began); show(); }, signal);
      finish(message, began);
      return "done";
    } catch (error) {
      if (error.name === "AbortError") {
        message.stopped = true;
        finish(message, began);
        return "stopped";
      }
      const again = error instanceof Lost || (error instanceof Refusal && (error.status === 429 || error.status === 503));
      if (!again || tries >= PAUSES_S.length) throw error;
      const stopped = await pause(Math.max(PAUSES_S[tries], error.retryAfter || 0), waiting, signal);
      if (stopped) {
        message.stopped = true;
        return "stopped";
      }
      // The next try brings the whole answer again.
      Object.assign(message, { content: "", reasoning: "", calls: [], thoughtS: undefined, firstS: undefined, restart: true });
    }
  }
}

function pause(seconds, waiting, signal) {
  return new Promise((resolve) => {
    let left = Math.ceil(seconds);
    const end = (stopped) => {
      clearInterval(timer);
      window.removeEventListener("online", now);
      signal.removeEventListener("abort", abort);
      waiting(0);
      resolve(stopped);
    };
    const now = () => end(false);
    const abort = () => end(true);
    const timer = setInterval(() => { left -= 1; if (left > 0) waiting(left, now); else now(); }, 1000);
    window.addEventListener("online", now);
    signal.addEventListener("abort", abort);
    waiting(left, now);
  });
}

function take(chunk, message, began) {
  message.restart = false;
  if (chunk.usage) message.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta || {};
  const seconds = (performance.now() - began) / 1000;
  const thought = delta.reasoning_content || delta.reasoning;
  if (message.firstS === undefined && (thought || delta.content || delta.tool_calls)) message.firstS = seconds;
  if (thought) message.reasoning += thought;
  if (message.reasoning && message.thoughtS === undefined && (delta.content || delta.tool_calls)) message.thoughtS = seconds;
  if (delta.content) message.content += delta.content;
  for (const part of delta.tool_calls || []) {
    const call = (message.calls[part.index] ||= { id: "", name: "", args: "" });
    if (part.id) call.id = part.id;
    if (part.function?.name) call.name += part.function.name;
    if (part.function?.arguments) call.args += part.function.arguments;
  }
  if (choice.finish_reason) message.finish = choice.finish_reason;
}

function finish(message, began) {
  const seconds = (performance.now() - began) / 1000;
  if (message.reasoning && message.thoughtS === undefined) message.thoughtS = seconds;
  const tokens = message.usage?.completion_tokens;
  const streamed = seconds - message.firstS;
  // A shorter time than this says nothing of the speed: the whole answer came at once.
  if (tokens > 1 && streamed > 0.1) message.tokensPerS = (tokens - 1) / streamed;
}

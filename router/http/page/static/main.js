// The page: wires the document to the conversations, the settings, and the answer on its way.

import * as client from "./client.js";
import * as kept from "./conversations.js";
import * as statusView from "./status.js";
import { run } from "./turn.js";
import { messageNode, showAnswer } from "./view.js";
import { apply, otherLanguage, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "presence_penalty", "max_tokens", "seed", "thinking_budget"];
const HEALTH_EVERY_MS = 5000;

let current = kept.all()[0];
let model = null;
let settings = readSettings();
// The answer on its way: {conversation, message, node, controller}; null between answers.
let running = null;

// ---- conversations

function save() {
  if (!kept.save()) notice(word("storageFull"));
}

function drawList() {
  $("list").replaceChildren(...kept.all().map((each) => {
    const row = document.createElement("li");
    const pick = Object.assign(document.createElement("button"), { className: "pick", textContent: kept.titleOf(each) || word("newChat") });
    pick.setAttribute("aria-current", String(each === current));
    pick.addEventListener("click", () => open(each));
    const drop = Object.assign(document.createElement("button"), { className: "drop", textContent: "×", title: word("deleteChat") });
    drop.setAttribute("aria-label", `${word("deleteChat")}: ${pick.textContent}`);
    drop.addEventListener("click", () => {
      if (running?.conversation === each) stop();
      kept.remove(each.id);
      save();
      open(each === current ? kept.all()[0] : current);
    });
    row.append(pick, drop);
    return row;
  }));
}

function open(conversation) {
  current = conversation;
  $("question").value = current.draft || "";
  grow();
  statusView.hide($("status"));
  $("chat").hidden = false;
  $("show-status").setAttribute("aria-pressed", "false");
  notice("");
  draw();
}

function draw() {
  drawList();
  const messages = current.messages;
  $("messages").replaceChildren(...messages.map((message, index) => {
    if (running?.message === message) {
      running.node = messageNode(message, null);
      running.node.classList.add("busy");
      return running.node;
    }
    return messageNode(message, actsOn(index));
  }));
  toEnd(true);
}

function actsOn(index) {
  return {
    resend: (text) => { current.messages.splice(index); send({ role: "user", content: text }); },
    regenerate: () => { current.messages.splice(index); send(); },
    results: index === current.messages.length - 1 ? (results) => send(...results) : null,
  };
}

// ---- an answer

async function send(...messages) {
  if (running) return;
  const conversation = current;
  const tools = readTools();
  if (tools === null) return;
  conversation.messages.push(...messages);
  const request = { messages: kept.asRequest(conversation.messages, settings.system), ...sampling(), ...(tools.length ? { tools } : {}) };
  const message = { role: "assistant", content: "", reasoning: "", calls: [] };
  conversation.messages.push(message);
  const controller = new AbortController();
  running = { conversation, message, node: null, controller };
  save();
  notice("");
  busy(true);
  draw();
  let due = 0;
  const show = () => {
    // As often as the page can: a long answer that takes long to draw is drawn less often.
    if (due) return;
    due = requestAnimationFrame(() => {
      const began = performance.now();
      if (running?.node?.isConnected) {
        running.node.classList.toggle("stale", Boolean(message.restart));
        showAnswer(running.node, message);
        toEnd(false);
      }
      const rest = 3 * (performance.now() - began);
      due = rest > 16 ? setTimeout(() => { due = 0; show(); }, rest) : 0;
    });
  };
  const waiting = (seconds, retry) => {
    if (!seconds) return notice("");
    running?.node?.classList.add("stale");
    notice(`${word("connectionLost")} ${word("retrying", seconds)}`, word("retry"), retry);
  };
  try {
    await run(request, message, { show, waiting, signal: controller.signal });
    $("spoken").textContent = `${word("answerReady")}. ${message.content.slice(0, 2000)}`;
  } catch (error) {
    failed(error, conversation, message);
  }
  message.calls = message.calls.filter(Boolean);
  const here = conversation === current;
  running = null;
  save();
  busy(false);
  if (here) draw();
  else drawList();
}

function failed(error, conversation, message) {
  if (!message.content && !message.reasoning && !message.calls.length) conversation.messages.pop();
  else message.stopped = true;
  if (error instanceof client.Refusal && error.status === 401) {
    if (client.key.get()) client.key.forget();
    askForKey(() => send());
    return;
  }
  const what = error instanceof client.Lost ? word("connectionLost") : error.message;
  notice(what, word("retry"), () => {
    if (message === conversation.messages.at(-1)) conversation.messages.pop();
    open(conversation);
    send();
  });
}

function stop() {
  running?.controller.abort();
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

function notice(text, action = "", act = null) {
  const node = $("notice");
  node.textContent = text;
  if (!act) return;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
  button.addEventListener("click", act);
  node.append(button);
}

let follows = true;
$("messages").addEventListener("scroll", () => {
  const node = $("messages");
  follows = node.scrollHeight - node.scrollTop - node.clientHeight < 60;
});
function toEnd(always) {
  if (always || follows) $("messages").scrollTop = $("messages").scrollHeight;
}

// ---- settings

function readSettings() {
  try {
    return { system: "", thinking: null, tools: "", ...JSON.parse(localStorage.getItem("settings")) };
  } catch {
    return { system: "", thinking: null, tools: "" };
  }
}

function sampling() {
  const asked = model ? { model: model.id } : {};
  for (const name of NUMBERS) if (typeof settings[name] === "number") asked[name] = settings[name];
  if (settings.thinking !== null) asked.chat_template_kwargs = { enable_thinking: settings.thinking };
  return asked;
}

function readTools() {
  $("tools-wrong").textContent = "";
  if (!settings.tools.trim()) return [];
  try {
    const tools = JSON.parse(settings.tools);
    if (!Array.isArray(tools)) throw new Error(typeof tools);
    return tools;
  } catch (error) {
    $("settings").hidden = false;
    $("tools-wrong").textContent = word("toolsWrong", error.message);
    return null;
  }
}

function wireSettings() {
  $("set-system").value = settings.system;
  $("set-tools").value = settings.tools;
  $("set-thinking").checked = settings.thinking ?? true;
  for (const name of NUMBERS) if (typeof settings[name] === "number") $(`set-${name}`).value = settings[name];
  $("settings").addEventListener("input", (event) => {
    const field = event.target;
    const name = field.id.slice(4);
    if (field.type === "checkbox") settings.thinking = field.checked;
    else if (field.type === "number") settings[name] = field.value === "" || !field.validity.valid ? null : field.valueAsNumber;
    else settings[name] = field.value;
    localStorage.setItem("settings", JSON.stringify(settings));
  });
  $("forget-key").addEventListener("click", () => client.key.forget());
}

// ---- key, health, theme

function askForKey(then) {
  const dialog = $("key-dialog");
  $("key").value = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "ok" || !$("key").value) return;
    client.key.set($("key").value.trim(), $("keep-key").checked);
    $("key").value = "";
    dialog.returnValue = "";
    lookForModel();
    then();
  };
  dialog.showModal();
}

async function lookForModel() {
  try {
    model = (await client.models())[0] || null;
    $("model").textContent = model ? model.id : "";
  } catch (error) {
    if (error instanceof client.Refusal && error.status === 401) askForKey(() => {});
  }
}

async function watchHealth() {
  const reason = await client.notReady();
  const badge = $("health");
  const text = reason === "" ? word("ready") : reason === null ? word("unreachable") : word("notReady");
  if (badge.textContent !== text) badge.textContent = text;
  badge.title = reason || "";
  badge.classList.toggle("good", reason === "");
  badge.classList.toggle("bad", reason !== "");
  if (reason === "" && !model && !$("key-dialog").open) lookForModel();
  setTimeout(watchHealth, HEALTH_EVERY_MS);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// ---- the document

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function download(name, type, text) {
  const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function newChat() {
  const conversation = kept.add();
  open(conversation);
  $("question").focus();
}

function wire() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("question").value;
    if (!text.trim() || running) return;
    if (readTools() === null) return;
    current.draft = "";
    $("question").value = "";
    grow();
    send({ role: "user", content: text });
  });
  $("question").addEventListener("input", () => { grow(); current.draft = $("question").value; save(); });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
  });
  document.addEventListener("keydown", (event) => {
    const writing = /^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName || "");
    if (event.key === "Escape" && !$("key-dialog").open) stop();
    else if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("question").focus(); }
    else if (event.altKey && event.key.toLowerCase() === "n") { event.preventDefault(); newChat(); }
  });
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", newChat);
  $("menu").addEventListener("click", () => {
    const isOpen = $("side").classList.toggle("open");
    $("menu").setAttribute("aria-expanded", String(isOpen));
  });
  $("show-settings").addEventListener("click", () => {
    $("settings").hidden = !$("settings").hidden;
    $("show-settings").setAttribute("aria-expanded", String(!$("settings").hidden));
  });
  $("show-status").addEventListener("click", () => {
    const shown = $("status").hidden;
    $("chat").hidden = shown;
    $("show-status").setAttribute("aria-pressed", String(shown));
    if (shown) statusView.show($("status"));
    else statusView.hide($("status"));
  });
  $("language").addEventListener("click", () => { otherLanguage(); draw(); });
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    localStorage.setItem("theme", dark ? "light" : "dark");
    setTheme(localStorage.getItem("theme"));
  });
  const names = () => ({ user: word("you"), assistant: word("assistant"), tool: word("result") });
  $("export-md").addEventListener("click", () => download("conversation.md", "text/markdown", kept.asMarkdown(current, names())));
  $("export-json").addEventListener("click", () => download("conversation.json", "application/json", JSON.stringify(current, null, 2)));
}

setTheme(localStorage.getItem("theme"));
apply();
wire();
wireSettings();
open(current);
watchHealth();

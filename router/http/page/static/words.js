// What the page says, in English and Chinese. `apply` writes it wherever the document names a word.

const WORDS = {
  en: {
    answerReady: "Answer complete", budget: "Thinking budget (tokens)", cached: "cached", call: "Tool call", cancel: "Cancel",
    connectionLost: "The connection was lost.", conversation: "Conversation", conversations: "Conversations", copied: "Copied",
    copy: "Copy", copyAnswer: "Copy answer", deleteChat: "Delete conversation", edit: "Edit", errors: "Errors since start",
    exportJson: "Export JSON", exportMarkdown: "Export Markdown", forgetKey: "Forget the API key", freeKv: "Free KV blocks",
    hitRate: "Prompt tokens found in a cache", keepKey: "Keep it in this browser", key: "API key", keyTitle: "API key needed",
    keyWhy: "This deployment answers only with an API key. It is sent to this server and to no other.",
    keyWrong: "The key was not accepted.", keys: "Enter sends · Shift+Enter new line · Esc stops · / writes · Alt+N new conversation",
    language: "Language", last: "Last seen", menu: "Conversations", newChat: "New conversation", noErrors: "None.", none: "none", notReady: "not ready",
    placeholder: "Ask something…", question: "Your message", queued: "Queued", ready: "ready", regenerate: "Regenerate",
    requests: "Requests", resend: "Send again", result: "Result of the call", retry: "Retry now", retrying: "Trying again in {} s.",
    running: "Running", save: "Save", send: "Send", sendResults: "Send results", settings: "Settings", skip: "Skip to the message field",
    status: "Status", stop: "Stop", stopped: "stopped", storageFull: "The browser's storage is full: this conversation is kept only until the page is closed.",
    system: "System prompt", temperature: "temperature", theme: "Light or dark", thinking: "Thinking…", thinkingOn: "Think before answering",
    thought: "Thought for {} s", time: "First token", tokens: "tokens", tools: "Tools (JSON list)", toolsWrong: "Tools must be a JSON list: {}",
    total: "Total", unreachable: "not reachable", unset: "Empty fields use the model's own defaults.", useKey: "Use the key", worker: "Worker",
    workers: "Workers", you: "You", assistant: "Assistant",
  },
  zh: {
    answerReady: "回答完成", budget: "思考预算（token）", cached: "命中缓存", call: "工具调用", cancel: "取消",
    connectionLost: "连接已断开。", conversation: "对话", conversations: "对话列表", copied: "已复制",
    copy: "复制", copyAnswer: "复制回答", deleteChat: "删除对话", edit: "编辑", errors: "启动以来的错误",
    exportJson: "导出 JSON", exportMarkdown: "导出 Markdown", forgetKey: "清除 API 密钥", freeKv: "空闲 KV 块",
    hitRate: "提示缓存命中率", keepKey: "保存在此浏览器中", key: "API 密钥", keyTitle: "需要 API 密钥",
    keyWhy: "此部署需要 API 密钥才会回答。密钥只会发送给本服务器。",
    keyWrong: "密钥未被接受。", keys: "Enter 发送 · Shift+Enter 换行 · Esc 停止 · / 输入 · Alt+N 新对话",
    language: "语言", last: "最近一次", menu: "对话列表", newChat: "新对话", noErrors: "无。", none: "无", notReady: "未就绪",
    placeholder: "请输入问题…", question: "你的消息", queued: "排队", ready: "就绪", regenerate: "重新生成",
    requests: "请求", resend: "重新发送", result: "调用结果", retry: "立即重试", retrying: "{} 秒后重试。",
    running: "运行中", save: "保存", send: "发送", sendResults: "发送结果", settings: "设置", skip: "跳到输入框",
    status: "状态", stop: "停止", stopped: "已停止", storageFull: "浏览器存储空间已满：此对话只保留到页面关闭为止。",
    system: "系统提示", temperature: "温度 temperature", theme: "浅色或深色", thinking: "思考中…", thinkingOn: "回答前先思考",
    thought: "思考了 {} 秒", time: "首个 token", tokens: "token", tools: "工具（JSON 列表）", toolsWrong: "工具必须是 JSON 列表：{}",
    total: "合计", unreachable: "无法连接", unset: "留空则使用模型默认值。", useKey: "使用密钥", worker: "工作进程",
    workers: "工作进程", you: "用户", assistant: "助手",
  },
};

let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function word(name, value = "") {
  return WORDS[language][name].replace("{}", value);
}

export function apply() {
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", word(node.dataset.label));
    if (node.tagName === "BUTTON") node.title = word(node.dataset.label);
  }
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = word(node.dataset.placeholder);
  document.getElementById("language").textContent = language === "en" ? "中文" : "English";
}

export function otherLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("language", language);
  apply();
}

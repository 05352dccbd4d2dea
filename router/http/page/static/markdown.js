// An answer's Markdown as nodes of the document. What a model writes is hostile until shown otherwise: the text passes
// through `marked`, and what that makes passes through DOMPurify, which returns nodes and never markup. Images are not
// loaded, since an address can carry what was said to somebody else: their text and address are shown instead.

import { word } from "./words.js";

// A longer text is shown as it is: parsing it again with every piece that arrives would stop the page.
const LONGEST = 200_000;

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "input", "li", "ol", "p",
  "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];

marked.use({
  gfm: true,
  breaks: true,
  renderer: {
    html: (token) => escaped(token.text),
    image: (token) => escaped(`🖼 ${token.text} (${token.href})`),
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
  if (node.tagName === "INPUT") {
    if (node.getAttribute("type") === "checkbox") node.setAttribute("disabled", "");
    else node.remove();
  }
});

function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}

function plain(text) {
  const node = document.createElement("div");
  node.className = "plain";
  node.textContent = text;
  return node;
}

/** Returns a node with the text's Markdown, or with the text as it is where it is too long or cannot be parsed. */
export function render(text) {
  if (text.length > LONGEST) return plain(text);
  let fragment;
  try {
    fragment = DOMPurify.sanitize(marked.parse(text), {
      ALLOWED_TAGS: TAGS,
      ALLOWED_ATTR: ["href", "class", "start", "type", "checked", "align"],
      ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
      RETURN_DOM_FRAGMENT: true,
    });
  } catch {
    return plain(text);
  }
  for (const block of fragment.querySelectorAll("pre")) block.append(copyButton(() => block.querySelector("code").textContent));
  return fragment;
}

/** Returns a button that copies what `text` returns. */
export function copyButton(text, label = "copy") {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = word(label);
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = word("copied");
    setTimeout(() => { button.textContent = word(label); }, 1500);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages that came over plain HTTP from another host have no clipboard of their own.
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

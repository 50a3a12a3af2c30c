// Markdown to elements: code, headings, lists, quotes, emphasis, links. No HTML is ever parsed.

import { el } from "./dom.js";

const INLINE =
  /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*(\S(?:.*?\S)?)\*\*|(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/;

/** Elements for a text, which may be incomplete. */
export function markdown(text) {
  const out = [];
  const lines = text.split("\n");
  for (let n = 0; n < lines.length; ) {
    const line = lines[n];
    const fence = line.match(/^\s*(```+|~~~+)\s*(\S*)/);
    if (fence) {
      const end = lines.findIndex((other, m) => m > n && other.trim().startsWith(fence[1]));
      const body = lines.slice(n + 1, end < 0 ? undefined : end).join("\n");
      out.push(el("pre", { tabIndex: 0 }, el("code", {}, body)));
      n = end < 0 ? lines.length : end + 1;
    } else if (!line.trim()) {
      n += 1;
    } else if (/^#{1,6}\s/.test(line)) {
      out.push(el("p", { class: "heading", role: "heading", "aria-level": "3" }, ...inline(line.replace(/^#+\s+/, ""))));
      n += 1;
    } else {
      const [element, next] = block(lines, n);
      out.push(element);
      n = next;
    }
  }
  return out;
}

const ITEM = /^\s*(?:([-*+•])|(\d{1,4})[.)])\s+(.*)$/;
const starts = (line) => ITEM.test(line) || /^\s*>/.test(line) || /^#{1,6}\s/.test(line) || /^\s*(```|~~~)/.test(line);

function block(lines, n) {
  const first = lines[n].match(ITEM);
  if (first) {
    const list = el(first[1] ? "ul" : "ol", first[2] ? { start: Number(first[2]) } : {});
    let item = null;
    for (; n < lines.length && lines[n].trim(); n += 1) {
      const found = lines[n].match(ITEM);
      if (found && Boolean(found[1]) !== Boolean(first[1])) break;
      if (!found && starts(lines[n])) break;
      if (found) list.append((item = el("li", {}, ...inline(found[3]))));
      else item.append("\n", ...inline(lines[n].trim()));
    }
    return [list, n];
  }
  if (/^\s*>/.test(lines[n])) {
    const quote = [];
    for (; n < lines.length && /^\s*>/.test(lines[n]); n += 1) quote.push(lines[n].replace(/^\s*>\s?/, ""));
    return [el("blockquote", {}, ...markdown(quote.join("\n"))), n];
  }
  const from = n;
  for (n += 1; n < lines.length && lines[n].trim() && !starts(lines[n]); ) n += 1;
  return [el("p", {}, ...inline(lines.slice(from, n).join("\n"))), n];
}

function inline(text) {
  const out = [];
  for (let rest = text; rest; ) {
    const found = rest.match(INLINE);
    if (!found) {
      out.push(rest);
      break;
    }
    if (found.index) out.push(rest.slice(0, found.index));
    if (found[1]) out.push(el("code", {}, found[2]));
    else if (found[3]) out.push(el("strong", {}, ...inline(found[3])));
    else if (found[4]) out.push(el("em", {}, ...inline(found[4])));
    else out.push(el("a", { href: found[6], target: "_blank", rel: "noopener noreferrer" }, found[5]));
    rest = rest.slice(found.index + found[0].length);
  }
  return out;
}

// The conversation: messages, how they are sent, and how they survive a reload of the tab.

import { talkImages } from "./attachments.js";

const STORED = "vita.conversation";
const STORED_CHARACTERS = 4_000_000; // browsers give a tab about 5 million
const TEXT_LIMIT = 200_000; // characters of one stored answer
export const NO_ANSWER = "The model took this as not meant for it, and gave no answer.";

/**
 * A message:
 * - id, role "user" or "assistant", text
 * - media: of a user, [{kind "image" | "audio" | "video", name, url (a data: URL), format}]; frame: seen in a talk
 * - status: of an answer, "waiting" | "streaming" | "done" | "stopped" | "failed"
 * - error: what went wrong; facts: one line of timings and usage; heard: characters of a spoken answer that were heard
 */
export class Conversation {
  constructor() {
    this.messages = [];
    this.next = 1;
  }

  add(message) {
    const added = { id: this.next++, text: "", media: [], status: "done", ...message };
    this.messages.push(added);
    return added;
  }

  remove(message) {
    this.messages = this.messages.filter((other) => other !== message);
  }

  /** Remove a message and all that follow it; returns it. */
  cutAt(message) {
    const at = this.messages.indexOf(message);
    if (at >= 0) this.messages.length = at;
    return message;
  }

  clear() {
    this.messages = [];
    this.save();
  }

  /** The turns that the model is to know: a question whose answer failed is left out, unless it is the last one. */
  turns() {
    const failed = (message) => message?.role === "assistant" && message.status === "failed" && !message.text;
    return this.messages.filter((message, n) => !failed(message) && !failed(this.messages[n + 1]));
  }

  /** OpenAI's messages for a chat completion. */
  asChat(system) {
    const out = system ? [{ role: "system", content: system }] : [];
    for (const message of this.turns()) {
      const text = heardText(message);
      const parts = message.media.filter((medium) => medium.url).map(chatPart);
      if (text) parts.push({ type: "text", text });
      if (!parts.length) continue;
      out.push({ role: message.role, content: message.role === "user" ? parts : text });
    }
    return out;
  }

  /** Items that tell a realtime session what was said before. */
  async asItems() {
    const out = [];
    for (const message of this.turns()) {
      const text = heardText(message);
      const answer = text ? [{ type: "output_text", text }] : [];
      const content = message.role === "user" ? await userContent(text, message.media) : answer;
      if (content.length) out.push({ type: "message", role: message.role, content });
    }
    return out;
  }

  /** Keep the conversation in this tab. Media that take too much are left out, the oldest first. */
  save() {
    const kept = this.messages.map((message) => ({
      ...message,
      text: message.text.slice(0, TEXT_LIMIT),
      status: ["waiting", "streaming"].includes(message.status) ? "reloaded" : message.status,
      media: message.media.map((medium) => ({ ...medium })),
    }));
    let size = 0;
    for (const medium of kept.flatMap((message) => message.media).reverse()) {
      size += medium.url?.length ?? 0;
      if (size > STORED_CHARACTERS) medium.url = null;
    }
    if (stored(kept)) return;
    for (const medium of kept.flatMap((message) => message.media)) medium.url = null;
    if (!stored(kept)) stored(null); // the storage is full or switched off: a reload starts anew
  }

  /** The conversation of this tab before it was reloaded. */
  restore() {
    let kept = null;
    try {
      kept = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
    } catch {
      kept = [];
    }
    this.messages = Array.isArray(kept) ? kept : [];
    for (const message of this.messages) {
      if (message.status === "reloaded") {
        message.status = "stopped";
        message.error = "Stopped when the page was reloaded.";
      }
    }
    this.next = Math.max(0, ...this.messages.map((message) => message.id)) + 1;
  }
}

/** Keep messages in this tab, or forget them; returns whether that was possible. */
function stored(messages) {
  try {
    if (messages) sessionStorage.setItem(STORED, JSON.stringify(messages));
    else sessionStorage.removeItem(STORED);
    return true;
  } catch {
    return false;
  }
}

/** What was heard of an answer that was interrupted; the text of any other message. */
export function heardText(message) {
  return message.heard === undefined ? message.text : message.text.slice(0, message.heard);
}

function chatPart(medium) {
  if (medium.kind === "image") return { type: "image_url", image_url: { url: medium.url } };
  if (medium.kind === "video") return { type: "video_url", video_url: { url: medium.url } };
  const data = medium.url.slice(medium.url.indexOf(",") + 1);
  return { type: "input_audio", input_audio: { data, format: medium.format } };
}

/** The content of a user's item in a realtime session; media other than images are left out. */
export async function userContent(text, media) {
  const images = media.filter((medium) => medium.kind === "image" && medium.url);
  const content = (await talkImages(images)).map(imagePart);
  if (text) content.push({ type: "input_text", text });
  // The server takes an image alone for a frame of the camera, and the model sees the newest few of them only.
  else if (content.length === 1 && !images[0].frame) content.push({ type: "input_text", text: "Here is an image." });
  return content;
}

/** A realtime content part for an image. */
export const imagePart = (url) => ({ type: "input_image", image_url: url });

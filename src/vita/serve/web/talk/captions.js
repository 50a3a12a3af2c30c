// What both sides say, as messages of the conversation.

import { NO_ANSWER } from "../conversation.js";
import { factsOf } from "../facts.js";

export class Captions {
  constructor(conversation, view) {
    this.conversation = conversation;
    this.view = view;
    this.users = new Map(); // item id -> message
    this.answers = new Map(); // response id -> {message, item, sound}
    this.newest = null;
  }

  get hasText() {
    return Boolean(this.newest?.message.text);
  }

  changed() {
    this.view.sync(this.conversation.messages);
    this.conversation.save();
  }

  // The user.

  /** A turn was taken; its words follow. */
  heard(item, images, frame) {
    const media = frame ? [...images, { kind: "image", name: "Camera", url: frame, frame: true }] : images;
    const attached = images.length > 0;
    this.users.set(item, this.conversation.add({ role: "user", status: "waiting", spoken: true, media, attached }));
    this.changed();
  }

  words(item, text, complete) {
    const message = this.users.get(item);
    if (!message) return;
    message.text = complete ? text.trim() : message.text + text;
    if (!complete) return this.view.update(message);
    message.status = "done";
    this.users.delete(item);
    this.removeIfEmpty(message); // a cough, or somebody else was meant
    this.changed();
  }

  /** Attached images stay: the session has them. */
  removeIfEmpty(message) {
    if (!message.text && !message.attached) this.conversation.remove(message);
  }

  unwritten(item) {
    const message = this.users.get(item);
    if (!message) return;
    Object.assign(message, { status: "done", facts: "Speech that could not be written down" });
    this.users.delete(item);
    this.changed();
  }

  // The answer.

  begin(response) {
    const message = this.conversation.add({ role: "assistant", status: "waiting", spoken: true });
    this.newest = { message, item: null, sound: null };
    this.answers.set(response, this.newest);
    this.changed();
  }

  item(response, item) {
    const answer = this.answers.get(response);
    if (answer) answer.item = item;
  }

  answer(response, delta) {
    const answer = this.answers.get(response);
    if (!answer || answer.cut) return;
    answer.message.status = "streaming";
    answer.message.text += delta;
    this.view.update(answer.message);
  }

  /** Audio of the answer came; `since` is when the user stopped speaking. */
  sounds(response, since) {
    const answer = this.answers.get(response);
    if (answer && answer.sound === null && since !== undefined) answer.sound = (performance.now() - since) / 1000;
  }

  done(response, playing) {
    const answer = this.answers.get(response.id);
    if (!answer) return;
    const { message } = answer;
    message.facts = factsOf({ usage: response.usage, sound: answer.sound });
    if (!answer.cut) {
      const error = response.status_details?.error?.message;
      const stopped = response.status === "cancelled";
      const words = { failed: error ?? "The answer failed.", cancelled: "Interrupted.", incomplete: "The longest answer that the settings allow." };
      message.status = response.status === "failed" ? "failed" : stopped || response.status === "incomplete" ? "stopped" : "done";
      message.error = words[response.status];
      if (message.status === "done" && !message.text) Object.assign(message, { status: "stopped", error: NO_ANSWER });
    }
    if (!playing) this.finished();
    this.changed();
  }

  /** The loudspeaker has played all of it: nothing can be interrupted any more. */
  finished() {
    if (this.newest && !this.newest.cut) this.newest.item = null;
  }

  /** The answer that is spoken was interrupted; returns its item. */
  interrupted() {
    const answer = this.newest;
    if (!answer || answer.cut || (!answer.item && answer.message.status !== "waiting")) return null;
    answer.cut = true;
    Object.assign(answer.message, { status: "stopped", error: "Interrupted." });
    this.changed();
    return answer.item;
  }

  isCut(item) {
    return [...this.answers.values()].some((answer) => answer.item === item && answer.cut);
  }

  /** The server's word on what was heard of an item. */
  retrieved(item) {
    const answer = [...this.answers.values()].find((one) => one.item === item.id);
    if (!answer) return;
    const text = item.content?.map((part) => part.transcript ?? part.text ?? "").join("") ?? "";
    if (answer.message.text.startsWith(text)) answer.message.heard = text.length;
    this.changed();
  }

  /** The talk is over. */
  close() {
    for (const message of this.users.values()) {
      message.status = "done";
      this.removeIfEmpty(message);
    }
    for (const { message } of this.answers.values()) {
      if (["waiting", "streaming"].includes(message.status)) Object.assign(message, { status: "stopped", error: "The talk was ended." });
    }
    this.changed();
  }
}

// The conversation on the page: one list item a message, drawn once a frame while an answer streams.

import { $, el, icon, iconButton, notify } from "./dom.js";
import { markdown } from "./markdown.js";
import { heardText } from "./conversation.js";

const NEAR_END = 90; // pixels: closer to the end than this, the page follows the answer

export class View {
  /** actions: regenerate(message), edit(message), retry(message), askKey() */
  constructor(actions) {
    this.actions = actions;
    this.shown = new Map(); // message id -> its parts on the page
    this.dirty = new Set();
    this.spokenTo = new Map(); // message id -> characters that a screen reader was given
    this.follow = true;
    const scroller = $("scroller");
    scroller.addEventListener("scroll", () => {
      this.follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
      $("to-end").hidden = this.follow;
    });
    $("to-end").addEventListener("click", () => this.toEnd());
    const resized = new ResizeObserver(() => this.scroll()); // the window, the talk panel, images that have loaded
    resized.observe(scroller);
    resized.observe($("log"));
  }

  /** Show exactly these messages. */
  sync(messages) {
    const log = $("log");
    const ids = new Set(messages.map((message) => message.id));
    for (const [id, shown] of this.shown) {
      if (ids.has(id)) continue;
      shown.item.remove();
      this.shown.delete(id);
    }
    let before = null;
    this.newest = messages.at(-1);
    for (const message of messages) {
      if (!this.shown.has(message.id)) this.create(message);
      const { item } = this.shown.get(message.id);
      if ((before ? before.nextSibling : log.firstChild) !== item) log.insertBefore(item, before ? before.nextSibling : log.firstChild);
      before = item;
      this.draw(message);
    }
    $("welcome").hidden = messages.length > 0;
    document.body.classList.toggle("empty", messages.length === 0);
    this.scroll();
  }

  /** Draw a message again with the next frame. */
  update(message) {
    if (!this.dirty.size) {
      const draw = () => {
        for (const one of this.dirty) this.draw(one);
        this.dirty.clear();
        this.scroll();
      };
      if (document.hidden) setTimeout(draw, 200);
      else requestAnimationFrame(draw);
    }
    this.dirty.add(message);
  }

  toEnd() {
    this.follow = true;
    $("to-end").hidden = true;
    this.scroll();
  }

  scroll() {
    if (this.follow) $("scroller").scrollTop = $("scroller").scrollHeight;
  }

  create(message) {
    const user = message.role === "user";
    const shown = {
      media: el("div", { class: "media" }),
      text: el("div", { class: "text" }),
      error: el("div", { class: "error" }),
      facts: el("p", { class: "facts" }),
      tools: el("div", { class: "actions" }),
    };
    shown.item = el(
      "li", { class: `message ${message.role}${message.spoken ? " spoken" : ""}` },
      el("span", { class: "hidden" }, user ? "You: " : "VITA: "),
      shown.media, shown.text, shown.error,
      el("div", { class: "below" }, shown.facts, shown.tools),
    );
    this.shown.set(message.id, shown);
  }

  draw(message) {
    const shown = this.shown.get(message.id);
    if (!shown) return;
    const running = message.status === "waiting" || message.status === "streaming";
    shown.item.classList.toggle("running", running);
    shown.item.setAttribute("aria-busy", String(running));
    drawMedia(shown.media, message);
    drawText(shown.text, message);
    shown.text.hidden = !message.text && message.status !== "waiting";
    this.drawError(shown.error, message);
    shown.facts.textContent = message.facts ?? "";
    if (message.role === "assistant") this.speak(message, running);
    const state = `${message.status} ${Boolean(message.text)} ${message === this.newest}`;
    if (shown.state !== state) {
      shown.state = state;
      this.drawTools(message);
    }
  }

  drawError(box, message) {
    const newest = message === this.newest;
    const key = `${message.status} ${newest} ${message.error ?? ""}`;
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    box.replaceChildren();
    box.hidden = !message.error;
    if (!message.error) return;
    if (box.dataset.told !== message.error) $("spoken").textContent = box.dataset.told = message.error;
    box.classList.toggle("soft", message.status === "stopped");
    box.append(el("p", {}, message.error));
    if (message.status !== "failed") return;
    if (newest) {
      // Further up, it would delete what follows.
      const again = el("button", { type: "button", class: "link" }, "Try again");
      again.addEventListener("click", () => this.actions.retry(message));
      box.append(again);
    }
    if (message.code === "invalid_api_key") {
      const key = el("button", { type: "button", class: "link" }, "Enter the key");
      key.addEventListener("click", () => this.actions.askKey());
      box.append(key);
    }
  }

  drawTools(message) {
    const shown = this.shown.get(message.id);
    if (!shown) return;
    shown.tools.replaceChildren();
    if (message.status === "waiting" || message.status === "streaming") return;
    if (message.text) {
      shown.tools.append(iconButton("copy", "Copy", () => copy(heardText(message))));
    }
    if (message.role === "user" && !message.spoken) {
      shown.tools.append(iconButton("edit", "Edit and ask again", () => this.actions.edit(message)));
    }
    if (message.role === "assistant" && message === this.newest && !message.spoken) {
      shown.tools.append(iconButton("again", "Answer again", () => this.actions.regenerate(message)));
    }
  }

  /** Give a screen reader the sentences that are complete. */
  speak(message, running) {
    const from = this.spokenTo.get(message.id) ?? (running ? 0 : message.text.length);
    let to = message.text.length;
    if (running) {
      const found = [...message.text.slice(from).matchAll(/[.!?。！？]\s|\n/g)].at(-1);
      to = found ? from + found.index + 1 : from;
    }
    if (to > from) $("spoken").textContent = message.text.slice(from, to);
    this.spokenTo.set(message.id, to);
  }
}

function drawText(box, message) {
  if (message.status === "waiting" && !message.text) {
    if (!box.querySelector(".dots")) {
      const wait = message.role === "user" ? "Speech is being written down" : "The answer is on its way";
      box.replaceChildren(el("span", { class: "dots", role: "img", "aria-label": wait }, el("i"), el("i"), el("i")));
    }
    return;
  }
  const key = `${message.text.length} ${message.heard ?? ""}`;
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  if (message.role === "user") {
    box.replaceChildren(message.text);
  } else if (message.heard !== undefined && message.heard < message.text.length) {
    const rest = el("span", { class: "unheard", title: "Not spoken" }, message.text.slice(message.heard));
    box.replaceChildren(el("p", {}, heardText(message), rest));
  } else {
    box.replaceChildren(...markdown(message.text));
  }
}

function drawMedia(box, message) {
  if (box.childElementCount === message.media.length) return;
  box.replaceChildren(...message.media.map(mediumOf));
}

function mediumOf(medium) {
  if (!medium.url) {
    return el("span", { class: "file" }, icon("file"), `${medium.name} (not kept over the reload)`);
  }
  if (medium.kind === "image") {
    const image = el("img", { src: medium.url, alt: medium.name, loading: "lazy" });
    image.addEventListener("error", () => image.replaceWith(el("span", { class: "file" }, icon("file"), medium.name)));
    return image;
  }
  if (medium.kind === "video") return el("video", { src: medium.url, controls: true, "aria-label": medium.name });
  return el("audio", { src: medium.url, controls: true, "aria-label": medium.name });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notify("Copied.", 2);
  } catch {
    notify("The browser does not allow copying here; select the text instead.");
  }
}

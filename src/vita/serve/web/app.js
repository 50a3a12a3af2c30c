// The page: what the user does, and what happens then.

import { ApiError, getJson, getKey, streamChat } from "./api.js";
import { attachmentOf, tooLarge } from "./attachments.js";
import { takePicture } from "./camera.js";
import { Conversation, NO_ANSWER } from "./conversation.js";
import { $, el, icon, notify } from "./dom.js";
import { factsOf } from "./facts.js";
import { editSettings, loadSettings } from "./settings.js";
import { TalkPanel } from "./talk/panel.js";
import { View } from "./view.js";

const AGAIN_TEMPERATURE = 0.7; // an answer that is asked for again is to differ

const conversation = new Conversation();
let settings = loadSettings();
let attached = [];
let asking = null; // AbortController of the answer that streams
let leaving = false; // the page is being closed or reloaded

const view = new View({ regenerate, edit, retry: regenerate, askKey: () => openSettings("key") });
const panel = new TalkPanel(conversation, view, () => settings, { take: takeImages, giveBack });

// Questions and answers.

function send() {
  const text = $("question").value.trim();
  if (asking || (!text && !attached.length)) return;
  if (panel.talk?.live) {
    if (attached.some((medium) => medium.kind !== "image")) {
      notify("While you talk, only images can be sent. End the talk to ask about videos and audio files.");
      return;
    }
    panel.talk.say(text, attached);
    clearComposer();
    view.toEnd();
    return;
  }
  const large = tooLarge([...conversation.turns().flatMap((message) => message.media), ...attached]);
  if (large) return notify(large, 30);
  conversation.add({ role: "user", text, media: attached });
  clearComposer();
  answer();
}

function clearComposer() {
  $("question").value = "";
  attached = [];
  drawAttached();
  grow();
  notify("");
}

/** Ask for an answer to the conversation as it is. */
async function answer(temperature = settings.temperature) {
  const message = conversation.add({ role: "assistant", status: "waiting" });
  const body = {
    messages: conversation.asChat(settings.system),
    max_completion_tokens: settings.tokens,
    temperature,
    stream: true,
    stream_options: { include_usage: true },
  };
  asking = new AbortController();
  showAsking();
  view.sync(conversation.messages);
  view.toEnd();
  conversation.save();
  try {
    await receive(message, streamChat(body, asking.signal));
  } catch (error) {
    if (leaving) return; // what was kept says so
    if (error.name === "AbortError") {
      Object.assign(message, { status: "stopped", error: "Stopped." });
    } else {
      Object.assign(message, { status: "failed", error: error.message, code: error.code });
      if (!(error instanceof ApiError)) console.error(error);
    }
  }
  asking = null;
  showAsking();
  view.sync(conversation.messages);
  conversation.save();
}

async function receive(message, chunks) {
  const began = performance.now();
  let first = null;
  let details = {};
  let usage = null;
  let reason = null;
  for await (const chunk of chunks) {
    usage = chunk.usage ?? usage;
    details = chunk.vita ?? details;
    const choice = chunk.choices[0];
    reason = choice?.finish_reason ?? reason;
    if (!choice?.delta?.content) continue;
    first ??= (performance.now() - began) / 1000;
    message.status = "streaming";
    message.text += choice.delta.content;
    view.update(message);
  }
  message.status = "done";
  message.facts = factsOf({ usage, timings: details.timings, first, notes: details.notes });
  if (reason === "length") Object.assign(message, { status: "stopped", error: `Cut at ${settings.tokens} tokens; the settings allow more.` });
  if (!message.text) Object.assign(message, { status: "stopped", error: NO_ANSWER });
}

function stop() {
  asking?.abort();
}

/** Whether messages cannot be asked again now: the session of a talk would not know of it. */
function busy() {
  if (panel.talk) notify("End the talk first; then you can ask again or edit.");
  return asking !== null || panel.talk !== null;
}

function regenerate(message) {
  if (busy()) return;
  const failed = message.status === "failed";
  conversation.cutAt(message);
  answer(failed ? settings.temperature : Math.max(settings.temperature, AGAIN_TEMPERATURE));
}

function edit(message) {
  if (busy()) return;
  conversation.cutAt(message);
  $("question").value = message.text;
  attached = message.media.filter((medium) => medium.url);
  drawAttached();
  grow();
  view.sync(conversation.messages);
  conversation.save();
  $("question").focus();
}

function showAsking() {
  $("send").hidden = asking !== null;
  $("stop").hidden = asking === null;
  $("start").disabled = $("start-talk").disabled = asking !== null;
}

function startAnew() {
  stop();
  panel.end();
  conversation.clear();
  view.sync([]);
  clearComposer();
  $("question").focus();
}

// Attachments.

async function attach(files) {
  notify("");
  for (const file of files) {
    try {
      attached.push(await attachmentOf(file));
    } catch (error) {
      notify(error.message);
    }
    drawAttached();
  }
  $("question").focus();
}

async function attachPicture() {
  const picture = await takePicture(settings.camera);
  if (picture) attached.push(picture);
  drawAttached();
  $("question").focus();
}

/** The attached images, for what is said in a talk; they leave the composer. */
function takeImages() {
  const images = attached.filter((medium) => medium.kind === "image");
  if (images.length) attached = attached.filter((medium) => medium.kind !== "image");
  drawAttached();
  return images;
}

/** Images that were taken, and of which nothing was asked after all. */
function giveBack(images) {
  attached.unshift(...images);
  drawAttached();
}

function drawAttached() {
  const items = attached.map((medium, n) => {
    const remove = el("button", { type: "button", class: "icon tiny", "aria-label": `Remove ${medium.name}` }, icon("close"));
    remove.addEventListener("click", () => {
      attached.splice(n, 1);
      drawAttached();
      $("question").focus();
    });
    const shown = medium.kind === "image" ? el("img", { src: medium.url, alt: "" }) : icon("file");
    return el("li", {}, shown, el("span", { title: medium.name }, medium.name), remove);
  });
  $("attached").replaceChildren(...items);
}

/** Files that are dropped anywhere on the page. */
function listenForDrops() {
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (shown) => ($("drop").hidden = !shown);
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    show(true);
  });
  addEventListener("dragleave", (event) => {
    if (!hasFiles(event)) return;
    depth = Math.max(0, depth - 1);
    if (!depth) show(false);
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    attach(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    attach(event.clipboardData.files);
  });
}

// Settings and the server.

async function openSettings(focus) {
  const key = getKey();
  const before = panel.talk ? JSON.stringify(settings) : null;
  settings = await editSettings(settings, focus);
  if (getKey() !== key) greet();
  if (before && before !== JSON.stringify(settings)) notify("The settings of a talk take effect with the next one.");
}

/** Ask the server what it has loaded; ask the user for the key if it wants one. */
async function greet() {
  try {
    $("model").textContent = (await getJson("v1/models")).data[0].id;
  } catch (error) {
    $("model").textContent = "";
    notify(error.message, 30);
    if (error.status === 401 && !$("settings").open) openSettings("key");
  }
}

/** The question's field grows with its text. */
function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, innerHeight * 0.3)}px`;
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("question").addEventListener("input", grow);
  $("question").addEventListener("keydown", (event) => {
    // 229: in Safari, the Enter that confirms an input method's word comes after the composition has ended.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (asking) stop();
    else panel.interrupt();
  });
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", startAnew);
  $("open-settings").addEventListener("click", () => openSettings());
  $("files").addEventListener("change", async ({ target }) => {
    await attach([...target.files]);
    target.value = "";
  });
  for (const id of ["attach", "start-image"]) $(id).addEventListener("click", () => $("files").click());
  for (const id of ["camera", "start-camera"]) $(id).addEventListener("click", attachPicture);
  for (const id of ["start", "start-talk"]) $(id).addEventListener("click", () => panel.start());
  addEventListener("pagehide", () => {
    conversation.save();
    leaving = true;
  });
  addEventListener("pageshow", (event) => event.persisted && location.reload()); // its connections are gone
  listenForDrops();
}

listen();
conversation.restore();
view.sync(conversation.messages);
greet();

// Settings of this browser, and their dialog.

import { $, el } from "./dom.js";
import { getJson, getKey, setKey } from "./api.js";
import { canChooseSpeaker, listDevices } from "./devices.js";

const STORED = "vita.settings";
const DEFAULTS = {
  system: "", tokens: 512, temperature: 0, microphone: "", camera: "", speaker: "", voice: "", push: false, textOnly: false,
};
const SELECTS = [["microphone", "microphone", "audioinput"], ["camera", "talk-video", "videoinput"], ["speaker", "speaker", "audiooutput"]];

/** The settings as they were saved. */
export function loadSettings() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(STORED) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

function store(settings) {
  try {
    localStorage.setItem(STORED, JSON.stringify(settings));
  } catch {
    // The storage is switched off: the settings last until the page is closed.
  }
}

/** Show the dialog; resolves to the settings, changed or not. */
export async function editSettings(settings, focus) {
  const dialog = $("settings");
  $("key").value = getKey();
  $("system").value = settings.system;
  $("tokens").value = settings.tokens;
  $("temperature").value = settings.temperature;
  $("push").checked = settings.push;
  $("text-only").checked = settings.textOnly;
  $("speakers").hidden = !canChooseSpeaker();
  dialog.returnValue = "";
  $("settings-close").onclick = () => dialog.close();
  dialog.showModal();
  if (focus) $(focus).focus();
  for (const [name, id, kind] of SELECTS) listDevices($(id), kind, settings[name]);
  listVoices(settings.voice);
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "save") return settings;
  setKey($("key").value.trim());
  const changed = {
    system: $("system").value.trim(),
    tokens: number("tokens", 1, 32768, DEFAULTS.tokens),
    temperature: number("temperature", 0, 2, DEFAULTS.temperature),
    push: $("push").checked,
    textOnly: $("text-only").checked,
    voice: $("voices").hidden ? settings.voice : $("voice").value,
  };
  for (const [name, id] of SELECTS) changed[name] = $(id).value;
  store(changed);
  return changed;
}

function number(id, low, high, otherwise) {
  const value = $(id).valueAsNumber;
  return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : otherwise;
}

async function listVoices(chosen) {
  let voices = [];
  try {
    voices = (await getJson("v1/audio/voices")).voices ?? [];
  } catch {
    // A server without speech, or without the key: there is nothing to choose.
  }
  $("voices").hidden = voices.length === 0;
  const options = voices.map((voice) => el("option", { value: voice.id }, voice.name ?? voice.id));
  $("voice").replaceChildren(el("option", { value: "" }, "Automatic"), ...options);
  $("voice").value = voices.some((voice) => voice.id === chosen) ? chosen : "";
}

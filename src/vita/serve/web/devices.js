// Camera, microphone and loudspeaker: opening them, listing them, and what to say if the browser refuses.

import { el } from "./dom.js";

/** Open a camera or a microphone. Throws an Error whose message says what to do. */
export async function openDevice(kind, deviceId) {
  const what = kind === "video" ? "camera" : "microphone";
  if (!navigator.mediaDevices?.getUserMedia) throw new Error(insecure(what));
  const wish = deviceId ? { deviceId: { ideal: deviceId } } : {};
  // Noise suppression takes the first syllable down to a quarter of its level (measured in Chromium), so it is off.
  const constraints =
    kind === "video"
      ? { video: { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: deviceId ? undefined : "environment", ...wish } }
      : { audio: { echoCancellation: true, noiseSuppression: false, autoGainControl: true, channelCount: 1, ...wish } };
  try {
    return await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    throw new Error(refusal(error, what), { cause: error });
  }
}

function insecure(what) {
  const local = `http://localhost:${location.port || "80"}`;
  return (
    `Browsers open the ${what} only for pages from this computer or over https. On the computer that runs VITA, open ` +
    `${local}; from another one, start the server with “vita serve --host 0.0.0.0 --self-signed” and use https.`
  );
}

function refusal(error, what) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return `The browser does not allow the ${what} here. Allow it for this page (the icon beside the address), then try again.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${what} was found. Connect one, or choose another in the settings.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${what} cannot be used; another program may have opened it.`;
    default:
      return `The ${what} cannot be opened (${error.message || error.name}).`;
  }
}

/** Stop a stream, so that its light goes out. */
export function closeStream(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/** Whether the output device can be chosen in this browser. */
export const canChooseSpeaker = () => "setSinkId" in (globalThis.AudioContext?.prototype ?? {});

/** Fill a select with the devices of a kind. Names are known only after one was opened. */
export async function listDevices(select, kind, chosen) {
  select.replaceChildren(el("option", { value: chosen }, "Automatic")); // the choice is kept if it is saved meanwhile
  const all = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  const found = all.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default");
  const options = found.map((device, n) => el("option", { value: device.deviceId }, device.label || `Device ${n + 1}`));
  // It may be unplugged, or its id not be told yet: saving another setting must not forget it.
  const missing = chosen && !found.some((device) => device.deviceId === chosen);
  if (missing) options.push(el("option", { value: chosen }, "Chosen before (not found)"));
  select.replaceChildren(el("option", { value: "" }, "Automatic"), ...options);
  select.value = chosen;
}

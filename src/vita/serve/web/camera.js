// A picture from the camera, taken in a dialog.

import { $ } from "./dom.js";
import { closeStream, openDevice } from "./devices.js";
import { jpegOf } from "./attachments.js";

const PICTURE_SIDE = 1344; // pixels

/** A frame of a video element as a JPEG data: URL; null before its first frame. */
export function frameOf(video, side) {
  if (!video.videoWidth) return null;
  return jpegOf(video, video.videoWidth, video.videoHeight, side, 0.85);
}

/** Show the camera; resolves to an attachment, or to null if the dialog is closed. */
export async function takePicture(deviceId) {
  const dialog = $("shot");
  const video = $("finder");
  const take = $("shot-take");
  $("shot-error").textContent = "";
  take.disabled = true;
  video.hidden = false;
  dialog.showModal();
  const closed = new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(null), { once: true });
  });
  const taken = new Promise((resolve) => {
    take.onclick = () => resolve(frameOf(video, PICTURE_SIDE));
    $("shot-close").onclick = () => dialog.close();
  });
  let stream = null;
  let done = false;
  const opening = openDevice("video", deviceId).then(
    async (opened) => {
      stream = opened;
      if (done) return closeStream(opened);
      video.srcObject = opened;
      video.onloadeddata = () => {
        take.disabled = false;
        take.focus();
      };
      return video.play().catch(() => {}); // the dialog was closed meanwhile
    },
    (error) => {
      video.hidden = true;
      $("shot-error").textContent = error.message;
    },
  );
  const url = await Promise.race([closed, taken]);
  done = true;
  closeStream(stream);
  void opening;
  video.srcObject = null;
  if (dialog.open) dialog.close();
  const time = new Date().toTimeString().slice(0, 8);
  return url ? { kind: "image", name: `Picture of ${time}`, url } : null;
}

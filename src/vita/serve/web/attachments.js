// Files as attachments: which kind, data: URLs, large images made smaller.

const SUFFIXES = {
  image: ["png", "jpg", "jpeg", "gif", "webp", "avif", "bmp", "tif", "tiff", "heic", "heif"],
  video: ["mp4", "mov", "webm", "mkv", "avi", "m4v", "mpg", "mpeg", "ogv"],
  audio: ["wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "weba"],
};
// Of input_audio; suffixes and MIME subtypes.
const FORMATS = {
  wav: "wav", "x-wav": "wav", wave: "wav", mp3: "mp3", mpeg: "mp3", flac: "flac", "x-flac": "flac", ogg: "ogg",
  oga: "ogg", opus: "opus", m4a: "m4a", "x-m4a": "m4a", mp4: "mp4", aac: "aac", webm: "webm", weba: "webm",
};
const MAX_BYTES = 45 << 20; // base64 adds a third, and the server reads 64 MiB
const PLAIN_BYTES = 4 << 20; // an image up to here is sent as it is
const MAX_SIDE = 2688; // pixels; six tiles of 448
const JPEG_QUALITY = 0.92;
const TALK_PLAIN = 512 << 10; // characters; an image of a talk up to here is sent as it is
const TALK_SIDE = 1344; // pixels; three tiles of 448
const TALK_CHARACTERS = 16 << 20; // of the images in one event; the server closes a connection for 24 MiB
const ASKED_CHARACTERS = 61 << 20; // of all files that a question is sent with: one of MAX_BYTES fits

/** An attachment of a file. Throws an Error whose message is a sentence. */
export async function attachmentOf(file) {
  const name = file.name || "pasted";
  const kind = kindOf(file);
  if (!kind) throw new Error(`“${name}” is not an image, a video or audio.`);
  if (file.size === 0) throw new Error(`“${name}” is empty.`);
  if (kind === "image" && file.size > PLAIN_BYTES) {
    const smaller = await shrunk(file);
    if (smaller) return { kind, name, url: smaller };
  }
  if (file.size > MAX_BYTES) throw new Error(`“${name}” is too large: ${MAX_BYTES >> 20} MB at most.`);
  return { kind, name, url: await dataUrl(file), format: kind === "audio" ? formatOf(file) : undefined };
}

/** "image", "video", "audio", or null. */
export function kindOf(file) {
  const head = file.type.split("/")[0];
  if (head in SUFFIXES) return head;
  const suffix = suffixOf(file);
  return Object.keys(SUFFIXES).find((kind) => SUFFIXES[kind].includes(suffix)) ?? null;
}

function suffixOf(file) {
  return (file.name ?? "").toLowerCase().split(".").pop();
}

function formatOf(file) {
  const subtype = file.type.split("/")[1]?.split(";")[0];
  return FORMATS[suffixOf(file)] ?? FORMATS[subtype] ?? "wav";
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`“${file.name}” cannot be read.`));
    reader.readAsDataURL(file);
  });
}

/** Why these media cannot be sent in one question; null if they can. */
export function tooLarge(media) {
  const characters = media.reduce((sum, medium) => sum + (medium.url?.length ?? 0), 0);
  if (characters <= ASKED_CHARACTERS) return null;
  const size = Math.round((characters * 3) / 4 / (1 << 20));
  return (
    `The files of this question and of the conversation are ${size} MB together; ${MAX_BYTES >> 20} MB can be sent. ` +
    "Remove some, or start a new conversation."
  );
}

const smaller = new WeakMap(); // image -> its data: URL for a talk; each talk is told the conversation anew

/** The data: URLs of images for one event of a talk: large ones made smaller, what is still too much left out. */
export async function talkImages(images) {
  const urls = [];
  let left = TALK_CHARACTERS;
  for (const image of images) {
    if (!smaller.has(image)) smaller.set(image, await smallerUrl(image.url));
    const url = smaller.get(image);
    if (url.length > left) continue;
    left -= url.length;
    urls.push(url);
  }
  return urls;
}

async function smallerUrl(url) {
  if (url.length <= TALK_PLAIN) return url;
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
    return jpegOf(image, image.naturalWidth, image.naturalHeight, TALK_SIDE);
  } catch {
    return url; // a kind of image that the browser cannot show
  }
}

/** A JPEG of a large image; null if the browser cannot decode it. */
async function shrunk(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
  const url = jpegOf(bitmap, bitmap.width, bitmap.height, MAX_SIDE);
  bitmap.close();
  return url;
}

/** A JPEG as a data: URL of anything that a canvas can draw, no side longer than `side` pixels. */
export function jpegOf(source, width, height, side, quality = JPEG_QUALITY) {
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}

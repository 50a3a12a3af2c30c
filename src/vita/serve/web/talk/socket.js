// The WebSocket of a realtime session: opening, events, the reason of its end.

import { ApiError, getJson, socketProtocols } from "../api.js";

const OPEN_MS = 15_000;
const MOST_WAITING = 512 << 10; // bytes that may wait to be sent: 8 s of speech
const STUCK_MS = 8_000; // without progress
const LARGE = 128 << 10; // characters: an event with images, which may take its time

export class RealtimeSocket {
  /** on: event(event) of the server; closed(reason) if the connection breaks. */
  constructor(on) {
    this.on = on;
    this.open = this.ready = false;
    this.least = this.leastAt = 0; // bytes that waited, the fewest so far, and when
  }

  /** Connect and configure; resolves to the effective session. Throws an Error that says what is wrong. */
  async connect(session) {
    const protocols = await socketProtocols();
    if (this.left) throw new Error("The talk was ended.");
    const url = new URL("v1/realtime", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url, protocols);
    try {
      return await this.configured(session);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  configured(session) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("The server does not answer. Try again.")), OPEN_MS);
      this.socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "session.created") {
          this.open = true;
          this.send({ type: "session.update", session });
        } else if (event.type === "session.updated") {
          clearTimeout(timer);
          this.ready = true;
          this.socket.onmessage = (message) => this.on.event(JSON.parse(message.data));
          resolve(event.session);
        } else if (event.type === "error") {
          clearTimeout(timer);
          reject(new Error(event.error.message));
        }
      };
      this.socket.onclose = (event) => {
        clearTimeout(timer);
        this.open = false;
        if (this.left) return;
        if (this.ready) this.on.closed(event.reason);
        else whyRefused(event).then(reject);
      };
    });
  }

  send(event) {
    if (!this.open || this.socket.readyState !== WebSocket.OPEN) return;
    const text = JSON.stringify(event);
    this.socket.send(text);
    if (text.length > LARGE) this.note(this.socket.bufferedAmount);
  }

  note(waiting) {
    this.least = waiting;
    this.leastAt = performance.now();
  }

  /** Whether the line is dead or too slow for speech: much waits to be sent, and it has not become less for a while. */
  isStuck() {
    const waiting = this.socket.bufferedAmount;
    if (waiting === 0 || waiting < this.least) this.note(waiting);
    return waiting > MOST_WAITING && performance.now() - this.leastAt >= STUCK_MS;
  }

  close() {
    this.left = true;
    this.open = false;
    this.socket?.close();
  }
}

/** A browser does not say why a WebSocket was refused; another request often does. */
async function whyRefused(event) {
  try {
    await getJson("v1/models");
  } catch (error) {
    if (error instanceof ApiError) return error;
  }
  const reason = event.reason ? `: ${event.reason}` : "";
  return new Error(`The server did not open a voice connection${reason}. It may have no speech parts installed.`);
}

/** Base64 of PCM16, little-endian. */
export function toBase64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let text = "";
  for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
  return btoa(text);
}

/** PCM16 of base64. */
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

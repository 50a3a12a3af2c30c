// Audio worklets: "capture" gives PCM16 at 24 kHz with its level, "player" plays queued audio.

import { Resampler } from "./resample.js";

const RATE = 24000;
const PIECE = 960; // samples that are sent at a time: 40 ms
const REPORT = 0.05; // seconds between two reports of the player
const FIRST_HOLD = 0.12; // seconds that are collected before audio starts
const MOST_HOLD = 0.6;
const CHUNK = 128; // samples that are resampled at a time: a delta takes longer than one call of process() may

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
  }

  process(inputs) {
    const channel = inputs[0]?.[0];
    if (!channel) return true;
    for (const value of this.resampler.feed(channel)) {
      this.piece[this.filled++] = value;
      if (this.filled === PIECE) this.send();
    }
    return true;
  }

  send() {
    const pcm = new Int16Array(PIECE);
    let sum = 0;
    for (let n = 0; n < PIECE; n++) {
      const value = Math.max(-1, Math.min(1, this.piece[n]));
      pcm[n] = Math.round(value * 32767);
      sum += value * value;
    }
    this.filled = 0;
    this.port.postMessage({ pcm, level: Math.sqrt(sum / PIECE) }, [pcm.buffer]);
  }
}

// The jitter buffer: playback starts when `hold` seconds are queued or the answer is complete. After a gap more is held.
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.hold = FIRST_HOLD;
    this.reported = 0;
    this.reset();
    this.port.onmessage = ({ data }) => this.take(data);
  }

  reset() {
    this.queue = []; // {item, raw}: chunks as they came, at RATE
    this.queued = 0; // samples in them
    this.current = null; // {item, samples}: the chunk that is played, at the context's rate
    this.offset = 0; // into it
    this.played = {}; // item -> samples
    this.running = this.complete = false;
    this.resampler = new Resampler(RATE, sampleRate);
  }

  take(data) {
    if (data.type === "audio") {
      const { item, samples } = data;
      for (let at = 0; at < samples.length; at += CHUNK)
        this.queue.push({ item, raw: samples.subarray(at, at + CHUNK) });
      this.queued += samples.length;
      this.complete = false;
    } else if (data.type === "complete") {
      this.complete = true;
    } else {
      this.port.postMessage({ type: "flushed", id: data.id, played: this.milliseconds() });
      this.reset();
    }
  }

  milliseconds() {
    return Object.fromEntries(Object.entries(this.played).map(([item, n]) => [item, Math.round((n / sampleRate) * 1000)]));
  }

  process(_, outputs) {
    const out = outputs[0][0];
    if (!this.running && this.queued > (this.complete ? 0 : this.hold * RATE)) this.running = true;
    let n = 0;
    while (this.running && n < out.length && this.fill()) {
      const { item, samples } = this.current;
      const count = Math.min(out.length - n, samples.length - this.offset);
      out.set(samples.subarray(this.offset, this.offset + count), n);
      n += count;
      this.offset += count;
      this.played[item] = (this.played[item] ?? 0) + count;
    }
    if (this.running && !this.fill()) {
      this.running = false;
      if (!this.complete) this.hold = Math.min(MOST_HOLD, this.hold * 1.5);
    }
    for (const other of outputs[0].slice(1)) other.set(out);
    this.report(out);
    return true;
  }

  /** Whether `current` holds a sample to be played, after the next chunk was resampled if need be. */
  fill() {
    while (!this.current || this.offset === this.current.samples.length) {
      if (!this.queue.length) return false;
      const { item, raw } = this.queue.shift();
      this.queued -= raw.length;
      this.current = { item, samples: this.resampler.feed(raw) }; // may be empty: its end waits for the next chunk
      this.offset = 0;
    }
    return true;
  }

  report(out) {
    this.sum = (this.sum ?? 0) + out.reduce((sum, value) => sum + value * value, 0);
    this.count = (this.count ?? 0) + out.length;
    if (currentTime - this.reported < REPORT) return;
    this.reported = currentTime;
    const level = Math.sqrt(this.sum / this.count);
    this.sum = this.count = 0;
    this.port.postMessage({ type: "state", playing: this.running, waiting: this.queued > 0, level, played: this.milliseconds() });
  }
}

registerProcessor("capture", Capture);
registerProcessor("player", Player);

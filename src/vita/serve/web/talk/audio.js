// Microphone and loudspeaker of a talk: one audio context, so that the browser cancels the echo.

import { closeStream, openDevice } from "../devices.js";

const DUCKED = 0.15; // of the full volume
const FADE = 0.03; // seconds

export class TalkAudio {
  /**
   * on: piece(pcm, level) of the microphone; state({playing, waiting, level, played}) of the loudspeaker; lost() if the
   * microphone is gone; outage("paused" | "muted" | null) if the browser has paused the sound, or muted the microphone.
   */
  constructor(on) {
    this.on = on;
    this.flushes = new Map();
    this.flushed = 0;
  }

  /** Open the microphone and start the worklets. Throws an Error that says what to do. */
  async open(microphone, speaker) {
    this.stream = await openDevice("audio", microphone);
    this.endIfClosed(); // while the browser asked
    this.context = new AudioContext({ latencyHint: "interactive" });
    if (speaker && this.context.setSinkId) await this.context.setSinkId(speaker).catch(() => {}); // it was unplugged
    await this.context.audioWorklet.addModule(new URL("worklets.js", import.meta.url));
    await this.context.resume();
    this.endIfClosed();
    const source = this.context.createMediaStreamSource(this.stream);
    const capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    capture.port.onmessage = ({ data }) => this.on.piece(data.pcm, data.level);
    source.connect(capture);
    this.player = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [2] });
    this.player.port.onmessage = ({ data }) => this.heard(data);
    this.gain = this.context.createGain();
    this.player.connect(this.gain).connect(this.context.destination);
    [this.track] = this.stream.getAudioTracks();
    this.track.addEventListener("ended", () => this.on.lost());
    for (const name of ["mute", "unmute"]) this.track.addEventListener(name, () => this.watch());
    this.context.addEventListener("statechange", () => this.watch());
    this.watch();
  }

  /** A call or another program may take the sound away: go on where the browser lets the page, and tell it. */
  watch() {
    if (this.closed) return;
    const paused = this.context.state !== "running";
    if (paused) this.resume();
    this.on.outage(paused ? "paused" : this.track.muted ? "muted" : null);
  }

  resume() {
    this.context?.resume().catch(() => {}); // it is closed, or the browser wants a click first
  }

  heard(data) {
    if (data.type === "state") {
      this.on.state(data);
    } else {
      const late = (this.context.outputLatency || 0) * 1000; // of what was played, this much was not heard yet
      const heard = Object.entries(data.played).map(([item, ms]) => [item, Math.max(0, Math.round(ms - late))]);
      this.flushes.get(data.id)?.(Object.fromEntries(heard));
      this.flushes.delete(data.id);
    }
  }

  /** Queue PCM16 of an item. */
  play(item, pcm) {
    const samples = new Float32Array(pcm.length);
    for (let n = 0; n < pcm.length; n++) samples[n] = pcm[n] / 32768;
    this.player.port.postMessage({ type: "audio", item, samples }, [samples.buffer]);
  }

  /** All audio of the answer was queued. */
  complete() {
    this.player.port.postMessage({ type: "complete" });
  }

  /** Stop playback; resolves to the milliseconds that were heard of each item. */
  flush() {
    const id = ++this.flushed;
    this.player.port.postMessage({ type: "flush", id });
    this.duck(false);
    return new Promise((resolve) => this.flushes.set(id, resolve));
  }

  /** Lower or restore the volume. */
  duck(low) {
    const now = this.context.currentTime;
    this.gain.gain.cancelScheduledValues(now);
    this.gain.gain.setTargetAtTime(low ? DUCKED : 1, now, FADE);
  }

  mute(muted) {
    for (const track of this.stream.getAudioTracks()) track.enabled = !muted;
  }

  close() {
    this.closed = true;
    closeStream(this.stream);
    this.context?.close().catch(() => {}); // it is closed already
  }

  /** Close what was opened after `close` was called. */
  endIfClosed() {
    if (!this.closed) return;
    this.close();
    throw new Error("The talk was ended.");
  }
}

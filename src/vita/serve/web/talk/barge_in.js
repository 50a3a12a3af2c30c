// Speech over an answer: lower the volume at once, stop once it has lasted, play on after an "mm-hm". No I/O.

const STOP_MS = 500; // of speech that stop the answer
const EDGES_MS = 100; // by which the server's times of speech are too long at most: whole frames, and its fading out
const ONSET_MS = 160; // of speech before the server reports it
const QUIET_MS = 300; // of silence after which the volume is restored
const QUIETEST = 0.008; // level: below it is never speech
const OVER_FLOOR = 3; // times the background's level is speech

export class BargeIn {
  constructor() {
    this.floor = QUIETEST / OVER_FLOOR;
    this.reset();
  }

  reset() {
    this.speaking = this.ducked = this.stopped = false;
    this.voiced = this.quiet = 0;
  }

  /** The server heard speech begin. Returns what to do: "duck" while an answer plays, else null. */
  started(playing) {
    this.reset();
    this.speaking = true;
    this.voiced = ONSET_MS;
    this.ducked = playing;
    return playing ? "duck" : null;
  }

  /** One piece of the microphone. Returns "duck", "restore", "stop" or null. */
  piece(level, ms, playing) {
    const voiced = level > Math.max(QUIETEST, this.floor * OVER_FLOOR);
    // The background's level falls quickly and rises slowly.
    this.floor += (level - this.floor) * (level < this.floor ? 0.2 : 0.003);
    if (!this.speaking || this.stopped) return null;
    this.voiced += voiced ? ms : 0;
    this.quiet = voiced ? 0 : this.quiet + ms;
    if (!playing) return null;
    if (this.voiced >= STOP_MS) return this.stop();
    const ducked = this.quiet < QUIET_MS;
    if (ducked === this.ducked) return null;
    this.ducked = ducked;
    return ducked ? "duck" : "restore";
  }

  /** The server heard speech end after `ms` of it. Returns "stop", "restore" or null. */
  ended(ms, playing) {
    const long = ms >= STOP_MS + EDGES_MS && playing && !this.stopped;
    const restore = this.ducked && !this.stopped;
    this.reset();
    return long ? "stop" : restore ? "restore" : null;
  }

  stop() {
    this.stopped = true;
    this.ducked = false;
    return "stop";
  }
}

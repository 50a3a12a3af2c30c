// Streamed resampling by windowed sinc; used in the audio worklets.

const HALF = 16; // zero crossings on each side

export class Resampler {
  constructor(from, to) {
    this.step = from / to; // input samples per output sample
    this.cutoff = Math.min(1, to / from) * 0.95; // of the input's Nyquist frequency
    this.reach = from === to ? 0 : Math.ceil(HALF / this.cutoff);
    this.held = new Float32Array(this.reach); // silence before the first sample
    this.at = this.reach; // of the next output, in samples of `held`
  }

  /** The output that is complete, for one more block of input. */
  feed(block) {
    if (this.step === 1) return block;
    const input = new Float32Array(this.held.length + block.length);
    input.set(this.held);
    input.set(block, this.held.length);
    const last = input.length - this.reach - 1;
    const out = new Float32Array(Math.max(0, Math.floor((last - this.at) / this.step) + 1));
    for (let n = 0; n < out.length; n++, this.at += this.step) out[n] = this.sample(input, this.at);
    const drop = Math.max(0, Math.min(Math.floor(this.at) - this.reach, input.length));
    this.held = input.slice(drop);
    this.at -= drop;
    return out;
  }

  sample(input, at) {
    const first = Math.max(0, Math.ceil(at - this.reach));
    const end = Math.min(input.length - 1, Math.floor(at + this.reach));
    let sum = 0;
    for (let k = first; k <= end; k++) {
      const x = at - k;
      const phase = Math.PI * x * this.cutoff;
      const sinc = Math.abs(phase) < 1e-9 ? 1 : Math.sin(phase) / phase;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / (this.reach + 1));
      sum += input[k] * sinc * window * this.cutoff;
    }
    return sum;
  }
}

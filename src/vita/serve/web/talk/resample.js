// Streamed resampling by windowed sinc; used in the audio worklets.

const HALF = 16; // zero crossings on each side
const MOST_PHASES = 1024; // that are kept; rates of unusual devices have more, and their coefficients are computed anew
const filters = new Map(); // "from to" -> Filter: a new resampler, as after each interruption, computes nothing again

/** The coefficients of a pair of rates, one row for each position that an output can have between two input samples. */
class Filter {
  constructor(from, to) {
    const divisor = greatestDivisor(from, to);
    this.step = from / divisor; // input samples per output sample, in units of 1 / phases
    this.phases = to / divisor;
    this.cutoff = Math.min(1, to / from) * 0.95; // of the input's Nyquist frequency
    this.reach = from === to ? 0 : Math.ceil(HALF / this.cutoff);
    this.rows = [];
  }

  /** Factors of the input samples from -reach to +reach around the output. */
  row(phase) {
    const kept = this.rows[phase];
    if (kept) return kept;
    const row = new Float64Array(2 * this.reach + 1);
    for (let n = 0; n < row.length; n++) {
      const x = phase / this.phases + this.reach - n;
      if (x > this.reach) continue; // no sample so far away counts
      const angle = Math.PI * x * this.cutoff;
      const sinc = Math.abs(angle) < 1e-9 ? 1 : Math.sin(angle) / angle;
      row[n] = sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / (this.reach + 1))) * this.cutoff;
    }
    if (this.phases <= MOST_PHASES) this.rows[phase] = row;
    return row;
  }
}

function filterOf(from, to) {
  const key = `${from} ${to}`;
  if (!filters.has(key)) filters.set(key, new Filter(from, to));
  return filters.get(key);
}

function greatestDivisor(a, b) {
  return b ? greatestDivisor(b, a % b) : a;
}

export class Resampler {
  constructor(from, to) {
    this.filter = filterOf(Math.round(from), Math.round(to));
    this.held = new Float32Array(this.filter.reach); // silence before the first sample
    this.at = this.filter.reach; // of the next output, in samples of `held`; `phase` is the fraction
    this.phase = 0;
  }

  /** The output that is complete, for one more block of input. */
  feed(block) {
    const { step, phases, reach } = this.filter;
    if (step === phases) return block;
    const input = new Float32Array(this.held.length + block.length);
    input.set(this.held);
    input.set(block, this.held.length);
    const last = input.length - reach - 1;
    const out = new Float32Array(Math.max(0, Math.floor(((last - this.at) * phases - this.phase) / step) + 1));
    for (let n = 0; n < out.length; n++) {
      out[n] = dot(input, this.at - reach, this.filter.row(this.phase));
      this.phase += step;
      this.at += Math.floor(this.phase / phases);
      this.phase %= phases;
    }
    const drop = Math.max(0, Math.min(this.at - reach, input.length));
    this.held = input.slice(drop);
    this.at -= drop;
    return out;
  }
}

function dot(input, first, row) {
  let sum = 0;
  for (let n = 0; n < row.length; n++) sum += input[first + n] * row[n];
  return sum;
}

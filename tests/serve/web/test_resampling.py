"""The worklets' resampling in Chromium: by the formula, the same in any cut, a chunk at a time for playback."""

from __future__ import annotations

import pytest

from tests.serve.web.stub import Stub
from tests.serve.web.test_talk import JS

pytestmark = pytest.mark.slow  # a browser

# The formula, sample by sample, from silence on both sides.
FORMULA = """
  const formula = (from, to, input, count) => {
    const cutoff = Math.min(1, to / from) * 0.95, reach = Math.ceil(16 / cutoff);
    return Float32Array.from({ length: count }, (_, n) => {
      let sum = 0;
      for (let k = Math.ceil(n * from / to - reach - 1e-9); k <= n * from / to + reach; k++) {
        const x = n * from / to - k, angle = Math.PI * x * cutoff;
        const sinc = Math.abs(angle) < 1e-9 ? 1 : Math.sin(angle) / angle;
        sum += (input[k] ?? 0) * sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / (reach + 1))) * cutoff;
      }
      return sum;
    });
  };
  const signal = (length) => Float32Array.from({ length }, (_, n) => 0.7 * Math.sin(n * 0.3) + 0.3 * Math.sin(n * n * 1e-4));
  const furthest = (a, b) => a.reduce((most, value, n) => Math.max(most, Math.abs(value - b[n])), 0);
"""  # noqa: E501


def test_tables_of_coefficients_change_nothing_and_no_cut_does(stub: Stub) -> None:
    page = stub.open()
    body = (
        FORMULA
        + """
      const input = signal(4000);
      return [[24000, 48000], [48000, 24000], [24000, 44100], [44100, 24000], [192000, 24000], [24000, 44099]]
        .map(([from, to]) => {
          const all = new Resampler(from, to).feed(input);
          const cut = [1, 7, 128, 960].map((size) => {
            const resampler = new Resampler(from, to), out = [];
            for (let n = 0; n < input.length; n += size) out.push(...resampler.feed(input.subarray(n, n + size)));
            return out.length === all.length && out.every((value, n) => value === all[n]);
          });
          const error = furthest(all, formula(from, to, input, all.length));
          return { length: all.length, expected: Math.floor(4000 * to / from), cut, error };
        });
    """
    )
    for found in page.js(JS.format(name="Resampler", module="talk/resample.js", body=body)):
        assert found["cut"] == [True] * 4 and found["error"] < 2e-7
        assert 0 <= found["expected"] - found["length"] < 40


def test_the_player_resamples_what_it_plays_a_chunk_at_a_time(stub: Stub) -> None:
    """All of a delta takes longer than the 2.7 ms of one call."""
    page = stub.open()
    body = (
        FORMULA
        + """
      const made = {}, told = [];
      globalThis.AudioWorkletProcessor = class { port = { postMessage: (data) => told.push(data) }; };
      globalThis.registerProcessor = (name, kind) => (made[name] = kind);
      Object.assign(globalThis, { sampleRate: 48000, currentTime: 0 });
      await import('/static/talk/worklets.js');
      const player = new made.player(), input = signal(24000), heard = [], fed = [];
      const feed = Resampler.prototype.feed;
      Resampler.prototype.feed = function (block) { fed.push(block.length); return feed.call(this, block); };
      const step = () => { const out = new Float32Array(128); player.process([], [[out]]); heard.push(...out); };
      player.take({ type: 'audio', item: 'a', samples: input.slice(0, 100) });
      step();
      player.take({ type: 'audio', item: 'a', samples: input.slice(100, 9000) });
      player.take({ type: 'audio', item: 'b', samples: input.slice(9000) });
      player.take({ type: 'complete' });
      const atOnce = fed.length;
      while (player.queued || player.running) step();
      player.take({ type: 'flush', id: 1 });
      Resampler.prototype.feed = feed;
      const wanted = formula(24000, 48000, input, 47000);
      return { atOnce, most: Math.max(...fed), error: furthest(wanted, heard.slice(128)), played: told.at(-1).played };
    """
    )
    found = page.js(JS.format(name="Resampler", module="talk/resample.js", body=body))
    assert found["atOnce"] == 0 and found["most"] == 128 and found["error"] < 2e-7
    assert abs(found["played"]["a"] - 375) <= 1 and abs(found["played"]["b"] - 625) <= 1

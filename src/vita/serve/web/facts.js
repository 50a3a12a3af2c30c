// One line below an answer: timings and tokens.

const seconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s`;

/**
 * - usage: OpenAI's, of a chat completion or a realtime response
 * - timings: the server's, in seconds, if it gives them
 * - first: seconds until the first text came, as the page saw it; sound: until the first audio
 */
export function factsOf({ usage, timings, first, sound, notes = [] }) {
  const facts = [];
  if (sound) facts.push(`first sound after ${seconds(sound)}`);
  const shown = timings?.first_token || first;
  if (shown) facts.push(`first word after ${seconds(shown)}`);
  const written = usage?.completion_tokens ?? usage?.output_tokens;
  if (written) {
    const speed = timings?.tokens_per_second;
    facts.push(`${written} token${written === 1 ? "" : "s"}${speed ? `, ${Math.round(speed)} a second` : ""}`);
  }
  const read = usage?.prompt_tokens ?? usage?.input_tokens;
  const details = usage?.prompt_tokens_details ?? usage?.input_token_details ?? {};
  if (read) {
    const parts = [];
    if (details.image_tokens) parts.push(`${details.image_tokens} of images`);
    if (details.audio_tokens) parts.push(`${details.audio_tokens} of audio`);
    if (details.cached_tokens) parts.push(`${details.cached_tokens} cached`);
    facts.push(`read ${read}${parts.length ? ` (${parts.join(", ")})` : ""}`);
  }
  const line = facts.join(" · ");
  return [line ? line[0].toUpperCase() + line.slice(1) : "", ...notes].filter(Boolean).join("\n");
}

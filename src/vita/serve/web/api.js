// Requests to the server: API key, JSON, server-sent events, errors as sentences.

const KEY = "vita.key";

let held = null; // the key, also where the storage is full or switched off

/** The API key of this tab; empty if there is none. */
export function getKey() {
  held ??= storedKey();
  return held;
}

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Keep the API key until the tab is closed. */
export function setKey(key) {
  held = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // It lasts until the page is closed.
  }
}

/** An error that the user is told. `status` is the HTTP status, 0 if there was no answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const NO_ANSWER = "The server does not answer. Is “vita serve” still running?";

async function call(path, { body, signal } = {}) {
  const headers = {};
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(NO_ANSWER);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let found = null;
  try {
    found = (await response.json()).error;
  } catch {
    // Not JSON, such as a proxy's page: the status has to do.
  }
  if (response.status === 401) {
    const message = getKey() ? "The server does not know this API key." : "This server asks for an API key.";
    return new ApiError(message, 401, "invalid_api_key");
  }
  return new ApiError(found?.message ?? `The server answered with status ${response.status}.`, response.status, found?.code);
}

/** The JSON of a GET, or of a POST if there is a body. */
export async function getJson(path, body) {
  return (await call(path, { body })).json();
}

/** The chunks of a streamed chat completion, up to [DONE]. */
export async function* streamChat(body, signal) {
  const response = await call("v1/chat/completions", { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The connection broke off before the answer was complete.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = dataOf(event);
        if (data === "") continue; // a ping
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message, 200, chunk.error.code);
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke off before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {}); // it may be closed already
  }
}

function dataOf(event) {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(line[5] === " " ? 6 : 5)).join("\n");
}

/** Subprotocols of a realtime WebSocket. A key is exchanged for a short-lived secret, so that it is not sent here. */
export async function socketProtocols() {
  if (!getKey()) return ["realtime"];
  const secret = await getJson("v1/realtime/client_secrets", { session: { type: "realtime" } });
  return ["realtime", `openai-insecure-api-key.${secret.value}`];
}

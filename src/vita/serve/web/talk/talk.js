// A talk: microphone and camera to a realtime session, its answers to the loudspeaker, captions to the conversation.

import { $, notify } from "../dom.js";
import { closeStream, openDevice } from "../devices.js";
import { frameOf } from "../camera.js";
import { imagePart, userContent } from "../conversation.js";
import { TalkAudio } from "./audio.js";
import { BargeIn } from "./barge_in.js";
import { Captions } from "./captions.js";
import { RealtimeSocket, fromBase64, toBase64 } from "./socket.js";

const RATE = 24000;
const FRAME_MS = 1000; // between two camera frames while the user speaks
const FRAME_SIDE = 672; // pixels
const SHORTEST_MS = 250; // of push-to-talk

export class Talk {
  /**
   * conversation, view: where captions go; settings: of the user; meter: levels.
   * on: state(word, sentence), ended(reason), cameraLost(); attached(): takes images out of the composer;
   * unsaid(images): puts those back with which nothing was said.
   */
  constructor(conversation, view, settings, meter, on) {
    Object.assign(this, { conversation, settings, meter, on });
    this.captions = new Captions(conversation, view);
    this.bargeIn = new BargeIn();
    this.socket = new RealtimeSocket({ event: (event) => this.receive(event), closed: (reason) => this.broken(reason) });
    this.audio = new TalkAudio({
      piece: (pcm, level) => this.piece(pcm, level),
      state: (state) => this.loudspeaker(state),
      lost: () => this.broken("The microphone was disconnected."),
      outage: (what) => {
        this.outage = what;
        this.show();
      },
    });
    this.push = settings.push;
    this.muted = this.held = this.hearing = this.playing = this.live = false;
    this.active = null; // id of the response in progress
    this.dropped = new Set(); // responses whose deltas are not wanted any more
    this.images = []; // that were taken out of the composer for the turn that goes on
    this.sending = Promise.resolve(); // the last item: images are made smaller first, and the order stays
    this.sent = 0; // milliseconds of the turn that is held
    this.loud = 0; // level of the loudspeaker
    this.sounding = false; // the response in progress has sent audio
  }

  /** Open everything. Throws an Error that says what to do. */
  async start() {
    this.on.state("connecting", "Opening the microphone");
    await this.audio.open(this.settings.microphone, this.settings.speaker);
    this.on.state("connecting", "Connecting");
    if (this.ended) return;
    this.session = await this.socket.connect(this.wish());
    if (this.ended) return;
    const items = await this.conversation.asItems();
    if (this.ended) return;
    for (const item of items) this.socket.send({ type: "conversation.item.create", item });
    this.live = true;
    if (!this.settings.textOnly && !this.session.output_modalities?.includes("audio"))
      notify("The server has no voice, so answers are in writing. To hear them, install vita-engine[piper] and start it again.", 30);
    this.show();
  }

  wish() {
    const { settings } = this;
    const format = { type: "audio/pcm", rate: RATE };
    // The page itself decides when speech stops an answer (barge_in.js), so the server does not.
    const detection = { type: "server_vad", create_response: true, interrupt_response: false };
    const session = {
      type: "realtime",
      // Otherwise the server decides: audio, or text where it has no voice.
      ...(settings.textOnly ? { output_modalities: ["text"] } : {}),
      max_output_tokens: Math.min(4096, settings.tokens),
      audio: {
        input: { format, transcription: { model: "vita" }, turn_detection: this.push ? null : detection },
        output: { format, ...(settings.voice ? { voice: settings.voice } : {}) },
      },
    };
    return settings.system ? { ...session, instructions: settings.system } : session;
  }

  end(reason = "") {
    if (this.ended) return;
    this.ended = true;
    if (this.active) this.socket.send({ type: "response.cancel" });
    this.live = false;
    this.socket.close();
    this.audio.close();
    this.stopCamera();
    this.captions.close();
    this.on.unsaid(this.images);
    this.on.ended(reason);
  }

  broken(reason) {
    this.end(reason || "The voice connection broke off. Talk again to go on.");
  }

  // The microphone.

  piece(pcm, level) {
    const mine = this.muted ? 0 : level;
    this.meter.push(Math.max(mine, this.loud), mine >= this.loud ? "user" : "model");
    if (!this.live) return;
    if (this.socket.isStuck()) return this.end("What you say does not reach the server any more. Talk again to go on.");
    const ms = (pcm.length / RATE) * 1000;
    if (!this.push) this.act(this.bargeIn.piece(mine, ms, this.playing));
    if (this.push && !this.held) return;
    this.sent += ms;
    this.socket.send({ type: "input_audio_buffer.append", audio: toBase64(pcm) });
    if (this.hearing || this.held) this.sendFrame();
  }

  act(what) {
    if (what === "duck") this.audio.duck(true);
    if (what === "restore") this.audio.duck(false);
    if (what === "stop") this.interrupt();
  }

  mute(muted) {
    this.muted = muted;
    this.audio.mute(muted);
    this.show();
  }

  /** Push-to-talk: the key or button goes down. */
  press() {
    if (!this.live || !this.push || this.held) return;
    if (this.playing || this.active) this.interrupt();
    this.socket.send({ type: "input_audio_buffer.clear" });
    this.held = true;
    this.sent = 0;
    this.sendAttached();
    this.show();
  }

  /** Push-to-talk: it comes up. */
  release() {
    if (!this.held) return;
    this.held = false;
    if (this.sent < SHORTEST_MS) {
      this.socket.send({ type: "input_audio_buffer.clear" });
      notify("Hold it down while you speak.");
    } else {
      this.stopped = performance.now();
      this.sendInTurn({ type: "input_audio_buffer.commit" });
      this.sendInTurn({ type: "response.create" });
    }
    this.show();
  }

  /** Send what the event, or a promise of it, is, after what was given here before. */
  sendInTurn(event) {
    this.sending = this.sending.then(async () => this.socket.send(await event));
  }

  sendItem(text, media) {
    const event = userContent(text, media).then((content) => {
      const images = content.filter((part) => part.type === "input_image").length;
      if (images < media.length) notify("The images are too large for one message of a talk; not all were sent.");
      return { type: "conversation.item.create", item: { type: "message", role: "user", content } };
    });
    this.sendInTurn(event);
  }

  /** The images in the composer go with what is said. */
  sendAttached() {
    const images = this.on.attached();
    if (!images.length) return;
    this.images.push(...images);
    this.sendItem("", images);
  }

  /** A typed question. */
  say(text, media) {
    if (this.playing || this.active) this.interrupt();
    this.conversation.add({ role: "user", text, media });
    this.captions.changed();
    this.stopped = performance.now();
    this.sendItem(text, media);
    this.sendInTurn({ type: "response.create" });
    this.show();
  }

  // Answers.

  /** Stop the answer: by speech, a key or a button. */
  async interrupt() {
    if (this.active) {
      this.dropped.add(this.active);
      this.socket.send({ type: "response.cancel", response_id: this.active });
      this.active = null;
    }
    this.playing = this.sounding = false;
    const item = this.captions.interrupted();
    this.show();
    const played = await this.audio.flush();
    if (!this.session.output_modalities?.includes("audio")) return; // what was written was read
    for (const id of new Set([...Object.keys(played), item].filter(Boolean))) {
      if (!this.captions.isCut(id)) continue;
      this.socket.send({ type: "conversation.item.truncate", item_id: id, content_index: 0, audio_end_ms: played[id] ?? 0 });
      this.socket.send({ type: "conversation.item.retrieve", item_id: id }); // says what was heard
    }
  }

  loudspeaker({ playing, waiting, level }) {
    const before = this.playing;
    this.loud = playing ? level : 0;
    this.playing = playing || waiting || (this.sounding && this.active !== null); // a gap is part of the answer
    if (before && !this.playing) {
      this.audio.duck(false);
      this.captions.finished();
    }
    if (before !== this.playing) this.show();
  }

  receive(event) {
    const handler = EVENTS[event.type];
    if (handler) handler(this, event);
    this.show();
  }

  /** One word and one sentence of what happens now. */
  show() {
    if (!this.live) return;
    let found = ["listening", "Listening"];
    if (this.push && !this.held) found = ["idle", "Hold the button or Space, and speak"];
    if (this.outage === "muted") found = ["muted", "The microphone gives no sound: it is muted outside this page"];
    if (this.muted) found = ["muted", "Your microphone is muted"];
    if (this.active) found = ["thinking", "Thinking"];
    if (this.playing || (this.active && this.captions.hasText)) found = ["speaking", this.playing ? "Speaking" : "Answering"];
    if (this.hearing || this.held) found = ["hearing", this.playing ? "You speak; the answer gets quieter" : "Go on, VITA listens"];
    if (this.outage === "paused") found = ["muted", "The browser has paused the sound; click here to go on"];
    this.on.state(...found);
    $("interrupt").disabled = !(this.active || this.playing);
  }

  // The camera.

  async startCamera() {
    this.camera = await openDevice("video", this.settings.camera);
    if (this.ended) return closeStream(this.camera);
    const stream = this.camera;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.camera === stream && this.cameraEnded());
    const preview = $("preview");
    preview.srcObject = this.camera;
    preview.hidden = false;
    await preview.play();
  }

  stopCamera() {
    closeStream(this.camera);
    this.camera = null;
    $("preview").srcObject = null;
    $("preview").hidden = true;
  }

  /** It was unplugged, or is not allowed any more: its last frame must not pass for what it sees. */
  cameraEnded() {
    this.stopCamera();
    this.on.cameraLost();
    notify("The camera was disconnected, or is not allowed any more.");
  }

  /** Send what the camera sees, at most once a second. */
  sendFrame() {
    if (!this.camera || performance.now() - (this.framed ?? -FRAME_MS) < FRAME_MS) return;
    const url = frameOf($("preview"), FRAME_SIDE);
    if (!url) return;
    this.framed = performance.now();
    this.frame = url;
    const item = { type: "message", role: "user", content: [imagePart(url)] };
    this.socket.send({ type: "conversation.item.create", item });
  }
}

// What the server's events do. Events that are not here need nothing.
const EVENTS = {
  "input_audio_buffer.speech_started"(talk, event) {
    talk.hearing = true;
    talk.began = event.audio_start_ms;
    talk.act(talk.bargeIn.started(talk.playing));
    talk.sendAttached();
    talk.sendFrame();
  },
  "input_audio_buffer.speech_stopped"(talk, event) {
    // Both ends of the turn hold more than speech.
    const { prefix_padding_ms: before = 300, silence_duration_ms: after = 500 } = talk.session.audio?.input?.turn_detection ?? {};
    talk.hearing = false;
    talk.stopped = performance.now();
    talk.act(talk.bargeIn.ended(event.audio_end_ms - talk.began - before - after, talk.playing));
  },
  "input_audio_buffer.committed"(talk, event) {
    talk.captions.heard(event.item_id, talk.images, talk.frame);
    talk.images = [];
    talk.frame = null;
  },
  "conversation.item.input_audio_transcription.delta": (talk, event) => talk.captions.words(event.item_id, event.delta, false),
  "conversation.item.input_audio_transcription.completed": (talk, event) =>
    talk.captions.words(event.item_id, event.transcript, true),
  "conversation.item.input_audio_transcription.failed": (talk, event) => talk.captions.unwritten(event.item_id),
  "response.created"(talk, event) {
    // The model takes the turn for meant: an older answer that still plays is over.
    if (talk.playing) talk.interrupt();
    talk.active = event.response.id;
    talk.sounding = false;
    talk.captions.begin(event.response.id);
  },
  "response.output_item.added": (talk, event) => talk.captions.item(event.response_id, event.item.id),
  "response.output_text.delta": (talk, event) => talk.captions.answer(event.response_id, event.delta),
  "response.output_audio_transcript.delta": (talk, event) => talk.captions.answer(event.response_id, event.delta),
  "response.output_audio.delta"(talk, event) {
    if (talk.dropped.has(event.response_id)) return;
    talk.captions.sounds(event.response_id, talk.stopped);
    talk.playing = talk.sounding = true;
    talk.audio.play(event.item_id, fromBase64(event.delta));
  },
  "response.output_audio.done": (talk) => talk.audio.complete(),
  "response.done"(talk, { response }) {
    if (talk.active === response.id) talk.active = null;
    talk.dropped.delete(response.id);
    talk.captions.done(response, talk.playing);
  },
  "conversation.item.retrieved": (talk, event) => talk.captions.retrieved(event.item),
  error(talk, { error }) {
    if (error.code === "session_expired")
      return talk.end("The talk has lasted as long as the server allows. Talk again to go on.");
    const harmless = ["response_cancel_not_active", "item_retrieve_invalid_item_id"];
    if (!harmless.includes(error.code)) notify(error.message);
  },
};

// The panel of a talk: its buttons, keys and state.

import { $, icon, notify } from "../dom.js";
import { Meter } from "./meter.js";
import { Talk } from "./talk.js";

export class TalkPanel {
  /**
   * settings: a function that gives the settings in force; images: of the composer, take() and giveBack(images).
   */
  constructor(conversation, view, settings, images) {
    Object.assign(this, { conversation, view, settings, images });
    this.talk = null;
    this.meter = new Meter($("wave"));
    this.listen();
  }

  async start() {
    if (this.talk) return;
    notify("");
    const settings = this.settings();
    const talk = new Talk(this.conversation, this.view, settings, this.meter, {
      state: (word, sentence) => this.show(word, sentence),
      ended: (reason) => this.closed(reason),
      attached: () => this.images.take(),
      unsaid: (images) => this.images.giveBack(images),
      cameraLost: () => pressed("talk-camera", false),
    });
    this.talk = talk;
    this.meter.clear();
    $("talk").hidden = false;
    $("start").hidden = true;
    document.body.classList.add("talking");
    $("hold").hidden = !settings.push;
    showMuted(false);
    pressed("talk-camera", false);
    $("talk").focus();
    $("question").placeholder = "Or write";
    try {
      await talk.start();
    } catch (error) {
      talk.end(error.message);
    }
  }

  end() {
    this.talk?.end();
  }

  interrupt() {
    if (this.talk?.live && (this.talk.active || this.talk.playing)) this.talk.interrupt();
  }

  show(word, sentence) {
    $("talk").dataset.state = word;
    if ($("talk-state").textContent !== sentence) $("talk-state").textContent = sentence;
  }

  closed(reason) {
    this.talk = null;
    $("talk").hidden = true;
    $("start").hidden = false;
    document.body.classList.remove("talking");
    $("question").placeholder = "Ask something";
    if (reason) notify(reason, 40);
    $("question").focus();
  }

  listen() {
    $("end-talk").addEventListener("click", () => this.end());
    // Browsers that have paused the sound let a page go on when it is clicked or shown again.
    $("talk").addEventListener("click", () => this.talk?.audio.resume());
    document.addEventListener("visibilitychange", () => document.hidden || this.talk?.audio.resume());
    $("interrupt").addEventListener("click", () => this.interrupt());
    $("mute").addEventListener("click", () => {
      if (!this.talk?.live) return;
      this.talk.mute(!this.talk.muted);
      showMuted(this.talk.muted);
    });
    $("talk-camera").addEventListener("click", () => this.toggleCamera());
    const hold = $("hold");
    hold.addEventListener("pointerdown", (event) => {
      hold.setPointerCapture(event.pointerId);
      this.talk?.press();
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) hold.addEventListener(name, () => this.talk?.release());
    hold.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long touch
    addEventListener("keydown", (event) => {
      if (!this.isHoldKey(event)) return;
      event.preventDefault();
      if (!event.repeat) this.talk.press();
    });
    addEventListener("keyup", (event) => {
      if (event.code !== "Space" || !this.talk?.held) return;
      event.preventDefault();
      this.talk.release();
    });
    addEventListener("blur", () => this.talk?.release());
  }

  isHoldKey(event) {
    if (event.code !== "Space" || !this.talk?.push || document.querySelector("dialog[open]")) return false;
    const target = event.target;
    if (target.id === "hold") return true;
    return !target.closest?.("input, select, textarea, button, a, audio, video");
  }

  async toggleCamera() {
    const { talk } = this;
    if (!talk?.live) return;
    if (talk.camera) {
      talk.stopCamera();
    } else {
      $("talk-camera").disabled = true;
      try {
        await talk.startCamera();
      } catch (error) {
        notify(error.message);
      }
      $("talk-camera").disabled = false;
    }
    pressed("talk-camera", Boolean(talk.camera));
  }
}

function showMuted(muted) {
  pressed("mute", muted);
  $("mute").querySelector("svg").replaceWith(icon(muted ? "mic-off" : "mic"));
}

function pressed(id, value) {
  $(id).setAttribute("aria-pressed", String(value));
}

// The moving picture of who speaks: one bar a piece of sound, the newest on the right.

const BAR = 3; // pixels
const GAP = 2;

export class Meter {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = []; // {level, who}: "user" or "model"
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.shown = 0;
  }

  /** Add a level (RMS, 0 to 1) of the user or the model. */
  push(level, who) {
    const height = Math.min(1, Math.sqrt(level) * 1.35);
    this.bars.push({ height, who });
    if (this.bars.length > 400) this.bars.shift();
    if (who === "user") this.tell(height);
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.draw();
    });
  }

  tell(height) {
    const now = performance.now();
    if (now - this.shown < 250) return;
    this.shown = now;
    this.canvas.setAttribute("aria-valuenow", String(Math.round(height * 100)));
  }

  clear() {
    this.bars = [];
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
    }
    const style = getComputedStyle(canvas);
    const colours = { user: style.getPropertyValue("--user-wave"), model: style.getPropertyValue("--model-wave") };
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (this.calm.matches) return this.drawCalm(context, colours, width, height);
    const count = Math.floor(width / (BAR + GAP));
    const bars = this.bars.slice(-count);
    for (let n = 0; n < count; n++) {
      const bar = bars[bars.length - 1 - n];
      const tall = Math.max(BAR, (bar?.height ?? 0) * height * 0.92);
      context.fillStyle = colours[bar?.who ?? "user"];
      context.globalAlpha = bar && tall > BAR ? 1 - 0.75 * (n / count) : 0.25;
      context.beginPath();
      context.roundRect(width - (n + 1) * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  drawCalm(context, colours, width, height) {
    const bar = this.bars.at(-1) ?? { height: 0, who: "user" };
    context.fillStyle = colours[bar.who];
    context.fillRect(0, height / 2 - 3, Math.max(3, bar.height * width), 6);
  }
}

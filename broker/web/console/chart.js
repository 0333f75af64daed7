// The last minute of latencies: dots where there are few, a band and a median always.

import { SPAN_MS, STEP_MS } from "./latency.js";

const LINES_MS = [1, 10, 100, 1000, 10_000];
const LABELS = ["1 ms", "10 ms", "100 ms", "1 s", "10 s"];
const LEFT = 44;
const BOTTOM = 4;

/** Draws a `Latency` into a canvas, in the colours of the page. */
export class Chart {
  #canvas;
  #context;
  #latency = { steps: [], marks: [] };
  #colours = {};
  #size = [0, 0];

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    new ResizeObserver(() => this.#fit()).observe(canvas);
    this.recolour();
  }

  /** Show these latencies from now on. */
  show(latency) {
    this.#latency = latency;
  }

  /** Read the colours again, after the theme has changed. */
  recolour() {
    // A custom property is only text; as the colour of an element it is resolved.
    const probe = document.createElement("i");
    document.body.append(probe);
    for (const name of ["accent", "soft", "line", "warn", "bad", "good"]) {
      probe.style.color = `var(--${name})`;
      this.#colours[name] = getComputedStyle(probe).color;
    }
    probe.remove();
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = window.devicePixelRatio || 1;
    this.#size = [width, height];
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
  }

  /** Draw how it looks at *now*, in Unix milliseconds. */
  draw(now) {
    const [width, height] = this.#size;
    if (!width) return;
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    const { steps } = this.#latency;
    const top = Math.log10(1 + Math.max(20, 1.4 * Math.max(0, ...steps.map((step) => step.max))));
    const y = (ms) => height - BOTTOM - (Math.log10(1 + ms) / top) * (height - BOTTOM - 8);
    const x = (at) => width - ((now - at) / SPAN_MS) * (width - LEFT);
    this.#grid(width, y, top);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, width - LEFT, height);
    context.clip();
    this.#marks(x, height);
    this.#band(steps, x, y);
    this.#dots(steps, x, y);
    this.#median(steps, x, y);
    context.restore();
  }

  #grid(width, y, top) {
    const context = this.#context;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.lineWidth = 1;
    LINES_MS.forEach((ms, index) => {
      if (Math.log10(1 + ms) > top) return;
      const at = Math.round(y(ms)) + 0.5;
      context.strokeStyle = this.#colours.line;
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(width, at);
      context.stroke();
      context.fillStyle = this.#colours.soft;
      context.fillText(LABELS[index], LEFT - 7, at);
    });
  }

  #marks(x, height) {
    const context = this.#context;
    context.setLineDash([3, 3]);
    for (const [at, tone] of this.#latency.marks) {
      context.strokeStyle = this.#colours[tone];
      context.beginPath();
      context.moveTo(Math.round(x(at)) + 0.5, 0);
      context.lineTo(Math.round(x(at)) + 0.5, height);
      context.stroke();
    }
    context.setLineDash([]);
  }

  #band(steps, x, y) {
    const context = this.#context;
    const half = (x(STEP_MS) - x(0)) / 2;
    context.fillStyle = this.#colours.accent;
    context.globalAlpha = 0.16;
    for (const step of steps) {
      const upper = y(step.max);
      const lower = y(step.quantile(0.01));
      const left = x(step.number * STEP_MS);
      context.fillRect(left, upper - 1, 2 * half - 0.5, Math.max(2, lower - upper + 2));
    }
    context.globalAlpha = 1;
  }

  #dots(steps, x, y) {
    const context = this.#context;
    context.fillStyle = this.#colours.accent;
    context.globalAlpha = 0.55;
    for (const step of steps) {
      for (const [offset, ms] of step.samples) {
        context.fillRect(x(step.number * STEP_MS + offset) - 1, y(ms) - 1, 2, 2);
      }
    }
    context.globalAlpha = 1;
  }

  #median(steps, x, y) {
    const context = this.#context;
    context.strokeStyle = this.#colours.accent;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    let before = -Infinity;
    for (const step of steps) {
      const [left, at] = [x((step.number + 0.5) * STEP_MS), y(step.quantile(0.5))];
      // A line over a time in which nothing came would say something untrue.
      if (step.number - before > 8) context.moveTo(left, at);
      else context.lineTo(left, at);
      before = step.number;
    }
    context.stroke();
  }
}

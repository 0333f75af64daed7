// How long events took, over the last minute; and how many came.

export const SPAN_MS = 60_000;
export const STEP_MS = 500;
const STEPS = SPAN_MS / STEP_MS;
const LINEAR = 16;
const PER_DOUBLING = 6;
const BINS = LINEAR + PER_DOUBLING * 14;
const SAMPLES_MAX = 10;

/** The bin of a latency: to the millisecond below 16, then 12 % wide. */
function binOf(ms) {
  if (ms < LINEAR) return Math.max(0, Math.floor(ms));
  const bin = LINEAR + Math.floor(PER_DOUBLING * Math.log2(ms / LINEAR));
  return Math.min(bin, BINS - 1);
}

/** The latency in the middle of a bin. */
function ofBin(bin) {
  return bin < LINEAR ? bin : LINEAR * 2 ** ((bin - LINEAR + 0.5) / PER_DOUBLING);
}

class Step {
  constructor(number) {
    this.number = number;
    this.count = 0;
    this.max = 0;
    this.bins = new Uint32Array(BINS);
    /** A few of them as [ms since the step began, latency]. */
    this.samples = [];
  }

  quantile(part) {
    return quantile(this.bins, this.count, part);
  }
}

function quantile(bins, count, part) {
  let left = Math.max(1, Math.ceil(count * part));
  for (let bin = 0; bin < BINS; bin++) {
    left -= bins[bin];
    if (left <= 0) return ofBin(bin);
  }
  return 0;
}

/** Latencies in steps of half a second. */
export class Latency {
  constructor() {
    /** The steps in which something came, oldest first. */
    this.steps = [];
    /** Moments worth a line in the chart, as [Unix ms, tone]. */
    this.marks = [];
  }

  /** Take one latency that was seen at *now*; both in milliseconds. */
  add(now, ms) {
    const number = Math.floor(now / STEP_MS);
    let step = this.steps.at(-1);
    if (step === undefined || step.number < number) {
      step = new Step(number);
      this.steps.push(step);
      this.#forget(number);
    }
    const latency = Math.max(0, ms);
    step.count++;
    step.max = Math.max(step.max, latency);
    step.bins[binOf(latency)]++;
    if (step.samples.length < SAMPLES_MAX) step.samples.push([now - step.number * STEP_MS, latency]);
  }

  mark(now, tone) {
    this.marks.push([now, tone]);
    while (this.marks.length && this.marks[0][0] < now - SPAN_MS) this.marks.shift();
  }

  clear() {
    this.steps = [];
    this.marks = [];
  }

  /** Median, 99 % and largest of the last minute; null if nothing came. */
  summary(now) {
    this.#forget(Math.floor(now / STEP_MS));
    const sum = new Uint32Array(BINS);
    let count = 0;
    let max = 0;
    for (const step of this.steps) {
      count += step.count;
      max = Math.max(max, step.max);
      for (let bin = 0; bin < BINS; bin++) sum[bin] += step.bins[bin];
    }
    if (count === 0) return null;
    return { median: quantile(sum, count, 0.5), tail: quantile(sum, count, 0.99), max, count };
  }

  #forget(number) {
    while (this.steps.length && this.steps[0].number <= number - STEPS) this.steps.shift();
  }
}

/** Events per second, over the last two. */
export class Rate {
  #counts = [];
  #count = 0;

  add() {
    this.#count++;
  }

  clear() {
    this.#counts = [];
    this.#count = 0;
  }

  /** To be called regularly; returns the rate. */
  tick(now) {
    this.#counts.push([now, this.#count]);
    this.#count = 0;
    while (this.#counts.length > 2 && this.#counts[1][0] < now - 2000) this.#counts.shift();
    const [first, ...rest] = this.#counts;
    const seconds = (now - first[0]) / 1000;
    return seconds > 0 ? rest.reduce((sum, [, count]) => sum + count, 0) / seconds : 0;
  }
}

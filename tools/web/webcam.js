// Driving by a webcam: what a face tracker sees, smoothed and freed of the resting face.

/** Weights that follow noisy ones: calm when they hardly change, quick when they do. */
export class Smoother {
  constructor({ calm = 1.2, lively = 6 } = {}) { Object.assign(this, { calm, lively, last: {}, time: null }); }

  /** One euro filter; time in seconds. Source: Casiez et al., CHI 2012. */
  step(values, time) {
    const dt = this.time === null ? 0 : Math.max(time - this.time, 1e-3);
    this.time = time;
    const share = (cutoff) => 1 / (1 + 1 / (2 * Math.PI * cutoff * dt));
    const out = {};
    for (const [name, x] of Object.entries(values)) {
      const old = this.last[name];
      if (!old || !dt) this.last[name] = { x, speed: 0 };
      else {
        const speed = old.speed + share(1) * ((x - old.x) / dt - old.speed);
        const a = share(this.calm + this.lively * Math.abs(speed));
        this.last[name] = { x: old.x + a * (x - old.x), speed };
      }
      out[name] = this.last[name].x;
    }
    return out;
  }
}

/** The resting face of a person: what is seen in a second of it is taken off. */
export class Neutral {
  constructor() { this.sum = {}; this.count = 0; }

  see(values) {
    for (const [name, x] of Object.entries(values)) this.sum[name] = (this.sum[name] ?? 0) + x;
    this.count++;
  }

  /** Weights beyond the resting ones, stretched so that 1 stays 1. */
  apply(values) {
    if (!this.count) return values;
    return Object.fromEntries(Object.entries(values).map(([name, x]) => {
      const rest = Math.min(this.sum[name] / this.count || 0, 0.6);
      return [name, Math.min(Math.max((x - rest) / (1 - rest), 0), 1)];
    }));
  }
}
export function webcamControls() {}

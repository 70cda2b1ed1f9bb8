// <fastgha-avatar src="avatar.js">: a head that is drawn, turned by touch, and driven by weights.
import { AvatarData, AvatarError, EYELIDS, unpack } from "./avatar.js";
import { WasmEngine, WebglEngine, gpu, simd } from "./engines.js";

const TARGET = [0, 0.02, 0]; // metres; pipeline/avatar/camera_path.py
const SLOW_MS = 40, QUICK_MS = 18, REST_MS = 250;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** The camera that `orbit` of camera_path.py makes: W and t by rows, then fx fy cx cy. */
export function orbitCamera(view, header, width, height) {
  const { yaw, pitch, distance, x = 0, y = 0 } = view;
  const away = [Math.sin(yaw) * Math.cos(pitch), Math.sin(pitch), Math.cos(yaw) * Math.cos(pitch)];
  const to = [TARGET[0] + x, TARGET[1] + y, TARGET[2]];
  const eye = away.map((a, i) => to[i] + distance * a), f = away.map((a) => -a);
  const length = Math.hypot(f[0], f[2]);
  const r = [-f[2] / length, 0, f[0] / length];
  const d = [f[1] * r[2] - f[2] * r[1], f[2] * r[0] - f[0] * r[2], f[0] * r[1] - f[1] * r[0]];
  const rows = [r, d, f].flatMap((row) => [...row, -row.reduce((s, v, i) => s + v * eye[i], 0)]);
  // A tall picture shows shoulders less, so that a phone is filled by the face.
  const field = Math.min(height, width * Math.min(1.3, Math.max(1, height / width)));
  const focal = (field * header.distance) / header.field;
  return Float32Array.from([...rows, focal, focal, width / 2, height / 2]);
}

/** The four numbers of a CSS colour: sRGB and opacity in [0, 1]. */
function rgba(color) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return a < 255 ? [0, 0, 0, 0] : [r / 255, g / 255, b / 255, 1];
}

/** Blinks and breath: what a face does while nobody tells it anything. */
class Idle {
  constructor() { this.next = 1500; }

  /** How far the lids are shut at a time, in [0, 1]. */
  lids(now) {
    if (now > this.next + 300) this.next = now + 1800 + 3600 * Math.random();
    const t = (now - this.next) / 300; // a blink shuts in a third of its time, and opens
    return t < 0 || t > 1 ? 0 : t < 0.35 ? t / 0.35 : (1 - t) / 0.65;
  }

  /** What breath and balance add to the camera. */
  sway(now) {
    const s = now / 1000;
    return {
      yaw: 0.02 * Math.sin(0.43 * s) + 0.008 * Math.sin(1.1 * s),
      pitch: 0.008 * Math.sin(0.61 * s), y: 0.0012 * Math.sin(1.6 * s),
    };
  }
}

export class FastghaAvatar extends HTMLElement {
  static observedAttributes = ["src", "background", "size", "idle", "engine"];

  #weights = {}; #code = null; #view = { yaw: 0, pitch: 0, distance: 1 }; #pose = { yaw: 0, pitch: 0 };
  #dirty = true; #busy = false; #scale = 1; #took = []; #moved = 0; #frame = -1; #since = 0;
  #idle = new Idle(); #loading = 0; #background = [1, 1, 1, 1]; #sharp = false;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).innerHTML = `<style>
      :host { display: block; position: relative; overflow: hidden; min-height: 64px; touch-action: none }
      canvas { position: absolute; inset: 0; width: 100%; height: 100%; outline-offset: -3px; cursor: grab }
      :host([size]) canvas { position: static; width: auto; height: auto; display: block }
      canvas:active { cursor: grabbing }
      p { position: absolute; inset: auto 10% 45%; margin: 0; text-align: center; font: 15px/1.5 system-ui, sans-serif }
      p:empty { display: none }
      </style><p role="status" part="message"></p>`;
    this.message = this.shadowRoot.querySelector("p");
  }

  connectedCallback() {
    this.#observer = new ResizeObserver(() => this.refresh());
    this.#observer.observe(this);
    this.#load();
    const step = (now) => {
      this.#ticking = requestAnimationFrame(step);
      this.#tick(now);
    };
    this.#ticking = requestAnimationFrame(step);
  }

  #observer; #ticking;

  disconnectedCallback() {
    cancelAnimationFrame(this.#ticking);
    this.#observer.disconnect();
    this.#observer = null;
    this.engine?.close();
    this.engine = this.data = this.ready = null;
    this.#loading++;
  }

  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === "background") this.#background = rgba(after || "white");
    // While the element is made, its attributes come before it is connected: that loads once.
    if ((name === "src" || name === "engine") && this.#observer) this.#load();
    this.refresh();
  }

  /** Draw again soon. */
  refresh() {
    this.#dirty = true;
    this.#moved = performance.now();
  }

  /** Face weights by name, in [0, 1]: Apple's 52 units, or the controls of another layout. */
  get weights() { return { ...this.#weights }; }
  set weights(weights) {
    this.#weights = { ...weights };
    this.#code = null;
    this.refresh();
  }

  /** Set some of the weights. */
  set(weights) { this.weights = { ...this.#weights, ...weights }; }

  /** The code that is shown, 120 numbers; set it to drive the face by codes. */
  get code() {
    if (this.#code) return this.#code;
    return this.data ? this.data.code(this.#weights) : null;
  }
  set code(code) {
    this.#code = code && Float32Array.from(code);
    this.refresh();
  }

  /** Where the camera is: yaw and pitch in radians, distance in metres. */
  get view() { return { ...this.#view }; }
  set view(view) {
    const { yaw, pitch, distance } = { ...this.#view, ...view };
    this.#view = {
      yaw: clamp(yaw, -Math.PI, Math.PI), pitch: clamp(pitch, -1.2, 1.2), distance: clamp(distance, 0.35, 3),
    };
    this.refresh();
  }

  /** How the head is turned beside that, in radians: what a webcam says. */
  get headPose() { return { ...this.#pose }; }
  set headPose(pose) {
    this.#pose = { yaw: 0, pitch: 0, ...pose };
    this.refresh();
  }

  get playing() { return this.#frame >= 0; }

  /** Play the sequence that came with the avatar. */
  play() {
    if (!this.data?.frames) return;
    this.#frame = 0;
    this.#since = performance.now();
    this.dispatchEvent(new Event("play"));
  }

  /** Hold the face as it is. */
  pause() {
    this.#frame = -1;
    this.dispatchEvent(new Event("pause"));
  }

  /** Show the neutral face from the front. */
  reset() {
    this.pause();
    this.headPose = {};
    this.view = { yaw: 0, pitch: 0, distance: 1 };
    this.weights = {};
  }

  /** Return the picture as a PNG. */
  async snapshot() {
    await this.ready;
    if (!this.engine) throw new AvatarError("There is no head to photograph.");
    await this.#draw(performance.now(), true);
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }

  /** Draw frames of the sequence as fast as they go, and say how fast that was. */
  async bench(frames = 60) {
    await this.ready;
    this.pause();
    while (this.#busy) await new Promise((go) => setTimeout(go, 1));
    this.#busy = true;
    const times = [], warm = 10, [width, height] = this.#size(true);
    try {
      for (let i = 0; i < warm + frames; i++) {
        const start = performance.now();
        const code = this.data.frames ? this.data.frame(i % this.data.frames) : this.code;
        await this.engine.draw(this.#request(code, this.#view, width, height));
        if (this.engine.gl) this.engine.gl.readPixels(0, 0, 1, 1, 6408, 5121, new Uint8Array(4));
        if (i >= warm) times.push(performance.now() - start);
      }
    } finally {
      this.#busy = false;
    }
    times.sort((a, b) => a - b);
    const median = times[frames >> 1], { gaussians, rank } = this.data.header;
    return {
      frames, median_ms: median, fps: 1000 / median, slowest_ms: times[frames - 1], first_picture_ms: this.firstPicture,
      width, height, engine: this.engine.name, workers: this.engine.workers.all.length, gpu: gpu(), gaussians, rank,
      cores: navigator.hardwareConcurrency, agent: navigator.userAgent,
    };
  }

  /** Say something over the picture; nothing with an empty text. */
  say(text) { this.message.textContent = text; }

  #load() {
    const turn = ++this.#loading;
    this.engine?.close();
    this.engine = this.firstPicture = null;
    if (this.playing) this.pause();
    this.ready = this.#open(turn).catch((error) => {
      if (turn !== this.#loading) return this.ready;
      this.say(error instanceof AvatarError ? error.message : `The avatar could not be shown: ${error.message}`);
      this.dispatchEvent(new CustomEvent("error", { detail: this.message.textContent }));
    });
  }

  async #open(turn) {
    const source = this.getAttribute("src");
    if (!source) return;
    if (!simd())
      throw new AvatarError("This browser cannot run WebAssembly SIMD, which draws the head. Any browser of 2023 or later can.");
    if (!("DecompressionStream" in globalThis))
      throw new AvatarError("This browser cannot unpack the avatar. Any browser of 2023 or later can.");
    const data = new AvatarData(await unpack(await read(new URL(source, document.baseURI).href)));
    if (turn !== this.#loading) return this.ready;
    const wanted = this.getAttribute("engine") || (gpu() ? "webgl" : "wasm");
    this.canvas?.remove();
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", this.getAttribute("label") || "A head. Drag or use the arrow keys to turn it.");
    this.shadowRoot.append(this.canvas);
    this.#listen(this.canvas);
    const engine = wanted === "webgl" ? new WebglEngine(this.canvas, data) : new WasmEngine(this.canvas, data);
    await engine.ready;
    if (turn !== this.#loading) {
      engine.close();
      return this.ready;
    }
    this.data = data;
    this.engine = engine;
    this.say("");
    await this.#draw(performance.now(), true);
    if (turn !== this.#loading) return this.ready;
    this.firstPicture = performance.now();
    this.dispatchEvent(new Event("ready"));
  }

  #listen(canvas) {
    const down = new Map();
    let spread = 0;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, event);
      spread = 0;
    };
    canvas.onpointermove = (event) => {
      const before = down.get(event.pointerId);
      if (!before) return;
      down.set(event.pointerId, event);
      if (down.size === 1) {
        const per = 3 / Math.min(canvas.clientWidth, canvas.clientHeight), view = this.#view;
        this.view = {
          yaw: view.yaw - per * (event.clientX - before.clientX), pitch: view.pitch + per * (event.clientY - before.clientY),
        };
      } else {
        const [a, b] = [...down.values()], now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
        if (spread) this.view = { distance: (this.#view.distance * spread) / now };
        spread = now;
      }
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => {
      down.delete(event.pointerId);
      spread = 0;
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.view = { distance: this.#view.distance * Math.exp(event.deltaY / 800) };
    }, { passive: false });
    canvas.ondblclick = () => { this.view = { yaw: 0, pitch: 0, distance: 1 }; };
    canvas.onkeydown = (event) => {
      const { yaw, pitch, distance } = this.#view, step = 0.08;
      const moves = {
        ArrowLeft: { yaw: yaw + step }, ArrowRight: { yaw: yaw - step }, ArrowUp: { pitch: pitch + step },
        ArrowDown: { pitch: pitch - step }, "+": { distance: distance / 1.1 }, "=": { distance: distance / 1.1 },
        "-": { distance: distance * 1.1 }, Home: { yaw: 0, pitch: 0, distance: 1 },
      };
      if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.view = moves[event.key];
    };
  }

  #size(sharp) {
    const fixed = Number(this.getAttribute("size"));
    if (fixed) return [fixed, fixed];
    const ratio = Math.min(devicePixelRatio || 1, 2) * (sharp ? 1 : this.#scale);
    return [this.clientWidth, this.clientHeight].map((x) => clamp(Math.round(x * ratio), 16, 2048));
  }

  #request(code, view, width, height) {
    return {
      weights: this.data.shapeWeights(code), camera: orbitCamera(view, this.data.header, width, height),
      width, height, background: this.#background,
    };
  }

  #tick(now) {
    if (!this.engine || this.#busy || document.hidden) return;
    const idle = this.hasAttribute("idle") && !still.matches;
    if (this.playing) {
      // A frame's time may lie before the key that began to play.
      const at = Math.max(0, Math.floor(((now - this.#since) / 1000) * this.data.header.fps));
      this.#frame = at % this.data.frames;
      this.refresh();
    }
    const rested = now - this.#moved > REST_MS;
    if (!this.#dirty && !idle && (!rested || this.#sharp)) return;
    const engine = this.engine;
    this.#draw(now, rested && !idle).catch((error) => {
      if (engine !== this.engine) return; // another avatar has come meanwhile
      engine.close();
      this.engine = null;
      this.say(error.message);
    });
  }

  async #draw(now, sharp) {
    while (this.#busy) await new Promise((go) => setTimeout(go, 1));
    this.#busy = true;
    this.#dirty = false;
    this.#sharp = sharp;
    try {
      const idle = this.hasAttribute("idle") && !still.matches;
      let code = this.playing ? this.data.frame(this.#frame) : this.code;
      const sway = idle ? this.#idle.sway(now) : { yaw: 0, pitch: 0 };
      if (idle && !this.playing && !this.#code) {
        code = Float32Array.from(code);
        const shut = this.#idle.lids(now);
        for (const i of [EYELIDS, EYELIDS + 1]) code[i] = Math.max(code[i], shut);
      }
      const view = {
        ...this.#view, ...sway, yaw: this.#view.yaw + this.#pose.yaw + sway.yaw,
        pitch: clamp(this.#view.pitch + this.#pose.pitch + sway.pitch, -1.3, 1.3),
      };
      const ms = await this.engine.draw(this.#request(code, view, ...this.#size(sharp)));
      if (!sharp) this.#adapt(ms);
    } finally {
      this.#busy = false;
    }
    this.dispatchEvent(new Event("draw"));
  }

  /** Draw coarser while frames take too long, and finer while there is time left. */
  #adapt(ms) {
    this.#took.push(ms);
    if (this.#took.length < 8) return;
    const median = this.#took.sort((a, b) => a - b)[4];
    this.#took = [];
    if (median > SLOW_MS) this.#scale = Math.max(0.3, this.#scale * 0.8);
    else if (median < QUICK_MS) this.#scale = Math.min(1, this.#scale * 1.15);
  }
}

/** Return the text of an avatar file. From the disk, where pages may not read files, as a script. */
async function read(address) {
  const missing = () => new AvatarError("The avatar file cannot be read. Is it beside the page?");
  if (!address.startsWith("file:")) {
    const answer = await fetch(address).catch(() => { throw missing(); });
    if (!answer.ok) throw missing();
    return answer.text();
  }
  await new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = done;
    script.onerror = () => fail(missing());
    document.head.append(script);
  });
  return `"${globalThis.fastghaAvatars?.[address] ?? ""}"`;
}

if (!customElements.get("fastgha-avatar")) customElements.define("fastgha-avatar", FastghaAvatar);

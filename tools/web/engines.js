// Two ways to one picture: bands of rows by WebAssembly in workers, or quads on a GPU.
import source from "./worker.js.txt";
import wasm from "./raster.wasm";
import { AvatarError } from "./avatar.js";

const RECORD = 12;

/** Whether this browser can run the rasteriser. */
export function simd() {
  try {
    return WebAssembly.validate(wasm);
  } catch {
    return false;
  }
}

/** Name of the GPU that WebGL would draw with; empty where there is none, or only software. */
export function gpu() {
  try {
    const gl = document.createElement("canvas").getContext("webgl2");
    if (!gl) return "";
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const name = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name) ? "" : name;
  } catch {
    return "";
  }
}

/** Workers that hold an avatar each and draw their share when asked. */
class Workers {
  constructor(data, count) {
    const { gaussians: n, moving: m, rank } = data.header;
    const names = ["means", "quats", "scales", "opacities", "colors", "shapes", "steps", "mean"];
    const arrays = Object.fromEntries(names.map((name) => [name, data.arrays[name]]));
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.all = Array.from({ length: count }, () => new Worker(address));
    this.ready = WebAssembly.compile(wasm).then((module) =>
      Promise.all(this.all.map((worker) => this.#ask(worker, { module, n, m, rank, arrays }))),
    ).then(() => URL.revokeObjectURL(address));
  }

  #ask(worker, message) {
    return new Promise((done, fail) => {
      worker.fail = fail;
      const failed = (text) => fail(new AvatarError(`The picture could not be drawn (${text}).`));
      worker.onerror = (event) => failed(event.message);
      worker.onmessage = ({ data }) => (data.error ? failed(data.error) : done(data));
      worker.postMessage(message);
    });
  }

  draw(i, message) { return this.#ask(this.all[i], message); }

  /** Stop; what was asked and is not answered fails, for nobody will answer it. */
  close() {
    for (const worker of this.all) {
      worker.terminate();
      worker.fail?.(new AvatarError("The avatar was taken away while it was drawn."));
    }
  }
}

/** Draws on a 2D canvas; each worker has a band of rows, of about equal work. */
export class WasmEngine {
  name = "wasm";

  constructor(canvas, data) {
    this.context = canvas.getContext("2d");
    const cores = navigator.hardwareConcurrency || 2;
    this.workers = new Workers(data, Math.max(1, Math.min(4, cores)));
    this.ready = this.workers.ready;
    this.shares = this.workers.all.map(() => 1);
  }

  async draw({ weights, camera, width, height, background }) {
    const whole = this.shares.reduce((a, b) => a + b), ends = [0];
    let sum = 0;
    for (const share of this.shares) {
      sum += share;
      ends.push(Math.min(height, Math.round((sum / whole) * height / 16) * 16));
    }
    ends[ends.length - 1] = height;
    const bands = await Promise.all(this.shares.map((_, i) => ends[i + 1] > ends[i]
      ? this.workers.draw(i, { weights, camera, width, height, background, first: ends[i], last: ends[i + 1] })
      : null));
    const canvas = this.context.canvas;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    bands.forEach((band, i) => {
      if (!band) return;
      const rows = ends[i + 1] - ends[i];
      const pixels = new ImageData(new Uint8ClampedArray(band.data), width, rows);
      this.context.putImageData(pixels, 0, band.first);
      // Rows that a millisecond is enough for: next time, bands of equal time.
      this.shares[i] = 0.7 * this.shares[i] / whole + (0.3 * rows) / height / Math.max(band.ms, 0.5);
    });
    return Math.max(...bands.map((band) => band?.ms ?? 0));
  }

  close() { this.workers.close(); }
}

const VERTEX = `#version 300 es
layout(location = 0) in vec4 place;  // u v px py
layout(location = 1) in vec4 shape;  // qy, log2 of the opacity, red, green
layout(location = 2) in vec2 rest;   // blue, limit
uniform vec2 size;
out vec2 pq;
flat out vec4 paint;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  pq = corner * sqrt(max(rest.y, 0.0));
  float dy = pq.y / shape.x, dx = (pq.x - place.w * dy) / place.z;
  vec2 at = (place.xy + vec2(dx, dy)) / size * 2.0 - 1.0;
  gl_Position = vec4(at.x, -at.y, 0, 1);
  paint = vec4(shape.zw, rest.x, shape.y);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 pq;
flat in vec4 paint;
out vec4 color;
void main() {
  float alpha = min(exp2(paint.a - dot(pq, pq)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  color = vec4(paint.rgb * alpha, alpha);
}`;
const WHOLE = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0, 1); }`;
const COPY = `#version 300 es
precision highp float;
uniform sampler2D from;
out vec4 color;
void main() { color = clamp(texelFetch(from, ivec2(gl_FragCoord.xy), 0), 0.0, 1.0); }`;

/** Draws quads with WebGL 2 on a GPU; one worker poses, projects and sorts. */
export class WebglEngine {
  name = "webgl";

  constructor(canvas, data) {
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) throw new AvatarError("This browser has no WebGL 2.");
    this.gl = gl;
    this.workers = new Workers(data, 1);
    this.ready = this.workers.ready;
    this.splat = this.#program(VERTEX, FRAGMENT);
    this.copy = this.#program(WHOLE, COPY);
    this.uniform = gl.getUniformLocation(this.splat, "size");
    this.splats = gl.createVertexArray();
    this.nothing = gl.createVertexArray();
    this.buffer = gl.createBuffer();
    gl.bindVertexArray(this.splats);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    [[4, 0], [4, 16], [2, 32]].forEach(([count, start], i) => {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, count, gl.FLOAT, false, 4 * RECORD, start);
      gl.vertexAttribDivisor(i, 1);
    });
    // Thousands of layers in 8 bits would round to bands; 16 bits where the GPU blends them.
    const fine = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
    this.format = fine ? gl.RGBA16F : gl.RGBA8;
    this.frame = gl.createFramebuffer();
  }

  #program(...sources) {
    const gl = this.gl, program = gl.createProgram();
    sources.forEach((text, i) => {
      const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new AvatarError(`WebGL refused a program: ${gl.getProgramInfoLog(program)}`);
    return program;
  }

  #resize(width, height) {
    const gl = this.gl;
    if (this.texture && gl.canvas.width === width && gl.canvas.height === height) return;
    Object.assign(gl.canvas, { width, height });
    if (this.texture) gl.deleteTexture(this.texture);
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, this.format, width, height);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.texture, 0);
  }

  async draw({ weights, camera, width, height, background }) {
    const start = performance.now(), gl = this.gl;
    const { data, count } = await this.workers.draw(0, {
      weights, camera, width, height, background, first: 0, last: height, splats: true,
    });
    if (gl.isContextLost()) throw new AvatarError("The graphics card took its memory back. Load the page again.");
    this.#resize(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.viewport(0, 0, width, height);
    const [r, g, b, a] = background;
    gl.clearColor(r * a, g * a, b * a, a);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(this.splat);
    gl.uniform2f(this.uniform, width, height);
    gl.bindVertexArray(this.splats);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STREAM_DRAW);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    gl.useProgram(this.copy);
    gl.bindVertexArray(this.nothing);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    return performance.now() - start;
  }

  close() {
    this.workers.close();
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

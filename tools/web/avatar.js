// What `fastgha export web` writes of an avatar: read, checked, and driven by weights or a code.
//
// The file is a script of one line, so that it opens from the disk too:
//   (globalThis.fastghaAvatars??={})[document.currentScript.src]="<base64 of gzip>"
// Unpacked: u32 length of a JSON header, the header, arrays (little-endian, each at a multiple of 4).

export const CODE = 120, EYELIDS = 118;
const PARTS = { jaw: 100, leftEye: 106, rightEye: 112 };
const KINDS = { "<f4": Float32Array, "<f2": Uint16Array, "|i1": Int8Array, "<u2": Uint16Array };

export class AvatarError extends Error {}

const damaged = () => new AvatarError("The avatar file is damaged. Export it again.");

/** Return the bytes of an avatar file's text, without running it. */
export async function unpack(text) {
  // By hand: a regular expression runs out of stack on some millions of letters.
  const end = text.lastIndexOf('"'), start = text.lastIndexOf('"', end - 1) + 1;
  if (end - start < 16) throw damaged();
  try {
    const packed = Uint8Array.from(atob(text.slice(start, end)), (c) => c.charCodeAt(0));
    const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return await new Response(plain).arrayBuffer();
  } catch {
    throw damaged();
  }
}

function half(h) {
  const sign = h & 0x8000 ? -1 : 1, e = (h >> 10) & 31, f = h & 1023;
  return e === 0 ? sign * f * 2 ** -24 : sign * (1 + f / 1024) * 2 ** (e - 15);
}

/** A baked avatar: arrays by name, and the way from weights to a code and to shapes. */
export class AvatarData {
  constructor(buffer) {
    try {
      const length = new DataView(buffer).getUint32(0, true);
      this.header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
      this.arrays = {};
      for (const [name, [kind, start, count]] of Object.entries(this.header.arrays)) {
        const raw = new KINDS[kind](buffer, start, count);
        this.arrays[name] = kind === "<f2" ? Float32Array.from(raw, half) : raw;
      }
      this.#check();
    } catch {
      throw damaged();
    }
  }

  #check() {
    const { gaussians: n, moving: m, rank: r, hidden: h } = this.header;
    const counts = {
      means: 3 * n, quats: 4 * n, scales: 3 * n, opacities: n, colors: 3 * n, shapes: 6 * r * m,
      steps: 6 * r, mean: 6 * m, neutral: CODE, linear_weight: CODE * r, linear_bias: r,
      hidden_weight: CODE * h, hidden_bias: h, out_weight: h * r,
    };
    for (const [name, count] of Object.entries(counts))
      if (this.arrays[name]?.length !== count) throw damaged();
    if (!(n > 0 && n < 2 ** 22 && m >= 0 && m <= n && r > 0 && r <= 1024)) throw damaged();
  }

  /** Whether face units by Apple's names drive it; otherwise numbers of its own controls do. */
  get arkit() { return Boolean(this.header.arkit); }

  /** Number of frames of the sequence that came with it. */
  get frames() { return this.header.frames; }

  /** The code of a frame. */
  frame(i) { return this.arrays.codes.subarray(i * CODE, (i + 1) * CODE); }

  /** The code of weights, by name of face unit (Apple's 52), or of control. */
  code(weights) {
    const code = Float32Array.from(this.arrays.neutral);
    if (!this.arkit) {
      this.header.controls.forEach(({ name }, c) => {
        const x = weights[name] ?? 0;
        for (let i = 0; x && i < CODE; i++) code[i] += x * this.arrays.controls[c * CODE + i];
      });
      return code;
    }
    return arkitCode(weights, this.header.arkit, this.arrays.basis, code);
  }

  /** The weight of each shape under a code. */
  shapeWeights(code) {
    const a = this.arrays, { rank, hidden } = this.header, out = Float32Array.from(a.linear_bias);
    const dot = (matrix, row) => {
      let sum = 0;
      for (let i = 0; i < CODE; i++) sum += matrix[row * CODE + i] * code[i];
      return sum;
    };
    for (let r = 0; r < rank; r++) out[r] += dot(a.linear_weight, r);
    for (let j = 0; j < hidden; j++) {
      let s = a.hidden_bias[j] + dot(a.hidden_weight, j);
      s /= 1 + Math.exp(-s);
      for (let r = 0; r < rank; r++) out[r] += a.out_weight[r * hidden + j] * s;
    }
    return out;
  }
}

/** Fill a code from ARKit weights by name, as `arkit_to_code` of pipeline/faces/layouts.py. */
export function arkitCode(weights, { units, jawOpen, jawSide, up, down, side }, basis, code) {
  const w = (name) => weights[name] ?? 0;
  const count = units.length;
  for (let i = 0; i < count; i++) {
    let sum = 0;
    for (let u = 0; u < count; u++) sum += basis[i * count + u] * w(units[u]);
    code[i] = sum;
  }
  turn(code, PARTS.jaw, jawOpen * w("jawOpen"), jawSide * (w("jawLeft") - w("jawRight")));
  for (const [eye, name, sign] of [["leftEye", "Left", 1], ["rightEye", "Right", -1]]) {
    const raised = w(`eyeLookUp${name}`) - w(`eyeLookDown${name}`);
    const pitch = raised > 0 ? -up * raised : -down * raised;
    const out = w(`eyeLookOut${name}`) - w(`eyeLookIn${name}`);
    turn(code, PARTS[eye], pitch, sign * side * out);
  }
  code[EYELIDS] = w("eyeBlinkLeft");
  code[EYELIDS + 1] = w("eyeBlinkRight");
  return code;
}

/** Write the first two rows of the rotation by a vector (x, y, 0), degrees. */
function turn(code, at, x, y) {
  const angle = Math.hypot(x, y) * Math.PI / 180;
  const length = Math.hypot(x, y) || 1, ax = x / length, ay = y / length;
  const c = Math.cos(angle), s = Math.sin(angle), t = 1 - c;
  code.set([c + ax * ax * t, ax * ay * t, ay * s, ax * ay * t, c + ay * ay * t, -ax * s], at);
}

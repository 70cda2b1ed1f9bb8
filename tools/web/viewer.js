// The page that `fastgha export web` writes: draws a baked avatar with Spark on three.js.
// Data (avatar.js): window.FASTGHA = { header, data }, data a base64 block of little-endian arrays.
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { PackedSplats, SparkRenderer, SplatMesh } from "@sparkjsdev/spark";

const { header, data } = window.FASTGHA;
const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer;
const halves = new Set(["shapes", "mean", "codes"]);
const arrays = {};
for (const [name, [start, length]] of Object.entries(header.arrays)) {
  arrays[name] = halves.has(name)
    ? Float32Array.from(new Uint16Array(bytes, start, length), half)
    : new Float32Array(bytes, start, length);
}
const { gaussians: n, moving: m, rank } = header;

function half(h) {
  const s = h & 0x8000 ? -1 : 1, e = (h >> 10) & 31, f = h & 1023;
  return e === 0 ? s * f * 2 ** -24 : s * (1 + f / 1024) * 2 ** (e - 15);
}

// The weighted sum of shapes, in a worker: the page stays free to draw.
const source = `
let a, m, rank, hidden;
onmessage = ({ data }) => {
  if (data.a) { ({ a, m, rank, hidden } = data); return; }
  const code = data.code, w = new Float32Array(rank);
  for (let r = 0; r < rank; r++) {
    let s = a.linear_bias[r];
    for (let i = 0; i < 120; i++) s += a.linear_weight[r * 120 + i] * code[i];
    w[r] = s;
  }
  for (let j = 0; j < hidden; j++) {
    let s = a.hidden_bias[j];
    for (let i = 0; i < 120; i++) s += a.hidden_weight[j * 120 + i] * code[i];
    s = s / (1 + Math.exp(-s));
    for (let r = 0; r < rank; r++) w[r] += a.out_weight[r * hidden + j] * s;
  }
  const out = Float32Array.from(a.mean);
  for (let r = 0; r < rank; r++) {
    const at = r * m * 6, x = w[r];
    for (let i = 0; i < m * 6; i++) out[i] += x * a.shapes[at + i];
  }
  postMessage(out, [out.buffer]);
};`;
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
worker.postMessage({ a: arrays, m, rank, hidden: header.hidden });

const size = Number(new URLSearchParams(location.search).get("size")) || 0;
const renderer = new THREE.WebGLRenderer({ antialias: false, preserveDrawingBuffer: true });
renderer.setPixelRatio(size ? 1 : Math.min(devicePixelRatio, 2));
renderer.setClearColor(0xffffff, 1);
document.getElementById("stage").append(renderer.domElement);
const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(header.fov, 1, 0.05, 10);
camera.position.set(0, 0.02, header.distance);
const controls = new OrbitControls(camera, renderer.domElement);
controls.target.set(0, 0.02, 0);
controls.update();
scene.add(new SparkRenderer({ renderer, maxStdDev: Math.sqrt(8), preBlurAmount: 0, blurAmount: 0.3 }));

const center = new THREE.Vector3(), scale = new THREE.Vector3();
const turn = new THREE.Quaternion(), color = new THREE.Color();
const packed = new PackedSplats({ maxSplats: n });
const mesh = new SplatMesh({ packedSplats: packed });
scene.add(mesh);

function place(i, offsets) {
  const k = 3 * i, o = 6 * i, moved = offsets && i < m;
  const at = (name, j) => arrays[name][k + j];
  const add = (j) => (moved ? offsets[o + j] : 0);
  center.set(at("means", 0) + add(0), at("means", 1) + add(1), at("means", 2) + add(2));
  color.setRGB(
    clamp(at("colors", 0) + add(3)), clamp(at("colors", 1) + add(4)), clamp(at("colors", 2) + add(5)),
    THREE.LinearSRGBColorSpace, // as they are: splats are blended in sRGB
  );
  scale.set(at("scales", 0), at("scales", 1), at("scales", 2));
  const q = 4 * i; // wxyz in the file
  turn.set(arrays.quats[q + 1], arrays.quats[q + 2], arrays.quats[q + 3], arrays.quats[q]);
  packed.setSplat(i, center, scale, turn, arrays.opacities[i], color);
}
const clamp = (x) => Math.min(Math.max(x, 0), 1);

// What is shown: the sequence, or the sliders.
const code = Float32Array.from(arrays.neutral);
const sliders = {};
let playing = false, canonical = false, frame = 0, waiting = false, posed = 0;
const panel = document.getElementById("panel");
for (const [u, name] of header.units.entries()) {
  const label = document.createElement("label");
  label.innerHTML = `<span></span><input type="range" min="0" max="1" step="0.01" value="0">`;
  label.firstChild.textContent = name;
  sliders[name] = label.lastChild;
  sliders[name].id = `slider-${name}`;
  sliders[name].oninput = () => { playing = false; fromSliders(); };
  panel.append(label);
  sliders[name].unit = u;
}
function fromSliders() {
  code.set(arrays.neutral);
  for (const s of Object.values(sliders))
    for (let i = 0; i < 120; i++) code[i] += s.value * arrays.units[s.unit * 120 + i];
  pose();
}
function pose() {
  if (canonical) return show(null);
  if (waiting) return;
  waiting = true;
  worker.postMessage({ code: Float32Array.from(code) });
}
worker.onmessage = ({ data: offsets }) => { waiting = false; if (!canonical) show(offsets); };
function show(offsets) {
  for (let i = 0; i < (posed ? m : n); i++) place(i, offsets);
  packed.needsUpdate = true;
  mesh.updateVersion?.();
  posed++;
}
document.getElementById("play").onclick = () => { playing = !playing; };
document.getElementById("canonical").onclick = () => { canonical = !canonical; pose(); };
document.getElementById("frames").textContent = `${n} Gaussians, ${rank} shapes`;

function resize() {
  const w = size || innerWidth, h = size || innerHeight;
  renderer.setSize(w, h);
  camera.aspect = w / h;
  camera.updateProjectionMatrix();
}
addEventListener("resize", resize);
resize();

let last = performance.now(), smooth = 0;
function step() {
  if (playing && !waiting && header.frames) {
    frame = (frame + 1) % header.frames;
    code.set(arrays.codes.subarray(frame * 120, frame * 120 + 120));
    pose();
  }
  controls.update();
  renderer.render(scene, camera);
  const now = performance.now();
  smooth = 0.95 * smooth + 0.05 * (now - last);
  last = now;
  document.getElementById("fps").textContent = `${(1000 / smooth).toFixed(0)} FPS`;
}
fromSliders();

// ?bench: a fixed number of frames of the sequence, as fast as they go, from a fixed camera.
async function bench() {
  renderer.setAnimationLoop(null);
  const pixel = new Uint8Array(4), gl = renderer.getContext(), times = [], warm = 10, count = 60;
  for (let f = 0; f < warm + count; f++) {
    const start = performance.now();
    code.set(arrays.codes.subarray((f % header.frames) * 120, (f % header.frames) * 120 + 120));
    const before = posed;
    pose();
    while (posed === before) await new Promise((go) => setTimeout(go, 0));
    renderer.render(scene, camera);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel); // wait for the picture
    if (f >= warm) times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  const median = times[count >> 1];
  window.BENCH = {
    frames: count, median_ms: median, fps: 1000 / median, slowest_ms: times[count - 1],
    gaussians: n, rank, width: renderer.domElement.width, height: renderer.domElement.height,
    renderer: gl.getParameter(gl.RENDERER), agent: navigator.userAgent,
  };
  const out = document.createElement("pre");
  out.id = "bench";
  out.textContent = JSON.stringify(window.BENCH, null, 1);
  panel.append(out);
}
window.FASTGHA_VIEW = { code, pose, posed: () => posed, camera, controls };
renderer.setAnimationLoop(step);
if (new URLSearchParams(location.search).has("bench")) {
  const ready = setInterval(() => { if (posed) { clearInterval(ready); bench(); } }, 200);
}

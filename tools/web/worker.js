// One thread's share of a picture: poses the head and draws a band of rows, or sorts the splats.
let wasm, pixelRoom = 0, tileRoom = 0, size = {};

function put(at, values, Kind = Float32Array) {
  new Kind(wasm.memory.buffer, at, values.length).set(values);
}

function setup({ module, n, m, rank, arrays: a }) {
  wasm = new WebAssembly.Instance(module).exports;
  wasm.setup(n, m, rank);
  const N = wasm.padded(), M = wasm.padded_moving();
  size = { n, N };
  const quats = wasm.room(16 * n), scales = wasm.room(12 * n);
  put(quats, a.quats);
  put(scales, a.scales);
  wasm.covariances(quats, scales, n);
  put(wasm.planes() + 4 * 12 * N, a.opacities);
  const base = new Float32Array(6 * N), shapes = new Int8Array(6 * rank * M);
  for (let c = 0; c < 6; c++) {
    const from = c < 3 ? a.means : a.colors, k = c % 3;
    for (let i = 0; i < n; i++) base[c * N + i] = from[3 * i + k] + (i < m ? a.mean[6 * i + c] : 0);
    for (let r = 0; r < rank; r++)
      shapes.set(a.shapes.subarray((c * rank + r) * m, (c * rank + r + 1) * m), (c * rank + r) * M);
  }
  // What pads the moving ones moves the first of the others: with bytes of 0, not at all.
  put(wasm.base(), base);
  put(wasm.shapes(), shapes, Int8Array);
  put(wasm.steps(), a.steps);
}

function draw({ weights, camera, width, height, first, last, background, splats }) {
  const start = performance.now();
  put(wasm.weights(), weights);
  put(wasm.camera(), camera);
  put(wasm.background(), background);
  wasm.pose();
  const count = wasm.project(width, height, first, last);
  wasm.sort();
  let data;
  if (splats) {
    const at = wasm.sorted(); // may take memory, and then the old buffer is gone
    data = new Float32Array(wasm.memory.buffer, at, 12 * count).slice().buffer;
  } else {
    const rows = last - first, tiles = Math.ceil(width / 16) * Math.ceil(rows / 16);
    if (width * rows > pixelRoom || tiles > tileRoom) {
      pixelRoom = Math.max(pixelRoom, width * rows);
      tileRoom = Math.max(tileRoom, tiles);
      wasm.resize(pixelRoom, tileRoom);
    }
    wasm.blend(first, last);
    data = new Uint8ClampedArray(wasm.memory.buffer, wasm.pixels(), 4 * width * rows).slice().buffer;
  }
  return { data, count, first, ms: performance.now() - start };
}

onmessage = ({ data: message }) => {
  try {
    if (message.module) {
      setup(message);
      postMessage({ ready: true });
    } else {
      const done = draw(message);
      postMessage(done, [done.data]);
    }
  } catch (error) {
    postMessage({ error: String(error) });
  }
};

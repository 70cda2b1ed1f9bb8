// Recording what the face does: as our npz, as Live Link Face writes it, and as a video.
const FPS = 30;

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const crc32 = (bytes) => ~bytes.reduce((c, b) => crcTable[(c ^ b) & 255] ^ (c >>> 8), -1) >>> 0;

/** The bytes of one array as numpy saves it. */
function npy(kind, shape, bytes) {
  const size = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${size}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const out = new Uint8Array(10 + header.length + bytes.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  out.set(new TextEncoder().encode(header), 10);
  out.set(bytes, 10 + header.length);
  return out;
}

/** Several files as one zip, not compressed. */
function zip(files) {
  const parts = [], central = [];
  let at = 0;
  for (const [name, data] of files) {
    const label = new TextEncoder().encode(name);
    const fields = [20, 0, 0, 0, 0x21]; // version, flags, method, time, date: 1 January 1980
    const head = new DataView(new ArrayBuffer(30)), entry = new DataView(new ArrayBuffer(46));
    for (const [view, sign, start] of [[head, 0x04034b50, 4], [entry, 0x02014b50, 6]]) {
      view.setUint32(0, sign, true);
      fields.forEach((x, i) => view.setUint16(start + 2 * i, x, true));
      [crc32(data), data.length, data.length].forEach((x, i) => view.setUint32(start + 10 + 4 * i, x, true));
      view.setUint16(start + 22, label.length, true);
    }
    entry.setUint16(4, 20, true);
    entry.setUint32(42, at, true);
    parts.push(head.buffer, label, data);
    central.push(entry.buffer, label);
    at += 30 + label.length + data.length;
  }
  const end = new DataView(new ArrayBuffer(22)), size = central.reduce((s, p) => s + p.byteLength, 0);
  end.setUint32(0, 0x06054b50, true);
  [files.length, files.length].forEach((x, i) => end.setUint16(8 + 2 * i, x, true));
  [size, at].forEach((x, i) => end.setUint32(12 + 4 * i, x, true));
  return new Blob([...parts, ...central, end.buffer], { type: "application/zip" });
}

/** Face weights over time as `fastgha render --expr` reads them. */
export function npzOf(frames, names) {
  const values = Float32Array.from(frames.flatMap(({ weights }) => names.map((name) => weights[name] ?? 0)));
  const longest = Math.max(...names.map((name) => name.length));
  const letters = Uint32Array.from(names.flatMap((name) => [...name.padEnd(longest, "\0")].map((c) => c.codePointAt(0))));
  return zip([
    ["weights.npy", npy("<f4", [frames.length, names.length], new Uint8Array(values.buffer))],
    ["names.npy", npy(`<U${longest}`, [names.length], new Uint8Array(letters.buffer))],
    ["fps.npy", npy("<f4", [], new Uint8Array(Float32Array.of(FPS).buffer))],
  ]);
}

/** Face weights over time as the app Live Link Face writes them. */
export function csvOf(frames, names) {
  const title = (name) => name[0].toUpperCase() + name.slice(1), two = (x) => String(x).padStart(2, "0");
  const rows = frames.map(({ weights, pose }, i) => {
    const s = Math.floor(i / FPS), time = [s / 3600, (s / 60) % 60, s % 60].map((x) => two(Math.floor(x))).join(":");
    const head = [-pose.yaw, -pose.pitch, 0].map((x) => x.toFixed(5));
    return [`${time}:${two(i % FPS)}.000`, names.length, ...names.map((name) => (weights[name] ?? 0).toFixed(5)), ...head].join(",");
  });
  const columns = ["Timecode", "BlendshapeCount", ...names.map(title), "HeadYaw", "HeadPitch", "HeadRoll"];
  return new Blob([`${[columns.join(","), ...rows].join("\n")}\n`], { type: "text/csv" });
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function recordControls(head, button, say) {
  const toggle = button("actions", "Record", () => (timer ? stop() : start()), "Record the face: c");
  const kept = { npz: button("actions", "Save npz", () => save(npzOf(frames, names()), "face.npz")),
    csv: button("actions", "Save CSV", () => save(csvOf(frames, names()), "face.csv")),
    video: button("actions", "Save video", () => save(new Blob(film, { type: "video/webm" }), "head.webm")) };
  const offer = (face, video) => { kept.npz.hidden = kept.csv.hidden = !face; kept.video.hidden = !video; };
  offer(false, false);
  let timer, began, frames = [], film = [], recorder;
  const names = () => head.data.header.arkit.names;

  function start() {
    if (!head.data) return say("There is no head to record yet.");
    frames = [];
    const parts = film = [];
    offer(false, false);
    began = performance.now();
    timer = setInterval(() => {
      keep();
      head.refresh(); // a video has no frames of a picture that is not drawn again
    }, 1000 / FPS);
    toggle.textContent = "Stop";
    toggle.setAttribute("aria-pressed", true);
    if (typeof MediaRecorder !== "function" || !head.canvas.captureStream) return;
    recorder = new MediaRecorder(head.canvas.captureStream(FPS), { mimeType: "video/webm" });
    recorder.ondataavailable = ({ data }) => { if (data.size) parts.push(data); };
    recorder.onstop = () => { if (film === parts && !timer) offer(head.data.arkit && frames.length > 0, parts.length > 0); };
    recorder.start();
  }

  /** Keep the face of now; a busy page calls late, and then once for each frame that went by. */
  function keep() {
    const due = ((performance.now() - began) * FPS) / 1000, face = { weights: head.weights, pose: head.headPose };
    while (frames.length < due) frames.push(face);
  }

  function stop() {
    keep();
    clearInterval(timer);
    timer = null;
    toggle.textContent = "Record";
    toggle.setAttribute("aria-pressed", false);
    offer(head.data.arkit && frames.length > 0, false);
    if (recorder?.state === "recording") recorder.stop();
    say(`${(frames.length / FPS).toFixed(1)} seconds recorded.`);
  }

  return toggle;
}

// The page around <fastgha-avatar>: sliders, presets, keys, a still, a light and a dark side.
import { startApp } from "./app.js";
import { recordControls } from "./record.js";
import { webcamControls } from "./webcam.js";

const root = document.documentElement, head = document.querySelector("fastgha-avatar");
const settings = JSON.parse(root.dataset.settings || "{}"), asked = new URLSearchParams(location.search);
const still = matchMedia("(prefers-reduced-motion: reduce)"), dark = matchMedia("(prefers-color-scheme: dark)");
const panel = document.getElementById("panel"), list = document.getElementById("sliders");

const both = (...names) => names.flatMap((name) => [`${name}Left`, `${name}Right`]);
const all = (x, names) => Object.fromEntries(names.map((name) => [name, x]));
const PRESETS = {
  neutral: {},
  smile: { ...all(0.85, both("mouthSmile")), ...all(0.4, both("cheekSquint", "eyeSquint")) },
  blink: all(1, both("eyeBlink")),
  wow: { jawOpen: 0.6, mouthFunnel: 0.25, browInnerUp: 0.8, ...all(0.8, both("browOuterUp", "eyeWide")) },
  kiss: { mouthPucker: 0.9, mouthFunnel: 0.2 },
  frown: { ...all(0.8, both("browDown", "mouthFrown")), ...all(0.3, both("eyeSquint")) },
  wink: { eyeBlinkLeft: 1, mouthSmileLeft: 0.6, cheekSquintLeft: 0.5 },
};

/** Show a sentence for a moment. */
function say(text) {
  const box = document.getElementById("say");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => box.classList.remove("on"), 4500);
}

function button(row, text, act, title = "") {
  const made = document.createElement("button");
  made.textContent = text;
  if (title) made.title = title;
  made.onclick = act;
  document.getElementById(row).append(made);
  return made;
}

// Sliders: each sets some of the weights.
let sliders = [];
function unitsOf(control) { return control.units ?? [control.name]; }
function build() {
  list.replaceChildren();
  const regions = new Map();
  sliders = head.data.header.controls.map((control) => {
    if (!regions.has(control.region)) {
      const box = document.createElement("details");
      box.open = regions.size < 3;
      box.append(Object.assign(document.createElement("summary"), { textContent: control.region }));
      list.append(box);
      regions.set(control.region, box);
    }
    const label = document.createElement("label"), output = document.createElement("output");
    const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, value: 0 });
    input.id = `slider-${control.name.replaceAll(" ", "-")}`;
    input.oninput = () => {
      head.pause();
      glide.stop();
      head.set(all(input.value / 100, unitsOf(control)));
      output.textContent = input.value;
      mark("");
    };
    label.append(Object.assign(document.createElement("span"), { textContent: control.name }), input, output);
    regions.get(control.region).append(label);
    return { control, input, output };
  });
  for (const [name, weights] of Object.entries(PRESETS)) presets[name].hidden = !head.data.arkit && Object.keys(weights).length > 0;
  play.hidden = !head.data.frames;
}

/** Let the sliders show the weights. */
function follow() {
  const weights = head.weights;
  for (const { control, input, output } of sliders) {
    const value = Math.round(100 * Math.max(...unitsOf(control).map((unit) => weights[unit] ?? 0)));
    input.value = value;
    output.textContent = value || "";
  }
}

/** Go from the weights that are set to others, in a quarter of a second; `then`, after a moment, on. */
const glide = {
  to(weights, then) {
    this.stop();
    const from = head.weights, start = performance.now(), length = still.matches ? 1 : 260;
    const names = new Set([...Object.keys(from), ...Object.keys(weights)]);
    const step = () => {
      const t = Math.min(1, (performance.now() - start) / length), s = t * t * (3 - 2 * t);
      head.weights = Object.fromEntries([...names].map((n) => [n, (1 - s) * (from[n] ?? 0) + s * (weights[n] ?? 0)]));
      if (t < 1) this.timer = requestAnimationFrame(step);
      else {
        follow();
        if (then) this.later = setTimeout(then, 120);
      }
    };
    step();
  },
  stop() {
    cancelAnimationFrame(this.timer);
    clearTimeout(this.later);
  },
};

const presets = {};
function mark(name) {
  for (const [key, made] of Object.entries(presets)) made.setAttribute("aria-pressed", key === name);
}
function preset(name) {
  head.pause();
  mark(name);
  glide.to(PRESETS[name], name === "blink" ? () => preset("neutral") : null);
}
Object.keys(PRESETS).forEach((name, i) => { presets[name] = button("presets", name, () => preset(name), `Key ${i + 1}`); });

const play = button("actions", "Play", () => (head.playing ? head.pause() : head.play()), "Space");
button("actions", "Picture", download, "Download a still: s");
button("actions", "Reset", reset, "r");
const themes = button("actions", "Dark", () => theme(root.dataset.theme === "dark" ? "light" : "dark"), "Light or dark: t");
const alive = button("actions", "Idle", () => idle(!head.hasAttribute("idle")), "Blink and breathe: i");

function reset() {
  glide.stop();
  head.reset();
  follow();
  mark("neutral");
}

async function download() {
  const picture = await head.snapshot().catch((error) => say(error.message));
  if (!picture) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(picture);
  link.download = "head.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function theme(name) {
  root.dataset.theme = name;
  themes.textContent = name === "dark" ? "Light" : "Dark";
  head.setAttribute("background", getComputedStyle(root).getPropertyValue("--back").trim());
}

function idle(on) {
  head.toggleAttribute("idle", on);
  alive.setAttribute("aria-pressed", on);
  head.refresh();
}

const handle = document.getElementById("handle");
function drawer(open) {
  panel.classList.toggle("open", open);
  handle.setAttribute("aria-expanded", open);
}
handle.onclick = () => drawer(!panel.classList.contains("open"));

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, summary")) return;
  const names = Object.keys(PRESETS), keys = {
    " ": () => play.click(), s: download, r: reset, c: () => record.click(), w: () => webcam?.click(),
    t: () => themes.click(), i: () => alive.click(), Escape: () => drawer(false),
  };
  const act = keys[event.key] ?? (names[event.key - 1] && !presets[names[event.key - 1]].hidden ? () => preset(names[event.key - 1]) : null);
  if (!act || (event.key === " " && event.target.matches("button"))) return;
  event.preventDefault();
  act();
});

head.addEventListener("play", () => { play.textContent = "Pause"; mark(""); });
head.addEventListener("pause", () => { play.textContent = "Play"; });
head.addEventListener("ready", build);
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));

theme(asked.get("theme") ?? (dark.matches ? "dark" : "light"));
idle(!still.matches && asked.get("idle") !== "0");
mark("neutral");
if (asked.has("engine")) head.setAttribute("engine", asked.get("engine"));
if (Number(asked.get("size"))) head.setAttribute("size", Number(asked.get("size")));
if (asked.has("background")) head.setAttribute("background", asked.get("background"));
if (settings.app) startApp(head, say, drawer);
const webcam = webcamControls(head, settings, button, say, () => { glide.stop(); mark(""); follow(); });
const record = recordControls(head, button, say);
if (head.data) build();

if (asked.has("bench"))
  head.ready.then(async () => {
    if (!head.engine) return;
    idle(false);
    globalThis.BENCH = await head.bench(Number(asked.get("frames")) || 60);
    list.prepend(Object.assign(document.createElement("pre"), { id: "bench", textContent: JSON.stringify(globalThis.BENCH, null, 1) }));
  });

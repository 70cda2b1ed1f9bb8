// Driving by a webcam: what a face tracker sees, smoothed and freed of the resting face.
// The tracker (@mediapipe/tasks-vision) lies beside the page; no picture leaves it.

/** Weights that follow noisy ones: calm when they hardly change, quick when they do. */
class Smoother {
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

/** The resting face of a person: the mean of what was seen of it. */
class Neutral {
  sum = {}; count = 0;

  see(values) {
    for (const [name, x] of Object.entries(values)) this.sum[name] = (this.sum[name] ?? 0) + x;
    this.count++;
  }

  rest(name) { return this.count ? this.sum[name] / this.count || 0 : 0; }

  /** Weights beyond the resting ones, stretched so that 1 stays 1. */
  weights(values) {
    return Object.fromEntries(Object.entries(values).map(([name, x]) => {
      const rest = Math.min(this.rest(name), 0.6);
      return [name, Math.min(Math.max((x - rest) / (1 - rest), 0), 1)];
    }));
  }
}

/** Weights of ARKit's units of a tracker's result, and where the head looks, in radians. */
function seen(result) {
  const weights = Object.fromEntries((result.faceBlendshapes?.[0]?.categories ?? [])
    .filter(({ categoryName }) => !categoryName.startsWith("_"))
    .map(({ categoryName, score }) => [categoryName, score]));
  // By columns: the third is where the face looks; x to the right of the picture, y up, z to us.
  const m = result.facialTransformationMatrixes?.[0]?.data;
  return { weights, pose: m ? { yaw: -Math.atan2(m[8], m[10]), pitch: -Math.asin(Math.max(-1, Math.min(1, m[9]))) } : {} };
}

/** Whether the browser has what the tracker takes a camera's pictures with. */
function webgl() {
  const gl = document.createElement("canvas").getContext("webgl2");
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(gl);
}

const REASONS = {
  NotAllowedError: "The camera was refused. Allow it in the address bar and try again; the sliders still work.",
  NotFoundError: "There is no camera on this machine. The sliders still work.",
  NotReadableError: "Another program has the camera. Close it and try again.",
};
const CALIBRATION_MS = 1000;

export function webcamControls(head, settings, button, say, follow) {
  if (!settings.webcam) return null;
  const video = document.getElementById("camera"), base = new URL(settings.webcam, document.baseURI).href;
  const toggle = button("actions", "Webcam", () => (video.srcObject ? stop() : start()), "Your face drives the head: w");
  const again = button("actions", "Calibrate", calibrate, "Look calmly into the camera for a second");
  again.hidden = true;
  let tracker, smooth, neutral, calm = 0, last = -1;

  async function start() {
    if (location.protocol === "file:")
      return say("The webcam needs a page from a server. In this folder run: python3 -m http.server, then open http://localhost:8000.");
    if (!navigator.mediaDevices) return say("Browsers open cameras only on https and on localhost. The sliders still work.");
    if (!webgl()) return say("The webcam needs WebGL 2, which this browser has not. The sliders still work.");
    try {
      toggle.disabled = true;
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 }, audio: false });
      video.srcObject.getTracks().forEach((track) => { track.onended = () => stop("The camera is gone. The sliders still work."); });
      await video.play();
      say("The camera's pictures stay in this page. Look calmly into it for a second.");
      tracker ??= await load();
      if (!video.srcObject) return; // gone meanwhile
      head.pause();
      calibrate();
      video.hidden = again.hidden = false;
      toggle.setAttribute("aria-pressed", true);
      requestAnimationFrame(step);
    } catch (error) {
      stop(REASONS[error.name] ?? `The webcam cannot be used: ${error.message}`);
    } finally {
      toggle.disabled = false;
    }
  }

  async function load() {
    const missing = () => { throw new Error("its face tracker is not beside this page. Write the page with fastgha export web --webcam."); };
    const { FaceLandmarker } = await import(`${base}vision_bundle.mjs`).catch(missing);
    const files = { wasmLoaderPath: `${base}vision_wasm_internal.js`, wasmBinaryPath: `${base}vision_wasm_internal.wasm` };
    return FaceLandmarker.createFromOptions(files, {
      baseOptions: { modelAssetPath: `${base}face_landmarker.task` }, runningMode: "VIDEO", numFaces: 1,
      outputFaceBlendshapes: true, outputFacialTransformationMatrixes: true,
    }).catch(missing);
  }

  function calibrate() {
    smooth = new Smoother();
    neutral = new Neutral();
    calm = performance.now() + CALIBRATION_MS;
  }

  function step() {
    if (!video.srcObject) return;
    requestAnimationFrame(step);
    if (video.currentTime === last) return;
    last = video.currentTime;
    const now = performance.now();
    let found;
    try {
      found = tracker.detectForVideo(video, now);
    } catch (error) {
      tracker = null;
      return stop(`The face tracker has stopped: ${error.message}. The sliders still work.`);
    }
    const { weights, pose } = seen(found);
    if (!Object.keys(weights).length) return;
    const { yaw = 0, pitch = 0, ...face } = smooth.step({ ...weights, ...pose }, now / 1000);
    if (now < calm || !neutral.count) return neutral.see({ ...face, yaw, pitch });
    head.weights = neutral.weights(face);
    head.headPose = { yaw: yaw - neutral.rest("yaw"), pitch: pitch - neutral.rest("pitch") };
    follow();
  }

  function stop(why = "") {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    video.hidden = again.hidden = true;
    toggle.setAttribute("aria-pressed", false);
    head.headPose = {};
    if (why) say(why);
  }

  return toggle;
}

"""The page of an avatar, opened in a real browser without a screen."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.apps import web
from pipeline.apps.web import UNITS, export_web, sliders
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.camera_path import TARGET, orbit
from pipeline.bench.browser import executable
from pipeline.core.errors import (
    ConfigError,
    FormatError,
    InputError,
    MissingPackageError,
    MissingWeightsError,
)
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence, read_sequence
from pipeline.faces.layouts import ARKIT_NAMES, FLAME2023, MAKEHUMAN, arkit_to_code
from pipeline.model.baked import Baked
from pipeline.model.fastgha import FastGHA
from pipeline.synthetic.subject import Subject
from pipeline.system.assets import SEQUENCE
from tests.conftest import blob_views, plain

ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ARGUMENTS += ["--no-sandbox"]
ARGUMENTS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SIZE = 96
CASES: list[tuple[dict[str, float], dict[str, float]]] = [
    ({}, {}),
    ({"jawOpen": 1.0, "jawLeft": 0.3}, {}),
    ({"eyeBlinkLeft": 1.0, "eyeLookUpRight": 0.7, "eyeLookOutLeft": 0.5}, {"yaw": 0.5}),
    (
        {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.4, "browInnerUp": 1.0},
        {"yaw": -0.7, "pitch": 0.3},
    ),
    ({"mouthPucker": 0.6, "cheekPuff": 0.5}, {"pitch": -0.4, "distance": 0.6}),
]
"""Weights of face units, and where the camera is."""
NAMES = {
    "index.html",
    "page.js",
    "fastgha-avatar.js",
    "avatar.js",
    "LICENSES.txt",
    "package.json",
    "README.md",
}


@pytest.fixture(scope="module")
def light() -> Avatar:
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.02)
    exact = Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})
    return bake(exact, BakeConfig(tolerance_db=8, codes=48, held_out=2, size=48))[0]


@pytest.fixture(scope="module")
def site(light: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    sequence = read_sequence(SEQUENCE, MAKEHUMAN)
    return export_web(light, folder, Sequence(sequence.codes[:5], 25.0))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as program:
        chrome = program.chromium.launch(executable_path=chromium(program.chromium), args=ARGUMENTS)
        yield chrome
        chrome.close()


def chromium(kind: Any) -> str:
    try:
        return executable(kind.executable_path)
    except MissingPackageError as missing:
        pytest.skip(missing.problem)


HEAD = "document.querySelector('fastgha-avatar')"


def opened(
    browser: Any, address: str, wait: str = "firstPicture", **options: Any
) -> tuple[Any, list[str]]:
    page = browser.new_page(**{"viewport": {"width": 700, "height": 500}, **options})
    page.set_default_timeout(180_000)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on(
        "request", lambda request: faults.append(request.url) if _foreign(request.url) else None
    )
    page.goto(address)
    until(page, f"{HEAD}.{wait} || {HEAD}.message.textContent")
    said = page.evaluate(f"{HEAD}.message.textContent")
    assert "message" in wait or not said, said
    return page, faults


def until(page: Any, condition: str) -> None:
    """Wait for a condition; not by playwright's own way, which a page's policy may forbid."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{condition} never came")


def _foreign(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:", "http://127.0.0.1"))


def shown(page: Any, weights: dict[str, float], view: dict[str, float]) -> np.ndarray:
    """Photograph the head under weights from a view, with the page's own button."""
    data = page.evaluate(
        """async ([weights, view]) => {
            const head = document.querySelector("fastgha-avatar");
            head.weights = weights;
            head.view = { yaw: 0, pitch: 0, distance: 1, ...view };
            const bytes = new Uint8Array(await (await head.snapshot()).arrayBuffer());
            return btoa(String.fromCharCode(...bytes));
        }""",
        [weights, view],
    )
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    return np.asarray(picture.convert("RGB")).astype(float) / 255


def drawn(avatar: Avatar, weights: dict[str, float], view: dict[str, float]) -> np.ndarray:
    """Draw the same with the CPU renderer."""
    units = np.zeros(len(ARKIT_NAMES), np.float32)
    for name, weight in weights.items():
        units[ARKIT_NAMES.index(name)] = weight
    yaw, pitch = view.get("yaw", 0.0), view.get("pitch", 0.0)
    away = torch.tensor(
        [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    ).float()
    target = torch.tensor(TARGET)
    front = orbit(1, SIZE)[0]
    eye = target + view.get("distance", 1.0) * away
    camera = replace(front, world_to_camera=look_at(eye[None], target[None])[0])
    return avatar.render(arkit_to_code(units), camera).color.clamp(0, 1).numpy()


@pytest.mark.parametrize("engine", ["wasm", "webgl"])
def test_the_page_shows_what_the_cpu_renderer_shows(
    engine: str, browser: Any, site: Path, light: Avatar
):
    address = f"file://{site}?size={SIZE}&engine={engine}&idle=0&background=white"
    page, faults = opened(browser, address)
    assert page.evaluate(f"{HEAD}.engine.name") == engine
    # Shapes and colours come in few bits, the pictures in 8; an edge may move by a part of a pixel.
    for weights, view in CASES:
        gap = np.abs(shown(page, weights, view) - drawn(light, weights, view))
        assert gap.mean() < 0.004 and np.quantile(gap, 0.99) < 0.02, (weights, view)
    rest, turned = drawn(light, {}, {}), drawn(light, *CASES[-1])
    assert np.abs(rest - 1).mean() > 0.03, "there is a head to compare"
    assert np.abs(drawn(light, *CASES[1]) - rest).max() > 0.02, "the expression moves it"
    assert np.abs(turned - rest).mean() > 0.01, "the view turns it"
    assert faults == []
    page.close()


def test_the_page_makes_the_codes_that_we_make(browser: Any, site: Path):
    page, _ = opened(browser, f"file://{site}?size=16&idle=0")
    rng = np.random.default_rng(0)
    for scale in (1.0, 0.3):
        units = (scale * rng.random(52)).astype(np.float32)
        weights = dict(zip(ARKIT_NAMES, units.tolist(), strict=True))
        code = page.evaluate(f"weights => [...{HEAD}.data.code(weights)]", weights)
        np.testing.assert_allclose(code, arkit_to_code(units).values, atol=2e-5)
    page.close()


def test_what_is_recorded_comes_back_as_a_sequence(browser: Any, site: Path, tmp_path: Path):
    page, faults = opened(browser, f"file://{site}?size=32&idle=0")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.evaluate(f"{HEAD}.weights = {{ jawOpen: 0.75, mouthLeft: 0.25 }}")
    page.evaluate(f"globalThis.draws = 0; {HEAD}.addEventListener('draw', () => draws++)")
    page.keyboard.press("c")
    until(page, "draws > 5")
    # A page that is too busy to look at each frame loses none.
    page.evaluate("const end = performance.now() + 1500; while (performance.now() < end);")
    page.get_by_role("button", name="Stop").click()
    wanted = np.zeros(52, np.float32)
    wanted[[ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("mouthLeft")]] = 0.75, 0.25
    for kind, name in (("npz", "face.npz"), ("CSV", "face.csv")):
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Save {kind}").click()
        saved.value.save_as(tmp_path / name)
        sequence = read_expressions(tmp_path / name, MAKEHUMAN)
        assert len(sequence) >= 45
        for values in sequence.codes.values:
            np.testing.assert_allclose(values, arkit_to_code(wanted).values, atol=1e-4)
    assert read_expressions(tmp_path / "face.npz").fps == 30
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save video").click()
    saved.value.save_as(tmp_path / "head.webm")
    with av.open(str(tmp_path / "head.webm")) as film:
        assert film.streams.video[0].width == 32
        assert len(list(film.decode(video=0))) >= 1
    assert faults == []
    page.close()


STAND_IN = """
// In place of the tracker, whose weights are not here: a face that opens its jaw in a sine, after a
// second at rest with the mouth a little open. It wants the pictures of the camera to be there.
export class FaceLandmarker {
  static async createFromOptions(files, options) {
    if (!options.baseOptions.modelAssetPath.endsWith("webcam/face_landmarker.task")) throw Error();
    return new FaceLandmarker();
  }
  detectForVideo(video, time) {
    if (!(video.videoWidth > 0)) throw Error("no picture");
    this.start ??= time;
    const t = (time - this.start) / 1000;
    const open = t < 1.2 ? 0.2 : 0.2 + 0.4 * (1 - Math.cos(1.5 * (t - 1.2)));
    globalThis.truth = { jawOpen: (open - 0.2) / 0.8, yaw: t < 1.2 ? 0 : 0.4 };
    const yaw = globalThis.truth.yaw, c = Math.cos(yaw), s = Math.sin(yaw);
    const categories = [["_neutral", 0.9], ["jawOpen", open], ["eyeBlinkLeft", 0.05]];
    const named = categories.map(([categoryName, score]) => ({ categoryName, score }));
    return {
      faceBlendshapes: [{ categories: named }],
      facialTransformationMatrixes: [{ data: [c, 0, -s, 0, 0, 1, 0, 0, s, 0, c, 0, 0, 0, 0, 1] }],
    };
  }
}
"""


@contextmanager
def webcam_page(avatar: Avatar, out: Path) -> Generator[str]:
    """Serve a page that a webcam drives from a server of files."""
    codes = read_sequence(SEQUENCE, MAKEHUMAN).codes
    export_web(avatar, out, Sequence(codes[:2], 25.0), webcam=True)

    class Files(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(out)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def served(light: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with a webcam on a server of files, with a stand-in for the tracker."""
    tracker = tmp_path / "weights"
    tracker.mkdir()
    for name in ("face_landmarker.task", "vision_wasm_internal.js", "vision_wasm_internal.wasm"):
        (tracker / name).write_bytes(b"")
    (tracker / "vision_bundle.mjs").write_text(STAND_IN)
    monkeypatch.setattr(web, "tracker_files", lambda: sorted(tracker.iterdir()))
    with webcam_page(light, tmp_path / "site") as address:
        yield address


def test_a_face_before_the_camera_drives_the_head(browser: Any, served: str):
    page, faults = opened(browser, f"{served}?size=32&idle=0")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.keyboard.press("w")
    until(page, "document.getElementById('say').textContent.includes('stay in this page')")
    until(page, f"{HEAD}.weights.jawOpen > 0.3")
    pairs = page.evaluate(
        """async () => {
            const head = document.querySelector("fastgha-avatar"), pairs = [];
            for (let i = 0; i < 120; i++) {
                pairs.push([globalThis.truth.jawOpen, head.weights.jawOpen, head.headPose.yaw]);
                await new Promise((go) => setTimeout(go, 50));
            }
            return pairs;
        }"""
    )
    truth, jaw, yaw = np.array(pairs).T
    assert np.corrcoef(truth, jaw)[0, 1] > 0.9
    assert jaw.min() < 0.25 and jaw.max() > 0.75, "the resting mouth counts as shut"
    assert yaw[-1] == pytest.approx(-0.4, abs=0.05), "a head that turns left shows its right side"
    assert page.evaluate(f"{HEAD}.weights.eyeBlinkLeft") < 0.02
    page.get_by_role("button", name="Webcam").click()
    assert page.evaluate("document.getElementById('camera').srcObject") is None
    assert faults == []
    page.close()


FILM_SIZE = (320, 240)
FILM_FPS = 10


def filmed(path: Path) -> np.ndarray:
    """Film a drawn person who rests, opens the jaw three times, the second time with shut eyes.

    Each frame says its number in its upper left corner: eight squares, white for a 1.

    Returns:
        The weights of `ARKIT_NAMES` in each frame.
    """
    width, height = FILM_SIZE
    weights = np.zeros((84, len(ARKIT_NAMES)), np.float32)
    rest, period = 24, 20
    turn = 2 * np.pi * np.arange(3 * period) / period
    weights[rest:, ARKIT_NAMES.index("jawOpen")] = np.round(0.35 * (1 - np.cos(turn)), 3)
    shut = [ARKIT_NAMES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
    weights[rest + period : rest + 2 * period, shut] = 1
    focal = height / 0.42
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    before = look_at(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3))[0]
    camera = Camera(before, K, width, height)
    person = Subject.sample(3)
    drawn: dict[bytes, np.ndarray] = {}
    with path.open("wb") as film:
        film.write(f"YUV4MPEG2 W{width} H{height} F{FILM_FPS}:1 Ip A1:1 C420jpeg\n".encode())
        for i, face in enumerate(weights):
            key = face.tobytes()
            if key not in drawn:
                drawn[key] = person.render(face, camera, whole=True).rgb
            picture = drawn[key].copy()
            for bit in range(8):
                picture[:16, 16 * bit : 16 * bit + 16] = 255 * (i >> bit & 1)
            y, *chroma = Image.fromarray(picture).convert("YCbCr").split()
            planes = [y, *(plane.reduce(2) for plane in chroma)]
            film.write(b"FRAME\n" + b"".join(plane.tobytes() for plane in planes))
    return weights


FOLLOW = """async () => {
    // Which frame the tracker saw, and what the head did then. It gets a copy: that a video is
    // still at the same frame when the tracker looks at it cannot be known.
    const head = document.querySelector("fastgha-avatar");
    const address = new URL("webcam/vision_bundle.mjs", document.baseURI).href;
    const { FaceLandmarker } = await import(address);
    const detect = FaceLandmarker.prototype.detectForVideo;
    const corner = new OffscreenCanvas(128, 16).getContext("2d", { willReadFrequently: true });
    let calibrated = false;
    globalThis.rows = [];
    FaceLandmarker.prototype.detectForVideo = function (video, time) {
        const frame = new VideoFrame(video);
        corner.drawImage(frame, 0, 0, 128, 16, 0, 0, 128, 16);
        const { data } = corner.getImageData(0, 0, 128, 16);
        let number = 0;
        for (let bit = 0; bit < 8; bit++)
            number |= (data[4 * (8 * 128 + 16 * bit + 8)] > 128) << bit;
        if (!calibrated && number < 12) {
            calibrated = true;
            const buttons = [...document.querySelectorAll("button")];
            buttons.find((button) => button.textContent === "Calibrate").click();
        }
        const result = detect.call(this, frame, time), follows = calibrated;
        frame.close();
        queueMicrotask(() => {
            const { jawOpen, eyeBlinkLeft } = head.weights;
            if (follows) globalThis.rows.push([time, number, jawOpen ?? 0, eyeBlinkLeft ?? 0]);
        });
        return result;
    };
}"""


def test_a_filmed_face_drives_the_head_through_the_tracker_itself(
    browser: Any, light: Avatar, tmp_path: Path
):
    try:
        web.tracker_files()
    except (MissingWeightsError, FormatError):
        pytest.skip("the face tracker is not here: fastgha weights fetch webcam")
    truth = filmed(tmp_path / "face.y4m")
    film = f"--use-file-for-fake-video-capture={tmp_path / 'face.y4m'}"
    found = browser.browser_type.launch(
        executable_path=chromium(browser.browser_type), args=[*ARGUMENTS, film]
    )
    with webcam_page(light, tmp_path / "site") as address:
        page, faults = opened(found, f"{address}?size=32&idle=0")
        page.set_viewport_size({"width": 1000, "height": 700})
        page.evaluate(FOLLOW)
        page.get_by_role("button", name="Webcam").click()
        # A slow machine sees few frames of each second: wait for some of all that the film shows.
        seen = "rows.filter(([, number]) => number >= {} && number < {}).length >= 8"
        until(page, " && ".join(seen.format(a, a + 20) for a in (24, 44, 64)))
        rows = np.array(page.evaluate("rows"))
        found.close()
    rows = rows[rows[:, 0] > rows[0, 0] + 1200]  # after the second that counts as rest
    assert len(rows) >= 20
    shown = truth[rows[:, 1].astype(int)]
    jaw, lids = (ARKIT_NAMES.index(name) for name in ("jawOpen", "eyeBlinkLeft"))
    assert np.corrcoef(shown[:, jaw], rows[:, 2])[0, 1] > 0.9
    assert np.corrcoef(shown[:, lids], rows[:, 3])[0, 1] > 0.9
    assert [fault for fault in faults if not fault.startswith("INFO:")] == []


def _camera_gives(error: str) -> str:
    refusal = f"() => Promise.reject(new DOMException('', '{error}'))"
    return f"navigator.mediaDevices.getUserMedia = {refusal}"


NO_WEBGL = (
    "HTMLCanvasElement.prototype.getContext = ((get) => function (kind, ...more) {"
    " return kind === 'webgl2' ? null : get.call(this, kind, ...more) })"
    "(HTMLCanvasElement.prototype.getContext)"
)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_camera_gives("NotAllowedError"), "was refused"),
        (_camera_gives("NotFoundError"), "There is no camera"),
        ("Object.defineProperty(navigator, 'mediaDevices', {})", "only on https"),
        (NO_WEBGL, "needs WebGL 2"),
    ],
    ids=["refused", "none", "no https", "no WebGL"],
)
def test_a_camera_that_cannot_be_used_is_said(fault: str, said: str, browser: Any, served: str):
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(180_000)
    page.add_init_script(fault)
    page.goto(f"{served}?size=32&idle=0")
    page.get_by_role("button", name="Webcam").click()
    until(page, f"document.getElementById('say').textContent.includes('{said}')")
    page.close()


def test_a_camera_or_tracker_that_fails_later_is_said_and_left(
    browser: Any, served: str, tmp_path: Path
):
    page, faults = opened(browser, f"{served}?size=32&idle=0")
    page.set_viewport_size({"width": 1000, "height": 700})
    camera, say = "document.getElementById('camera')", "document.getElementById('say').textContent"
    page.keyboard.press("w")
    until(page, f"{HEAD}.weights.jawOpen > 0.3")
    page.evaluate(f"{camera}.srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert "camera is gone" in page.evaluate(say)
    assert page.evaluate(f"{camera}.srcObject") is None
    page.evaluate(f"{HEAD}.weights = {{}}")
    page.keyboard.press("w")
    until(page, f"{HEAD}.weights.jawOpen > 0.3")
    page.evaluate(f"Object.defineProperty({camera}, 'videoWidth', {{ value: 0 }})")
    until(page, f"{say}.includes('has stopped: no picture')")
    assert page.evaluate(f"{camera}.srcObject") is None
    assert faults == []
    page.close()
    (tmp_path / "site" / "webcam" / "vision_bundle.mjs").unlink()
    page, _ = opened(browser, f"{served}?size=32&idle=0")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.keyboard.press("w")
    until(page, f"{say}.includes('not beside this page')")
    page.close()


def test_a_webcam_needs_its_tracker_and_face_units(
    light: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    sequence = read_sequence(SEQUENCE, MAKEHUMAN)
    with pytest.raises(MissingWeightsError, match="weights fetch face_landmarker"):
        export_web(light, tmp_path / "site", sequence, webcam=True)
    assert not (tmp_path / "site").exists()
    with pytest.raises(ConfigError, match="Leave out --webcam"):
        export_web(replace(light, layout=FLAME2023), tmp_path / "site", sequence, webcam=True)


def test_a_slider_a_preset_and_the_keys_move_the_face(browser: Any, site: Path):
    page, faults = opened(browser, f"file://{site}?size=64&idle=0")
    page.eval_on_selector("#slider-jaw", "e => { e.value = 70; e.oninput() }")
    assert page.evaluate(f"{HEAD}.weights.jawOpen") == 0.7
    page.keyboard.press("2")
    until(page, f"{HEAD}.weights.mouthSmileLeft === 0.85")
    assert page.evaluate(f"{HEAD}.weights.jawOpen") == 0
    until(page, "document.querySelector('#slider-smile').value === '85'")
    page.locator("canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{HEAD}.view.yaw") > 0
    page.keyboard.press("r")
    assert page.evaluate(f"{HEAD}.view.yaw") == 0 and page.evaluate(f"{HEAD}.weights") == {}
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.keyboard.press(" ")
    until(page, f"{HEAD}.playing")
    assert faults == []
    page.close()


def test_what_follows_a_blink_is_not_undone_by_its_end(browser: Any, site: Path):
    page, faults = opened(browser, f"file://{site}?size=64&idle=0")
    page.evaluate(
        f"""async () => {{
            const press = (name) => [...document.querySelectorAll("#presets button")]
                .find((button) => button.textContent === name).click();
            press("blink");
            while ({HEAD}.weights.eyeBlinkLeft !== 1) await new Promise(requestAnimationFrame);
            press("smile");
        }}"""
    )
    until(page, f"{HEAD}.weights.mouthSmileLeft === 0.85")
    page.wait_for_timeout(600)
    assert page.evaluate(f"{HEAD}.weights.mouthSmileLeft") == 0.85
    assert faults == []
    page.close()


EMBEDDED = """<!doctype html><script src="fastgha-avatar.js"></script>
<fastgha-avatar src="avatar.js" size="64" background="transparent"></fastgha-avatar>
<fastgha-avatar src="gone.js" size="64"></fastgha-avatar>
<script>
  document.querySelectorAll("fastgha-avatar")[1]
    .addEventListener("error", (event) => { globalThis.told = event.detail; });
</script>"""


def test_the_element_lives_in_a_page_of_its_own(browser: Any, site: Path, tmp_path: Path):
    shutil.copytree(site.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.html").write_text(EMBEDDED)
    page, faults = opened(browser, f"file://{tmp_path}/mine.html")
    until(page, "globalThis.told")
    assert "cannot be read" in page.evaluate("told")
    page.evaluate(
        f"""void (async () => {{
            const head = {HEAD}, alphas = [];
            const alpha = async () => {{
                const picture = await createImageBitmap(await head.snapshot());
                const context = new OffscreenCanvas(64, 64).getContext("2d");
                context.drawImage(picture, 0, 0);
                const of = (x, y) => context.getImageData(x, y, 1, 1).data[3];
                return [picture.width, of(0, 0), of(32, 32)];
            }};
            head.set({{ jawOpen: 0.5 }});
            alphas.push(await alpha());
            // Its avatar is taken away while a picture is drawn: by another one, by moving it.
            for (const change of [
                () => head.setAttribute("src", "./avatar.js?"),
                () => head.setAttribute("engine", "webgl"),
                () => document.body.append(head),
            ]) {{
                const drawn = head.snapshot().catch(() => null);
                await Promise.resolve();
                change();
                await Promise.all([drawn, head.ready]);
                alphas.push(await alpha(), head.engine.name);
            }}
            globalThis.seen = [alphas, head.weights];
        }})()"""
    )
    until(page, "globalThis.seen")
    seen = page.evaluate("seen")
    assert seen[1] == {"jawOpen": 0.5}
    for size, corner, middle in (alpha for alpha in seen[0] if isinstance(alpha, list)):
        assert size == 64 and corner == 0 and middle > 200
    assert [name for name in seen[0] if isinstance(name, str)] == ["wasm", "webgl", "webgl"]
    assert all("gone.js" in fault or "ERR_FILE_NOT_FOUND" in fault for fault in faults)
    page.close()


def test_npm_takes_the_folder(light: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    (tmp_path / "vision_bundle.mjs").write_text("")
    monkeypatch.setattr(web, "tracker_files", lambda: [tmp_path / "vision_bundle.mjs"])
    codes = read_sequence(SEQUENCE, MAKEHUMAN).codes
    export_web(light, tmp_path / "site", Sequence(codes[:2], 25.0), webcam=True)
    done = subprocess.run(
        [npm, "pack", "--dry-run", "--json"], cwd=tmp_path / "site", capture_output=True,
        text=True, timeout=600, check=True,
    )  # fmt: skip
    packed = {file["path"] for file in json.loads(done.stdout)[0]["files"]}
    assert packed == NAMES | {"webcam/vision_bundle.mjs"}


def test_a_frame_that_began_before_play_was_pressed_does_not_stop_it(browser: Any, site: Path):
    page, faults = opened(browser, f"file://{site}?size=64&idle=0")
    page.evaluate(
        f"""() => {{
            const now = performance.now;
            performance.now = () => now.call(performance) + 300;
            {HEAD}.play();
            performance.now = now;
        }}"""
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert page.evaluate(f"{HEAD}.playing")
    assert faults == []
    page.close()


def test_fingers_turn_the_head_and_bring_it_nearer(browser: Any, site: Path):
    phone = {"viewport": {"width": 390, "height": 747}, "has_touch": True, "is_mobile": True}
    page, faults = opened(browser, f"file://{site}?size=64&idle=0", **phone)
    screen = page.context.new_cdp_session(page)
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def view() -> dict[str, float]:
        return page.evaluate(f"{HEAD}.view")

    touch("touchStart", (x, y))
    touch("touchMove", (x + 40, y))
    touch("touchEnd")
    until(page, f"{HEAD}.view.yaw < -0.1")
    assert view()["distance"] == 1 and abs(view()["pitch"]) < 0.05
    assert page.evaluate("window.scrollY") == 0

    touch("touchStart", (x - 20, y), (x + 20, y))
    touch("touchMove", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    touch("touchEnd")
    until(page, f"{HEAD}.view.distance < 0.7")
    assert faults == []
    page.close()


def test_an_idle_face_moves_unless_the_reader_wants_little_motion(browser: Any, site: Path):
    page, _ = opened(browser, f"file://{site}?size=32")
    page.evaluate(f"globalThis.draws = 0; {HEAD}.addEventListener('draw', () => draws++)")
    until(page, "globalThis.draws > 3")
    page.emulate_media(reduced_motion="reduce")
    for _ in range(20):  # until the last picture, which is sharp, is drawn
        before = page.evaluate("globalThis.draws")
        page.wait_for_timeout(1500)
        if page.evaluate("globalThis.draws") == before:
            break
    else:
        pytest.fail("it goes on moving")
    page.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2] + b'"', "damaged"),
        (lambda data: data.replace(b'"H4sI', b'"H4sX'), "damaged"),
        (lambda data: b"", "damaged"),
        (None, "cannot be read"),
    ],
)
def test_a_page_says_what_is_wrong_with_its_avatar(
    spoil: Any, said: str, browser: Any, site: Path, tmp_path: Path
):
    shutil.copytree(site.parent, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "avatar.js"
    data = file.read_bytes()
    file.unlink()
    if spoil is not None:
        file.write_bytes(spoil(data))
    page, _ = opened(browser, f"file://{tmp_path}/index.html?size=64", "message.textContent")
    assert said in page.evaluate(f"{HEAD}.message.textContent")
    page.close()


def test_an_avatar_of_many_megabytes_is_read(browser: Any, site: Path, tmp_path: Path):
    shutil.copytree(site.parent, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "avatar.js"
    before, packed, after = file.read_text().split('"')
    # What comes after the arrays is not looked at, but has to be gone through.
    ballast = np.random.default_rng(0).bytes(12 * 2**20)
    large = gzip.compress(gzip.decompress(base64.b64decode(packed)) + ballast, 1)
    file.write_text(f'{before}"{base64.b64encode(large).decode()}"{after}')
    page, faults = opened(browser, f"file://{tmp_path}/index.html?size=64&idle=0")
    assert not faults
    page.close()


def test_a_browser_that_cannot_draw_gets_a_sentence(browser: Any, site: Path):
    page = browser.new_page()
    page.set_default_timeout(180_000)
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(f"file://{site}?size=64")
    until(page, f"{HEAD}.message.textContent")
    assert "WebAssembly SIMD" in page.evaluate(f"{HEAD}.message.textContent")
    page.close()
    page = browser.new_page()
    page.set_default_timeout(180_000)
    page.add_init_script(NO_WEBGL)
    page.goto(f"file://{site}?size=64&idle=0")
    until(page, f"{HEAD}.firstPicture")
    assert page.evaluate(f"{HEAD}.engine.name") == "wasm"
    page.close()


def test_the_benchmark_of_the_page_names_machine_and_frames_a_second(browser: Any, site: Path):
    page, faults = opened(browser, f"file://{site}?size=64&bench&frames=8")
    until(page, "window.BENCH")
    found = page.evaluate("window.BENCH")
    assert found["fps"] > 0 and found["frames"] == 8 and found["width"] == 64
    assert found["first_picture_ms"] > 0 and found["engine"] == "wasm"
    assert "Chrome" in found["agent"] and faults == []
    assert "median_ms" in page.text_content("#bench")
    page.close()


def test_the_page_forbids_itself_other_addresses(browser: Any, site: Path):
    page, _ = opened(browser, f"file://{site}?size=16&idle=0")
    page.evaluate(
        """() => {
            addEventListener("securitypolicyviolation", (event) => {
                globalThis.forbidden = event.effectiveDirective;
            });
            fetch("https://127.0.0.1:9/").catch(() => { globalThis.tried = true; });
        }"""
    )
    until(page, "globalThis.tried")
    until(page, "globalThis.forbidden === 'connect-src'")
    page.close()


def test_the_folder_is_whole_small_and_asks_nobody(site: Path):
    files = {path.name: path for path in site.parent.iterdir()}
    assert set(files) == NAMES
    assert sum(path.stat().st_size for path in files.values()) < 4e5, "all but the avatar"
    page = files["index.html"].read_text()
    assert "://" not in page and "{{" not in page and "not a recording" in page
    assert json.loads(files["package.json"].read_text())["main"] in files
    assert "Apache" in files["LICENSES.txt"].read_text()


def test_shapes_in_8_bits_are_within_half_a_step(light: Avatar):
    net = light.deformation
    assert isinstance(net, Baked)
    levels, steps = web._bytes_of(net.shapes)
    back = levels.permute(1, 2, 0).float() * steps[:, None]
    assert ((back - net.shapes).abs() <= 0.501 * steps[:, None] + 1e-12).all()
    assert levels.abs().amax() == 127


def test_the_avatar_file_is_laid_out_as_its_header_says(light: Avatar):
    net = light.deformation
    assert isinstance(net, Baked)
    m = len(light.canonical) // 2
    fewer = Baked.of(net, net.shapes[:, :m], net.mean[:m])
    loud = replace(light.canonical, colors=light.canonical.colors + 5)
    avatar = replace(light, deformation=fewer, head=replace(light.head, gaussians=loud))
    codes = read_sequence(SEQUENCE, MAKEHUMAN).codes[:3]
    script = web.avatar_script(avatar, Sequence(codes, 25.0)).decode()
    data = gzip.decompress(base64.b64decode(script.split('"')[1]))
    room = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + room])
    found: dict[str, np.ndarray] = {}
    end = 4 + room
    for name, (kind, start, count) in header["arrays"].items():
        assert start == end and start % 4 == 0, name
        found[name] = np.frombuffer(data, kind, count, start)
        end = start + -(-found[name].nbytes // 4) * 4
    assert end == len(data)
    np.testing.assert_allclose(found["means"].reshape(-1, 3), loud.means, atol=1e-7)
    np.testing.assert_allclose(found["codes"].reshape(-1, 120), codes.values, atol=2e-3)
    colors = found["colors"].reshape(-1, 3)
    assert colors[:m].min() > 4, "what moves is cut after it has moved"
    assert colors[m:].max() == 1, "what stays is cut as the renderer's is"


def test_the_built_files_are_of_the_sources_beside_them():
    """`tools/build_web.sh --check` proves it; this tells when it was forgotten."""
    tools = Path(__file__).parents[2] / "tools"
    sources = tools / "web"
    order = [*sorted(sources.glob("*.js")), *sorted(sources.glob("*.c"))]
    order += [*sorted(sources.glob("*.html")), *sorted(sources.glob("*.md"))]
    order += [sources / "LICENSES.txt", tools / "build_web.sh"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in order)).hexdigest()
    assert (web.WEB / "sources.sha256").read_text().strip() == digest


def test_only_baked_avatars_have_pages_and_every_layout_has_sliders(light: Avatar, tmp_path: Path):
    assert set(sliders(MAKEHUMAN)) == set(UNITS) and len(sliders(FLAME2023)) == 8
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    exact = Avatar.create(model, blob_views(1, 64), MAKEHUMAN, {})
    with pytest.raises(ConfigError, match="fastgha bake"):
        export_web(exact, tmp_path, read_sequence(SEQUENCE, MAKEHUMAN))


def test_a_page_is_written_whole_or_not_at_all(
    light: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(data: bytes, part: Path) -> None:
        part.write_bytes(data[:9])
        if "index" in part.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(part))

    sequence = read_sequence(SEQUENCE, MAKEHUMAN)
    with monkeypatch.context() as patch:
        patch.setattr(web, "_put", full)
        with pytest.raises(InputError, match="Cannot write .*index.html"):
            export_web(light, tmp_path / "site", sequence)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / f".avatar.js.{2**22 + 1}.part").write_text("of a killed run")
    export_web(light, tmp_path / "site", sequence)
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert names == NAMES

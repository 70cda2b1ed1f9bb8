"""The page of an avatar, opened in a real browser without a screen."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import io
import json
import shutil
import threading
from collections.abc import Iterator
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
    InputError,
    MissingPackageError,
    MissingWeightsError,
)
from pipeline.core.geometry import look_at
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence, read_sequence
from pipeline.faces.layouts import ARKIT_NAMES, FLAME2023, MAKEHUMAN, arkit_to_code
from pipeline.model.baked import Baked
from pipeline.model.fastgha import FastGHA
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
        try:
            found = executable(program.chromium.executable_path)
        except MissingPackageError as missing:
            pytest.skip(missing.problem)
        chrome = program.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chrome
        chrome.close()


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
    for _ in range(3600):
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
    page.get_by_role("button", name="Record").click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop").click()
    wanted = np.zeros(52, np.float32)
    wanted[[ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("mouthLeft")]] = 0.75, 0.25
    for kind, name in (("npz", "face.npz"), ("CSV", "face.csv")):
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Save {kind}").click()
        saved.value.save_as(tmp_path / name)
        sequence = read_expressions(tmp_path / name, MAKEHUMAN)
        assert len(sequence) >= 5
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


@pytest.fixture
def served(light: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with a webcam on a server of files, with a stand-in for the tracker."""
    tracker = tmp_path / "weights"
    tracker.mkdir()
    for name in ("face_landmarker.task", "vision_wasm_internal.js", "vision_wasm_internal.wasm"):
        (tracker / name).write_bytes(b"")
    (tracker / "vision_bundle.mjs").write_text(STAND_IN)
    monkeypatch.setattr(web, "tracker_files", lambda: sorted(tracker.iterdir()))
    out = tmp_path / "site"
    codes = read_sequence(SEQUENCE, MAKEHUMAN).codes
    export_web(light, out, Sequence(codes[:2], 25.0), webcam=True)

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


def test_a_face_before_the_camera_drives_the_head(browser: Any, served: str):
    page, faults = opened(browser, f"{served}?size=32&idle=0")
    page.set_viewport_size({"width": 1000, "height": 700})
    page.get_by_role("button", name="Webcam").click()
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


@pytest.mark.parametrize(
    ("fault", "said"), [("NotAllowedError", "was refused"), ("NotFoundError", "There is no camera")]
)
def test_a_camera_that_cannot_be_used_is_said(fault: str, said: str, browser: Any, served: str):
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(180_000)
    refusal = f"() => Promise.reject(new DOMException('', '{fault}'))"
    page.add_init_script(f"navigator.mediaDevices.getUserMedia = {refusal}")
    page.goto(f"{served}?size=32&idle=0")
    page.get_by_role("button", name="Webcam").click()
    until(page, f"document.getElementById('say').textContent.includes('{said}')")
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
    page.wait_for_timeout(1500)
    before = page.evaluate("globalThis.draws")
    page.wait_for_timeout(1500)
    assert page.evaluate("globalThis.draws") == before
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
    page.add_init_script(
        "HTMLCanvasElement.prototype.getContext = ((get) => function (kind, ...more) {"
        " return kind === 'webgl2' ? null : get.call(this, kind, ...more) })"
        "(HTMLCanvasElement.prototype.getContext)"
    )
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


def test_the_folder_is_whole_small_and_asks_nobody(site: Path):
    files = {path.name: path for path in site.parent.iterdir()}
    assert set(files) == NAMES
    assert sum(path.stat().st_size for path in files.values()) < 4e5, "all but the avatar"
    page = files["index.html"].read_text()
    assert "http" not in page and "{{" not in page and "not a recording" in page
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

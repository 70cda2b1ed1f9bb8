"""The page of an avatar, opened in a real browser without a screen."""

from __future__ import annotations

import base64
import errno
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.apps import web
from pipeline.apps.web import UNITS, export_web, sliders
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.camera_path import orbit
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.types import ExpressionCode
from pipeline.expressions.sequences import Sequence, read_sequence
from pipeline.faces.layouts import FLAME2023, MAKEHUMAN, neutral_code
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import SEQUENCE
from tests.conftest import blob_views, plain

ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ARGUMENTS += ["--no-sandbox"]


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
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as program:
        chrome = program.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chrome
        chrome.close()


def opened(browser: Any, address: str) -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": 700, "height": 500})
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.goto(address)
    page.wait_for_function("window.FASTGHA_VIEW && FASTGHA_VIEW.posed() > 0", timeout=60_000)
    return page, faults


def canvas(page: Any) -> np.ndarray:
    data = page.evaluate("document.querySelector('canvas').toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(data.split(",")[1])))
    return np.asarray(picture.convert("RGB")).astype(float) / 255


def test_the_page_shows_what_the_cpu_renderer_shows(browser: Any, site: Path, light: Avatar):
    page, faults = opened(browser, f"file://{site}?size=128")
    page.wait_for_timeout(1500)
    code = ExpressionCode(neutral_code(MAKEHUMAN).values, MAKEHUMAN)
    ours = light.render(code, orbit(1, 128)[0]).color.clamp(0, 1).numpy()
    shown = canvas(page)
    assert shown.shape == ours.shape
    # Spark keeps places, sizes and colours in few bits; a mean of 3 in 255, edges more.
    assert np.abs(shown - ours).mean() < 0.012
    assert np.abs(ours - 1).mean() > 0.03, "there is a head to compare"
    before = shown
    page.eval_on_selector("#slider-jaw", "e => { e.value = 1; e.oninput() }")
    page.wait_for_timeout(1500)
    code = ExpressionCode(code.values + sliders(MAKEHUMAN)["jaw"], MAKEHUMAN)
    moved = light.render(code, orbit(1, 128)[0]).color.clamp(0, 1).numpy()
    assert np.abs(canvas(page) - moved).mean() < 0.012
    assert np.abs(canvas(page) - before).max() > 0.02
    assert faults == []
    page.close()


def test_the_benchmark_of_the_page_names_machine_and_frames_a_second(browser: Any, site: Path):
    page, faults = opened(browser, f"file://{site}?size=64&bench")
    page.wait_for_function("window.BENCH", timeout=120_000)
    found = page.evaluate("window.BENCH")
    assert found["fps"] > 0 and found["frames"] == 60 and found["width"] == 64
    assert "Chrome" in found["agent"] and faults == []
    page.close()


def test_the_folder_is_whole_small_and_asks_nobody(site: Path):
    files = {path.name: path for path in site.parent.iterdir()}
    assert set(files) == {"index.html", "avatar.js", "viewer.js", "LICENSES.txt"}
    assert sum(path.stat().st_size for path in files.values()) < 5e6
    page = files["index.html"].read_text()
    assert "http" not in page and "{{" not in page and "not a recording" in page
    assert "MIT" in files["LICENSES.txt"].read_text()


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
    assert names == {"avatar.js", "viewer.js", "LICENSES.txt", "index.html"}

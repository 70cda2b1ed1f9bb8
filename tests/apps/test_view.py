"""The viewer: driven by its controls, and photographed in a browser."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.avatar.avatar import Avatar
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import SEQUENCE
from tests.apps.test_web import browser as browser
from tests.conftest import blob_views, plain

pytest.importorskip("viser", reason="viser is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's threads


@pytest.fixture(scope="module")
def running():
    from pipeline.apps.viewer import Viewer

    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.05)
    avatar = Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    viewer = Viewer({"as it is": avatar}, read_sequence(SEQUENCE, MAKEHUMAN), port=port)
    yield viewer
    viewer.close()


def test_it_listens_on_this_machine_only_and_its_sliders_move_the_face(running):
    assert running.address.startswith("http://127.0.0.1:")
    rest = running.code().values
    running.parts["jaw"].value = 1.0
    moved = running.code().values
    assert not torch.equal(rest[100:106], moved[100:106])
    running.raw[0].value = 2.0
    assert float(running.code().values[0]) == pytest.approx(float(moved[0]) + 2, abs=1e-5)
    running.show()
    assert "Gaussians, posed in" in running.speed.content
    running.playing.value = True
    assert torch.equal(
        running.code().values, running.sequence.codes[running._frame % len(running.sequence)].values
    )
    running.playing.value = False


def test_a_browser_shows_the_head(running, browser, tmp_path: Path):
    page = browser.new_page(viewport={"width": 500, "height": 400})
    page.goto(running.address)
    page.wait_for_selector("canvas", timeout=60_000)
    for _ in range(20):
        page.wait_for_timeout(1000)
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        middle = picture[120:280, 60:240]
        if (np.abs(middle - 255).max(-1) > 40).mean() > 0.02:
            break
    else:
        pytest.fail("the head never came")
    page.close()

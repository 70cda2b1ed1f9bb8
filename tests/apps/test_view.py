"""The viewer: driven by its controls, and photographed in a browser."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import MissingPackageError
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import SEQUENCE
from tests.apps.test_web import browser as browser
from tests.conftest import blob_views, plain

pytest.importorskip("viser", reason="viser is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the server's threads


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def running():
    from pipeline.apps.viewer import Viewer

    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.05)
    avatar = Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {})
    viewer = Viewer({"as it is": avatar}, read_sequence(SEQUENCE, MAKEHUMAN), port=free_port())
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
    page.wait_for_selector("canvas", timeout=180_000)
    for _ in range(180):
        page.wait_for_timeout(1000)
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        middle = picture[120:280, 60:240]
        if (np.abs(middle - 255).max(-1) > 40).mean() > 0.02:
            break
    else:
        pytest.fail("the head never came")
    page.close()


@pytest.mark.parametrize(
    ("names", "origins", "refused"),
    [
        (["127.0.0.1:8080"], ["http://127.0.0.1:8080"], False),
        (["localhost:9000"], ["http://localhost:9000"], False),  # a forwarded port
        (["LOCALHOST:8080"], ["http://localhost:8080"], False),
        (["[::1]:8080"], ["http://[::1]:8080"], False),
        (["localhost:8080"], [], False),
        (["localhost"], ["https://localhost"], False),
        (["127.0.0.1:8080"], ["http://evil.example"], True),
        (["127.0.0.1:8080"], ["http://127.0.0.1:3000"], True),
        (["127.0.0.1:8080"], ["http://localhost:8080"], True),
        (["127.0.0.1:8080"], ["null"], True),
        (["127.0.0.1:8080"], [""], True),
        (["evil.example:8080"], ["http://evil.example:8080"], True),
        (["evil.example"], [], True),
        (["localhost.evil.example"], [], True),
        (["127.0.0.1.evil.example:8080"], [], True),
        (["evil.example@127.0.0.1:8080"], ["http://evil.example"], True),
        ([""], [], True),
        ([], [], True),
        (["localhost", "evil.example"], [], True),
        (["localhost"], ["http://localhost", "http://evil.example"], True),
        (["[::1"], [], True),
    ],
)
def test_only_the_viewers_own_page_is_served(names: list[str], origins: list[str], refused: bool):
    from pipeline.apps.viewer import foreign

    assert bool(foreign("127.0.0.1", names, origins)) == refused


def test_a_name_that_was_chosen_to_listen_on_is_served():
    from pipeline.apps.viewer import foreign

    assert not foreign("studio.lan", ["studio.lan:8080"], ["http://studio.lan:8080"])


def test_another_page_cannot_read_the_avatar(running):
    import viser
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = running.address.replace("http:", "ws:")
    version: Any = [f"viser-v{viser.__version__}"]
    with connect(address, origin=running.address, subprotocols=version) as page:
        assert page.recv(timeout=20)
    others: list[Any] = ["http://evil.example", "null"]
    for origin in others:
        with pytest.raises(InvalidStatus) as error:
            connect(address, origin=origin, subprotocols=version)
        assert error.value.response.status_code == 403


def test_a_site_whose_name_points_here_gets_nothing(running):
    port = running.server.get_port()
    for name, status in (("evil.example", 403), ("127.0.0.1", 200), ("localhost", 200)):
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        asked.request("GET", "/", headers={"Host": f"{name}:{port}"})
        assert asked.getresponse().status == status
        asked.close()


def test_a_viser_that_cannot_be_guarded_is_not_started(running, monkeypatch: pytest.MonkeyPatch):
    from pipeline.apps import viewer

    @contextmanager
    def unguarded(host: str) -> Generator[list[Any]]:
        yield []

    monkeypatch.setattr(viewer, "_own_page_only", unguarded)
    with pytest.raises(MissingPackageError, match="Other pages"):
        viewer.Viewer(running.forms, running.sequence, port=free_port())

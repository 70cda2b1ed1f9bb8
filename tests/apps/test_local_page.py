"""The page that does the whole job on this machine: by its server, and in a browser."""

from __future__ import annotations

import http.client
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.apps.local_page import LARGEST_PHOTO, LocalPage
from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import InputError
from pipeline.system.progress import Progress
from tests.apps.test_web import HEAD, opened, until
from tests.apps.test_web import browser as browser
from tests.apps.test_web import light as light


class Maker:
    """Makes the same head of any photographs, or fails as it is told."""

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar
        self.fault: Exception | None = None
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, photos: list[Path], progress: Progress) -> Avatar:
        for i, photo in enumerate(photos):
            with Image.open(photo) as picture:
                self.sizes.append(picture.size)
            progress(i + 1, len(photos))
        if self.fault is not None:
            raise self.fault
        return self.avatar


@pytest.fixture
def maker(light: Avatar) -> Maker:
    return Maker(light)


@pytest.fixture
def running(maker: Maker) -> Iterator[LocalPage]:
    page = LocalPage(maker, port=0)
    yield page
    page.close()


def photo(width: int = 20) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 30), "gray").save(out, "PNG")
    return out.getvalue()


def ask(
    page: LocalPage, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    port = int(page.address.rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, named)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data, dict(answer.getheaders())


def finished(page: LocalPage) -> dict[str, Any]:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        state = json.loads(ask(page, "GET", "/state")[1])
        if not state["busy"]:
            return state
        time.sleep(0.05)
    pytest.fail("it never ended")


def test_photographs_become_a_head_a_page_and_a_file(
    running: LocalPage, maker: Maker, tmp_path: Path
):
    assert ask(running, "POST", "/avatar")[0] == 409, "there is no photograph yet"
    for width in (20, 21):
        assert ask(running, "POST", "/photos?name=me.png", photo(width))[0] == 200
    assert ask(running, "POST", "/avatar")[0] == 200
    assert finished(running) == {"stage": "", "share": 0, "busy": False, "ready": True, "error": ""}
    assert maker.sizes == [(20, 30), (21, 30)]
    script = ask(running, "GET", "/avatar.js?7")[1]
    assert script.startswith(b"(globalThis.fastghaAvatars")
    (tmp_path / "head.avatar").write_bytes(ask(running, "GET", "/head.avatar")[1])
    assert len(Avatar.load(tmp_path / "head.avatar").canonical) == len(maker.avatar.canonical)
    with zipfile.ZipFile(io.BytesIO(ask(running, "GET", "/site.zip")[1])) as site:
        assert site.read("head/avatar.js") == script
        assert "head/index.html" in site.namelist()


def test_it_may_begin_with_an_avatar(running: LocalPage, maker: Maker):
    assert ask(running, "GET", "/avatar.js")[0] == 404
    running.show(maker.avatar)
    assert json.loads(ask(running, "GET", "/state")[1])["ready"]
    assert ask(running, "GET", "/avatar.js")[0] == 200


def test_what_goes_wrong_is_said_in_a_sentence(
    running: LocalPage, maker: Maker, capfd: pytest.CaptureFixture[str]
):
    assert b"not a picture" in ask(running, "POST", "/photos?name=a.exe", b"x")[1]
    assert ask(running, "POST", "/photos?name=../../a.png", photo())[0] == 200
    assert [path.parent for path in running.photos] == [Path(running._folder.name)]
    maker.fault = InputError("There is no face in photo0.png.", "Give another.")
    ask(running, "POST", "/avatar")
    state = finished(running)
    assert state["error"] == "There is no face in photo0.png. Give another." and not state["ready"]
    for _ in range(5):
        ask(running, "POST", "/photos?name=a.png", photo())
    assert b"More than 6" in ask(running, "POST", "/photos?name=a.png", photo())[1]
    kept = list(running.photos)
    assert ask(running, "DELETE", "/photos")[0] == 200
    assert not any(path.exists() for path in kept)
    assert ask(running, "GET", "/nothing")[0] == 404


def test_a_photograph_that_is_too_large_is_refused_before_it_is_read(running: LocalPage):
    port = int(running.address.rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/photos?name=a.png")
    connection.putheader("Content-Length", str(LARGEST_PHOTO + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_other_pages_are_refused(running: LocalPage):
    for method, path in (("GET", "/avatar.js"), ("POST", "/avatar"), ("DELETE", "/photos")):
        assert ask(running, method, path, Host="evil.example")[0] == 403
        assert ask(running, method, path, Origin="http://evil.example")[0] == 403
        # A page that takes in our script tells no origin.
        assert ask(running, method, path, Sec_Fetch_Site="cross-site")[0] == 403
        assert ask(running, method, path, Sec_Fetch_Site="same-site")[0] == 403
    status, _, headers = ask(running, "GET", "/", Sec_Fetch_Site="none")
    assert status == 200 and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_the_photographs_are_gone_when_it_is_closed(maker: Maker):
    page = LocalPage(maker, port=0)
    page.add_photo("a.png", photo())
    kept = page.photos[0]
    assert kept.exists()
    with pytest.raises(InputError, match="Try --port"):
        LocalPage(maker, port=int(page.address.rsplit(":", 1)[1]))
    page.close()
    assert not kept.exists()


def test_a_browser_takes_photographs_to_a_head(running: LocalPage, browser: Any, tmp_path: Path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(photo(200 + i))
    page, faults = opened(browser, f"{running.address}/?size=64&idle=0", "message.textContent")
    assert page.evaluate(f"{HEAD}.message.textContent") == "The head comes here."
    page.set_input_files("#files", [tmp_path / "0.png", tmp_path / "1.png"])
    assert page.locator("#photos img").count() == 2
    page.click("#make")
    until(page, f"{HEAD}.firstPicture")
    picture = np.asarray(Image.open(io.BytesIO(page.locator("canvas").screenshot())).convert("L"))
    assert picture.std() > 5, "there is a head"
    page.click("#handle")  # the drawer has closed to show the head
    page.locator("#photos img").first.click()
    assert page.is_visible("#beside") and page.is_visible("#saves")
    assert faults == []
    page.close()

"""The whole job on a page of this machine: photographs in, a head that moves out.

The page is that of `pipeline.apps.web`; a small server takes photographs, makes the avatar in a
thread, and gives it back. Nothing leaves the machine, and only its own page is answered.
"""

from __future__ import annotations

import io
import json
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from pipeline.apps import web
from pipeline.apps.viewer import foreign
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.lighten import lighten
from pipeline.core.errors import FastGHAError, FormatError, InputError, MissingWeightsError
from pipeline.core.types import CODE_SIZE, ExpressionCode
from pipeline.expressions.sequences import FPS, Sequence, read_sequence
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.fastgha import MAX_VIEWS
from pipeline.system.assets import SEQUENCE
from pipeline.system.progress import Progress

LARGEST_PHOTO = 40 * 2**20
"""Bytes of one photograph."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src blob:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)

MakeAvatar = Callable[[list[Path], Progress], Avatar]
"""Makes an avatar of photographs; told how to say how far it is."""


@dataclass
class State:
    """How far the avatar is; the page asks for it."""

    stage: str = ""
    share: float = 0.0
    """Of this stage, in [0, 1]; 0 where it is not known."""
    busy: bool = False
    ready: bool = False
    error: str = ""


class LocalPage:
    """A running page.

    Args:
        make: Makes avatars.
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.

    Raises:
        InputError: If the port is taken.
    """

    def __init__(self, make: MakeAvatar, host: str = "127.0.0.1", port: int = 8080) -> None:
        self.make, self.host = make, host
        self.state = State()
        self.photos: list[Path] = []
        self._files: dict[str, bytes] = {}
        self._tracker = _tracker()
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="fastgha-app-")
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            self._folder.cleanup()
            raise InputError(f"Cannot listen on {host}:{port}: {error}.", "Try --port.") from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop the server and forget the photographs."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        self._folder.cleanup()

    def add_photo(self, name: str, data: bytes) -> None:
        """Keep a photograph until the page forgets it, or is closed.

        Raises:
            InputError: If there are too many, or the name is not that of a picture.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            raise InputError(f"{name} is not a picture.", f"Give {', '.join(SUFFIXES)}.")
        with self._lock:
            if self.state.busy:
                raise InputError("A head is being made.", "Wait until it is done.")
            if len(self.photos) >= MAX_VIEWS:
                raise InputError(
                    f"More than {MAX_VIEWS} photographs.", f"Choose the best 1 to {MAX_VIEWS}."
                )
            path = Path(self._folder.name) / f"photo{len(self.photos)}{suffix}"
            path.write_bytes(data)
            self.photos.append(path)

    def forget_photos(self) -> None:
        """Delete the photographs.

        Raises:
            InputError: If a head is being made of them.
        """
        with self._lock:
            if self.state.busy:
                raise InputError("A head is being made.", "Wait until it is done.")
            for path in self.photos:
                path.unlink(missing_ok=True)
            self.photos.clear()

    def start(self) -> None:
        """Begin to make the avatar, in a thread.

        Raises:
            InputError: If there is no photograph, or one is being made.
        """
        with self._lock:
            if self.state.busy:
                raise InputError("A head is being made.", "Wait until it is done.")
            if not self.photos:
                raise InputError("There is no photograph.", "Choose one to six of one face.")
            self.state = State("Loading the networks", busy=True)
        threading.Thread(target=self._work, daemon=True).start()

    def show(self, avatar: Avatar) -> None:
        """Put an avatar on the page; it is made light first."""
        self._files = self._light(avatar)
        self.state = State(ready=True)

    def file(self, name: str) -> bytes | None:
        """Return a file of the page by name; nothing if there is none."""
        if name == "index.html":
            webcam = f"{web.TRACKER}/" if self._tracker else ""
            return web.page({"app": True, "webcam": webcam}, "").encode()
        if name in self._tracker:
            return self._tracker[name].read_bytes()
        if name in web.FILES:
            return (web.WEB / name).read_bytes()
        return self._files.get(name)

    def _work(self) -> None:
        error = "Something went wrong; the terminal says what."
        try:
            avatar = self.make(list(self.photos), self._progress("Looking at the photographs"))
            self._files = self._light(avatar)
            error = ""
        except FastGHAError as fault:
            error = f"{fault.problem} {fault.remedy}"
        except (OSError, MemoryError) as fault:
            error = f"The head could not be made: {fault}."
        finally:
            self.state = State(ready=not error, error=error)

    def _light(self, avatar: Avatar) -> dict[str, bytes]:
        """Return what the page shows of an avatar, and what it offers to save."""
        whole = Path(self._folder.name) / "head.avatar"
        avatar.save(whole)
        quick = self._progress("Making it quick")
        avatar = lighten(avatar, bars=lambda _: nullcontext(quick))
        if avatar.layout == MAKEHUMAN:
            sequence = read_sequence(SEQUENCE)
        else:  # no sequence of another layout comes with the package
            sequence = Sequence(ExpressionCode(torch.zeros(0, CODE_SIZE), avatar.layout), FPS)
        script = web.avatar_script(avatar, sequence)
        return {"avatar.js": script, "head.avatar": whole.read_bytes(), "site.zip": _zip(script)}

    def _progress(self, stage: str) -> Progress:
        def report(done: int, total: int) -> None:
            self.state = State(stage, done / max(total, 1), busy=True)

        self.state = State(stage, busy=True)
        return report


def _tracker() -> dict[str, Path]:
    """Return the face tracker's files by their place on the page; none without all of them."""
    try:
        return {f"{web.TRACKER}/{path.name}": path for path in web.tracker_files()}
    except (MissingWeightsError, FormatError):
        return {}


def _zip(script: bytes) -> bytes:
    """Return the page of `fastgha export web` as one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in web.site_files(script).items():
            packed.writestr(f"head/{name}", data)
    return out.getvalue()


class _Server(ThreadingHTTPServer):
    """Answers the page; what is asked is in `_Handler`."""

    daemon_threads = True

    def __init__(self, at: tuple[str, int], page: LocalPage) -> None:
        self.page = page
        if ":" in at[0]:
            self.address_family = socket.AF_INET6
        super().__init__(at, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = 60

    @property
    def _page(self) -> LocalPage:
        assert isinstance(self.server, _Server)
        return self.server.page

    def do_GET(self) -> None:
        """Give a file of the page, or the state."""
        if self._refused():
            return
        name = urlsplit(self.path).path.removeprefix("/") or "index.html"
        if name == "state":
            self._json(HTTPStatus.OK, asdict(self._page.state))
            return
        data = self._page.file(name)
        if data is None:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"There is no {name[:80]}."})
            return
        kind = KINDS.get(Path(name).suffix, "application/octet-stream")
        self._send(HTTPStatus.OK, data, kind)

    def do_POST(self) -> None:
        """Take a photograph, or begin."""
        if self._refused():
            return
        asked = urlsplit(self.path)
        page = self._page
        if asked.path == "/photos":
            name = parse_qs(asked.query).get("name", [""])[0][-80:]
            data = self._body()
            if data is not None:
                self._do(lambda: page.add_photo(name, data))
        elif asked.path == "/avatar":
            self._do(page.start)
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "There is no such thing to send to."})

    def do_DELETE(self) -> None:
        """Forget the photographs."""
        if not self._refused():
            self._do(self._page.forget_photos)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _refused(self) -> bool:
        """Answer requests that another page may have made, and say so."""
        get = self.headers.get_all
        why = foreign(self._page.host, get("Host") or [], get("Origin") or [])
        # A page that takes in our script tells no origin; browsers say from where it is asked.
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            why = why or "Another page asked for this one."
        if why:
            self._json(HTTPStatus.FORBIDDEN, {"error": why})
        return bool(why)

    def _body(self) -> bytes | None:
        """Return what was sent; nothing, and an answer, if it is too long or no length is said."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 12:
            self._json(HTTPStatus.LENGTH_REQUIRED, {"error": "The length must be said."})
        elif int(length) > LARGEST_PHOTO:
            self._json(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                {"error": f"The photograph is over {LARGEST_PHOTO >> 20} MB. Make it smaller."},
            )
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        return None

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except InputError as error:
            self._json(HTTPStatus.CONFLICT, {"error": str(error)})
        else:
            self._json(HTTPStatus.OK, {})

    def _json(self, status: HTTPStatus, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        headers = {
            "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

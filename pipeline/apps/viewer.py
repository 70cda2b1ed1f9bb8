"""An avatar in a browser on this machine: sliders, a sequence, exact and baked side by side.

The page is viser's; it draws the splats itself, and gets new ones whenever the expression changes.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from pipeline.apps.web import sliders
from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import InputError, MissingPackageError
from pipeline.core.types import ExpressionCode, Gaussians
from pipeline.expressions.sequences import Sequence
from pipeline.faces.layouts import EXPRESSION, neutral_code
from pipeline.io.splats import covariances

RAW = 6
"""Raw expression numbers that get sliders."""
BACKGROUND = 255


class Viewer:
    """A running viewer.

    Args:
        forms: Avatars of one head by name, such as exact, pruned, baked.
        sequence: Expressions to play.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        MissingPackageError: If viser is not installed, or other pages cannot be kept from it.
        InputError: If the port is taken.
    """

    def __init__(
        self,
        forms: dict[str, Avatar],
        sequence: Sequence,
        host: str = "127.0.0.1",
        port: int = 8080,
    ) -> None:
        try:
            import viser
        except ImportError as error:
            raise MissingPackageError(
                "The viewer needs the package viser.", "Run: pip install 'fastgha[view]'"
            ) from error
        self.forms, self.sequence = forms, sequence
        self._first = next(iter(forms.values()))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        try:
            with _own_page_only(host) as guarded:
                self.server: Any = viser.ViserServer(host=host, port=port, verbose=False)
        except OSError as error:
            raise InputError(f"Cannot listen on {host}:{port}: {error}.", "Try --port.") from error
        if not guarded:
            self.server.stop()
            raise MissingPackageError(
                f"Other pages in the browser cannot be kept from viser {viser.__version__}.",
                "Run: pip install 'viser==1.1.1'",
            )
        self.server.scene.set_up_direction("+y")
        white = np.full((1, 1, 3), BACKGROUND, np.uint8)
        self.server.scene.set_background_image(white)
        self.server.initial_camera.position = (0.0, 0.02, 1.0)
        self.server.initial_camera.look_at = (0.0, 0.02, 0.0)
        self.server.initial_camera.fov = 0.5
        self._controls()
        self._splats: Any = None
        self._frame = 0
        self.show()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    def code(self) -> ExpressionCode:
        """Return the expression that is set: of the sequence while it plays, else the sliders'."""
        layout = self._first.layout
        if self.playing.value:
            return self.sequence.codes[self._frame % len(self.sequence)]
        values = neutral_code(layout).values.clone()
        for name, add in sliders(layout).items():
            values += self.parts[name].value * add
        for i, slider in enumerate(self.raw):
            values[EXPRESSION.start + i] += slider.value
        return ExpressionCode(values, layout)

    def show(self) -> None:
        """Draw what is set."""
        with self._lock:
            avatar = self.forms[self.form.value]
            start = time.perf_counter()
            still = self.canonical.value
            gaussians = avatar.canonical if still else avatar.animate(self.code())
            seconds = time.perf_counter() - start
            self._send(gaussians)
            self.speed.content = (
                f"{len(gaussians):,} Gaussians, posed in {1e3 * seconds:.1f} ms "
                f"({1 / max(seconds, 1e-6):.0f} FPS)"
            )

    def close(self) -> None:
        """Stop the server."""
        self._stop.set()
        self._thread.join(timeout=5)
        self.server.stop()

    def _controls(self) -> None:
        gui = self.server.gui
        self.form = gui.add_dropdown("avatar", tuple(self.forms))
        self.canonical = gui.add_checkbox("canonical", False)
        self.playing = gui.add_checkbox("play", False)
        self.speed = gui.add_markdown("")
        with gui.add_folder("face"):
            self.parts = {
                name: gui.add_slider(name, 0.0, 1.0, 0.01, 0.0)
                for name in sliders(self._first.layout)
            }
        with gui.add_folder("raw expression", expand_by_default=False):
            self.raw = [gui.add_slider(f"{i + 1}", -3.0, 3.0, 0.05, 0.0) for i in range(RAW)]
        handles = (self.form, self.canonical, self.playing, *self.parts.values(), *self.raw)
        for handle in handles:
            handle.on_update(self._changed)

    def _changed(self, _: object) -> None:
        self.show()

    def _send(self, gaussians: Gaussians) -> None:
        gaussians = gaussians.to("cpu")
        fields = {
            "centers": gaussians.means.numpy().astype(np.float32),
            "covariances": covariances(gaussians).astype(np.float32),
            "rgbs": (gaussians.colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
            "opacities": gaussians.opacities.numpy().astype(np.float32)[:, None],
        }
        with self.server.atomic():
            self._splats = self.server.scene.add_gaussian_splats("/head", **fields)
        self.server.flush()

    def _play(self) -> None:
        while not self._stop.wait(1 / self.sequence.fps):
            if self.playing.value:
                self._frame += 1
                self.show()


def foreign(host: str, names: list[str], origins: list[str]) -> str:
    """Return why a request is refused that another page in the browser may have made, or nothing.

    A page of another site can open a websocket to this machine; the browser then tells its
    origin. A site whose name is made to point to this machine is told by the name. Numeric
    addresses cannot be made to point elsewhere, and programs that are no browser tell no origin.

    Args:
        host: Address that the viewer listens on.
        names: Values of the header `Host`: where the browser believes to be.
        origins: Values of the header `Origin`: which page asks.
    """
    if len(names) != 1 or len(origins) > 1:
        return "The headers Host and Origin are needed once."
    try:
        name = urlsplit(f"//{names[0]}").hostname or ""
        origin = urlsplit(origins[0]).netloc if origins else names[0]
    except ValueError:
        return "The headers Host and Origin cannot be read."
    own = {"localhost", host.lower(), socket.gethostname().lower()}
    if name not in own and not _numeric(name):
        return f"This viewer is not at {name!r}."
    return "" if origin.lower() == names[0].lower() else "Another page asked for this one."


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@contextmanager
def _own_page_only(host: str) -> Generator[list[Any]]:
    """Let servers that viser starts meanwhile refuse requests of other pages.

    viser has no setting for it, so what it hands to websockets is completed on the way.

    Yields:
        A list that is not empty once a server was started so.
    """
    from websockets.asyncio import server

    module: Any = server
    guarded: list[Any] = []
    serve = module.serve

    def guarding(*args: Any, process_request: Any = None, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            headers = request.headers
            why = foreign(host, headers.get_all("Host"), headers.get_all("Origin"))
            if why:
                return connection.respond(HTTPStatus.FORBIDDEN, f"{why}\n")
            return process_request(connection, request) if process_request else None

        guarded.append(check)
        return serve(*args, process_request=check, **options)

    module.serve = guarding
    try:
        yield guarded
    finally:
        module.serve = serve

"""The page of an avatar in a browser without a screen: how long a frame takes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import MissingPackageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox",
)  # fmt: skip
PATIENCE_MS = 300_000


def executable(own: str) -> str:
    """Return a Chromium: the machine's, or else the one that playwright has downloaded.

    Args:
        own: Where playwright puts its own.

    Raises:
        MissingPackageError: If there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), own)
    if not Path(found).exists():
        raise MissingPackageError(
            "There is no Chromium here.", "Install one, or run: playwright install chromium"
        )
    return found


@contextmanager
def page() -> Generator[Callable[[Path, int], float]]:
    """Give a function that opens a page of `export_web` and returns a frame's median ms.

    It draws without a GPU (SwiftShader), and asks nobody: the page is a file.

    Raises:
        MissingPackageError: If playwright or a browser is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingPackageError(
            "Browsers are driven by the package playwright.", "Run: pip install playwright"
        ) from error
    with sync_playwright() as program:
        found = executable(program.chromium.executable_path)
        chrome = program.chromium.launch(executable_path=found, args=list(ARGUMENTS))

        def frame_ms(site: Path, size: int) -> float:
            shown = chrome.new_page(viewport={"width": 700, "height": 500})
            shown.goto(f"{site.resolve().as_uri()}?size={size}&bench")
            shown.wait_for_function("window.BENCH", timeout=PATIENCE_MS)
            milliseconds = float(shown.evaluate("window.BENCH.median_ms"))
            shown.close()
            return milliseconds

        yield frame_ms
        chrome.close()

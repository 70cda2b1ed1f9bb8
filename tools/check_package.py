"""Build the package, install it into an empty environment, and run it there. For developers.

    python tools/check_package.py            # about two minutes, most of them torch
    python tools/check_package.py --keep /tmp/clean

The wheel is built from the sdist, so both are tried. Nothing but the core is installed. Run in an
empty folder: `fastgha --version`, `--help`, `doctor` and `demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "torch==2.13.0"


def main() -> None:
    """Build, compare, install, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder to work in, and to leave")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastgha-package-") as folder:
        work = (arguments.keep or Path(folder)).resolve()
        wheel = build(work / "dist")
        lost = missing(wheel)
        if lost:
            sys.exit(f"{wheel.name} lacks {len(lost)} files of the source, such as {lost[0]}")
        install_and_run(wheel, work)


def build(out: Path) -> Path:
    """Return the wheel of the sdist of the source."""
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    return wheel


def missing(wheel: Path) -> list[str]:
    """Return the files of the two packages that git has and the wheel has not."""
    listed = subprocess.run(
        ["git", "ls-files", "fastgha.py", "fastgha_cli", "pipeline"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        return sorted({name for name in listed if name} - set(archive.namelist()))


def install_and_run(wheel: Path, work: Path) -> None:
    """Install a wheel alone, and try its commands."""
    venv.create(work / "env", with_pip=True)
    programs = work / "env" / ("Scripts" if os.name == "nt" else "bin")
    pip = (programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", TORCH)
    run(*pip, "install", wheel)
    fastgha, empty = programs / "fastgha", work / "empty"
    empty.mkdir(exist_ok=True)
    for words in (("--version",), ("--help",), ("doctor",), ("demo", "-o", "demo_out")):
        run(fastgha, *words, cwd=empty)
    figures = json.loads((empty / "demo_out" / "figures.json").read_text())
    print(f"demo: PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f}")
    size = sum(p.stat().st_size for p in (work / "env").rglob("*") if p.is_file())
    print(f"environment: {size / 1e6:.0f} MB")


def run(*command: object, cwd: Path | None = None) -> None:
    """Run a program in an environment that knows nothing of this checkout, or end."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(word) for word in command], check=True, cwd=cwd, env=env)


if __name__ == "__main__":
    main()

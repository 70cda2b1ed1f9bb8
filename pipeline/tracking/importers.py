"""What other trackers left on disk: parameters of FLAME for each frame, recognised by signature.

VHAP, GaussianAvatars, LAM   an export (`flame_param/*.npz`), or `tracked_flame_params_*.npz`
NeRSemble benchmark          `flame2023_tracking*.npz`
metrical-tracker, Pixel3DMM  `checkpoint/*.frame`
GAGAvatar_track              `smoothed.pkl`, `optim.pkl`
flame-head-tracker           a folder of npz
ours                         an npz with codes [t, 120], layout, and frames [t] (their numbers)

A sequence that means something else than FLAME's own numbers is refused, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import CameraError, InputError, LayoutError, ShapeError
from pipeline.core.types import CODE_SIZE, Camera, ExpressionCode
from pipeline.faces.flame_fit import LAYOUT_OF, FlameFit, from_vectors
from pipeline.faces.layouts import LAYOUTS, matrix_from_rot6d
from pipeline.io.pickles import read_pickle
from pipeline.io.raw_files import read_npz

VHAP = ("expr", "jaw_pose", "eyes_pose", "neck_pose", "rotation", "translation", "shape")
BENCHMARK = ("expression", "rotation_matrices", "frames", "neck", "jaw", "eyes", "translation")
OURS = ("codes", "layout", "frames")
HEAD_TRACKER = ("exp", "jaw_pose", "eye_pose", "shape")
NO_TRACKING = ("canonical_flame_param", "person", "identity")
"""Names of files beside trackings."""
FLIP = np.diag([1.0, -1.0, -1.0])
"""From OpenGL camera axes to OpenCV's."""


@dataclass(frozen=True)
class Tracking:
    """What a tracker found in a sequence."""

    tracker: str
    names: tuple[str, ...]
    """Of the frames, in order."""
    fits: tuple[FlameFit, ...]
    """Empty where only codes are known."""
    cameras: Camera | None = None
    """One for each frame, world to OpenCV camera, where the tracker wrote any."""
    given: ExpressionCode | None = None
    """[t, 120], of a file that has codes themselves."""

    @property
    def layout(self) -> str:
        """Layout of the codes."""
        return LAYOUT_OF[self.fits[0].version] if self.given is None else self.given.layout

    def codes(self) -> ExpressionCode:
        """Return the 120 numbers of all frames [t, 120]; neither identity nor head pose."""
        if self.given is not None:
            return self.given
        values = torch.stack([fit.code().values for fit in self.fits])
        return ExpressionCode(values, self.layout)


@dataclass(frozen=True)
class Frame:
    """Where the parameters of one frame are."""

    file: Path
    row: int = 0
    """Of those in the file."""


def is_tracking(path: Path) -> bool:
    """Say whether a file or folder looks like a tracker's, by names alone."""
    if path.is_file():
        return path.suffix == ".npz" and not path.stem.isdigit() and path.stem not in NO_TRACKING
    several = ("tracked_flame_params_*.npz", "smoothed.pkl", "optim.pkl")
    return bool(_frame_files(path)) or any(any(path.glob(name)) for name in several)


def frames_of(path: Path) -> dict[int, Frame]:
    """Return where each frame of a tracking is, by its number; reads no more than that needs.

    Raises:
        InputError: If there is nothing that is known, or two frames have one number.
    """
    files = _frame_files(path) if path.is_dir() else []
    if files:
        named = [(file.stem, Frame(file)) for file in files]
    else:
        file = _run(path) if path.is_dir() else path
        named = [(name, Frame(file, row)) for row, name in enumerate(read_tracking(file).names)]
    found: dict[int, Frame] = {}
    for name, frame in named:
        digits = re.search(r"(\d+)$", name)
        if digits is None or int(digits[1]) in found:
            raise InputError(
                f"{path}: the frame {name!r} has no number of its own.",
                "Frames are matched by the number at the end of their names.",
            )
        found[int(digits[1])] = frame
    return found


def _frame_files(folder: Path) -> list[Path]:
    """Return the files of a tracking that has one for each frame."""
    frames = sorted(folder.glob("*.frame")) or sorted((folder / "checkpoint").glob("*.frame"))
    if frames:
        return frames
    for inner in (folder / "flame_param", folder):
        files = sorted(f for f in inner.glob("*.npz") if f.stem.isdigit())
        if files:
            return files
    return []


def read_tracking(path: Path) -> Tracking:
    """Read whatever a tracker left at a path, a file or a folder.

    Raises:
        InputError: If there is nothing that is known, or it is damaged; names what is there.
        LayoutError: If the numbers are not FLAME's own and cannot be carried over.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(f"There is no file or folder {path}.", "Check the name.")
    if path.suffix == ".frame":
        return _frames([path])
    if path.suffix == ".pkl":
        return _gagavatar(path)
    return _npz(path)


def _folder(path: Path) -> Tracking:
    files = _frame_files(path)
    if files:
        return _frames(files) if files[0].suffix == ".frame" else _many(files)
    return read_tracking(_run(path))


def _run(path: Path) -> Path:
    """Return the file of a folder that has all frames in one."""
    runs = [(int(m[1]), f) for f in path.glob("tracked_flame_params_*.npz")
            if (m := re.search(r"_(\d+)$", f.stem))]  # fmt: skip
    if runs:
        return max(runs)[1]
    for name in ("smoothed.pkl", "optim.pkl"):
        if (path / name).is_file():
            return path / name
    there = ", ".join(sorted(f.name for f in path.iterdir())[:8]) or "nothing"
    raise InputError(
        f"{path} holds no tracking that is known (it has {there}).",
        "Give a folder with flame_param/*.npz, checkpoint/*.frame, smoothed.pkl or "
        "tracked_flame_params_*.npz.",
    )


def _many(files: list[Path]) -> Tracking:
    """Read one npz a frame: VHAP's exports and flame-head-tracker's."""
    parts = [_npz(file) for file in files]
    fits = tuple(fit for part in parts for fit in part.fits)
    return Tracking(parts[0].tracker, tuple(f.stem for f in files), fits)


def _npz(path: Path) -> Tracking:
    arrays = read_npz(path)
    if "eye_rot" in arrays and "expr" in arrays:
        raise LayoutError(
            f"{path} is a sequence of CAP4D: its 65th expression number is a blink and its joints "
            "are not FLAME's.",
            "Track the video with VHAP, Pixel3DMM or metrical-tracker instead.",
        )
    if all(key in arrays for key in OURS):
        return _ours(path, arrays)
    if all(key in arrays for key in VHAP):
        return _built(path, "VHAP", lambda: _vhap(arrays))
    if all(key in arrays for key in BENCHMARK):
        return _built(path, "NeRSemble", lambda: _benchmark(arrays))
    if all(key in arrays for key in HEAD_TRACKER):
        return _built(path, "flame-head-tracker", lambda: _head_tracker(arrays))
    there = ", ".join(f"{key} {list(value.shape)}" for key, value in sorted(arrays.items())[:16])
    raise InputError(
        f"{path} is of no tracker that is known. It has: {there or 'nothing'}.",
        "Known are VHAP, NeRSemble's benchmark, flame-head-tracker, and ours: codes [t, 120], "
        "layout, frames [t].",
    )


def _ours(path: Path, arrays: Mapping[str, np.ndarray]) -> Tracking:
    codes, frames = arrays["codes"], np.ravel(arrays["frames"])
    layout = str(arrays["layout"])
    if layout not in LAYOUTS:
        raise LayoutError(
            f"{path} has codes of {layout!r}.", f"Known layouts: {', '.join(LAYOUTS)}."
        )
    if codes.shape != (len(frames), CODE_SIZE) or not len(frames):
        raise InputError(
            f"{path} has codes {list(codes.shape)} of {len(frames)} frames.",
            f"Give codes [t, {CODE_SIZE}] and as many numbers in frames.",
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        values = codes.astype(np.float32) if codes.dtype.kind == "f" else None
    if values is None or frames.dtype.kind not in "iu" or not np.isfinite(values).all():
        raise InputError(
            f"{path} has codes or frames that are no finite numbers.", "Leave these frames out."
        )
    given = ExpressionCode(torch.from_numpy(values), layout)
    return Tracking("fastgha", tuple(str(int(f)) for f in frames), (), None, given)


def _built(path: Path, tracker: str, make: Any) -> Tracking:
    """Make the fits; whatever is wrong with the arrays is told with the file's name."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, fits refuse
            names, fits, cameras = make()
    except (ShapeError, CameraError) as error:
        raise InputError(f"{path}: {error.problem}", error.remedy) from error
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{path} is not as {tracker} writes it ({type(error).__name__}: {error}).",
            "Track or export it again.",
        ) from error
    if not fits:
        raise InputError(f"{path} has no frame.", "Track or export it again.")
    return Tracking(tracker, tuple(names), tuple(fits), cameras)


def _vhap(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[FlameFit], None]:
    frames = len(arrays["expr"])
    steps = arrays.get("timestep_id", np.arange(frames))
    offset = arrays.get("static_offset")
    offset = None if offset is None else offset.astype(np.float64)  # one for all frames
    fits = [
        from_vectors(
            version="2023", shape=arrays["shape"], expression=arrays["expr"][i],
            root=arrays["rotation"][i], neck=arrays["neck_pose"][i], jaw=arrays["jaw_pose"][i],
            eyes=arrays["eyes_pose"][i], translation=arrays["translation"][i],
            static_offset=offset,
        )
        for i in range(frames)
    ]  # fmt: skip
    return [str(step) for step in steps], fits, None


def _benchmark(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[FlameFit], None]:
    scale = float(np.ravel(arrays["scale"])[0]) if "scale" in arrays else 1.0
    fits: list[FlameFit] = []
    for i in range(len(arrays["frames"])):
        vectors = np.concatenate([np.ravel(arrays[k][i]) for k in ("neck", "jaw", "eyes")])
        rest = Rotation.from_rotvec(vectors.reshape(4, 3).astype(np.float64)).as_matrix()
        root = np.asarray(arrays["rotation_matrices"][i], np.float64)
        fits.append(
            FlameFit(
                "2023", _filled(arrays["shape"], 300), _filled(arrays["expression"][i], 100),
                np.concatenate([root[None], rest]), np.ravel(arrays["translation"][i]) * 1.0,
                np.zeros(2), scale, "origin",
            )
        )  # fmt: skip
    return [str(int(f)) for f in np.ravel(arrays["frames"])], fits, None


def _head_tracker(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[FlameFit], None]:
    zero = np.zeros(3)
    fits = [
        from_vectors(
            version="2020", shape=arrays["shape"][i], expression=arrays["exp"][i], root=zero,
            neck=zero, jaw=arrays["jaw_pose"][i], eyes=arrays["eye_pose"][i], translation=zero,
        )
        for i in range(len(arrays["exp"]))
    ]  # fmt: skip
    return [str(i) for i in range(len(fits))], fits, None


def _gagavatar(path: Path) -> Tracking:
    found = read_pickle(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not GAGAvatar's tracking.", "Give its smoothed.pkl.")
    table = cast("dict[Any, dict[str, Any]]", found)

    def number(key: Any) -> tuple[int, str]:
        digits = re.search(r"(\d+)$", str(key))
        return (int(digits[1]) if digits else 0, str(key))

    def make() -> tuple[list[str], list[FlameFit], None]:
        keys = sorted(table, key=number)
        fits = [
            from_vectors(
                version="2020",
                shape=np.asarray(table[key]["shapecode"]),
                expression=np.asarray(table[key]["expcode"]),
                root=np.zeros(3), neck=np.zeros(3), translation=np.zeros(3),
                jaw=np.ravel(table[key]["posecode"])[3:],
                eyes=np.asarray(table[key]["eyecode"]),
            )
            for key in keys
        ]  # fmt: skip
        return [str(key) for key in keys], fits, None

    return _built(path, "GAGAvatar", make)


def _frames(files: list[Path]) -> Tracking:
    """Read the frames of metrical-tracker or of its descendant Pixel3DMM."""
    parts: list[tuple[FlameFit, Camera | None]] = []
    kinds: set[str] = set()
    for file in files:
        found = read_pickle(file)
        flame = found.get("flame") if isinstance(found, dict) else None
        if not isinstance(flame, dict) or "exp" not in flame:
            raise InputError(
                f"{file} is no frame of a tracker: it has no flame.exp.", "Track the video again."
            )
        kind = "Pixel3DMM" if "neck" in flame and "R" in flame else "metrical-tracker"
        kinds.add(kind)
        one = _built(file, kind, partial(_frame, cast("dict[str, Any]", found), kind, file.stem))
        parts.append((one.fits[0], one.cameras))
    if len(kinds) > 1:
        raise InputError(
            f"{files[0].parent} mixes frames of {' and '.join(sorted(kinds))}.",
            "Keep one tracker's frames in a folder.",
        )
    (kind,) = kinds
    found_cameras = [camera for _, camera in parts if camera is not None]
    return Tracking(
        kind, tuple(f.stem for f in files), tuple(fit for fit, _ in parts), _joined(found_cameras)
    )


def _frame(
    whole: dict[str, Any], kind: str, name: str
) -> tuple[list[str], list[FlameFit], Camera | None]:
    flame = whole["flame"]
    rotations = np.stack([np.eye(3)] * 5)
    rotations[2] = _matrix(flame["jaw"])
    eyes = np.ravel(flame["eyes"])
    rotations[3], rotations[4] = _matrix(eyes[:6]), _matrix(eyes[6:])
    translation = np.zeros(3)
    if kind == "Pixel3DMM":
        if np.allclose(rotations[2], np.eye(3), atol=1e-7):
            # Only its variant without a jaw leaves the rotation at rest; the file does not say.
            raise LayoutError(
                f"Frame {name} of Pixel3DMM has a jaw that never turns: it was probably tracked "
                "with FLAME 2023 without jaw, whose numbers are not FLAME 2020's.",
                "Track it with use_flame2023=False.",
            )
        rotations[0], rotations[1] = _matrix(flame["R"]), _matrix(flame["neck"])
        translation = np.ravel(flame["t"]).astype(np.float64)
    lids = np.ravel(flame["eyelids"]).astype(np.float64) if "eyelids" in flame else np.zeros(2)
    fit = FlameFit(
        "2020", _filled(flame["shape"], 300), _filled(flame["exp"], 100), rotations, translation,
        lids, 1.0, "origin",
    )  # fmt: skip
    return [name], [fit], _frame_camera(whole, kind)


def _frame_camera(whole: dict[str, Any], kind: str) -> Camera | None:
    if "img_size" not in whole:
        return None
    height, width = (int(n) for n in np.ravel(whole["img_size"]))
    E, intrinsics = np.eye(4), np.eye(3)
    if kind == "metrical-tracker":
        if "opencv" not in whole:
            return None
        given = whole["opencv"]
        E[:3, :3] = np.reshape(given["R"], (3, 3))
        E[:3, 3] = np.ravel(given["t"])
        intrinsics = np.reshape(given["K"], (3, 3)).astype(np.float64)
    else:
        given = whole["camera"]
        E[:3, :3] = FLIP @ np.reshape(given["R_base_0"], (3, 3))
        E[:3, 3] = FLIP @ np.ravel(given["t_base_0"])
        intrinsics[0, 0] = intrinsics[1, 1] = float(np.ravel(given["fl"])[0]) * width
        intrinsics[:2, 2] = (np.ravel(given["pp"]) + 1) * (width / 2 + 0.5)
    return Camera(torch.from_numpy(E)[None], torch.from_numpy(intrinsics)[None], width, height)


def _joined(cameras: list[Camera]) -> Camera | None:
    if not cameras:
        return None
    sizes = {(camera.width, camera.height) for camera in cameras}
    if len(sizes) > 1:
        raise InputError(
            f"Frames of one tracking have several sizes: {sorted(sizes)}.", "Track it again."
        )
    E = torch.cat([camera.world_to_camera for camera in cameras])
    K = torch.cat([camera.K for camera in cameras])
    return Camera(E, K, cameras[0].width, cameras[0].height)


def _matrix(rows: Any) -> np.ndarray:
    """Return the rotation of six raw numbers of an optimiser, which need not be of unit length."""
    six = torch.from_numpy(np.ravel(rows).astype(np.float64))
    if six.shape != (6,) or not bool(torch.isfinite(six).all()):
        raise ShapeError("A rotation is not six finite numbers.", "Track it again.")
    R = matrix_from_rot6d(six).numpy()
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-6):
        raise ShapeError("A rotation's six numbers span no plane.", "Track it again.")
    return R


def _filled(values: Any, size: int) -> np.ndarray:
    flat = np.ravel(values).astype(np.float64)
    if not 0 < flat.size <= size:
        raise ShapeError(f"FLAME has {size} numbers here, not {flat.size}.", "Track it again.")
    return np.pad(flat, (0, size - flat.size))

"""Reader of NeRSemble: version 2, version 1 in full, version 1 as zips, and the benchmark.

    v2         074/calibration/{camera_params,color_calibration}.json
               074/sequences/EMO-1-shout+laugh/images/cam_222200037.mp4
               (the benchmark also has alpha_maps/cam_222200037.mp4 and a tracking)
    v1         camera_params/074/camera_params.json, color_correction/074/222200037.npy
               074/EMO-1-shout+laugh/cam_222200037.mp4
    v1 zips    074/camera_params.json, 074/annotations/EMO-1/color_correction/222200037.npy
               074/sequences/EMO-1/frame_00000/{images-2x,alpha_map}[-73fps]/cam_222200037.png

Beside the videos, VHAP leaves images[_2|_4|_8]/ and alpha_maps/cam_222200037_00000.jpg. Cameras
are OpenCV world-to-camera in metres; the world has y up and the subject at the origin.

Source:
    https://github.com/tobias-kirschstein/nersemble and its data package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from pipeline.captures.capture import (
    Capture,
    RawView,
    Timestep,
    backdrop,
    natural,
    nearest_rotation,
)
from pipeline.captures.color import Affine, Cheung, Correction
from pipeline.captures.lens import Lens, undistort
from pipeline.captures.nersemble_files import find_sequences
from pipeline.core.arrays import Matte, Rgb
from pipeline.core.errors import CameraError, InputError, MissingItemError, ShapeError
from pipeline.core.types import Camera
from pipeline.faces.flame_fit import FlameFit
from pipeline.faces.layouts import FLAME2023
from pipeline.io.raw_files import matrix, need, read_json, read_npz, read_picture, rgb_of

FULL_WIDTH, FULL_HEIGHT = 2200, 3208
"""Size of the sensor, for which the one K of all cameras is."""
TRACKINGS = ("flame2023_tracking_v2.npz", "flame2023_tracking.npz")
"""The best first."""


class NersembleCapture(Capture):
    """One participant's folder, in any of the layouts.

    Raises:
        InputError: If there is no calibration, or it has drifted, or there are no pictures.
    """

    source = "nersemble"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        if not self.name.isdigit():
            raise InputError(
                f"{path} is not named as a participant of NeRSemble.", "Expected a name like 074."
            )
        self.subject = f"{int(self.name):03d}"
        file = calibration_file(path)
        if file is None:
            raise InputError(
                f"{path} has no camera_params.json.",
                "Expected it here, in calibration/, or in ../camera_params/<participant>/.",
            )
        self._world_to_camera, self._K, self._lenses = read_calibration(file)
        self._found = find_sequences(path)
        seen = natural({camera for p in self._found.values() for camera in p.cameras()})
        self.cameras = tuple(c for c in natural(self._world_to_camera) if c in seen)
        self._strange = [c for c in seen if c not in self._world_to_camera]
        if not self.cameras:
            raise InputError(
                f"{path} has no pictures of the calibrated cameras "
                f"({', '.join(natural(self._world_to_camera)[:3])}, ...).",
                "Download some sequences.",
            )
        self.timesteps = tuple(
            Timestep(name, int(i)) for name, p in self._found.items() for i in p.numbers()
        )
        self._colors: dict[tuple[str, str], Correction | None] = {}
        self._table = _color_table(path)
        self._tracked: dict[str, dict[str, np.ndarray]] = {}
        self.color = self._color_tag()
        one = isinstance(self._K, np.ndarray)
        self.facts = {
            "pictures": ", ".join(natural({p.kind for p in self._found.values()})),
            "matte": ", ".join(natural({p.mattes for p in self._found.values()})),
            "intrinsics": "one K for all cameras" if one else "a K for each camera",
            "distortion": "taken out" if any(self._lenses.values()) else "none stored",
            "color": self.color,
            "cameras": f"{len(self.cameras)} of {len(self._world_to_camera)} calibrated",
        }
        tracked = {f.name for s in self.sentences() if (f := self._tracking_file(s)) is not None}
        if tracked:
            self.facts["tracking"] = ", ".join(natural(tracked))

    @property
    def layout(self) -> str | None:
        """The benchmark's tracking is FLAME 2023."""
        return FLAME2023 if any(self._tracking_file(s) for s in self.sentences()) else None

    def missing(self) -> Mapping[str, str]:
        """Compare the cameras of each sequence with each other, by the headers of their videos."""
        gone = {f"camera {c}": "has pictures, but no calibration" for c in self._strange}
        for name, pictures in self._found.items():
            total = len(pictures.numbers())
            for camera in self.cameras:
                try:
                    lacking = total - len(pictures.numbers_of(camera))
                except MissingItemError as error:
                    gone[f"{name}, camera {camera}"] = error.problem
                    continue
                if lacking == total:
                    gone[f"{name}, camera {camera}"] = "not there"
                elif lacking:
                    gone[f"{name}, camera {camera}"] = (
                        f"{total - lacking} frames, another camera has {total}: from where it lost "
                        "some, its frames may be of other moments"
                    )
        for camera in natural(set(self._world_to_camera) - set(self.cameras)):
            gone[f"camera {camera}"] = "calibrated, but without any picture"
        return gone

    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether there is a picture, and its matte where there are mattes."""
        pictures = self._found.get(timestep.sentence)
        return (
            pictures is not None and camera in self.cameras and pictures.has(timestep.index, camera)
        )

    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Read one picture, in corrected colours."""
        pictures = self._found.get(timestep.sentence)
        if pictures is None or camera not in self.cameras:
            raise MissingItemError(
                f"{self.path} has no sequence {timestep.sentence} by camera {camera}.",
                "Not every participant has every sequence and camera.",
            )
        image = pictures.read(timestep.index, camera)
        matte: Matte | None = pictures.matte(timestep.index, camera, image.shape[1::-1])
        # The backdrop is judged before the colours change.
        behind = backdrop(image, matte)
        correct = self._correction(timestep.sentence, camera)
        if correct is not None:
            image = correct(image)
        seen = self._camera(camera, image.shape[1], image.shape[0])
        lens = self._lenses.get(camera)
        if lens is not None:
            image = undistort(image, seen, lens)
            matte = None if matte is None else undistort(matte, seen, lens)
        return RawView(_settled(image, matte, behind), seen, matte, behind)

    def background(self, camera: str) -> Rgb | None:
        """Return the picture of the empty room, in uncorrected colours, if there is one."""
        for folder in (self.path / "sequences" / "BACKGROUND", self.path / "BACKGROUND"):
            file = folder / f"image_{camera}.jpg"
            if file.is_file():
                return rgb_of(read_picture(file), file)
        return None

    def flame(self, timestep: Timestep) -> FlameFit | None:
        """Return the benchmark's tracking of a timestep.

        `rotation` in these files is made of Euler angles, so `rotation_matrices` is read.
        """
        file = self._tracking_file(timestep.sentence)
        if file is None:
            return None
        if timestep.sentence not in self._tracked:
            self._tracked[timestep.sentence] = read_npz(file)
        arrays = self._tracked[timestep.sentence]
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, fits refuse
                frames = np.ravel(arrays["frames"]).astype(int)
                rows = np.flatnonzero(frames == timestep.index)
                if not len(rows):
                    raise MissingItemError(
                        f"{file} has no frame {timestep.index}.", "The tracking left it out."
                    )
                return _fit(arrays, int(rows[0]))
        except (KeyError, IndexError, TypeError, ValueError, ShapeError, CameraError) as error:
            raise MissingItemError(
                f"{file}: {error}; it has {', '.join(sorted(arrays))}.", "Download it again."
            ) from error

    def close(self) -> None:
        """Close all videos."""
        for pictures in self._found.values():
            pictures.close()

    def _camera(self, camera: str, width: int, height: int) -> Camera:
        stored = self._K if isinstance(self._K, np.ndarray) else self._K[camera]
        K = fit_intrinsics(stored, width, height, f"{self.path}, camera {camera}")
        E = torch.from_numpy(self._world_to_camera[camera])
        try:
            return Camera(E, torch.from_numpy(K), width, height)
        except CameraError as error:
            raise MissingItemError(
                f"{self.path}, camera {camera}: {error.problem}", error.remedy
            ) from error

    def _tracking_file(self, sequence: str) -> Path | None:
        for folder in (
            self.path / "sequences" / sequence / "tracking",
            self.path / "sequences" / sequence / "annotations" / "tracking",
            self.path / "tracking" / sequence,
            self.path / "tracking",
        ):
            for name in TRACKINGS:
                if (folder / name).is_file():
                    return folder / name
        return None

    def _correction(self, sequence: str, camera: str) -> Correction | None:
        key = (sequence, camera)
        if key not in self._colors:
            if self._table is not None:
                values = self._table.get(camera)
                found = None if values is None else Cheung(values, f"{self.path}, {camera}")
            else:
                file = self._affine_file(sequence, camera)
                found = None if file is None else Affine.read(file)
            self._colors[key] = found
        return self._colors[key]

    def _affine_file(self, sequence: str, camera: str) -> Path | None:
        folders = [self.path / "annotations" / sequence / "color_correction"]
        folders += [self.path.parent / "color_correction" / n for n in (self.name, self.subject)]
        files = [folder / f"{camera}.npy" for folder in folders]
        return next((file for file in files if file.is_file()), None)

    def _color_tag(self) -> str:
        if self._table is not None:
            terms = {Cheung(values, f"{self.path}, {c}").terms for c, values in self._table.items()}
            return "nersemble-v2-cheung" + "-".join(map(str, sorted(terms)))
        some = any(self._affine_file(s, c) for s in self.sentences() for c in self.cameras)
        return "nersemble-v1-affine" if some else "nersemble-uncorrected"


def calibration_file(path: Path) -> Path | None:
    """Return the calibration of a participant's folder, wherever its layout has it."""
    names = [path / "calibration", path]
    if path.resolve().name.isdigit():
        number = int(path.resolve().name)
        root = path.resolve().parent / "camera_params"
        names += [root / path.resolve().name, root / f"{number:03d}", root / str(number)]
    files = [folder / "camera_params.json" for folder in names]
    return next((file for file in files if file.is_file()), None)


Intrinsics = Float64[np.ndarray, "3 3"] | dict[str, Float64[np.ndarray, "3 3"]]


def read_calibration(
    path: Path,
) -> tuple[dict[str, Float64[np.ndarray, "4 4"]], Intrinsics, dict[str, Lens | None]]:
    """Read the cameras: world to camera, one K or one for each, lenses if there are any.

    Raises:
        InputError: If the layout has drifted.
    """
    values = read_json(path)
    motions: dict[str, Float64[np.ndarray, "4 4"]] = {}
    for name, rows in need(values, "world_2_cam", dict, path).items():
        E = matrix(rows, (4, 4), f"{path}, world_2_cam of {name}")
        try:
            E[:3, :3], _ = nearest_rotation(E[:3, :3])
        except CameraError as error:
            raise InputError(f"{path}, {name}: {error.problem}", error.remedy) from error
        if np.abs(E[3] - [0, 0, 0, 1]).max() > 1e-6:
            raise InputError(
                f"{path}: world_2_cam of {name} is not a rigid motion.", "Is it transposed?"
            )
        motions[str(name)] = E
    if not motions:
        raise InputError(f"{path} lists no cameras.", "Download it again.")
    distance = float(np.median([np.linalg.norm(E[:3, 3]) for E in motions.values()]))
    if not 0.2 < distance < 10:
        raise InputError(
            f"{path}: the cameras are {distance:.4g} units from the head.",
            "Lengths are metres in this data set, with cameras about 1 m away.",
        )
    return motions, _intrinsics(values, motions, path), _lenses(values, motions, path)


def _intrinsics(values: Mapping[str, Any], motions: Mapping[str, Any], path: Path) -> Intrinsics:
    stored = need(values, "intrinsics", (list, dict), path)
    if isinstance(stored, dict):
        lacking = [name for name in motions if name not in stored]
        if lacking:
            raise InputError(f"{path}: no intrinsics of {', '.join(lacking)}.", "Download again.")
        return {name: matrix(stored[name], (3, 3), f"{path}, K of {name}") for name in motions}
    return matrix(stored, (3, 3), f"{path}, intrinsics")


def fit_intrinsics(
    K: Float64[np.ndarray, "3 3"], width: int, height: int, where: str
) -> Float64[np.ndarray, "3 3"]:
    """Bring intrinsics to a picture's size.

    They are stored for the full sensor, but the benchmark's may be for the pictures as they are:
    the reading whose principal point is nearer to the picture's middle is taken.

    Raises:
        MissingItemError: If neither reading fits, as for a picture that was turned or cut.
    """
    scale = width / FULL_WIDTH
    readings = [K]
    if abs(height / FULL_HEIGHT / scale - 1) < 0.01:
        readings.append(K * np.array([[scale], [height / FULL_HEIGHT], [1.0]]))

    def off(reading: np.ndarray) -> float:
        return float(np.abs(reading[:2, 2] / np.array([width, height]) - 0.5).max())

    best = min(readings, key=off)
    turned = width > height and K[1, 2] > 1.2 * K[0, 2]
    if not off(best) < 0.5 or turned:
        raise MissingItemError(
            f"{where}: a picture of {width}x{height} does not fit intrinsics with the principal "
            f"point ({K[0, 2]:.0f}, {K[1, 2]:.0f}); pictures are portraits of "
            f"{FULL_WIDTH}x{FULL_HEIGHT} or a fraction of it.",
            "It may have been turned or cut since it was recorded.",
        )
    return best


def _lenses(
    values: Mapping[str, Any], cameras: Mapping[str, Any], path: Path
) -> dict[str, Lens | None]:
    """Read `distortion`, of which no file of the data set is known: one list, or one by camera."""
    stored = values.get("distortion") or values.get("distortion_coefficients")
    if stored is None:
        return {}
    lenses: dict[str, Lens | None] = {}
    for name in cameras:
        row = stored.get(name) if isinstance(stored, dict) else stored
        where = f"{path}, distortion of {name}"
        if not isinstance(row, list) or len(row) not in (4, 5):
            raise InputError(f"{where} is not 4 or 5 numbers.", "Expected k1, k2, p1, p2, k3.")
        numbers = matrix(row, (len(row),), where).tolist()
        lenses[name] = Lens.read(dict(zip(("k1", "k2", "p1", "p2", "k3"), numbers)), where)
    return lenses


def _color_table(path: Path) -> dict[str, Any] | None:
    file = path / "calibration" / "color_calibration.json"
    return read_json(file) if file.is_file() else None


def _settled(image: Rgb, matte: Matte | None, behind: str) -> Rgb:
    """Put back the plain backdrop that a colour correction has tinted."""
    if matte is None or behind == "scene":
        return image
    image = image.copy()
    image[matte == 0] = 255 if behind == "white" else 0
    return image


def _fit(arrays: Mapping[str, np.ndarray], row: int) -> FlameFit:
    """Return one row of the benchmark's tracking."""
    root, _ = nearest_rotation(np.asarray(arrays["rotation_matrices"][row], np.float64))
    vectors = np.concatenate(
        [np.ravel(arrays[name][row]) for name in ("neck", "jaw", "eyes")]
    ).astype(np.float64)
    rotations = Rotation.from_rotvec(vectors.reshape(4, 3)).as_matrix()
    expression = np.ravel(arrays["expression"][row]).astype(np.float64)
    return FlameFit(
        version="2023",
        shape=np.ravel(arrays["shape"]).astype(np.float64),
        expression=expression,
        rotations=np.concatenate([root[None], rotations]),
        translation=np.ravel(arrays["translation"][row]).astype(np.float64),
        eyelids=np.zeros(2),
        scale=float(np.ravel(arrays["scale"])[0]) if "scale" in arrays else 1.0,
        root_about="origin",
    )

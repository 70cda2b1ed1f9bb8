"""A first estimate of the cameras of photographs, from landmarks against a head model.

Letters: v photographs. Frames and units are those of CONVENTIONS.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy import optimize
from scipy.spatial.transform import Rotation

from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.types import Camera


@dataclass(frozen=True)
class FitConfig:
    """What is believed before seeing a landmark; widths are standard deviations."""

    landmark_error: float = 0.015
    """Of one coordinate of a landmark of full weight, in longer sides of the landmarks' box."""
    huber: float = 1.5
    """Residuals beyond this many standard deviations count linearly, not squared."""
    distance: float = 1.0
    """Camera to head, metres."""
    distance_width: float = 0.2
    """Of the logarithm of the distance."""
    focal: float = 1.8
    """In longer sides of the picture: a portrait lens, equivalent to 65 mm."""
    focal_width: float = 0.5
    """Of the logarithm of the focal length, if the picture does not tell it."""
    known_focal_width: float = 0.05
    """The same, if it does."""
    same_focal_width: float = 0.1
    """Between pictures of one size that do not tell it: probably one camera took them."""
    scale_width: float = 0.06
    """Of the logarithms of the head's width, height and depth over the model's."""


@dataclass(frozen=True)
class HeadFit:
    """Cameras of some photographs of one head."""

    cameras: list[Camera]
    """One for each photograph, in its pixels, float32."""
    head: Float64[np.ndarray, "68 3"]
    """The model's landmarks scaled to this person, metres, head frame."""
    errors: Float64[np.ndarray, "v"]
    """Weighted root mean square distance from landmark to projection, pixels, for each."""


def _weights() -> Float64[np.ndarray, "68"]:
    """Return how far each landmark may be trusted to be rigid and rightly placed, at most 1."""
    weights = np.ones(68)
    weights[:17] = 0.2  # the outline has no exact place on a head
    weights[5:12] = 0.15  # and the chin drops with the jaw
    weights[17:27] = 0.4  # brows move, and models disagree on their height
    weights[36:48] = 0.8
    weights[[37, 38, 40, 41, 43, 44, 46, 47]] = 0.5  # lids
    weights[48:] = 0.25  # the mouth
    return weights


WEIGHTS = _weights()


def estimate(
    landmarks: Sequence[Float64[np.ndarray, "68 2"]],
    sizes: Sequence[tuple[int, int]],
    model: Float64[np.ndarray, "68 3"],
    focals: Sequence[float | None] | None = None,
    config: FitConfig = FitConfig(),
) -> HeadFit:
    """Return the camera of each photograph of one head, and the head's size.

    Rotation, translation and focal length of each photograph, and one width, height and depth
    of the head for all of them, by robust least squares. Landmarks alone hardly tell a long
    lens far away from a short one nearby: there the priors of `config` decide.

    Args:
        landmarks: iBUG landmarks in pixels of each photograph.
        sizes: Width and height of each photograph; the principal point is in the middle.
        model: The same landmarks on the head model, metres, head frame.
        focals: Focal lengths in pixels that are known, for example from EXIF.
        config: Priors and noise.

    Raises:
        ShapeError: If the numbers of landmarks and sizes differ, or there are none.
        CameraError: If landmarks are not finite or fall on one line or point.
    """
    count = len(landmarks)
    if not count or len(sizes) != count or (focals is not None and len(focals) != count):
        raise ShapeError(
            f"{count} sets of landmarks, {len(sizes)} picture sizes.", "Give one of each a photo."
        )
    problem = _Problem(
        np.stack(landmarks).astype(float),
        np.array(sizes, float),
        np.asarray(model, float),
        [None] * count if focals is None else list(focals),
        config,
    )
    solve: Any = optimize.least_squares  # pyright: ignore[reportUnknownVariableType]
    solved = solve(
        problem.residuals,
        problem.start(),
        loss="huber",
        f_scale=config.huber,
        x_scale="jac",
        max_nfev=200,
    )
    return problem.result(solved.x)


class _Problem:
    """Unknowns [3 log scales | v x (rotation vector, log distance, x/z, y/z, log focal)]."""

    def __init__(
        self,
        pixels: Float64[np.ndarray, "v 68 2"],
        sizes: Float64[np.ndarray, "v 2"],
        model: Float64[np.ndarray, "68 3"],
        focals: list[float | None],
        config: FitConfig,
    ) -> None:
        if pixels.shape[1:] != (68, 2) or model.shape != (68, 3):
            raise ShapeError(
                f"Cameras need 68 landmarks; got {list(pixels.shape)}, {list(model.shape)}.",
                "Convert them to the iBUG order.",
            )
        extent = np.ptp(pixels, axis=1).max(-1)
        if not np.isfinite(pixels).all() or (extent < 2).any():
            raise CameraError(
                "The landmarks of a photograph are not finite or fall on one point.",
                "Leave this photograph out.",
            )
        self.pixels, self.sizes, self.model, self.config = pixels, sizes, model, config
        self.sigma = config.landmark_error * extent[:, None] / WEIGHTS
        guess = config.focal * sizes.max(-1)
        self.told = np.array([f is not None for f in focals])
        self.focal = np.array([g if f is None else f for f, g in zip(focals, guess, strict=True)])
        self.focal_width = np.where(self.told, config.known_focal_width, config.focal_width)
        groups: dict[tuple[float, float], list[int]] = {}
        for i in np.flatnonzero(~self.told).tolist():
            groups.setdefault((float(sizes[i, 0]), float(sizes[i, 1])), []).append(i)
        self.groups = [group for group in groups.values() if len(group) > 1]

    def start(self) -> Float64[np.ndarray, "n"]:
        """Return weak-perspective cameras at the expected distance (known focal: at its own)."""
        rows = [np.zeros(3)]
        for i, pixels in enumerate(self.pixels):
            R, scale, shift = _weak_perspective(pixels, self.model)
            distance = self.focal[i] / scale if self.told[i] else self.config.distance
            focal = scale * distance
            x, y = (shift - self.sizes[i] / 2) / focal
            vector = Rotation.from_matrix(R).as_rotvec()
            rows.append(np.array([*vector, np.log(distance), x, y, np.log(focal)]))
        return np.concatenate(rows)

    def unpack(
        self, x: Float64[np.ndarray, "n"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return head [68, 3], rotations [v, 3, 3], translations [v, 3], focal lengths [v]."""
        each = x[3:].reshape(-1, 7)
        z = np.exp(each[:, 3])
        t = np.stack([each[:, 4] * z, each[:, 5] * z, z], -1)
        R = Rotation.from_rotvec(each[:, :3]).as_matrix()
        # The head frame is tied to the eyes, so they stay where they are in anybody's size.
        eyes = self.model[36:48].mean(0)
        return eyes + (self.model - eyes) * np.exp(x[:3]), R, t, np.exp(each[:, 6])

    def misses(self, x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "v 68 2"]:
        head, R, t, focal = self.unpack(x)
        inside = head @ R.swapaxes(1, 2) + t[:, None]
        # A wild step may put a point behind the camera: keep the division finite there.
        depth = np.maximum(inside[..., 2:], 0.01)
        return (
            focal[:, None, None] * inside[..., :2] / depth + self.sizes[:, None] / 2 - self.pixels
        )

    def residuals(self, x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "m"]:
        """Return all misses in standard deviations: landmarks, then what was believed before."""
        each, config = x[3:].reshape(-1, 7), self.config
        parts = [
            (self.misses(x) / self.sigma[..., None]).ravel(),
            x[:3] / config.scale_width,
            (each[:, 3] - np.log(config.distance)) / config.distance_width * ~self.told,
            (each[:, 6] - np.log(self.focal)) / self.focal_width,
        ]
        parts += [
            (each[group, 6] - each[group, 6].mean()) / config.same_focal_width
            for group in self.groups
        ]
        return np.concatenate(parts)

    def result(self, x: Float64[np.ndarray, "n"]) -> HeadFit:
        head, R, t, focal = self.unpack(x)
        cameras: list[Camera] = []
        for i, (width, height) in enumerate(self.sizes.astype(int).tolist()):
            E = np.eye(4)
            E[:3, :3], E[:3, 3] = R[i], t[i]
            K = np.array([[focal[i], 0, width / 2], [0, focal[i], height / 2], [0, 0, 1]])
            cameras.append(Camera(torch.tensor(E).float(), torch.tensor(K).float(), width, height))
        squares = (self.misses(x) ** 2).sum(-1)
        return HeadFit(cameras, head, np.sqrt((squares * WEIGHTS).sum(-1) / WEIGHTS.sum()))


def _weak_perspective(
    pixels: Float64[np.ndarray, "68 2"], model: Float64[np.ndarray, "68 3"]
) -> tuple[Float64[np.ndarray, "3 3"], float, Float64[np.ndarray, "2"]]:
    """Return R, s, c such that pixels are nearly s R[:2] X + c.

    Source: DeMenthon and Davis, Model-Based Object Pose in 25 Lines of Code, IJCV 1995; the
    nearest rotation by singular values instead of their normalised rows.
    """
    w = WEIGHTS[:, None]
    system = np.concatenate([model, np.ones((68, 1))], axis=1)
    solution: np.ndarray = np.linalg.lstsq(system * w, pixels * w, rcond=None)[0]
    U, S, Vt = np.linalg.svd(solution[:3].T, full_matrices=False)
    rows = U @ Vt
    R = np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])
    if S[1] < 1e-3 * S[0]:
        raise CameraError(
            "The landmarks of a photograph fall on one line.", "Leave this photograph out."
        )
    # The affine fit may lean on the model's flatness; the scale of its larger row is steadier.
    return R, float(S.mean()), solution[3]

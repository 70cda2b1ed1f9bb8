"""Fit of a head model to 68 landmarks alone: what `pipeline.tracking.bundle` is measured against.

Identity, expression, jaw, lids, poses and focal length; all frames of one person at once, in
several calibrated views or in one whose camera is unknown. No command but `bench` fits like this.

Letters: t frames, v views. Frames and units are those of CONVENTIONS.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.tracking import cameras as estimation
from pipeline.tracking.models import FaceModel, FaceState, rotation

STARTS = 4
"""A first pose is estimated in at most so many of the calibrated views of a frame."""


@dataclass(frozen=True)
class TrackConfig:
    """What is believed before seeing a landmark; widths are standard deviations."""

    landmark_error: float = 0.01
    """Of a landmark, in longer sides of the landmarks' box."""
    outline: float = 0.2
    """Weight of the outline's landmarks, which slide over the head."""
    huber: float = 2.0
    """Residuals beyond this many standard deviations count linearly, not squared."""
    identity_width: float = 1.0
    expression_width: float = 1.0
    jaw_width: float = 0.15
    """Radians."""
    jaw_back: float = 0.03
    """How far a jaw goes up beyond shut, or to the front of its axis; radians."""
    lids_width: float = 0.4
    distance_width: float = 0.1
    """Of the logarithm of the distance about the first estimate, where the focal is unknown."""
    focal_width: float = 0.1
    """Of the logarithm of an unknown focal length about the first estimate."""
    smooth: float = 0.0
    """Weight of the change from frame to frame, in the widths above; 0 for photographs."""
    iterations: int = 120


@dataclass(frozen=True)
class Observations:
    """Landmarks of one person. Unknown ones are nan."""

    points: Float64[np.ndarray, "t v 68 2"]
    """Pixels."""
    cameras: Camera | None = None
    """[v], world to camera; if not given there is one view, and the camera is to be found."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each frame's picture, where the camera is unknown."""
    bias: Float64[np.ndarray, "68 3"] = field(default_factory=lambda: np.zeros((68, 3)))
    """From the model's landmarks to where this detector sees them, head frame, metres."""


@dataclass(frozen=True)
class Track:
    """What was found."""

    identity: Float[Tensor, "k"]
    state: FaceState
    codes: ExpressionCode
    """[t, 120]"""
    cameras: tuple[Camera, ...]
    """Of each frame [v], from the head frame."""
    landmarks: Float[Tensor, "t 68 3"]
    """Of the model without the detector's bias, head frame, metres."""
    errors: Float64[np.ndarray, "t v"]
    """Root mean square distance to the landmarks, pixels; nan where none was seen."""


def track(
    model: FaceModel,
    seen: Observations,
    config: TrackConfig = TrackConfig(),
) -> Track:
    """Fit a head model to landmarks of one person.

    Eyes stay at rest: 68 landmarks say nothing about them.

    Args:
        model: The head.
        seen: The landmarks.
        config: Priors and noise.

    Raises:
        ShapeError: If the landmarks do not fit the cameras.
        CameraError: If a frame has no view with all landmarks.
    """
    if seen.points.ndim != 4 or seen.points.shape[2:] != (68, 2) or not len(seen.points):
        raise ShapeError(
            f"Tracking needs landmarks [t, v, 68, 2]; got {list(seen.points.shape)}.",
            "Convert them to the iBUG order.",
        )
    views = 1 if seen.cameras is None else len(seen.cameras)
    if seen.points.shape[1] != views or (
        seen.cameras is None and len(seen.sizes) != len(seen.points)
    ):
        raise ShapeError(
            f"Landmarks of {seen.points.shape[1]} views, {views} cameras, {len(seen.sizes)} sizes.",
            "Give a camera for each view, or the size of each frame's picture.",
        )
    problem = _Problem(model, seen, config)
    solver = torch.optim.LBFGS(
        problem.unknowns(), max_iter=config.iterations, history_size=20,
        line_search_fn="strong_wolfe", tolerance_grad=1e-6, tolerance_change=1e-9,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        energy = problem.energy()
        energy.backward()  # pyright: ignore[reportUnknownMemberType]
        return energy

    solver.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return problem.result()


class _Problem:
    """Unknowns of a fit, each in units of its width, and the energy that they are to lower."""

    def __init__(
        self,
        model: FaceModel,
        seen: Observations,
        config: TrackConfig,
    ) -> None:
        self.model, self.seen, self.config = model, seen, config
        points = torch.from_numpy(seen.points)
        self.known = torch.isfinite(points).all(-1).float()
        self.points = torch.nan_to_num(points).float()
        filled = np.where(np.isfinite(seen.points), seen.points, np.nan)
        extent = np.ones(seen.points.shape[:2])
        for t, v in np.ndindex(*extent.shape):
            if np.isfinite(filled[t, v]).any():
                extent[t, v] = max(float(np.nanmax(np.ptp(_seen(filled[t, v]), axis=0))), 2.0)
        self.sigma = torch.from_numpy(config.landmark_error * extent).float()[..., None]
        self.weights = torch.ones(68)
        self.weights[:17] = config.outline
        self.bias = torch.from_numpy(seen.bias).float()
        self._start()
        t = len(points)
        self.identity = torch.zeros(model.identity_size, requires_grad=True)
        self.expression = torch.zeros(t, model.expression_size, requires_grad=True)
        self.jaw = torch.zeros(t, 2, requires_grad=True)
        self.lids = torch.zeros(t, 2, requires_grad=True)
        self.turn = torch.zeros(t, 3, requires_grad=True)
        self.shift = torch.zeros(t, 3, requires_grad=True)
        self.zoom = torch.zeros(t if seen.cameras is None else 0, requires_grad=True)

    def unknowns(self) -> list[Tensor]:
        every = [self.identity, self.expression, self.jaw, self.lids, self.turn, self.shift]
        return [x for x in (*every, self.zoom) if x.requires_grad and len(x)]

    def _start(self) -> None:
        """Estimate each frame's pose from landmarks that hardly move."""
        seen = self.seen
        parts = ((self.model.expression_size,), (3,), (2, 3), (2,))
        neutral = FaceState(*(torch.zeros(1, *part) for part in parts))
        with torch.no_grad():
            mean = self.model.landmarks(torch.zeros(self.model.identity_size), neutral)[0]
        head = mean.double().numpy() + seen.bias
        count = len(seen.points)
        poses = np.tile(np.eye(4), (count, 1, 1))
        if seen.cameras is None:
            for t in range(count):
                _whole(seen.points[t, 0], t)
            found = estimation.estimate(list(seen.points[:, 0]), list(seen.sizes), head)
            poses = np.stack([c.world_to_camera.double().numpy() for c in found.cameras])
            intrinsics = torch.stack([c.K for c in found.cameras])[:, None]
            extrinsics = torch.eye(4).expand(count, 1, 4, 4)
        else:
            poses = np.stack([self._pose(head, t) for t in range(count)])
            intrinsics = seen.cameras.K.float().expand(count, -1, -1, -1)
            extrinsics = seen.cameras.world_to_camera.float().expand(count, -1, -1, -1)
        self.extrinsics, self.intrinsics = extrinsics, intrinsics.float()
        self.R0 = torch.from_numpy(poses[:, :3, :3]).float()
        self.t0 = torch.from_numpy(poses[:, :3, 3]).float()

    def _pose(self, head: Float64[np.ndarray, "68 3"], t: int) -> Float64[np.ndarray, "4 4"]:
        """Estimate the head pose of a frame in the view that shows it best."""
        seen = self.seen
        assert seen.cameras is not None
        E, K = seen.cameras.world_to_camera.double().numpy(), seen.cameras.K.double().numpy()
        size = (seen.cameras.width, seen.cameras.height)
        full = [v for v in range(len(E)) if np.isfinite(seen.points[t, v]).all()]
        if not full:
            _whole(np.full((68, 2), np.nan), t)
        full = full[:: -(-len(full) // STARTS)]
        centred = [seen.points[t, v] - K[v, :2, 2] + np.array(size) / 2 for v in full]
        focals = [float(K[v, 0, 0]) for v in full]
        found = estimation.estimate(centred, [size] * len(full), head, focals)
        best = int(found.errors.argmin())
        camera = found.cameras[best].world_to_camera.double().numpy()
        return np.linalg.inv(E[full[best]]) @ camera

    def state(self) -> FaceState:
        config = self.config
        jaw = torch.cat([self.jaw * config.jaw_width, torch.zeros(len(self.jaw), 1)], 1)
        return FaceState(
            self.expression * config.expression_width,
            jaw,
            torch.zeros(len(jaw), 2, 3),
            self.lids * config.lids_width,
        )

    def poses(self) -> tuple[Tensor, Tensor]:
        """Return rotations [t, 3, 3] and translations [t, 3] from head to world."""
        R, t = rotation(0.1 * self.turn) @ self.R0, self.t0
        if not len(self.zoom):
            return R, t + 0.01 * self.shift
        # Sideways in metres; along the view as a factor, which the zoom's prior goes with.
        depth = torch.exp(self.config.distance_width * self.shift[:, 2:])
        aside = torch.cat([0.01 * self.shift[:, :2], torch.zeros(len(R), 1)], 1)
        return R, self.t0 * depth + aside

    def K(self) -> Tensor:
        if not len(self.zoom):
            return self.intrinsics
        factor = torch.exp(self.config.focal_width * self.zoom)
        grow = torch.ones(len(factor), 1, 3, 1)
        grow[:, 0, 0, 0] = grow[:, 0, 1, 0] = 1
        grow = torch.cat([factor[:, None, None, None].expand(-1, 1, 2, 1), grow[:, :, 2:]], 2)
        focal = self.intrinsics * torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
        return focal * grow + (self.intrinsics - focal)

    def misses(self) -> Float[Tensor, "t v 68"]:
        """Return the distances to the landmarks, squared, pixels."""
        points = self.model.landmarks(self.identity * self.config.identity_width, self.state())
        R, t = self.poses()
        world = (points + self.bias) @ R.mT + t[:, None]
        inside = (
            world[:, None] @ self.extrinsics[..., :3, :3].mT + self.extrinsics[..., None, :3, 3]
        )
        K = self.K()
        depth = inside[..., 2:].clamp(min=0.01)  # a wild step may go behind the camera
        pixels = inside[..., :2] / depth * K[..., [0, 1], [0, 1]][..., None, :]
        pixels = pixels + K[..., None, :2, 2]
        return ((pixels - self.points) ** 2).sum(-1)

    def energy(self) -> Tensor:
        config = self.config
        far = (self.misses() / self.sigma**2 + 1e-12).sqrt()
        huber = config.huber
        rho = torch.where(far < huber, 0.5 * far**2, huber * (far - 0.5 * huber))
        energy = (rho * self.weights * self.known).sum()
        energy = energy + 0.5 * (self.identity**2).sum() + 0.5 * (self.expression**2).sum()
        back = (-self.jaw[:, 0] * config.jaw_width / config.jaw_back).clamp(min=0)
        energy = energy + 0.5 * ((self.jaw**2).sum() + (back**2).sum() + (self.lids**2).sum())
        if len(self.zoom):
            energy = energy + 0.5 * (self.zoom**2).sum() + 0.5 * (self.shift[:, 2] ** 2).sum()
        if config.smooth and len(self.jaw) > 1:
            R, t = self.poses()
            moving = (self.expression, self.jaw, self.lids, 10 * R.flatten(1), 100 * t)
            energy = energy + config.smooth * sum(((x[1:] - x[:-1]) ** 2).sum() for x in moving)
        return energy

    def result(self) -> Track:
        R, t = self.poses()
        pose = torch.eye(4).repeat(len(R), 1, 1)
        # Products of float matrices drift from rotations by 1e-6.
        U, _, V = torch.linalg.svd(R)
        pose[:, :3, :3], pose[:, :3, 3] = U @ V, t
        E, K = self.extrinsics @ pose[:, None], self.K()
        sizes = self.seen.sizes
        if self.seen.cameras is not None:
            sizes = ((self.seen.cameras.width, self.seen.cameras.height),) * len(R)
        cameras = tuple(Camera(E[i], K[i], *sizes[i]) for i in range(len(R)))
        count = self.known.sum(-1)
        errors = ((self.misses() * self.known).sum(-1) / count).sqrt()
        state = self.state()
        identity = (self.identity * self.config.identity_width).detach()
        return Track(
            identity,
            state,
            state.code(self.model.layout),
            cameras,
            self.model.landmarks(identity, state),
            errors.double().numpy(),
        )


def _seen(points: Float64[np.ndarray, "68 2"]) -> Float64[np.ndarray, "m 2"]:
    return points[np.isfinite(points).all(-1)]


def _whole(points: Float64[np.ndarray, "68 2"], frame: int) -> None:
    if not np.isfinite(points).all():
        raise CameraError(f"Frame {frame} has no view with all landmarks.", "Leave this frame out.")

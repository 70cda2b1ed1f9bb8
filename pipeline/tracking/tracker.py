"""A tracked head: what the network sees of some pictures, and the one fit of all of them.

Letters: n pictures, v vertices, k numbers of identity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image

from pipeline.core.arrays import Rgb
from pipeline.core.errors import CameraError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.makehuman import load_asset
from pipeline.perception.detectors import DetectorEntry, get_detector
from pipeline.perception.eyes import EyesFinder
from pipeline.perception.landmarks import Detector, Face, Following
from pipeline.perception.points import CloseUp, PointsFinder, PointsSeen, close_up
from pipeline.system.pools import one_blas_thread, one_thread
from pipeline.system.progress import Progress, silent
from pipeline.tracking.bundle import MARKS, Bundle, BundleConfig, Poses, Sighting, fit, moved
from pipeline.tracking.carry import Carrier
from pipeline.tracking.correction import IdentityCorrection, Setting
from pipeline.tracking.models import (
    FaceModel,
    FaceState,
    FlameFace,
    MakeHumanFace,
    identity_space,
)
from pipeline.tracking.motion import MotionConfig, align_moments
from pipeline.tracking.rest import RestConfig, settle
from pipeline.tracking.skin import SkinConfig
from pipeline.tracking.surface import EYES, LIDS, STATE, Surface, face_state
from pipeline.tracking.texture import TextureConfig, align

CUT = 30.0
"""Mean change of small grey pictures, of 255, that only another shot makes."""
ANEW = 10
"""Of so many frames all faces are looked for in one."""
EYE_NUMBERS = slice(EYES.start, LIDS.stop)
"""Gaze and lids among the numbers of a state."""


@dataclass(frozen=True)
class TrackerConfig:
    """What is believed of pictures of one kind, in the four steps of a fit."""

    points: BundleConfig = field(default_factory=BundleConfig)
    turns: TextureConfig = field(default_factory=TextureConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    rest: RestConfig = field(default_factory=lambda: RestConfig(common=1.0))
    corrected: Setting | None = "photographs"
    """As what a fit to points is corrected (`pipeline.tracking.correction`)."""


MOTION = MotionConfig()
RIG = TrackerConfig(
    BundleConfig(alike=2.0, marks=0.05),
    motion=replace(MOTION, skin=replace(MOTION.skin, spacing=0.014), views=2),
    rest=RestConfig(sparse=0.6),
    corrected="rig",
)
"""Of calibrated views, which need no landmarks of a detector to tell an expression by. Two of them
tell all but as much of a place's way between two moments as four do."""
VIDEO = TrackerConfig(
    BundleConfig(
        smooth=1.0, pace=(0.3, 0.015, 0.004), alike=7.0, loose=(0.002, 0.0005), identity=0.5
    ),
    TextureConfig(SkinConfig(spacing=0.02, keys=6, together=1.8), rounds=2),
    replace(MOTION, skin=replace(MOTION.skin, spacing=0.02), rounds=1),
    RestConfig(sparse=0.005),
    corrected=None,
)
"""Of moments in their order. The network is surer of drawn people than right about filmed ones, and
what it errs by changes from frame to frame."""


@dataclass(frozen=True)
class Followed:
    """What was seen in the frames of a video."""

    seen: list[PointsSeen | None]
    """None where there is no face."""
    cuts: list[int]
    """Frames that begin another shot."""
    faces: dict[int, list[Face]]
    """All faces of those frames in which they were looked for."""


@dataclass(frozen=True)
class TrackedHead:
    """One person's head in some pictures. All of it is in the head frame of its model."""

    bundle: Bundle
    """Cameras and poses are of that frame too; identity and states are always the MakeHuman
    head's, whose points are seen."""
    mesh: TrackedMesh
    """Neutral, and posed for each moment."""
    codes: ExpressionCode
    """Of each moment."""
    identity: Float64[np.ndarray, "k"]
    """The person's numbers in the head model of the mesh."""
    topology: str
    """Of that model's vertices, see `pipeline.faces.heads`."""
    landmarks: Float32[np.ndarray, "68 3"]
    """The neutral face's, metres."""
    posed_landmarks: Float32[np.ndarray, "m 68 3"]
    """Of each moment."""

    def seen_landmarks(self, moment: int) -> Float32[np.ndarray, "68 3"]:
        """Return the landmarks as they are posed at a moment."""
        return self.posed_landmarks[moment]


class HeadTracker:
    """Sees the head model's points in pictures and fits the head to them.

    Args:
        finder: The network; the shipped one if not given.
        detector: The detector that finds the faces, or its name.
        eyes: The network that looks at eyes; the shipped one if not given.
        face: The head that is told of: the MakeHuman head, whose points are seen and fitted, if
            not given; or a FLAME model, to which the fitted head is carried.

    Raises:
        InputError: If the FLAME model was converted without its ties to the MakeHuman head.
    """

    def __init__(
        self,
        finder: PointsFinder | None = None,
        detector: str | DetectorEntry = "mesh",
        eyes: EyesFinder | None = None,
        face: FlameFace | MakeHumanFace | None = None,
        correction: IdentityCorrection | None = None,
    ) -> None:
        self._carrier = Carrier(face) if isinstance(face, FlameFace) else None
        self.finder = finder or PointsFinder()
        self._eyes = eyes or EyesFinder()
        self.model = MakeHumanFace()
        self._surface = Surface(self.finder.vertices)
        self._whole = Surface(np.arange(len(load_asset().mean)))
        entry = get_detector(detector) if isinstance(detector, str) else detector
        self._bias = entry.bias()
        self._correct = correction or (IdentityCorrection() if finder is None else None)

    @one_thread()
    def see(self, rgb: Rgb, face: Face) -> PointsSeen:
        """Return where the points of a detected face are; the same by any number of threads."""
        return self._looked_closer(Image.fromarray(rgb), self.finder(rgb, face))

    def _looked_closer(self, picture: Image.Image, seen: PointsSeen) -> PointsSeen:
        """Return what is seen with gaze and lids from a look at each eye."""
        numbers, sigma = seen.numbers.copy(), seen.numbers_sigma.copy()
        numbers[EYE_NUMBERS], sigma[EYE_NUMBERS] = self._eyes(picture, seen.points[:MARKS])
        shown = close_up(picture, seen.points)
        return replace(seen, numbers=numbers, numbers_sigma=sigma, close_up=shown)

    def follow(
        self, frames: Iterable[Rgb], detect: Detector, progress: Progress = silent
    ) -> Followed:
        """See one face through a video: each frame is looked at where the one before had it.

        The detector's landmarks tell the expression of every frame. Where it can follow a face, all
        faces are looked for in some frames only.

        Args:
            frames: In their order.
            detect: Finds faces.
            progress: Told after each frame.
        """
        seen: list[PointsSeen | None] = []
        cuts: list[int] = []
        faces: dict[int, list[Face]] = {}
        last, face, before = None, None, None
        # These networks are too small for threads, which would wait for each other.
        with one_thread():
            for i, rgb in enumerate(frames):
                picture, small = Image.fromarray(rgb), thumbnail(rgb)
                if before is not None and is_cut(before, small):
                    cuts.append(i)
                    last, face = None, None
                if isinstance(detect, Following) and face is not None and i % ANEW:
                    face = detect.again(rgb, face)
                else:
                    face = None
                if face is None:
                    faces[i] = list(detect(rgb))
                    face = _same(faces[i], last)
                if face is None:
                    last = None
                elif last is None:
                    last = self.see(rgb, face)
                else:
                    seen_here = self.finder.look(picture, self.finder.square(last))
                    last = self._looked_closer(picture, replace(seen_here, marks=face.landmarks))
                seen.append(last)
                before = small
                progress(i + 1, 0)
        return Followed(seen, cuts, faces)

    def fit_video(
        self, seen: Followed, size: tuple[int, int], focal: float | None = None
    ) -> tuple[TrackedHead, list[int]]:
        """Fit the head to a video of one lens.

        All frames are solved together, each tied to the one before.

        Returns:
            The head, whose moments are frames that show a face, and the numbers of these frames.

        Raises:
            CameraError: If no frame shows a face.
        """
        frames = [i for i, one in enumerate(seen.seen) if one is not None]
        if not frames:
            raise CameraError("No frame shows a face.", "Give a video of one head.")
        shown = [one for one in seen.seen if one is not None]
        # A frame after a gap follows from nothing.
        cuts = [n for n, i in enumerate(frames) if i in seen.cuts or i - 1 not in frames]
        n = len(frames)
        found = self.fit(
            shown, [size] * n, focals=[focal] * n, lenses=[0] * n, cuts=cuts, config=VIDEO
        )
        return found, frames

    @one_blas_thread()
    def fit(
        self,
        seen: Sequence[PointsSeen],
        sizes: Sequence[tuple[int, int]],
        *,
        focals: Sequence[float | None] | None = None,
        cameras: Sequence[Camera] | None = None,
        moments: Sequence[int] | None = None,
        lenses: Sequence[int] | None = None,
        views: Sequence[int] | None = None,
        poses: Poses = "each",
        cuts: Collection[int] = (),
        identity: Float64[np.ndarray, "k"] | None = None,
        config: TrackerConfig | None = None,
    ) -> TrackedHead:
        """Fit one person's head to what was seen.

        Args:
            seen: In each picture.
            sizes: Width and height of each.
            focals: Focal lengths in pixels that are known, for example from EXIF.
            cameras: Of each picture, world to camera, if they are known.
            moments: Which pictures show one moment; each its own if not given.
            lenses: Which pictures one lens took, without a zoom; each its own if not given.
            views: Which camera of a rig took each picture; those that stand still in the world
                of the cameras, if not given.
            poses: See `pipeline.tracking.bundle.fit`.
            cuts: Likewise.
            identity: Of a head that was fitted before (`Bundle.identity`), so that this one is the
                same.
            config: Priors; those of photographs, or of a rig, if not given.

        Raises:
            As `pipeline.tracking.bundle.fit`.
        """
        config = config or (TrackerConfig() if cameras is None else RIG)
        sightings = _sightings(seen, sizes, focals, cameras, moments, lenses)
        found, who = self._with_points(sightings, config, poses, cuts, identity)
        shown = [one.close_up for one in seen if one.close_up is not None]
        skin = len(shown) == len(seen) > 1
        if skin and cameras is None:
            # Skin tells how the head turned between the pictures: they are a rig around it.
            basis = identity_space()[1] if identity is None else np.zeros((0, 0, 3), np.float32)
            told = found.pose_information
            rig = align(shown, self._mesh(found), found.cameras, told, basis, config.turns)
            sightings = [replace(one, camera=camera) for one, camera in zip(sightings, rig)]
            found = fit(
                self._surface, sightings, config.points, poses="loose", cuts=cuts,
                bias=self._bias, identity=who, first=_as_rig(found),
            )  # fmt: skip
        if skin and len(found.states) > 1:
            found = self._with_moments(found, sightings, shown, views, config)
        found = self._at_rest(found, sightings, config, who, known=identity is not None)
        return self._tracked(found)

    @one_blas_thread()
    def know(
        self,
        seen: Sequence[PointsSeen],
        sizes: Sequence[tuple[int, int]],
        cameras: Sequence[Camera],
        moments: Sequence[int],
        poses: Poses = "each",
        config: TrackerConfig = RIG,
    ) -> Bundle:
        """Return who a person is, and how the head sits, by the points of a few moments of a rig.

        Args:
            seen: See `fit`; all others likewise.
            sizes: See there.
            cameras: See there.
            moments: See there.
            poses: See there.
            config: See there.

        Returns:
            In the MakeHuman head's frame, whatever head is told of.

        Raises:
            As `pipeline.tracking.bundle.fit`.
        """
        sightings = _sightings(seen, sizes, None, cameras, moments, None)
        found, who = self._with_points(sightings, config, poses)
        return self._at_rest(found, sightings, config, who)

    def _with_points(
        self,
        sightings: Sequence[Sighting],
        config: TrackerConfig,
        poses: Poses,
        cuts: Collection[int] = (),
        identity: Float64[np.ndarray, "k"] | None = None,
    ) -> tuple[Bundle, Float64[np.ndarray, "k"] | None]:
        """Return what points tell, and who it is if that is settled: known, or corrected."""
        found = fit(
            self._surface, sightings, config.points, poses=poses, cuts=cuts, bias=self._bias,
            identity=identity,
        )  # fmt: skip
        told = [one.numbers[STATE:] for one in sightings if one.numbers is not None]
        if identity is not None or not (self._correct and config.corrected and len(told) > 1):
            return found, identity
        who = self._correct(config.corrected, found.identity, np.mean(told, axis=0))
        found = fit(
            self._surface, sightings, config.points, poses=poses, cuts=cuts, bias=self._bias,
            identity=who, first=None if sightings[0].camera is None else found,
        )  # fmt: skip
        return found, who

    def _with_moments(
        self,
        found: Bundle,
        sightings: Sequence[Sighting],
        shown: Sequence[CloseUp],
        views: Sequence[int] | None,
        config: TrackerConfig,
    ) -> Bundle:
        """Return what was found with states and poses by which skin agrees between moments."""
        if views is None:
            cameras = [one.camera for one in sightings if one.camera is not None]
            at = [camera.world_to_camera.numpy().tobytes() for camera in cameras]
            views = [at.index(one) for one in at]
        moments = [one.moment for one in sightings]
        states, poses = align_moments(
            shown, moments, views, found, lambda x: self._posed(found.identity, x),
            self._whole.by_state, config.motion,
        )  # fmt: skip
        return moved(self._surface, sightings, found, states, poses, config.points)

    def _at_rest(
        self,
        found: Bundle,
        sightings: Sequence[Sighting],
        config: TrackerConfig,
        who: Float64[np.ndarray, "k"] | None = None,
        *,
        known: bool = False,
    ) -> Bundle:
        """Return what was found with more of the face at rest.

        Args:
            found: Before.
            sightings: Of the pictures.
            config: Priors.
            who: The person, if that is settled; else it is found who looks so at rest.
            known: Whether the states of rest are those of other fits.
        """
        if len(found.states) < 2 and not known:
            return found  # one moment alone tells of no rest
        states = settle(found.states, found.information, config.rest, known=known)
        seen = [replace(one, camera=c) for one, c in zip(sightings, found.cameras, strict=True)]
        rig = _as_rig(found)
        if who is None:
            # Points are linear in who it is, all but.
            points = replace(config.points, iterations=2)
            again = fit(
                self._surface, seen, points, poses="told", bias=self._bias, states=states,
                first=rig,
            )  # fmt: skip
        else:
            again = moved(self._surface, seen, rig, states, rig.poses, config.points)
        return replace(
            found, identity=again.identity, states=states, errors=again.errors,
            misfit=again.misfit,
        )  # fmt: skip

    @torch.no_grad()
    def _posed(
        self, identity: Float64[np.ndarray, "k"], states: Float64[np.ndarray, "m s"]
    ) -> Float32[np.ndarray, "m v 3"]:
        who = torch.from_numpy(identity).float()
        return self.model.vertices(who, face_state(states)).numpy()

    def _mesh(self, found: Bundle) -> TrackedMesh:
        """Return the fitted MakeHuman head."""
        neutral = self._posed(found.identity, np.zeros((1, STATE)))[0]
        return TrackedMesh(self.model.layout, neutral, self._posed(found.identity, found.states))

    def _tracked(self, found: Bundle) -> TrackedHead:
        """Return what was found, as the head that is asked for."""
        mesh, state = self._mesh(found), face_state(found.states)
        if self._carrier is None:
            return _told(self.model, found, mesh, state, found.identity)
        carried = self._carrier(mesh.neutral, mesh.posed, state)
        face = self._carrier.face
        mesh = TrackedMesh(face.layout, carried.neutral, carried.posed)
        return _told(face, seated(found, carried.seat), mesh, carried.state, carried.identity)


def _sightings(
    seen: Sequence[PointsSeen],
    sizes: Sequence[tuple[int, int]],
    focals: Sequence[float | None] | None,
    cameras: Sequence[Camera] | None,
    moments: Sequence[int] | None,
    lenses: Sequence[int] | None,
) -> list[Sighting]:
    return [
        Sighting(
            points=one.points,
            sigma=one.sigma,
            size=sizes[i],
            moment=i if moments is None else moments[i],
            camera=None if cameras is None else cameras[i],
            focal=None if focals is None else focals[i],
            lens=i if lenses is None else lenses[i],
            marks=one.marks,
            numbers=one.numbers,
            numbers_sigma=one.numbers_sigma,
        )
        for i, one in zip(range(len(sizes)), seen, strict=True)
    ]


def _told(
    face: FaceModel,
    bundle: Bundle,
    mesh: TrackedMesh,
    state: FaceState,
    identity: Float64[np.ndarray, "k"],
) -> TrackedHead:
    marks = [face.marks(torch.from_numpy(x)).numpy() for x in (mesh.neutral, mesh.posed)]
    codes = state.code(face.layout)
    return TrackedHead(bundle, mesh, codes, identity, face.topology, marks[0], marks[1])


def _as_rig(found: Bundle) -> Bundle:
    """Return a fit as it is seen by cameras of the head frame."""
    return replace(found, poses=np.tile(np.eye(4), (len(found.poses), 1, 1)))


def seated(found: Bundle, seat: Float64[np.ndarray, "4 4"]) -> Bundle:
    """Return a fit whose cameras and poses are of another head frame.

    Args:
        found: The fit.
        seat: From the other head frame to the fit's.
    """
    cameras = tuple(
        replace(c, world_to_camera=(c.world_to_camera.double() @ torch.from_numpy(seat)).float())
        for c in found.cameras
    )
    return replace(found, poses=found.poses @ seat, cameras=cameras)


def thumbnail(rgb: Rgb) -> Float32[np.ndarray, "18 32"]:
    """Return a small grey picture, by which shots are told apart."""
    return np.asarray(Image.fromarray(rgb).convert("L").resize((32, 18)), np.float32)


def is_cut(before: Float32[np.ndarray, "18 32"], now: Float32[np.ndarray, "18 32"]) -> bool:
    """Say whether a frame begins another shot than that of the one before, by their thumbnails."""
    return float(np.abs(now - before).mean()) > CUT


def _same(faces: Sequence[Face], last: PointsSeen | None) -> Face | None:
    """Return the face that was followed, else the largest."""
    if not faces:
        return None
    if last is None:
        return max(faces, key=lambda face: face.size)
    middle = last.points.mean(0)
    return min(faces, key=lambda face: float(np.linalg.norm(face.landmarks.mean(0) - middle)))


def landmarks_of(mesh: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "68 3"]:
    """Return the landmarks of a mesh of the MakeHuman head."""
    return mesh[load_asset().landmarks]

"""The FLAME head model: converted once from its owner's pickle, then evaluated with torch.

Li et al., Learning a model of facial shape and expression from 4D scans, SIGGRAPH Asia 2017.
The model itself is not part of this package: its owners give it to those who register.

Letters: b batch (any leading dimensions), v vertices, k numbers of shape, e of expression.
Joints: root, neck, jaw, left eye, right eye. Frame: FLAME's (x subject's left, y up, z forward).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pipeline.core.errors import InputError, LayoutError, MissingItemError, ShapeError
from pipeline.faces.flame_fit import LAYOUT_OF, FlameFit
from pipeline.io.pickles import read_pickle
from pipeline.io.raw_files import load_array, read_bytes, read_npz
from pipeline.system.files import write_whole

Version = Literal["2020", "2023", "2023-no-jaw", "2023-open"]
VERSIONS: tuple[Version, ...] = get_args(Version)
VERTICES = 5023
LANDMARKS = 68
TIES = ("corners", "shares", "sigma")
PARENTS = (-1, 0, 1, 1, 1)
NUMBERS = {
    "template": (VERTICES, 3), "shapes": (VERTICES, 3, 300), "expressions": (VERTICES, 3, 100),
    "poses": (VERTICES, 3, 36), "regressor": (5, VERTICES), "weights": (VERTICES, 5),
}  # fmt: skip
PUBLISHED_2020 = "efcd14cc4a69f3a3d9af8ded80146b5b6b50df3bd74cf69108213b144eba725b"
"""SHA-256 that others report of FLAME 2020's neutral model; altered copies are about."""


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Where the 68 iBUG landmarks lie on the surface.

    Raises:
        ShapeError: If there are not 68 of them.
    """

    corners: Int64[Tensor, "68 3"]
    """Vertices of the triangle that a landmark lies in."""
    shares: Float[Tensor, "68 3"]
    """Barycentric coordinates in it."""

    def __post_init__(self) -> None:
        if self.corners.shape != (LANDMARKS, 3) or self.shares.shape != (LANDMARKS, 3):
            raise ShapeError(
                f"68 landmarks need corners and shares [68, 3]; got {list(self.corners.shape)}.",
                "Use the 68-point embedding of FLAME.",
            )

    def on(self, vertices: Float[Tensor, "*t v 3"]) -> Float[Tensor, "*t 68 3"]:
        """Return the landmarks of a posed surface."""
        return (vertices[..., self.corners, :] * self.shares.to(vertices)[..., None]).sum(-2)


@dataclass(frozen=True)
class SurfaceTies:
    """Where FLAME's surface has the control vertices of the MakeHuman head, both at rest."""

    topology: str
    """Name of the order of those vertices, see `pipeline.faces.heads`."""
    corners: Int64[Tensor, "n 3"]
    """Vertices of the triangle that each lies in."""
    shares: Float[Tensor, "n 3"]
    """Barycentric coordinates in it."""
    sigma: Float[Tensor, "n"]
    """How unsure that is, metres; infinite where FLAME has no such place."""


@dataclass(frozen=True)
class Flame:
    """A FLAME model. Lengths in metres."""

    version: Version
    template: Float[Tensor, "v 3"]
    faces: Int64[Tensor, "m 3"]
    shapes: Float[Tensor, "v 3 k"]
    expressions: Float[Tensor, "v 3 e"]
    poses: Float[Tensor, "v 3 36"]
    """Corrections, linear in the entries of R - I of neck, jaw, left eye, right eye."""
    regressor: Float[Tensor, "5 v"]
    """Joints of a shaped face."""
    weights: Float[Tensor, "v 5"]
    """How much each vertex hangs on each joint."""
    eyelids: Float[Tensor, "2 v 3"] | None = None
    """Left and right lid at weight 1, added after skinning."""
    embedding: LandmarkEmbedding | None = None
    """None if the model was converted without it."""
    ties: SurfaceTies | None = None
    """None likewise, and if the version has no codes."""

    def joints(
        self,
        shape: Float[Tensor, "*b k"],
        expression: Float[Tensor, "*b e"],
        offset: Float[Tensor, "v 3"] | None = None,
    ) -> Float[Tensor, "*b 5 3"]:
        """Return the rest positions of the five joints."""
        return self.regressor @ self._shaped(shape, expression, offset)

    def vertices(
        self,
        shape: Float[Tensor, "*b k"],
        expression: Float[Tensor, "*b e"],
        rotations: Float[Tensor, "*b 5 3 3"],
        eyelids: Float[Tensor, "*b 2"] | None = None,
        offset: Float[Tensor, "v 3"] | None = None,
    ) -> Float[Tensor, "*b v 3"]:
        """Return the posed face: shaped, corrected, skinned; the root turns about its joint.

        Args:
            shape: Numbers of identity; fewer than the model has stand for zeros after them.
            expression: Likewise.
            rotations: Of root, neck, jaw, left eye, right eye.
            eyelids: Left, right; about [0, 1], 1 is shut.
            offset: Added to the shaped template, as VHAP's static offset.

        Raises:
            LayoutError: If eyelids move and the model has none.
            ShapeError: If there are more numbers than the model has.
        """
        shaped = self._shaped(shape, expression, offset)
        joints = self.regressor @ shaped
        bends = (rotations[..., 1:, :, :] - torch.eye(3).to(rotations)).flatten(-3)
        corrected = shaped + torch.einsum("vcp,...p->...vc", self.poses, bends)
        turned: list[Tensor] = []
        moved: list[Tensor] = []
        for j, parent in enumerate(PARENTS):
            turn, at = rotations[..., j, :, :], joints[..., j, :]
            shift = at - (turn @ at[..., None])[..., 0]
            if parent >= 0:
                above = turned[parent]
                shift = (above @ shift[..., None])[..., 0] + moved[parent]
                turn = above @ turn
            turned.append(turn)
            moved.append(shift)
        turns = torch.einsum("vj,...jab->...vab", self.weights, torch.stack(turned, -3))
        shifts = torch.einsum("vj,...ja->...va", self.weights, torch.stack(moved, -2))
        posed = (turns @ corrected[..., None])[..., 0] + shifts
        if eyelids is None:
            return posed
        if self.eyelids is None:
            if bool((eyelids != 0).any()):
                raise LayoutError(
                    "These parameters move the eyelids, which this FLAME file does not have.",
                    "Convert it again with --eyelids (l_eyelid.npy and r_eyelid.npy).",
                )
            return posed
        return posed + torch.einsum("lvc,...l->...vc", self.eyelids, eyelids)

    def of(self, fit: FlameFit) -> Float64[np.ndarray, "v 3"]:
        """Return the vertices of a tracker's fit in its world.

        Raises:
            LayoutError: If the fit belongs to another version.
        """
        self.require(fit.version)
        R = torch.from_numpy(fit.rotations.copy()).to(self.template)
        if fit.root_about == "origin":
            R[0] = torch.eye(3).to(R)
        offset = None if fit.static_offset is None else torch.from_numpy(fit.static_offset)
        posed = self.vertices(
            torch.from_numpy(fit.shape).to(R),
            torch.from_numpy(fit.expression).to(R),
            R,
            torch.from_numpy(fit.eyelids).to(R),
            None if offset is None else offset.to(R),
        )
        out = posed.double().numpy() * fit.scale
        if fit.root_about == "origin":
            out = out @ fit.rotations[0].T
        return out + fit.translation

    def rest(self, fit: FlameFit) -> Float64[np.ndarray, "v 3"]:
        """Return the person of a tracker's fit without expression and pose: in the head frame.

        Raises:
            LayoutError: If the fit belongs to another version.
        """
        still = np.tile(np.eye(3), (5, 1, 1))
        zero = np.zeros(3)
        return self.of(
            replace(fit, expression=fit.expression * 0, rotations=still, translation=zero,
                    eyelids=np.zeros(2))
        )  # fmt: skip

    def head_to_world(self, fit: FlameFit) -> Float64[np.ndarray, "4 4"]:
        """Return the motion of the skull in a tracker's fit.

        Raises:
            LayoutError: If the fit belongs to another version.
        """
        self.require(fit.version)
        to = self.template
        offset = None if fit.static_offset is None else torch.from_numpy(fit.static_offset).to(to)
        shape, expression = torch.from_numpy(fit.shape), torch.from_numpy(fit.expression)
        joints = self.joints(shape.to(to), expression.to(to), offset)
        motion = fit.head_to_world(joints.double().numpy())
        assert motion is not None  # the joints are given
        return motion

    def require(self, version: str) -> None:
        """Pass if parameters of a version may be used with this model.

        Raises:
            LayoutError: If they may not: the numbers of versions mean different faces.
        """
        if version != self.version:
            raise LayoutError(
                f"These parameters are of FLAME {version}, the model file is FLAME {self.version}.",
                "Convert the model file of that version; their numbers do not mean the same.",
            )

    def _shaped(
        self, shape: Tensor, expression: Tensor, offset: Tensor | None
    ) -> Float[Tensor, "*b v 3"]:
        k, e = shape.shape[-1], expression.shape[-1]
        if k > self.shapes.shape[-1] or e > self.expressions.shape[-1]:
            raise ShapeError(
                f"This FLAME has {self.shapes.shape[-1]} numbers of shape and "
                f"{self.expressions.shape[-1]} of expression; got {k} and {e}.",
                "Check that the parameters are of FLAME.",
            )
        out = self.template + torch.einsum("vck,...k->...vc", self.shapes[..., :k], shape)
        out = out + torch.einsum("vce,...e->...vc", self.expressions[..., :e], expression)
        return out if offset is None else out + offset


def convert(
    source: Path,
    out: Path,
    version: Version,
    eyelids: tuple[Path, Path] | None = None,
    landmarks: Path | None = None,
    tie: Callable[[Flame], SurfaceTies] | None = None,
) -> tuple[str, ...]:
    """Write an owner's pickle as npz of plain arrays; nothing in the pickle is executed.

    Args:
        source: generic_model.pkl, flame2023.pkl, flame2023_no_jaw.pkl, ...
        out: The npz file.
        version: Which model it is: the file does not say.
        eyelids: l_eyelid.npy and r_eyelid.npy, as trackers ship them.
        landmarks: landmark_embedding.npy, as trackers ship it: our own fit needs it.
        tie: Ties the surface to that of the MakeHuman head, by the landmarks, where our own fit
            can use it: `pipeline.tracking.ties.tie_surface`.

    Returns:
        What the user should know about the file.

    Raises:
        InputError: If the file is not FLAME's, or asks for code to be run.
    """
    if version not in VERSIONS:
        raise InputError(f"There is no FLAME {version!r}.", f"Known: {', '.join(VERSIONS)}.")
    found = read_pickle(source)
    if not isinstance(found, dict):
        raise InputError(f"{source} is not a FLAME model.", "Give the owner's .pkl file.")
    model = cast("dict[str, Any]", found)
    wanted = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
    if absent := [key for key in wanted if key not in model]:
        raise InputError(
            f"{source} lacks {', '.join(absent)}; it has "
            f"{', '.join(sorted(map(str, model))[:12])}.",
            "Give the owner's FLAME model (.pkl), not its masks or embeddings.",
        )
    try:
        arrays = {key: np.asarray(model[key]) for key in wanted}
        numbers = {
            "template": arrays["v_template"], "shapes": arrays["shapedirs"][:, :, :300],
            "expressions": arrays["shapedirs"][:, :, 300:400], "poses": arrays["posedirs"],
            "regressor": arrays["J_regressor"], "weights": arrays["weights"],
        }  # fmt: skip
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            parents = [int(p) for p in np.asarray(arrays["kintree_table"][0], np.int64)]
            plain = {key: np.asarray(value, np.float32) for key, value in numbers.items()}
            faces = arrays["f"].astype(np.int64)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{source} holds something else than numbers.", "Get it again.") from error
    _check(source, plain, faces)
    if parents[1:] != list(PARENTS[1:]):
        raise InputError(f"{source} has other joints (parents {parents}).", "Give a FLAME model.")
    if eyelids is not None:
        plain["eyelids"] = np.stack([_eyelid(path) for path in eyelids])
    if landmarks is not None:
        plain["corners"], plain["shares"] = _embedding(landmarks, faces)
    if landmarks is not None and tie is not None and version in LAYOUT_OF:
        ties = tie(_model(version, source, {**plain, "faces": faces}))
        plain |= {f"tie_{name}": np.asarray(value) for name, value in vars(ties).items()}

    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    plain_file: dict[str, Any] = {"version": version, "sha256": digest, "faces": faces, **plain}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **plain_file)

    write_whole(out, write)
    notes = [f"FLAME {version}, source sha256 {digest}"]
    if version == "2020" and digest != PUBLISHED_2020:
        notes.append("this is not the hash that others report of FLAME 2020's neutral model")
    return tuple(notes)


def load_flame(path: Path, version: str | None = None) -> Flame:
    """Read a converted FLAME model.

    Args:
        path: The npz file that `convert` wrote.
        version: The version that is needed; any if not given.

    Raises:
        InputError: If it is missing, damaged or not FLAME's.
        LayoutError: If it is of another version.
    """
    if path.suffix == ".pkl":
        raise InputError(
            f"{path} is a pickle.", "Convert it once: fastgha flame convert FILE -o flame.npz"
        )
    try:
        arrays = read_npz(path)
    except MissingItemError as error:
        raise InputError(
            error.problem, "Make it with `fastgha flame convert`, from the owner's pickle."
        ) from error
    if absent := {"version", "faces", *NUMBERS} - set(arrays):
        raise InputError(
            f"{path} lacks {', '.join(sorted(absent))}.", "Make it with `fastgha flame convert`."
        )
    found = str(arrays["version"])
    if found not in VERSIONS:
        raise InputError(f"{path} is of FLAME {found!r}.", f"Known: {', '.join(VERSIONS)}.")
    numbers = {key: arrays[key] for key in NUMBERS}
    _check(path, numbers, arrays["faces"])
    lids = arrays.get("eyelids")
    if lids is not None and (lids.shape != (2, VERTICES, 3) or not np.isfinite(lids).all()):
        raise InputError(f"The eyelids of {path} are damaged.", "Convert the model again.")
    model = _model(found, path, arrays)
    if version is not None:
        model.require(version)
    return model


def _model(version: Version, path: Path, arrays: dict[str, np.ndarray]) -> Flame:
    """Return the model of arrays of which all but landmarks and ties were checked."""
    lids = arrays.get("eyelids")
    return Flame(
        version=version,
        faces=torch.from_numpy(arrays["faces"]),
        eyelids=None if lids is None else torch.from_numpy(lids),
        embedding=_stored_embedding(path, arrays),
        ties=_stored_ties(path, arrays),
        **{key: torch.from_numpy(arrays[key]) for key in NUMBERS},
    )


def _check(path: Path, numbers: dict[str, np.ndarray], faces: np.ndarray) -> None:
    for name, shape in NUMBERS.items():
        values = numbers[name]
        if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(
                f"{path}: {name} is {values.dtype} {list(values.shape)}, FLAME's are finite "
                f"numbers {list(shape)}.",
                "Give the owner's model with 300 shape and 100 expression numbers.",
            )
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != np.int64 or not faces.size:
        raise InputError(f"{path}: faces are {list(faces.shape)}.", "Get the model again.")
    if faces.min() < 0 or faces.max() >= VERTICES:
        raise InputError(f"{path}: faces name vertices that are not there.", "Get it again.")


def _embedding(path: Path, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the 68 landmarks of a tracker's embedding; any after them (irises) are left out."""
    found = read_pickle(path)
    table = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    try:
        with np.errstate(invalid="ignore"):  # what is not finite names no triangle
            triangles = np.ravel(table["full_lmk_faces_idx"]).astype(np.int64)[:LANDMARKS]
        shares = np.asarray(table["full_lmk_bary_coords"], np.float32).reshape(-1, 3)[:LANDMARKS]
        corners = faces[triangles]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} holds no embedding of FLAME's 68 landmarks ({type(error).__name__}: {error}).",
            "Give landmark_embedding.npy, as DECA, VHAP and other trackers ship it.",
        ) from error
    _check_embedding(path, corners, shares)
    return corners, shares


def _stored_embedding(path: Path, arrays: dict[str, np.ndarray]) -> LandmarkEmbedding | None:
    if "corners" not in arrays or "shares" not in arrays:
        return None
    _check_embedding(path, arrays["corners"], arrays["shares"])
    return LandmarkEmbedding(
        torch.from_numpy(arrays["corners"]), torch.from_numpy(arrays["shares"])
    )


def _stored_ties(path: Path, arrays: dict[str, np.ndarray]) -> SurfaceTies | None:
    """Return the ties of a converted file; None of one that was converted without.

    Raises:
        InputError: If they are damaged.
    """
    if not all(f"tie_{name}" in arrays for name in ("topology", *TIES)):
        return None
    corners, shares, sigma = (arrays[f"tie_{name}"] for name in TIES)
    n = len(sigma) if sigma.ndim == 1 else -1
    fits = corners.shape == shares.shape == (n, 3) and corners.dtype == np.int64
    fits = fits and sigma.dtype.kind == shares.dtype.kind == "f"
    if fits:
        tied = np.isfinite(sigma)
        whole = np.abs(shares[tied].sum(1) - 1) < 1e-3
        inside = (corners >= 0) & (corners < VERTICES)
        # A comparison with nan is false.
        fits = bool(tied.any() and all(x.all() for x in (sigma > 0, inside, shares > -1e-3, whole)))
    if not fits:
        raise InputError(
            f"The ties of {path} to the built-in head are damaged.", "Convert the model again."
        )
    return SurfaceTies(
        str(arrays["tie_topology"]),
        *(torch.from_numpy(x) for x in (corners, shares, sigma)),
    )


def _check_embedding(path: Path, corners: np.ndarray, shares: np.ndarray) -> None:
    fits = corners.shape == shares.shape == (LANDMARKS, 3) and corners.dtype == np.int64
    inside = fits and corners.min() >= 0 and corners.max() < VERTICES
    if not inside or not (np.abs(shares.sum(1) - 1) < 1e-3).all():
        raise InputError(
            f"The landmarks of {path} are not 68 points of FLAME's surface.",
            "Give landmark_embedding.npy, as DECA, VHAP and other trackers ship it.",
        )


def _eyelid(path: Path) -> np.ndarray:
    values = load_array(read_bytes(path), path)
    if values.shape != (VERTICES, 3) or not (np.abs(values) < 0.1).all():
        raise InputError(
            f"{path} is {list(values.shape)}, no displacement of FLAME's vertices in metres.",
            "Give l_eyelid.npy and r_eyelid.npy.",
        )
    return values.astype(np.float32)

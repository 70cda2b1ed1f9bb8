"""The layouts of the 120 expression numbers: the slices, their tags, and the way to ARKit-52.

A code is [expression 100 | jaw 6 | left eye 6 | right eye 6 | eyelids left, right]. Rotations
are the first two rows of R (head axes), one after the other. What the 100 numbers mean depends
on the layout, so every code carries its tag and is converted or refused, never reinterpreted.

In the MakeHuman layout, the jaw's rotation vector is (22.9 deg jawOpen, 10 deg (jawLeft -
jawRight), 0); an eye's is (pitch, yaw, 0) with pitch down and yaw to the subject's left
positive; the eyelids are eyeBlinkLeft and eyeBlinkRight; and the other 39 face units are
whitened along the principal directions in which they move the face, in slots 0-38.

Letters: t timesteps (any leading dimensions), u face units.
"""

import functools

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.core.errors import LayoutError, ShapeError
from pipeline.core.types import CODE_SIZE, ExpressionCode
from pipeline.system.assets import HEAD

EXPRESSION = slice(0, 100)
JAW = slice(100, 106)
LEFT_EYE = slice(106, 112)
RIGHT_EYE = slice(112, 118)
EYELIDS = slice(118, 120)

MAKEHUMAN = "fastgha120/makehuman-hm08/1"
FLAME2020 = "fastgha120/flame2020/rot6d-rows"
FLAME2023 = "fastgha120/flame2023/rot6d-rows"
LAYOUTS = (MAKEHUMAN, FLAME2020, FLAME2023)

ARKIT_NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
    "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight",
    "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward",
    "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft",
    "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft",
    "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft",
    "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 units in the order of Apple's documentation (ARFaceAnchor.BlendShapeLocation)."""
ARKIT = {name: i for i, name in enumerate(ARKIT_NAMES)}

JAW_OPEN = 22.9
"""Degrees of the jaw at jawOpen 1, measured from the lower teeth."""
JAW_SIDE = 10.0
GAZE_UP, GAZE_DOWN, GAZE_SIDE = 9.0, 10.2, 13.0
"""Degrees of the eyes at weight 1 of their units."""

ROTATION_GAIN, EYELID_GAIN = 6.0, 3.0
LOUD = 8
"""Numbers of the MakeHuman expression that have about size one after `code_gain`."""

_ROTATING = ("jawOpen", "jawLeft", "jawRight", "eyeBlinkLeft", "eyeBlinkRight")
EXPRESSION_UNITS = tuple(
    n for n in ARKIT_NAMES if n not in _ROTATING and not n.startswith("eyeLook")
)
"""The 39 units that go into the expression part."""

BASIS_FILE = HEAD / "expression_basis.npz"


def rot6d_from_matrix(R: Float[Tensor, "*t 3 3"]) -> Float[Tensor, "*t 6"]:
    """Return the first two rows of rotations, one after the other."""
    return R[..., :2, :].flatten(-2)


def matrix_from_rot6d(rows: Float[Tensor, "*t 6"]) -> Float[Tensor, "*t 3 3"]:
    """Return the rotation whose first two rows are nearest in order: row one, then row two."""
    a = torch.nn.functional.normalize(rows[..., :3], dim=-1)
    b = rows[..., 3:] - (a * rows[..., 3:]).sum(-1, keepdim=True) * a
    b = torch.nn.functional.normalize(b, dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b, dim=-1)], dim=-2)


def neutral_code(layout: str) -> ExpressionCode:
    """Return the code of the neutral face: zeros, and no rotation.

    Raises:
        LayoutError: If the layout is not known.
    """
    if layout not in LAYOUTS:
        raise LayoutError(
            f"Unknown expression layout {layout!r}.", f"Known are {', '.join(LAYOUTS)}."
        )
    values = torch.zeros(CODE_SIZE)
    for part in (JAW, LEFT_EYE, RIGHT_EYE):
        values[part] = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    return ExpressionCode(values, layout)


def code_gain(layout: str) -> Float[Tensor, "120"]:
    """Return a factor for each number of a code that brings it to how far it moves the face.

    An open jaw changes its six numbers by 0.4 only, a glance by 0.2. The MakeHuman expression is
    whitened: its first number moves the face two hundred times as far as its last, at equal size.

    Raises:
        LayoutError: If the layout is not known.
    """
    gain = torch.ones_like(neutral_code(layout).values)
    for part in (JAW, LEFT_EYE, RIGHT_EYE):
        gain[part] = ROTATION_GAIN
    gain[EYELIDS] = EYELID_GAIN
    if layout == MAKEHUMAN:
        with np.load(BASIS_FILE) as basis:
            reach = np.sqrt(basis["variance"])
        gain[: len(reach)] = torch.from_numpy(reach / reach[:LOUD].mean()).float()
    return gain


def require_layout(code: ExpressionCode, wanted: str) -> None:
    """Pass if a code has the wanted layout.

    Raises:
        LayoutError: If it has another; names both.
    """
    if code.layout != wanted:
        raise LayoutError(
            f"The expression codes have layout {code.layout!r}, but {wanted!r} is needed.",
            "Convert the sequence (fastgha expressions convert), or use one made for this face "
            f"model; ARKit-52 weights are {MAKEHUMAN!r}.",
        )


def arkit_to_code(weights: Float[Tensor, "*t 52"] | np.ndarray) -> ExpressionCode:
    """Return MakeHuman codes of ARKit-52 weights, in the order of `ARKIT_NAMES`.

    Opposite units (jawLeft and jawRight, eyeLookUp and eyeLookDown, ...) act by their
    difference, as a jaw or an eye has one position.

    Raises:
        ShapeError: If the last dimension is not 52.
    """
    w = np.asarray(weights, np.float64)
    if w.ndim < 1 or w.shape[-1] != len(ARKIT_NAMES):
        raise ShapeError(
            f"ARKit weights have 52 numbers; got {list(w.shape)}.",
            "Give them in the order of pipeline.faces.layouts.ARKIT_NAMES.",
        )
    forward, _ = _basis()
    values = np.zeros((*w.shape[:-1], CODE_SIZE))
    units = [ARKIT[n] for n in EXPRESSION_UNITS]
    values[..., : len(units)] = w[..., units] @ forward.T
    jaw = np.zeros((*w.shape[:-1], 3))
    jaw[..., 0] = JAW_OPEN * w[..., ARKIT["jawOpen"]]
    jaw[..., 1] = JAW_SIDE * (w[..., ARKIT["jawLeft"]] - w[..., ARKIT["jawRight"]])
    values[..., JAW] = _rows(jaw)
    for side, part in (("Left", LEFT_EYE), ("Right", RIGHT_EYE)):
        values[..., part] = _rows(gaze_angles(w, side))
        values[..., EYELIDS.start + (side == "Right")] = w[..., ARKIT[f"eyeBlink{side}"]]
    return ExpressionCode(torch.from_numpy(values).float(), MAKEHUMAN)


def code_to_arkit(code: ExpressionCode) -> Float[Tensor, "*t 52"]:
    """Return the ARKit-52 weights of MakeHuman codes: the inverse of `arkit_to_code`.

    Raises:
        LayoutError: If the codes have another layout.
    """
    require_layout(code, MAKEHUMAN)
    values = code.values.detach().cpu().double()
    _, backward = _basis()
    w = np.zeros((*values.shape[:-1], len(ARKIT_NAMES)))
    units = [ARKIT[n] for n in EXPRESSION_UNITS]
    w[..., units] = values[..., : len(units)].numpy() @ backward.T
    jaw = _angles(values[..., JAW])
    w[..., ARKIT["jawOpen"]] = jaw[..., 0] / JAW_OPEN
    w[..., ARKIT["jawLeft"]] = np.maximum(jaw[..., 1], 0) / JAW_SIDE
    w[..., ARKIT["jawRight"]] = np.maximum(-jaw[..., 1], 0) / JAW_SIDE
    for side, part in (("Left", LEFT_EYE), ("Right", RIGHT_EYE)):
        pitch, yaw, _ = np.moveaxis(_angles(values[..., part]), -1, 0)
        w[..., ARKIT[f"eyeLookUp{side}"]] = np.maximum(-pitch, 0) / GAZE_UP
        w[..., ARKIT[f"eyeLookDown{side}"]] = np.maximum(pitch, 0) / GAZE_DOWN
        out, inward = (yaw, -yaw) if side == "Left" else (-yaw, yaw)
        w[..., ARKIT[f"eyeLookOut{side}"]] = np.maximum(out, 0) / GAZE_SIDE
        w[..., ARKIT[f"eyeLookIn{side}"]] = np.maximum(inward, 0) / GAZE_SIDE
        w[..., ARKIT[f"eyeBlink{side}"]] = values[..., EYELIDS.start + (side == "Right")]
    return torch.from_numpy(w).float()


def arkit_weights(values: Float[Tensor, "120"]) -> Float[Tensor, "52"]:
    """Return the ARKit-52 weights of a MakeHuman code on its own device, as `code_to_arkit`."""
    backward, units, others = _tables(values.device)
    found = [values[: len(units)].to(backward) @ backward.mT]
    pitch, yaw, _ = _rotation_vector(values[JAW])
    found.append(torch.stack([pitch / JAW_OPEN, yaw / JAW_SIDE, -yaw / JAW_SIDE]))
    found[-1][1:].clamp_(min=0)
    for side, part in (("Left", LEFT_EYE), ("Right", RIGHT_EYE)):
        pitch, yaw, _ = _rotation_vector(values[part])
        out = yaw if side == "Left" else -yaw
        look = torch.stack([-pitch / GAZE_UP, pitch / GAZE_DOWN, out / GAZE_SIDE, -out / GAZE_SIDE])
        found.append(look.clamp(min=0))
    found.append(values[EYELIDS].to(backward))
    weights = torch.zeros(len(ARKIT_NAMES), dtype=backward.dtype, device=values.device)
    weights[torch.cat([units, others])] = torch.cat([x.to(backward) for x in found])
    return weights


def gaze_angles(weights: np.ndarray, side: str) -> np.ndarray:
    """Return the rotation vector (pitch, yaw, 0) of an eye in degrees, from ARKit weights."""
    angles = np.zeros((*weights.shape[:-1], 3))
    up, down = weights[..., ARKIT[f"eyeLookUp{side}"]], weights[..., ARKIT[f"eyeLookDown{side}"]]
    angles[..., 0] = GAZE_DOWN * np.maximum(down - up, 0) - GAZE_UP * np.maximum(up - down, 0)
    out = weights[..., ARKIT[f"eyeLookOut{side}"]] - weights[..., ARKIT[f"eyeLookIn{side}"]]
    angles[..., 1] = GAZE_SIDE * (out if side == "Left" else -out)
    return angles


def _rows(degrees: np.ndarray) -> np.ndarray:
    """Return the six numbers of rotation vectors in degrees."""
    R = Rotation.from_rotvec(degrees.reshape(-1, 3), degrees=True).as_matrix()
    return R[:, :2].reshape(*degrees.shape[:-1], 6)


def _angles(rows: Tensor) -> np.ndarray:
    """Return the rotation vectors in degrees of six numbers each."""
    R = matrix_from_rot6d(rows).numpy().reshape(-1, 3, 3)
    return Rotation.from_matrix(R).as_rotvec(degrees=True).reshape(*rows.shape[:-1], 3)


def _rotation_vector(rows: Float[Tensor, "6"]) -> Float[Tensor, "3"]:
    """Return the rotation vector in degrees of six numbers, for turns well below half a turn."""
    R = matrix_from_rot6d(rows)
    twice = torch.stack([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    sine, cosine = twice.norm() / 2, (R.diagonal().sum() - 1) / 2
    angle = torch.atan2(sine, cosine)
    share = torch.where(sine > 1e-6, angle / sine.clamp(min=1e-6), torch.ones_like(sine))
    return torch.rad2deg(twice / 2 * share)


def expression_basis() -> Float64[np.ndarray, "39 39"]:
    """Return the matrix from the weights of `EXPRESSION_UNITS` to the expression numbers."""
    return _basis()[0]


@functools.lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return on a device: the way back from the expression part, and where weights belong."""
    names = ["jawOpen", "jawLeft", "jawRight"]
    for side in ("Left", "Right"):
        names += [f"eyeLook{way}{side}" for way in ("Up", "Down", "Out", "In")]
    names += ["eyeBlinkLeft", "eyeBlinkRight"]
    return (
        torch.from_numpy(_basis()[1]).float().to(device),
        torch.tensor([ARKIT[n] for n in EXPRESSION_UNITS]).to(device),
        torch.tensor([ARKIT[n] for n in names]).to(device),
    )


@functools.cache
def _basis() -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices from the 39 units to their code and back, [39, 39] each."""
    with np.load(BASIS_FILE) as file:
        if tuple(file["units"]) != EXPRESSION_UNITS:
            raise LayoutError(
                f"{BASIS_FILE.name} is of other face units.", "Install the package again."
            )
        return file["forward"], file["backward"]

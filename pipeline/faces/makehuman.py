"""The MakeHuman head: identities, their shapes, expressions, landmarks and material layers.

The head frame's origin is the midpoint of the eyeballs' centres of the identity's neutral
face, moved by `ORIGIN`: about the middle of the skull. Everything comes from the asset folder
that `tools/build_head_asset.py` wrote; numpy only.

Letters: v vertices of the control mesh, s vertices of the subdivided skin, m triangles,
k components.
"""

import functools
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation

from pipeline.core.errors import FormatError, ShapeError
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import ARKIT, ARKIT_NAMES, code_to_arkit, gaze_angles
from pipeline.faces.subdivide import subdivide, subdivide_uvs
from pipeline.system.assets import HEAD

ORIGIN = np.array([0.0, -0.03, -0.075], np.float32)
"""From the midpoint of the eyes to the origin of the head frame, metres."""

GREY = 0.4
"""Mean linear luminance of the hair and brow textures; a tint of albedo / GREY gives albedo."""


@dataclass(frozen=True)
class Proxy:
    """A mesh that hangs on the control mesh by three vertices and an offset each."""

    refs: Int32[np.ndarray, "n 3"]
    weights: Float32[np.ndarray, "n 3"]
    offsets: Float32[np.ndarray, "n 3"]
    """Metres for a head scale of 1."""
    faces: Int32[np.ndarray, "m 3"]
    uv_faces: Int32[np.ndarray, "m 3"]
    uvs: Float32[np.ndarray, "k 2"]
    occlusion: Float32[np.ndarray, "n"]


@dataclass(frozen=True)
class Asset:
    """The head asset, unpacked. Vertices are in head axes, metres, origin between the eyes."""

    mean: Float32[np.ndarray, "v 3"]
    components: Float32[np.ndarray, "k v 3"]
    """Principal components of the phenotypes, scaled to scores of variance 1."""
    phenotype_scores: Float32[np.ndarray, "p k"]
    """Scores of sampled phenotypes."""
    phenotypes: dict[str, Float32[np.ndarray, "p"]]
    """What those samples are: gender (0 male, 1 female), age, african, asian, caucasian, ..."""
    morph_names: tuple[str, ...]
    morph_starts: Int32[np.ndarray, "m1"]
    morph_vertices: Int32[np.ndarray, "n"]
    morph_values: Float32[np.ndarray, "n 3"]
    units: Float32[np.ndarray, "52 v 3"]
    """Displacements of the face units in the order of `ARKIT_NAMES`."""
    skin: Proxy
    """The subdivided skin; its refs are not used, see `smooth`."""
    smooth: csr_matrix
    """From control vertices to the vertices of the subdivided skin [s, v]."""
    landmarks: Int32[np.ndarray, "68"]
    left_eye: Int32[np.ndarray, "72"]
    right_eye: Int32[np.ndarray, "72"]
    scale_pairs: Int32[np.ndarray, "3 2"]
    proxies: dict[str, Proxy]
    """By kind and name, as "hair/short01"."""


@dataclass(frozen=True)
class Identity:
    """Everything that stays the same about one synthetic person."""

    phenotype: tuple[float, ...] = ()
    """Scores of the phenotype components; missing ones are 0."""
    morphs: tuple[tuple[str, float], ...] = ()
    """Names and weights of local morphs."""
    skin: str = "young_caucasian_female"
    skin_tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Multiplies the linear colour."""
    eyes: str = "brown"
    brows: str = "eyebrow001"
    brow_color: tuple[float, float, float] = (0.035, 0.022, 0.014)
    """Linear RGB albedo."""
    lashes: str = "eyelashes01"
    hair: str = "bald"
    hair_color: tuple[float, float, float] = (0.05, 0.03, 0.02)
    """Linear RGB albedo."""


@dataclass(frozen=True)
class Part:
    """One surface of a posed head with its material, in the terms of the rasteriser."""

    name: str
    vertices: Float32[np.ndarray, "n 3"]
    """Head frame, metres."""
    faces: Int32[np.ndarray, "m 3"]
    uvs: Float32[np.ndarray, "k 2"]
    uv_faces: Int32[np.ndarray, "m 3"]
    texture: str
    """Name of a texture, see `load_texture`."""
    tint: Float32[np.ndarray, "3"]
    occlusion: Float32[np.ndarray, "n"]
    kind: Literal["opaque", "card"]
    specular: float
    gloss: float
    cull: bool
    depth_tolerance: float = 0.002
    """How far a card may lie behind an opaque surface and still be seen, metres."""


class Head:
    """One identity's head, to be posed."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        asset = load_asset()
        shape = asset.mean + np.tensordot(
            np.array(identity.phenotype, np.float32),
            asset.components[: len(identity.phenotype)],
            1,
        )
        for name, weight in identity.morphs:
            rows = _morph_rows(asset, name)
            shape[asset.morph_vertices[rows]] += weight * asset.morph_values[rows]
        eyes = [shape[ids].mean(0) for ids in (asset.left_eye, asset.right_eye)]
        origin = (eyes[0] + eyes[1]) / 2 + ORIGIN
        self._neutral: Float32[np.ndarray, "v 3"] = (shape - origin).astype(np.float32)
        self._scale = head_scale(self._neutral)

    @property
    def neutral(self) -> Float32[np.ndarray, "v 3"]:
        """Control vertices of the neutral face, head frame, metres."""
        return self._neutral.copy()

    def vertices(
        self, expression: Float32[np.ndarray, "52"] | ExpressionCode
    ) -> Float32[np.ndarray, "v 3"]:
        """Return the control vertices of one expression, head frame, metres.

        Args:
            expression: ARKit weights in the order of `ARKIT_NAMES`, or one code of the
                MakeHuman layout.

        Raises:
            ShapeError: If there is more than one expression.
            LayoutError: If the code has another layout.
        """
        return pose(self._neutral, expression)

    def landmarks(self, vertices: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "68 3"]:
        """Return the 68 points of iBUG (jaw from the subject's right to left, brows, nose, ...)."""
        return vertices[load_asset().landmarks]

    def skin(self, vertices: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "s 3"]:
        """Return the vertices of the smooth skin of posed control vertices."""
        return (load_asset().smooth @ vertices).astype(np.float32)

    def parts(self, vertices: Float32[np.ndarray, "v 3"]) -> list[Part]:
        """Return all surfaces of posed control vertices with their materials."""
        asset, who = load_asset(), self.identity
        white = (1.0, 1.0, 1.0)
        out = [
            _part("skin", asset.skin, self.skin(vertices), f"skin_{who.skin}.jpg",
                  who.skin_tint, specular=0.05, gloss=18.0, cull=True),
            self._hang("eyes", "eyes/highpolyeyes", vertices, f"eyes_{who.eyes}.jpg", white,
                       specular=0.6, gloss=120.0, cull=True),
            self._hang("teeth", "teeth/teeth_base", vertices, "teeth.jpg", (1.42, 1.31, 1.1),
                       specular=0.25, gloss=40.0, cull=False),
            self._hang("tongue", "tongue/tongue01", vertices, "tongue.jpg", (0.66, 0.5, 0.44),
                       specular=0.15, gloss=30.0, cull=True),
            self._hang("lashes", f"eyelashes/{who.lashes}", vertices,
                       f"eyelashes_{who.lashes}.webp", white, card=True),
            self._hang("brows", f"eyebrows/{who.brows}", vertices,
                       f"eyebrows_{who.brows}.webp", _tint(who.brow_color), card=True,
                       depth_tolerance=0.004),
        ]  # fmt: skip
        if who.hair != "bald":
            out.append(
                self._hang("hair", f"hair/{who.hair}", vertices, f"hair_{who.hair}.webp",
                           _tint(who.hair_color), specular=0.12, gloss=16.0, card=True,
                           depth_tolerance=0.006)
            )  # fmt: skip
        return out

    def _hang(
        self,
        name: str,
        key: str,
        vertices: np.ndarray,
        texture: str,
        tint: tuple[float, float, float],
        *,
        specular: float = 0.0,
        gloss: float = 10.0,
        cull: bool = False,
        card: bool = False,
        depth_tolerance: float = 0.002,
    ) -> Part:
        """Pose a proxy and give it its material."""
        proxy = load_asset().proxies[key]
        w = proxy.weights
        placed = proxy.offsets * self._scale
        for i in range(3):
            placed += vertices[proxy.refs[:, i]] * w[:, i : i + 1]
        part = _part(
            name, proxy, placed.astype(np.float32), texture, tint,
            specular=specular, gloss=gloss, cull=cull,
        )  # fmt: skip
        return replace(part, kind="card" if card else "opaque", depth_tolerance=depth_tolerance)


def pose(
    neutral: Float32[np.ndarray, "v 3"], expression: Float32[np.ndarray, "52"] | ExpressionCode
) -> Float32[np.ndarray, "v 3"]:
    """Return the control vertices of one expression of the person with these neutral ones.

    Face units are the same for all people; eyes turn about the middle of the person's own.

    Raises:
        As `Head.vertices`.
    """
    weights = _weights(expression)
    asset = load_asset()
    active = np.flatnonzero(weights)
    posed = neutral + np.tensordot(weights[active], asset.units[active], 1)
    for side, ids in (("Left", asset.left_eye), ("Right", asset.right_eye)):
        center = neutral[ids].mean(0)
        R = Rotation.from_rotvec(gaze_angles(weights, side), degrees=True).as_matrix()
        posed[ids] = (neutral[ids] - center) @ R.T.astype(np.float32) + center
    return posed.astype(np.float32)


def head_scale(neutral: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "3"]:
    """Return the size along each axis that the offsets of hanging meshes are given in."""
    ends = neutral[load_asset().scale_pairs]
    return np.abs([ends[i, 0, i] - ends[i, 1, i] for i in range(3)]).astype(np.float32)


def mean_landmarks() -> Float32[np.ndarray, "68 3"]:
    """Return the 68 landmarks of the average adult's neutral face, head frame, metres."""
    head = Head(Identity())
    return head.landmarks(head.neutral)


def load_texture(name: str) -> UInt8[np.ndarray, "h w 4"]:
    """Return a texture of the asset as sRGB and alpha bytes.

    Raises:
        FormatError: If the asset has no such texture.
    """
    return _textures(name).copy()


def vertex_colors(part: Part) -> Float32[np.ndarray, "n 3"]:
    """Return the sRGB that each vertex of a surface shows in even light, in [0, 1]."""
    texture = _textures(part.texture)
    h, w = texture.shape[:2]
    uvs = np.zeros((len(part.vertices), 2), np.float32)
    uvs[part.faces] = part.uvs[part.uv_faces]
    column, row = (np.clip(uvs, 0, 1) * [w - 1, h - 1]).round().astype(int).T
    # More light comes into a mouth that shows its inside than its occlusion says.
    light = part.tint * part.occlusion[:, None] ** 0.5
    return (texture[row, column, :3] / 255 * light ** (1 / 2.2)).clip(0, 1).astype(np.float32)


@functools.lru_cache(maxsize=96)
def _textures(name: str) -> np.ndarray:
    path = HEAD / "textures" / name
    if not path.is_file():
        raise FormatError(f"The head asset has no texture {name}.", "Install the package again.")
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(image.convert("RGBA"))


@functools.cache
def load_asset() -> Asset:
    """Read the head asset, once.

    Raises:
        FormatError: If it is missing.
    """
    path = HEAD / "head.npz"
    if not path.is_file():
        raise FormatError(f"The head asset {path} is missing.", "Install the package again.")
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}

    def real(name: str) -> np.ndarray:
        return data[name].astype(np.float32)

    def whole(name: str) -> np.ndarray:
        return data[name].astype(np.int32)

    mean = real("mean")
    units = np.zeros((len(ARKIT_NAMES), *mean.shape), np.float32)
    starts = whole("unit_starts")
    for i, unit in enumerate(data["unit_names"]):
        rows = slice(starts[i], starts[i + 1])
        units[ARKIT[str(unit)], whole("unit_vertices")[rows]] = real("unit_values")[rows] / 1000
    quads, uv_quads = whole("quads"), whole("uv_quads")
    smooth, fine = subdivide(quads, len(mean))
    uvs, fine_uvs = subdivide_uvs(uv_quads, real("uvs"))
    none = np.zeros((0, 3), np.float32)
    skin = Proxy(
        refs=none.astype(np.int32),
        weights=none,
        offsets=none,
        faces=_triangles(fine),
        uv_faces=_triangles(fine_uvs),
        uvs=uvs,
        occlusion=(smooth @ (real("occlusion") / 255)).clip(0, 1).astype(np.float32),
    )
    proxies: dict[str, Proxy] = {}
    for name in data:
        if name.endswith("/refs"):
            key = name.removesuffix("/refs")
            count = len(data[name])
            proxies[key] = Proxy(
                refs=whole(f"{key}/refs"),
                weights=real(f"{key}/weights"),
                offsets=real(f"{key}/offsets"),
                faces=whole(f"{key}/faces"),
                uv_faces=whole(f"{key}/uv_faces"),
                uvs=real(f"{key}/uvs"),
                occlusion=real(f"{key}/occlusion") / 255
                if f"{key}/occlusion" in data
                else np.ones(count, np.float32),
            )
    return Asset(
        mean=mean,
        components=real("components") / 1000,
        phenotype_scores=real("phenotype_scores"),
        phenotypes={
            str(n): real("phenotypes")[:, i] for i, n in enumerate(data["phenotype_names"])
        },
        morph_names=tuple(str(n) for n in data["morph_names"]),
        morph_starts=whole("morph_starts"),
        morph_vertices=whole("morph_vertices"),
        morph_values=real("morph_values") / 1000,
        units=units,
        skin=skin,
        smooth=smooth,
        landmarks=whole("landmarks"),
        left_eye=whole("left_eye"),
        right_eye=whole("right_eye"),
        scale_pairs=whole("scale_pairs"),
        proxies=proxies,
    )


def _weights(expression: Float32[np.ndarray, "52"] | ExpressionCode) -> np.ndarray:
    """Return 52 weights of either way to state one expression."""
    if isinstance(expression, ExpressionCode):
        weights = code_to_arkit(expression).numpy()
    else:
        weights = np.asarray(expression, np.float32)
    if weights.shape != (len(ARKIT_NAMES),):
        raise ShapeError(
            f"A head is posed by 52 weights; got {list(weights.shape)}.",
            "Pose one timestep at a time.",
        )
    return weights


def _morph_rows(asset: Asset, name: str) -> slice:
    """Return the rows of a morph's vertices."""
    if name not in asset.morph_names:
        raise FormatError(
            f"The head asset has no local morph {name!r}.",
            "Use a name of load_asset().morph_names.",
        )
    i = asset.morph_names.index(name)
    return slice(asset.morph_starts[i], asset.morph_starts[i + 1])


def _part(
    name: str,
    mesh: Proxy,
    vertices: np.ndarray,
    texture: str,
    tint: tuple[float, float, float],
    *,
    specular: float,
    gloss: float,
    cull: bool,
) -> Part:
    """Return an opaque part of a mesh."""
    return Part(
        name=name,
        vertices=vertices,
        faces=mesh.faces,
        uvs=mesh.uvs,
        uv_faces=mesh.uv_faces,
        texture=texture,
        tint=np.array(tint, np.float32),
        occlusion=mesh.occlusion,
        kind="opaque",
        specular=specular,
        gloss=gloss,
        cull=cull,
    )


def _tint(albedo: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the tint that turns a grey texture to an albedo."""
    r, g, b = albedo
    return r / GREY, g / GREY, b / GREY


def _triangles(quads: np.ndarray) -> np.ndarray:
    """Cut quads along one diagonal."""
    return np.ascontiguousarray(
        np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    )

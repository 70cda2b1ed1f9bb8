# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportPossiblyUnboundVariable=false
# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types of the kernels)
"""Draw layers of textured triangles from a camera: colour, coverage and depth.

Opaque layers go into a z-buffer, and so do cards (hair, brows, lashes) where their texture is
as good as opaque. What is left of the cards before that is laid over each other from the
nearest to the farthest, in the order of the triangles' centres. Only then the opaque surfaces
are shaded, where something of them can still be seen. Each pixel is the mean, in linear light,
of `supersample` x `supersample` samples at the centres of its parts.

Corners are rounded to 1/4096 of a sample and tested in whole numbers, so that triangles
which share an edge leave neither a gap nor an overlap. Depth and everything else is
interpolated with perspective.

The kernels run on one core and hold no lock: draw several pictures in several processes.

Letters: n vertices, m triangles, k texture coordinates, h height, w width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from pipeline.core.errors import ShapeError
from pipeline.core.types import Camera
from pipeline.synthetic.shading import (
    ENCODED_OF_STEP,
    LINEAR_OF_BYTE,
    Lights,
    Texture,
    encode_linear,
    gloss_table,
    keep_in_range,
    light_surface,
    sample_texture,
)

NEAR = np.float32(0.05)
"""Triangles with a corner nearer than this along the camera's z axis are dropped, metres."""
SAME_SURFACE = np.float32(0.01)
"""Samples of one pixel farther than this behind its nearest do not count in its depth, metres."""
FIXED_BITS = 12
FIXED = 1 << FIXED_BITS
MAX_PIXEL_OFFSET = np.float32(1 << 17)
"""Corners farther than this from the picture, in samples, would overflow: dropped."""
SOLID = np.float32(0.9)
"""Where a card's alpha is above this, it counts as opaque and is sorted sample by sample."""
HIDDEN = np.float32(1 / 512)
"""Below this share of light from behind, what lies behind is not looked at."""

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
QUARTER, TWO = np.float32(0.25), np.float32(2)

Picture = tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Layer:
    """Triangles that share a texture and a finish.

    Raises:
        ShapeError: If an array has another type or shape, or an index points outside.
    """

    vertices: Float32[np.ndarray, "n 3"]
    """Posed, head frame, metres."""
    faces: Int32[np.ndarray, "m 3"]
    """Counter-clockwise seen from outside."""
    uvs: Float32[np.ndarray, "k 2"]
    """u to the right and v down, in [0, 1]."""
    uv_faces: Int32[np.ndarray, "m 3"]
    texture: Texture
    """Made by `prepare_texture`, once for each picture."""
    tint: Float32[np.ndarray, "3"]
    """Multiplies the linear colour."""
    occlusion: Float32[np.ndarray, "n"]
    """Share of the surroundings each vertex sees, in [0, 1]; 1 is in the open."""
    kind: Literal["opaque", "card"]
    """Cards blend by the alpha of their texture and are lit on both sides."""
    specular: float
    """Strength of the highlight; 0 for a matt surface."""
    gloss: float
    """Blinn-Phong exponent."""
    cull: bool
    """Drop triangles seen from behind."""
    normals: Float32[np.ndarray, "n 3"] | None = None
    """Unit normals; computed with `vertex_normals` if not given."""
    depth_tolerance: float = 0.002
    """How far a card may lie behind an opaque surface and still be seen, metres."""

    def __post_init__(self) -> None:
        n, m, k = len(self.vertices), len(self.faces), len(self.uvs)
        wanted = {
            "vertices": (np.float32, (n, 3)),
            "faces": (np.int32, (m, 3)),
            "uvs": (np.float32, (k, 2)),
            "uv_faces": (np.int32, (m, 3)),
            "tint": (np.float32, (3,)),
            "occlusion": (np.float32, (n,)),
            "normals": (np.float32, (n, 3)),
        }
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if array is not None and (array.dtype != dtype or array.shape != shape):
                raise ShapeError(
                    f"A layer needs {name} {np.dtype(dtype)} {list(shape)}; got "
                    f"{array.dtype} {list(array.shape)}.",
                    "One row for each vertex, triangle or texture coordinate.",
                )
        # The kernels do not check indices.
        for name, size in (("faces", n), ("uv_faces", k)):
            index = getattr(self, name)
            if m and (index.min() < 0 or index.max() >= size):
                raise ShapeError(
                    f"A layer's {name} point outside its {size} rows.", "Number rows from 0."
                )


@dataclass(frozen=True)
class _Scene:
    """All layers in one set of arrays, opaque ones first; what all cameras share."""

    vertices: Float32[np.ndarray, "n 3"]
    normals: Float32[np.ndarray, "n 3"]
    openness: Float32[np.ndarray, "n"]
    faces: Int32[np.ndarray, "m 3"]
    uvs: Float32[np.ndarray, "k 2"]
    uv_faces: Int32[np.ndarray, "m 3"]
    layer_of: Int32[np.ndarray, "m"]
    """Layer of each triangle."""
    cards_from: int
    """First triangle of the cards."""
    texels: UInt8[np.ndarray, "texels 4"]
    levels: Int32[np.ndarray, "layers 16 3"]
    """First texel, height, width; the last level repeats."""
    finish: Float32[np.ndarray, "layers 6"]
    """Tint (three), specular, depth tolerance, 1 if back faces are culled."""
    glossy: Float32[np.ndarray, "layers steps"]


def draw(
    layers: Sequence[Layer], camera: Camera, lights: Lights, *, supersample: int = 2
) -> Picture:
    """Draw posed layers from one camera.

    Args:
        layers: In any order.
        camera: A single camera.
        lights: In the head frame.
        supersample: Samples along each side of a pixel; 1 gives hard edges.

    Returns:
        rgb: sRGB composited on white, image = head + (1 - alpha) white, encoded.
        alpha: Coverage, 255 where nothing of the background is seen.
        depth: Along the camera's z axis, metres: over the samples within `SAME_SURFACE` of the
            pixel's nearest, the harmonic mean (which is exact on a plane); 0 where fewer than
            half of the samples hit something. A card counts from where the cards in front of
            and including it hide more than half of what is behind.

    Raises:
        ShapeError: If there is more than one camera.
    """
    if camera.K.ndim != 2:
        raise ShapeError(
            f"A picture is drawn from one camera; got {list(camera.K.shape[:-2])}.",
            "Draw several with `draw_views`.",
        )
    return _draw(_gather(layers), camera, lights, supersample)


def draw_views(
    layers: Sequence[Layer], cameras: Camera, lights: Lights, *, supersample: int = 2
) -> list[Picture]:
    """Draw posed layers from several cameras as `draw` does, sharing what does not change."""
    scene = _gather(layers)
    return [_draw(scene, cameras[i], lights, supersample) for i in range(len(cameras))]


def vertex_normals(
    vertices: Float32[np.ndarray, "n 3"], faces: Int32[np.ndarray, "m 3"]
) -> Float32[np.ndarray, "n 3"]:
    """Return unit normals: the mean of the adjacent triangles', weighted by area."""
    normals = np.zeros_like(vertices)
    _sum_normals(vertices, faces, normals)
    return normals


def _gather(layers: Sequence[Layer]) -> _Scene:
    """Put all layers into one set of arrays."""
    order = sorted(layers, key=lambda layer: layer.kind == "card")
    textures = {id(layer.texture): layer.texture for layer in order}
    first_texel = dict(
        zip(textures, _starts([len(t.texels) for t in textures.values()]), strict=True)
    )
    first_vertex = _starts([len(layer.vertices) for layer in order])
    first_uv = _starts([len(layer.uvs) for layer in order])
    levels = np.zeros((len(order), 16, 3), np.int32)
    for i, layer in enumerate(order):
        own = layer.texture.levels
        levels[i] = own[np.minimum(np.arange(16), len(own) - 1)]
        levels[i, :, 0] += first_texel[id(layer.texture)]
    occlusion = _joined([layer.occlusion for layer in order], (0,))
    return _Scene(
        vertices=_joined([layer.vertices for layer in order], (0, 3)),
        normals=_joined(
            [
                vertex_normals(layer.vertices, layer.faces)
                if layer.normals is None
                else layer.normals
                for layer in order
            ],
            (0, 3),
        ),
        openness=np.float32(0.25)
        + np.float32(0.75) * np.clip(occlusion, F0, F1) ** np.float32(0.8),
        faces=_joined(
            [layer.faces + np.int32(i) for layer, i in zip(order, first_vertex, strict=True)],
            (0, 3),
            np.int32,
        ),
        uvs=_joined([layer.uvs for layer in order], (0, 2)),
        uv_faces=_joined(
            [layer.uv_faces + np.int32(i) for layer, i in zip(order, first_uv, strict=True)],
            (0, 3),
            np.int32,
        ),
        layer_of=np.repeat(
            np.arange(len(order), dtype=np.int32), [len(layer.faces) for layer in order]
        ),
        cards_from=sum(len(layer.faces) for layer in order if layer.kind == "opaque"),
        texels=_joined([t.texels for t in textures.values()], (0, 4), np.uint8),
        levels=levels,
        finish=_joined(
            [
                np.array(
                    [[*layer.tint, layer.specular, layer.depth_tolerance, layer.cull]], np.float32
                )
                for layer in order
            ],
            (0, 6),
        ),
        glossy=np.stack([gloss_table(layer.gloss) for layer in order])
        if order
        else np.zeros((0, 2), np.float32),
    )


def _draw(scene: _Scene, camera: Camera, lights: Lights, supersample: int) -> Picture:
    """Draw a gathered scene from a single camera."""
    E = camera.world_to_camera.detach().cpu().numpy().astype(np.float32)
    scale = np.array([[supersample], [supersample], [1]], np.float32)
    K = camera.K.detach().cpu().numpy().astype(np.float32) * scale
    R = np.ascontiguousarray(E[:3, :3])
    size = (camera.height * supersample, camera.width * supersample)
    corners = np.empty((len(scene.vertices), 2), np.int32)
    nearness = np.empty(len(scene.vertices), np.float32)
    _project(scene.vertices, np.ascontiguousarray(E[:3]), K, corners, nearness)

    buffer = np.zeros(size, np.float32)
    ids = np.full(size, -1, np.int32)
    _draw_opaque(
        corners, nearness, scene.faces, scene.layer_of, scene.finish, scene.cards_from, buffer, ids
    )
    view = (R, np.linalg.inv(K).astype(np.float32))
    light = (
        np.ascontiguousarray(lights.directions @ R.T),
        lights.colors,
        np.stack([lights.upper, lights.lower]),
        np.ascontiguousarray(R[:, 1]),
    )
    mesh = (corners, nearness, scene.normals, scene.openness, scene.faces, scene.layer_of)
    material = (
        scene.uvs,
        scene.uv_faces,
        scene.texels,
        scene.levels,
        scene.finish,
        scene.glossy,
        LINEAR_OF_BYTE,
    )
    color = np.zeros((*size, 3), np.float32)
    through = np.ones(size, np.float32)
    front = np.zeros(size, np.float32)
    if scene.cards_from < len(scene.faces):
        cards = _front_to_back(nearness, scene.faces[scene.cards_from :]) + scene.cards_from
        solid = np.zeros(size, np.float32)
        soft = np.zeros(len(cards), np.bool_)
        _draw_solid_cards(cards, mesh, material, buffer, solid, ids, soft)
        _blend_cards(cards[soft], mesh, material, light, view, buffer, solid, color, through, front)
        np.maximum(buffer, solid, out=buffer)
    _shade_opaque(ids, scene.cards_from, mesh, material, light, view, buffer, color, through, front)

    rgb = np.empty((camera.height, camera.width, 3), np.uint8)
    alpha = np.empty((camera.height, camera.width), np.uint8)
    depth = np.empty((camera.height, camera.width), np.float32)
    _resolve(color, through, front, supersample, ENCODED_OF_STEP, rgb, alpha, depth)
    return rgb, alpha, depth


def _front_to_back(nearness: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the numbers of the triangles that can be drawn, the nearest first."""
    corners = nearness[faces]
    drawable = np.flatnonzero(corners.min(axis=1) > 0)
    if not len(drawable):
        return drawable
    depth = (1 / corners[drawable]).sum(axis=1)
    # Sixteen bits tell some micrometres apart, and numpy sorts them five times as fast.
    steps = (depth - depth.min()) * np.float32(65535 / max(np.ptp(depth), 1e-6))
    return drawable[np.argsort(steps.astype(np.uint16), kind="stable")]


def _starts(lengths: list[int]) -> list[int]:
    """Return where each part starts when parts of these lengths follow each other."""
    return [0, *np.cumsum(lengths).tolist()][:-1] if lengths else []


def _joined(
    parts: list[np.ndarray], empty: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> np.ndarray:
    """Join arrays, or give an empty one of this shape."""
    return np.concatenate(parts) if parts else np.zeros(empty, dtype)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _sum_normals(vertices, faces, normals):
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ux = vertices[b, 0] - vertices[a, 0]
        uy = vertices[b, 1] - vertices[a, 1]
        uz = vertices[b, 2] - vertices[a, 2]
        vx = vertices[c, 0] - vertices[a, 0]
        vy = vertices[c, 1] - vertices[a, 1]
        vz = vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    for i in range(normals.shape[0]):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        length = np.sqrt(x * x + y * y + z * z)
        if length > F0:
            normals[i, 0], normals[i, 1], normals[i, 2] = x / length, y / length, z / length


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _project(vertices, E, K, corners, nearness):
    """Put each vertex on the grid of samples; nearness is 1 / z, or 0 where not to be drawn."""
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        cx = E[0, 0] * x + E[0, 1] * y + E[0, 2] * z + E[0, 3]
        cy = E[1, 0] * x + E[1, 1] * y + E[1, 2] * z + E[1, 3]
        cz = E[2, 0] * x + E[2, 1] * y + E[2, 2] * z + E[2, 3]
        nearness[i] = F0
        if cz >= NEAR:
            px = (K[0, 0] * cx + K[0, 1] * cy) / cz + K[0, 2]
            py = K[1, 1] * cy / cz + K[1, 2]
            if abs(px) < MAX_PIXEL_OFFSET and abs(py) < MAX_PIXEL_OFFSET:
                nearness[i] = F1 / cz
                corners[i, 0] = np.int32(np.floor(px * np.float32(FIXED) + HALF))
                corners[i, 1] = np.int32(np.floor(py * np.float32(FIXED) + HALF))


@numba.njit(cache=True, error_model="numpy", forceinline=True)
def _set_up(t, corners, nearness, faces, height, width):
    """Return what a triangle needs to walk its samples.

    Returns:
        area: Twice the area in fixed point, positive seen from outside; 0 drops the triangle.
        box: First and last sample in x, first and last in y.
        edges: For each corner's weight: at sample (0, 0), step in x, step in y. Inside, all
            three weights are at least 0; a sample on a shared edge belongs to one triangle.
    """
    a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
    xa, ya = np.int64(corners[a, 0]), np.int64(corners[a, 1])
    xb, yb = np.int64(corners[b, 0]), np.int64(corners[b, 1])
    xc, yc = np.int64(corners[c, 0]), np.int64(corners[c, 1])
    half = FIXED // 2
    left = max((min(xa, xb, xc) + half - 1) >> FIXED_BITS, 0)
    right = min((max(xa, xb, xc) - half) >> FIXED_BITS, width - 1)
    top = max((min(ya, yb, yc) + half - 1) >> FIXED_BITS, 0)
    bottom = min((max(ya, yb, yc) - half) >> FIXED_BITS, height - 1)
    area = (xc - xa) * (yb - ya) - (yc - ya) * (xb - xa)
    if left > right or top > bottom or nearness[a] * nearness[b] * nearness[c] <= F0:
        area = 0
    turn = 1 if area > 0 else -1
    ea = _edge(xb, yb, xc, yc, turn)
    eb = _edge(xc, yc, xa, ya, turn)
    ec = _edge(xa, ya, xb, yb, turn)
    return area, (left, right, top, bottom), ea, eb, ec


@numba.njit(cache=True, error_model="numpy", forceinline=True)
def _edge(x1, y1, x2, y2, turn):
    """Return a weight's value at the centre of sample (0, 0), its step in x and its step in y."""
    dx, dy = turn * (x2 - x1), turn * (y2 - y1)
    half = FIXED // 2
    at_origin = dy * (half - x1) - dx * (half - y1)
    # Of the two triangles that share an edge, the one to its right or below takes the samples.
    if not (dy > 0 or (dy == 0 and dx < 0)):
        at_origin -= 1
    return at_origin, dy * FIXED, -dx * FIXED


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw_opaque(corners, nearness, faces, layer_of, finish, stop, buffer, ids):
    """Find the nearest triangle of each sample and its nearness."""
    height, width = buffer.shape
    for t in range(stop):
        area, box, ea, eb, ec = _set_up(t, corners, nearness, faces, height, width)
        if area == 0 or (area < 0 and finish[layer_of[t], 5] > HALF):
            continue
        scale = F1 / np.float32(abs(area))
        na = nearness[faces[t, 0]] * scale
        nb = nearness[faces[t, 1]] * scale
        nc = nearness[faces[t, 2]] * scale
        for y in range(box[2], box[3] + 1):
            wa = ea[0] + box[0] * ea[1] + y * ea[2]
            wb = eb[0] + box[0] * eb[1] + y * eb[2]
            wc = ec[0] + box[0] * ec[1] + y * ec[2]
            inside = False
            for x in range(box[0], box[1] + 1):
                if (wa | wb | wc) >= 0:
                    near = np.float32(wa) * na + np.float32(wb) * nb + np.float32(wc) * nc
                    if near > buffer[y, x]:
                        buffer[y, x] = near
                        ids[y, x] = t
                    inside = True
                elif inside:
                    break
                wa += ea[1]
                wb += eb[1]
                wc += ec[1]


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def _choose_level(t, area, material, layer):
    """Return the level of the texture whose texels are about the size of a sample."""
    uvs, uv_faces, levels = material[0], material[1], material[3]
    a, b, c = uv_faces[t, 0], uv_faces[t, 1], uv_faces[t, 2]
    ux, uy = uvs[b, 0] - uvs[a, 0], uvs[b, 1] - uvs[a, 1]
    vx, vy = uvs[c, 0] - uvs[a, 0], uvs[c, 1] - uvs[a, 1]
    texels = abs(ux * vy - uy * vx) * np.float32(levels[layer, 0, 1] * levels[layer, 0, 2])
    ratio = texels * np.float32(FIXED) * np.float32(FIXED) / np.float32(abs(area))
    level = 0
    while ratio > TWO and level < 15:
        ratio *= QUARTER
        level += 1
    return level


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def _shade(x, y, wa, wb, wc, t, turn, texel, mesh, material, light, view):
    """Return the linear RGB of a sample, from its perspective-correct weights and its texel."""
    _, _, normals, openness, faces, layer_of = mesh
    R, unproject = view
    layer, finish = layer_of[t], material[4]
    a, b, c = np.uint64(faces[t, 0]), np.uint64(faces[t, 1]), np.uint64(faces[t, 2])
    nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
    ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
    nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
    n = (
        R[0, 0] * nx + R[0, 1] * ny + R[0, 2] * nz,
        R[1, 0] * nx + R[1, 1] * ny + R[1, 2] * nz,
        R[2, 0] * nx + R[2, 1] * ny + R[2, 2] * nz,
    )
    px, py = np.float32(x) + HALF, np.float32(y) + HALF
    vx = unproject[0, 0] * px + unproject[0, 1] * py + unproject[0, 2]
    vy = unproject[1, 1] * py + unproject[1, 2]
    shrink = -F1 / np.sqrt(vx * vx + vy * vy + F1)
    v = (vx * shrink, vy * shrink, shrink)
    if turn == 0:
        turn = 1 if n[0] * v[0] + n[1] * v[1] + n[2] * v[2] >= F0 else -1
    size = np.float32(turn) / np.sqrt(
        max(n[0] * n[0] + n[1] * n[1] + n[2] * n[2], np.float32(1e-20))
    )
    n = (n[0] * size, n[1] * size, n[2] * size)
    r, g, b_, gleam = light_surface(
        n, v, light[0], light[1], light[2], light[3], finish[layer, 3], material[5][layer]
    )
    seen = wa * openness[a] + wb * openness[b] + wc * openness[c]
    return (
        keep_in_range(seen * (r * texel[0] * finish[layer, 0] + gleam)),
        keep_in_range(seen * (g * texel[1] * finish[layer, 1] + gleam)),
        keep_in_range(seen * (b_ * texel[2] * finish[layer, 2] + gleam)),
    )


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def _texel(wa, wb, wc, t, level, material, layer):
    """Return linear RGB and alpha of the texture at perspective-correct weights."""
    uvs, uv_faces, texels, levels = material[0], material[1], material[2], material[3]
    a, b, c = np.uint64(uv_faces[t, 0]), np.uint64(uv_faces[t, 1]), np.uint64(uv_faces[t, 2])
    u = wa * uvs[a, 0] + wb * uvs[b, 0] + wc * uvs[c, 0]
    v = wa * uvs[a, 1] + wb * uvs[b, 1] + wc * uvs[c, 1]
    first, h, w = levels[layer, level, 0], levels[layer, level, 1], levels[layer, level, 2]
    return sample_texture(texels, np.int64(first), np.int64(h), np.int64(w), u, v, material[6])


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _draw_solid_cards(cards, mesh, material, buffer, solid, ids, soft):
    """Find each sample's nearest card that is as good as opaque there; mark the soft cards."""
    corners, nearness, _, _, faces, layer_of = mesh
    finish = material[4]
    height, width = buffer.shape
    for i in range(cards.shape[0]):
        t = cards[i]
        area, box, ea, eb, ec = _set_up(t, corners, nearness, faces, height, width)
        layer = layer_of[t]
        if area == 0 or (area < 0 and finish[layer, 5] > HALF):
            continue
        level = _choose_level(t, area, material, layer)
        scale = F1 / np.float32(abs(area))
        na = nearness[faces[t, 0]] * scale
        nb = nearness[faces[t, 1]] * scale
        nc = nearness[faces[t, 2]] * scale
        for y in range(box[2], box[3] + 1):
            wa = ea[0] + box[0] * ea[1] + y * ea[2]
            wb = eb[0] + box[0] * eb[1] + y * eb[2]
            wc = ec[0] + box[0] * ec[1] + y * ec[2]
            inside = False
            for x in range(box[0], box[1] + 1):
                if (wa | wb | wc) >= 0:
                    inside = True
                    pa, pb, pc = np.float32(wa) * na, np.float32(wb) * nb, np.float32(wc) * nc
                    near = pa + pb + pc
                    if near > solid[y, x] and buffer[y, x] * (F1 - finish[layer, 4] * near) < near:
                        z = F1 / near
                        texel = _texel(pa * z, pb * z, pc * z, t, level, material, layer)
                        if texel[3] > SOLID:
                            solid[y, x] = near
                            ids[y, x] = t
                        elif texel[3] > HIDDEN:
                            soft[i] = True
                elif inside:
                    break
                wa += ea[1]
                wb += eb[1]
                wc += ec[1]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _blend_cards(cards, mesh, material, light, view, buffer, solid, color, through, front):
    """Lay cards over each other, the nearest first, until nothing shines through."""
    corners, nearness, _, _, faces, layer_of = mesh
    finish = material[4]
    height, width = buffer.shape
    for i in range(cards.shape[0]):
        t = cards[i]
        area, box, ea, eb, ec = _set_up(t, corners, nearness, faces, height, width)
        layer = layer_of[t]
        if area == 0 or (area < 0 and finish[layer, 5] > HALF):
            continue
        level = _choose_level(t, area, material, layer)
        scale = F1 / np.float32(abs(area))
        na = nearness[faces[t, 0]] * scale
        nb = nearness[faces[t, 1]] * scale
        nc = nearness[faces[t, 2]] * scale
        for y in range(box[2], box[3] + 1):
            wa = ea[0] + box[0] * ea[1] + y * ea[2]
            wb = eb[0] + box[0] * eb[1] + y * eb[2]
            wc = ec[0] + box[0] * ec[1] + y * ec[2]
            inside = False
            for x in range(box[0], box[1] + 1):
                if (wa | wb | wc) >= 0:
                    inside = True
                    pa, pb, pc = np.float32(wa) * na, np.float32(wb) * nb, np.float32(wc) * nc
                    near = pa + pb + pc
                    left = through[y, x]
                    # Behind the opaque surface by no more than the tolerance.
                    if (
                        near > solid[y, x]
                        and left > HIDDEN
                        and buffer[y, x] * (F1 - finish[layer, 4] * near) < near
                    ):
                        z = F1 / near
                        pa, pb, pc = pa * z, pb * z, pc * z
                        texel = _texel(pa, pb, pc, t, level, material, layer)
                        if texel[3] > HIDDEN:
                            r, g, b = _shade(
                                x, y, pa, pb, pc, t, 0, texel, mesh, material, light, view
                            )
                            share = left * texel[3]
                            color[y, x, 0] += share * r
                            color[y, x, 1] += share * g
                            color[y, x, 2] += share * b
                            through[y, x] = left - share
                            if front[y, x] == F0 and left - share < HALF:
                                front[y, x] = near
                elif inside:
                    break
                wa += ea[1]
                wb += eb[1]
                wc += ec[1]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _shade_opaque(ids, cards_from, mesh, material, light, view, buffer, color, through, front):
    """Add the nearest opaque surface where the cards let it through."""
    corners, nearness, _, _, faces, layer_of = mesh
    height, width = buffer.shape
    for y in range(height):
        last = -1
        for x in range(width):
            t = ids[y, x]
            if t < 0:
                continue
            front[y, x] = max(front[y, x], buffer[y, x])
            if through[y, x] > HIDDEN:
                if t != last:
                    area, _, ea, eb, ec = _set_up(t, corners, nearness, faces, height, width)
                    layer = layer_of[t]
                    level = _choose_level(t, area, material, layer)
                    turn = 0 if t >= cards_from else (1 if area > 0 else -1)
                    last = t
                pa = np.float32(ea[0] + x * ea[1] + y * ea[2]) * nearness[faces[t, 0]]
                pb = np.float32(eb[0] + x * eb[1] + y * eb[2]) * nearness[faces[t, 1]]
                pc = np.float32(ec[0] + x * ec[1] + y * ec[2]) * nearness[faces[t, 2]]
                scale = F1 / (pa + pb + pc)
                pa, pb, pc = pa * scale, pb * scale, pc * scale
                texel = _texel(pa, pb, pc, t, level, material, layer)
                r, g, b = _shade(x, y, pa, pb, pc, t, turn, texel, mesh, material, light, view)
                color[y, x, 0] += through[y, x] * r
                color[y, x, 1] += through[y, x] * g
                color[y, x, 2] += through[y, x] * b
            through[y, x] = F0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def _resolve(color, through, front, supersample, table, rgb, alpha, depth):
    """Average the samples of each pixel, encode, and composite on white."""
    share = F1 / np.float32(supersample * supersample)
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            r, g, b, cover, nearest, hits = F0, F0, F0, F0, F0, 0
            for i in range(y * supersample, (y + 1) * supersample):
                for j in range(x * supersample, (x + 1) * supersample):
                    r += color[i, j, 0]
                    g += color[i, j, 1]
                    b += color[i, j, 2]
                    cover += F1 - through[i, j]
                    nearest = max(nearest, front[i, j])
                    hits += front[i, j] > F0
            byte = np.int64(cover * share * np.float32(255) + HALF)
            alpha[y, x] = byte
            white = np.float32(255 - byte)
            rgb[y, x, 0] = rgb[y, x, 1] = rgb[y, x, 2] = 255
            if byte > 0:
                whole, keep = F1 / cover, np.float32(byte)
                rgb[y, x, 0] = np.int64(encode_linear(r * whole, table) * keep + white + HALF)
                rgb[y, x, 1] = np.int64(encode_linear(g * whole, table) * keep + white + HALF)
                rgb[y, x, 2] = np.int64(encode_linear(b * whole, table) * keep + white + HALF)
            depth[y, x] = F0
            if 2 * hits >= supersample * supersample and hits > 0:
                total, count = F0, F0
                for i in range(y * supersample, (y + 1) * supersample):
                    for j in range(x * supersample, (x + 1) * supersample):
                        near = front[i, j]
                        if near > F0 and (nearest - near) < SAME_SURFACE * near * nearest:
                            total += near
                            count += F1
                depth[y, x] = count / total

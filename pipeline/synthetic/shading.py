# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types of the kernels)
"""Textures, lights and the light a surface returns, for `raster`.

Colours are sRGB bytes at rest and linear while they are computed with. Directions are in the
head frame outside the kernels and in the camera frame inside them.

Letters: k texels, l lights.
"""

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from jaxtyping import Float32, Int32, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from pipeline.core.errors import ShapeError
from pipeline.core.srgb import encode, linearize
from pipeline.system.assets import LIGHTS

WRAP = np.float32(0.3)
"""How far diffuse light reaches past the terminator, as the cosine of the angle."""
SHOULDER = np.float32(0.8)
"""Linear brightness from which highlights are compressed instead of clipped."""
OUTSIDE = 0.5
"""Share of the people who are drawn in the light of a photographed place."""
EXPOSURE = (0.7, 1.05)
"""What a white surface before the face returns there, on the mean of its directions."""
GLOSS_STEPS = 1024
ENCODE_STEPS = 4096

F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
BYTE = np.float32(1 / 255)


@dataclass(frozen=True)
class Texture:
    """A picture prepared for sampling: itself and its smaller copies, one after the other.

    Make one with `prepare_texture`, once for each picture.
    """

    texels: UInt8[np.ndarray, "k 4"]
    """sRGB and alpha of all levels, each in rows from its top left texel."""
    levels: Int32[np.ndarray, "levels 3"]
    """First texel, height and width of each level; every level halves the one before."""


@dataclass(frozen=True)
class Lights:
    """A few directional lights and an ambient light that changes from above to below."""

    directions: Float32[np.ndarray, "l 3"]
    """Unit vectors toward the lights, head frame."""
    colors: Float32[np.ndarray, "l 3"]
    """Linear RGB; 1 shows a white surface that faces the light as white."""
    upper: Float32[np.ndarray, "3"]
    """Linear RGB of the ambient light on a surface that faces up."""
    lower: Float32[np.ndarray, "3"]
    """Linear RGB of the ambient light on a surface that faces down."""


def prepare_texture(rgba: UInt8[np.ndarray, "h w 4"]) -> Texture:
    """Bleed a picture's colours under its transparent texels and make its smaller copies.

    Without the smaller copies, fine strands in a large texture turn to noise that differs
    from camera to camera.

    Raises:
        ShapeError: If the picture is not bytes of RGBA.
    """
    level = bleed_colors(rgba)
    levels, texels, first = [], [], 0
    while True:
        h, w = level.shape[:2]
        levels.append((first, h, w))
        texels.append(level.reshape(-1, 4))
        first += h * w
        if max(h, w) == 1:
            break
        level = _halve(level)
    return Texture(np.concatenate(texels), np.array(levels, np.int32))


def bleed_colors(texture: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 4"]:
    """Return transparent texels the colour of the nearest that is not; alpha stays.

    Interpolation mixes the colours of neighbours whatever their alpha: a black one under a
    transparent texel shows as a dark fringe.

    Raises:
        ShapeError: If the texture is not bytes of RGBA.
    """
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 4 or not texture.size:
        raise ShapeError(
            f"A texture is uint8 [h, w, 4]; got {texture.dtype} {list(texture.shape)}.",
            "Convert the picture to RGBA.",
        )
    hidden = texture[..., 3] < 8
    if not hidden.any() or hidden.all():
        return texture
    nearest = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    bled = texture[tuple(np.asarray(nearest))]
    bled[..., 3] = texture[..., 3]
    return bled


def sample_lights(rng: np.random.Generator, outside: float = OUTSIDE) -> Lights:
    """Draw the lights of a person: of a studio, or of a place that was photographed.

    Args:
        rng: Source of the draw.
        outside: Share of the people who are not in the studio.
    """
    return _place(rng) if rng.random() < outside else _studio(rng)


def _place(rng: np.random.Generator) -> Lights:
    """Draw a place, from which side it lights the face, how hard, and how it is exposed.

    A camera takes most of a cast back by its white balance, and a person stays out of the hardest
    sun: what is left of both is drawn.
    """
    places = _places()
    place = places[str(rng.choice(sorted(places)))]
    turn = Rotation.from_euler("y", rng.uniform(0, 2 * np.pi)).as_matrix()
    directions = np.array(place["directions"]) @ turn.T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)  # the file's are rounded
    upper, lower, *colors = np.array([place["upper"], place["lower"], *place["colors"]])
    hard, balanced = rng.uniform(0.25, 1.0), rng.uniform(0.6, 1.0)
    # Every picture's mean light is 1; what is taken off the hard light comes from all sides.
    colors = hard * np.array(colors)
    upper, lower = hard * upper + 1 - hard, hard * lower + 1 - hard
    normals = np.array([[np.sin(a), 0.0, np.cos(a)] for a in np.radians([-50, -25, 0, 25, 50])])
    wrapped = np.clip((normals @ directions.T + WRAP) / (1 + WRAP), 0, None)
    seen = (wrapped @ colors).mean(0) + (upper + lower) / 2
    gain = rng.uniform(*EXPOSURE) / seen.mean() * (seen.mean() / seen) ** balanced
    return Lights(
        directions.astype(np.float32),
        (colors * gain).astype(np.float32),
        (upper * gain).astype(np.float32),
        (lower * gain).astype(np.float32),
    )


@functools.cache
def _places() -> dict[str, Any]:
    """Return the light of photographed places; see `tools/build_lights.py`."""
    return json.loads(LIGHTS.read_text(encoding="utf-8"))


def _studio(rng: np.random.Generator) -> Lights:
    """Draw the lights of a studio: near uniform, a little warmer and brighter on one side."""
    side = rng.choice([-1.0, 1.0])
    angles = np.array(
        [
            (side * rng.uniform(15, 60), rng.uniform(5, 45)),
            (-side * rng.uniform(25, 70), rng.uniform(-10, 25)),
            (side * rng.uniform(120, 240), rng.uniform(10, 50)),
        ]
    )
    azimuth, elevation = np.radians(angles).T
    directions = np.stack(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ],
        axis=-1,
    )
    strength = np.array([rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.22), rng.uniform(0.1, 0.25)])
    warmth = rng.normal(0, 0.025) + rng.normal(0, [0.03, 0.03, 0.03])
    ambient = rng.uniform(0.56, 0.72)
    floor = ambient * rng.uniform(0.68, 0.9)
    tint = rng.normal(0, 0.02)
    return Lights(
        directions.astype(np.float32),
        (strength[:, None] * _temperature(warmth)).astype(np.float32),
        (ambient * _temperature(tint - 0.01)).astype(np.float32),
        (floor * _temperature(tint + 0.02)).astype(np.float32),
    )


LINEAR_OF_BYTE: Float32[np.ndarray, "256"] = linearize(np.arange(256) / 255).astype(np.float32)
ENCODED_OF_STEP: Float32[np.ndarray, "steps"] = encode(
    np.arange(ENCODE_STEPS + 1) / ENCODE_STEPS
).astype(np.float32)


def gloss_table(gloss: float) -> Float32[np.ndarray, "steps"]:
    """Return x ** gloss for x from 0 to 1 in even steps: a power for each sample is slow."""
    return (np.linspace(0, 1, GLOSS_STEPS + 1) ** gloss).astype(np.float32)


def _temperature(warmth: np.ndarray | float) -> np.ndarray:
    """Return the RGB of light that is warmer (positive) or cooler than white."""
    return 1 + np.multiply.outer(warmth, np.array([1.0, 0.1, -1.1]))


def _halve(level: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h2 w2 4"]:
    """Average blocks of 2 x 2 texels in linear light, colours weighted by alpha."""
    h, w = level.shape[:2]
    even = np.pad(level, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    blocks = even.reshape((h + 1) // 2, 2, (w + 1) // 2, 2, 4)
    alpha = blocks[..., 3:].astype(np.float32)
    # A small weight keeps the bled colours where a whole block is transparent.
    weight = alpha + np.float32(0.01)
    color = (LINEAR_OF_BYTE[blocks[..., :3]] * weight).sum((1, 3)) / weight.sum((1, 3))
    halved = np.concatenate([encode(color) * 255, alpha.mean((1, 3))], axis=-1)
    return np.rint(halved).astype(np.uint8)


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def sample_texture(texels, first, h, w, u, v, linear):
    """Return linear RGB and alpha between four texels; the border repeats outward."""
    x = min(max(u * np.float32(w) - HALF, F0), np.float32(w - 1))
    y = min(max(v * np.float32(h) - HALF, F0), np.float32(h - 1))
    x0, y0 = np.int64(x), np.int64(y)
    fx, fy = x - np.float32(x0), y - np.float32(y0)
    right, down = (1 if x0 < w - 1 else 0), (w if y0 < h - 1 else 0)
    # Unsigned: numba would look at each signed index for whether it counts from the end.
    a = np.uint64(first + y0 * w + x0)
    b, c = a + np.uint64(right), a + np.uint64(down)
    d = c + np.uint64(right)
    wa, wb = (F1 - fx) * (F1 - fy), fx * (F1 - fy)
    wc, wd = (F1 - fx) * fy, fx * fy
    aa, ab, ac, ad = texels[a, 3], texels[b, 3], texels[c, 3], texels[d, 3]
    alpha = BYTE * (
        wa * np.float32(aa) + wb * np.float32(ab) + wc * np.float32(ac) + wd * np.float32(ad)
    )
    red = (
        wa * linear[texels[a, 0]]
        + wb * linear[texels[b, 0]]
        + wc * linear[texels[c, 0]]
        + wd * linear[texels[d, 0]]
    )
    green = (
        wa * linear[texels[a, 1]]
        + wb * linear[texels[b, 1]]
        + wc * linear[texels[c, 1]]
        + wd * linear[texels[d, 1]]
    )
    blue = (
        wa * linear[texels[a, 2]]
        + wb * linear[texels[b, 2]]
        + wc * linear[texels[c, 2]]
        + wd * linear[texels[d, 2]]
    )
    return red, green, blue, alpha


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def light_surface(n, v, directions, colors, ambient, up, specular, glossy):
    """Return the light a white surface returns: diffuse RGB and the highlight, linear.

    The highlight has no colour: a light here stands for a wide part of the sky, whose blue would
    lie on black hair as a patch.

    Args:
        n: Unit normal, three numbers, camera frame.
        v: Unit vector toward the eye, camera frame.
        directions: Unit vectors toward the lights [l, 3], camera frame.
        colors: Linear RGB [l, 3].
        ambient: Linear RGB from above and from below [2, 3].
        up: The head's up in the camera frame [3].
        specular: Strength of the highlight.
        glossy: `gloss_table` of the surface.
    """
    sky = HALF + HALF * (n[0] * up[0] + n[1] * up[1] + n[2] * up[2])
    r = ambient[1, 0] + sky * (ambient[0, 0] - ambient[1, 0])
    g = ambient[1, 1] + sky * (ambient[0, 1] - ambient[1, 1])
    b = ambient[1, 2] + sky * (ambient[0, 2] - ambient[1, 2])
    gleam = F0
    for i in range(directions.shape[0]):
        lx, ly, lz = directions[i, 0], directions[i, 1], directions[i, 2]
        cosine = n[0] * lx + n[1] * ly + n[2] * lz
        diffuse = (cosine + WRAP) / (F1 + WRAP)
        if diffuse > F0:
            r += diffuse * colors[i, 0]
            g += diffuse * colors[i, 1]
            b += diffuse * colors[i, 2]
        if cosine > F0 and specular > F0:
            hx, hy, hz = lx + v[0], ly + v[1], lz + v[2]
            facing = n[0] * hx + n[1] * hy + n[2] * hz
            if facing > F0:
                length = math.sqrt(hx * hx + hy * hy + hz * hz)
                step = min(facing / length, F1) * np.float32(GLOSS_STEPS)
                k = min(np.int64(step), GLOSS_STEPS - 1)
                part = step - np.float32(k)
                shine = specular * (glossy[k] + part * (glossy[k + 1] - glossy[k]))
                gleam += shine * (colors[i, 0] + colors[i, 1] + colors[i, 2]) / np.float32(3)
    return r, g, b, gleam


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def keep_in_range(x):
    """Compress brightness above the shoulder so that highlights approach 1."""
    if x <= SHOULDER:
        return x
    excess = (x - SHOULDER) / (F1 - SHOULDER)
    return SHOULDER + (F1 - SHOULDER) * excess / (F1 + excess)


@numba.njit(cache=True, error_model="numpy", fastmath=True, forceinline=True)
def encode_linear(x, table):
    """Return the sRGB value of linear light, from a table of even steps."""
    step = min(max(x, F0), F1) * np.float32(ENCODE_STEPS)
    k = min(np.int64(step), ENCODE_STEPS - 1)
    return table[k] + (step - np.float32(k)) * (table[k + 1] - table[k])

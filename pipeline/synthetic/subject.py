"""One synthetic person in the studio: pose it, draw it, and know the truth about each picture.

Letters: h height, w width, n vertices.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from pipeline.core.arrays import nearest_true
from pipeline.core.errors import ShapeError
from pipeline.core.framing import above_neck
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.makehuman import Head, Identity, load_texture
from pipeline.synthetic.people import sample_identity
from pipeline.synthetic.raster import Layer, Picture, draw_views
from pipeline.synthetic.shading import Lights, Texture, prepare_texture, sample_lights


@dataclass(frozen=True)
class Frame:
    """One picture and what is in it."""

    rgb: UInt8[np.ndarray, "h w 3"]
    """sRGB, composited on white."""
    alpha: UInt8[np.ndarray, "h w"]
    """Coverage by the head."""
    depth: Float32[np.ndarray, "h w"]
    """Along the camera's z axis, metres; 0 where nothing is."""
    landmarks: Float32[np.ndarray, "68 3"]
    """iBUG order, head frame, metres."""
    vertices: Float32[np.ndarray, "n 3"]
    """Control vertices of the face, head frame, metres."""


class Subject:
    """A head under its lights."""

    def __init__(self, identity: Identity, lights: Lights) -> None:
        self.head = Head(identity)
        self.lights = lights

    @classmethod
    def sample(cls, seed: int) -> "Subject":
        """Draw a person and the lights; the same seed gives the same pictures."""
        rng = np.random.default_rng(seed)
        return cls(sample_identity(rng), sample_lights(rng))

    def render(
        self,
        expression: Float32[np.ndarray, "52"] | ExpressionCode,
        camera: Camera,
        *,
        supersample: int = 2,
        whole: bool = False,
    ) -> Frame:
        """Draw one expression from one camera.

        Raises:
            ShapeError: If the camera has leading dimensions or there are several expressions.
        """
        if camera.K.ndim != 2:
            raise ShapeError(
                f"A picture is drawn from one camera; got {list(camera.K.shape[:-2])}.",
                "Draw several with `render_views`.",
            )
        single = Camera(camera.world_to_camera[None], camera.K[None], camera.width, camera.height)
        return self.render_views(expression, single, supersample=supersample, whole=whole)[0]

    def render_views(
        self,
        expression: Float32[np.ndarray, "52"] | ExpressionCode,
        cameras: Camera,
        *,
        supersample: int = 2,
        whole: bool = False,
    ) -> list[Frame]:
        """Draw one expression from several cameras [v]; the head is posed once.

        Args:
            expression: What to draw.
            cameras: Where from.
            supersample: Samples along each side of a pixel.
            whole: With the shoulders; a head ends at its neck otherwise.
        """
        vertices = self.head.vertices(expression)
        landmarks = self.head.landmarks(vertices)
        pictures: list[Picture] = draw_views(
            self.layers(vertices), cameras, self.lights, supersample=supersample
        )
        frames = [Frame(*picture, landmarks, vertices) for picture in pictures]
        if whole:
            return frames
        depth = torch.from_numpy(np.stack([_filled(frame.depth) for frame in frames]))
        kept = above_neck(cameras, depth, self._chin).numpy()
        return [_cut(frame, share) for frame, share in zip(frames, kept, strict=True)]

    @functools.cached_property
    def _chin(self) -> float:
        return float(self.head.landmarks(self.head.neutral)[8, 1])

    def layers(self, vertices: Float32[np.ndarray, "n 3"]) -> list[Layer]:
        """Return the rasteriser's layers of posed control vertices."""
        return [
            Layer(
                vertices=part.vertices,
                faces=part.faces,
                uvs=part.uvs,
                uv_faces=part.uv_faces,
                texture=_texture(part.texture),
                tint=part.tint,
                occlusion=part.occlusion,
                kind=part.kind,
                specular=part.specular,
                gloss=part.gloss,
                cull=part.cull,
                depth_tolerance=part.depth_tolerance,
            )
            for part in self.head.parts(vertices)
        ]


def _filled(depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return depths also of pixels at the head's edge, which are too little of it to have one."""
    (row, column), _ = nearest_true(depth > 0)
    return depth[row, column]


def _cut(frame: Frame, share: Float32[np.ndarray, "h w"]) -> Frame:
    """Return a picture of which a share of each pixel is kept."""
    white = np.float32(255) - share[..., None] * (np.float32(255) - frame.rgb)
    alpha = (frame.alpha * share).round().astype(np.uint8)
    depth = np.where(alpha > 0, frame.depth, np.float32(0))
    return replace(frame, rgb=white.round().astype(np.uint8), alpha=alpha, depth=depth)


@functools.lru_cache(maxsize=96)
def _texture(name: str) -> Texture:
    """Return a prepared texture; all subjects share them."""
    return prepare_texture(load_texture(name))

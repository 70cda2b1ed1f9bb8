"""Reading shards: single views of a subject, at any size that divides the stored one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor

from pipeline.core.errors import FormatError, InputError, ShapeError
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.io.images import decode
from pipeline.shards.schema import DEPTH_UNIT, FIELDS, FORMAT, PICTURES, READABLE, TIMED
from pipeline.shards.writer import Header, ShardTimestep


class Shard:
    """One subject's file, open for reading.

    Raises:
        FormatError: If the file is truncated, not a shard, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise FormatError(
                f"{path} is not a whole HDF5 file.", "Make this shard again."
            ) from error
        attrs = self._file.attrs
        self._version = int(attrs.get("version", 0))
        fields = [name for name, field in FIELDS.items() if field.since <= self._version]
        if attrs.get("format") != FORMAT or any(name not in self._file for name in fields):
            raise FormatError(f"{path} is not a shard of ours.", "Make it with `fastgha prep`.")
        if self._version not in READABLE:
            raise FormatError(
                f"{path} has version {self._version}; this program reads "
                f"{' and '.join(map(str, READABLE))}.",
                "Make the shards again with this version.",
            )
        self.subject = str(attrs["subject"])
        self.layout = str(attrs["layout"])
        self.topology = str(attrs.get("topology", ""))
        self.width, self.height = int(attrs["width"]), int(attrs["height"])
        self.provenance: dict[str, Any] = json.loads(str(attrs["provenance"]))
        self.timesteps, self.views = self._file["rgb"].shape[:2]
        self._where: dict[str, np.ndarray] = (
            {name: self._file[name][:] for name in PICTURES} if self._version > 1 else {}
        )
        self.valid: Bool[np.ndarray, "t v"] = (
            self._where["rgb"][..., 1] > 0
            if self._version > 1
            else np.ones((self.timesteps, self.views), bool)
        )
        """Whether the view is there. Of a missing one, nothing may be read and the camera is a
        placeholder."""
        self.coded: Bool[np.ndarray, "t"] = np.isfinite(self._file["code"][:]).all(1)
        """Whether the expression code is known."""
        self.sentences: np.ndarray = self._file["sentence"][:]
        self._world_to_camera = self._file["world_to_camera"][:]
        self._K = self._file["K"][:]

    def cameras(self, timestep: int) -> Camera:
        """Return the cameras of all views at a timestep, for the stored picture size."""
        return self._camera(self._world_to_camera[timestep], self._K[timestep])

    def code(self, timestep: int | Sequence[int]) -> ExpressionCode:
        """Return the expression of one timestep or several."""
        return ExpressionCode(torch.from_numpy(self._file["code"][:][timestep]), self.layout)

    def depth_error(self, timestep: int) -> Float32[np.ndarray, "v"]:
        """Return how well each view's depth was aligned, mm rms; nan where there is no depth."""
        if self._version == 1:
            return np.zeros(self.views, np.float32)
        return self._file["depth_error"][timestep]

    def landmarks(self, timestep: int) -> Float[Tensor, "68 3"]:
        """Return the landmarks in the head frame, metres; nan where unknown."""
        return torch.from_numpy(self._file["landmarks"][timestep])

    def vertices(self, timestep: int) -> Float[Tensor, "n 3"]:
        """Return the face mesh in the head frame, metres; n is 0 if unknown."""
        return torch.from_numpy(self._file["vertices"][timestep])

    @property
    def neutral(self) -> Float32[np.ndarray, "n 3"] | None:
        """The person's neutral mesh in the head frame, metres; none if it is not known."""
        if self._version < 3:
            return None
        found: np.ndarray = self._file["neutral"][:]
        return found if found.size and np.isfinite(found).all() else None

    def mesh(self, timesteps: Sequence[int]) -> TrackedMesh:
        """Return the mesh at some timesteps, for a guided model.

        Raises:
            FormatError: If the neutral mesh is not known, or it is not of the layout's head model.
        """
        neutral = self.neutral
        if neutral is None:
            raise FormatError(
                f"{self.path} has no neutral mesh, which a guided model needs.",
                "Make it again with `fastgha prep` of this version from a capture with a mesh, or "
                "take a model without a guide: --preset small/no-guide.",
            )
        if self.topology != head_model(self.layout).topology:
            raise FormatError(
                f"The mesh of {self.path} ({self.topology or 'unnamed'}) is not that of the head "
                f"model of {self.layout}.",
                "Make the shard again with this version, or take a model without a guide: "
                "--preset small/no-guide.",
            )
        return TrackedMesh(
            self.layout, neutral, np.stack([self._file["vertices"][t] for t in timesteps])
        )

    def read(self, pairs: Sequence[tuple[int, int]], size: int) -> View:
        """Return views by (timestep, view), in that order.

        Args:
            pairs: Which pictures.
            size: Width of the pictures in pixels; divides the stored width.

        Raises:
            ShapeError: If `size` does not divide the stored width.
            InputError: If a view is missing; see `valid`.
            FormatError: If a picture is damaged.
        """
        factor = self._factor(size)
        rgb = [np.asarray(self._picture("rgb", p, factor)) for p in pairs]
        alpha = [np.asarray(self._picture("alpha", p, factor)) for p in pairs]
        t, v = np.array(pairs).T
        camera = self._camera(self._world_to_camera[t, v], self._K[t, v])
        return View(
            image=torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).float() / 255.0,
            alpha=torch.from_numpy(np.stack(alpha))[:, None].float() / 255.0,
            camera=camera.resized(self.width // factor, self.height // factor),
        )

    def depth(self, pairs: Sequence[tuple[int, int]], size: int) -> Float[Tensor, "v 1 h w"]:
        """Return depth pictures, metres; 0 where unknown, and where a block holds an edge."""
        factor = self._factor(size)
        pictures: list[np.ndarray] = []
        for pair in pairs:
            if self.valid[pair] and not self._encoded("depth", pair):
                pictures.append(np.zeros((self.height // factor, self.width // factor)))
                continue
            steps = np.asarray(self._picture("depth", pair, 1)).astype(np.float32)
            h, w = self.height // factor, self.width // factor
            blocks = steps[: h * factor, : w * factor].reshape(h, factor, w, factor)
            known = blocks.min(axis=(1, 3)) > 0
            pictures.append(np.where(known, blocks.mean(axis=(1, 3)), 0) * DEPTH_UNIT)
        return torch.from_numpy(np.stack(pictures)[:, None].astype(np.float32))

    def header(self) -> Header:
        """Return what was said about all timesteps when the shard was written."""
        return Header(
            self.subject,
            self.layout,
            self.width,
            self.height,
            self.timesteps,
            self.views,
            int(self._file["vertices"].shape[1]),
            self.provenance,
            self.neutral,
            self.topology,
        )

    def read_timestep(self, timestep: int) -> ShardTimestep:
        """Return a timestep as it is stored, for writing it again."""
        pairs = [(timestep, v) for v in range(self.views)]
        return ShardTimestep(
            rgb=tuple(self._encoded("rgb", pair) for pair in pairs),
            alpha=tuple(self._encoded("alpha", pair) for pair in pairs),
            depth=tuple(self._encoded("depth", pair) for pair in pairs),
            world_to_camera=self._world_to_camera[timestep],
            K=self._K[timestep],
            code=self._file["code"][timestep],
            sentence=int(self.sentences[timestep]),
            landmarks=self._file["landmarks"][timestep],
            vertices=self._file["vertices"][timestep],
            depth_error=self.depth_error(timestep),
        )

    def verify(self) -> None:
        """Compare the whole content with the checksum.

        Raises:
            FormatError: If any byte differs from what was written.
        """
        try:
            found = self._checksum() if self._version > 1 else self._checksum_of_version_1()
        except OSError as error:
            raise FormatError(f"{self.path} is damaged.", "Make this shard again.") from error
        if found != self._file.attrs["checksum"]:
            raise FormatError(
                f"{self.path} does not have the content it was written with.",
                "Make this shard again.",
            )

    def _checksum(self) -> str:
        total = hashlib.sha256()
        for name, field in FIELDS.items():
            if field.since > self._version:
                continue
            one = hashlib.sha256()
            if name not in TIMED:
                total.update(hashlib.sha256(self._file[name][:].tobytes()).digest())
                continue
            for t in range(self.timesteps):
                if field.dtype == "picture":
                    for v in range(self.views):
                        one.update(self._encoded(name, (t, v)))
                else:
                    one.update(np.ascontiguousarray(self._file[name][t]).tobytes())
            total.update(one.digest())
        return total.hexdigest()

    def _checksum_of_version_1(self) -> str:
        checksum = hashlib.sha256()
        for name, field in FIELDS.items():
            if field.dtype == "picture":
                for pair in np.ndindex(self.timesteps, self.views):
                    checksum.update(self._encoded(name, pair))
            elif field.since == 1:
                checksum.update(np.ascontiguousarray(self._file[name][:]).tobytes())
        return checksum.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _factor(self, size: int) -> int:
        if size < 1 or self.width % size or self.height % (self.width // size):
            raise ShapeError(
                f"{self.path} holds pictures of {self.width}x{self.height}; they cannot be "
                f"brought to {size} exactly.",
                "Choose a size that divides the stored one.",
            )
        return self.width // size

    def _encoded(self, name: str, pair: tuple[int, ...]) -> bytes:
        if self._version == 1:
            return self._file[name][pair].tobytes()
        start, length = self._where[name][pair].tolist()
        return self._file["bytes"][start : start + length].tobytes()

    def _picture(self, name: str, pair: tuple[int, int], factor: int) -> Image.Image:
        if not self.valid[pair]:
            raise InputError(
                f"{self.path} has no view {pair[1]} at timestep {pair[0]}.",
                "Choose among the valid views.",
            )
        try:
            image = decode(self._encoded(name, pair))
        except (OSError, ValueError) as error:
            raise FormatError(
                f"{self.path}: {name} of timestep {pair[0]}, view {pair[1]} is damaged.",
                "Make this shard again.",
            ) from error
        return image.reduce(factor) if factor > 1 else image

    def _camera(self, world_to_camera: np.ndarray, K: np.ndarray) -> Camera:
        E, K_ = torch.from_numpy(world_to_camera), torch.from_numpy(K)
        return Camera(E, K_, self.width, self.height)


def find_shards(folder: Path) -> list[Path]:
    """List the shards of a folder, by name.

    Raises:
        InputError: If there is no such folder, or no shard in it.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Make shards with `fastgha prep`.")
    found = sorted(folder.glob("*.h5"))
    if not found:
        raise InputError(f"There is no shard (*.h5) in {folder}.", "Make some: `fastgha prep`.")
    return found

"""Reading shards: single views of a subject, at any size that divides the stored one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor

from pipeline.core.errors import FormatError, InputError, ShapeError
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.io.images import decode
from pipeline.shards.schema import (
    DEPTH_UNIT,
    FIELDS,
    FORMAT,
    PICTURES,
    READABLE,
    SPLITS,
    TIMED,
    Split,
)
from pipeline.shards.writer import Header, ShardTimestep
from pipeline.system.files import is_name, require_file

Person = tuple[Path, ...]
"""The shards of one person."""
LARGEST = 2**14
"""Pixels of a side."""
NUMBERS = 10**9
"""Of an array other than the pictures' bytes, at most."""
PACKING = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
"""What version 1 had; later ones are stored as they are."""
DEFLATED = 1100
"""Times its size that anything can have had before it was deflated, and a little."""
CHUNK = 2**24
"""Bytes that are made room for at a time."""


class Shard:
    """One subject's file, open for reading.

    Raises:
        FormatError: If the file is truncated, not a shard, of another version, or not what the
            schema says; nothing outside of it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = require_file(path, "a shard (.h5)")
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            raise FormatError(
                f"{path} is not a whole HDF5 file.", "Make this shard again."
            ) from error
        try:
            self._open()
        except (KeyError, TypeError, ValueError, OverflowError, OSError, RuntimeError) as error:
            self._file.close()
            raise FormatError(
                f"{path} is not a shard of ours.", "Make it with `fastgha prep`."
            ) from error
        except FormatError:
            self._file.close()
            raise

    def _open(self) -> None:
        path, attrs = self.path, self._file.attrs
        self._version = int(attrs.get("version", 0))
        if attrs.get("format") != FORMAT:
            raise ValueError("format")
        if self._version not in READABLE:
            raise FormatError(
                f"{path} has version {self._version}; this program reads "
                f"{' and '.join(map(str, READABLE))}.",
                "Make the shards again with this version.",
            )
        self._check()
        self.subject = str(attrs["subject"])
        if not is_name(self.subject):
            raise self._foreign(f"its subject {self.subject[:80]!r} cannot be a folder's name")
        self.layout = str(attrs["layout"])
        self.topology = str(attrs.get("topology", ""))
        self.width, self.height = int(attrs["width"]), int(attrs["height"])
        if not (0 < self.width <= LARGEST and 0 < self.height <= LARGEST):
            raise self._foreign(f"its pictures are {self.width}x{self.height}")
        self.provenance: dict[str, Any] = dict(json.loads(str(attrs["provenance"])))
        self.split: Split = SPLITS.get(str(attrs.get("split", "")) or self._settings("split"), "")
        """Whether the person is trained on or held out."""
        self.timesteps, self.views = self._file["rgb"].shape[:2]
        self._where: dict[str, np.ndarray] = (
            {name: self._file[name][:] for name in PICTURES} if self._version > 1 else {}
        )
        for name, where in self._where.items():
            size = self._file["bytes"].shape[0]
            if (where[..., 0] > size).any() or (where[..., 1] > size - where[..., 0]).any():
                raise self._foreign(f"{name} lies outside of its bytes")
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

    def _settings(self, name: str) -> str:
        """Return a setting of what made the shard: those of before have their split only there."""
        settings = self.provenance.get("config")
        return str(settings.get(name, "")) if isinstance(settings, dict) else ""

    @property
    def dataset(self) -> str:
        """Name of the data set: that of its reader, or synthetic; empty if unknown."""
        if self.provenance.get("stage") == "synthetic":
            return "synthetic"
        return self._settings("source")

    def _check(self) -> None:
        """Compare what the file holds with the schema, before anything of it is read."""
        wanted = {
            name: (field.dtype, field.shape.split())
            for name, field in FIELDS.items()
            if field.since <= self._version
        }
        if self._version > 1:
            wanted |= {name: ("uint64", ["t", "v", "2"]) for name in PICTURES}
            wanted["bytes"] = ("uint8", ["b"])
        sizes: dict[str, int] = {}
        for name, (dtype, letters) in wanted.items():
            data = self._own(name)
            picture = dtype == "picture" and h5py.check_vlen_dtype(data.dtype) == np.uint8
            if not picture and (dtype == "picture" or data.dtype != np.dtype(dtype)):
                raise self._foreign(f"{name} is {data.dtype}, not {dtype}")
            fits = len(letters) == len(data.shape) and all(
                size == (int(x) if x.isdigit() else sizes.setdefault(x, size))
                for x, size in zip(letters, data.shape, strict=True)
            )
            if not fits or (name != "bytes" and data.size > NUMBERS):
                raise self._foreign(f"{name} is {list(data.shape)}, not [{' '.join(letters)}]")

    def _own(self, name: str) -> Any:
        """Return a dataset whose content lies in the file itself, whole and as it is."""
        # Of a link that leads elsewhere, even a look at its target would open another file.
        links = self._file.id.links
        if not links.exists(name.encode()):
            raise self._foreign(f"it has no {name}")
        if links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise self._foreign(f"{name} leads elsewhere")
        data = self._file[name]
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise self._foreign(f"{name} is no array")
        plan = data.id.get_create_plist()
        plain = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
        if plan.get_layout() not in plain or plan.get_external_count():
            raise self._foreign(f"{name} lies in another file")
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if filters - (PACKING if self._version == 1 else set()):
            raise self._foreign(f"{name} is compressed")
        number = data.id.get_type().get_size()
        if data.chunks and math.prod(data.chunks) * number > CHUNK:
            raise self._foreign(f"{name} has chunks of {list(data.chunks)}")
        held = min(data.id.get_storage_size(), self.path.stat().st_size)
        if math.prod(data.shape) * number > held * (DEFLATED if filters else 1):
            raise self._foreign(f"{name} {list(data.shape)} is larger than what is stored")
        return data

    def _foreign(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path} is not as shards of ours are: {what}.",
            "Make it with `fastgha prep`; open no shard whose maker you do not know.",
        )

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
            self.split,
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
            wanted = str(self._file.attrs.get("checksum"))
        except OSError as error:
            raise FormatError(f"{self.path} is damaged.", "Make this shard again.") from error
        if found != wanted:
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


def by_person(paths: Sequence[Path]) -> dict[str, Person]:
    """Return the shards of each person, in the order in which people first come."""
    people: dict[str, list[Path]] = {}
    for path in paths:
        with Shard(path) as shard:
            people.setdefault(shard.subject, []).append(path)
    return {subject: tuple(mine) for subject, mine in people.items()}


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

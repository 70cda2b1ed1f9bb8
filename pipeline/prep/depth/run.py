"""Stage: depth of every view of a folder of shards, from point maps aligned to the head.

In    <out>/<name>.h5
Out   <out>/work/<name>/points-<settings>/<timestep>.npz   depth: PNG a view; error [v], mm
      <out>/<name>.h5, written again with the depth and how well it was aligned
      <out>/reports/<name>.points.json   groups left out, with reasons, and the residuals
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from pipeline.core.config import to_dict
from pipeline.core.errors import ConfigError, InputError, StaleOutputError
from pipeline.core.geometry import project
from pipeline.core.types import View
from pipeline.faces.flame import load_flame
from pipeline.faces.flame_fit import VERTICES as FLAME_VERTICES
from pipeline.faces.heads import FLAME_FILES, head_model
from pipeline.faces.makehuman import load_asset
from pipeline.io.meshes import read_obj_faces
from pipeline.perception.vggt import HUB, PointMaps
from pipeline.prep.depth.pointmaps import PointMapSource, make_point_map_source, shrunk
from pipeline.prep.items import WORK, Item, load_item, save_item
from pipeline.render.triangles import draw_depth
from pipeline.shards.reader import Shard, find_shards
from pipeline.shards.writer import ShardTimestep, encode_depth, write_timesteps
from pipeline.system.executor import make_executor
from pipeline.system.files import sweep, write_text
from pipeline.system.locks import locked
from pipeline.system.progress import Progress, silent
from pipeline.system.stage import StageReport
from pipeline.system.weights import home
from pipeline.tracking.align import AlignConfig, Alignment, align


@dataclass(frozen=True)
class PointsConfig:
    """Where depth comes from and what is kept of it."""

    backend: Literal["vggt", "precomputed", "mesh"] = "vggt"
    """The network, files of point maps, or the shards' own tracked mesh."""
    points: str = ""
    """Folder of the precomputed point maps."""
    weights: str = HUB
    """Of VGGT: name on the hub or local folder."""
    head: Literal["depth", "points"] = "depth"
    """What of VGGT is used: its depth with its cameras, or its point head."""
    topology: str = ""
    """File with the triangles of the mesh: OBJ, or a converted FLAME model; not needed for the
    built-in head, nor for FLAME where its converted model is."""
    group: int = 16
    """Views that go through the network together; about 0.3 GB of GPU memory each."""
    min_frontal: float = 0.5
    """Landmarks are read in views whose direction has at least this cosine from the face's."""
    max_residual: float = 5.0
    """Groups that are aligned worse than this are left out, millimetres."""
    min_confidence: float = 1.0
    """Points of a smaller confidence are unknown."""
    max_edge_m: float = 0.012
    """Neighbouring points farther apart than this are not joined, metres, at 518 pixels."""
    align: AlignConfig = field(default_factory=AlignConfig)


def run(
    out: Path,
    config: PointsConfig = PointsConfig(),
    *,
    workers: int = 1,
    device: str = "cpu",
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> StageReport:
    """Return the shards of a folder depth; go on where an earlier run stopped.

    Raises:
        InputError: If there is no shard, or one has neither landmarks nor mesh.
        StaleOutputError: If a shard has depth of other settings, or another run works there.
    """
    paths = find_shards(out)
    report = StageReport(out)
    with locked(out):
        todo: list[Path] = []
        for path in paths:
            with Shard(path) as shard:
                made = shard.provenance.get("points")
                if made == settings(config):
                    report.skipped += shard.timesteps
                    continue
                if made is not None and not overwrite:
                    raise StaleOutputError(
                        f"{path} has depth that was made with other settings.",
                        "Choose the same settings, or pass --overwrite to make it again.",
                    )
                todo.append(path)
        sweep(out)
        work = Points(config, device)
        items = [key for path in todo for key in left(path, config)]
        gpus = 1.0 if device.startswith("cuda") else 0.0
        with make_executor(work, min(workers, len(items)), ray=ray, gpus=gpus) as executor:
            executor.run(items, progress)
        report.done = len(items)
        for path in todo:
            report.dropped |= put_in(path, config)
    return report


@dataclass(frozen=True)
class DepthEstimate:
    """What a run would do."""

    shards: int
    timesteps: int
    """That are not made yet."""
    pictures: int
    bytes_free: int


def estimate(out: Path, config: PointsConfig) -> DepthEstimate:
    """Count what a run would make, without writing anything.

    Raises:
        InputError: If there is no shard.
    """
    timesteps = pictures = 0
    paths = find_shards(out)
    for path in paths:
        with Shard(path) as shard:
            for _, t in left(path, config):
                timesteps += 1
                pictures += int(shard.valid[t].sum())
    return DepthEstimate(len(paths), timesteps, pictures, disk_usage(out).free)


def settings(config: PointsConfig) -> dict[str, Any]:
    """Return what fixes the result."""
    return to_dict(config)


def item(path: Path, timestep: int, config: PointsConfig) -> Path:
    """Return where the item of a timestep belongs: other settings, other folder."""
    text = json.dumps(settings(config), sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:10]
    return path.parent / WORK / path.stem / f"points-{mark}" / f"{timestep:06d}.npz"


def left(path: Path, config: PointsConfig) -> list[tuple[Path, int]]:
    """Return the timesteps of a shard that have no item."""
    with Shard(path) as shard:
        steps = range(shard.timesteps)
    return [(path, t) for t in steps if not item(path, t, config).exists()]


@dataclass
class Points:
    """Makes the depth of a timestep; the network is loaded when the first one comes."""

    config: PointsConfig
    device: str = "cpu"
    _source: PointMapSource | None = None
    _shard: Shard | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave network and file behind: a worker opens its own."""
        return {**self.__dict__, "_source": None, "_shard": None}

    def __call__(self, key: tuple[Path, int]) -> None:
        """Make the item of one timestep."""
        path, t = key
        if self._shard is None or self._shard.path != path:
            if self._shard is not None:
                self._shard.close()
            self._shard = Shard(path)
        shard, config = self._shard, self.config
        depth = [b""] * shard.views
        error = np.full(shard.views, np.nan, np.float32)
        dropped: dict[str, str] = {}
        views = [int(v) for v in np.flatnonzero(shard.valid[t])]
        if config.backend == "mesh":
            vertices, faces = triangles(shard, t, config.topology)
            for v in views:
                depth[v] = encode_depth(draw_depth(vertices, faces, shard.cameras(t)[v]))
            error[views] = 0.0
        else:
            if self._source is None:
                folder = Path(config.points) if config.points else None
                self._source = make_point_map_source(
                    config.backend, folder, config.weights, config.head, self.device
                )
            for group in groups(views, config.group):
                view = shard.read([(t, v) for v in group], shard.width)
                maps = self._source(view, shard.subject, t, group)
                fit = fit_group(maps, view, shard.landmarks(t).numpy(), config)
                if isinstance(fit, str):
                    dropped[f"{t:06d} views {','.join(map(str, group))}"] = fit
                    continue
                for i, v in enumerate(group):
                    depth[v] = encode_depth(view_depth(maps, i, view, fit, config))
                    error[v] = fit.residual
        pictures = {"depth": tuple(depth)}
        save_item(item(path, t, config), Item({"error": error}, pictures, dropped))


def groups(views: Sequence[int], max_size: int) -> list[list[int]]:
    """Part views into as few groups as fit, of even sizes, each spread over all directions."""
    count = -(-len(views) // max_size)
    return [list(views[i::count]) for i in range(count)]


def fit_group(
    maps: PointMaps, view: View, landmarks: Float[np.ndarray, "68 3"], config: PointsConfig
) -> Alignment | str:
    """Bring the point maps of a group to the head frame by its landmarks, or say why not.

    A landmark's point is read where the landmark projects to, in all views that look at the face
    from the front; those that something hides there are among the outliers.
    """
    known = np.isfinite(landmarks).all(1)
    if known.sum() < config.align.min_points:
        return f"only {known.sum()} landmarks are known"
    marks = torch.from_numpy(landmarks[known]).to(view.camera.K)
    towards = torch.nn.functional.normalize(view.camera.centers, dim=-1)[:, 2]
    height, width = maps.points.shape[1:3]
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for i in range(len(view)):
        if float(towards[i]) < config.min_frontal:
            continue
        pixels, depth = project(view.camera[i], marks)
        scale = np.array([width / view.camera.width, height / view.camera.height])
        place = np.floor(pixels.numpy() * scale).astype(int)
        inside = ((place >= 0) & (place < [width, height])).all(1) & (depth.numpy() > 0)
        cover = shrunk(view.alpha[i, 0].numpy(), height, width)
        x, y = place[inside].T
        sources.append(np.where(cover[y, x, None] > 0.5, maps.points[i, y, x], np.nan))
        targets.append(landmarks[known][inside])
    if not sources:
        return "no view looks at the face from the front"
    fit = align(np.concatenate(sources), np.concatenate(targets), config.align)
    if fit is None:
        return "too few landmarks agree on a transform"
    if fit.residual > config.max_residual:
        return f"aligned to {fit.residual:.1f} mm only"
    return fit


def view_depth(
    maps: PointMaps, i: int, view: View, fit: Alignment, config: PointsConfig
) -> Float32[np.ndarray, "h w"]:
    """Return the depth of one view in its own camera, metres; 0 where unknown.

    The points of neighbouring pixels are joined to triangles and drawn, so that the result has no
    holes where the camera of the network and that of the data set differ a little.
    """
    height, width = maps.points.shape[1:3]
    cover = shrunk(view.alpha[i, 0].numpy(), height, width)
    points = fit.similarity(maps.points[i].astype(np.float64))
    points[(cover < 0.5) | ~(maps.confidence[i] >= config.min_confidence)] = np.nan
    faces = grid_faces(height, width)
    corners = points.reshape(-1, 3)[faces]
    longest = np.max(np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1), axis=1)
    joined = longest < config.max_edge_m * 518 / width  # nan is not
    depth = draw_depth(points.reshape(-1, 3), faces[joined], view.camera[i])
    return np.where(view.alpha[i, 0].numpy() > 0.5, depth, 0).astype(np.float32)


def grid_faces(height: int, width: int) -> Int[np.ndarray, "m 3"]:
    """Return two triangles for each square of four neighbouring pixels."""
    number = np.arange(height * width).reshape(height, width)
    a, b = number[:-1, :-1].ravel(), number[:-1, 1:].ravel()
    c, d = number[1:, :-1].ravel(), number[1:, 1:].ravel()
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def triangles(
    shard: Shard, timestep: int, topology: str
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]]:
    """Return the tracked surface of a timestep.

    Raises:
        InputError: If the shard has no mesh, or one whose triangles are not known.
    """
    vertices = shard.vertices(timestep).numpy()
    if not len(vertices):
        raise InputError(f"{shard.path} has no mesh.", "Choose another backend.")
    if topology:
        path = Path(topology)
        faces = load_flame(path).faces.numpy() if path.suffix == ".npz" else read_obj_faces(path)
        if faces.max() >= len(vertices):
            raise InputError(
                f"{topology} is not of the mesh in {shard.path}, which has {len(vertices)} "
                "vertices.",
                "Give the topology of the data set's tracked mesh.",
            )
        return vertices, faces
    asset = load_asset()
    if len(vertices) == len(asset.mean):
        return (asset.smooth @ vertices).astype(np.float32), asset.skin.faces
    if len(vertices) == FLAME_VERTICES:
        return vertices, flame_faces(shard)
    raise ConfigError(
        f"The triangles of the mesh in {shard.path} ({len(vertices)} vertices) are not known.",
        "Give them: --topology face_topology.obj, as the data set's owner publishes it; or make "
        "the shards with --face, whose mesh is known.",
    )


def flame_faces(shard: Shard) -> Int[np.ndarray, "m 3"]:
    """Return the triangles of the converted FLAME model: all its versions have the same.

    Raises:
        MissingWeightsError: If no version is on this machine.
    """
    layouts = [shard.layout] if shard.layout in FLAME_FILES else list(FLAME_FILES)
    there = [layout for layout in FLAME_FILES if (home() / FLAME_FILES[layout]).is_file()]
    return head_model((there or layouts)[0]).faces


def put_in(path: Path, config: PointsConfig) -> dict[str, str]:
    """Write a shard again with its depth, and the report; return the groups that were left out."""
    dropped: dict[str, str] = {}
    errors: list[float] = []
    with Shard(path) as shard:
        for t in range(shard.timesteps):
            found = load_item(item(path, t, config), pictures=())
            dropped |= {f"{path.stem} {group}": why for group, why in found.dropped.items()}
            errors += [round(float(e), 4) for e in found.arrays["error"] if np.isfinite(e)]
        report: Mapping[str, Any] = {"left_out": dropped, "residual_mm": errors}
        text = json.dumps(report, indent=1, sort_keys=True)
        target = path.parent / "reports" / f"{path.stem}.points.json"
        write_text(target, text)
        header = shard.header()
        facts = {**header.provenance, "points": settings(config)}
        write_timesteps(path, replace(header, provenance=facts), _timesteps(shard, config))
    return dropped


def _timesteps(shard: Shard, config: PointsConfig) -> Iterator[ShardTimestep]:
    for t in range(shard.timesteps):
        found = load_item(item(shard.path, t, config))
        yield replace(
            shard.read_timestep(t), depth=found.pictures["depth"], depth_error=found.arrays["error"]
        )

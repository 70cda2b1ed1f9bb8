"""Check of prepared shards, and a page a subject for the eye.

Numbers first: checksum, ranges, whether landmarks fall on the head in every view, and whether the
codes move the features that they name. Then pictures: a sheet of crops with landmarks and mesh,
mattes and depth; a page with the sheet, residuals and what was dropped.

Letters: t timesteps, v views.
"""

from __future__ import annotations

import html
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int
from PIL import Image, ImageDraw

from pipeline.core.errors import FormatError, InputError, LayoutError, MissingWeightsError
from pipeline.core.geometry import project
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import JAW, matrix_from_rot6d
from pipeline.io.meshes import mesh_faults, write_mesh
from pipeline.prep.items import read_reasons
from pipeline.shards import sampling
from pipeline.shards.reader import Shard, find_shards
from pipeline.shards.sampling import SamplingConfig
from pipeline.shards.schema import PICTURES, TIMED
from pipeline.system.files import inside, write_text, write_whole
from pipeline.system.progress import Progress, silent

ON_HEAD = 0.8
"""Share of landmarks that must fall on the matte; in profile a few stand on its edge."""
LEAST = SamplingConfig(inputs=1, targets=1)
"""What any training needs: a picture of one timestep, and another of the same sentence."""
SIDE, ROWS = 256, 8
"""Of a picture on the sheet, pixels; and how many views it shows."""


@dataclass
class Check:
    """What was found about one shard."""

    name: str
    problems: list[str] = field(default_factory=list[str])
    facts: dict[str, float | int | str] = field(default_factory=dict[str, "float | int | str"])
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    doubted: dict[str, str] = field(default_factory=dict[str, str])
    """Views that were kept, though something about them does not fit."""


def run(out: Path, progress: Progress = silent) -> list[Check]:
    """Check all shards of a folder; write OUT/qa/<subject>.png, .html, and the head as .glb.

    Raises:
        InputError: If there is no shard.
    """
    found = find_shards(out)
    checks: list[Check] = []
    for i, path in enumerate(found):
        check = Check(path.stem, dropped=_dropped(out, path.stem))
        check.doubted |= _reported(out / "reports" / f"{path.stem}.json", "doubted_views")
        checks.append(check)
        try:
            with Shard(path) as shard:
                _examine(shard, check)
                _write_page(out / "qa", shard, check)
                found_mesh = neutral_surface(shard)
                if found_mesh is not None:
                    write_mesh(inside(out / "qa", f"{path.stem}.glb"), *found_mesh)
        except FormatError as error:
            check.problems.append(error.problem)
        progress(i + 1, len(found))
    return checks


def _examine(shard: Shard, check: Check) -> None:
    shard.verify()
    check.facts |= {
        "timesteps": shard.timesteps,
        "views": shard.views,
        "views there": int(shard.valid.sum()),
        "codes there": int(shard.coded.sum()),
        "layout": shard.layout,
    }
    pairs = [(int(t), int(v)) for t, v in np.argwhere(shard.valid)]
    if not pairs:
        check.problems.append("no view is there")
    try:
        sampling.check(shard, LEAST)
    except InputError as error:
        check.problems.append(f"it cannot be trained on: {error.problem.removesuffix('.')}")
    shares: list[float] = []
    for t in range(shard.timesteps):
        _ranges(shard, t, check)
    for t, v in pairs:
        points = shard.landmarks(t)
        known = torch.isfinite(points).all(-1)
        if not known.any():
            continue
        alpha = shard.read([(t, v)], shard.width).alpha[0, 0]
        pixels = project(shard.cameras(t)[v], points[known])[0]
        x, y = pixels.floor().long().unbind(-1)
        inside = (x >= 0) & (y >= 0) & (x < shard.width) & (y < shard.height)
        on = torch.zeros(len(x))
        on[inside] = (alpha[y[inside], x[inside]] > 0.5).float()
        shares.append(float(on.mean()))
        if shares[-1] < ON_HEAD:
            check.problems.append(
                f"timestep {t}, view {v}: only {shares[-1]:.0%} of the landmarks fall on the head"
            )
    if shares:
        check.facts["landmarks on the head"] = round(float(np.mean(shares)), 4)
    _features(shard, check)
    _mesh(shard, check)


def _mesh(shard: Shard, check: Check) -> None:
    """Look at the triangles of the person's neutral mesh, where they are known."""
    found = neutral_surface(shard)
    if found is not None:
        check.problems += [f"the neutral mesh: {fault}" for fault in mesh_faults(*found)]


def neutral_surface(
    shard: Shard,
) -> tuple[Float32[np.ndarray, "n 3"], Int[np.ndarray, "m 3"]] | None:
    """Return vertices and triangles of the person's neutral head; None if they are not known."""
    neutral = shard.neutral
    if neutral is None or importlib.util.find_spec("trimesh") is None:
        return None
    try:
        head = head_model(shard.layout)
    except (LayoutError, MissingWeightsError):
        return None
    if head.topology != shard.topology:
        return None
    return head.surface(neutral, neutral), head.faces


def _ranges(shard: Shard, t: int, check: Check) -> None:
    shard_timestep = shard.read_timestep(t)
    for name, kind in TIMED.items():
        if name in PICTURES:
            continue
        values = np.asarray(getattr(shard_timestep, name), np.float64)
        wrong = ~((values >= kind.low) & (values <= kind.high))
        if kind.unknown:
            wrong &= ~np.isnan(values)
        if wrong.any():
            check.problems.append(f"timestep {t}: {name} is out of its range ({kind.unit})")


def _features(shard: Shard, check: Check) -> None:
    """Compare the jaw of the codes with the opening of the lips, where both are known."""
    jaws: list[float] = []
    gaps: list[float] = []
    for t in np.flatnonzero(shard.coded).tolist():
        points = shard.landmarks(t)
        if torch.isfinite(points).all():
            R = matrix_from_rot6d(shard.code(t).values[JAW].double())
            jaws.append(float(torch.atan2(R[2, 1], R[2, 2])))
            gaps.append(float(points[62, 1] - points[66, 1]))
    if len(jaws) < 4 or np.ptp(jaws) < 0.05 or np.ptp(gaps) < 0.003:
        return  # a mouth that hardly opens says nothing
    agreement = float(np.corrcoef(jaws, gaps)[0, 1])
    check.facts["jaw of the code against the lips' opening"] = round(agreement, 3)
    if agreement < 0.3:
        check.problems.append(
            f"the code's jaw does not open the mouth (correlation {agreement:.2f})"
        )


def _dropped(out: Path, name: str) -> dict[str, str]:
    report, points = (inside(out / "reports", f"{name}{end}") for end in (".json", ".points.json"))
    gone = _reported(report, "dropped_timesteps", "dropped_views", "missing")
    return gone | _reported(points, "left_out")


def _reported(file: Path, *keys: str) -> dict[str, str]:
    """Return parts of a report; nothing if there is none."""
    try:
        return read_reasons(file, *keys)
    except (InputError, FormatError):
        return {}


def sheet(shard: Shard) -> Image.Image:
    """Draw some views: crop with landmarks (red) and mesh (blue), matte, depth."""
    pairs = [(int(t), int(v)) for t, v in np.argwhere(shard.valid)]
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(ROWS, len(pairs))).astype(int)]
    canvas = Image.new("RGB", (3 * SIDE, max(len(chosen), 1) * SIDE), "white")
    scale = SIDE / shard.width
    for row, (t, v) in enumerate(chosen):
        view = shard.read([(t, v)], shard.width)[0]
        rgb = _picture(view.image.permute(1, 2, 0).numpy())
        draw = ImageDraw.Draw(rgb)
        mesh = shard.vertices(t)
        for points, colour, size in (
            (mesh[:: max(len(mesh) // 1200, 1)], "dodgerblue", 0.5),
            (shard.landmarks(t), "red", 1.0),
        ):
            points = points[torch.isfinite(points).all(-1)]
            if len(points):
                spots = project(view.camera, points)[0].double().numpy() * scale
                for x, y in spots.tolist():
                    draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        draw.text((4.0, 4.0), f"timestep {t}, view {v}", fill="black")
        depth = shard.depth([(t, v)], shard.width)[0, 0].numpy()
        pictures = (rgb, _picture(view.alpha[0].numpy()), _picture(_shown(depth)))
        for column, picture in enumerate(pictures):
            canvas.paste(picture, (column * SIDE, row * SIDE))
    return canvas


def _shown(depth: np.ndarray) -> np.ndarray:
    known = depth > 0
    if not known.any():
        return np.zeros_like(depth)
    low, high = np.percentile(depth[known], [1, 99])
    near = 1 - 0.8 * np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
    return np.where(known, near, 0)


def _picture(values: np.ndarray) -> Image.Image:
    bytes_ = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(bytes_).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _write_page(folder: Path, shard: Shard, check: Check) -> None:
    picture = sheet(shard)
    target = folder / f"{check.name}.png"
    write_whole(target, lambda part: picture.save(part, "PNG"))
    errors = np.concatenate([shard.depth_error(t) for t in range(shard.timesteps)])
    errors = errors[np.isfinite(errors) & (errors > 0)]
    rows = [f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in check.facts.items()]
    parts = [
        "<!doctype html><meta charset=utf-8>",
        f"<title>{html.escape(check.name)}</title><h1>{html.escape(check.name)}</h1>",
        "<table>", *rows, "</table>",
        "<h2>Problems</h2>", _list(check.problems),
        "<h2>Depth residuals, mm</h2>", _histogram(errors),
        f"<h2>Dropped ({len(check.dropped)})</h2>",
        _list([f"{name}: {why}" for name, why in check.dropped.items()]),
        f"<h2>Kept in doubt ({len(check.doubted)})</h2>",
        _list([f"{name}: {why}" for name, why in check.doubted.items()]),
        "<h2>Crops with landmarks and mesh, mattes, depth</h2>",
        f'<img src="{html.escape(target.name)}">',
    ]  # fmt: skip
    write_text(folder / f"{check.name}.html", "\n".join(parts))


def _list(lines: list[str]) -> str:
    if not lines:
        return "<p>None."
    return "<ul>" + "".join(f"<li>{html.escape(line)}" for line in lines) + "</ul>"


def _histogram(values: np.ndarray) -> str:
    if not len(values):
        return "<p>No depth was placed."
    counts, edges = np.histogram(values, bins=12)
    bars = [
        f"{low:6.2f} - {high:6.2f}  {'#' * int(np.ceil(40 * n / counts.max()))} {n}"
        for n, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist())
    ]
    return "<pre>" + "\n".join(bars) + "</pre>"

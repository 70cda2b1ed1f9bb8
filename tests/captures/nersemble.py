"""Write NeRSemble captures in each layout, from the same studio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from pipeline.core.srgb import encode, linearize
from pipeline.io.video import write_mp4
from tests.captures.studio import Studio, over

SERIALS = ("222200037", "222200036", "221501007")
SEQUENCES = ("EMO-1-shout+laugh", "SEN-07-fond_note_fried")
AFFINE = np.array([[1.1, 0.05, 0, 0.01], [0, 0.95, 0.02, -0.01], [0.03, 0, 1.2, 0]])
CHEUNG4 = np.array([[1.2, 0, 0.1, 0.01], [0, 0.9, 0, 0], [0.05, 0, 1.3, 0.0]])
"""Maps R, G, B, 1 in linear light."""


def raw_of_affine(rgb: np.ndarray) -> np.ndarray:
    """Undo rgb A[:3, :3] + A[:3, 3]."""
    x = (rgb / 255.0 - AFFINE[:, 3]) @ np.linalg.inv(AFFINE[:, :3])
    return np.round(255 * x.clip(0, 1)).astype(np.uint8)


def raw_of_cheung(rgb: np.ndarray) -> np.ndarray:
    light = (np.asarray(linearize(rgb / 255.0)) - CHEUNG4[:, 3]) @ np.linalg.inv(CHEUNG4[:, :3]).T
    return np.round(255 * np.asarray(encode(light.clip(0, 1)))).astype(np.uint8)


def calibration(studio: Studio, *, each: bool = False) -> dict[str, object]:
    scale = np.array([[2200 / studio.rig.width], [3208 / studio.rig.height], [1]])
    E = {s: studio.rig.world_to_camera[i].tolist() for i, s in enumerate(SERIALS)}
    K = [(scale * studio.rig.K[i].numpy()).tolist() for i in range(len(SERIALS))]
    if each:  # the benchmark's are for its own pictures
        stored: object = {s: studio.rig.K[i].tolist() for i, s in enumerate(SERIALS)}
    else:
        stored = K[0]
    return {"world_2_cam": E, "intrinsics": stored}


def video(path: Path, pictures: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, pictures, 73)


def pictures(studio: Studio, i: int) -> list[np.ndarray]:
    return [over(row[i]) for row in studio.frames]


def write_v2(root: Path, studio: Studio, name: str = "074") -> Path:
    """The last camera's second video broke off; the last camera has no first video."""
    out = root / name
    (out / "calibration").mkdir(parents=True)
    (out / "calibration/camera_params.json").write_text(json.dumps(calibration(studio)))
    table = {serial: CHEUNG4.tolist() for serial in SERIALS}
    (out / "calibration/color_calibration.json").write_text(json.dumps(table))
    for i, serial in enumerate(SERIALS):
        shots = [raw_of_cheung(p) for p in pictures(studio, i)]
        if i < 2:
            video(out / f"sequences/{SEQUENCES[0]}/images/cam_{serial}.mp4", shots)
        video(out / f"sequences/{SEQUENCES[1]}/images/cam_{serial}.mp4", shots[:3])
    broken = out / f"sequences/{SEQUENCES[1]}/images/cam_{SERIALS[2]}.mp4"
    broken.write_bytes(broken.read_bytes()[:600])
    (out / "sequences/BACKGROUND").mkdir()
    Image.new("RGB", (110, 160), (90, 120, 100)).save(
        out / f"sequences/BACKGROUND/image_{SERIALS[0]}.jpg"
    )
    return out


def write_v1(root: Path, studio: Studio) -> Path:
    """The full first version; its calibration folder has an id that is not padded."""
    (root / "camera_params/74").mkdir(parents=True)
    (root / "camera_params/74/camera_params.json").write_text(json.dumps(calibration(studio)))
    (root / "color_correction/074").mkdir(parents=True)
    for i, serial in enumerate(SERIALS):
        np.save(root / f"color_correction/074/{serial}.npy", AFFINE)
        shots = [raw_of_affine(p) for p in pictures(studio, i)]
        video(root / f"074/{SEQUENCES[0]}/cam_{serial}.mp4", shots)
    return root / "074"


def write_zips(root: Path, studio: Studio, *, documented: bool = False) -> Path:
    """What the zips of the paper hold, with the folder names of the code or of its docs."""
    out = root / "074"
    out.mkdir()
    (out / "camera_params.json").write_text(json.dumps(calibration(studio)))
    ending = "" if documented else "-73fps"
    for t, row in enumerate(studio.frames):
        frame = out / f"sequences/{SEQUENCES[0]}/frame_{3 * t:05d}"
        for part in (f"images-2x{ending}", f"alpha_map{ending}"):
            (frame / part).mkdir(parents=True)
        for i, serial in enumerate(SERIALS):
            picture = Image.fromarray(raw_of_affine(over(row[i])))
            if (t, i) != (1, 2):
                picture.save(frame / f"images-2x{ending}/cam_{serial}.png")
            matte = Image.fromarray(row[i].alpha)
            matte.save(frame / f"alpha_map{ending}/cam_{serial}.png")
    folder = out / f"annotations/{SEQUENCES[0]}/color_correction"
    folder.mkdir(parents=True)
    for serial in SERIALS:
        np.save(folder / f"{serial}.npy", np.vstack([AFFINE, [0, 0, 0, 1]]))
    return out


def write_benchmark(root: Path, studio: Studio) -> Path:
    """A K for each camera, black backgrounds, mattes as videos, a FLAME 2023 tracking."""
    out = root / "393"
    (out / "calibration").mkdir(parents=True)
    text = json.dumps(calibration(studio, each=True))
    (out / "calibration/camera_params.json").write_text(text)
    sequence = out / f"sequences/{SEQUENCES[0]}"
    for i, serial in enumerate(SERIALS):
        shots = [row[i] for row in studio.frames]
        video(sequence / f"images/cam_{serial}.mp4", [over(s, (0, 0, 0)) for s in shots])
        mattes = [np.repeat(s.alpha[..., None], 3, -1) for s in shots]
        video(sequence / f"alpha_maps/cam_{serial}.mp4", mattes)
    (sequence / "tracking").mkdir()
    np.savez(sequence / "tracking/flame2023_tracking_v2.npz", **tracking(studio))
    return out


def tracking(studio: Studio) -> dict[str, np.ndarray]:
    t = len(studio.frames)
    R = studio.head_to_world[:, :3, :3]
    rng = np.random.default_rng(1)
    return {
        "shape": rng.normal(size=(1, 300)),
        "expression": rng.normal(size=(t, 100)),
        "rotation": Rotation.from_matrix(R).as_euler("XYZ"),
        "rotation_matrices": R,
        "translation": studio.head_to_world[:, :3, 3],
        "jaw": np.tile([0.2, 0, 0], (t, 1)),
        "frames": np.arange(t),
        "scale": np.ones((1, 1)),
        "neck": np.zeros((t, 3)),
        "eyes": np.zeros((t, 6)),
    }


def write_vhap_stills(sequence: Path, studio: Studio) -> None:
    """What VHAP leaves beside a video: smaller pictures and mattes, from frame 1 on."""
    for part in ("images_2", "alpha_maps"):
        (sequence / part).mkdir()
    for t, row in enumerate(studio.frames[1:], 1):
        for i, serial in enumerate(SERIALS):
            half = (studio.rig.width // 2, studio.rig.height // 2)
            picture = Image.fromarray(raw_of_affine(over(row[i]))).resize(half)
            picture.save(sequence / f"images_2/cam_{serial}_{t:05d}.jpg", quality=95)
            Image.fromarray(row[i].alpha).save(sequence / f"alpha_maps/cam_{serial}_{t:05d}.jpg")

"""Reduce the HDRIs of an npm package to the light that a face sees. For developers.

    npm pack @pmndrs/assets@1.7.0 && tar xzf pmndrs-assets-1.7.0.tgz
    pip install OpenEXR
    python tools/build_lights.py package/hdri pipeline/assets/lights/lights.json

The pictures are CC0 (Poly Haven; @pmndrs/assets gives them on under CC0). Of each, the light that a
white surface returns is fitted, for all of its directions, by what `pipeline.synthetic.shading`
draws with: an ambient light from above and below, and a few wide lights.
"""

import argparse
import base64
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from pipeline.synthetic.shading import WRAP

LIGHTS = 5
"""That are kept of each picture."""
CANDIDATES, NORMALS = 92, 600


def main() -> None:
    """Read the pictures, write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    found = {
        path.name.partition(".")[0]: reduce(path)
        for path in sorted(arguments.pictures.glob("*.exr.js"))
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    for name, light in found.items():
        print(f"{name:12} error {light['error']:.3f} of the mean light")


def reduce(path: Path) -> dict[str, object]:
    """Return the fitted light of one picture, its mean brightness 1."""
    source = path.read_bytes()
    encoded = source.decode().partition("base64,")[2].partition("'")[0]
    radiance, directions, weights = _sphere(_read(base64.b64decode(encoded)))
    normals = _spread(NORMALS)
    cosines = np.clip(normals @ directions.T, 0, None)
    received = (cosines * weights) @ radiance / np.pi
    received = received / received.mean()
    lights = _spread(CANDIDATES)
    sky = 0.5 + 0.5 * normals[:, 1:2]
    shaded = np.clip((normals @ lights.T + WRAP) / (1 + WRAP), 0, None)
    # First all candidates, then again those that give most.
    first = nnls(np.hstack([sky, 1 - sky, shaded]), received.mean(1))[0][2:]
    kept = np.sort(np.argsort(-first)[:LIGHTS])
    basis = np.hstack([sky, 1 - sky, shaded[:, kept]])
    fitted = np.stack([nnls(basis, received[:, c])[0] for c in range(3)], axis=1)
    error = float(np.sqrt(((basis @ fitted - received) ** 2).mean()))
    return {
        "directions": lights[kept].round(4).tolist(),
        "colors": fitted[2:].round(4).tolist(),
        "upper": fitted[0].round(4).tolist(),
        "lower": fitted[1].round(4).tolist(),
        "error": round(error, 4),
        "sha256": hashlib.sha256(source).hexdigest(),
    }


def _read(data: bytes) -> np.ndarray:
    """Return linear RGB [h, w, 3], the longitude along the width, up at the top."""
    import OpenEXR

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        pixels = OpenEXR.File(file.name).channels()["RGB"].pixels
    return np.nan_to_num(pixels.astype(np.float64), posinf=6e4).clip(0)


def _sphere(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return radiance, directions (y up) and solid angles of a picture's pixels."""
    h, w = picture.shape[:2]
    latitude = np.pi * (0.5 - (np.arange(h) + 0.5) / h)
    longitude = 2 * np.pi * (np.arange(w) + 0.5) / w
    up, around = np.meshgrid(latitude, longitude, indexing="ij")
    directions = np.stack(
        [np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)], axis=-1
    )
    weights = np.cos(up) * (np.pi / h) * (2 * np.pi / w)
    return picture.reshape(-1, 3), directions.reshape(-1, 3), weights.ravel()


def _spread(count: int) -> np.ndarray:
    """Return unit vectors evenly spread over the sphere (a Fibonacci spiral)."""
    k = np.arange(count) + 0.5
    up, around = 1 - 2 * k / count, np.pi * (1 + np.sqrt(5)) * k
    level = np.sqrt(1 - up**2)
    return np.stack([level * np.cos(around), up, level * np.sin(around)], axis=-1)


if __name__ == "__main__":
    main()

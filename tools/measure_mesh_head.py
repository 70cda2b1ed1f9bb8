"""Measure where the face mesh sees the landmarks of the average head; print MESH_HEAD.

The iBUG points of the head model and those of the face mesh are not the same points of a face.
Heads whose every camera is known tell the difference: their landmarks are triangulated from
what the detector finds. Run it again when the head frame, the average head or the detector
changes.
"""

# pyright: basic
import sys

import numpy as np

from pipeline.faces.makehuman import mean_landmarks
from pipeline.perception.landmarks import MIRROR, MeshDetector
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.subject import Subject

PEOPLE, VIEWS, SIZE = 40, 8, 320


def main() -> None:
    """Print millimetres in the head frame, one row of (x, y, z) each."""
    detector = MeshDetector()
    differences: list[np.ndarray] = []
    for person in range(PEOPLE):
        subject = Subject.sample(900_000 + person)
        cameras = sample_cameras(np.random.default_rng(person), 1, VIEWS, SIZE)[0]
        frames = subject.render_views(np.zeros(52, np.float32), cameras, supersample=1)
        seen = [(i, detector(frame.rgb)) for i, frame in enumerate(frames)]
        P = (cameras.K @ cameras.world_to_camera[:, :3]).double().numpy()
        rows = [(P[i], faces[0].landmarks) for i, faces in seen if faces]
        if len(rows) >= 4:
            matrices, pixels = (np.stack(part) for part in zip(*rows, strict=True))
            found = [triangulate(matrices, pixels[:, n]) for n in range(68)]
            differences.append(np.stack(found) - frames[0].landmarks)
    middle = np.median(differences, axis=0)
    points = mean_landmarks() + middle
    even = (points + points[MIRROR] * [-1, 1, 1]) / 2
    for row in (even * 1000).round().astype(int).tolist():
        sys.stdout.write(f"{tuple(row)},\n")


def triangulate(P: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the point with the least sum of (not squared) pixel distances."""
    weight, point = np.ones(len(P)), np.zeros(3)
    for _ in range(10):
        A = np.concatenate([pixels[:, i, None] * P[:, 2] - P[:, i] for i in range(2)])
        A = A * np.tile(weight, 2)[:, None]
        point = np.linalg.lstsq(A[:, :3], -A[:, 3], rcond=None)[0]
        h = P @ np.append(point, 1)
        weight = 1 / np.maximum(np.linalg.norm(h[:, :2] / h[:, 2:] - pixels, axis=1), 1)
    return point


if __name__ == "__main__":
    main()

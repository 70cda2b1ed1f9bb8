"""Files of tracked heads: npz of plain arrays, which is also a sequence of expressions.

codes [m, 120], layout, fps         as `pipeline.expressions.sequences` reads them
world_to_camera [m, 4, 4], K [m, 3, 3], size (width, height)
                                    of each frame, from the head frame, metres and pixels
frames [m]                          numbers of the frames in the video; others show no face
identity [k], neutral [n, 3]        the person's numbers, and its mesh at rest, head frame, metres;
                                    a frame's mesh is the head model's, posed by its code
topology                            which head model that is, see `pipeline.faces.heads`
error_px [m], misfit [m]            distance to what was seen: in pixels, and in its own sigmas
cuts                                numbers of frames that begin another shot
format, version                     fastgha-track, 1

Letters: m frames, n vertices, k numbers of identity.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64

from pipeline.core.errors import FormatError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.system.files import require_file, write_whole
from pipeline.tracking.tracker import TrackedHead

FORMAT, VERSION = "fastgha-track", 1


@dataclass(frozen=True)
class TrackFile:
    """A head tracked through a video."""

    codes: ExpressionCode
    """[m, 120]"""
    cameras: Camera
    """[m], from the head frame."""
    frames: Int64[np.ndarray, "m"]
    neutral: Float32[np.ndarray, "n 3"]
    error_px: Float32[np.ndarray, "m"]
    fps: float

    def mesh(self) -> TrackedMesh:
        """Return the mesh of every frame."""
        model = head_model(self.codes.layout)
        posed = [model.posed(self.neutral, self.codes[i]) for i in range(len(self.codes))]
        return TrackedMesh(self.codes.layout, self.neutral, np.stack(posed))


def write_track(
    path: Path, head: TrackedHead, frames: list[int], cuts: list[int], fps: float
) -> None:
    """Write a tracked head whole."""
    cameras = head.bundle.cameras
    arrays = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "codes": head.codes.values.numpy().astype(np.float32),
        "layout": np.array(head.codes.layout),
        "topology": np.array(head.topology),
        "fps": np.array(fps, np.float32),
        "frames": np.array(frames, np.int64),
        "cuts": np.array(cuts, np.int64),
        "identity": head.identity.astype(np.float32),
        "neutral": head.mesh.neutral,
        "world_to_camera": torch.stack([c.world_to_camera for c in cameras]).numpy(),
        "K": torch.stack([c.K for c in cameras]).numpy(),
        "size": np.array([cameras[0].width, cameras[0].height]),
        "error_px": head.bundle.errors.astype(np.float32),
        "misfit": head.bundle.misfit.astype(np.float32),
    }

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_whole(path, write)


def read_track(path: Path) -> TrackFile:
    """Read a tracked head.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not one of ours, of another version, or of another head model.
    """
    require_file(path, "a tracking (.npz)")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if str(arrays["format"]) != FORMAT or int(arrays["version"]) != VERSION:
            raise ValueError("format")
        layout = str(arrays["layout"])
        width, height = (int(n) for n in arrays["size"])
        found = TrackFile(
            ExpressionCode(torch.from_numpy(arrays["codes"]), layout),
            Camera(
                torch.from_numpy(arrays["world_to_camera"]),
                torch.from_numpy(arrays["K"]),
                width,
                height,
            ),
            arrays["frames"],
            arrays["neutral"],
            arrays["error_px"],
            float(arrays["fps"]),
        )
        topology = str(arrays["topology"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} is not a tracking of ours.", "Make it with `fastgha prep track-video`."
        ) from error
    if topology != head_model(layout).topology:
        raise FormatError(f"{path} was tracked with another head model.", "Track the video again.")
    return found

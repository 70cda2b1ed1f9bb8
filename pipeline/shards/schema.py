"""The shard format: one HDF5 file a subject, described by one table.

Letters: t timesteps, v views, n mesh vertices, b bytes.

A picture is encoded, and lies in the dataset `bytes` [b]; the dataset of its name, uint64 [t v 2],
says where it starts and how long it is. Length 0: there is none. The pictures of one view of one
timestep lie side by side. A view without an `rgb` picture is missing: its camera is a placeholder.

Attributes of the file: `format`, `version`, `subject`, `layout` (of the codes), `topology` (which
mesh `vertices` and `neutral` are, as the head model of the layout names it; empty if unknown),
`split` (train or test; empty if the data set has no held-out people, absent in older files),
`width`, `height`, `provenance` (JSON: settings and upstream digest), `checksum` (SHA-256 over the
SHA-256 of each field in the order of the table, pictures in the order of their place in the table).

Version 1 had no missing views, pictures as variable-length bytes, and a checksum over all at once;
version 2 no neutral mesh and no topology. Both are still read.
"""

from dataclasses import dataclass
from typing import Literal

Split = Literal["", "train", "test"]
"""Whether a person is trained on, or held out to be measured; empty if nobody said so."""
SPLITS: dict[str, Split] = {"train": "train", "test": "test"}

FORMAT = "fastgha-shard"
VERSION = 3
"""Raised by one when a field changes meaning; a reader refuses versions it does not know."""
READABLE = (1, 2, 3)

DEPTH_UNIT = 1e-4
"""Metres of one step of a stored depth picture."""


@dataclass(frozen=True)
class Field:
    """One array of a shard."""

    dtype: str
    """`picture` is an encoded picture in its own bytes, so one view is read by itself."""
    shape: str
    """Letters are shared between fields: the same letter is the same size."""
    unit: str
    low: float = float("-inf")
    high: float = float("inf")
    channels: int = 0
    """Of pictures."""
    unknown: bool = False
    """Whether nan stands for a number that nobody knows."""
    since: int = 1
    """First version that has it."""


FIELDS = {
    "rgb": Field("picture", "t v", "sRGB on white, 8 bit, JPEG or PNG", 0, 255, channels=3),
    "alpha": Field("picture", "t v", "coverage, 8 bit, PNG", 0, 255, channels=1),
    "depth": Field("picture", "t v", "0.1 mm along z, 0 unknown, 16 bit, PNG", 0, 65535, 1),
    "world_to_camera": Field("float32", "t v 4 4", "OpenCV, head frame, metres", -100, 100),
    "K": Field("float32", "t v 3 3", "pixels of the stored picture", -1e5, 1e5),
    "code": Field(
        "float32", "t 120", "expression code of the file's layout", -50, 50, unknown=True
    ),
    "sentence": Field("int32", "t", "timesteps with one number belong together", 0, 2**31 - 1),
    "landmarks": Field("float32", "t 68 3", "iBUG order, head frame, metres", -2, 2, unknown=True),
    "vertices": Field("float32", "t n 3", "face mesh, head frame, metres; n may be 0", -2, 2),
    "depth_error": Field(
        "float32", "t v", "mm, rms of the depth's alignment", 0, 1e4, unknown=True, since=2
    ),
    "neutral": Field(
        "float32", "n 3", "the person's neutral mesh, as vertices", -2, 2, unknown=True, since=3
    ),
}
TIMED = {name: field for name, field in FIELDS.items() if field.shape.startswith("t")}
"""Fields that have a row for each timestep."""
PICTURES = tuple(name for name, field in FIELDS.items() if field.dtype == "picture")

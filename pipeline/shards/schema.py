"""The shard format: one HDF5 file a subject, described by one table.

Letters: t timesteps, v views, n mesh vertices.

Attributes of the file: `format`, `version`, `subject`, `layout` (of the codes), `width`,
`height`, `provenance` (JSON: settings and upstream digest), `checksum` (SHA-256 over all
fields in the order of the table).
"""

from dataclasses import dataclass

FORMAT = "fastgha-shard"
VERSION = 1
"""Raised by one when a field changes meaning; a reader refuses every other version."""

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


FIELDS = {
    "rgb": Field("picture", "t v", "sRGB on white, 8 bit, JPEG or PNG", 0, 255, channels=3),
    "alpha": Field("picture", "t v", "coverage, 8 bit, PNG", 0, 255, channels=1),
    "depth": Field("picture", "t v", "0.1 mm along z, 0 unknown, 16 bit, PNG", 0, 65535, 1),
    "world_to_camera": Field("float32", "t v 4 4", "OpenCV, head frame, metres", -100, 100),
    "K": Field("float32", "t v 3 3", "pixels of the stored picture", -1e5, 1e5),
    "code": Field("float32", "t 120", "expression code of the file's layout", -50, 50),
    "sentence": Field("int32", "t", "timesteps with one number belong together", 0, 2**31 - 1),
    "landmarks": Field("float32", "t 68 3", "iBUG order, head frame, metres", -2, 2),
    "vertices": Field("float32", "t n 3", "face mesh, head frame, metres; n may be 0", -2, 2),
}

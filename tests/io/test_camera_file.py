import json
from pathlib import Path

import pytest

from pipeline.core.errors import FormatError, InputError
from pipeline.io.camera_file import read_cameras

EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
CAMERA = {"world_to_camera": EYE, "K": [[100, 0, 32], [0, 100, 32], [0, 0, 1]]}


def write(folder: Path, **more: object) -> Path:
    path = folder / "cameras.json"
    path.write_text(json.dumps({"width": 64, "height": 64, "cameras": [CAMERA, CAMERA], **more}))
    return path


def test_cameras_are_of_the_head_frame_and_a_head_in_a_world_is_still(tmp_path: Path):
    plain = read_cameras(write(tmp_path))
    assert (len(plain.cameras), plain.frame, plain.static) == (2, "head", True)
    rig = read_cameras(write(tmp_path, frame="world", static=False))
    assert (rig.frame, rig.static) == ("world", False)


@pytest.mark.parametrize(
    "wrong", [{"frame": "room"}, {"static": 1}, {"cameras": []}, {"width": []}]
)
def test_what_is_no_file_of_cameras_is_refused(tmp_path: Path, wrong: dict[str, object]):
    with pytest.raises(FormatError, match="not a camera path"):
        read_cameras(write(tmp_path, **wrong))
    with pytest.raises(InputError):
        read_cameras(tmp_path / "none.json")

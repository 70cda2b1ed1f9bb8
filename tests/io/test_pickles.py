"""Pickles that lie, and pickles that grow, beside those that are what they say."""

import io
import pickle  # noqa: TID251  the tests write what the program must read
import pickletools
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.io.pickles import load_pickle

RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(1).__reduce__()[0]


class Says:
    """Pickles itself as a call and the state that follows."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def kind(name: str, *state: Any) -> Says:
    return Says(np.dtype, (name, False, True), (3, *state))


def array(of: Any, raw: Any, shape: tuple[int, ...] = (1,)) -> Says:
    return Says(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, of, False, raw))


NO_OBJECTS = kind("O8", "|", None, None, None, -1, -1, 0)
FAR = kind("V8", "|", None, ("a",), {"a": (np.dtype("f8"), 4096)}, 8, 1, 16)
HIDDEN = kind("V8", "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
LONG = kind("S1", "|", None, None, None, 100_000, 1, 0)
FORGED = {
    "objects that claim to be numbers": array(NO_OBJECTS, b"A" * 8),
    "a scalar of such": Says(SCALAR, (NO_OBJECTS, b"A" * 8)),
    "objects in a record of numbers": array(HIDDEN, b"A" * 8),
    "a field outside of its record": array(FAR, b"A" * 8),
    "a record": array(np.dtype([("a", "f8")]), b"A" * 8),
    "more bytes than it has": array(np.dtype("f8"), b"A" * 8, (1000,)),
    "fewer bytes than it has": array(np.dtype("f8"), b"A" * 16),
    "a size below nothing": array(np.dtype("f8"), b"A" * 8, (-1, -1)),
    "letters that do not exist": array(np.dtype("U1"), b"\xff" * 4),
    "a text's length in its state": Says(SCALAR, (LONG, b"A" * 100_000)),
    "dates": np.zeros(2, "M8[s]"),
    "a state for a number": Says(SCALAR, (np.dtype("f8"), b"A" * 8), (1, 2)),
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_forged_array_is_refused(what: str, protocol: int, tmp_path: Path):
    path = tmp_path / "forged.pkl"
    path.write_bytes(pickle.dumps({"a": FORGED[what]}, protocol))
    # In a process of its own: where it is believed, the process ends here or later.
    code = """
import sys
from pathlib import Path
from pipeline.core.errors import InputError
from pipeline.io.pickles import read_pickle
try:
    print("read", repr(read_pickle(Path(sys.argv[1])))[:200])
except InputError as error:
    print("refused", error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.startswith("refused"), (ran.returncode, ran.stdout)


def test_what_a_name_stands_for_cannot_be_changed():
    # BUILD on the function that stands for a name would set its attributes for all that follow.
    forged = b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb."
    with pytest.raises(InputError, match="change of what it names"):
        load_pickle(forged, "forged.pkl")


WHOLE = {
    "doubles": np.arange(6.0).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "another byte order": np.arange(5, dtype=">i4"),
    "bits": np.array([True, False]),
    "bytes": np.array([b"ab", b"c"]),
    "letters": np.array(["ab", "c\N{SNOWMAN}"]),
    "nothing": np.zeros((0, 3), np.float32),
    "no axis": np.array(3, np.uint16),
    "a number": np.float32(0.5),
    "a text": np.str_("abc"),
}


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_arrays_come_back_as_they_were(what: str, protocol: int):
    wanted: Any = WHOLE[what]
    found = load_pickle(pickle.dumps([wanted, wanted], protocol), "a.pkl")
    for one in found:
        assert type(one) is type(wanted)
        assert one.shape == wanted.shape and one.dtype == wanted.dtype
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64, torch.float16])
def test_a_tensor_becomes_an_array(kind: torch.dtype):
    wanted = torch.arange(12).reshape(3, 4).to(kind)[:, 1:].T
    found = load_pickle(pickle.dumps({"a": wanted}), "a.pkl")["a"]
    np.testing.assert_array_equal(found, wanted.numpy())


@pytest.mark.parametrize("what", ["fewer", "none listed"])
def test_a_tensor_without_its_numbers_is_refused(what: str):
    file = io.BytesIO()
    torch.save(  # noqa: TID251
        torch.arange(1000.0).untyped_storage(), file, _use_new_zipfile_serialization=False
    )
    whole = file.getvalue()
    file.seek(0)
    for _ in range(4):  # magic, version, system, storage; then the list of storages, and numbers
        list(pickletools.genops(file))
    forged = {"fewer": whole[:-4], "none listed": whole[: file.tell()] + pickle.dumps([], 2)}[what]
    load = torch.storage._load_from_bytes  # pyright: ignore[reportPrivateUsage]
    rebuild = torch._utils._rebuild_tensor_v2  # pyright: ignore
    forged_tensor = Says(rebuild, (Says(load, (forged,)), 0, (1000,), (1,), False, None))
    with pytest.raises(InputError):
        load_pickle(pickle.dumps(forged_tensor), "a.pkl")


def test_objects_in_an_array_are_a_list(tmp_path: Path):
    np.save(tmp_path / "a.npy", {"x": np.ones(3)})  # pyright: ignore
    found = load_pickle((tmp_path / "a.npy").read_bytes(), "a.npy")
    np.testing.assert_array_equal(found["x"], np.ones(3))
    many = np.empty(2, object)
    many[:] = [np.ones(2), "a"]
    found = load_pickle(pickle.dumps(many), "a.pkl")
    assert isinstance(found, list) and found[1] == "a"


def nested(inner: Any, wide: int, deep: int) -> Any:
    for _ in range(deep):
        inner = [inner] * wide
    return inner


BOMBS: dict[str, Any] = {
    "lists": nested([], 10, 7),
    "mappings": {str(i): nested({"a": 1}, 10, 5) for i in range(20)},
    "arrays": [np.zeros(10**5)] * 2000,
    "texts": [["a" * 10**5], *[""] * 10**5],
    "depth": b"]" * 500 + b"a" * 499 + b".",
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_small_file_that_stands_for_much_is_refused(what: str):
    bomb = BOMBS[what]
    data = bomb if isinstance(bomb, bytes) else pickle.dumps(bomb)
    assert len(data) < 2e6
    tracemalloc.start()
    with pytest.raises(InputError, match="more values|without end"):
        load_pickle(data, "bomb.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e7


def test_one_text_made_to_bytes_again_and_again_is_refused():
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x00"
    again = b"h\x00X\x06\x00\x00\x00latin1\x86R"
    data = b"\x80\x02]q\x02" + text + b"0c_codecs\nencode\nq\x010(" + (b"h\x01" + again) * 1000
    with pytest.raises(InputError, match="more memory"):
        load_pickle(data + b"e.", "bomb.pkl")


def test_a_number_of_the_memo_makes_no_room_for_all_before_it():
    with pytest.raises(InputError):
        load_pickle(b"\x80\x02]r\xff\xff\xff\x7f.", "bomb.pkl")


def test_what_is_shared_stays_shared():
    one = {"shape": np.ones(100)}
    found = load_pickle(pickle.dumps([one] * 1000), "a.pkl")
    assert len(found) == 1000 and found[0] is found[999]


def test_a_container_that_holds_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match="without end"):
        load_pickle(pickle.dumps(loop), "a.pkl")

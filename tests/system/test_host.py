"""One module knows the operating systems; the rest runs on any."""

from __future__ import annotations

import ast
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from pipeline.system import host

ROOT = Path(__file__).parents[2]
CODE = [ROOT / "fastgha.py"]
CODE += [
    path for top in ("pipeline", "fastgha_cli", "examples") for path in (ROOT / top).rglob("*.py")
]
HOST = ROOT / "pipeline" / "system" / "host.py"
MODULES = {"fcntl", "resource", "pwd", "grp", "pty", "termios", "tty", "syslog", "signal", "msvcrt",
           "winreg", "posix", "posixpath", "ntpath"}  # fmt: skip
MEMBERS = {
    "os": {"kill", "killpg", "fork", "forkpty", "setsid", "getuid", "geteuid", "getgid", "chmod",
           "chown", "mkfifo", "nice", "uname", "name", "sched_getaffinity", "sched_setaffinity",
           "startfile", "getloadavg", "statvfs", "symlink", "link"},
    "sys": {"platform", "getwindowsversion"},
    "platform": {"system", "uname", "win32_ver", "mac_ver"},
}  # fmt: skip
METHODS = {"symlink_to", "hardlink_to", "chmod", "lchmod"}
PLACE = re.compile(r"/(tmp|proc|dev|sys|etc|usr|var|home|opt|root)(/|$)")
TEXT = {"read_text": 0, "write_text": 1}
"""How many arguments come before the encoding."""


def strange(text: str) -> Generator[str]:
    """What in a module holds on some operating systems only."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.module
        elif isinstance(node, ast.ImportFrom) and node.module in MEMBERS:
            yield from (a.name for a in node.names if a.name in MEMBERS[node.module])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if PLACE.match(node.value):
                yield node.value
        elif isinstance(node, ast.Attribute):
            whose = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in MEMBERS.get(whose, set()) | METHODS - {whose}:
                yield f"{whose}.{node.attr}"
        elif isinstance(node, ast.Call) and not named(node):
            yield f"line {node.lineno}: text without its encoding"


def named(call: ast.Call) -> bool:
    """Whether a call that reads or writes text says in which encoding."""
    if not isinstance(call.func, ast.Attribute) or any(k.arg == "encoding" for k in call.keywords):
        return True
    mode = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else ""
    if call.func.attr == "open" and isinstance(mode, str) and re.fullmatch(r"[rwax]\+?t?", mode):
        return False
    return len(call.args) > TEXT.get(call.func.attr, -1) if call.func.attr in TEXT else True


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_but_one_depends_on_the_operating_system(path: Path):
    found = list(strange(path.read_text(encoding="utf-8")))
    assert (found == []) == (path != HOST), found


@pytest.mark.parametrize(
    "line",
    ["import fcntl", "from resource import getrusage", "import os\nos.kill(1, 9)",
     "from os import fork", "x = '/tmp/x'", "import sys\nsys.platform == 'win32'",
     "def f(p):\n    p.symlink_to('x')", "def f():\n    import signal", "p.read_text()",
     "p.write_text('x')", "p.open('w')"],
)  # fmt: skip
def test_what_holds_on_one_system_only_is_found(line: str):
    assert list(strange(line))


def test_what_holds_everywhere_is_not():
    text = "import os\nos.getpid()\np.read_text(encoding='utf-8')\np.open('rb')\nx = '/rgb'"
    assert list(strange(text)) == []


def test_a_process_lives_until_it_has_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert host.lives(process.pid) == (sys.platform != "win32")
        process.communicate(b"\n")
    assert not host.lives(process.pid) and not host.lives(10**10)


def test_a_file_is_copied_where_links_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a").write_bytes(b"x")
    host.link(tmp_path / "a", tmp_path / "b")

    def refused(*_: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    host.link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == b"x"
    assert not (tmp_path / "c").is_symlink()


def test_a_signal_is_told_by_its_name_and_left_as_it_was():
    import signal

    before = signal.getsignal(signal.SIGINT)
    came: list[str] = []
    with host.signals(host.STOPPED, came.append):
        signal.raise_signal(signal.SIGINT)
    assert came == ["SIGINT"] and signal.getsignal(signal.SIGINT) is before
    assert host.exit_code("SIGTERM") == 143


def test_a_signal_whose_error_a_callback_drops_is_told_again():
    class Stop(BaseException):
        pass

    def stop(_: str) -> None:
        raise Stop

    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0)

    before = sys.unraisablehook
    with pytest.raises(Stop), host.signals(("SIGTERM",), stop):
        callback()
        time.sleep(10)
    assert sys.unraisablehook is before


def test_the_processor_has_a_name():
    assert host.cpu_name().strip()

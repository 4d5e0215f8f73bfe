"""What the code that builds a seed was given, of pytest's own requests."""

import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import os
import re
import subprocess
import sys
import time
import types
import uuid
from pathlib import Path

import pytest

from velo._code import _is_newer, code_of


class Small:
    pass


class Big:
    pass


class Size(enum.Enum):
    SMALL = 1
    BIG = 2

    def __repr__(self):
        return "a size"


def small(branch):
    pass


def big(branch):
    pass


def adds(n):
    return lambda branch: n


def names(n):
    def same(branch):
        return n

    return same


class Loader:
    def load(self, branch):
        pass


def made(n):
    class Local:
        what = n

        @classmethod
        def load(cls, branch):
            return n

    return Local


def of_a_module_that_is_gone(n):
    module = {"__name__": "conftest"}
    exec(f"class Data:\n    n = {n}", module)
    return module["Data"]


# Two of a kind each; what is alike is no plain value's own text.
VALUES = [
    Small, Big, made(1), made(2), of_a_module_that_is_gone(1), of_a_module_that_is_gone(2), int, float, small, big,
    len, max, adds(1), adds(2), names(1), names(2), Loader.load, lambda n: n + 1, lambda n: n - 1, lambda n: n[1:2],
    lambda n: n[1:3], lambda n: lambda m: m + 1, lambda n: lambda m: m - 1, (Small, 1), (Small, 2), [Small], [Big],
    {"what": small}, {"what": big}, {small}, {big}, collections.deque([Small]), collections.deque([Big]),
    types.MappingProxyType({"what": 1}), types.MappingProxyType({"what": 2}), collections.UserDict(a=1),
    collections.UserDict(a=2), collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), Size.SMALL,
    Size.BIG, fractions.Fraction(1, 2), fractions.Fraction(1, 3), decimal.Decimal("1.0"), decimal.Decimal("1.00"),
    range(1), range(2), bytearray(b"1"), bytearray(b"2"), b"1", b"2", Path("1"), Path("2"), uuid.UUID(int=1),
    uuid.UUID(int=2), datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), re.compile("1" * 300 + "1"),
    re.compile("1" * 300 + "2"), re.compile("1"), re.compile("1", re.I), ipaddress.ip_address("::1"),
    ipaddress.ip_address("::2"), ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("10.0.0.0/9"), None, ...,
    1, 2, "1", True, 1.0, 1j,
]  # fmt: skip
SEEN = {}


@pytest.fixture(params=VALUES, ids=repr)
def code(request):
    return code_of(lambda branch: request.param), request.param


def test_each_parameter_makes_a_code_of_its_own(code):
    text, value = code
    assert SEEN.setdefault(text, value) is value


def test_a_file_in_another_encoding_counts(tmp_path):
    codes = set()
    for text in ("caf\u00e9", "caf\u00e8"):
        file, module = tmp_path / "latin.py", {}
        file.write_bytes(f"# -*- coding: latin-1 -*-\ndef build(branch):\n    return {text!r}\n".encode("latin-1"))
        exec(compile(file.read_bytes(), str(file), "exec"), module)
        code = code_of(module["build"])
        # As Rust takes it.
        code.encode()
        codes.add(code)
    assert len(codes) == 2


def test_what_was_seen_is_not_all_the_same():
    assert len(SEEN) in (0, len(VALUES))


PRINTED = """
import functools
from test_code import VALUES, code_of, small
for value in [*VALUES, {"a", "b", "c"}, lambda branch: branch in {"a", "b", "c"}]:
    print(code_of(functools.partial(small, value)))
"""


def test_a_code_is_the_same_in_another_process():
    said = set()
    for number in "123":
        environment = {**os.environ, "PYTHONHASHSEED": number}
        line = [sys.executable, "-c", PRINTED]
        said.add(subprocess.run(line, cwd=Path(__file__).parent, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    assert len(said) == 1


SAVED = """
import sys
import time
from velo._code import _is_newer, code_of
from seeds import build
if sys.argv[1:]:
    with open("seeds.py", "w") as file:
        file.write(sys.argv[1])
print(repr(code_of(build)))
"""


def test_a_file_that_is_saved_after_it_was_imported_is_not_the_code(tmp_path):
    def code(*saved):
        line = [sys.executable, "-c", SAVED, *saved]
        return subprocess.run(line, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout

    # Of two lengths: of what is saved within one second Python may take the compiled file that was there.
    old, new = (f"def load():\n    return {data!r}\n\ndef build(branch):\n    load()\n" for data in ("old", "newer"))
    (tmp_path / "seeds.py").write_text(old)
    before = code()
    assert code() == before
    # Built by the old one; neither text's own.
    during, after = code(new), code()
    assert len({before, during, after}) == 3
    assert code() == after


IMPORTED = """
import sys
import time
from velo._code import imported_before
from shop import models
patterns, saved = sys.argv[1].split(), sys.argv[2:]
for file in saved:
    open(file, "a").close()
    __import__("os").utime(file)
print(imported_before(patterns))
"""


def test_a_module_among_the_files_is_not_the_one_that_was_imported_before(tmp_path):
    package = tmp_path / "shop"
    package.mkdir()
    for name in ("__init__.py", "models.py", "never.py"):
        (package / name).write_text("")

    def before(patterns, *saved):
        line = [sys.executable, "-c", IMPORTED, patterns, *(str(package / name) for name in saved)]
        said = subprocess.run(line, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        return said.stdout != b"[]\n"

    for patterns in (f"{package}/models.py", f"{package}/**/*.py {tmp_path}/other.sql", f"{tmp_path}/*/mod*"):
        assert not before(patterns)
        assert before(patterns, "models.py")
        assert not before(patterns, "never.py")


def test_a_time_that_is_still_to_come_says_nothing(tmp_path):
    def is_newer(later):
        return _is_newer(types.SimpleNamespace(st_ctime_ns=time.time_ns() + later))

    assert not is_newer(3600 * 10**9)
    assert is_newer(0)
    assert not is_newer(-3600 * 10**9)


UNKNOWN = [
    Loader(), [Loader()], {"loader": Loader()}, Loader().load, made(Loader()), names(Loader()), (1, {Loader(): 1}), re,
]  # fmt: skip


@pytest.fixture(params=UNKNOWN, ids=str)
def unknown(request):
    return request


def test_a_parameter_of_which_nobody_knows_what_it_is_is_refused(unknown):
    with pytest.raises(TypeError, match="parameter.*give `texts`"):
        code_of(lambda branch: unknown.param)
    # Whoever says what tells them apart has been asked.
    assert code_of(lambda branch: unknown.param, texts=["one"])


def test_what_else_a_build_holds_is_no_parameter():
    loader = Loader()
    assert code_of(lambda branch: loader)
    local = made([])
    build = lambda branch: local
    before = code_of(build)
    local.what.append(1)
    assert code_of(build) == before


def test_a_structure_that_holds_itself_has_an_end():
    ring = [1]
    ring.append(ring)

    def again(branch):
        return again, ring

    assert code_of(again) == code_of(again)

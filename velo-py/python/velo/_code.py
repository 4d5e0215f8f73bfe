"""The code that builds a seed, and what it was given, as one text: what the seed's key takes of Python."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fnmatch
import fractions
import functools
import inspect
import ipaddress
import os
import pathlib
import re
import sys
import time
import types
import uuid
from collections.abc import Mapping
from typing import Any, Callable, Collection, Iterator, List, Optional, Tuple

_PLAIN = (
    bool, int, float, complex, str, bytes, bytearray, range, slice, type(None), type(...), pathlib.PurePath,
    fractions.Fraction, decimal.Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
)  # fmt: skip

_COLLECTIONS = (
    dict, types.MappingProxyType, collections.UserDict, collections.ChainMap, list, tuple, set, frozenset,
    collections.deque,
)  # fmt: skip
#: When Velo was imported, which pytest does before it reads a file of the suite's. By the clock that files have their times of
#: (CLOCK_REALTIME_COARSE): the other one is ahead of it.
_BEGAN = time.clock_gettime_ns(5)
#: The most that one of its ticks takes, in nanoseconds, and a bit.
_TICKS = 20_000_000
#: What no other process has, but for those that fork from this one, with what it imported.
_HERE = uuid.uuid4().hex
#: What Python keeps in a class for itself.
_OF_PYTHON = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__")


def code_of(build: Callable[..., Any], texts: Collection[str] = ()) -> str:
    """The text of the file that `build` is in, and the plain values that it was made with: a parameter of a test suite's
    that a closure keeps, what `functools.partial` adds. What it calls in that file counts too; what it calls elsewhere,
    and what objects hold, does not.

    Where that file was changed after this process began, the text makes a seed that is this process's alone: what it imported
    may be older, and no later run may have what that built.

    A fixture's parameter that is no plain value is refused, unless `texts` tell it from the others.
    """
    return _Texts(bool(texts)).code(build, (id(build),))


class _Texts:
    """Values as texts. Each function is told what is above the value that it is given: `above`, by their ids."""

    def __init__(self, told: bool, param: Any = None, strict: bool = False) -> None:
        #: Whether somebody has said what tells parameters apart.
        self.told = told
        self.param = param
        self.strict = strict

    def unknown(self) -> str:
        """The text of what nobody can tell from another one."""
        if not self.strict:
            return "None"
        raise TypeError(
            f"{self.param!r}, a parameter of the fixture, is no plain value, so that nobody could tell its seed from that of "
            "another: give `texts`, other ones for each parameter"
        )

    def text(self, value: Any, above: Tuple[int, ...]) -> str:
        """A value that is plain, or made of what is."""
        if isinstance(value, enum.Enum):
            # It is known by its name, whatever it holds.
            return f"{_name(type(value))}.{value.name} {_Texts(self.told).text(value.value, above)}"
        if isinstance(value, _PLAIN):
            return f"{type(value).__qualname__} {value!r}"
        if id(value) in above:
            return f"that {above.index(id(value))}"
        above = (*above, id(value))
        if type(value).__module__ == "_pytest.fixtures":
            # What a fixture is parametrized by is had of its request.
            param = getattr(value, "param", None)
            return f"param {_Texts(self.told, param, not self.told).text(param, above)}"
        if isinstance(value, re.Pattern):
            return f"pattern {value.flags} {value.pattern!r}"
        if isinstance(value, type):
            return self.type(value, above)
        # Some mapping that is no parameter may be a whole store.
        if isinstance(value, _COLLECTIONS) or (self.strict and isinstance(value, Mapping)):
            return self.collection(value, above)
        if dataclasses.is_dataclass(value):
            fields = (f"{one.name}={self.text(getattr(value, one.name, None), above)}" for one in dataclasses.fields(value))
            return f"{_name(type(value))}({', '.join(fields)})"
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            try:
                return f"{getattr(value, '__module__', None)} {self.code(value, above)}"
            except NotReadable:
                return self.unknown()
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType):
            return _name(value)
        return self.unknown()

    def collection(self, value: Any, above: Tuple[int, ...]) -> str:
        if isinstance(value, Mapping):
            texts = [f"{self.text(key, above)}: {self.text(its, above)}" for key, its in value.items()]
        else:
            texts = [self.text(one, above) for one in value]
        is_sorted = isinstance(value, (Mapping, set, frozenset)) and not isinstance(value, collections.OrderedDict)
        return f"{type(value).__qualname__}({', '.join(sorted(texts) if is_sorted else texts)})"

    def type(self, value: type, above: Tuple[int, ...]) -> str:
        """A class by its name and the text of its file. Where that name leads to another or to none, a parameter is known
        by what it is made of: one that a function makes, or of a ``conftest.py`` in whose place another one was loaded.
        """
        found: Any = sys.modules.get(value.__module__)
        for part in value.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is value:
            return f"{_name(value)}\n{_file(value) or ''}"
        if not self.strict:
            return _name(value)
        members = sorted((name, member) for name, member in vars(value).items() if name not in _OF_PYTHON)
        texts = [f"{name}={self.text(getattr(member, '__func__', member), above)}" for name, member in members]
        return f"{_name(value)}{self.text(value.__bases__, above)}({', '.join(texts)})"

    def given(self, function: Any, above: Tuple[int, ...]) -> Iterator[str]:
        """What a function was given when it was made: the values that it keeps, and its defaults."""
        if isinstance(function, functools.partial):
            yield from (self.text(value, above) for value in (function.args, function.keywords))
            return
        for cell in getattr(function, "__closure__", None) or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # it has none yet
            yield self.text(value, above)
        for value in (getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__")):
            yield self.text(value, above)

    def code(self, build: Any, above: Tuple[int, ...]) -> str:
        """What runs when `build` is called."""
        function: Any = build
        given: List[str] = []
        while True:
            given += self.given(function, above)
            inner = getattr(function, "__wrapped__", None)
            if isinstance(function, functools.partial):
                inner = function.func
            if inner is None:
                break
            function = inner
        code = getattr(function, "__code__", None)
        parts = [getattr(function, "__qualname__", type(function).__qualname__), *given]
        text = _file(function)
        if code is not None:
            # Of one file several functions may have one name, and of one line several that have none.
            parts.append(str(code.co_firstlineno))
            if text is None or code.co_name == "<lambda>":
                parts.append(_compiled(code))
        elif text is None:
            raise NotReadable(
                f"the code of {build!r} cannot be read, so that nobody could tell when its seed is stale: "
                "give `code`, a text that changes with it"
            )
        return "\n".join([*parts, text or ""])


class NotReadable(TypeError):
    """Of what is to build a seed nobody can see the code."""


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _file(value: Any) -> Optional[str]:
    """The text of the file that a function or a class is in, if there is one. Bytes that are not UTF-8 count by their numbers:
    Rust takes no surrogates."""
    try:
        with open(inspect.getsourcefile(value) or "", encoding="utf-8", errors="backslashreplace") as text:
            read = text.read()
            # Its content cannot be changed without this time, and a file that takes another's place has a new one too. It is
            # asked for afterwards, so that what comes while it is read is seen.
            is_newer = _is_newer(os.fstat(text.fileno()))
    except (OSError, TypeError):
        return None
    return f"{read}\n{_HERE}" if is_newer else read


def _is_newer(stat: os.stat_result) -> bool:
    """Whether that was changed since this process began. A time that is still to come is another clock's and says nothing: such
    a file would make a seed in each run. Files of some systems have finer times than the clock, which is a tick behind then."""
    return _BEGAN <= stat.st_ctime_ns <= time.clock_gettime_ns(5) + _TICKS


def imported_before(patterns: Collection[str]) -> List[str]:
    """What makes a seed this process's alone, where a module that it has imported is among these files and was changed since:
    the build may call what is older than the text that counts."""
    named = {one for one in patterns if not re.search(r"[*?[]", one)}
    like = [re.compile(fnmatch.translate(one.replace("/**/", "/*"))) for one in patterns if one not in named]
    for module in [*sys.modules.values()]:
        try:
            file = os.path.abspath(module.__file__ or "")
            if (file in named or any(one.match(file) for one in like)) and _is_newer(os.stat(file)):
                return [_HERE]
        except (AttributeError, OSError, TypeError, ValueError):
            continue
    return []


def _compiled(code: types.CodeType) -> str:
    """What was compiled, without the places in memory that `repr` would name."""
    consts = (_compiled(one) if isinstance(one, types.CodeType) else _Texts(True).text(one, ()) for one in code.co_consts)
    return f"{code.co_code.hex()}({', '.join([*code.co_names, *consts])})"

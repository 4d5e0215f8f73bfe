"""What a seed's key takes of files, and of the Python code that builds it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import glob
import inspect
import os
import pathlib
import types
import uuid
from typing import Any, Callable, Iterable, Iterator, List, Optional, Set, Tuple, TypeVar, Union

Path = Union[str, "os.PathLike[str]"]
Paths = Union[Path, Iterable[Path]]


def files_of(paths: Paths, base: str = "") -> Tuple[List[str], List[str]]:
    """The files and patterns that `paths` name, relative ones in `base`, and the places of those files as texts.

    What Python compiled is no source: it comes after the first run, and would make another key.
    """
    patterns: List[str] = []
    places: List[str] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        named = os.fspath(path)
        if named.endswith("**"):
            named += "/*"
        folder = os.path.join(base, named[: -len("/**/*")] if named.endswith("/**/*") else named)
        found = sorted(os.path.relpath(file, folder) for file in _below(folder, set()))
        sources = [file for file in found if "__pycache__" not in file.split(os.sep)]
        # What is no folder, or has nothing in it, is looked for as it was named.
        patterns += [os.path.join(folder, file) for file in sources] or [pattern_of(named, base)]
        places += sources
    return patterns, places


def pattern_of(path: str, base: str) -> str:
    """The folder is no pattern, whatever its name."""
    there = os.path.join(base, path)
    return there if os.path.isabs(path) or os.path.exists(there) else os.path.join(glob.escape(base), path)


def _below(folder: str, above: Set[str]) -> Iterator[str]:
    """All files in a folder, those in linked ones among them; but a link that leads back leads nowhere."""
    real = os.path.realpath(folder)
    if not os.path.isdir(folder) or real in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _below(entry.path, above | {real})
        else:
            yield entry.path


Result = TypeVar("Result")


def done(result: Result) -> Result:
    """Refuses what a build hands back that has not been run: it would leave an empty seed."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("build is a generator, of which nothing has run: it must be a function")
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("build is async: give it to velo.aio.Project.seed, or run it in a function, as by asyncio.run")
    return result


def begun(result: Result) -> Result:
    """The same of what is awaited."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("build is a generator, of which nothing has run: it must be an async function")
    return result


_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), pathlib.PurePath, enum.Enum, decimal.Decimal, uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
)  # fmt: skip


def _text(value: Any, seen: Set[int]) -> Optional[str]:
    """A value as a text, if it is plain or made of what is; else nobody can tell when it is another one."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__qualname__} {value!r}"
    if id(value) in seen:
        return None
    seen = seen | {id(value)}
    if type(value).__module__ == "_pytest.fixtures":
        # What a fixture is parametrized by is had of its request.
        return f"param {_text(getattr(value, 'param', None), seen)}"
    if isinstance(value, dict):
        pairs = [f"{_text(key, seen)}: {_text(its, seen)}" for key, its in value.items()]
        return "{" + ", ".join(sorted(pairs)) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(str(_text(one, seen)) for one in value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(str(_text(one, seen)) for one in value) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f"{field.name}={_text(getattr(value, field.name, None), seen)}" for field in dataclasses.fields(value)]
        return f"{type(value).__qualname__}({', '.join(fields)})"
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        try:
            return _code(value, seen)
        except TypeError:
            return None
    return None


def _given(function: Any, seen: Set[int]) -> Iterator[str]:
    """What a function was given when it was made: the values that it keeps, and its defaults."""
    if isinstance(function, functools.partial):
        yield from (str(_text(value, seen)) for value in (function.args, function.keywords))
        return
    for cell in getattr(function, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # it has none yet
        yield str(_text(value, seen))
    for value in (getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__", "__self__")):
        yield str(_text(value, seen))


def code_of(build: Callable[..., Any]) -> str:
    """The text of the file that `build` is in, and the plain values that it was made with: a parameter of a test suite's
    that a closure keeps, what `functools.partial` adds. What it calls in that file counts too; what it calls elsewhere,
    and what objects hold, does not.
    """
    return _code(build, {id(build)})


def _code(build: Any, seen: Set[int]) -> str:
    function: Any = build
    given: List[str] = []
    while True:
        given += _given(function, seen)
        inner = getattr(function, "__wrapped__", None)
        if isinstance(function, functools.partial):
            inner = function.func
        if inner is None:
            break
        function = inner
    name = "\n".join([getattr(function, "__qualname__", type(function).__qualname__), *given])
    try:
        file = inspect.getsourcefile(function) or ""
        with open(file, encoding="utf-8", errors="surrogateescape") as text:
            return f"{name}\n{text.read()}"
    except (OSError, TypeError):
        pass
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(
            f"the code of {build!r} cannot be read, so that nobody could tell when its seed is stale: "
            "give `code`, a text that changes with it"
        )
    return f"{name}\n{code.co_code.hex()}\n{code.co_consts!r}\n{code.co_names!r}"

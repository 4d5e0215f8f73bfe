"""What a seed's key takes of files, and what a build of Python's hands back."""

from __future__ import annotations

import glob
import inspect
import os
from typing import Iterable, Iterator, List, Set, Tuple, TypeVar, Union

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

"""What a seed's key takes of files, and what a build of Python's hands back."""

from __future__ import annotations

import glob
import inspect
import os
from typing import Iterable, Iterator, List, Set, Tuple, TypeVar, Union

from ._velo import SeedError

Path = Union[str, "os.PathLike[str]"]
Paths = Union[Path, Iterable[Path]]


class Files:
    """The files that paths, folders and patterns name, as they were when they were looked for.

    What Python compiled is no source: it comes after the first run, and would make another key.
    """

    def __init__(self, paths: Paths, base: str = "") -> None:
        self._named = [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
        # Where relative paths begin; a build may go elsewhere.
        self._base = base or os.getcwd()
        self._found = [self._look(named) for named in self._named]

    @property
    def patterns(self) -> List[str]:
        """What velo-core is to read."""
        return [pattern for patterns, _ in self._found for pattern in patterns]

    @property
    def places(self) -> List[str]:
        """Where those files are in the folders that were named."""
        return [place for _, places in self._found for place in places]

    def are_still_all(self) -> None:
        """Refuses a seed while whose build a file came: velo-core was told of the others alone, and looks at those."""
        for named, found in zip(self._named, self._found):
            if self._look(named) != found:
                error = SeedError(f"files of {named} were changed while the seed was built of them")
                error.kind, error.hint, error.context = "seed", "run it again: none of it is kept", {}
                if hasattr(error, "add_note"):
                    error.add_note(f"hint: {error.hint}")
                raise error

    def _look(self, named: str) -> Tuple[List[str], List[str]]:
        if named.endswith("**"):
            named += "/*"
        folder = os.path.join(self._base, named[: -len("/**/*")] if named.endswith("/**/*") else named)
        found = sorted(os.path.relpath(file, folder) for file in _below(folder, set()))
        sources = [file for file in found if "__pycache__" not in file.split(os.sep)]
        # What is no folder, or has nothing in it, is looked for as it was named.
        return [os.path.join(folder, file) for file in sources] or [pattern_of(named, self._base)], sources


def pattern_of(path: str, base: str) -> str:
    """The folder is no pattern, whatever its name."""
    there = os.path.join(base, path)
    return there if os.path.isabs(path) or os.path.exists(there) else os.path.join(glob.escape(base), path)


def _below(folder: str, above: Set[str]) -> Iterator[str]:
    """All files in a folder, those in linked ones among them; but a link that leads back leads nowhere, and neither does
    one to what is not there, as editors make them."""
    real = os.path.realpath(folder)
    if not os.path.isdir(folder) or real in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _below(entry.path, above | {real})
        elif entry.is_file():
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

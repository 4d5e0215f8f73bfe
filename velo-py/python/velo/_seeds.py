"""What a seed's key takes of files, and of the Python code that builds it."""

from __future__ import annotations

import inspect
import os
from typing import Any, Callable, Iterable, List, Tuple, Union

Path = Union[str, "os.PathLike[str]"]
Paths = Union[Path, Iterable[Path]]


def files_of(paths: Paths, base: str = "") -> Tuple[List[str], List[str]]:
    """The files and patterns that `paths` name, relative ones in `base`, and the places of those files as texts.

    What Python compiled is no source: it comes after the first run, and would make another key.
    """
    patterns: List[str] = []
    places: List[str] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        pattern = os.path.join(base, os.fspath(path))
        if pattern.endswith("**"):
            pattern += "/*"
        folder = pattern[: -len("/**/*")] if pattern.endswith("/**/*") else pattern
        found = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
        relative = sorted(os.path.relpath(file, folder) for file in found)
        sources = [file for file in relative if "__pycache__" not in file.split(os.sep)]
        # What is no folder, or has nothing in it, is looked for as it was named.
        patterns += [os.path.join(folder, file) for file in sources] or [pattern]
        places += sources
    return patterns, places


def code_of(build: Callable[..., Any]) -> str:
    """The text of the file that `build` is in: what it calls there counts too, and what it calls elsewhere does not."""
    function = inspect.unwrap(build)
    function = getattr(function, "func", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        file = inspect.getsourcefile(function) or ""
        with open(file, encoding="utf-8", errors="surrogateescape") as text:
            return f"{name}\n{text.read()}"
    except (OSError, TypeError):
        pass
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(
            f"the code of {name} cannot be read, so that nobody could tell when its seed is stale: "
            "give `code`, a text that changes with it"
        )
    return f"{name}\n{code.co_code.hex()}\n{code.co_consts!r}\n{code.co_names!r}"

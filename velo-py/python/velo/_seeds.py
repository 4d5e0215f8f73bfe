"""What a seed's key takes of the Python code that builds it."""

from __future__ import annotations

import inspect
from typing import Any, Callable


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

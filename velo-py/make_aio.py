#!/usr/bin/env python3
"""Makes python/velo/aio.py from python/velo/_blocking.py: two faces that cannot differ by mistake.

With --check it writes nothing, and fails where the file is not what it would write.
"""

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "python" / "velo"

HEAD = '''"""Velo for asyncio: the same classes as in `velo`, whose methods are awaited.

>>> from velo.aio import Branch, Project
>>> project = await Project.open_or_create("api")         # doctest: +SKIP
>>> async with await Branch.create(project) as branch:    # doctest: +SKIP
...     await asyncpg.connect(branch.url)

A task that is canceled gives up what it waits for, and what was begun is undone.
"""

# Made by make_aio.py from _blocking.py.
'''


def functions(text):
    """The text in pieces, each method of a class being one."""
    pieces, lines = [], text.split("\n")
    at = 0
    while at < len(lines):
        end = at + 1
        if lines[at].startswith("    def "):
            while end < len(lines) and re.match(r"$|        |    \)", lines[end]):
                end += 1
        pieces.append("\n".join(lines[at:end]))
        at = end
    return pieces


def awaits(text):
    """`thing(…).wait()` becomes `await thing(…)`."""
    while (end := text.find(".wait()")) >= 0:
        begin, depth = end, 0
        while begin > 0:
            char = text[begin - 1]
            depth += (char in ")]") - (char in "([")
            if depth < 0 or (depth == 0 and not re.match(r"[\w.(\[]", char)):
                break
            begin -= 1
        thing = "await " + text[begin:end]
        if text[:begin].endswith("**"):
            thing = f"({thing})"
        text = text[:begin] + thing + text[end + len(".wait()") :]
    return text


def made(blocking):
    waits = lambda piece: ".wait()" in piece or "def __e" in piece
    pieces = [
        re.sub(r"^    def ", "    async def ", piece) if waits(piece) else piece for piece in functions(blocking)
    ]
    text = awaits("\n".join(pieces))
    for old, new in [
        ("def __enter__", "def __aenter__"),
        ("def __exit__", "def __aexit__"),
        ("        self.close()", "        await self.close()"),
        ("            done(build(Branch(found)))", "            await begun(build(Branch(found)))"),
        ("Paths, done, pattern_of", "Paths, begun, pattern_of"),
        ("Callable[[Branch], object]", "Callable[[Branch], Awaitable[object]]"),
        ("import Callable", "import Awaitable, Callable"),
        (">>> project = Project.", ">>> project = await Project."),
        (">>> with Branch", ">>> async with await Branch"),
        ("...     psycopg", "...     await asyncpg"),
    ]:
        if old not in text:
            sys.exit(f"_blocking.py has no {old!r} any more")
        text = text.replace(old, new)
    return HEAD + text.split('"""\n', 1)[1]


def main():
    text = made((FOLDER / "_blocking.py").read_text(encoding="utf-8"))
    aio = FOLDER / "aio.py"
    if "--check" not in sys.argv[1:]:
        aio.write_text(text, encoding="utf-8")
    elif aio.read_text(encoding="utf-8") != text:
        sys.exit(f"{aio} is not what {Path(__file__).name} makes of _blocking.py: run it")


if __name__ == "__main__":
    main()

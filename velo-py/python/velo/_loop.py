"""How an event loop waits."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from ._velo import Bell, Call

Result = TypeVar("Result")


async def awaited(call: Call[Result]) -> Result:
    """Awaits a call. A task that is canceled meanwhile gives up, and what was begun is undone.

    Velo's thread could tell the loop only from inside the interpreter, which may be ending. So the loop looks itself.
    """
    loop = asyncio.get_running_loop()
    bell, rung = Bell(), asyncio.Event()
    loop.add_reader(bell, rung.set)
    try:
        while True:
            rung.clear()
            if (done := call.look(bell)) is not None:
                return done[0]
            await rung.wait()
    finally:
        loop.remove_reader(bell)
        call.give_up()

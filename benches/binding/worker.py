"""Makes a branch each time it is told to, by the Python package that is installed beside it, and says how long it took.

One line in, one out: ``blocking`` or ``asyncio``; the nanoseconds until the branch was there. It has ended before the next
line is read. The project is the one that the environment's `VELO_HOME` has.
"""

import asyncio
import sys
import time

import velo
import velo.aio


def blocking(project: velo.Project) -> int:
    begun = time.perf_counter_ns()
    branch = velo.Branch.create(project)
    took = time.perf_counter_ns() - begun
    branch.close()
    return took


async def by_asyncio(project: velo.aio.Project) -> int:
    begun = time.perf_counter_ns()
    branch = await velo.aio.Branch.create(project)
    took = time.perf_counter_ns() - begun
    await branch.close()
    return took


def main() -> None:
    project = velo.Project.open("api")
    with asyncio.Runner() if sys.version_info >= (3, 11) else _Runner() as runner:
        other = runner.run(velo.aio.Project.open("api"))
        for line in sys.stdin:
            took = blocking(project) if line == "blocking\n" else runner.run(by_asyncio(other))
            print(took, flush=True)


class _Runner:
    """What `asyncio.Runner` does, before it was there."""

    def __enter__(self) -> "_Runner":
        self.loop = asyncio.new_event_loop()
        return self

    def __exit__(self, *_) -> None:
        self.loop.close()

    def run(self, work):
        return self.loop.run_until_complete(work)


main()

"""The face for asyncio."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import psycopg
import pytest

import velo
from conftest import within
from velo import aio


def test_it_is_made_from_the_blocking_one():
    tool = Path(__file__).parent.parent / "make_aio.py"
    subprocess.run([sys.executable, str(tool), "--check"], check=True)


def test_branches_and_seeds(project):
    async def main():
        project = await aio.Project.open("api")
        assert await aio.Project.list()
        async with await aio.Branch.create(project) as branch:
            db = await asyncpg.connect(branch.url)
            assert await db.fetchval("SELECT 1") == 1
            await db.close()
            assert (await branch.info()).state == "running"
            async with await psycopg.AsyncConnection.connect(branch.url) as other:
                await other.execute("SELECT 1")

        async def build(branch):
            db = await asyncpg.connect(branch.url)
            await db.execute("CREATE TABLE orders AS SELECT generate_series(1, 7)")
            await db.close()

        seed = await project.seed(build=build)
        assert (await project.seed(build=build)).id == seed.id
        branches = await asyncio.gather(*(seed.branch() for _ in range(4)))
        assert len({branch.url for branch in branches}) == 4
        await asyncio.gather(*(branch.close() for branch in branches))
        async with await seed.pool().acquire("aio") as branch:
            db = await asyncpg.connect(branch.url)
            assert await db.fetchval("SELECT count(*) FROM orders") == 7
            await db.close()
        with pytest.raises(velo.NotFoundError):
            await project.branch("nope")

    asyncio.run(main())


def test_the_loop_goes_on_meanwhile(project):
    async def main():
        project = await aio.Project.open("api")
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        counting = asyncio.create_task(count())
        await (await aio.Branch.create(project)).close()
        counting.cancel()
        assert turns >= 5

    asyncio.run(main())


def test_a_canceled_task_leaves_nothing(project):
    async def main():
        project = await aio.Project.open("api")
        for pause in (0, 0.005, 0.02):
            task = asyncio.create_task(aio.Branch.create(project))
            await asyncio.sleep(pause)
            task.cancel()
            try:
                await (await task).close()
            except asyncio.CancelledError:
                pass
        for _ in range(500):
            left = [b.shown for b in await project.branches() if b.ephemeral]
            if not left:
                break
            await asyncio.sleep(0.02)
        assert left == []

    asyncio.run(main())


def test_what_a_build_raises_is_raised(project):
    async def main():
        project = await aio.Project.open("api")

        async def build(branch):
            await asyncio.sleep(0)
            raise KeyError("mine")

        with pytest.raises(KeyError):
            await project.seed(build=build)
        assert all(seed.info().ready for seed in await project.seeds())

    asyncio.run(main())


def test_a_file_that_comes_while_a_seed_is_built_is_noticed(project, tmp_path):
    async def main():
        project = await aio.Project.open("api")
        (tmp_path / "one.sql").write_text("1")

        async def build(branch):
            (tmp_path / "two.sql").write_text("2")

        with pytest.raises(velo.SeedError, match="were changed while the seed was built"):
            await project.seed(build=build, files=[tmp_path], label="comes")
        assert not [seed for seed in await project.seeds() if seed.info().label == "comes"]

    asyncio.run(main())


ENDS = """
import asyncio, sys
from velo import aio

async def main(pending):
    await aio.Project.open("api")
    if pending:
        calls = [asyncio.ensure_future(aio.Project.list()) for _ in range(20)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

asyncio.new_event_loop().run_until_complete(main(sys.argv[1] == "pending"))
print("end")
"""


@pytest.mark.parametrize("what", ["done", "pending"])
def test_a_program_ends_whatever_is_under_way(project, what):
    """Velo's thread tells of what is done in the moment when the interpreter ends: of each run, or of many calls at once."""
    for _ in range(10):
        said = subprocess.run([sys.executable, "-c", ENDS, what], capture_output=True, text=True, timeout=60)
        assert (said.returncode, said.stdout) == (0, "end\n"), said.stderr


def test_what_was_waited_for_leaves_no_descriptor(project):
    def bells():
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += "socket:" in os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                pass  # it was closed meanwhile
        return found

    async def main():
        await aio.Project.list()
        before = bells()
        calls = [asyncio.ensure_future(aio.Project.list()) for _ in range(20)]
        await asyncio.sleep(0)
        assert bells() > before
        calls.pop().cancel()
        await asyncio.gather(*calls)
        # Velo's thread may be about to let go of the last one.
        assert within(5, lambda: bells() <= before)

    asyncio.run(main())

"""What people reach a branch with."""

import asyncio

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

import velo


@pytest.fixture(scope="module")
def branch(project):
    with velo.Branch.create(project) as branch:
        yield branch


def test_psycopg(branch):
    with psycopg.connect(branch.url) as db:
        assert db.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(branch.socket_url) as db:
        assert db.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_async(branch):
    async def main():
        async with await psycopg.AsyncConnection.connect(branch.url) as db:
            return await (await db.execute("SELECT 1")).fetchone()

    assert asyncio.run(main()) == (1,)


def test_asyncpg(branch):
    async def main():
        db = await asyncpg.connect(branch.url)
        try:
            return await db.fetchval("SELECT 1")
        finally:
            await db.close()

    assert asyncio.run(main()) == 1


def test_sqlalchemy(branch):
    engine = sqlalchemy.create_engine(branch.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as db:
        assert db.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_sqlalchemy_async(branch, driver):
    async def main():
        engine = create_async_engine(branch.url.replace("postgresql:", f"postgresql+{driver}:"))
        async with engine.connect() as db:
            one = await db.scalar(sqlalchemy.text("SELECT 1"))
        await engine.dispose()
        return one

    assert asyncio.run(main()) == 1

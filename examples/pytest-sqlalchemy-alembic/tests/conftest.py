from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from shop.database import ROOT, alembic_config, driven_by
from velo import Branch, Project, Seed


def migrate(branch: Branch) -> None:
    command.upgrade(alembic_config(branch.url), "head")


@pytest.fixture(scope="session")
def velo_seed(velo_project: Project) -> Seed:
    """Every branch begins with all migrations, which run once and not again until they change."""
    return velo_project.seed(files=[ROOT / "migrations"], build=migrate, label="shop")


@pytest.fixture
def engine(velo_url: str) -> Iterator[Engine]:
    engine = create_engine(driven_by("psycopg", velo_url))
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
async def async_engine(velo_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(driven_by("asyncpg", velo_url))
    yield engine
    await engine.dispose()

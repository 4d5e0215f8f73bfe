"""The same fixtures by pytest-postgresql: migrations make a template database, each test's database is a copy of it."""

from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from pytest_postgresql import factories
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from shop.database import alembic_config, driven_by


def migrate(*, host: str, port: int, user: str, dbname: str, **_: object) -> None:
    command.upgrade(alembic_config(f"postgresql://{user}@{host}:{port}/{dbname}"), "head")


postgresql_proc = factories.postgresql_proc(load=[migrate])
postgresql = factories.postgresql("postgresql_proc")


@pytest.fixture
def engine(postgresql: psycopg.Connection) -> Iterator[Engine]:
    at = postgresql.info
    url = f"postgresql://{at.user}@{at.host}:{at.port}/{at.dbname}"
    engine = create_engine(driven_by("psycopg", url), poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session

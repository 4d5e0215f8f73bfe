"""Migrations themselves: each test may break what it has."""

from __future__ import annotations

from alembic import command
from sqlalchemy import Engine, inspect
from sqlalchemy.orm import Session

from shop.database import alembic_config
from shop.orders import owed


def test_models_are_what_the_migrations_make(velo_url: str) -> None:
    command.check(alembic_config(velo_url))


def test_there_is_a_way_back(velo_url: str, engine: Engine) -> None:
    command.downgrade(alembic_config(velo_url), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    command.upgrade(alembic_config(velo_url), "head")
    with Session(engine) as session:
        assert owed(session, "Ann") == 500

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from sqlalchemy import URL, make_url

ROOT = Path(__file__).parent.parent


def driven_by(driver: str, url: str) -> URL:
    """The URL of a PostgreSQL with the driver that SQLAlchemy is to take."""
    return make_url(url).set(drivername=f"postgresql+{driver}")


def alembic_config(url: str) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["url"] = driven_by("psycopg", url)
    return config

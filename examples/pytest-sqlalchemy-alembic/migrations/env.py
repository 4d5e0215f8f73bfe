import os

from alembic import context
from sqlalchemy import create_engine

from shop.models import Base

# Tests say which database is meant; `alembic upgrade head` by hand takes that of the environment.
url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
engine = create_engine(url)

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()

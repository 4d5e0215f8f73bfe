"""Open orders are found by their customer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("open_orders", "orders", ["customer_id"], postgresql_where=sa.text("NOT paid"))


def downgrade() -> None:
    op.drop_index("open_orders")

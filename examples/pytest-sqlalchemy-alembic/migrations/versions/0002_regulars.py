"""The two who were customers before there was a database, and what they owe."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

customers = sa.table("customers", sa.column("id", sa.Integer), sa.column("name", sa.String))
orders = sa.table("orders", sa.column("customer_id", sa.Integer), sa.column("cents", sa.Integer))


def upgrade() -> None:
    for name, cents in {"Ann": 500, "Ben": 700}.items():
        customer = op.get_bind().scalar(customers.insert().values(name=name).returning(customers.c.id))
        op.execute(orders.insert().values(customer_id=customer, cents=cents))


def downgrade() -> None:
    regulars = customers.c.name.in_(["Ann", "Ben"])
    op.execute(orders.delete().where(orders.c.customer_id.in_(sa.select(customers.c.id).where(regulars))))
    op.execute(customers.delete().where(regulars))

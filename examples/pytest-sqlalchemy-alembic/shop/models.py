from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("cents > 0", name="orders_cents_check"),
        Index("open_orders", "customer_id", postgresql_where=text("NOT paid")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    cents: Mapped[int]
    paid: Mapped[bool] = mapped_column(server_default=false())
    customer: Mapped[Customer] = relationship(back_populates="orders")

"""What the shop does. Each of these commits."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shop.models import Customer, Order


def place(session: Session, name: str, cents: int) -> Order:
    """Takes an order. Who was never here becomes a customer."""
    customer = session.scalar(select(Customer).where(Customer.name == name)) or Customer(name=name)
    order = Order(customer=customer, cents=cents)
    session.add(order)
    session.commit()
    return order


def pay(session: Session, order_id: int) -> bool:
    """Whether the order was open."""
    unpaid = update(Order).where(Order.id == order_id, ~Order.paid)
    paid = session.scalar(unpaid.values(paid=True).returning(Order.id))
    session.commit()
    return paid is not None


def owed(session: Session, name: str) -> int:
    """What a customer owes, in cents."""
    open_orders = select(func.sum(Order.cents)).join(Order.customer).where(Customer.name == name, ~Order.paid)
    return session.scalar(open_orders) or 0

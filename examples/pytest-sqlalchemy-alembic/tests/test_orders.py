"""Tests that commit as the shop does: nobody else has their database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shop.models import Customer, Order
from shop.orders import owed, pay, place


def test_an_order_is_owed_until_it_is_paid(session: Session) -> None:
    order = place(session, "Cem", 990)
    assert owed(session, "Cem") == 990
    assert pay(session, order.id)
    assert owed(session, "Cem") == 0


def test_an_order_is_paid_once(session: Session) -> None:
    order = place(session, "Cem", 990)
    assert [pay(session, order.id), pay(session, order.id)] == [True, False]


def test_what_a_migration_put_there(session: Session) -> None:
    assert (owed(session, "Ann"), owed(session, "Ben")) == (500, 700)


def test_a_customer_is_one_however_often_they_come(session: Session) -> None:
    assert place(session, "Cem", 1).customer is place(session, "Cem", 2).customer
    assert session.scalar(select(func.count(Customer.id))) == 3


def test_an_order_is_of_something(session: Session) -> None:
    with pytest.raises(IntegrityError, match="orders_cents_check"):
        place(session, "Cem", 0)


@pytest.mark.parametrize("turn", [1, 2])
def test_nobody_sees_what_another_test_does(session: Session, turn: int) -> None:
    assert session.scalar(select(func.count(Order.id))) == 2
    # Ids too go on where the migrations ended, in each of these.
    assert place(session, "Cem", 990).id == 3
    session.execute(delete(Order))
    session.commit()


def test_of_two_who_pay_at_once_one_does(engine: Engine, session: Session) -> None:
    order = place(session, "Cem", 990).id

    def pay_it(_: int) -> bool:
        with Session(engine) as session:
            return pay(session, order)

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(pay_it, range(2))) == [False, True]

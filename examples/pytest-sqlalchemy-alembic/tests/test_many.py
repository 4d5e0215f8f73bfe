"""Two hundred small tests that each write, for `compare.py`."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shop.models import Order
from shop.orders import owed, pay, place


@pytest.mark.parametrize("cents", range(1, 201))
def test_an_order(session: Session, cents: int) -> None:
    order = place(session, "Cem", cents)
    assert owed(session, "Cem") == cents
    assert pay(session, order.id)
    # Whatever another test left would be counted.
    assert session.scalar(select(func.count(Order.id))) == 3

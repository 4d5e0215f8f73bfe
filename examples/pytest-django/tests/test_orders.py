"""Tests in a transaction each, on one branch: the usual ones."""

import pytest
from django.test import TestCase
from shop.models import Customer, Order

pytestmark = pytest.mark.django_db


def test_an_order_is_paid_once() -> None:
    order = Order.objects.create(customer=Customer.objects.get(name="Ann"), cents=990)
    assert [order.pay(), order.pay()] == [True, False]


@pytest.mark.parametrize("turn", [1, 2])
def test_nobody_sees_what_another_test_does(turn: int) -> None:
    ann = Customer.objects.get()
    assert ann.owed() == 0
    Order.objects.create(customer=ann, cents=990)
    assert ann.owed() == 990


class TestOrders(TestCase):
    order: Order

    @classmethod
    def setUpTestData(cls) -> None:
        cls.order = Order.objects.create(customer=Customer.objects.get(name="Ann"), cents=990)

    def test_an_order_is_owed(self) -> None:
        self.assertEqual(self.order.customer.owed(), 990)

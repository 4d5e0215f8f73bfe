"""Tests that commit, in a branch of their own each."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction
from django.test import TransactionTestCase
from shop.models import Customer, Order

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_each_begins_where_the_migrations_ended(turn: int) -> None:
    # What a flush would have taken is there, and sequences begin where they did.
    ann = Customer.objects.get()
    assert (ann.pk, ann.name) == (1, "Ann")
    assert Order.objects.create(customer=ann, cents=990).pk == 1
    Order.objects.all().delete()
    ann.delete()


def test_what_waits_for_a_commit_runs() -> None:
    done: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: done.append("mail"))
    assert done == ["mail"]


def test_of_two_who_pay_at_once_one_does() -> None:
    order = Order.objects.create(customer=Customer.objects.get(), cents=990)

    def pay(_: int) -> bool:
        try:
            return Order.objects.get(pk=order.pk).pay()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(pay, range(2))) == [False, True]


class TestCommits(TransactionTestCase):
    def test_sequences_begin_with_1(self) -> None:
        self.assertEqual(Order.objects.create(customer=Customer.objects.get(), cents=990).pk, 1)

    test_in_each_test = test_sequences_begin_with_1

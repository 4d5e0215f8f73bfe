"""The same database by asyncio."""

from __future__ import annotations

import asyncio

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shop.models import Customer, Order


async def test_orders_of_many_at_once(async_engine: AsyncEngine) -> None:
    async def order(number: int) -> None:
        async with AsyncSession(async_engine) as session:
            session.add(Order(customer=Customer(name=f"customer {number}"), cents=100))
            await session.commit()

    await asyncio.gather(*map(order, range(10)))
    async with AsyncSession(async_engine) as session:
        assert await session.scalar(select(func.sum(Order.cents))) == 500 + 700 + 10 * 100

//! A shop that keeps its orders with sqlx.

use sqlx::{PgPool, Result};

/// Takes an order, and says which.
pub async fn place(pool: &PgPool, customer: &str, cents: i64) -> Result<i64> {
    sqlx::query_scalar("INSERT INTO orders (customer, cents) VALUES ($1, $2) RETURNING id")
        .bind(customer)
        .bind(cents)
        .fetch_one(pool)
        .await
}

/// Whether the order was open.
pub async fn pay(pool: &PgPool, order: i64) -> Result<bool> {
    let paid = sqlx::query("UPDATE orders SET paid = true WHERE id = $1 AND NOT paid")
        .bind(order)
        .execute(pool)
        .await?;
    Ok(paid.rows_affected() == 1)
}

/// What a customer owes, in cents.
pub async fn owed(pool: &PgPool, customer: &str) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT coalesce(sum(cents), 0)::bigint FROM orders WHERE customer = $1 AND NOT paid",
    )
    .bind(customer)
    .fetch_one(pool)
    .await
}

//! Tests that each have a PostgreSQL of their own, with all migrations run and some orders in it.

use rust_sqlx::{owed, pay, place};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Result};
use velo_core::Branch;

/// Prepares the data once, by sqlx's own migrator and the shop's own code. Every test begins with it.
async fn shop(branch: Branch) -> Result<()> {
    let pool = PgPool::connect(&branch.url()).await?;
    sqlx::migrate!().run(&pool).await?;
    for customer in ["Ann", "Ben"] {
        place(&pool, customer, 500).await?;
    }
    pool.close().await;
    Ok(())
}

#[velo_core::test(seed = "migrations/", build = shop)]
async fn an_order_is_paid_once(pool: PgPool) -> Result<()> {
    let order = place(&pool, "Ann", 990).await?;
    assert!(pay(&pool, order).await?);
    assert!(!pay(&pool, order).await?);
    assert_eq!(owed(&pool, "Ann").await?, 500);
    Ok(())
}

#[velo_core::test(seed = "migrations/", build = shop)]
async fn nobody_sees_what_another_test_does(pool: PgPool) -> Result<()> {
    sqlx::query("TRUNCATE orders").execute(&pool).await?;
    assert_eq!(owed(&pool, "Ben").await?, 0);
    Ok(())
}

/// A whole server: two connections that wait for each other, and settings of the cluster.
#[velo_core::test(seed = "migrations/", build = shop)]
async fn of_two_who_pay_at_once_one_pays(branch: Branch) -> Result<()> {
    let pool = PgPoolOptions::new().max_connections(2).connect(&branch.url()).await?;
    sqlx::query("ALTER SYSTEM SET deadlock_timeout = '100ms'").execute(&pool).await?;
    let order = place(&pool, "Ann", 990).await?;
    let (one, other) = tokio::join!(pay(&pool, order), pay(&pool, order));
    assert_ne!(one?, other?);
    Ok(())
}

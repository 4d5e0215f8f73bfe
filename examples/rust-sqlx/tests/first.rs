use rust_sqlx::{owed, place};
use sqlx::{PgPool, Result};

#[velo_core::test(seed = "migrations/")]
async fn an_order_is_owed(pool: PgPool) -> Result<()> {
    place(&pool, "Ann", 990).await?;
    Ok(assert_eq!(owed(&pool, "Ann").await?, 990))
}

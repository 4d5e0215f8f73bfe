//! Small tests, each with a branch of its own from the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use velo_benches::{Result, client};
use velo_core::Pool;

/// So many tests in so long a time, until the last branch was gone.
#[derive(Debug, Default)]
pub struct Done {
    pub count: usize,
    time: Duration,
}

impl Done {
    pub fn a_second(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

pub async fn run(pool: &Pool, count: usize) -> Result<Done> {
    let at_once = std::thread::available_parallelism()?.get();
    let (begun, left) = (Instant::now(), Arc::new(AtomicUsize::new(count)));
    let mut runners = JoinSet::new();
    for _ in 0..at_once {
        let (pool, left) = (pool.clone(), left.clone());
        runners.spawn(async move {
            let one_less = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                test(&pool).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(ended) = runners.join_next().await {
        ended??;
    }
    Ok(Done { count, time: begun.elapsed() })
}

async fn test(pool: &Pool) -> Result<()> {
    let branch = pool.acquire().await?;
    let session = client::connect(&branch.connection()).await?;
    session
        .batch_execute("CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 100)")
        .await?;
    let counted: i64 = session.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
    if counted != 100 {
        return Err(format!("a test sees {counted} rows, and made 100").into());
    }
    drop(session);
    branch.close().await?;
    Ok(())
}

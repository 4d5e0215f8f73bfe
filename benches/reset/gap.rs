//! The longest time without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use velo_benches::{Result, client};
use velo_core::Connection;

/// How long a server may stay away.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `operation` while a client asks `to` again and again. The longest time between two answers in a row,
/// and how long the operation took.
pub async fn of(
    to: &Connection,
    operation: impl Future<Output = velo_core::Result<()>>,
) -> Result<(Duration, Duration)> {
    // The first answer before it, so that its gap is not that of a first connection.
    client::first_answer(to).await?;
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(to.clone(), over.clone()));
    let begun = Instant::now();
    let done = operation.await;
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let gap = asking.await??;
    done?;
    Ok((gap, took))
}

/// Asks until an answer came after the operation was over.
async fn ask(to: Connection, over: Arc<AtomicBool>) -> Result<Duration> {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        let was_over = over.load(Ordering::Relaxed);
        match client::first_answer(&to).await {
            Ok(_) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                if was_over {
                    return Ok(longest);
                }
            }
            Err(error) if last.elapsed() > LIMIT => return Err(error),
            // A refused connection costs nothing: without a pause the client would take the processor away
            // from the server that it waits for.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

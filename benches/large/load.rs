//! Fills a database: an event log, partitioned by its key as such tables are.

use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use futures_util::SinkExt;
use tokio_postgres::Client;
use velo_benches::figures::{GB, label};
use velo_benches::{Result, client};
use velo_core::{Branch, Connection};

use crate::rows::{self, Rows};

/// How much a partition holds at most. PostgreSQL keeps it in files of 1 GB.
const PARTITION: u64 = 4 * GB;
/// How many sessions load at once.
const SESSIONS: usize = 2;

/// What a server loads fast with: a table that is made and filled in one transaction is written once,
/// and to no WAL. Velo's own settings for a lasting branch force none of them.
const FAST: [&str; 9] = [
    "wal_level = minimal",
    "max_wal_senders = 0",
    "fsync = off",
    "full_page_writes = off",
    "autovacuum = off",
    "max_wal_size = '8GB'",
    "checkpoint_timeout = '1h'",
    "maintenance_work_mem = '256MB'",
    "synchronous_commit = off",
];

/// Whether a server can be told not to reserve space for the pages that come: btrfs compresses nothing
/// that is written into space which was reserved. 16 and later reserve it, and newer releases of them can
/// be told.
const EXTENDS: &str = "SELECT FROM pg_settings WHERE name = 'file_extend_method'";

/// What a database holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    pub(crate) rows: u64,
    /// `pg_database_size`.
    pub(crate) bytes: u64,
}

/// What is in it from an earlier run, if that came to its end.
pub(crate) async fn found(main: &Branch) -> Result<Option<Loaded>> {
    let client = client::connect(&main.connection()).await?;
    let table = "SELECT FROM pg_class WHERE oid = to_regclass('loaded')";
    if client.query_opt(table, &[]).await?.is_none() {
        return Ok(None);
    }
    let Some(row) = client.query_opt("SELECT rows FROM loaded", &[]).await? else {
        return Ok(None);
    };
    Ok(Some(Loaded { rows: row.get::<_, i64>(0) as u64, bytes: bytes(&client).await? }))
}

/// Fills main's database to about `size` bytes. Main runs before and after it.
pub(crate) async fn fill(main: &Branch, home: &Path, size: u64) -> Result<Loaded> {
    let begun = Instant::now();
    let client = client::connect(&main.connection()).await?;
    for setting in FAST {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
    }
    if client.query_opt(EXTENDS, &[]).await?.is_some() {
        client.batch_execute("ALTER SYSTEM SET file_extend_method = write_zeros").await?;
    }
    drop(client);
    main.restart().await?;
    let client = client::connect(&main.connection()).await?;
    // Nothing is compressed or moved out of line: what is in a page is what a row says.
    client
        .batch_execute(&format!(
            "CREATE TABLE events ({}, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             ALTER TABLE events ALTER payload SET STORAGE PLAIN;
             CREATE TABLE written (n bigint)",
            rows::COLUMNS
        ))
        .await?;
    let (mut rows, mut each) = (0, rows::bytes_each()?);
    loop {
        let now = bytes(&client).await?;
        let missing = size.saturating_sub(now);
        eprintln!(
            "  {:.2} of {} in {} rows after {:.0} s",
            now as f64 / GB as f64,
            label(size),
            rows,
            begun.elapsed().as_secs_f64()
        );
        if missing < size / 200 {
            break;
        }
        // The first time a little less, for what a row takes is then only guessed.
        let wanted = (missing / each).max(1);
        let wanted = if rows == 0 { wanted * 9 / 10 } else { wanted };
        partitions(&main.connection(), rows, wanted, each)?;
        rows += wanted;
        each = (bytes(&client).await?.saturating_sub(now) / wanted).max(1);
    }
    client.batch_execute("ALTER SYSTEM RESET ALL").await?;
    drop(client);
    main.restart().await?;
    // It ran without fsync.
    rustix::fs::syncfs(std::fs::File::open(home)?)?;
    let client = client::connect(&main.connection()).await?;
    client
        .batch_execute(&format!("CREATE TABLE loaded AS SELECT {rows}::bigint AS rows; CHECKPOINT"))
        .await?;
    Ok(Loaded { rows, bytes: bytes(&client).await? })
}

async fn bytes(client: &Client) -> Result<u64> {
    let row = client.query_one("SELECT pg_database_size(current_database())", &[]).await?;
    Ok(row.get::<_, i64>(0) as u64)
}

/// Adds the rows from `first` on, by several sessions at once.
fn partitions(to: &Connection, first: u64, count: u64, each: u64) -> Result<()> {
    let number = (count * each).div_ceil(PARTITION).max(SESSIONS as u64);
    let share = count.div_ceil(number);
    let ranges = (0..number)
        .map(|i| (first + (i * share).min(count), first + ((i + 1) * share).min(count)))
        .filter(|(from, until)| from < until);
    let ranges = Mutex::new(ranges);
    let next = || ranges.lock().unwrap_or_else(|e| e.into_inner()).next();
    std::thread::scope(|scope| {
        let session = || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut client = client::connect(to).await?;
                while let Some((from, until)) = next() {
                    partition(&mut client, from, until).await?;
                }
                Ok(())
            })
        };
        let all: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
        all.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a loading thread panicked".into()))
        })
    })
}

/// Makes and fills one partition, and then makes it one.
async fn partition(client: &mut Client, from: u64, until: u64) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let begun = Instant::now();
    let table = format!("events_{from}");
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "CREATE TABLE {table} (LIKE events INCLUDING STORAGE,
                 CHECK (id >= {from} AND id < {until})) WITH (autovacuum_enabled = off)"
        ))
        .await?;
    let copy = format!("COPY {table} FROM STDIN (FORMAT binary, FREEZE)");
    let sink = transaction.copy_in::<_, Cursor<Vec<u8>>>(&copy).await?;
    let mut sink = Box::pin(sink);
    let mut rows = Rows::from(from);
    let mut chunk = Vec::with_capacity(CHUNK + 8192);
    chunk.extend_from_slice(rows::HEAD);
    for _ in from..until {
        rows.row(&mut chunk)?;
        if chunk.len() >= CHUNK {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + 8192));
            sink.feed(Cursor::new(full)).await?;
        }
    }
    chunk.extend_from_slice(rows::TAIL);
    sink.feed(Cursor::new(chunk)).await?;
    sink.as_mut().finish().await?;
    transaction.batch_execute(&format!("ALTER TABLE {table} ADD PRIMARY KEY (id)")).await?;
    transaction.commit().await?;
    let attach = format!(
        "ALTER TABLE events ATTACH PARTITION {table} FOR VALUES FROM ({from}) TO ({until})"
    );
    client.batch_execute(&attach).await?;
    eprintln!("  {table}: {} rows in {:.0} s", until - from, begun.elapsed().as_secs_f64());
    Ok(())
}

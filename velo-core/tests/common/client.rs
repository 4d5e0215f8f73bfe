//! A client for a statement or two.

use velo_core::Branch;

/// The first column of what the statements give, on a connection of their own.
pub async fn attempt(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let rows = client.simple_query(sql).await?;
    Ok(rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join(" "))
}

pub async fn sql(branch: &Branch, sql: &str) -> String {
    attempt(&branch.url(), sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// One connection with a thread and a runtime of its own; `work` runs statements on it.
pub fn session<T: Send>(
    url: &str,
    work: impl FnOnce(&mut dyn FnMut(&str) -> Vec<String>) -> T + Send,
) -> T {
    let connected = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        });
        work(&mut |sql| {
            let messages = runtime.block_on(client.simple_query(sql)).unwrap();
            messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
                .collect()
        })
    };
    std::thread::scope(|scope| scope.spawn(connected).join().unwrap())
}

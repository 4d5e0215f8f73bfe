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

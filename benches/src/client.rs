//! The one client: what is timed ends with its first answer.

use tokio_postgres::{Client, NoTls};
use velo_core::Connection;

use crate::Result;

/// Connects over TCP with the password.
pub async fn connect(to: &Connection) -> std::result::Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::Config::new()
        .host(&to.host)
        .port(to.port)
        .user(&to.user)
        .password(&to.password)
        .dbname(&to.database)
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Connects, and returns once a query is answered.
pub async fn first_answer(to: &Connection) -> Result<Client> {
    let client = connect(to).await?;
    client.simple_query("SELECT 1").await?;
    Ok(client)
}

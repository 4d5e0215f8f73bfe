//! The one client: what is timed ends with its first answer.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};
use velo_core::Connection;

use crate::Result;

/// How a branch is reached over TCP with its password.
#[must_use]
pub fn config(to: &Connection) -> Config {
    let mut config = Config::new();
    config.host(&to.host).port(to.port).user(&to.user).password(&to.password).dbname(&to.database);
    config
}

/// How long a server may take to answer, unless told: nobody waits for ever.
const CONNECT: Duration = Duration::from_secs(30);

/// Connects.
pub async fn open(to: &Config) -> std::result::Result<Client, tokio_postgres::Error> {
    let mut to = to.clone();
    if to.get_connect_timeout().is_none() {
        to.connect_timeout(CONNECT);
    }
    let (client, connection) = to.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Connects over TCP with the password.
pub async fn connect(to: &Connection) -> std::result::Result<Client, tokio_postgres::Error> {
    open(&config(to)).await
}

/// Connects, and returns once a query is answered.
pub async fn first_answer(to: &Connection) -> Result<Client> {
    let client = connect(to).await?;
    client.simple_query("SELECT 1").await?;
    Ok(client)
}

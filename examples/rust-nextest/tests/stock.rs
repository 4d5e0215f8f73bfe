//! Three hundred tests, each with a PostgreSQL of its own and all with the same data:
//!
//! ```sh
//! cargo nextest run -p rust-nextest
//! ```
//!
//! nextest starts a process for each. The first one has the data prepared and starts a helper that has servers
//! ready for all of them; it ends with the run.

use tokio_postgres::{Client, Error};

/// Sells all that there is of an article, which no other test may have touched, and fails to sell more.
async fn sell_out(client: Client, article: usize) -> Result<(), Error> {
    let article = format!("article {}", article % 10 + 1);
    let sell = "UPDATE stock SET pieces = pieces - 1 WHERE article = $1";
    for _ in 0..10 {
        assert_eq!(client.execute(sell, &[&article]).await?, 1);
    }
    assert!(client.execute(sell, &[&article]).await.is_err());
    let all: i64 = client.query_one("SELECT sum(pieces) FROM stock", &[]).await?.get(0);
    assert_eq!(all, 9_990);
    Ok(())
}

/// A test for each number.
macro_rules! sales {
    ($($hundred:ident $tens:tt)*) => {
        $(mod $hundred { sales!(@tens $tens); })*
    };
    (@tens [$($ten:ident)*]) => {
        $(mod $ten { sales!(@units sale_0 0 sale_1 1 sale_2 2 sale_3 3 sale_4 4 sale_5 5 sale_6 6 sale_7 7 sale_8 8 sale_9 9); })*
    };
    (@units $($name:ident $number:literal)*) => {
        $(
            #[velo_core::test(seed = "migrations/")]
            async fn $name(client: tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
                crate::sell_out(client, $number).await
            }
        )*
    };
}

sales! {
    spring [t0 t1 t2 t3 t4 t5 t6 t7 t8 t9]
    summer [t0 t1 t2 t3 t4 t5 t6 t7 t8 t9]
    autumn [t0 t1 t2 t3 t4 t5 t6 t7 t8 t9]
}

//! The example, as somebody would run it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::process::Command;

#[test]
fn a_migration_fails_on_real_data_and_another_does_not() {
    let bins = std::env::var("VELO_TEST_PG").unwrap_or_default();
    let Some((_, bin)) = bins.split_whitespace().last().and_then(|pair| pair.split_once('='))
    else {
        println!("SKIP: VELO_TEST_PG is not set");
        return;
    };
    let ran = Command::new(env!("CARGO_BIN_EXE_migration-rehearsal"))
        .env("VELO_PG_BIN", bin)
        .env_remove("VELO_HOME")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    assert!(out.contains("imported by basebackup"), "{out}{err}");
    assert!(out.contains("bad.sql: failed") && out.contains("users_email"), "{out}{err}");
    assert!(out.contains("good.sql: done"), "{out}{err}");
}

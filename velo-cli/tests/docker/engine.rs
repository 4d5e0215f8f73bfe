//! The engine that the tests use, past Velo.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::common::Home;

/// What the engine answers: its status, and what it says.
pub(crate) fn ask(method: &str, path: &str, body: &Value) -> (u16, Value) {
    let url = std::env::var("VELO_TEST_DOCKER").unwrap();
    let mut stream = UnixStream::connect(url.trim_start_matches("unix://")).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    // In this version an answer is not cut into pieces, and ends with the connection.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// The same, where it must do it.
#[track_caller]
pub(crate) fn told(method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = ask(method, path, body);
    assert!((200..400).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

pub(crate) fn is_podman() -> bool {
    told("GET", "/version", &Value::Null).to_string().contains("Podman")
}

/// Whether it runs as a normal user.
pub(crate) fn is_rootless() -> bool {
    let url = std::env::var("VELO_TEST_DOCKER").unwrap();
    let socket = std::fs::metadata(url.trim_start_matches("unix://")).unwrap();
    std::os::unix::fs::MetadataExt::uid(&socket) != 0
}

/// The container of a branch's server: its name, and the volume that it works on.
#[track_caller]
pub(crate) fn container_of(home: &Home, branch: &str) -> (String, String) {
    let id = home.json(&["branch", "get", branch])["id"].as_str().unwrap().to_owned();
    let all = told("GET", "/containers/json?all=1", &Value::Null);
    let own = all.as_array().unwrap().iter().find(|found| found["Labels"]["velo.id"] == *id);
    let own = own.unwrap_or_else(|| panic!("{branch} has no container: {all}"));
    let name = own["Names"][0].as_str().unwrap().trim_start_matches('/').to_owned();
    (name, own["Labels"]["velo.volume"].as_str().unwrap().to_owned())
}

/// A container of somebody's who knows nothing of Velo, which runs until this is dropped.
pub(crate) struct Foreign(pub(crate) String);

impl Foreign {
    pub(crate) fn new(name: &str, image: &str) -> Self {
        let body = serde_json::json!({
            "Image": image,
            "Entrypoint": ["/bin/sh", "-c", "read _"],
            "OpenStdin": true,
            "HostConfig": { "NetworkMode": "none" },
        });
        told("POST", &format!("/containers/create?name={name}"), &body);
        let new = Self(name.to_owned());
        told("POST", &format!("/containers/{name}/start"), &Value::Null);
        new
    }

    #[track_caller]
    pub(crate) fn must_run(&self) {
        let found = told("GET", &format!("/containers/{}/json", self.0), &Value::Null);
        assert_eq!(found["State"]["Running"], true, "{found}");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        ask("DELETE", &format!("/containers/{}?force=1&v=1", self.0), &Value::Null);
    }
}

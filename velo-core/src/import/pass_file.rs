//! Password files, as libpq reads them: `host:port:database:user:password`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::conninfo::Conninfo;
use crate::error::{Error, Result};

/// One in which everybody has this password.
pub(super) fn of_everybody(password: &str) -> String {
    format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"))
}

/// The content of somebody's, which libpq takes only if nobody else may read it.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let Ok(found) = path.metadata() else { return Ok(None) };
    if !found.is_file() || found.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "a password file that others may read is not used");
        return Ok(None);
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|e| Error::io(format!("read {}", path.display()), e))
}

/// The lines that may be meant for this server, whatever its database.
pub(super) fn of_server(text: &str, server: &Conninfo) -> String {
    let named = [server.get("host"), server.get("hostaddr")].into_iter().flatten();
    // A socket where libpq looks by itself is called so.
    let hosts: Vec<&str> = named.flat_map(|hosts| hosts.split(',')).chain(["localhost"]).collect();
    let ports = server.get("port").unwrap_or_default().split(',');
    let ports: Vec<&str> = ports.map(|port| if port.is_empty() { "5432" } else { port }).collect();
    let user = server.get("user").unwrap_or_default();
    let is_own = |line: &&str| {
        let parts = fields(line);
        // libpq takes no notice of what stands behind the password.
        let [host, port, _, role, _, ..] = parts.as_slice() else { return false };
        let fits = |part: &str, wanted: &[&str]| part == "*" || wanted.contains(&part);
        fits(host, &hosts) && fits(port, &ports) && fits(role, &[user])
    };
    text.lines().filter(is_own).map(|line| format!("{line}\n")).collect()
}

/// The parts of a line.
fn fields(line: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let part = match letter {
            ':' => None,
            '\\' => letters.next(),
            other => Some(other),
        };
        match (part, parts.last_mut()) {
            (Some(letter), Some(last)) => last.push(letter),
            _ => parts.push(String::new()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_servers_and_roles_stay_where_they_are() {
        let own = Conninfo::parse("host=db.example port=5433 user=ann dbname=shop").unwrap();
        let text =
            "# mine\nother:5433:*:ann:a\ndb.example:*:shop:ann:b\\:c\n*:5433:*:*:d\n*:*:*:ben:e\n";
        assert_eq!(of_server(text, &own), "db.example:*:shop:ann:b\\:c\n*:5433:*:*:d\n");
        let more = "db.example:5433:*:ann:b:c\n";
        assert_eq!(of_server(more, &own), more);
        let several = Conninfo::parse("host=a,b port=,5433 user=ann").unwrap();
        assert_eq!(of_server("a:5432:*:ann:x\nb:1:*:ann:y\n", &several), "a:5432:*:ann:x\n");
        let local = Conninfo::parse("host=/run/x user=ann").unwrap();
        let text = "localhost:5432:*:ann:x\n/run/x:5432:*:ann:y\n/run/x:1:*:ann:z\n";
        assert_eq!(of_server(text, &local), "localhost:5432:*:ann:x\n/run/x:5432:*:ann:y\n");
        assert_eq!(of_server(&of_everybody("p"), &local), "*:*:*:*:p\n");
    }

    #[test]
    fn a_line_is_taken_apart_as_it_is_written() {
        assert_eq!(fields("a\\:b:c"), ["a:b", "c"]);
        assert_eq!(fields(of_everybody("x:\\").trim_end())[4], "x:\\");
    }
}

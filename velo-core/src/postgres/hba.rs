//! Who may connect, and how: the server's `hba.conf` and `ident.conf`, outside PGDATA.
//!
//! Velo itself connects over the socket as the operating system's user that it is (`peer`). Clients
//! give the password, over TCP and the socket. Nobody is ever trusted.

/// What the two files are made from.
pub(crate) struct Files<'a> {
    /// The superuser that Velo works as.
    pub(crate) role: &'a str,
    /// Another one, where that is not in the data yet.
    pub(crate) also: Option<&'a str>,
    /// The operating system's users that are Velo.
    pub(crate) users: &'a [String],
    /// Whether clients of 127.0.0.1 reach the server through a network of its own, and so come from
    /// an address in that.
    pub(crate) bridged: bool,
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

impl Files<'_> {
    /// `hba.conf`; with `open` clients are let in.
    pub(crate) fn hba(&self, open: bool) -> String {
        let mut out = String::new();
        for role in self.roles() {
            out.push_str(&format!("local all {} peer map=velo\n", quoted(role)));
        }
        let method = if open { "scram-sha-256" } else { "reject" };
        for kind in ["local all all", "local replication all"] {
            out.push_str(&format!("{kind} {method}\n"));
        }
        for kind in ["host all all", "host replication all"] {
            out.push_str(&format!("{kind} 127.0.0.1/32 {method}\n"));
            if self.bridged {
                out.push_str(&format!("{kind} samenet {method}\n"));
            }
        }
        out
    }

    /// `ident.conf`: which system users the role is.
    pub(crate) fn ident(&self) -> String {
        let line = |user: &String, role| format!("velo {} {}\n", quoted(user), quoted(role));
        self.roles().flat_map(|role| self.users.iter().map(move |user| line(user, role))).collect()
    }

    fn roles(&self) -> impl Iterator<Item = &str> {
        [Some(self.role), self.also].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_trusted_and_docker_clients_give_the_password() {
        for bridged in [false, true] {
            let users = ["root".to_owned()];
            let files = Files { role: "postgres", also: None, users: &users, bridged };
            for (open, method) in [(false, "reject"), (true, "scram-sha-256")] {
                let hba = files.hba(open);
                let mut lines = hba.lines();
                assert_eq!(lines.next(), Some("local all \"postgres\" peer map=velo"));
                assert!(lines.all(|line| line.ends_with(method)), "{hba}");
                assert_eq!(hba.contains("host all all samenet"), bridged);
                assert_eq!(hba.contains("host replication all samenet"), bridged);
            }
        }
    }

    #[test]
    fn a_second_role_is_velo_as_well() {
        let users = ["root".to_owned(), "ann".to_owned()];
        let files = Files { role: "velo", also: Some("boss"), users: &users, bridged: false };
        let hba = files.hba(false);
        let velos: Vec<_> = hba.lines().filter(|line| line.ends_with("map=velo")).collect();
        let wanted = ["local all \"velo\" peer map=velo", "local all \"boss\" peer map=velo"];
        assert_eq!(velos, wanted);
        assert!(hba.starts_with(wanted[0]));
        let ident = files.ident();
        assert_eq!(ident.lines().count(), 4);
        assert!(ident.contains("velo \"ann\" \"boss\"\n"), "{ident}");
    }
}

//! Passwords, and what PostgreSQL stores of them (SCRAM-SHA-256, RFC 5802 and RFC 7677).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A password that Velo made: 128 random bits, written with letters that need no escaping in a URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn generate() -> Result<Self> {
        Ok(Self(URL_SAFE_NO_PAD.encode(random::<16>()?)))
    }

    /// The password itself. It goes into URLs and nowhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Io, format!("the system has no random bytes: {e}")).with_source(e)
    })?;
    Ok(bytes)
}

/// What PostgreSQL stores for `password`, with one iteration: iterations stretch passwords that
/// people choose, a random key needs none, and each connection is 6 ms cheaper.
pub(crate) fn verifier(password: &Password) -> Result<String> {
    write(password, &random::<16>()?, 1)
}

fn write(password: &Password, salt: &[u8], iterations: u32) -> Result<String> {
    let (stored, server) = keys(password, salt, iterations)?;
    Ok(format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    ))
}

/// The most iterations that are tried: PostgreSQL's own number, unless it was told another. One of more
/// could take minutes, and is not Velo's; then the password is set again.
const ITERATIONS: u32 = 4096;

/// Whether `verifier`, as PostgreSQL stores it, is one of `password`.
pub(crate) fn matches(verifier: &str, password: &Password) -> bool {
    let parse = || {
        let rest = verifier.strip_prefix("SCRAM-SHA-256$")?;
        let (head, _) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let iterations: u32 = iterations.parse().ok().filter(|n| (1..=ITERATIONS).contains(n))?;
        write(password, &STANDARD.decode(salt).ok()?, iterations).ok()
    };
    parse().is_some_and(|own| own == verifier)
}

/// StoredKey and ServerKey. The password is ASCII, so SASLprep leaves it as it is.
fn keys(password: &Password, salt: &[u8], iterations: u32) -> Result<([u8; 32], [u8; 32])> {
    let hmac = |key: &[u8], parts: &[&[u8]]| -> Result<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key)
            .map_err(|e| Error::new(ErrorKind::Internal, "HMAC refuses a key").with_source(e))?;
        parts.iter().for_each(|part| mac.update(part));
        Ok(mac.finalize().into_bytes().into())
    };
    let key = password.0.as_bytes();
    let mut last = hmac(key, &[salt, &1u32.to_be_bytes()])?;
    let mut salted = last;
    for _ in 1..iterations {
        last = hmac(key, &[&last])?;
        salted.iter_mut().zip(last).for_each(|(a, b)| *a ^= b);
    }
    let client = hmac(&salted, &[b"Client Key"])?;
    let stored: [u8; 32] = Sha256::digest(client).into();
    Ok((stored, hmac(&salted, &[b"Server Key"])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677: user "user", password "pencil", 4096 iterations. Its client proof
    /// and server signature follow from these keys.
    #[test]
    fn keys_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let (stored, server) = keys(&Password("pencil".into()), &salt, 4096).unwrap();
        let auth: &[u8] = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mut mac = Hmac::<Sha256>::new_from_slice(&server).unwrap();
        mac.update(auth);
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&stored).unwrap();
        mac.update(auth);
        let signature = mac.finalize().into_bytes();
        let client: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha256::digest(client).as_slice(), stored);
    }

    #[test]
    fn a_verifier_matches_its_password_alone() {
        let (a, b) = (Password::generate().unwrap(), Password::generate().unwrap());
        let text = verifier(&a).unwrap();
        assert!(matches(&text, &a) && !matches(&text, &b));
        for bad in
            ["", "md5abc", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:$:", "SCRAM-SHA-256$9999999999:a$b:c"]
        {
            assert!(!matches(bad, &a), "{bad}");
        }
        let salt = random::<16>().unwrap();
        assert!(matches(&write(&a, &salt, ITERATIONS).unwrap(), &a));
        assert!(!matches(&write(&a, &salt, ITERATIONS + 1).unwrap(), &a), "tried, however many");
        assert!(!format!("{a:?}").contains(a.expose()));
    }
}

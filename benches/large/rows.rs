//! The rows: a log of a shop's requests, as such tables look. Most of a row repeats what others say, as
//! real ones do; identifiers, amounts and free text do not.

use std::io::Write;

/// What a row is, for COPY in its binary form.
pub(crate) const COLUMNS: &str = "id bigint, at timestamptz NOT NULL, account integer NOT NULL, kind text NOT NULL, payload text NOT NULL";

/// What the binary form of COPY begins with.
pub(crate) const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(crate) const TAIL: &[u8] = &[0xff, 0xff];

const WORDS: [&str; 64] = [
    "the",
    "parcel",
    "was",
    "left",
    "with",
    "a",
    "neighbour",
    "because",
    "nobody",
    "answered",
    "please",
    "call",
    "before",
    "delivery",
    "customer",
    "asked",
    "for",
    "an",
    "invoice",
    "to",
    "other",
    "address",
    "second",
    "item",
    "damaged",
    "in",
    "transit",
    "refund",
    "has",
    "been",
    "approved",
    "by",
    "support",
    "and",
    "will",
    "arrive",
    "within",
    "five",
    "days",
    "gift",
    "wrap",
    "requested",
    "no",
    "note",
    "from",
    "warehouse",
    "stock",
    "count",
    "differs",
    "checked",
    "again",
    "on",
    "monday",
    "size",
    "too",
    "small",
    "exchange",
    "larger",
    "colour",
    "blue",
    "instead",
    "of",
    "green",
    "thanks",
];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "shop-worker/4.11.2 (batch; eu-central)",
    "curl/8.7.1",
];
const KINDS: [&str; 6] =
    ["order.placed", "order.paid", "order.shipped", "cart.changed", "stock.moved", "refund.made"];

/// One after the other, always the same ones.
pub(crate) struct Rows {
    id: u64,
    state: u64,
    text: Vec<u8>,
}

impl Rows {
    /// From the row `id` on.
    pub(crate) fn from(id: u64) -> Self {
        Self { id, state: 0, text: Vec::with_capacity(4096) }
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.random() >> 32) * n) >> 32
    }

    fn one_of(&mut self, list: &[&'static str]) -> &'static str {
        let index = self.below(list.len() as u64) as usize;
        list.get(index).copied().unwrap_or_default()
    }

    /// Appends the next row.
    pub(crate) fn row(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        // So that a row does not depend on where one began.
        self.state = self.id.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let account = self.below(200_000);
        let kind = self.one_of(&KINDS);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.payload(account, kind, &mut text)?;
        out.extend(5_i16.to_be_bytes());
        field(out, &self.id.to_be_bytes());
        // Microseconds since 2000, about forty rows a second.
        field(out, &(804_556_800_000_000 + self.id * 25_000 + self.below(20_000)).to_be_bytes());
        field(out, &(account as u32).to_be_bytes());
        field(out, kind.as_bytes());
        field(out, &text);
        self.text = text;
        self.id += 1;
        Ok(())
    }

    fn payload(&mut self, account: u64, kind: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
        let (request, agent) = (self.random(), self.one_of(&AGENTS));
        write!(
            out,
            r#"{{"type":"{kind}","version":3,"request":"{request:016x}","source":"storefront","environment":"production","region":"eu-central","account":{{"id":{account},"email":"customer.{account}@example.com","plan":"standard","verified":true,"locale":"de-DE","currency":"EUR"}},"#
        )?;
        let (order, took, ip) = (self.below(9_000_000), self.below(900), self.below(1 << 16));
        write!(
            out,
            r#""http":{{"method":"POST","path":"/api/v2/accounts/{account}/orders/{order}","status":200,"duration_ms":{took},"remote":"10.20.{}.{}","agent":"{agent}","headers":{{"accept":"application/json","accept-encoding":"gzip, deflate, br","content-type":"application/json; charset=utf-8","x-forwarded-proto":"https"}}}},"items":["#,
            ip >> 8,
            ip & 255
        )?;
        for i in 0..=self.below(5) {
            let comma = if i == 0 { "" } else { "," };
            let (sku, number, cents) = (self.below(50_000), self.below(4) + 1, self.below(20_000));
            let (first, second) = (self.one_of(&WORDS), self.one_of(&WORDS));
            write!(
                out,
                r#"{comma}{{"sku":"ART-{sku:06}","title":"{first} {second}","quantity":{number},"unit_price":"{}.{:02}","tax_rate":"19.00","discount":null,"warehouse":"central"}}"#,
                cents / 100,
                cents % 100
            )?;
        }
        out.extend_from_slice(br#"],"note":""#);
        for i in 0..self.below(24) {
            if i > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(self.one_of(&WORDS).as_bytes());
        }
        out.extend_from_slice(br#"","flags":["tracked","newsletter"],"trace":null}"#);
        Ok(())
    }
}

fn field(out: &mut Vec<u8>, value: &[u8]) {
    out.extend((value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// About how many bytes of a table one row takes, with its share of the index.
pub(crate) fn bytes_each() -> std::io::Result<u64> {
    const ROWS: u64 = 10_000;
    let (mut rows, mut out) = (Rows::from(0), Vec::new());
    for _ in 0..ROWS {
        rows.row(&mut out)?;
    }
    Ok(out.len() as u64 / ROWS * 11 / 10)
}

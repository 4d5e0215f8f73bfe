//! The SQL that masks: functions that live as long as the masking, and what a column is set to.

use super::catalog::Found;
use super::{Fake, Mask};
use crate::postgres::session::{ident, literal};

/// A keyed hash (HMAC-SHA-256), and what is made of it. The key is in settings of the session, so that it is in
/// no catalog and no log. Numbers go through a Feistel network: two never become the same.
pub(super) const FUNCTIONS: &str = r#"
CREATE SCHEMA velo_masking;
CREATE FUNCTION velo_masking.mac(v text) RETURNS bytea LANGUAGE sql STABLE STRICT AS $f$
    SELECT pg_catalog.sha256(pg_catalog.decode(pg_catalog.current_setting('velo_masking.outer'), 'hex')
        || pg_catalog.sha256(pg_catalog.decode(pg_catalog.current_setting('velo_masking.inner'), 'hex')
            || pg_catalog.convert_to(v, 'UTF8')))
$f$;
CREATE FUNCTION velo_masking.number(v text) RETURNS bigint LANGUAGE sql STABLE STRICT AS $f$
    SELECT ('x' || pg_catalog.substr(pg_catalog.encode(velo_masking.mac(v), 'hex'), 1, 8))::bit(32)::bigint
$f$;
CREATE FUNCTION velo_masking.permuted(v bigint, half int) RETURNS bigint LANGUAGE plpgsql STABLE STRICT AS $f$
DECLARE
    mask bigint := (1::bigint << half) - 1;
    l bigint := (v >> half) & mask;
    r bigint := v & mask;
    t bigint;
BEGIN
    FOR i IN 1..4 LOOP
        t := l # (velo_masking.number(i || ':' || r) & mask);
        l := r;
        r := t;
    END LOOP;
    t := (l << half) | r;
    IF half < 32 AND t >= (1::bigint << (2 * half - 1)) THEN
        t := t - (1::bigint << (2 * half));
    END IF;
    RETURN t;
END $f$;
CREATE FUNCTION velo_masking.pick(v text, among text[]) RETURNS text LANGUAGE sql STABLE STRICT AS $f$
    SELECT among[1 + velo_masking.number(v) % pg_catalog.cardinality(among)]
$f$;
CREATE FUNCTION velo_masking.digits(v text, n int) RETURNS text LANGUAGE sql STABLE STRICT AS $f$
    SELECT pg_catalog.lpad((velo_masking.number('digits:' || v) % (10::bigint ^ n)::bigint)::text, n, '0')
$f$;
"#;

const FIRST: &str = "Ada,Alan,Barbara,Carlos,Chen,Dara,Edgar,Elena,Fatima,Grace,Hugo,Ines,Ivan,Jun,Kofi,Lena,Linus,Mara,\
                     Nils,Olga,Pablo,Quinn,Rosa,Sami,Tove,Uma,Vera,Wim,Xenia,Yuki,Zora";
const LAST: &str = "Abbott,Berg,Castro,Dijkstra,Eriksen,Fischer,Garcia,Hopper,Ito,Jansen,Kowalski,Lovelace,Mensah,Novak,\
                    Okafor,Petrov,Quist,Rossi,Sato,Turing,Ueda,Vargas,Weber,Xu,Yilmaz,Zhang";
const CITIES: &str = "Arden,Belmont,Clearwater,Dover,Eastfield,Fairview,Glenwood,Hillcrest,Ironbridge,Kingsport,Lakeside,\
                      Millbrook,Northgate,Oakdale,Pinehurst,Riverton,Stonefield,Westbrook";
const WORDS: &str = "lorem,ipsum,dolor,sit,amet,consectetur,adipiscing,elit,sed,do,eiusmod,tempor,incididunt,labore,magna";

const TEXTS: [&str; 5] = ["text", "varchar", "bpchar", "citext", "name"];

/// How many letters a hash has as text, and at the most a made-up value.
const HASH: u32 = 32;
const MADE_UP: u32 = 80;

/// Whether what a mask makes of equal values of two columns is equal, too. It is made of their text, and cut to what
/// the column holds.
pub(super) fn stays_equal(mask: &Mask, one: &Found, other: &Found) -> bool {
    let most = match mask {
        Mask::Hash => HASH,
        Mask::Fake(_) => MADE_UP,
        _ => return true,
    };
    let both = [one, other];
    let is_plain = |column: &&Found| ["text", "varchar"].contains(&column.base.as_str());
    let is_one_type = one.base == other.base || both.iter().all(is_plain);
    let fits = |column: &Found| column.length.map_or(most, |length| length.min(most));
    is_one_type && fits(one) == fits(other) && !both.iter().any(|column| column.is_loose)
}

/// What a column is set to; or why it cannot be masked so.
pub(super) fn value(mask: &Mask, column: &Found) -> Result<String, String> {
    let own = ident(&column.name);
    let text = format!("{own}::text");
    let is_text = TEXTS.contains(&column.base.as_str());
    let fitted = |value: String| match column.length {
        Some(length) => format!("pg_catalog.left({value}, {length})"),
        None => value,
    };
    let value = match mask {
        Mask::Keep => own,
        Mask::Null => "NULL".to_owned(),
        Mask::Constant(constant) => literal(constant),
        Mask::Hash => {
            let hex = format!(
                "pg_catalog.substr(pg_catalog.encode(velo_masking.mac({text}), 'hex'), 1, {HASH})"
            );
            match column.base.as_str() {
                _ if is_text => fitted(hex),
                "uuid" => hex,
                "bytea" => format!("velo_masking.mac(pg_catalog.encode({own}, 'hex'))"),
                "int2" => format!("velo_masking.permuted({own}, 8)"),
                "int4" => format!("velo_masking.permuted({own}, 16)"),
                "int8" => format!("velo_masking.permuted({own}, 32)"),
                other => return Err(format!("hash knows no {other}: use null, constant or keep")),
            }
        }
        Mask::Fake(_) if !is_text => {
            return Err(format!("made-up text does not fit {}", column.base));
        }
        Mask::Fake(fake) => {
            let pick = |salt: &str, list: &str| {
                format!("velo_masking.pick('{salt}:' || {text}, '{{{list}}}'::text[])")
            };
            let digits = |n: u32| format!("velo_masking.digits({text}, {n})");
            fitted(match fake {
                Fake::FirstName => pick("first", FIRST),
                Fake::LastName => pick("last", LAST),
                Fake::Name => format!("{} || ' ' || {}", pick("first", FIRST), pick("last", LAST)),
                Fake::Email => format!(
                    "'user-' || pg_catalog.substr(pg_catalog.encode(velo_masking.mac({text}), 'hex'), 1, 16) \
                     || '@example.com'"
                ),
                Fake::Phone => format!("'+1555' || {}", digits(7)),
                Fake::Street => {
                    format!("{} || ' ' || {} || ' Street'", digits(3), pick("street", LAST))
                }
                Fake::City => pick("city", CITIES),
                Fake::Company => format!("{} || ' Ltd'", pick("company", LAST)),
                Fake::Text => (1..=6)
                    .map(|n| pick(&format!("word{n}"), WORDS))
                    .collect::<Vec<_>>()
                    .join(" || ' ' || "),
            })
        }
    };
    Ok(format!("({value})::{}", column.full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(base: &str, length: Option<u32>) -> Found {
        Found {
            name: "c".into(),
            base: base.into(),
            full: base.into(),
            length,
            is_loose: false,
            is_generated: false,
            is_always_identity: false,
        }
    }

    #[test]
    fn what_types_do_to_equal_values_is_known() {
        let (hash, fake) = (Mask::Hash, Mask::Fake(Fake::Email));
        let text = |length| column("varchar", length);
        for (one, other, stay) in [
            (text(Some(40)), text(Some(20)), false),
            (text(Some(20)), text(Some(20)), true),
            (text(Some(40)), text(None), true),
            (text(None), column("text", None), true),
            (text(Some(20)), column("bpchar", Some(20)), false),
            (column("name", None), column("text", None), false),
            (column("int4", None), column("int4", None), true),
            (column("int4", None), column("int8", None), false),
            (column("text", None), Found { is_loose: true, ..column("text", None) }, false),
        ] {
            assert_eq!(stays_equal(&hash, &one, &other), stay, "{one:?} {other:?}");
            assert_eq!(stays_equal(&hash, &other, &one), stay, "{other:?} {one:?}");
            assert!(stays_equal(&Mask::Keep, &one, &other));
        }
        // Longer than a hash, and shorter than what is made up may be.
        assert!(!stays_equal(&fake, &text(Some(40)), &text(None)));
        assert!(stays_equal(&fake, &text(Some(200)), &text(None)));
    }

    #[test]
    fn no_made_up_value_is_longer_than_is_reckoned_with() {
        let longest = |list: &str| list.split(',').map(str::len).max().unwrap_or(0);
        let names = longest(FIRST).max(longest(LAST)).max(longest(CITIES)).max(longest(WORDS));
        assert!(6 * names + 5 <= MADE_UP as usize, "{names}");
    }

    #[test]
    fn a_mask_that_does_not_fit_its_type_is_refused() {
        let column = |base: &str| column(base, Some(5));
        assert!(value(&Mask::Hash, &column("jsonb")).is_err());
        assert!(value(&Mask::Fake(Fake::Name), &column("int4")).is_err());
        assert!(value(&Mask::Hash, &column("varchar")).unwrap().contains("left("));
        assert_eq!(
            value(&Mask::Constant("it's".into()), &column("text")).unwrap(),
            "('it''s')::text"
        );
    }
}

//! A masking file held against what a database holds: what is to be done, or why that cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::catalog::{Check, Contents, Kind, Relation, every};
use super::{Column, Mask, Masking, Table, Whole, bad, list, sql};
use crate::error::Result;
use crate::postgres::session::ident;

/// What is to be done with the tables of the copy.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What is truncated, in one statement.
    pub(super) truncate: Vec<String>,
    pub(super) rewrite: Vec<Rewrite>,
    /// The indexes that are to ask nothing while rows change: numbers become others of the same kind, which rows that come
    /// later may still have.
    pub(super) loosen: Vec<String>,
    /// The constraints of what is changed that nobody has checked then: indexes, and foreign keys.
    pub(super) deferred: Vec<String>,
    pub(super) keys: Vec<Check>,
    /// The materialized views that are left empty, and then those that are filled anew, in an order in which each comes
    /// after those that it reads.
    pub(super) unfill: Vec<String>,
    pub(super) refresh: Vec<String>,
}

/// A statement after which old rows are removed.
#[derive(Debug)]
pub(super) struct Rewrite {
    /// What it names.
    pub(super) target: String,
    pub(super) statement: String,
}

/// What is wrong with a file.
#[derive(Default)]
struct Faults {
    /// What it should name.
    unknown: Vec<String>,
    wrong: Vec<String>,
}

impl Masking {
    fn of(&self, full: &str, relation: &Relation) -> Option<&Table> {
        let own = self.tables.get(full);
        // Rows that are elsewhere, and are read with another table's, have to be meant. What an extension brings for
        // itself is nobody's to empty with all of a schema.
        let alone =
            relation.is_extensions_own || (relation.kind == Kind::Foreign && relation.is_part);
        match alone {
            true => own,
            false => own.or_else(|| self.tables.get(&every(&relation.schema))),
        }
    }

    /// What becomes of each column of a table, by its name.
    fn masks(&self, full: &str, relation: &Relation) -> BTreeMap<String, Mask> {
        match self.of(full, relation) {
            Some(Table::Columns(columns)) => columns
                .iter()
                .filter_map(|(name, column)| Some((name.clone(), column.mask().ok()?)))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// Whether numbers of the table become others of so few that two may meet on the way.
    fn permutes(&self, full: &str, relation: &Relation) -> bool {
        let masks = self.masks(full, relation);
        relation.columns.iter().any(|column| {
            ["int2", "int4"].contains(&column.base.as_str())
                && masks.get(&column.name) == Some(&Mask::Hash)
        })
    }

    /// Holds the file against what there is.
    pub(super) fn plan(&self, path: &Path, found: &Contents) -> Result<Plan> {
        let mut faults = Faults::default();
        let mut plan = Plan::default();
        let (mut empty, mut changed) = (Vec::new(), BTreeSet::new());
        for (full, relation) in &found.relations {
            match (self.of(full, relation), relation.kind) {
                (None, _) if relation.is_extensions_own => {}
                (None, _) => faults.unknown.push(format!("the {} {full}", relation.what())),
                (Some(Table::Whole(Whole::Keep)), _) => {}
                (Some(_), Kind::Foreign) => faults.wrong.push(format!(
                    "{full} is a foreign table, whose rows are elsewhere: all that can be said of it is keep"
                )),
                (Some(Table::Whole(Whole::Empty)), _) => {
                    empty.push(full.as_str());
                    changed.insert(full);
                }
                (Some(Table::Columns(columns)), _) => {
                    let rewrites = self.rewrites(full, relation, columns, &mut faults);
                    if !rewrites.is_empty() {
                        changed.insert(full);
                        plan.deferred.extend(relation.deferred.iter().cloned());
                        if self.permutes(full, relation) {
                            plan.loosen.extend(relation.immediate.iter().cloned());
                        }
                    }
                    plan.rewrite.extend(rewrites);
                }
            }
        }
        let is_changed = |key: &&Check| changed.contains(&key.from) || changed.contains(&key.to);
        plan.deferred.extend(plan.loosen.iter().cloned());
        plan.keys = found.checks.iter().filter(is_changed).cloned().collect();
        plan.empty(empty, found);
        self.views(found, &mut plan, &mut faults);
        let gone = self.tables.keys().filter(|name| {
            let is_there = found.relations.contains_key(*name) || found.views.contains_key(*name);
            !name.ends_with(".*") && !is_there
        });
        faults.wrong.extend(gone.map(|name| format!("there is no table {name}")));
        if !faults.unknown.is_empty() {
            let what = format!("it does not say what becomes of {}", list(&faults.unknown));
            return Err(
                bad(path, what).with_hint("name each, with keep where nothing is to be masked")
            );
        }
        if !faults.wrong.is_empty() {
            return Err(bad(path, list(&faults.wrong)).with_hint("correct the masking file"));
        }
        self.check_keys(path, found)?;
        Ok(plan)
    }

    /// The statements that mask a table.
    fn rewrites(
        &self,
        full: &str,
        relation: &Relation,
        columns: &BTreeMap<String, Column>,
        faults: &mut Faults,
    ) -> Vec<Rewrite> {
        let known: BTreeSet<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
        let lost = columns.keys().filter(|name| !known.contains(name.as_str()));
        faults.wrong.extend(lost.map(|name| format!("{full} has no column {name}")));
        let masks = self.masks(full, relation);
        let (mut sets, mut moved) = (Vec::new(), None);
        for column in &relation.columns {
            match masks.get(&column.name) {
                // Computed of others.
                _ if column.is_generated => {}
                None => faults.unknown.push(format!("the column {full}.{}", column.name)),
                Some(Mask::Keep) => {}
                Some(_) if column.is_always_identity => faults.wrong.push(format!(
                    "{full}.{} is GENERATED ALWAYS AS IDENTITY, and cannot be set",
                    column.name
                )),
                Some(mask) => match sql::value(mask, column) {
                    Ok(value) => {
                        sets.push(format!("{} = {value}", ident(&column.name)));
                        moved = moved.or(relation.split_by.get(&column.name));
                    }
                    Err(why) => faults.wrong.push(format!("{full}.{}: {why}", column.name)),
                },
            }
        }
        if sets.is_empty() {
            return Vec::new();
        }
        if let (Some(column), true) = (moved, relation.has_foreign_part) {
            faults.wrong.push(format!(
                "{full} is split by {column}, and has a partition that is a foreign table, which masked rows could move \
                 into: keep the column, or drop that partition in a transform"
            ));
        }
        // Where rows may move from one partition to another, it is masked as a whole.
        let targets = match moved.is_some() || relation.is_split_by_value {
            true => relation.targets(),
            false => relation.leaves(),
        };
        let sets = sets.join(", ");
        let rewrite = |target: String| {
            let statement = format!("UPDATE {target} SET {sets}");
            Rewrite { target, statement }
        };
        targets.into_iter().map(rewrite).collect()
    }

    /// Materialized views are filled anew of what is masked, and never from elsewhere.
    fn views(&self, found: &Contents, plan: &mut Plan, faults: &mut Faults) {
        let is_empty = |name: &str| {
            matches!(self.tables.get(name), Some(Table::Whole(Whole::Empty)))
                || found.views.get(name).is_some_and(|view| !view.is_filled)
        };
        let mut refresh = Vec::new();
        for (full, view) in &found.views {
            let said = self.tables.get(full);
            let wrong = match said {
                Some(Table::Columns(_)) => {
                    "is a materialized view: all that can be said of it is empty, or keep"
                        .to_owned()
                }
                _ if !view.is_filled => continue,
                Some(Table::Whole(Whole::Empty)) => {
                    plan.unfill.push(view.sql.clone());
                    continue;
                }
                _ => {
                    let outside = view.outside.first();
                    let calls = view.calls.first().filter(|_| said.is_none());
                    let empty = view.views.iter().find(|name| is_empty(name));
                    match (outside, calls, empty) {
                        (Some(table), ..) => {
                            format!("is filled from the foreign table {table}: name it, with empty")
                        }
                        (_, Some(function), _) => format!(
                            "calls {function}, which may read from elsewhere: name it, with empty, or with keep where \
                             it does not"
                        ),
                        (.., Some(other)) => format!(
                            "is filled from the materialized view {other}, which is empty: name it, with empty"
                        ),
                        (None, None, None) => {
                            refresh.push((view.views.len(), view.sql.clone()));
                            continue;
                        }
                    }
                }
            };
            faults.wrong.push(format!("{full} {wrong}"));
        }
        // Who reads another reads all that that one reads, too.
        refresh.sort();
        plan.refresh = refresh.into_iter().map(|(_, sql)| sql).collect();
    }

    /// The two sides of a foreign key are to be masked in one way, which keeps equal values equal.
    fn check_keys(&self, path: &Path, found: &Contents) -> Result<()> {
        let mask = |full: &str, column: &str| {
            let masks = found.relations.get(full).map(|relation| self.masks(full, relation));
            masks.unwrap_or_default().remove(column).unwrap_or(Mask::Keep)
        };
        let is_empty = |full: &str| {
            let said = found.relations.get(full).and_then(|relation| self.of(full, relation));
            matches!(said, Some(Table::Whole(Whole::Empty)))
        };
        let column = |full: &str, name: &str| {
            found.relations.get(full)?.columns.iter().find(|column| column.name == name)
        };
        for key in &found.keys {
            let (from, to) = (key.from.as_str(), key.to.as_str());
            let (ours, theirs) = (mask(from, &key.column), mask(to, &key.target));
            if is_empty(from) || ours == Mask::Null {
                continue;
            }
            let pair = column(from, &key.column).zip(column(to, &key.target));
            let stay = pair.is_none_or(|(one, other)| sql::stays_equal(&ours, one, other));
            let (why, hint) = match (ours == theirs && !is_empty(to), stay) {
                (true, true) => continue,
                (false, _) => (
                    "are masked in different ways",
                    "mask both in the same way, or the first as null",
                ),
                (true, false) => (
                    "would not stay equal: their types differ, or take for equal what is written in different ways",
                    "give both one type and length in a transform, as text or varchar; or keep both, or mask the first as \
                     null",
                ),
            };
            let what = format!(
                "the foreign key {} leads from {from}.{} to {to}.{}, which {why}",
                key.name, key.column, key.target
            );
            return Err(bad(path, what).with_hint(hint));
        }
        Ok(())
    }
}

impl Plan {
    /// Truncates these tables. One that a table refers to which is not truncated with it cannot be: its rows are
    /// deleted, before anything is masked.
    fn empty(&mut self, names: Vec<&str>, found: &Contents) {
        let condition = |name: &str| {
            let extension = found.relations.get(name).and_then(|r| r.extension.as_deref());
            extension.unwrap_or_default()
        };
        // Rows of the extension's own stay.
        let (mut truncated, mut deleted): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| condition(name).is_empty());
        loop {
            let is_kept_for = |name: &str| {
                let mut keys = found.keys.iter().filter(|key| key.to == name && key.from != name);
                keys.any(|key| !truncated.contains(&key.from.as_str()))
            };
            let Some(at) = truncated.iter().position(|name| is_kept_for(name)) else { break };
            deleted.push(truncated.remove(at));
        }
        let targets =
            |name: &str| found.relations.get(name).map(Relation::targets).unwrap_or_default();
        self.truncate = truncated.into_iter().flat_map(targets).collect();
        let delete = |name: &str| {
            let condition = condition(name).to_owned();
            targets(name).into_iter().map(move |target| {
                let statement = format!("DELETE FROM {target} {condition}");
                Rewrite { target, statement }
            })
        };
        let mut rewrite: Vec<Rewrite> = deleted.into_iter().flat_map(delete).collect();
        rewrite.append(&mut self.rewrite);
        self.rewrite = rewrite;
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{Found, Key, View};
    use super::super::tests::parsed;
    use super::*;

    const PATH: &str = "m.toml";

    fn column(name: &str, base: &str) -> Found {
        Found {
            name: name.into(),
            base: base.into(),
            full: base.into(),
            length: None,
            is_loose: false,
            is_generated: false,
            is_always_identity: false,
        }
    }

    fn table(name: &str) -> Relation {
        let columns = vec![column("id", "int4"), column("email", "text")];
        Relation { schema: "public".into(), name: name.into(), columns, ..Relation::default() }
    }

    fn key(from: &str, column: &str, to: &str, target: &str) -> Key {
        let [name, from, column, to, target] = ["k", from, column, to, target].map(str::to_owned);
        Key { name, from, column, to, target }
    }

    fn with(tables: &[Relation]) -> Contents {
        let named = |relation: &Relation| (format!("public.{}", relation.name), relation.clone());
        Contents { relations: tables.iter().map(named).collect(), ..Contents::default() }
    }

    fn plan(text: &str, found: &Contents) -> Result<Plan> {
        parsed(text).unwrap().plan(Path::new(PATH), found)
    }

    #[track_caller]
    fn refused(text: &str, found: &Contents, words: &str) {
        let error = plan(text, found).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }

    fn statements(plan: &Plan) -> Vec<&str> {
        plan.rewrite.iter().map(|rewrite| rewrite.statement.as_str()).collect()
    }

    #[test]
    fn what_a_file_does_not_name_is_refused() {
        let users = with(&[table("users")]);
        refused("[tables]", &users, "the table public.users");
        let without = "[tables.\"public.users\"]\nid = \"keep\"";
        refused(without, &users, "the column public.users.email");
        let more = "[tables.\"public.users\"]\nid = \"keep\"\nemail = \"hash\"\nx = \"keep\"";
        refused(more, &users, "no column x");
        let whole = "[tables.\"public.users\"]\nid = \"keep\"\nemail = \"hash\"";
        assert_eq!(plan(whole, &users).unwrap().rewrite.len(), 1);
        let all = "[tables]\n\"public.*\" = \"empty\"";
        assert_eq!(plan(all, &users).unwrap().truncate, ["ONLY \"public\".\"users\""]);
        let gone = "[tables]\n\"public.*\" = \"keep\"\n\"public.x\" = \"keep\"";
        refused(gone, &users, "no table public.x");
    }

    #[test]
    fn two_sides_of_a_foreign_key_are_masked_alike() {
        let text = "[tables.\"public.users\"]\nid = \"hash\"\nemail = \"null\"";
        let mut found = with(&[table("users")]);
        found.keys = vec![key("public.users", "id", "public.users", "id")];
        plan(text, &found).unwrap();
        found.keys = vec![key("public.users", "id", "public.users", "email")];
        refused(text, &found, "masked in different ways");
    }

    #[test]
    fn a_foreign_key_is_refused_whose_sides_would_not_stay_equal() {
        let side = |name: &str, column: Found| Relation { columns: vec![column], ..table(name) };
        let found = |from: Found, to: Found| Contents {
            keys: vec![key("public.uses", "code", "public.codes", "code")],
            ..with(&[side("uses", from), side("codes", to)])
        };
        let both = |mask: &str| {
            format!(
                "[tables.\"public.uses\"]\ncode = {mask}\n[tables.\"public.codes\"]\ncode = {mask}"
            )
        };
        let text = |length| Found { length, ..column("code", "varchar") };
        let of_40 = || found(text(Some(20)), text(Some(40)));
        for mask in ["\"hash\"", "\"fake:city\""] {
            refused(&both(mask), &of_40(), "would not stay equal");
            plan(&both(mask), &found(text(Some(20)), text(Some(20)))).unwrap();
            let loose = || Found { is_loose: true, ..column("code", "citext") };
            refused(&both(mask), &found(loose(), loose()), "would not stay equal");
        }
        for mask in ["\"keep\"", "{ constant = \"x\" }"] {
            plan(&both(mask), &of_40()).unwrap();
        }
    }

    #[test]
    fn constraints_of_what_is_changed_are_looked_at() {
        let checked = |from: &str, to: &str| {
            let [name, from, to] =
                [format!("{from}_{to}"), format!("public.{from}"), format!("public.{to}")];
            Check { name, from, to, is_broken: String::new() }
        };
        let mut masked = table("masked");
        masked.deferred = vec!["masked_key".into()];
        masked.immediate = vec!["masked_id".into()];
        let mut kept = table("kept");
        kept.deferred = vec!["kept_key".into()];
        let mut found = with(&[masked, kept, table("still"), table("gone")]);
        found.checks = vec![
            checked("kept", "masked"),
            checked("masked", "kept"),
            checked("kept", "still"),
            checked("gone", "still"),
        ];
        let columns = |name: &str, email: &str| {
            format!("[tables.\"public.{name}\"]\nid = \"keep\"\nemail = \"{email}\"\n")
        };
        let text = format!(
            "[tables]\n\"public.kept\" = \"keep\"\n\"public.gone\" = \"empty\"\n{}{}",
            columns("masked", "hash"),
            columns("still", "keep")
        );
        let numbers =
            text.replace("id = \"keep\"\nemail = \"hash\"", "id = \"hash\"\nemail = \"keep\"");
        let permuted = plan(&numbers, &found).unwrap();
        assert_eq!(permuted.loosen, ["masked_id"]);
        assert_eq!(permuted.deferred, ["masked_key", "masked_id"]);
        let plan = plan(&text, &found).unwrap();
        assert_eq!(plan.deferred, ["masked_key"]);
        assert!(plan.loosen.is_empty());
        let names: Vec<&str> = plan.keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["kept_masked", "masked_kept", "gone_still"]);
    }

    #[test]
    fn what_others_refer_to_is_not_truncated_without_them() {
        let mut found = with(&[table("a"), table("b"), table("c"), table("d")]);
        // From d, which is masked, to c; from c to b; from a to b.
        found.keys = vec![
            key("public.d", "email", "public.c", "id"),
            key("public.c", "id", "public.b", "id"),
            key("public.a", "id", "public.b", "id"),
        ];
        let text = "[tables]\n\"public.a\" = \"empty\"\n\"public.b\" = \"empty\"\n\"public.c\" = \"empty\"\n\
                    [tables.\"public.d\"]\nid = \"keep\"\nemail = \"null\"";
        let plan = plan(text, &found).unwrap();
        assert_eq!(plan.truncate, ["ONLY \"public\".\"a\""]);
        let statements = statements(&plan);
        assert!(statements[0].starts_with("DELETE FROM ONLY \"public\".\"c\""), "{statements:?}");
        assert!(statements[1].starts_with("DELETE FROM ONLY \"public\".\"b\""), "{statements:?}");
        assert!(statements[2].starts_with("UPDATE ONLY \"public\".\"d\""), "{statements:?}");
    }

    #[test]
    fn a_foreign_table_is_never_written_to() {
        let mut split = table("split");
        split.kind = Kind::Partitioned;
        split.parts = vec!["p1".into(), "p2".into()];
        split.split_by = BTreeSet::from(["id".to_owned()]);
        let columns = "[tables.\"public.split\"]\nid = \"keep\"\nemail = \"hash\"\n";
        let moving = "[tables.\"public.split\"]\nid = \"hash\"\nemail = \"hash\"\n";
        let empty = "[tables]\n\"public.split\" = \"empty\"\n";
        let all = with(std::slice::from_ref(&split));
        assert_eq!(plan(empty, &all).unwrap().truncate, ["\"public\".\"split\""]);
        let one = plan(moving, &all).unwrap();
        assert!(statements(&one)[0].starts_with("UPDATE \"public\".\"split\" SET"));
        let both = plan(columns, &all).unwrap();
        assert!(statements(&both)[1].starts_with("UPDATE ONLY p2 SET"), "{both:?}");

        split.has_foreign_part = true;
        let mut far = table("far");
        (far.kind, far.is_part) = (Kind::Foreign, true);
        let all = with(&[split, far.clone()]);
        refused(columns, &all, "the foreign table public.far");
        let wide = format!("[tables]\n\"public.*\" = \"keep\"\n{columns}");
        refused(&wide, &all, "the foreign table public.far");
        let kept = |text: &str| format!("[tables]\n\"public.far\" = \"keep\"\n{text}");
        assert_eq!(statements(&plan(&kept(columns), &all).unwrap()).len(), 2);
        refused(&kept(moving), &all, "split by id");
        let empty = format!("{empty}\"public.far\" = \"keep\"\n");
        assert_eq!(plan(&empty, &all).unwrap().truncate, ["ONLY p1", "ONLY p2"]);

        far.is_part = false;
        let alone = with(&[far]);
        plan("[tables]\n\"public.*\" = \"keep\"", &alone).unwrap();
        refused("[tables]\n\"public.*\" = \"empty\"", &alone, "is a foreign table");
    }

    #[test]
    fn rows_of_an_extensions_own_stay() {
        let mut own = table("own");
        (own.extension, own.is_extensions_own) = (Some("WHERE NOT x".into()), true);
        let all = "[tables]\n\"public.*\" = \"empty\"";
        let found = with(std::slice::from_ref(&own));
        plan("[tables]", &found).unwrap();
        assert!(statements(&plan(all, &found).unwrap()).is_empty());
        own.is_extensions_own = false;
        let found = with(&[own]);
        refused("[tables]", &found, "the extension's table public.own");
        let plan = plan(all, &found).unwrap();
        assert_eq!(statements(&plan), ["DELETE FROM ONLY \"public\".\"own\" WHERE NOT x"]);
        assert!(plan.truncate.is_empty());
    }

    #[test]
    fn a_materialized_view_is_never_filled_from_elsewhere() {
        let view = |name: &str| View { sql: name.into(), is_filled: true, ..View::default() };
        let found = |a: View, b: View| {
            let views = BTreeMap::from([("public.a".to_owned(), a), ("public.b".to_owned(), b)]);
            Contents { views, ..Contents::default() }
        };
        let reads = |name: &str, other: &str| View {
            views: BTreeSet::from([other.to_owned()]),
            ..view(name)
        };
        let ordered = plan("[tables]", &found(reads("a", "public.b"), view("b"))).unwrap();
        assert_eq!(ordered.refresh, ["b", "a"]);
        let far = || View { outside: vec!["public.far".into()], ..view("b") };
        let words = "public.b is filled from the foreign table public.far";
        refused("[tables]\n\"public.*\" = \"empty\"", &found(view("a"), far()), words);
        refused("[tables]\n\"public.b\" = \"keep\"", &found(view("a"), far()), words);
        let empty = "[tables]\n\"public.b\" = \"empty\"";
        let one = plan(empty, &found(view("a"), far())).unwrap();
        assert_eq!((one.unfill, one.refresh), (vec!["b".to_owned()], vec!["a".to_owned()]));
        let words = "public.a is filled from the materialized view public.b, which is empty";
        refused(empty, &found(reads("a", "public.b"), far()), words);
        let calls = || View { calls: vec!["public.f".into()], ..view("b") };
        refused("[tables]", &found(view("a"), calls()), "public.b calls public.f");
        plan("[tables]\n\"public.b\" = \"keep\"", &found(view("a"), calls())).unwrap();
    }
}

//! What a database holds that a masking has to know of.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::postgres::session::{Session, ident};

/// A table as files and messages name it. A part with a dot, a quote or a star in it is quoted as in SQL, so that no
/// two tables have one name, and none that of all tables of a schema.
pub(super) fn full(schema: &str, name: &str) -> String {
    format!("{}.{}", part(schema), part(name))
}

/// All tables of a schema, in the same way.
pub(super) fn every(schema: &str) -> String {
    format!("{}.*", part(schema))
}

fn part(name: &str) -> String {
    match name.contains(['.', '"', '*']) {
        true => ident(name),
        false => name.to_owned(),
    }
}

fn sql(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By their names.
    pub(super) relations: BTreeMap<String, Relation>,
    pub(super) keys: Vec<Key>,
    /// Whether each foreign key holds, but for those that need not.
    pub(super) checks: Vec<Check>,
    /// The materialized ones, by their names.
    pub(super) views: BTreeMap<String, View>,
}

/// A column of the copy.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) name: String,
    /// The type's own name, of a domain that of what it is based on.
    pub(super) base: String,
    /// As it is written in a cast.
    pub(super) full: String,
    /// The most letters that it holds.
    pub(super) length: Option<u32>,
    /// Whether values that are written in different ways may be equal.
    pub(super) is_loose: bool,
    pub(super) is_generated: bool,
    pub(super) is_always_identity: bool,
}

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Plain,
    Partitioned,
    /// Its rows are elsewhere.
    Foreign,
}

/// A table of the copy. Partitions are part of theirs, unless they are foreign tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether who reads another table reads it, too: it is a partition, or a child.
    pub(super) is_part: bool,
    pub(super) columns: Vec<Found>,
    /// Of a partitioned one: its partitions that hold rows here, as SQL names them.
    pub(super) parts: Vec<String>,
    /// Whether another partition is a foreign table.
    pub(super) has_foreign_part: bool,
    /// The columns that say which partition a row is in.
    pub(super) split_by: BTreeSet<String>,
    /// Whether what is computed of columns says so, too.
    pub(super) is_split_by_value: bool,
    /// Of an extension's: which rows are not the extension's own, as the end of a query; all where it is empty.
    pub(super) extension: Option<String>,
    /// Whether it is an extension's and holds no others.
    pub(super) is_extensions_own: bool,
    /// The indexes that allow no row to be like another, as SQL names them: those that are asked for each row,
    pub(super) immediate: Vec<String>,
    /// and those of constraints that may be checked when a transaction ends.
    pub(super) deferred: Vec<String>,
}

impl Relation {
    pub(super) fn sql(&self) -> String {
        sql(&self.schema, &self.name)
    }

    /// What it is, in messages.
    pub(super) fn what(&self) -> &'static str {
        match (self.kind, &self.extension) {
            (Kind::Foreign, _) => "foreign table",
            (_, Some(_)) => "extension's table",
            (_, None) => "table",
        }
    }

    /// What a statement names so that it reaches all rows of it that are here, and none of another table's: not those
    /// of its children, and not those of a foreign table.
    pub(super) fn targets(&self) -> Vec<String> {
        match self.kind {
            Kind::Partitioned if !self.has_foreign_part => vec![self.sql()],
            _ => self.leaves(),
        }
    }

    /// The same, one partition after the other. No row moves from one to another so.
    pub(super) fn leaves(&self) -> Vec<String> {
        match self.kind {
            Kind::Plain => vec![format!("ONLY {}", self.sql())],
            Kind::Partitioned => self.parts.iter().map(|part| format!("ONLY {part}")).collect(),
            Kind::Foreign => Vec::new(),
        }
    }

    /// Whether all that is in it comes from the extension that it belongs to.
    async fn only_extensions(&self, session: &Session) -> Result<bool> {
        let (Some(condition), Kind::Plain) = (&self.extension, self.kind) else {
            return Ok(false);
        };
        let exists = format!("SELECT EXISTS (SELECT FROM ONLY {} {condition})", self.sql());
        Ok(session.value("look into a table of an extension", &exists).await? == "f")
    }
}

/// A pair of columns of a foreign key. One of a partition is its table's.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) column: String,
    pub(super) to: String,
    pub(super) target: String,
}

/// A whole foreign key.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) to: String,
    /// A query that tells whether any row leads nowhere.
    pub(super) is_broken: String,
}

/// A materialized view.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sql: String,
    /// Whether there is anything in it.
    pub(super) is_filled: bool,
    /// The foreign tables that it is filled from, by whatever way.
    pub(super) outside: Vec<String>,
    /// Functions that it calls, which may read from elsewhere.
    pub(super) calls: Vec<String>,
    /// The materialized views that it is filled from.
    pub(super) views: BTreeSet<String>,
}

/// Looks at the database.
pub(super) async fn contents(session: &Session) -> Result<Contents> {
    let mut relations = relations(session).await?;
    unique(session, &mut relations).await?;
    Ok(Contents {
        relations,
        keys: keys(session).await?,
        checks: checks(session).await?,
        views: views(session).await?,
    })
}

/// The tables of a database that PostgreSQL did not make itself.
pub(super) async fn relations(session: &Session) -> Result<BTreeMap<String, Relation>> {
    let mut found = columns(session).await?;
    if found.values().any(|relation| relation.kind == Kind::Partitioned) {
        partitions(session, &mut found).await?;
    }
    for relation in found.values_mut() {
        relation.is_extensions_own = relation.only_extensions(session).await?;
    }
    Ok(found)
}

/// The text at a place of a row; nothing where it is null.
fn text(row: &[Option<String>], at: usize) -> String {
    row.get(at).cloned().flatten().unwrap_or_default()
}

async fn columns(session: &Session) -> Result<BTreeMap<String, Relation>> {
    let rows = session
        .rows(
            "list its columns",
            "WITH RECURSIVE base(oid, root, length) AS ( \
                 SELECT oid, oid, CASE WHEN typtypmod > 4 THEN typtypmod END FROM pg_type WHERE typtype <> 'd' \
               UNION ALL \
                 SELECT t.oid, b.root, coalesce(CASE WHEN t.typtypmod > 4 THEN t.typtypmod END, b.length) \
                   FROM pg_type t JOIN base b ON t.typbasetype = b.oid WHERE t.typtype = 'd') \
             SELECT n.nspname, c.relname, c.relkind, a.attname, r.typname, format_type(a.atttypid, a.atttypmod), \
                    CASE WHEN a.atttypmod > 4 THEN a.atttypmod ELSE b.length END, \
                    a.attgenerated <> '', a.attidentity = 'a', \
                    EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid), \
                    (SELECT coalesce((SELECT u.condition FROM unnest(e.extconfig, e.extcondition) u(config, condition) \
                                       WHERE u.config = c.oid LIMIT 1), '') \
                       FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid \
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' LIMIT 1), \
                    r.typname = 'citext' \
                      OR EXISTS (SELECT FROM pg_collation l WHERE l.oid = a.attcollation AND NOT l.collisdeterministic) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               LEFT JOIN base b ON b.oid = a.atttypid LEFT JOIN pg_type r ON r.oid = b.root \
              WHERE (c.relkind = 'f' OR c.relkind IN ('r', 'p') AND NOT c.relispartition) \
                AND c.relpersistence <> 't' AND c.oid >= 16384 AND n.nspname <> 'information_schema' \
              ORDER BY 1, 2, a.attnum",
        )
        .await?;
    let mut found = BTreeMap::<String, Relation>::new();
    for row in rows {
        let text = |at: usize| text(&row, at);
        let relation = found.entry(full(&text(0), &text(1))).or_default();
        relation.schema = text(0);
        relation.name = text(1);
        relation.kind = match text(2).as_str() {
            "p" => Kind::Partitioned,
            "f" => Kind::Foreign,
            _ => Kind::Plain,
        };
        relation.is_part = text(9) == "t";
        relation.extension = row.get(10).cloned().flatten();
        if text(3).is_empty() {
            continue;
        }
        let is_text = ["varchar", "bpchar"].contains(&text(4).as_str());
        let length = text(6).parse::<u32>().ok().filter(|_| is_text);
        relation.columns.push(Found {
            name: text(3),
            base: text(4),
            full: text(5),
            length: length.map(|length| length - 4),
            is_loose: text(11) == "t",
            is_generated: text(7) == "t",
            is_always_identity: text(8) == "t",
        });
    }
    Ok(found)
}

/// Finds what partitioned tables are split into, and by what.
async fn partitions(session: &Session, found: &mut BTreeMap<String, Relation>) -> Result<()> {
    let rows = session
        .rows(
            "list its partitions",
            "SELECT n.nspname, c.relname, pn.nspname, p.relname, p.relkind \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               CROSS JOIN LATERAL pg_partition_tree(c.oid) t \
               JOIN pg_class p ON p.oid = t.relid JOIN pg_namespace pn ON pn.oid = p.relnamespace \
              WHERE c.relkind = 'p' AND NOT c.relispartition AND p.relkind IN ('r', 'f') ORDER BY 1, 2, 3, 4",
        )
        .await?;
    for row in rows {
        let text = |at: usize| text(&row, at);
        let Some(relation) = found.get_mut(&full(&text(0), &text(1))) else { continue };
        match text(4) == "f" {
            true => relation.has_foreign_part = true,
            false => relation.parts.push(sql(&text(2), &text(3))),
        }
    }
    let rows = session
        .rows(
            "list what its partitions are split by",
            "SELECT n.nspname, c.relname, a.attname \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               CROSS JOIN LATERAL pg_partition_tree(c.oid) t \
               JOIN pg_partitioned_table k ON k.partrelid = t.relid \
               CROSS JOIN LATERAL unnest(k.partattrs) u(attnum) \
               LEFT JOIN pg_attribute a ON a.attrelid = k.partrelid AND a.attnum = u.attnum AND u.attnum > 0 \
              WHERE c.relkind = 'p' AND NOT c.relispartition",
        )
        .await?;
    for row in rows {
        let name = full(&text(&row, 0), &text(&row, 1));
        let Some(relation) = found.get_mut(&name) else { continue };
        match row.get(2).cloned().flatten() {
            Some(column) => relation.split_by.extend([column]),
            None => relation.is_split_by_value = true,
        }
    }
    Ok(())
}

/// Finds the indexes that allow no row to be like another.
async fn unique(session: &Session, found: &mut BTreeMap<String, Relation>) -> Result<()> {
    let rows = session
        .rows(
            "list what is unique",
            "SELECT n.nspname, c.relname, xn.nspname, x.relname, i.indimmediate \
               FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid \
               JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace xn ON xn.oid = x.relnamespace \
               JOIN pg_class c ON c.oid = coalesce(pg_partition_root(i.indrelid)::oid, i.indrelid) \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
              WHERE (i.indisunique OR i.indisexclusion) AND r.relkind = 'r' ORDER BY 1, 2, 3, 4",
        )
        .await?;
    for row in rows {
        let text = |at: usize| text(&row, at);
        if let Some(relation) = found.get_mut(&full(&text(0), &text(1))) {
            let index = sql(&text(2), &text(3));
            match text(4) == "t" {
                true => relation.immediate.push(index),
                false => relation.deferred.push(index),
            }
        }
    }
    Ok(())
}

/// What asks each foreign key that is known to hold whether it does, with its own operators. One with a PERIOD, which 18
/// has, holds where the rows that it leads to cover the time of its own together.
async fn checks(session: &Session) -> Result<Vec<Check>> {
    let rows = session
        .rows(
            "list what its foreign keys ask for",
            "WITH pair AS ( \
                 SELECT k.oid, k.conname, k.conrelid, k.confrelid, k.confmatchtype = 'f' AS is_full, u.n, \
                        coalesce(to_jsonb(k)->>'conperiod', 'false') = 'true' AND u.n = cardinality(k.conkey) \
                            AS is_period, \
                        format('f.%I', fa.attname) AS own, format('t.%I', ta.attname) AS other, \
                        format('OPERATOR(%I.%s)', pn.nspname, o.oprname) AS equals, \
                        coalesce((SELECT format(' COLLATE %I.%I', ln.nspname, l.collname) \
                                    FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace \
                                   WHERE l.oid = ta.attcollation AND fa.attcollation <> 0 \
                                     AND fa.attcollation <> ta.attcollation), '') AS sorted \
                   FROM pg_constraint k \
                   CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY u(a, b, op, n) \
                   JOIN pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = u.a \
                   JOIN pg_attribute ta ON ta.attrelid = k.confrelid AND ta.attnum = u.b \
                   JOIN pg_operator o ON o.oid = u.op JOIN pg_namespace pn ON pn.oid = o.oprnamespace \
                  WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated), \
             whole AS ( \
                 SELECT oid, conname, conrelid, confrelid, \
                        string_agg(own || ' IS NOT NULL', CASE WHEN is_full THEN ' OR ' ELSE ' AND ' END) AS asks, \
                        string_agg(format('%s %s %s%s', other, equals, own, sorted), ' AND ') \
                            FILTER (WHERE NOT is_period) AS meets, \
                        max(own) FILTER (WHERE is_period) AS during, max(other) FILTER (WHERE is_period) AS covers \
                   FROM pair GROUP BY oid, conname, conrelid, confrelid) \
             SELECT w.conname, fn.nspname, f.relname, tn.nspname, t.relname, format( \
                    CASE WHEN w.during IS NULL \
                         THEN 'SELECT EXISTS (SELECT FROM %1$s f WHERE (%2$s) AND NOT EXISTS ( \
                                   SELECT FROM %3$s t WHERE %4$s))' \
                         ELSE 'SELECT EXISTS (SELECT FROM %1$s f WHERE (%2$s) AND NOT coalesce(%5$s <@ ( \
                                   SELECT range_agg(%6$s) FROM %3$s t WHERE %4$s), false))' END, \
                    CASE fo.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || format('%I.%I', fon.nspname, fo.relname), \
                    w.asks, \
                    CASE tt.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || format('%I.%I', ttn.nspname, tt.relname), \
                    w.meets, w.during, w.covers) \
               FROM whole w \
               JOIN pg_class fo ON fo.oid = w.conrelid JOIN pg_namespace fon ON fon.oid = fo.relnamespace \
               JOIN pg_class tt ON tt.oid = w.confrelid JOIN pg_namespace ttn ON ttn.oid = tt.relnamespace \
               JOIN pg_class f ON f.oid = coalesce(pg_partition_root(w.conrelid)::oid, w.conrelid) \
               JOIN pg_namespace fn ON fn.oid = f.relnamespace \
               JOIN pg_class t ON t.oid = coalesce(pg_partition_root(w.confrelid)::oid, w.confrelid) \
               JOIN pg_namespace tn ON tn.oid = t.relnamespace ORDER BY 2, 3, 1",
        )
        .await?;
    let check = |row: Vec<Option<String>>| {
        let text = |at: usize| text(&row, at);
        Check {
            name: text(0),
            from: full(&text(1), &text(2)),
            to: full(&text(3), &text(4)),
            is_broken: text(5),
        }
    };
    Ok(rows.into_iter().map(check).collect())
}

/// The foreign keys, a pair of columns at a time. One that partitions have of their table's is named once.
async fn keys(session: &Session) -> Result<Vec<Key>> {
    let rows = session
        .rows(
            "list its foreign keys",
            "SELECT k.conname, fn.nspname, f.relname, fa.attname, tn.nspname, t.relname, ta.attname \
               FROM pg_constraint k \
               JOIN pg_class f ON f.oid = coalesce(pg_partition_root(k.conrelid)::oid, k.conrelid) \
               JOIN pg_namespace fn ON fn.oid = f.relnamespace \
               JOIN pg_class t ON t.oid = coalesce(pg_partition_root(k.confrelid)::oid, k.confrelid) \
               JOIN pg_namespace tn ON tn.oid = t.relnamespace \
               CROSS JOIN LATERAL unnest(k.conkey, k.confkey) u(a, b) \
               JOIN pg_attribute fa ON fa.attrelid = k.conrelid AND fa.attnum = u.a \
               JOIN pg_attribute ta ON ta.attrelid = k.confrelid AND ta.attnum = u.b \
              WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 1, 2, 3, 4",
        )
        .await?;
    let key = |row: Vec<Option<String>>| {
        let text = |at: usize| text(&row, at);
        Key {
            name: text(0),
            from: full(&text(1), &text(2)),
            column: text(3),
            to: full(&text(4), &text(5)),
            target: text(6),
        }
    };
    Ok(rows.into_iter().map(key).collect())
}

/// The materialized views, and what each is filled from: through views, other materialized ones, partitions and
/// children. What a function reads is not known: one counts that is made to read from elsewhere, or whose language
/// may do that, or which may call one of the first kind.
async fn views(session: &Session) -> Result<BTreeMap<String, View>> {
    let rows = session
        .rows(
            "list its materialized views",
            "WITH RECURSIVE outside(oid) AS ( \
                 SELECT oid FROM pg_extension WHERE extname IN ('dblink', 'http', 'pg_net', 'pglogical')), \
             reads(view, oid) AS ( \
                 SELECT oid, oid FROM pg_class WHERE relkind = 'm' \
               UNION \
                 SELECT r.view, s.oid FROM reads r CROSS JOIN LATERAL ( \
                     SELECT d.refobjid AS oid \
                       FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid \
                      WHERE w.ev_class = r.oid AND w.ev_type = '1' AND d.refclassid = 'pg_class'::regclass \
                   UNION ALL \
                     SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.oid) s), \
             calls(view, oid) AS ( \
                 SELECT r.view, d.refobjid FROM reads r \
                   JOIN pg_rewrite w ON w.ev_class = r.oid AND w.ev_type = '1' \
                   JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid \
                  WHERE d.refclassid = 'pg_proc'::regclass) \
             SELECT n.nspname, v.relname, v.relispopulated, c.relkind::text, cn.nspname, c.relname \
               FROM reads r JOIN pg_class v ON v.oid = r.view JOIN pg_namespace n ON n.oid = v.relnamespace \
               JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace cn ON cn.oid = c.relnamespace \
              WHERE c.relkind IN ('f', 'm') \
             UNION \
             SELECT n.nspname, v.relname, v.relispopulated, 'function', pn.nspname, p.proname \
               FROM calls r JOIN pg_class v ON v.oid = r.view JOIN pg_namespace n ON n.oid = v.relnamespace \
               JOIN pg_proc p ON p.oid = r.oid JOIN pg_namespace pn ON pn.oid = p.pronamespace \
               JOIN pg_language l ON l.oid = p.prolang \
              WHERE EXISTS (SELECT FROM pg_depend d JOIN outside o ON o.oid = d.refobjid \
                             WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid \
                               AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') \
                 OR l.lanname NOT IN ('internal', 'c') AND (NOT l.lanpltrusted OR EXISTS (SELECT FROM outside)) \
              ORDER BY 1, 2, 4, 5, 6",
        )
        .await?;
    let mut found = BTreeMap::<String, View>::new();
    for row in rows {
        let text = |at: usize| text(&row, at);
        let own = full(&text(0), &text(1));
        let other = full(&text(4), &text(5));
        let view = found.entry(own.clone()).or_default();
        view.sql = sql(&text(0), &text(1));
        view.is_filled = text(2) == "t";
        match text(3).as_str() {
            "f" => view.outside.push(other),
            "function" => view.calls.push(other),
            _ => view.views.extend((other != own).then_some(other)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tables_have_one_name() {
        let names = [
            full("a", "b"),
            full("a", "b.c"),
            full("a.b", "c"),
            full("a", "*"),
            every("a"),
            full("a.b", "*"),
            every("a.b"),
            full("a", "\"b"),
            full("a.\"b\"", "c"),
        ];
        let different: BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        assert_eq!(names[..3], ["a.b", "a.\"b.c\"", "\"a.b\".c"]);
    }
}

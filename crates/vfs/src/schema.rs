//! What a schema adds to the statements that use it: how large its views are, and how deep SQLite recurses through them,
//! through triggers that fire triggers, and through foreign keys with actions.
//!
//! Each of these comes in statements of its own, which are small. SQLite has no limit for them but that on triggers that
//! run, and 3.40 asks nobody while it compiles them. So the definitions of a schema are looked at as a whole whenever it
//! has changed, and what is beyond the bounds is [`Schema::broken`]: no statement that names it is compiled. A statement
//! that would break something is refused; a schema that has something broken was written by another program.

use std::collections::{HashMap, HashSet};

use crate::depth::{self, Token, Tokens};
use crate::expansion::{MAX_TOKENS, Query, Relation, Relations, plain};

/// Longest path through views, triggers and foreign keys, in units of [`crate::depth`]. With the deepest statement, and
/// twice as much if another connection joins two such paths at the same moment, it fits [`crate::STACK_LEN`].
pub(crate) const MAX_UNITS: u64 = 12_000;
/// What compiling a trigger, or the action of a foreign key, costs beside its statements.
const PROGRAM_UNITS: u64 = 5;
/// Copies that all views of a schema may have together where SQLite looks at all of them.
const MAX_SUM: u64 = 8 * MAX_TOKENS;

/// A row of `sqlite_schema`.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Vec<u8>,
    pub(crate) name: Vec<u8>,
    /// The table, or view, that a trigger is for.
    pub(crate) table: Vec<u8>,
    pub(crate) sql: Vec<u8>,
}

/// What is known of one schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(crate) relations: Relations,
    /// The most that one name can stand for.
    pub(crate) largest: u64,
    /// Units of all that could be part of a path.
    pub(crate) units: u64,
    /// Names, in lower case, that no statement may use.
    pub(crate) broken: HashSet<Vec<u8>>,
    /// Whether SQLite can look at all views at once.
    pub(crate) is_bounded: bool,
}

/// What a statement is, as far as the schema depends on it.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It adds a definition.
    Adds(Row),
    /// It adds a column to a table of this name, in lower case.
    AddsColumn(Vec<u8>, Vec<u8>),
    /// It renames something.
    Renames,
    /// It drops a table, for which rows are deleted.
    DropsTable,
    /// It drops something else.
    Drops,
}

fn word<'a>(token: Option<Token<'a>>) -> Option<&'a [u8]> {
    match token {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn name(token: Option<Token<'_>>) -> Option<Vec<u8>> {
    match token {
        Some(Token::Word(text) | Token::Quoted(text)) => Some(plain(text)),
        _ => None,
    }
}

/// What the first statement of a text does to the schema.
pub(crate) fn change(sql: &[u8]) -> Option<Change> {
    let mut tokens = Tokens(sql);
    let mut next = tokens.next();
    while next == Some(Token::Mark(b';')) {
        next = tokens.next();
    }
    let first = word(next)?;
    let is = |word: &[u8], other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    if is(first, "DROP") {
        return Some(if is(word(tokens.next())?, "TABLE") { Change::DropsTable } else { Change::Drops });
    }
    let qualified = |tokens: &mut Tokens<'_>, first: Option<Token<'_>>| {
        let mut found = name(first)?;
        if tokens.0.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'.') {
            tokens.next();
            found = name(tokens.next())?;
        }
        Some(found)
    };
    if is(first, "ALTER") {
        tokens.next();
        let table = tokens.next();
        let table = qualified(&mut tokens, table)?;
        return Some(match word(tokens.next()) {
            Some(verb) if is(verb, "ADD") => Change::AddsColumn(table, tokens.0.to_vec()),
            _ => Change::Renames,
        });
    }
    if !is(first, "CREATE") {
        return None;
    }
    let mut kind = word(tokens.next())?;
    while is(kind, "TEMP") || is(kind, "TEMPORARY") {
        kind = word(tokens.next())?;
    }
    if !["TABLE", "VIEW", "TRIGGER"].iter().any(|other| is(kind, other)) {
        return None;
    }
    let mut next = tokens.next();
    if word(next).is_some_and(|word| is(word, "IF")) {
        tokens.next();
        tokens.next();
        next = tokens.next();
    }
    let created = qualified(&mut tokens, next)?;
    let mut table = Vec::new();
    if is(kind, "TRIGGER") {
        let mut at = tokens.next();
        while let Some(token) = at {
            at = tokens.next();
            if word(Some(token)).is_some_and(|word| is(word, "ON")) {
                table = qualified(&mut tokens, at)?;
                break;
            }
        }
    }
    Some(Change::Adds(Row { kind: kind.to_ascii_lowercase(), name: created, table, sql: sql.to_vec() }))
}

/// Of CREATE TABLE.
#[derive(Default)]
struct Table {
    width: u64,
    parents: Vec<Vec<u8>>,
    is_generated: bool,
}

fn table(sql: &[u8]) -> Table {
    let mut found = Table { width: 1, ..Table::default() };
    let (mut depth, mut behind_as, mut references) = (0, false, false);
    for token in Tokens(sql) {
        if references && let Some(parent) = name(Some(token)) {
            found.parents.push(parent);
        }
        references = false;
        let was_as = std::mem::take(&mut behind_as);
        match token {
            Token::Mark(b'(') => {
                found.is_generated |= was_as && depth > 0;
                depth += 1;
            }
            Token::Mark(b')') => depth -= 1,
            Token::Mark(b',') if depth == 1 => found.width += 1,
            Token::Word(word) if word.eq_ignore_ascii_case(b"AS") => behind_as = true,
            Token::Word(word) => references = word.eq_ignore_ascii_case(b"REFERENCES"),
            _ => {}
        }
    }
    found
}

/// Whether the text creates a table with generated columns.
pub(crate) fn is_generated(sql: &[u8]) -> bool {
    table(sql).is_generated
}

/// A name without quotes, its case kept.
pub(crate) fn plain_name(text: &[u8]) -> &[u8] {
    match text {
        [b'\'' | b'"' | b'`' | b'[', inner @ .., _] => inner,
        other => other,
    }
}

/// Whether a definition can be part of a path, or be larger than it looks.
pub(crate) fn matters(row: &Row) -> bool {
    if row.kind != b"table" {
        return true;
    }
    let table = table(&row.sql);
    table.is_generated || !table.parents.is_empty()
}

/// What a definition adds to [`Schema::units`].
pub(crate) fn units_of(row: &Row) -> u64 {
    PROGRAM_UNITS + depth::units(&row.sql)
}

/// Names and what leads from each to others.
#[derive(Default)]
struct Graph {
    numbers: HashMap<Vec<u8>, usize>,
    units: Vec<u64>,
    edges: Vec<Vec<usize>>,
}

impl Graph {
    fn node(&mut self, name: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.units.len();
        self.numbers.insert(name.to_vec(), number);
        self.units.push(0);
        self.edges.push(Vec::new());
        number
    }

    /// The strongly connected components, each behind all that it leads to (Tarjan's algorithm, without recursion).
    fn components(&self) -> Vec<Vec<usize>> {
        let count = self.units.len();
        let (mut index, mut low) = (vec![usize::MAX; count], vec![0; count]);
        let mut is_open = vec![false; count];
        let (mut open, mut components, mut next) = (Vec::new(), Vec::new(), 0);
        for start in 0..count {
            if index[start] != usize::MAX {
                continue;
            }
            let mut path = vec![(start, 0)];
            while let Some((node, edge)) = path.last_mut() {
                let node = *node;
                if *edge == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    open.push(node);
                    is_open[node] = true;
                }
                if let Some(target) = self.edges[node].get(*edge) {
                    *edge += 1;
                    if index[*target] == usize::MAX {
                        path.push((*target, 0));
                    } else if is_open[*target] {
                        low[node] = low[node].min(index[*target]);
                    }
                    continue;
                }
                path.pop();
                if let Some((parent, _)) = path.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let from = open.iter().rposition(|other| *other == node).expect("it was pushed");
                    let component = open.split_off(from);
                    component.iter().for_each(|node| is_open[*node] = false);
                    components.push(component);
                }
            }
        }
        components
    }
}

impl Schema {
    /// Looks at all definitions.
    pub(crate) fn new(rows: &[Row]) -> Self {
        let mut schema = Self { largest: 1, ..Self::default() };
        let mut graph = Graph::default();
        // Views, and triggers that are not simple, by their node.
        let mut queries: HashMap<usize, (Query, &Row)> = HashMap::new();
        let mut triggers = Vec::new();
        for row in rows {
            let name = row.name.to_ascii_lowercase();
            match row.kind.as_slice() {
                b"table" => {
                    let table = table(&row.sql);
                    let node = graph.node(&name);
                    for parent in &table.parents {
                        let parent = graph.node(parent);
                        graph.edges[parent].push(node);
                    }
                    if !table.parents.is_empty() || table.is_generated {
                        let units = units_of(row);
                        graph.units[node] = graph.units[node].max(units);
                        schema.units += units;
                    }
                    if table.is_generated {
                        let relation = Query::parse(&row.sql).relation(&schema.relations, table.width);
                        schema.relations.insert(name, relation);
                    } else if table.width > 32 {
                        schema.relations.insert(name, Relation { width: table.width, ..Relation::default() });
                    }
                }
                b"view" | b"trigger" => {
                    let is_view = row.kind == b"view";
                    // A trigger may have the name of a table.
                    let key = if is_view { name } else { [b"trigger ", name.as_slice()].concat() };
                    let node = graph.node(&key);
                    let units = units_of(row);
                    graph.units[node] = graph.units[node].max(units);
                    schema.units += units;
                    if !is_view {
                        let table = graph.node(&row.table.to_ascii_lowercase());
                        graph.edges[table].push(node);
                        triggers.push(node);
                    }
                    let query = Query::parse(&row.sql);
                    for source in query.tables() {
                        let source = graph.node(source);
                        graph.edges[node].push(source);
                    }
                    queries.insert(node, (query, row));
                }
                _ => {}
            }
        }
        let (mut depths, mut sum) = (vec![0_u64; graph.units.len()], 0_u64);
        let mut copies = HashMap::new();
        let mut names = vec![&[][..]; graph.units.len()];
        graph.numbers.iter().for_each(|(name, number)| names[*number] = name);
        for component in graph.components() {
            let own: u64 = component.iter().map(|node| graph.units[*node]).sum();
            // In a ring the path may go round once for each of two conflict clauses.
            let own = if component.len() > 1 { 2 * own } else { own };
            let beyond =
                component.iter().flat_map(|node| &graph.edges[*node]).map(|node| depths[*node]).max();
            for node in &component {
                depths[*node] = own + beyond.unwrap_or(0);
                let Some((query, row)) = queries.get(node) else { continue };
                if row.kind == b"view" {
                    let relation = query.relation(&schema.relations, 0);
                    sum = sum.saturating_add(relation.tokens);
                    schema.relations.insert(names[*node].to_vec(), relation);
                } else {
                    copies.insert(*node, query.copies(&schema.relations));
                }
            }
        }
        for (node, name) in names.iter().enumerate() {
            let relation = schema.relations.get(*name);
            if depths[node] > MAX_UNITS || relation.is_some_and(|relation| relation.tokens > MAX_TOKENS) {
                schema.broken.insert(name.to_vec());
            }
        }
        // All triggers that a statement fires are compiled with it.
        let all: u64 = copies.values().fold(0, |sum, copies| copies.saturating_add(sum));
        if all > MAX_TOKENS {
            for row in rows.iter().filter(|row| row.kind == b"trigger") {
                let name = [b"trigger ", row.name.to_ascii_lowercase().as_slice()].concat();
                if graph.numbers.get(&name).and_then(|node| copies.get(node)).is_some_and(|few| *few > 1_000)
                {
                    schema.broken.insert(row.table.to_ascii_lowercase());
                }
            }
        }
        for (name, relation) in &schema.relations {
            if schema.broken.contains(name) {
                continue;
            }
            schema.largest = schema.largest.max(relation.tokens).max(relation.largest());
        }
        schema.is_bounded = sum <= MAX_SUM;
        schema
    }

    /// A name of something broken that the text uses, other than to drop it.
    pub(crate) fn uses_broken(&self, sql: &[u8], change: Option<&Change>) -> Option<String> {
        if self.broken.is_empty() && self.is_bounded {
            return None;
        }
        match change {
            Some(Change::Drops) => return None,
            Some(Change::Renames | Change::AddsColumn(..)) => {
                return Some("ALTER TABLE, which looks at the whole schema".into());
            }
            _ => {}
        }
        let found =
            |name: &[u8]| self.broken.contains(name).then(|| String::from_utf8_lossy(name).into_owned());
        if let Some(table) = Query::parse(sql).tables().find_map(found) {
            return Some(table);
        }
        let is_pragma = Tokens(sql)
            .next()
            .is_some_and(|first| matches!(first, Token::Word(word) if word.eq_ignore_ascii_case(b"PRAGMA")));
        for token in Tokens(sql) {
            // A text in single quotes can name a table only where a table is expected.
            if matches!(token, Token::Quoted([b'\'', ..])) && !is_pragma {
                continue;
            }
            let Some(name) = name(Some(token)) else { continue };
            if let Some(name) = found(&name) {
                return Some(name);
            }
            // They take names from elsewhere, or look at all there is.
            if name.starts_with(b"pragma_table") || name == b"table_list" {
                return Some(
                    "PRAGMA table_list or a function like it, which looks at the whole schema".into(),
                );
            }
        }
        None
    }

    /// The rows with what a statement adds to them.
    pub(crate) fn with_change(mut rows: Vec<Row>, change: &Change) -> Vec<Row> {
        match change {
            Change::Adds(row) => rows.push(row.clone()),
            Change::AddsColumn(table, definition) => {
                let row =
                    rows.iter_mut().find(|row| row.kind == b"table" && row.name.eq_ignore_ascii_case(table));
                if let Some(row) = row {
                    let end = row.sql.iter().rposition(|byte| *byte == b')').unwrap_or(row.sql.len());
                    row.sql.truncate(end);
                    row.sql.push(b',');
                    let definition = definition.trim_ascii_start();
                    let column: &[u8] = b"COLUMN";
                    let head = definition.get(..column.len());
                    let has_word = head.is_some_and(|head| head.eq_ignore_ascii_case(column));
                    let definition = if has_word { &definition[column.len()..] } else { definition };
                    row.sql.extend_from_slice(definition);
                    row.sql.push(b')');
                }
            }
            Change::Renames | Change::DropsTable | Change::Drops => {}
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[String]) -> Vec<Row> {
        texts
            .iter()
            .map(|sql| match change(sql.as_bytes()) {
                Some(Change::Adds(row)) => row,
                other => panic!("{sql}: {other:?}"),
            })
            .collect()
    }

    fn schema(texts: &[String]) -> Schema {
        Schema::new(&rows(texts))
    }

    #[test]
    fn views_that_double_are_broken_from_where_they_are_too_large() {
        let mut texts = vec!["CREATE TABLE t(a)".to_owned(), "CREATE VIEW v0 AS SELECT a FROM t".to_owned()];
        texts.extend(
            (1..60).map(|n| {
                format!("CREATE VIEW [V{n}] AS SELECT x.a FROM v{} x, main.\"v{}\" y", n - 1, n - 1)
            }),
        );
        texts.reverse();
        let schema = schema(&texts);
        assert!(schema.broken.contains(b"v59".as_slice()) && schema.broken.contains(b"v30".as_slice()));
        assert!(!schema.broken.contains(b"v10".as_slice()) && !schema.broken.contains(b"t".as_slice()));
        assert!(schema.uses_broken(b"SELECT * FROM V59", None).is_some());
        assert!(schema.uses_broken(b"SELECT * FROM v5", None).is_none());
        assert!(schema.uses_broken(b"PRAGMA table_info('v59')", None).is_some());
        assert!(schema.uses_broken(b"DROP VIEW v59", change(b"DROP VIEW v59").as_ref()).is_none());
        assert!(!schema.is_bounded, "sizes add up to more than SQLite looks at in a moment");
    }

    #[test]
    fn chains_of_views_triggers_and_foreign_keys_are_bounded() {
        let views = |n: usize| -> Vec<String> {
            (1..n).map(|n| format!("CREATE VIEW v{n} AS SELECT * FROM v{}", n - 1)).collect()
        };
        assert!(schema(&views(500)).broken.is_empty());
        assert!(!schema(&views(5_000)).broken.is_empty());
        let triggers = |n: usize| -> Vec<String> {
            (1..n)
                .map(|n| {
                    format!(
                        "CREATE TRIGGER r{n} AFTER INSERT ON t{} BEGIN INSERT INTO t{n} VALUES(new.a); END",
                        n - 1
                    )
                })
                .collect()
        };
        assert!(schema(&triggers(1_000)).broken.is_empty(), "as deep as they may run");
        let deep = schema(&triggers(10_000));
        assert!(deep.broken.contains(b"t0".as_slice()) && !deep.broken.contains(b"t9999".as_slice()));
        let keys = |n: usize| -> Vec<String> {
            (1..n)
                .map(|n| format!("CREATE TABLE f{n}(a PRIMARY KEY REFERENCES f{} ON DELETE CASCADE)", n - 1))
                .collect()
        };
        assert!(schema(&keys(1_000)).broken.is_empty());
        assert!(schema(&keys(10_000)).broken.contains(b"f0".as_slice()));
        let ring: Vec<_> = (0..3_000)
            .map(|n| {
                format!(
                    "CREATE TRIGGER r{n} AFTER INSERT ON t{n} BEGIN INSERT INTO t{} VALUES(1); END",
                    (n + 1) % 3_000
                )
            })
            .collect();
        assert!(schema(&ring).broken.contains(b"t7".as_slice()));
        let star: Vec<_> = (0..5_000)
            .map(|n| format!("CREATE TRIGGER r{n} AFTER INSERT ON t BEGIN INSERT INTO log VALUES(1); END"))
            .collect();
        assert!(schema(&star).broken.is_empty(), "side by side");
    }

    #[test]
    fn columns_and_triggers_that_double_are_broken() {
        let columns: String = (1..60).map(|c| format!(", c{c} AS (c{0}+c{0})", c - 1)).collect();
        let generated = schema(&[format!("CREATE TABLE g(c0{columns})")]);
        assert!(generated.broken.contains(b"g".as_slice()));
        let rows = rows(&["CREATE TABLE g(c0, c1 AS (c0+c0))".to_owned()]);
        let sql = b"ALTER TABLE main.g ADD COLUMN c2 AS (c1+c1+c1)";
        let wider = Schema::with_change(rows.clone(), &change(sql).unwrap());
        let size = |rows: &[Row]| Schema::new(rows).relations[b"g".as_slice()].tokens;
        assert!(size(&wider) > size(&rows), "{wider:?}");
    }

    #[test]
    fn what_a_statement_does_to_the_schema() {
        let kind = |sql: &str| match change(sql.as_bytes()) {
            None => "none",
            Some(Change::Adds(row)) if row.kind == b"trigger" && row.table == b"t" => "trigger",
            Some(Change::Adds(row)) if row.kind == b"view" && row.name == b"v" => "view",
            Some(Change::Adds(row)) if row.kind == b"table" && row.name == b"t" => "table",
            Some(Change::AddsColumn(table, _)) if table == b"t" => "column",
            Some(Change::Renames) => "renames",
            Some(Change::DropsTable) => "drops table",
            Some(Change::Drops) => "drops",
            Some(_) => "wrong",
        };
        for (sql, what) in [
            ("SELECT 1", "none"),
            ("CREATE INDEX i ON t(a)", "none"),
            ("; /* x */ create temp view if not exists \"V\" as select 1", "view"),
            ("CREATE TABLE main . [T] (a)", "table"),
            ("CREATE TEMPORARY TRIGGER r INSTEAD OF UPDATE OF a ON main.t BEGIN SELECT 1; END", "trigger"),
            ("ALTER TABLE temp.t ADD COLUMN a AS (b)", "column"),
            ("ALTER TABLE t ADD a", "column"),
            ("ALTER TABLE t RENAME TO u", "renames"),
            ("DROP TABLE t", "drops table"),
            ("DROP VIEW v", "drops"),
        ] {
            assert_eq!(kind(sql), what, "{sql}");
        }
    }
}

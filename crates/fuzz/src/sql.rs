//! Hostile SQL from a grammar: what stops an embedded SQLite, or the node around it, if anything does.
//!
//! Half of it is nested as deeply as a small text allows, half of it combines everything that the linked SQLite offers:
//! its functions, pragmas and virtual tables are asked of the node itself, so that those of a newer release are tried
//! without a change here.

use fastrand::Rng;

/// What the linked SQLite says it has.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Names of functions with the number of their arguments, -1 for any.
    pub functions: Vec<(String, i64)>,
    /// Names of pragmas.
    pub pragmas: Vec<String>,
    /// Names of virtual tables.
    pub modules: Vec<String>,
}

/// Draws texts.
#[derive(Debug)]
pub struct Grammar<'a> {
    random: Rng,
    vocabulary: &'a Vocabulary,
    /// How much deeper expressions may nest; bounds the length of ordinary texts.
    depth: u32,
}

const NAMES: [&str; 9] = ["t", "u", "v", "w", "x", "sqlite_schema", "main.t", "temp.tt", "f"];
const COLUMNS: [&str; 8] = ["a", "b", "c", "rowid", "t.a", "\"no such\"", "*", "oid"];
const LITERALS: [&str; 22] = [
    "0",
    "1",
    "-1",
    "NULL",
    "'x'",
    "x'00ff'",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "1e999",
    "0.1",
    "''",
    "'[1,[2,{\"a\":3}]]'",
    "'%'",
    "'a%b%c%'",
    "1000000",
    "1000000000",
    "2147483648",
    "current_timestamp",
    "'now'",
    "?1",
    ":name",
];
const BINARY: [&str; 22] = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "&",
    "|",
    "<<",
    ">>",
    "=",
    "<>",
    "<",
    "IS",
    "IS NOT",
    "AND",
    "OR",
    "LIKE",
    "GLOB",
    "->",
    "->>",
    "IS NOT DISTINCT FROM",
];

impl<'a> Grammar<'a> {
    /// Equal seeds give equal texts for an equal vocabulary.
    #[must_use]
    pub fn new(seed: u64, vocabulary: &'a Vocabulary) -> Self {
        Self { random: Rng::with_seed(seed), vocabulary, depth: 0 }
    }

    /// A text of one or several statements.
    #[must_use]
    pub fn text(&mut self) -> String {
        if self.random.u8(..4) == 0 {
            return self.extreme();
        }
        let count = if self.random.bool() { 1 } else { self.random.usize(1..6) };
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        statements.join("; ")
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.random.usize(..choices.len())]
    }

    fn name(&mut self) -> &'static str {
        self.pick(&NAMES)
    }

    fn column(&mut self) -> &'static str {
        self.pick(&COLUMNS)
    }

    /// A length that is ordinary, at a limit of SQLite, or beyond one.
    fn many(&mut self) -> usize {
        const COUNTS: [usize; 12] = [10, 100, 499, 500, 501, 999, 1000, 1001, 2000, 8000, 32_767, 50_000];
        COUNTS[self.random.usize(..COUNTS.len())]
    }

    /// One construct repeated or nested many times.
    fn extreme(&mut self) -> String {
        let n = self.many();
        let few = n.min(3000);
        match self.random.u8(..35) {
            // A text that fits, so that each wildcard is one level of recursion.
            0 => format!("SELECT printf('%.{n}c', 'a') LIKE '{}'", "%a".repeat(n)),
            1 => format!("SELECT printf('%.{n}c', 'a') GLOB '{}'", "*a".repeat(n)),
            2 => format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
            3 => format!("SELECT {}1", "NOT ".repeat(n)),
            4 => format!("SELECT {}1", "- ".repeat(n)),
            5 => format!("SELECT 1{}", "+1".repeat(n)),
            6 => format!("SELECT {}1{}", "abs(".repeat(n), ")".repeat(n)),
            7 => format!("SELECT {}1{}", "CASE WHEN 1 THEN ".repeat(few), " END".repeat(few)),
            8 => format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(n)),
            9 => format!("SELECT 1{}", " UNION SELECT 2".repeat(few)),
            10 => format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(few), ")".repeat(few)),
            11 => {
                let mut text = String::from("WITH c0(a) AS (SELECT 1)");
                for i in 1..n {
                    text += &format!(", c{i} AS (SELECT * FROM c{})", i - 1);
                }
                text + &format!(" SELECT count(*) FROM c{}", n - 1)
            }
            12 => {
                let mut text = String::from("WITH c0(a) AS (SELECT 1)");
                let count = few.min(12);
                for i in 1..count {
                    text += &format!(", c{i} AS (SELECT * FROM c{0} UNION ALL SELECT * FROM c{0})", i - 1);
                }
                text + &format!(" SELECT count(*) FROM c{}", count - 1)
            }
            13 => format!("SELECT json('{}{}')", "[".repeat(n), "]".repeat(n)),
            14 => format!("SELECT json_extract('{{}}', '${}')", ".a".repeat(n)),
            15 => format!("SELECT a IN ({}1) FROM t", "1,".repeat(n)),
            16 => format!("INSERT INTO t(a) VALUES {}(1)", "(1),".repeat(n)),
            17 => format!("SELECT {}1", "1,".repeat(n)),
            18 => format!("SELECT * FROM t{}", " JOIN t".repeat(n.min(70))),
            19 => format!("SELECT * FROM t{}", " NATURAL LEFT JOIN u".repeat(n.min(70))),
            20 => format!("CREATE TABLE IF NOT EXISTS wide({}z)", (0..n).map(|i| format!("c{i},")).collect::<String>()),
            21 => {
                let mut text = String::from("CREATE VIEW IF NOT EXISTS v0 AS SELECT 1 AS a");
                for i in 1..few.min(1200) {
                    text += &format!("; CREATE VIEW IF NOT EXISTS v{i} AS SELECT * FROM v{}", i - 1);
                }
                text
            }
            22 => format!("SELECT * FROM v{}", self.random.usize(..1200)),
            23 => "PRAGMA recursive_triggers=1; CREATE TRIGGER IF NOT EXISTS deep AFTER INSERT ON w BEGIN INSERT INTO w \
                   SELECT new.a + 1 WHERE new.a < 2000; END; INSERT INTO w VALUES (1)"
                .to_owned(),
            24 => format!(
                "CREATE TRIGGER IF NOT EXISTS r{n} AFTER INSERT ON u BEGIN SELECT printf('%.{n}c', 'a') \
                 LIKE '{}'; END; INSERT INTO u VALUES (1, 2)",
                "%a".repeat(n)
            ),
            25 => format!("SELECT {}1{}", "EXISTS(SELECT ".repeat(few), ")".repeat(few)),
            26 => format!("SELECT replace(printf('%.{n}c', 'x'), 'x', printf('%.{n}c', 'y'))"),
            27 => format!("SELECT length(printf('%{}d', 1))", n * 40_000),
            28 => format!("SELECT randomblob({}), zeroblob({0})", n * 20_000),
            29 => "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c".to_owned(),
            30 => "INSERT INTO w WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT n FROM c".to_owned(),
            31 => format!("SELECT sum(a) OVER ({}) FROM t", "ORDER BY a ".to_owned() + &", a".repeat(few.min(1999))),
            32 => format!("CREATE INDEX IF NOT EXISTS i{n} ON t({}a)", "a,".repeat(n.min(3000))),
            33 => {
                let mut text = String::from("WITH RECURSIVE c0(a) AS (SELECT 1)");
                for i in 1..few {
                    text += &format!(", c{i}(a) AS (SELECT a FROM c{} UNION SELECT 1)", i - 1);
                }
                text + &format!(" SELECT count(*) FROM c{}", few - 1)
            }
            _ => format!("CREATE TABLE IF NOT EXISTS k(a CHECK ({}1))", "a AND ".repeat(n)),
        }
    }

    /// An ordinary statement with anything in it.
    fn statement(&mut self) -> String {
        self.depth = 3;
        match self.random.u8(..40) {
            0..=7 => self.select(),
            8..=11 => {
                let (name, first, second) = (self.name(), self.expression(), self.expression());
                let tail =
                    self.pick(&["", "", " RETURNING *", " ON CONFLICT DO NOTHING", " RETURNING random()"]);
                let verb = self.pick(&["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"]);
                format!("{verb} INTO {name} VALUES ({first}, {second}){tail}")
            }
            12 | 13 => {
                let (name, column, value, condition) =
                    (self.name(), self.column(), self.expression(), self.expression());
                format!("UPDATE {name} SET {column} = {value} WHERE {condition}")
            }
            14 => format!("DELETE FROM {} WHERE {}", self.name(), self.expression()),
            15..=19 => self.pragma(),
            20 => self
                .pick(&["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "COMMIT", "ROLLBACK", "END"])
                .to_owned(),
            21 => self.pick(&["SAVEPOINT s", "RELEASE s", "ROLLBACK TO s", "SAVEPOINT \"\""]).to_owned(),
            22 => {
                let options = self.pick(&["", "", " STRICT", " WITHOUT ROWID"]);
                let name = self.pick(&["t", "u", "x", "tt"]);
                let kind = self.pick(&["TABLE", "TABLE", "TEMP TABLE", "TABLE IF NOT EXISTS"]);
                format!("CREATE {kind} {name}(a INTEGER PRIMARY KEY, b TEXT, c AS (a + 1)){options}")
            }
            23 => format!("CREATE VIEW {} AS {}", self.pick(&["v", "vv"]), self.select()),
            24 => {
                let (event, body) = (self.pick(&["INSERT", "UPDATE", "DELETE"]), self.select());
                format!("CREATE TRIGGER IF NOT EXISTS g{event} AFTER {event} ON t BEGIN {body}; END")
            }
            25 => {
                let modules = &self.vocabulary.modules;
                let module = match modules.len() {
                    0 => "fts5".to_owned(),
                    len => modules[self.random.usize(..len)].clone(),
                };
                let arguments = self.pick(&[
                    "",
                    "(a, b)",
                    "(id, x0, x1)",
                    "(a, tokenize='porter')",
                    "('t')",
                    "(content='')",
                ]);
                format!("CREATE VIRTUAL TABLE f USING {module}{arguments}")
            }
            26 => {
                let command = self.pick(&[
                    "optimize",
                    "rebuild",
                    "integrity-check",
                    "merge=500",
                    "automerge=8",
                    "delete-all",
                ]);
                format!("INSERT INTO f(f) VALUES ('{command}')")
            }
            27 => {
                let action = self.pick(&[
                    "RENAME TO t",
                    "RENAME a TO b",
                    "ADD d DEFAULT 1",
                    "DROP b",
                    "ADD e AS (random())",
                ]);
                format!("ALTER TABLE {} {action}", self.name())
            }
            28 => format!("DROP {} {}", self.pick(&["TABLE", "VIEW", "INDEX", "TRIGGER"]), self.name()),
            29 => self
                .pick(&["VACUUM", "VACUUM INTO '/dev/null'", "VACUUM temp", "ANALYZE", "REINDEX"])
                .to_owned(),
            30 => {
                let target =
                    self.pick(&["''", "':memory:'", "'/etc/passwd'", "'file:x?mode=memory'", "'test'"]);
                format!("ATTACH {target} AS other")
            }
            31 => "DETACH other".to_owned(),
            32 => format!("EXPLAIN {}", self.select()),
            33 => format!("EXPLAIN QUERY PLAN {}", self.select()),
            34 => format!("SELECT * FROM {}", self.table_function()),
            35 => format!("UPDATE sqlite_schema SET sql = {}", self.expression()),
            36 => "SELECT load_extension('x')".to_owned(),
            37 => format!("CREATE INDEX IF NOT EXISTS i ON t({})", self.expression()),
            38 => self.garbage(),
            _ => format!("SELECT count(*) FROM t, t, t WHERE {}", self.expression()),
        }
    }

    fn select(&mut self) -> String {
        let (what, from) = (self.expression(), self.name());
        let rest = match self.random.u8(..8) {
            0 => format!(" WHERE {}", self.expression()),
            1 => format!(" GROUP BY {} HAVING {}", self.expression(), self.expression()),
            2 => format!(" ORDER BY {} LIMIT {}", self.expression(), self.expression()),
            3 => format!(" UNION {}", self.select_shallow()),
            4 => format!(" WHERE a IN ({})", self.select_shallow()),
            5 => " WINDOW q AS (PARTITION BY a ORDER BY b)".to_owned(),
            _ => String::new(),
        };
        format!("SELECT {what} FROM {from}{rest}")
    }

    fn select_shallow(&mut self) -> String {
        format!("SELECT {} FROM {}", self.expression(), self.name())
    }

    fn expression(&mut self) -> String {
        if self.depth == 0 {
            let leaf = if self.random.bool() { self.pick(&LITERALS) } else { self.column() };
            return leaf.to_owned();
        }
        self.depth -= 1;
        let text = match self.random.u8(..12) {
            0..=2 => self.pick(&LITERALS).to_owned(),
            3 => self.column().to_owned(),
            4 | 5 => {
                let operator = self.pick(&BINARY);
                format!("({} {operator} {})", self.expression(), self.expression())
            }
            6..=9 => self.call(),
            10 => format!("CAST({} AS {})", self.expression(), self.pick(&["TEXT", "BLOB", "INT", "REAL"])),
            _ => format!("({})", self.select_shallow()),
        };
        self.depth += 1;
        text
    }

    fn call(&mut self) -> String {
        let functions = &self.vocabulary.functions;
        let Some((name, arity)) = functions.get(self.random.usize(..functions.len().max(1))) else {
            return "random()".to_owned();
        };
        let count = usize::try_from(*arity).unwrap_or_else(|_| self.random.usize(..4));
        let arguments: Vec<String> = (0..count).map(|_| self.expression()).collect();
        let over = if self.random.u8(..12) == 0 { " OVER ()" } else { "" };
        format!("\"{name}\"({}){over}", arguments.join(", "))
    }

    fn pragma(&mut self) -> String {
        let pragmas = &self.vocabulary.pragmas;
        let Some(name) = pragmas.get(self.random.usize(..pragmas.len().max(1))) else {
            return "PRAGMA user_version".to_owned();
        };
        let value = self.pick(&[
            "",
            "",
            "=0",
            "=1",
            "=-1",
            "=4096",
            "(t)",
            "='x'",
            "=9223372036854775807",
            "=memory",
            "=off",
        ]);
        format!("PRAGMA {name}{value}")
    }

    fn table_function(&mut self) -> String {
        let vocabulary = self.vocabulary;
        if self.random.bool() && !vocabulary.pragmas.is_empty() {
            let name = &vocabulary.pragmas[self.random.usize(..vocabulary.pragmas.len())];
            let argument = self.pick(&["", "('t')", "(1)"]);
            return format!("pragma_{name}{argument}");
        }
        match vocabulary.modules.len() {
            0 => "dbstat".to_owned(),
            len => {
                let argument = self.pick(&["", "('t')", "('[1,2]')", "(NULL)"]);
                format!("{}{argument}", vocabulary.modules[self.random.usize(..len)])
            }
        }
    }

    fn garbage(&mut self) -> String {
        let mut text = self.select().into_bytes();
        for _ in 0..self.random.usize(1..6) {
            let at = self.random.usize(..text.len());
            match self.random.u8(..3) {
                0 => text[at] = self.random.u8(32..127),
                1 => drop(text.remove(at)),
                _ => text.insert(at, b'('),
            }
            if text.is_empty() {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

//! How large SQLite makes a statement while it compiles it, estimated before.
//!
//! SQLite copies the body of a common table expression or a view for each of its uses, and puts the expression of a
//! column of a subquery in the place of each use of that column. Sixty bodies that use the one before twice make 2^60
//! copies: SQLite looks at no interrupt meanwhile, and takes memory until the process is killed.
//!
//! A text is cut into [`Level`]s, one for each SELECT of it. The size of a level is the number of its tokens, and for each
//! name that stands for something larger (a table in FROM, a column of a subquery, a window) the size of that. What stands
//! in the text once is no copy, so a long text is not large by itself.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use crate::depth::{Token, Tokens};

/// Tokens that the copies in one statement may have: about a second of SQLite's time, some 100 MB of its memory.
pub(crate) const MAX_TOKENS: u64 = 2_000_000;
/// A long text may have so many copies of each of its tokens beside that.
const COPIES: u64 = 8;
/// SQLite refuses wider results.
const MAX_WIDTH: u64 = 2_000;
/// What a table is taken for whose columns nobody has counted.
const USUAL_WIDTH: u64 = 8;
/// How deep the estimate itself may recurse; a chain of so many links is too deep for SQLite, too.
const MAX_RECURSION: u32 = 8_000;

/// Bytes of a name that are kept as they are.
const MAX_NAME: usize = 512;

/// A name without quotes, in lower case, as a number of one [`Query`].
type Name = usize;

/// What is known of a view or a table, by the name in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) tokens: u64,
    pub(crate) width: u64,
    /// Sizes of columns; those that are not there have the size of a name.
    pub(crate) columns: HashMap<Vec<u8>, u64>,
    /// Whether columns have other names than those in `columns`, so that any could be the largest.
    pub(crate) renamed: bool,
}

impl Relation {
    /// Size of the largest column.
    pub(crate) fn largest(&self) -> u64 {
        self.columns.values().copied().max().unwrap_or(1)
    }

    fn column(&self, name: &[u8]) -> Option<u64> {
        self.columns.get(name).copied().or_else(|| self.renamed.then(|| self.largest()))
    }
}

/// Views and tables of a schema.
pub(crate) type Relations = HashMap<Vec<u8>, Relation>;

/// One result column, or one column of a table.
#[derive(Debug, Default)]
struct Item {
    alias: Option<Name>,
    tokens: u64,
    names: Vec<Name>,
    children: Vec<usize>,
    star: bool,
    /// Whether it is more than a name, perhaps with that of its table in front and another one behind.
    is_made: bool,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Table(Name),
    Level(usize),
}

/// One SELECT, one arm of a compound, or the columns of a table.
#[derive(Debug, Default)]
struct Level {
    parent: Option<usize>,
    tokens: u64,
    items: Vec<Item>,
    /// Names outside of the result columns.
    names: Vec<Name>,
    sources: Vec<Source>,
    /// SELECTs in parentheses that stand in expressions and in FROM.
    children: Vec<usize>,
    /// Further arms of the compound.
    arms: Vec<usize>,
    /// What is called by a name within: common table expressions and windows.
    named: HashMap<Name, usize>,
    /// Windows that are used by their names.
    windows: Vec<Name>,
    /// Whether its columns get other names where it is defined.
    renamed: bool,
    /// Whether columns use each other, as those of a table do.
    is_table: bool,
    /// Whether it is a window, or what else is no SELECT.
    is_window: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    Items,
    From,
    Rest,
}

/// One pair of parentheses.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// The level that what stands in it belongs to.
    level: usize,
    clause: Clause,
    /// Whether it is a SELECT, a window or the columns of a table, in place of a part of the level around it.
    is_own: bool,
    /// Whether tables stand in it that are joined.
    is_join: bool,
    /// Whether a table comes next.
    expects_table: bool,
    /// Whether it stands behind AS, and what is in front of that: a name, and whether a list of columns follows it.
    behind_as: Option<(Option<Name>, bool)>,
    /// The name in front of it.
    before: Option<Name>,
}

/// A text that was cut into levels.
#[derive(Debug, Default)]
pub(crate) struct Query {
    levels: Vec<Level>,
    /// Those that stand in no other.
    roots: Vec<usize>,
    names: Vec<Vec<u8>>,
    tokens: u64,
    /// Whether it is a view with a list of columns.
    renamed: bool,
}

const EXPRESSION_WORDS: [&[u8]; 26] = [
    b"AND",
    b"OR",
    b"NOT",
    b"IN",
    b"IS",
    b"LIKE",
    b"GLOB",
    b"REGEXP",
    b"MATCH",
    b"BETWEEN",
    b"COLLATE",
    b"ESCAPE",
    b"CASE",
    b"WHEN",
    b"THEN",
    b"ELSE",
    b"DISTINCT",
    b"ALL",
    b"FILTER",
    b"OVER",
    b"EXISTS",
    b"CAST",
    b"AS",
    b"SELECT",
    b"BY",
    b"ON",
];
const REST_WORDS: [&[u8]; 10] = [
    b"WHERE",
    b"GROUP",
    b"HAVING",
    b"ORDER",
    b"LIMIT",
    b"WINDOW",
    b"SET",
    b"VALUES",
    b"RETURNING",
    b"DEFAULT",
];
const NO_TABLES: [&[u8]; 8] =
    [b"OR", b"REPLACE", b"ROLLBACK", b"ABORT", b"FAIL", b"IGNORE", b"IF", b"INDEXED"];

fn is(word: &[u8], list: &[&[u8]]) -> bool {
    list.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// A name as names are compared: without its quotes, in lower case. What a long one has beyond [`MAX_NAME`] is a hash of it,
/// so that a name of some MB costs no memory of its own.
pub(crate) fn plain(text: &[u8]) -> Vec<u8> {
    let (quote, inner) = match text {
        [first @ (b'\'' | b'"' | b'`'), inner @ .., last] if first == last => (Some(*first), inner),
        [b'[', inner @ .., b']'] => (None, inner),
        other => (None, other),
    };
    let mut doubled = false;
    let bytes = inner.iter().filter(|byte| {
        doubled = quote == Some(**byte) && !doubled;
        quote != Some(**byte) || doubled
    });
    let mut name = Vec::with_capacity(inner.len().min(MAX_NAME + size_of::<u64>()));
    let mut rest = DefaultHasher::new();
    let mut is_long = false;
    for byte in bytes.map(u8::to_ascii_lowercase) {
        if name.len() < MAX_NAME {
            name.push(byte);
        } else {
            is_long = true;
            rest.write_u8(byte);
        }
    }
    if is_long {
        name.extend(rest.finish().to_le_bytes());
    }
    name
}

/// Whether a text is so simple that nothing in it is copied but what a schema has: one SELECT or none.
pub(crate) fn is_simple(sql: &[u8]) -> bool {
    let mut selects = 0;
    for (at, byte) in sql.iter().enumerate() {
        let found = match byte {
            b'c' | b'C' => {
                at >= 4 && sql[at - 4..].get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"SELECT"))
            }
            b'v' | b'V' => {
                at >= 1 && sql[at - 1..].get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"OVER"))
            }
            _ => false,
        };
        selects += usize::from(found);
        if selects > 1 {
            return false;
        }
    }
    true
}

/// What the parse looks back at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The start, an operator, a word that goes on with an expression.
    Open,
    /// The end of an expression.
    Ended,
    Dot,
    As,
    Closed,
}

struct Parser {
    query: Query,
    interned: HashMap<Vec<u8>, Name>,
    frames: Vec<Frame>,
    last: Last,
    /// The word in front, if it was a name.
    last_name: Option<Name>,
    /// The name in front of the parentheses that were closed just now.
    before_closed: Option<Name>,
    behind_as: (Option<Name>, bool),
    behind_distinct: bool,
    behind_over: bool,
    behind_in: bool,
}

impl Query {
    /// Cuts the first statement of a text into levels; of a trigger, all its statements.
    pub(crate) fn parse(sql: &[u8]) -> Self {
        let mut parser = Parser {
            query: Self::default(),
            interned: HashMap::new(),
            frames: Vec::new(),
            last: Last::Open,
            last_name: None,
            before_closed: None,
            behind_as: (None, false),
            behind_distinct: false,
            behind_over: false,
            behind_in: false,
        };
        parser.root();
        let (mut creates, mut trigger, mut table) = (false, false, false);
        let (mut begun, mut behind_semicolon) = (false, false);
        for (index, token) in Tokens(sql).enumerate() {
            match token {
                Token::Word(word) if index < 8 && is(word, &[b"CREATE"]) => creates = true,
                Token::Word(word) if creates && index < 8 && is(word, &[b"TRIGGER"]) => trigger = true,
                Token::Word(word) if creates && index < 8 && is(word, &[b"TABLE"]) => table = true,
                Token::Word(word) if trigger && behind_semicolon && is(word, &[b"END"]) => break,
                Token::Mark(b';') if trigger => {
                    parser.root();
                    behind_semicolon = true;
                    continue;
                }
                Token::Mark(b';') if begun => break,
                Token::Mark(b';') => continue,
                Token::Mark(b'(') if table && parser.frames.len() == 1 => {
                    (table, begun) = (false, true);
                    parser.columns();
                    continue;
                }
                _ => {}
            }
            (begun, behind_semicolon) = (true, false);
            parser.token(token);
        }
        parser.query
    }
}

impl Parser {
    fn add(&mut self, parent: Option<usize>) -> usize {
        self.query.levels.push(Level { parent, ..Level::default() });
        self.query.levels.len() - 1
    }

    fn push(&mut self, level: usize, clause: Clause, is_own: bool) {
        self.frames.push(Frame {
            level,
            clause,
            is_own,
            is_join: false,
            expects_table: false,
            behind_as: None,
            before: None,
        });
    }

    fn root(&mut self) {
        self.frames.clear();
        let level = self.add(None);
        self.query.roots.push(level);
        self.push(level, Clause::Rest, true);
        self.last = Last::Open;
    }

    /// The parentheses of CREATE TABLE.
    fn columns(&mut self) {
        let around = self.frame().level;
        let level = self.add(Some(around));
        self.query.levels[level].is_table = true;
        self.query.levels[level].items.push(Item::default());
        self.query.levels[around].children.push(level);
        self.push(level, Clause::Items, true);
        self.last = Last::Open;
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the outermost frame is never closed")
    }

    fn level(&mut self) -> &mut Level {
        let level = self.frame().level;
        &mut self.query.levels[level]
    }

    fn intern(&mut self, text: &[u8]) -> Name {
        let name = plain(text);
        if let Some(number) = self.interned.get(&name) {
            return *number;
        }
        let number = self.query.names.len();
        self.query.names.push(name.clone());
        self.interned.insert(name, number);
        number
    }

    /// The result column, or the column of a table, that the next token belongs to, inner parentheses included.
    fn item(&mut self) -> Option<&mut Item> {
        if self.frame().clause == Clause::Items { self.level().items.last_mut() } else { None }
    }

    fn count(&mut self) {
        self.query.tokens += 1;
        self.level().tokens += 1;
        if let Some(item) = self.item() {
            item.tokens += 1;
        }
    }

    fn make_item(&mut self) {
        if let Some(item) = self.item() {
            item.is_made = true;
        }
    }

    fn use_name(&mut self, name: Name) {
        // Of the columns of a table only those are made of others that stand behind AS.
        let counts =
            !self.level().is_table || self.frames.iter().rev().any(|frame| frame.behind_as.is_some());
        match self.item() {
            Some(item) if counts => item.names.push(name),
            _ => self.level().names.push(name),
        }
    }

    /// The name used last was that of a table in front of a column.
    fn forget_name(&mut self, name: Name) {
        let level = self.frame().level;
        let names = match self.item() {
            Some(item) if item.names.last() == Some(&name) => &mut item.names,
            _ => &mut self.query.levels[level].names,
        };
        if names.last() == Some(&name) {
            names.pop();
        }
    }

    fn open(&mut self) {
        self.count();
        self.make_item();
        let before = self.last_name.take();
        let behind_as = (self.last == Last::As).then_some(self.behind_as);
        let around = *self.frame();
        let is_join = around.expects_table && (around.is_own || around.is_join);
        self.frames.push(Frame {
            is_own: false,
            is_join,
            expects_table: is_join,
            behind_as,
            before,
            ..around
        });
        self.last = Last::Open;
    }

    /// The parentheses that were just opened hold a SELECT, or a window.
    fn becomes_level(&mut self, is_select: bool) {
        let opened = self.frames.pop().expect("it was opened");
        let around = self.frame().level;
        let level = self.add(Some(around));
        self.query.levels[level].is_window = !is_select;
        if let Some((Some(name), renamed)) = opened.behind_as {
            self.query.levels[level].renamed = renamed;
            // What it is called, and what its columns are, is no use of a name.
            let names = &mut self.query.levels[around].names;
            if let Some(at) = names.iter().rposition(|other| *other == name) {
                names.truncate(at);
            }
            // Of two with one name SQLite takes none.
            self.query.levels[around].named.insert(name, level);
        } else {
            if is_select && opened.is_join {
                self.query.levels[around].sources.push(Source::Level(level));
            }
            if let Some(item) = self.item() {
                item.children.push(level);
            }
            self.query.levels[around].children.push(level);
        }
        self.push(level, Clause::Rest, true);
        self.frame().before = opened.before;
    }

    fn close(&mut self) {
        if self.frames.len() > 1 {
            let closed = self.frames.pop().expect("there are two at least");
            self.before_closed = closed.before;
            self.frame().expects_table = false;
        }
        self.count();
        self.last = Last::Closed;
        self.last_name = None;
    }

    fn token(&mut self, token: Token<'_>) {
        // The first token in parentheses says what they are.
        if self.last == Last::Open
            && let frame = *self.frame()
            && !frame.is_own
        {
            let select = matches!(token, Token::Word(word) if is(word, &[b"SELECT", b"WITH", b"VALUES"]));
            let window = frame.behind_as.is_some() && !self.level().is_table && token != Token::Mark(b')');
            if select || window {
                self.becomes_level(select);
            }
        }
        match token {
            Token::Word(word) => self.word(word),
            Token::Quoted(text) => self.name(text),
            Token::Mark(b'(') => self.open(),
            Token::Mark(b')') => self.close(),
            Token::Value => self.mark(Last::Ended),
            Token::Mark(b'.') => {
                let name = self.last_name;
                self.mark(Last::Dot);
                self.last_name = name;
            }
            Token::Mark(b',') => {
                let frame = self.frame();
                match frame.clause {
                    Clause::From if frame.is_own || frame.is_join => frame.expects_table = true,
                    Clause::Items if frame.is_own => self.level().items.push(Item::default()),
                    _ => {}
                }
                self.mark(Last::Open);
            }
            Token::Mark(b'*') => {
                let all = matches!(self.last, Last::Open | Last::Dot) && self.frame().is_own;
                if let Some(item) = self.item() {
                    item.star |= all;
                    item.is_made |= !all;
                }
                self.mark(Last::Open);
            }
            Token::Mark(_) => {
                self.make_item();
                self.mark(Last::Open);
            }
        }
    }

    fn mark(&mut self, last: Last) {
        self.count();
        self.last = last;
        self.last_name = None;
        self.before_closed = None;
    }

    fn word(&mut self, word: &[u8]) {
        if self.last == Last::Dot {
            return self.name(word);
        }
        let behind_distinct = std::mem::take(&mut self.behind_distinct);
        let is_own = self.frame().is_own;
        if is(word, &[b"SELECT"]) {
            let frame = self.frame();
            (frame.clause, frame.expects_table) = (Clause::Items, false);
            self.level().items.push(Item::default());
        } else if is(word, &[b"UNION", b"EXCEPT", b"INTERSECT"]) && is_own {
            self.arm();
        } else if is(word, &[b"FROM"]) && !behind_distinct && is_own {
            let frame = self.frame();
            (frame.clause, frame.expects_table) = (Clause::From, true);
        } else if is(word, &[b"JOIN", b"INTO", b"UPDATE"]) {
            self.frame().expects_table = true;
        } else if is(word, &REST_WORDS) && is_own && !self.level().is_table {
            let frame = self.frame();
            (frame.clause, frame.expects_table) = (Clause::Rest, false);
        } else if is(word, &[b"ON", b"USING"]) {
            self.frame().expects_table = false;
        } else if is(word, &[b"OVER"]) {
            self.behind_over = true;
            return self.mark(Last::Open);
        } else if is(word, &[b"IN"]) {
            self.behind_in = true;
            return self.mark(Last::Open);
        } else if is(word, &[b"DISTINCT"]) {
            self.behind_distinct = true;
        } else if is(word, &[b"AS"]) {
            self.behind_as = match self.last {
                Last::Closed => (self.before_closed, true),
                _ => (self.last_name, false),
            };
            self.query.renamed |= self.frames.len() == 1 && self.last == Last::Closed;
            return self.mark(Last::As);
        } else if self.last == Last::As && is(word, &[b"NOT", b"MATERIALIZED"]) {
            return self.mark(Last::As);
        } else if !(is(word, &EXPRESSION_WORDS) || (self.frame().expects_table && is(word, &NO_TABLES))) {
            return self.name(word);
        }
        (self.behind_over, self.behind_in) = (false, false);
        self.mark(Last::Open);
    }

    /// A word that may be a name.
    fn name(&mut self, text: &[u8]) {
        self.count();
        let name = self.intern(text);
        let frame = *self.frame();
        let over = std::mem::take(&mut self.behind_over);
        let list = std::mem::take(&mut self.behind_in);
        let is_table = self.level().is_table;
        let qualified = self.last_name.filter(|_| self.last == Last::Dot);
        if over {
            self.level().windows.push(name);
        } else if list || (frame.expects_table && (frame.is_own || frame.is_join)) {
            self.frame().expects_table = false;
            self.level().sources.push(Source::Table(name));
        } else if let Some(first) = qualified
            && frame.clause != Clause::Items
            && matches!(self.level().sources.last(), Some(Source::Table(last)) if *last == first)
        {
            // A table with the name of its schema; or a column with that of its table, for which it does no harm.
            self.level().sources.push(Source::Table(name));
        } else if is_table && frame.is_own {
            if let Some(item) = self.item() {
                item.alias.get_or_insert(name);
            }
        } else {
            if frame.is_own
                && let Some(item) = self.item()
            {
                item.alias = Some(name);
            }
            // What follows AS or the end of an expression is what that is called.
            if !matches!(self.last, Last::As | Last::Ended | Last::Closed) {
                if let Some(first) = qualified {
                    self.forget_name(first);
                }
                self.use_name(name);
            }
        }
        self.last = Last::Ended;
        self.last_name = Some(name);
        self.before_closed = None;
    }

    /// Another arm of a compound.
    fn arm(&mut self) {
        let level = self.frame().level;
        let parent = self.query.levels[level].parent;
        let first = parent.filter(|parent| self.query.levels[*parent].arms.contains(&level)).unwrap_or(level);
        let arm = self.add(Some(first));
        self.query.levels[first].arms.push(arm);
        let frame = self.frame();
        (frame.level, frame.clause, frame.expects_table) = (arm, Clause::Rest, false);
    }
}

/// Sizes of the levels of one query.
struct Estimate<'a> {
    query: &'a Query,
    relations: &'a Relations,
    /// `None` in these maps means that it is being found out: what uses itself is no larger for that.
    sizes: HashMap<usize, Option<u64>>,
    columns: HashMap<(usize, Name), Option<Option<u64>>>,
    items: HashMap<(usize, usize), Option<u64>>,
    largest: HashMap<usize, Option<u64>>,
    widths: HashMap<usize, Option<u64>>,
    recursion: u32,
    steps: u64,
    max_steps: u64,
}

/// What a table in FROM is.
enum Found<'a> {
    Level(usize),
    Relation(&'a Relation),
    Unknown,
}

impl<'a> Estimate<'a> {
    /// Whether it is time to give up: the answer is then that the statement is too large.
    fn enter(&mut self) -> bool {
        self.recursion += 1;
        self.steps += 1;
        if self.recursion > MAX_RECURSION {
            self.steps = self.max_steps;
        }
        self.steps >= self.max_steps
    }

    fn find(&mut self, level: usize, name: Name) -> Found<'a> {
        let mut at = Some(level);
        while let Some(level) = at {
            self.steps += 1;
            let level = &self.query.levels[level];
            if let Some(named) = level.named.get(&name) {
                return Found::Level(*named);
            }
            at = level.parent;
        }
        match self.relations.get(&self.query.names[name]) {
            Some(relation) => Found::Relation(relation),
            None => Found::Unknown,
        }
    }

    fn source(&mut self, level: usize, source: Source) -> Found<'a> {
        match source {
            Source::Level(level) => Found::Level(level),
            Source::Table(name) => self.find(level, name),
        }
    }

    fn size(&mut self, level: usize) -> u64 {
        if let Some(known) = self.sizes.get(&level) {
            return known.unwrap_or(1);
        }
        if self.enter() {
            return u64::MAX;
        }
        self.sizes.insert(level, None);
        let own = &self.query.levels[level];
        let mut size = own.tokens;
        let items = own.items.iter().flat_map(|item| &item.names);
        for name in own.names.iter().chain(items) {
            size = size.saturating_add(self.name(level, *name) - 1);
        }
        for child in own.children.iter().chain(&own.arms) {
            size = size.saturating_add(self.size(*child));
        }
        let mut sources = 0_u64;
        for source in &own.sources {
            let Source::Table(name) = source else {
                let Source::Level(child) = source else { continue };
                sources = sources.saturating_add(self.width(*child));
                continue;
            };
            let (more, width) = match self.find(level, *name) {
                Found::Level(named) => (self.size(named), self.width(named)),
                Found::Relation(relation) => (relation.tokens, relation.width),
                Found::Unknown => (0, USUAL_WIDTH),
            };
            size = size.saturating_add(more);
            sources = sources.saturating_add(width);
        }
        for window in &own.windows {
            if let Found::Level(window) = self.find(level, *window) {
                size = size.saturating_add(self.size(window));
            }
        }
        let stars = own.items.iter().filter(|item| item.star).count() as u64;
        size = size.saturating_add(stars.saturating_mul(sources.min(MAX_WIDTH)));
        self.sizes.insert(level, Some(size));
        self.recursion -= 1;
        size
    }

    /// Result columns.
    fn width(&mut self, level: usize) -> u64 {
        if let Some(known) = self.widths.get(&level) {
            return known.unwrap_or(1);
        }
        if self.enter() {
            return MAX_WIDTH;
        }
        self.widths.insert(level, None);
        let own = &self.query.levels[level];
        let stars = own.items.iter().filter(|item| item.star).count() as u64;
        let mut width = own.items.len() as u64 - stars;
        if stars > 0 {
            for source in &own.sources {
                let more = match self.source(level, *source) {
                    Found::Level(level) => self.width(level),
                    Found::Relation(relation) => relation.width,
                    Found::Unknown => USUAL_WIDTH,
                };
                width = width.saturating_add(more.saturating_mul(stars));
            }
        }
        let width = width.min(MAX_WIDTH);
        self.widths.insert(level, Some(width));
        self.recursion -= 1;
        width
    }

    /// Size of a name that is used in an expression of this level, at least 1.
    fn name(&mut self, level: usize, name: Name) -> u64 {
        let mut at = Some(level);
        while let Some(level) = at {
            self.steps += 1;
            let own = &self.query.levels[level];
            if let Some(named) = own.named.get(&name)
                && self.query.levels[*named].is_window
            {
                return self.size(*named).max(1);
            }
            let mut size = if own.is_table || own.items.iter().any(|item| item.alias == Some(name)) {
                self.column(level, name)
            } else {
                None
            };
            for source in &own.sources {
                size = size.max(self.source_column(level, *source, name));
            }
            if let Some(size) = size {
                return size.max(1);
            }
            at = own.parent;
        }
        1
    }

    fn source_column(&mut self, level: usize, source: Source, name: Name) -> Option<u64> {
        match self.source(level, source) {
            Found::Level(level) => self.column(level, name),
            Found::Relation(relation) => relation.column(&self.query.names[name]),
            Found::Unknown => None,
        }
    }

    /// Size of the column of this name, if there is one.
    fn column(&mut self, level: usize, name: Name) -> Option<u64> {
        if let Some(known) = self.columns.get(&(level, name)) {
            return known.unwrap_or(Some(1));
        }
        if self.enter() {
            return Some(u64::MAX);
        }
        self.columns.insert((level, name), None);
        let own = &self.query.levels[level];
        let mut size = None;
        if own.renamed {
            size = Some(self.largest(level));
        } else {
            for (index, item) in own.items.iter().enumerate() {
                if item.alias == Some(name) {
                    size = size.max(Some(self.item(level, index)));
                }
                if item.star {
                    for source in &own.sources {
                        size = size.max(self.source_column(level, *source, name));
                    }
                }
            }
            if size.is_some() {
                for arm in &own.arms {
                    size = size.max(Some(self.largest(*arm)));
                }
            }
        }
        self.columns.insert((level, name), Some(size));
        self.recursion -= 1;
        size
    }

    fn item(&mut self, level: usize, index: usize) -> u64 {
        if let Some(known) = self.items.get(&(level, index)) {
            return known.unwrap_or(1);
        }
        if self.enter() {
            return u64::MAX;
        }
        self.items.insert((level, index), None);
        let own = &self.query.levels[level];
        let item = &own.items[index];
        // A name alone, under another one or not, is a name in place of a name.
        let mut size = if item.names.len() == 1 && !item.is_made {
            0
        } else if own.is_table && item.names.is_empty() {
            1
        } else {
            item.tokens
        };
        for name in &item.names {
            // The column of a SELECT is not made of others of the same one.
            let mut more = None;
            if own.is_table {
                more = self.column(level, *name);
            }
            for source in &own.sources {
                more = more.max(self.source_column(level, *source, *name));
            }
            let more = more.unwrap_or_else(|| own.parent.map_or(1, |parent| self.name(parent, *name)));
            size = size.saturating_add(more);
        }
        for child in &item.children {
            size = size.saturating_add(self.size(*child));
        }
        self.items.insert((level, index), Some(size));
        self.recursion -= 1;
        size
    }

    /// Size of the largest column.
    fn largest(&mut self, level: usize) -> u64 {
        if let Some(known) = self.largest.get(&level) {
            return known.unwrap_or(1);
        }
        if self.enter() {
            return u64::MAX;
        }
        self.largest.insert(level, None);
        let own = &self.query.levels[level];
        let mut size = 1;
        for (index, item) in own.items.iter().enumerate() {
            size = size.max(self.item(level, index));
            if item.star {
                for source in &own.sources {
                    size = size.max(match self.source(level, *source) {
                        Found::Level(level) => self.largest(level),
                        Found::Relation(relation) => relation.largest(),
                        Found::Unknown => 1,
                    });
                }
            }
        }
        for arm in &own.arms {
            size = size.max(self.largest(*arm));
        }
        self.largest.insert(level, Some(size));
        self.recursion -= 1;
        size
    }
}

impl Query {
    fn estimate<'a>(&'a self, relations: &'a Relations) -> Estimate<'a> {
        Estimate {
            query: self,
            relations,
            sizes: HashMap::new(),
            columns: HashMap::new(),
            items: HashMap::new(),
            largest: HashMap::new(),
            widths: HashMap::new(),
            recursion: 0,
            steps: 0,
            max_steps: 4_000_000 + 16 * self.tokens,
        }
    }

    /// Tokens with all copies, given what the schema has.
    pub(crate) fn size(&self, relations: &Relations) -> u64 {
        let mut estimate = self.estimate(relations);
        let mut sum = 0_u64;
        // Those behind first: what uses them finds their sizes there, in place of recursing.
        for level in (0..self.levels.len()).filter(|level| self.levels[*level].parent.is_some()) {
            estimate.recursion = 0;
            estimate.size(level);
        }
        for root in &self.roots {
            estimate.recursion = 0;
            sum = sum.saturating_add(estimate.size(*root));
        }
        if estimate.steps >= estimate.max_steps { u64::MAX } else { sum }
    }

    /// Tokens that the text does not have itself.
    pub(crate) fn copies(&self, relations: &Relations) -> u64 {
        self.size(relations).saturating_sub(self.tokens)
    }

    /// Names of all tables and views that it uses, in lower case; common table expressions may be among them.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &[u8]> {
        self.levels.iter().flat_map(|level| &level.sources).filter_map(|source| match source {
            Source::Table(name) => Some(self.names[*name].as_slice()),
            Source::Level(_) => None,
        })
    }

    /// What the view or the table that the text creates is to those that use it. `width` is that of a table.
    pub(crate) fn relation(&self, relations: &Relations, width: u64) -> Relation {
        let tokens = self.size(relations);
        let mut estimate = self.estimate(relations);
        let top = (0..self.levels.len())
            .find(|level| self.levels[*level].is_table)
            .unwrap_or_else(|| self.roots.first().copied().unwrap_or(0));
        let Some(level) = self.levels.get(top) else { return Relation::default() };
        let mut relation = Relation { tokens, width, columns: HashMap::new(), renamed: self.renamed };
        if !level.is_table {
            relation.width = estimate.width(top);
        }
        let aliases: Vec<Name> = level.items.iter().filter_map(|item| item.alias).collect();
        for name in aliases {
            estimate.recursion = 0;
            let size = estimate.column(top, name).unwrap_or(1);
            if size > 1 {
                relation.columns.insert(self.names[name].clone(), size);
            }
        }
        if level.items.iter().any(|item| item.star) || !level.arms.is_empty() || self.renamed {
            // Columns of any name may be what `*` stands for.
            estimate.recursion = 0;
            let largest = estimate.largest(top);
            if largest > 1 && self.renamed {
                relation.columns.insert(b"*".to_vec(), largest);
            } else if largest > 1 {
                self.inherit(top, relations, &mut relation);
            }
        }
        if estimate.steps >= estimate.max_steps {
            relation.tokens = u64::MAX;
        }
        relation
    }

    /// Columns that a view has by `*`, under the names that they have where they come from.
    fn inherit(&self, top: usize, relations: &Relations, relation: &mut Relation) {
        let mut estimate = self.estimate(relations);
        let level = &self.levels[top];
        let mut simple = level.arms.is_empty();
        for source in &level.sources {
            match estimate.source(top, *source) {
                Found::Relation(of) if !of.renamed => {
                    for (name, size) in &of.columns {
                        let known = relation.columns.entry(name.clone()).or_insert(*size);
                        *known = (*known).max(*size);
                    }
                }
                Found::Unknown => {}
                Found::Relation(_) | Found::Level(_) => simple = false,
            }
        }
        if !simple {
            relation.columns.insert(b"*".to_vec(), estimate.largest(top));
            relation.renamed = true;
        }
    }

    /// Whether SQLite compiles it within the bounds, given what the schema has.
    pub(crate) fn is_bounded(&self, relations: &Relations) -> bool {
        self.size(relations) <= MAX_TOKENS.saturating_add(COPIES * self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(sql: &str) -> u64 {
        Query::parse(sql.as_bytes()).size(&Relations::new())
    }

    fn is_bounded(sql: &str) -> bool {
        Query::parse(sql.as_bytes()).is_bounded(&Relations::new())
    }

    fn chain(links: usize, link: impl Fn(usize) -> String) -> String {
        let links: String = (1..links).map(|n| format!(", c{n} AS ({})", link(n - 1))).collect();
        let last = links.matches(" AS (").count();
        format!("WITH c0 AS (SELECT x AS a, y AS b FROM t){links} SELECT * FROM c{last}")
    }

    #[test]
    fn what_doubles_is_refused_in_each_of_its_forms() {
        type Link = Box<dyn Fn(usize) -> String>;
        let links: Vec<(&str, Link)> = vec![
            ("join", Box::new(|c| format!("SELECT * FROM c{c}, c{c}"))),
            ("join of columns", Box::new(|c| format!("SELECT x.a FROM c{c} x JOIN c{c} AS y ON x.a = y.a"))),
            ("union", Box::new(|c| format!("SELECT * FROM c{c} UNION ALL SELECT * FROM c{c}"))),
            ("quoted", Box::new(|c| format!("SELECT * FROM \"C{c}\" UNION ALL SELECT * FROM [c{c}]"))),
            ("in", Box::new(|c| format!("SELECT a FROM c{c} WHERE a IN c{c}"))),
            ("scalar", Box::new(|c| format!("SELECT (SELECT a FROM c{c}) + (SELECT a FROM c{c}) AS a"))),
            ("exists", Box::new(|c| format!("SELECT a FROM c{c} WHERE EXISTS (SELECT 1 FROM main.c{c})"))),
            ("in parentheses", Box::new(|c| format!("SELECT 1 AS a FROM (c{c} JOIN (c{c}))"))),
            ("subqueries", Box::new(|c| format!("SELECT 1 FROM (SELECT 1 FROM c{c}), (SELECT 1 FROM c{c})"))),
            ("expression", Box::new(|c| format!("SELECT a+a AS a FROM c{c}"))),
            ("expression without AS", Box::new(|c| format!("SELECT a+a a FROM c{c}"))),
            ("function", Box::new(|c| format!("SELECT max(a, x.a) AS a FROM c{c} x"))),
            ("case", Box::new(|c| format!("SELECT CASE WHEN a THEN a END AS a FROM c{c}"))),
            ("arms", Box::new(|c| format!("SELECT a FROM c{c} UNION SELECT a||a FROM c{c}"))),
            ("where", Box::new(|c| format!("SELECT a||a AS a FROM c{c} WHERE a > a"))),
        ];
        for (what, link) in links {
            assert!(!is_bounded(&chain(60, &link)), "{what}: {}", size(&chain(60, &link)));
            assert!(is_bounded(&chain(6, &link)), "{what}: {}", size(&chain(6, &link)));
        }
        let renamed: String =
            (1..60).map(|c| format!(", c{c}(a) AS (SELECT x.a+x.a FROM c{} x)", c - 1)).collect();
        assert!(!is_bounded(&format!("WITH c0(a) AS (SELECT 1){renamed} SELECT a FROM c59")));
        let scoped: String = (1..60)
            .map(|c| format!(", c{c} AS (WITH i AS (SELECT * FROM c{}) SELECT 1 FROM i, i)", c - 1))
            .collect();
        assert!(!is_bounded(&format!("WITH c0 AS (SELECT 1){scoped} SELECT * FROM c59")));
        let behind: String =
            (0..60).rev().map(|c| format!("c{} AS (SELECT 1 FROM c{c}, c{c}), ", c + 1)).collect();
        assert!(
            !is_bounded(&format!("WITH {behind} c0 AS (SELECT 1) SELECT * FROM c60")),
            "used before defined"
        );
        let columns: String = (1..60)
            .map(|c| format!(", c{c} INT GENERATED ALWAYS AS (c{}+c{}) VIRTUAL", c - 1, c - 1))
            .collect();
        assert!(!is_bounded(&format!("CREATE TABLE t(c0{columns})")));
        assert!(!is_bounded(&format!(
            "CREATE VIEW v AS {}",
            chain(60, |c| format!("SELECT 1 FROM c{c}, c{c}"))
        )));
        let body = chain(60, |c| format!("SELECT 1 FROM c{c}, c{c}"));
        assert!(!is_bounded(&format!(
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; SELECT ({body}); END"
        )));
        let windows = format!(
            "SELECT {} 1 FROM t WINDOW w AS (PARTITION BY {} 1)",
            "sum(x) OVER w, ".repeat(2_000),
            "x+1, ".repeat(2_000)
        );
        assert!(!is_bounded(&windows));
    }

    #[test]
    fn statements_in_ordinary_use_stay_far_below_the_bound() {
        let rows = "(1+1, 'a', x'00', -5.0e+3, f(?1)),".repeat(50_000);
        assert!(size(&format!("INSERT INTO t VALUES {rows}")) < 2_000_000);
        let arms = "SELECT t.a, t.b FROM t JOIN u ON t.a = u.a WHERE t.a > 1 UNION ALL ".repeat(499);
        assert!(size(&format!("{arms} SELECT 1, 2")) < 20_000);
        // A pipeline in which each step uses each column several times and passes it on, and data that are used thrice.
        let step = |c: usize| {
            format!(
                "SELECT p.a AS a, p.b, coalesce(p.a, p.b, p.c) AS c{c}, CASE WHEN p.a > p.b THEN p.a ELSE p.b END AS d{c} \
                 FROM c{c} p LEFT JOIN u ON u.a = p.a AND u.b = p.b WHERE p.a IS NOT NULL AND p.b > 0 ORDER BY p.a, p.b"
            )
        };
        assert!(size(&chain(300, step)) < 100_000, "{}", size(&chain(300, step)));
        assert!(size(&chain(12, |c| format!("SELECT a, b FROM c{c} UNION SELECT a, b FROM c0"))) < 2_000);
        let thrice = format!(
            "WITH d(a, b) AS (VALUES {} (1, 2)) SELECT * FROM d x, d y, d z",
            "(1, 'text'), ".repeat(100_000)
        );
        assert!(is_bounded(&thrice));
        assert!(is_bounded(&chain(2_000, |c| format!("SELECT * FROM c{c}"))));
        assert!(is_bounded(&chain(500, |c| format!("SELECT a+1 AS a FROM c{c}"))));
        let recursive =
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 9) SELECT * FROM c, c";
        assert!(size(recursive) < 200);
    }

    #[test]
    fn simple_texts_have_one_select() {
        for sql in [
            "SELECT a FROM t",
            "INSERT INTO t SELECT 1",
            "UPDATE t SET a = 1",
            "",
            "se",
            "selec",
            "cover",
            "CCC",
        ] {
            assert!(is_simple(sql.as_bytes()), "{sql}");
        }
        for sql in
            ["SELECT a FROM (select b FROM t)", "SELECT sum(a) OVER w FROM t", "sElEcT 1 union SELECT 2"]
        {
            assert!(!is_simple(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn long_names_cost_little_and_are_told_apart_to_their_ends() {
        let long = |end: &str| format!("{}{end}", "Xy".repeat(1_000_000));
        let name = plain(long("A\"b").as_bytes());
        assert!(name.len() < 600);
        assert_eq!(plain(format!("\"{}\"", long("a\"\"B")).as_bytes()), name);
        assert_eq!(plain(format!("[{}]", long("a\"b")).as_bytes()), name);
        assert_ne!(plain(long("A\"c").as_bytes()), name);
    }

    #[test]
    fn names_lose_their_quotes() {
        for (text, name) in [("A", "a"), ("\"A\"\"b\"", "a\"b"), ("[x y]", "x y"), ("'q'", "q"), ("\"", "\"")]
        {
            assert_eq!(plain(text.as_bytes()), name.as_bytes());
        }
    }
}

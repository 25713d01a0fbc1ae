//! How deep SQLite may recurse while it compiles a text, estimated before it compiles it.
//!
//! SQLite bounds the height of each expression and, in its newest releases, the nesting of subqueries. It does not bound
//! chains: common table expressions that select from each other, generated columns that use each other, expressions that
//! grow while one subquery after the other is merged into its parent. Each link of such a chain costs stack.
//!
//! The estimate counts *units*. One unit is what one operator of an expression costs, about 400 bytes in SQLite 3.40.1 as
//! Debian builds it; a SELECT costs [`SELECT_UNITS`]. What stands side by side (the terms of a list, the rows of VALUES, the
//! arms of a compound) counts once, as the deepest of them; what stands in parentheses adds to what is around them; what
//! follows `AS (` may be used by everything else, so all of that is added up. The estimate is too high for most texts and
//! too low for none of the chains above.

/// Deepest statement that is compiled, units. It takes about a third of [`crate::STACK_LEN`].
pub(crate) const MAX_STATEMENT_UNITS: u64 = 14_000;

/// What one SELECT costs beside its expressions.
pub(crate) const SELECT_UNITS: u64 = 5;

/// SQLite refuses higher expressions, so a list of one SELECT counts no more.
const MAX_EXPRESSION_UNITS: u64 = 1_000;

/// Terms of a compound SELECT that recurse; SQLite refuses more.
const MAX_COMPOUND_UNITS: u64 = 1_000;

/// No text of fewer bytes can reach [`MAX_STATEMENT_UNITS`]: a unit takes a byte, but for a SELECT and its `(SELECT 1)`.
pub(crate) const SHORT_TEXT_LEN: usize = 4_096;

/// Words that are operators.
const OPERATORS: [&[u8]; 16] = [
    b"AND",
    b"OR",
    b"NOT",
    b"IN",
    b"IS",
    b"ISNULL",
    b"NOTNULL",
    b"LIKE",
    b"GLOB",
    b"REGEXP",
    b"MATCH",
    b"BETWEEN",
    b"COLLATE",
    b"ESCAPE",
    b"CASE",
    b"DISTINCT",
];

/// A piece of SQL as SQLite's tokenizer would cut it, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or an identifier without quotes.
    Word(&'a [u8]),
    /// An identifier in quotes, or a string; both can name a table. The quotes are part of it.
    Quoted(&'a [u8]),
    /// A number or a parameter.
    Value,
    /// One byte of punctuation.
    Mark(u8),
}

/// Cuts SQL into tokens; ends where SQLite ends, at a NUL byte too.
pub(crate) struct Tokens<'a>(pub(crate) &'a [u8]);

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Tokens<'a> {
    fn cut(&mut self, len: usize) -> &'a [u8] {
        let (token, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        token
    }

    /// Length of blanks and comments at the start.
    fn blank_len(&self) -> usize {
        match self.0 {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0c, ..] => 1,
            [0xef, 0xbb, 0xbf, ..] => 3,
            [b'-', b'-', rest @ ..] => 2 + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', rest @ ..] if !rest.is_empty() => {
                2 + rest.windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |at| at + 2)
            }
            _ => 0,
        }
    }

    /// Length of a quoted token, in which a doubled quote stands for itself.
    fn quoted_len(&self, quote: u8) -> usize {
        let mut at = 1;
        while let Some(found) = self.0[at..].iter().position(|byte| *byte == quote) {
            at += found + 1;
            if quote == b']' || self.0.get(at) != Some(&quote) {
                return at;
            }
            at += 1;
        }
        self.0.len()
    }

    /// Length of a parameter with a name. What stands in parentheses right behind the name belongs to it.
    fn parameter_len(&self) -> usize {
        let mut at = 1;
        let mut named = false;
        loop {
            match self.0.get(at) {
                Some(byte) if is_identifier(*byte) => named = true,
                Some(b'(') if named => {
                    let rest = &self.0[at..];
                    let end = rest.iter().position(|byte| *byte == b')' || byte.is_ascii_whitespace());
                    return at + end.map_or(rest.len(), |end| end + 1);
                }
                Some(b':') if self.0.get(at + 1) == Some(&b':') => at += 1,
                _ => return at,
            }
            at += 1;
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let blank = self.blank_len();
            if blank == 0 {
                break;
            }
            self.cut(blank);
        }
        let first = *self.0.first()?;
        match first {
            0 => None,
            b'\'' | b'"' | b'`' => Some(Token::Quoted(self.cut(self.quoted_len(first)))),
            b'[' => Some(Token::Quoted(self.cut(self.quoted_len(b']')))),
            b'$' | b'@' | b':' | b'#' => {
                self.cut(self.parameter_len());
                Some(Token::Value)
            }
            b'?' | b'0'..=b'9' => {
                let rest = &self.0[1..];
                let len = rest.iter().take_while(|byte| is_identifier(**byte)).count();
                self.cut(1 + len);
                Some(Token::Value)
            }
            byte if is_identifier(byte) => {
                let len = self.0.iter().take_while(|byte| is_identifier(**byte)).count();
                Some(Token::Word(self.cut(len)))
            }
            byte => {
                self.cut(1);
                Some(Token::Mark(byte))
            }
        }
    }
}

/// What is open at one level of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Operators of the current term of the list.
    term: u64,
    /// Those of the longest term.
    longest: u64,
    /// The deepest of what stands in parentheses.
    inner: u64,
    /// All of what stands in parentheses behind AS.
    named: u64,
    arms: u64,
    select: bool,
    /// Whether the parentheses follow AS.
    is_named: bool,
}

impl Level {
    fn end_term(&mut self) {
        self.longest = self.longest.max(self.term);
        self.term = 0;
    }

    fn units(mut self) -> u64 {
        self.end_term();
        let own = if self.select { SELECT_UNITS } else { 1 };
        own + self.longest.min(MAX_EXPRESSION_UNITS)
            + (2 * self.arms).min(MAX_COMPOUND_UNITS)
            + self.inner
            + self.named
    }
}

/// Where in the first words of a statement the scan is: only a trigger has semicolons within.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Explain,
    Create,
    Trigger,
    Other,
}

fn is_word(word: &[u8], list: &[&[u8]]) -> bool {
    list.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// Units of the first statement of `sql`.
pub(crate) fn units(sql: &[u8]) -> u64 {
    let mut levels = vec![Level::default()];
    let mut deepest = 0;
    let mut start = Start::Explain;
    let mut behind_as = false;
    let mut last_mark = 0;
    for token in Tokens(sql) {
        let depth = levels.len();
        let level = levels.last_mut().expect("the outermost level is never closed");
        match token {
            Token::Word(word) => {
                start = match start {
                    Start::Explain if is_word(word, &[b"EXPLAIN", b"QUERY", b"PLAN"]) => Start::Explain,
                    Start::Explain if is_word(word, &[b"CREATE"]) => Start::Create,
                    Start::Create if is_word(word, &[b"TEMP", b"TEMPORARY"]) => Start::Create,
                    Start::Create if is_word(word, &[b"TRIGGER"]) => Start::Trigger,
                    Start::Trigger => Start::Trigger,
                    _ => Start::Other,
                };
                if start == Start::Trigger && last_mark == b';' && is_word(word, &[b"END"]) {
                    break;
                }
                behind_as =
                    is_word(word, &[b"AS"]) || (behind_as && is_word(word, &[b"NOT", b"MATERIALIZED"]));
                if is_word(word, &[b"SELECT"]) {
                    level.select = true;
                } else if is_word(word, &[b"UNION", b"EXCEPT", b"INTERSECT"]) {
                    level.end_term();
                    level.arms += 1;
                } else if is_word(word, &OPERATORS) {
                    level.term += 1;
                }
                last_mark = 0;
                continue;
            }
            Token::Mark(b'(') => levels.push(Level { is_named: behind_as, ..Level::default() }),
            Token::Mark(b')') if depth > 1 => {
                let closed = levels.pop().expect("there are two at least");
                let outer = levels.last_mut().expect("there was another one");
                if closed.is_named {
                    outer.named += closed.units();
                } else {
                    outer.inner = outer.inner.max(closed.units());
                }
            }
            Token::Mark(b',') => level.end_term(),
            Token::Mark(b';') if start == Start::Explain => {}
            Token::Mark(b';') if start == Start::Trigger => {
                deepest = deepest.max(collapse(&mut levels));
            }
            Token::Mark(b';') => break,
            Token::Mark(b'.' | b')') | Token::Value | Token::Quoted(_) => {}
            Token::Mark(_) => level.term += 1,
        }
        last_mark = if let Token::Mark(mark) = token { mark } else { 0 };
        behind_as = false;
    }
    deepest.max(collapse(&mut levels))
}

/// Closes all levels and gives what the outermost one counts.
fn collapse(levels: &mut Vec<Level>) -> u64 {
    let mut inner = 0;
    for level in levels.drain(..).rev() {
        inner = Level { inner: level.inner.max(inner), ..level }.units();
    }
    levels.push(Level::default());
    inner
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(links: usize, body: &str) -> String {
        let links: Vec<_> = (1..links)
            .map(|link| format!(",c{link} AS ({})", body.replace("$", &format!("c{}", link - 1))))
            .collect();
        format!("WITH c0 AS (SELECT 1 AS a){} SELECT * FROM c{}", links.concat(), links.len())
    }

    #[test]
    fn chains_add_up_and_lists_do_not() {
        assert!(units(chain(3_000, "SELECT * FROM $").as_bytes()) > 15_000);
        assert!(units(chain(100, "SELECT a+1+1+1 AS a FROM $ UNION SELECT 2").as_bytes()) < 2_000);
        let rows = format!("INSERT INTO t VALUES {}", "(1+1, 'a', x'00', -5.0e+3, f(?1)),".repeat(50_000));
        assert!(units(rows.as_bytes()) < 20, "{}", units(rows.as_bytes()));
        let list = format!("SELECT * FROM t WHERE a IN ({})", "1,".repeat(100_000));
        assert!(units(list.as_bytes()) < 20);
        let columns: Vec<_> =
            (1..100).map(|n| format!(",c{n} AS (c{}{})", n - 1, "+1".repeat(900))).collect();
        assert!(units(format!("CREATE TABLE t(c0{})", columns.concat()).as_bytes()) > 80_000);
        let nested = format!("{}1{}", "SELECT a+1+1 FROM (".repeat(1000), ")".repeat(1000));
        assert!(units(nested.as_bytes()) > 5_000);
    }

    #[test]
    fn only_the_first_statement_counts() {
        let deep = chain(3_000, "SELECT * FROM $");
        assert!(units(format!("SELECT 1; {deep}").as_bytes()) < 10);
        assert!(units(format!(" ; /* ; */ -- ;\n {deep}").as_bytes()) > 15_000);
        assert!(units(format!("SELECT ';', \";\", `;`, [;], $a(;), {deep}").as_bytes()) > 15_000);
        let trigger =
            "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; SELECT CASE WHEN 1 THEN 2 END; ";
        assert!(units(format!("{trigger} {deep}; END").as_bytes()) > 15_000);
        assert!(units(format!("{trigger} END; {deep}").as_bytes()) < 20);
        assert!(units(format!("SELECT 1 \0 {deep}").as_bytes()) < 10, "SQLite stops at a NUL byte");
        assert!(units(format!("EXPLAIN QUERY PLAN {deep}").as_bytes()) > 15_000);
    }

    #[test]
    fn any_bytes_are_cut_into_tokens() {
        for text in
            ["'", "\"a\"\"", "[", "$", "$a(", "@a::b(x y", "/*", "/*/", "-", "--", "?", "\u{feff}a", ")))((("]
        {
            let _ = units(text.as_bytes());
        }
    }

    #[test]
    fn short_texts_need_no_look() {
        let densest =
            ["-", "~", "(SELECT", "(SELECT-", "+1", "(", "NOT ", "AS(SELECT", "AS(-", ",AS(SELECT-)"];
        for piece in densest {
            let text = format!("SELECT {}", piece.repeat(SHORT_TEXT_LEN / piece.len()));
            assert!(units(text.as_bytes()) <= MAX_STATEMENT_UNITS, "{piece}: {}", units(text.as_bytes()));
        }
    }
}

//! JSON, written only: objects keep the order of their fields.

use std::fmt;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A whole number. Readers that know floating point only lose the low bits above 2^53.
    Number(u64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Self>),
    /// Fields in order.
    Object(Vec<(&'static str, Self)>),
}

impl Json {
    /// An object with these fields.
    pub fn object(fields: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        Self::Object(fields.into_iter().collect())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => write_text(f, value),
            Self::List(values) => {
                write_all(f, ('[', ']'), depth, values, |f, value| value.write(f, depth + 1))
            }
            Self::Object(fields) => write_all(f, ('{', '}'), depth, fields, |f, (name, value)| {
                write_text(f, name)?;
                f.write_str(": ")?;
                value.write(f, depth + 1)
            }),
        }
    }
}

fn write_all<T>(
    f: &mut fmt::Formatter<'_>,
    (open, close): (char, char),
    depth: usize,
    items: &[T],
    write: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    write!(f, "{open}")?;
    for (number, item) in items.iter().enumerate() {
        let separator = if number > 0 { "," } else { "" };
        write!(f, "{separator}\n{:1$}", "", depth + 1)?;
        write(f, item)?;
    }
    if !items.is_empty() {
        write!(f, "\n{:1$}", "", depth)?;
    }
    write!(f, "{close}")
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            character if character < ' ' => write!(f, "\\u{:04x}", u32::from(character))?,
            character => write!(f, "{character}")?,
        }
    }
    f.write_str("\"")
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<String> for Json {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl FromIterator<Self> for Json {
    fn from_iter<I: IntoIterator<Item = Self>>(values: I) -> Self {
        Self::List(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_written() {
        let value = Json::object([
            ("nothing", Json::from(None::<u64>)),
            ("list", [Json::from(true), Json::from(u64::MAX)].into_iter().collect()),
            ("empty", Json::from_iter([])),
            ("text", "a \"b\" \\ \n \u{1} \u{e9}".to_owned().into()),
        ]);
        let expected = "{\n \"nothing\": null,\n \"list\": [\n  true,\n  18446744073709551615\n ],\n \"empty\": [],\n \
                        \"text\": \"a \\\"b\\\" \\\\ \\n \\u0001 \u{e9}\"\n}";
        assert_eq!(value.to_string(), expected);
    }
}

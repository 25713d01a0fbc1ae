//! Structure of a snapshot's payload, checked while it streams by.
//!
//! ```text
//! [8] format = 1   [8] n
//! n times: name (text, NUL, padded to 8)   [8] main_size   [8] wal_size   main bytes   wal bytes
//! ```
//!
//! The content of the databases is not looked at: that is SQLite's business.

const PAGE_SIZE: u64 = 4096;
const WAL_HEADER_LEN: u64 = 32;
const WAL_FRAME_LEN: u64 = 24 + PAGE_SIZE;
/// C builds a path from the name; nothing longer was ever stored.
const MAX_NAME_LEN: usize = 512;

#[derive(Clone, Copy, Debug)]
enum State {
    Format,
    Count,
    /// Inside a name, with so many bytes before.
    Name {
        len: usize,
    },
    MainSize,
    WalSize {
        main: u64,
    },
    Content {
        left: u64,
    },
    Done,
}

/// What a payload says about one of its databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadDatabase {
    /// Its name, any bytes but NUL.
    pub name: Vec<u8>,
    /// Bytes of its main file.
    pub main_size: u64,
    /// Bytes of the WAL that lies over it; 0 in everything that releases from 1.17 on wrote.
    pub wal_size: u64,
}

/// Follows the structure; give it all bytes in order, then ask [`PayloadCheck::finish`].
#[derive(Debug)]
pub(crate) struct PayloadCheck {
    state: State,
    databases: u64,
    word: [u8; 8],
    filled: usize,
    name: Vec<u8>,
    found: Vec<PayloadDatabase>,
}

impl PayloadCheck {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Format,
            databases: 0,
            word: [0; 8],
            filled: 0,
            name: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if let State::Content { left } = &mut self.state {
                let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                bytes = &bytes[taken..];
                if *left == 0 {
                    self.next_database();
                }
                continue;
            }
            if matches!(self.state, State::Done) {
                // C ignores what follows.
                return Ok(());
            }
            let taken = (8 - self.filled).min(bytes.len());
            self.word[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == 8 {
                self.filled = 0;
                self.word()?;
            }
        }
        Ok(())
    }

    fn next_database(&mut self) {
        self.state = match self.databases.checked_sub(1) {
            None => State::Done,
            Some(rest) => {
                self.databases = rest;
                State::Name { len: 0 }
            }
        };
    }

    fn word(&mut self) -> Result<(), String> {
        let value = u64::from_le_bytes(self.word);
        match self.state {
            State::Format if value != 1 => return Err(format!("payload has format {value} instead of 1")),
            State::Format => self.state = State::Count,
            State::Count => {
                self.databases = value;
                self.next_database();
            }
            State::Name { len } => match self.word.iter().position(|byte| *byte == 0) {
                Some(0) if len == 0 => return Err("payload has a database without name".to_owned()),
                Some(end) => {
                    self.name.extend_from_slice(&self.word[..end]);
                    self.state = State::MainSize;
                }
                None if len + 8 > MAX_NAME_LEN => {
                    return Err("payload has a database name without end".to_owned());
                }
                None => {
                    self.name.extend_from_slice(&self.word);
                    self.state = State::Name { len: len + 8 };
                }
            },
            State::MainSize => {
                if value == 0 || !value.is_multiple_of(PAGE_SIZE) {
                    return Err(format!("payload has a database of {value} bytes"));
                }
                self.state = State::WalSize { main: value };
            }
            State::WalSize { main } => {
                let frames = value.saturating_sub(WAL_HEADER_LEN);
                if value > WAL_HEADER_LEN && !frames.is_multiple_of(WAL_FRAME_LEN) {
                    return Err(format!("payload has a WAL of {value} bytes"));
                }
                let left = main.checked_add(value).ok_or("payload has a database without end")?;
                let name = std::mem::take(&mut self.name);
                self.found.push(PayloadDatabase { name, main_size: main, wal_size: value });
                self.state = State::Content { left };
            }
            State::Content { .. } | State::Done => {}
        }
        Ok(())
    }

    /// The databases, if everything announced has come.
    pub(crate) fn finish(self) -> Result<Vec<PayloadDatabase>, String> {
        match self.state {
            State::Done => Ok(self.found),
            State::Content { left } => Err(format!("payload ends {left} bytes before its last database")),
            _ => Err("payload ends inside a header".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(databases: &[(&str, usize, usize)]) -> Vec<u8> {
        let mut bytes = 1u64.to_le_bytes().to_vec();
        bytes.extend((databases.len() as u64).to_le_bytes());
        for (name, main, wal) in databases {
            let start = bytes.len();
            bytes.extend(name.as_bytes());
            bytes.resize(start + (name.len() + 1).next_multiple_of(8), 0);
            bytes.extend((*main as u64).to_le_bytes());
            bytes.extend((*wal as u64).to_le_bytes());
            bytes.resize(bytes.len() + main + wal, 7);
        }
        bytes
    }

    fn check(bytes: &[u8], step: usize) -> Result<Vec<PayloadDatabase>, String> {
        let mut check = PayloadCheck::new();
        for part in bytes.chunks(step) {
            check.feed(part)?;
        }
        check.finish()
    }

    #[test]
    fn whole_payloads_pass_in_any_split() {
        for databases in [&[][..], &[("a", 4096, 0)], &[("seven77", 8192, 0), ("eight888", 4096, 32 + 4120)]]
        {
            let bytes = payload(databases);
            for step in [1, 3, 8, 1000, 100_000] {
                let found = check(&bytes, step).unwrap();
                let found: Vec<_> = found
                    .iter()
                    .map(|found| (std::str::from_utf8(&found.name).unwrap(), found.main_size, found.wal_size))
                    .collect();
                let expected: Vec<_> =
                    databases.iter().map(|(name, main, wal)| (*name, *main as u64, *wal as u64)).collect();
                assert_eq!(found, expected);
            }
            for cut in 0..bytes.len() {
                assert!(check(&bytes[..cut], 4096).is_err());
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(check(&[2; 64], 64).is_err());
        assert!(check(&payload(&[("", 4096, 0)]), 64).is_err());
        assert!(check(&payload(&[("a", 0, 0)]), 64).is_err());
        assert!(check(&payload(&[("a", 4095, 0)]), 64).is_err());
        assert!(check(&payload(&[("a", 4096, 40)]), 64).is_err());
        assert!(check(&payload(&[(&"x".repeat(600), 4096, 0)]), 64).is_err());
    }
}

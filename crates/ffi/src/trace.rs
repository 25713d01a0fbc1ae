//! `LIBDQLITE_TRACE`: what the library has to say, on stderr, in the form C dqlite prints it.
//!
//! Looked at when a node starts or recovers. Once it is set, to anything, tracing stays on for the process; a number
//! from 1 (DEBUG) to 5 (FATAL) is the lowest level printed, anything else prints everything.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

const VARIABLE: &str = "LIBDQLITE_TRACE";
/// C cuts messages here, bytes.
const MAX_MESSAGE_LEN: usize = 1023;

static LOWEST: AtomicI32 = AtomicI32::new(0);
static INSTALL: Once = Once::new();

/// Turns tracing on if the environment says so.
pub(crate) fn enable_if_wanted() {
    let Some(value) = std::env::var_os(VARIABLE) else { return };
    let lowest =
        value.to_str().and_then(|text| text.trim().parse().ok()).filter(|level| (0..=5).contains(level));
    LOWEST.store(lowest.unwrap_or(0), Ordering::Relaxed);
    // A host written in Rust may have a subscriber of its own, which then gets everything.
    INSTALL.call_once(|| drop(tracing::subscriber::set_global_default(Stderr)));
}

fn number(level: Level) -> i32 {
    match level {
        Level::ERROR => 4,
        Level::WARN => 3,
        Level::INFO => 2,
        _ => 1,
    }
}

struct Stderr;

impl Subscriber for Stderr {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change with the next start.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) >= LOWEST.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = line(event.metadata(), now, message.0);
        // Nobody can be told that stderr is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Collects the message and, behind it, the fields of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

fn line(metadata: &Metadata<'_>, now: Duration, mut message: String) -> String {
    let mut cut = message.len().min(MAX_MESSAGE_LEN);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    message.truncate(cut);
    let days = now.as_secs() / 86_400;
    let (year, month, day) = civil(days);
    let second = now.as_secs() % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // SAFETY: takes nothing and cannot fail.
    let thread = unsafe { libc::gettid() };
    let level = match *metadata.level() {
        Level::TRACE => "DEBUG",
        other => other.as_str(),
    };
    format!(
        "LIBDQLITE[{:06}] {year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09} {thread:06} \
         {level:<7} {:<20} {}:{:<3} {message}\n",
        std::process::id(),
        now.subsec_nanos(),
        metadata.target(),
        metadata.file().unwrap_or("?"),
        metadata.line().unwrap_or(0),
    )
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar. Eras of 400 years begin in March, so
/// that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_782), (2026, 11, 25));
    }
}

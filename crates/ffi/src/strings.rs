//! Text from C and back.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU8, Ordering};

/// Borrows a C string; `None` for NULL.
///
/// # Safety
///
/// `text` is NULL or points to a NUL-terminated string that stays unchanged for `'a`.
pub(crate) unsafe fn borrow<'a>(text: *const c_char) -> Option<&'a CStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the caller promises the rest.
    Some(unsafe { CStr::from_ptr(text) })
}

/// The text behind `dqlite_node_errmsg`: 299 bytes and a NUL at an address that never changes.
///
/// The host may read it while another thread of it makes an error. Then it may see a mixture, but bytes that exist, and
/// always a NUL behind them: the last byte is never anything else.
#[derive(Debug)]
pub(crate) struct ErrorText {
    bytes: [AtomicU8; Self::SIZE],
}

impl ErrorText {
    const SIZE: usize = 300;

    pub(crate) fn new() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; Self::SIZE] }
    }

    /// Replaces the text. What does not fit is cut off; a text ends at its first NUL.
    pub(crate) fn set(&self, text: &str) {
        let text = &text[..text.floor_char_boundary(Self::SIZE - 1)];
        for (place, byte) in self.bytes.iter().zip(text.bytes().chain([0])) {
            place.store(byte, Ordering::Relaxed);
        }
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &ErrorText) -> String {
        // SAFETY: `text` lives, and its last byte is NUL.
        unsafe { borrow(text.as_ptr()) }.unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn text_is_cut_at_299_bytes_and_never_inside_a_character() {
        let text = ErrorText::new();
        assert_eq!(read(&text), "");
        text.set("hello");
        assert_eq!(read(&text), "hello");
        text.set(&"x".repeat(1000));
        assert_eq!(read(&text), "x".repeat(299));
        text.set(&format!("{}\u{e9}", "x".repeat(298)));
        assert_eq!(read(&text), "x".repeat(298));
        text.set("");
        assert_eq!(read(&text), "");
    }
}

//! The first page of a new database, as SQLite writes it when a database is created and put into WAL mode.

use crate::page::{PAGE_SIZE, Page};
use crate::wal::put_be_u32;

/// Page 1 of a database without tables. `sqlite_version` is the number of the library that claims to have written it.
pub(crate) fn first_page(sqlite_version: u32) -> Page {
    let mut bytes = [0; PAGE_SIZE];
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[16..18].copy_from_slice(&4096_u16.to_be_bytes());
    // File format versions for writing and reading: WAL. No reserved bytes. Payload fractions as the format fixes them.
    bytes[18..24].copy_from_slice(&[2, 2, 0, 64, 32, 32]);
    // Change counter, size in pages, and the counter and version that make the size valid.
    put_be_u32(&mut bytes, 24, 1);
    put_be_u32(&mut bytes, 28, 1);
    put_be_u32(&mut bytes, 92, 1);
    put_be_u32(&mut bytes, 96, sqlite_version);
    // An empty table leaf, cells begin at the end of the page.
    bytes[100] = 0x0d;
    bytes[105..107].copy_from_slice(&4096_u16.to_be_bytes());
    Page::copy_from(&bytes).expect("the buffer is one page")
}

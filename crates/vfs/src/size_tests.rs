//! Databases beyond sizes at which 32-bit arithmetic goes wrong. They consist of holes, so that they need no memory.

use std::sync::Arc;

use crate::database::Database;
use crate::first_page::first_page;
use crate::generation::SIZE_FIELD;
use crate::page::{PAGE_SIZE, Page, PageTable};
use crate::{Connection, DatabaseName, Step, Vfs};

/// The page that holds byte 2^30, which SQLite never uses.
const PENDING_BYTE_PAGE: u32 = (1 << 30) / 4096 + 1;

/// A database of that many pages of which only the first is there.
fn sparse(vfs: &Vfs, name: &str, page_count: u32) -> Arc<Database> {
    let database = vfs.get_or_create(&DatabaseName::try_from(name).unwrap());
    let mut bytes = [0; PAGE_SIZE];
    bytes.copy_from_slice(&first_page(3_040_001)[..]);
    crate::wal::put_be_u32(&mut bytes, SIZE_FIELD, page_count);
    let mut table = PageTable::default();
    table.set(1, Page::copy_from(&bytes).unwrap());
    let mut slot = database.slot();
    let next = database.next_generation(&slot.lock(), table, page_count);
    *slot = next;
    drop(slot);
    database
}

fn length(connection: &mut Connection) -> Vec<u8> {
    let sql = b"SELECT length(a) || ' ' || hex(substr(a, 29999)) FROM t";
    let mut statement = connection.prepare(sql).unwrap().statement.unwrap();
    assert_eq!(statement.step(), Ok(Step::Row));
    match statement.column(0) {
        crate::ColumnValue::Text(text) => text.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Makes the database longer and returns leader and follower, which must agree.
fn grow(page_count: u32) -> (Arc<Database>, Arc<Database>) {
    let vfs = Vfs::register().unwrap();
    let (leader, follower) = (sparse(&vfs, "leader", page_count), sparse(&vfs, "follower", page_count));
    let mut connection = vfs.open(leader.name()).unwrap();
    connection.exec_simple(b"CREATE TABLE t(a)").unwrap();
    connection.exec_simple(b"INSERT INTO t VALUES(CAST(printf('%.*c', 30000, 'x') AS BLOB))").unwrap();
    while let Some(transaction) = leader.poll_captured() {
        let pages = transaction.pages.iter();
        follower.apply(&mut pages.map(|(number, page)| (*number, page.as_ref()))).unwrap();
        leader.commit(transaction.generation, transaction.sequence).unwrap();
        if transaction.sequence % 2 == 0 {
            leader.maintain_with(1).unwrap();
        }
    }
    for database in [&leader, &follower] {
        let mut fresh = vfs.open(database.name()).unwrap();
        assert_eq!(length(&mut fresh), b"30000 7878");
        let image = database.snapshot();
        assert_eq!(image.page_count(), leader.page_count());
        assert!(image.page_count() >= page_count + 8);
        for number in page_count..=image.page_count() {
            assert_eq!(image.page(number), leader.snapshot().page(number), "page {number}");
        }
    }
    (leader, follower)
}

#[test]
fn pages_beyond_five_gibibytes_hold_what_was_written() {
    // Offsets compared in 32 bits took the page for the one with the pending byte and replaced it by garbage.
    let five_gibibytes = 5 * ((1 << 30) / 4096);
    let (leader, _) = grow(five_gibibytes);
    let page = leader.snapshot().page(five_gibibytes + 3);
    assert_eq!(page[4..], [b'x'; PAGE_SIZE - 4], "an overflow page of the blob");
}

#[test]
fn the_page_with_the_pending_byte_is_a_hole_in_every_image() {
    // A snapshot used a pointer that was never set when the database had crossed this page before a checkpoint.
    let (leader, follower) = grow(PENDING_BYTE_PAGE - 1);
    assert!(leader.page_count() > PENDING_BYTE_PAGE);
    for database in [leader, follower] {
        assert_eq!(database.snapshot().page(PENDING_BYTE_PAGE), Page::zero());
        assert_ne!(database.snapshot().page(PENDING_BYTE_PAGE + 1), Page::zero());
    }
}

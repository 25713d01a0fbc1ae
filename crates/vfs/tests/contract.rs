//! The contract between SQLite and a VFS, checked through the C function pointers.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use common::raw::{CREATE, MAIN, RawConnection, RawFile, RawVfs};
use common::*;
use libsqlite3_sys as ffi;
use vfs::{Environment, Options, PAGE_SIZE, Vfs};

const WRITE: c_int = 0;
const CHECKPOINT: c_int = 1;
const RECOVER: c_int = 2;
const READ0: c_int = 3;
const READ1: c_int = 4;
const PAGE: usize = PAGE_SIZE;

fn setup() -> (Vfs, RawVfs) {
    let vfs = Vfs::register().unwrap();
    let raw = RawVfs::of(&vfs);
    (vfs, raw)
}

/// A main file that holds READ(1) and WRITE, and the WAL of the same connection.
fn writer(connection: &RawConnection) -> (RawFile, RawFile) {
    let main = connection.main();
    assert_eq!(main.lock_shared(READ1), ffi::SQLITE_OK);
    assert_eq!(main.lock_exclusive(WRITE, 1), ffi::SQLITE_OK);
    (main, connection.wal())
}

/// A host's connection that has its WAL open.
fn connect(vfs: &Vfs, name: &str) -> RawConnection {
    let connection = RawConnection::open(name, Some(vfs)).unwrap();
    connection.exec("PRAGMA synchronous=OFF; PRAGMA user_version").unwrap();
    connection
}

fn frame_header(page: u32, size: u32) -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&page.to_be_bytes());
    header[4..8].copy_from_slice(&size.to_be_bytes());
    header
}

#[test]
fn open_creates_finds_and_refuses_as_the_flags_say() {
    let (_vfs, raw) = setup();
    let cantopen = Some(ffi::SQLITE_CANTOPEN);
    assert_eq!(raw.open(Some("db"), MAIN).err(), cantopen);
    assert_eq!(raw.last_error(), libc::ENOENT);
    assert_eq!(
        raw.open(Some("db-wal"), ffi::SQLITE_OPEN_WAL | CREATE).err(),
        cantopen,
        "WAL before database"
    );
    assert_eq!(raw.last_error(), libc::ENOENT);
    let first = raw.open(Some("db"), MAIN | CREATE).unwrap();
    assert_eq!(raw.open(Some("db"), MAIN | CREATE | ffi::SQLITE_OPEN_EXCLUSIVE).err(), cantopen);
    assert_eq!(raw.last_error(), libc::EEXIST);
    drop(first);
    assert_eq!(raw.open(Some("db"), MAIN).unwrap().size(), 4096, "it outlives its last handle");
    assert_eq!(raw.open(Some("db"), ffi::SQLITE_OPEN_TEMP_DB | CREATE).err(), cantopen);
    assert_eq!(raw.last_error(), libc::ENOENT);
    for name in ["", ":memory:", "x-wal", "x-journal", "file:x", &"a".repeat(505)] {
        assert_eq!(raw.open(Some(name), MAIN | CREATE).err(), cantopen, "{name}");
    }
}

#[test]
fn errno_of_a_failed_open_reaches_the_host() {
    let (vfs, _) = setup();
    assert!(matches!(
        RawConnection::open_with("db", Some(&vfs), ffi::SQLITE_OPEN_READWRITE),
        Err(ffi::SQLITE_CANTOPEN)
    ));
    let connection = connect(&vfs, "db");
    assert_eq!(connection.system_errno(), 0);
}

#[test]
fn temporary_files_are_real_files_and_hold_what_was_written() {
    let (_vfs, raw) = setup();
    for kind in [
        ffi::SQLITE_OPEN_TEMP_DB,
        ffi::SQLITE_OPEN_TRANSIENT_DB,
        ffi::SQLITE_OPEN_TEMP_JOURNAL,
        ffi::SQLITE_OPEN_SUBJOURNAL,
    ] {
        let flags = kind | ffi::SQLITE_OPEN_READWRITE | CREATE | ffi::SQLITE_OPEN_DELETEONCLOSE;
        let file = raw.open(None, flags).unwrap();
        assert_eq!(file.write(100, b"hello"), ffi::SQLITE_OK);
        assert_eq!(file.read(100, 5), (ffi::SQLITE_OK, b"hello".to_vec()));
        assert_eq!(file.size(), 105);
        assert_eq!(file.truncate(3), ffi::SQLITE_OK);
    }
}

#[test]
fn journals_swallow_everything_and_read_as_zeros() {
    let (_vfs, raw) = setup();
    for kind in [ffi::SQLITE_OPEN_MAIN_JOURNAL, ffi::SQLITE_OPEN_SUPER_JOURNAL] {
        let file = raw.open(Some("db-journal"), kind | ffi::SQLITE_OPEN_READWRITE | CREATE).unwrap();
        assert_eq!(file.write(0, b"hello"), ffi::SQLITE_OK);
        assert_eq!(file.read(0, 5), (ffi::SQLITE_OK, vec![0; 5]));
        assert_eq!(file.size(), 0);
        assert_eq!(file.truncate(0), ffi::SQLITE_IOERR_TRUNCATE);
        assert_eq!(file.sync(), ffi::SQLITE_OK);
        assert_eq!(file.control(ffi::SQLITE_FCNTL_PERSIST_WAL, 1).0, ffi::SQLITE_NOTFOUND);
    }
}

#[test]
fn names_are_opaque_and_nothing_is_deleted() {
    let (vfs, raw) = setup();
    let _database = vfs.get_or_create(&name("a/../db"));
    assert_eq!(raw.full_pathname("a/../db", 100), Ok("a/../db".to_owned()));
    assert_eq!(raw.full_pathname("abc", 4), Ok("abc".to_owned()));
    assert_eq!(raw.full_pathname("abc", 3), Err(ffi::SQLITE_CANTOPEN));
    assert_eq!(raw.full_pathname("abc", 0), Err(ffi::SQLITE_CANTOPEN));
    assert_eq!(raw.access("a/../db"), 1);
    assert_eq!(raw.access("a/../db-wal"), 1);
    assert_eq!(raw.access("a/../db-journal"), 0, "no journal is hot");
    assert_eq!(raw.access("db"), 0);
    assert_eq!(raw.delete("a/../db-wal"), ffi::SQLITE_OK);
    assert_eq!(raw.delete("a/../db-journal"), ffi::SQLITE_OK);
    assert_eq!(raw.delete("a/../db"), ffi::SQLITE_IOERR_DELETE);
    assert_eq!(raw.access("a/../db"), 1);
}

#[test]
fn a_database_of_the_longest_name_opens_and_a_longer_one_does_not() {
    let (vfs, _) = setup();
    let longest = "n".repeat(504);
    connect(&vfs, &longest).exec("CREATE TABLE t(a)").unwrap();
    assert!(matches!(RawConnection::open(&"n".repeat(505), Some(&vfs)), Err(ffi::SQLITE_CANTOPEN)));
    assert_eq!(vfs.databases().len(), 1);
}

#[test]
fn short_read_zeroes_the_rest() {
    let (vfs, raw) = setup();
    let file = raw.open(Some("db"), MAIN | CREATE).unwrap();
    let (code, page) = file.read(0, PAGE);
    assert_eq!((code, &page[..16]), (ffi::SQLITE_OK, &b"SQLite format 3\0"[..]));
    let (code, part) = file.read(16, 84);
    assert_eq!((code, &part[..]), (ffi::SQLITE_OK, &page[16..100]));
    assert_eq!(file.read(4096, PAGE), (ffi::SQLITE_IOERR_SHORT_READ, vec![0; PAGE]));
    let (code, part) = file.read(4000, 200);
    assert_eq!((code, &part[..96]), (ffi::SQLITE_IOERR_SHORT_READ, &page[4000..]));
    assert_eq!(part[96..], [0; 104]);
    assert_eq!(file.read(i64::from(u32::MAX) * 4096 * 2, 7), (ffi::SQLITE_IOERR_SHORT_READ, vec![0; 7]));
    assert_eq!(file.read(-1, 1).0, ffi::SQLITE_IOERR_READ);

    let connection = connect(&vfs, "db");
    assert_eq!(connection.wal().read(0, 32).0, ffi::SQLITE_OK);
    assert_eq!(connection.wal().read(32, 24), (ffi::SQLITE_IOERR_SHORT_READ, vec![0; 24]));
}

#[test]
fn only_native_code_writes_the_main_file() {
    let (_vfs, raw) = setup();
    let file = raw.open(Some("db"), MAIN | CREATE).unwrap();
    for offset in [0, 4096, 8192, 1] {
        assert_eq!(file.write(offset, &[0; PAGE]), ffi::SQLITE_IOERR_WRITE);
    }
    assert_eq!(file.truncate(4096), ffi::SQLITE_OK);
    for size in [0, 1, 8192, -4096] {
        assert_eq!(file.truncate(size), ffi::SQLITE_IOERR_TRUNCATE, "{size}");
    }
    assert_eq!(file.size(), 4096);
    assert_eq!(file.sync(), ffi::SQLITE_OK);
}

#[test]
fn wal_frames_are_written_in_order_by_the_holder_of_the_write_lock() {
    let (vfs, _) = setup();
    let connection = connect(&vfs, "db");
    let wal = connection.wal();
    assert_eq!(wal.write(0, &[0; 32]), ffi::SQLITE_IOERR_WRITE, "without the lock");
    let (main, wal) = writer(&connection);
    assert_eq!(wal.write(0, &[7; 31]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(0, &[7; 32]), ffi::SQLITE_OK);
    assert_eq!(wal.read(0, 32), (ffi::SQLITE_OK, vec![7; 32]));
    assert_eq!(wal.size(), 0, "a header is no frame");
    let second = 32 + 24 + 4096;
    assert_eq!(wal.write(second, &frame_header(2, 0)), ffi::SQLITE_IOERR_WRITE, "two frames past the end");
    assert_eq!(wal.write(56, &[1; PAGE]), ffi::SQLITE_IOERR_WRITE, "the page before its header");
    assert_eq!(wal.write(32, &frame_header(2, 0)), ffi::SQLITE_OK);
    assert_eq!(wal.read(56, PAGE), (ffi::SQLITE_IOERR_SHORT_READ, vec![0; PAGE]));
    assert_eq!(wal.write(56, &[1; PAGE - 1]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(56, &[1; PAGE]), ffi::SQLITE_OK);
    assert_eq!(
        wal.write(56, &[2; PAGE]),
        ffi::SQLITE_OK,
        "frames of the running transaction are written again"
    );
    assert_eq!(wal.read(56, PAGE), (ffi::SQLITE_OK, vec![2; PAGE]));
    assert_eq!(wal.read(32, 24), (ffi::SQLITE_OK, frame_header(2, 0).to_vec()));
    assert_eq!(wal.read(48, 8), (ffi::SQLITE_OK, vec![0; 8]));
    let (code, frame) = wal.read(32, 24 + PAGE);
    assert_eq!((code, frame[..4].to_vec(), frame[24]), (ffi::SQLITE_OK, vec![0, 0, 0, 2], 2));
    assert_eq!(wal.write(33, &[0; 24]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(-1, &[0; 24]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.size(), second);
    assert_eq!(wal.truncate(32), ffi::SQLITE_OK, "frames that were not published can go");
    assert_eq!(wal.size(), 0);
    assert_eq!(wal.write(32, &frame_header(2, 0)), ffi::SQLITE_OK);
    assert_eq!(main.unlock_exclusive(WRITE, 1), ffi::SQLITE_OK);
    assert_eq!(wal.size(), 0, "what no header covers is forgotten with the lock");
    assert_eq!(main.unlock_shared(READ1), ffi::SQLITE_OK);
    let database = vfs.database(&name("db")).unwrap();
    assert_eq!(database.check(), Ok(()));
    assert_eq!(database.speculative_len(), 0);
}

#[test]
fn published_frames_never_change() {
    let (vfs, _) = setup();
    let connection = connect(&vfs, "db");
    connection.exec("CREATE TABLE t(a)").unwrap();
    let (main, wal) = writer(&connection);
    let size = wal.size();
    assert!(size >= 32 + 4120);
    assert_eq!(wal.write(32, &frame_header(2, 0)), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(56, &[1; PAGE]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(0, &[0; 32]), ffi::SQLITE_IOERR_WRITE);
    assert_eq!(wal.truncate(0), ffi::SQLITE_IOERR_TRUNCATE);
    assert_eq!(wal.truncate(32), ffi::SQLITE_IOERR_TRUNCATE);
    assert_eq!(wal.truncate(size), ffi::SQLITE_OK);
    assert_eq!(wal.size(), size);
    main.unlock_exclusive(WRITE, 1);
    main.unlock_shared(READ1);
}

#[test]
fn locks_are_granted_or_busy_at_once() {
    let (vfs, _) = setup();
    let (first, second) = (connect(&vfs, "db"), connect(&vfs, "db"));
    let (first, second) = (first.main(), second.main());
    for slot in READ1..8 {
        assert_eq!(first.lock_exclusive(slot, 1), ffi::SQLITE_OK);
        assert_eq!(second.lock_shared(slot), ffi::SQLITE_BUSY, "shared over exclusive");
        assert_eq!(second.lock_exclusive(slot, 1), ffi::SQLITE_BUSY);
        assert_eq!(second.unlock_exclusive(slot, 1), ffi::SQLITE_OK, "it is not its own");
        assert_eq!(second.lock_shared(slot), ffi::SQLITE_BUSY);
        assert_eq!(first.unlock_exclusive(slot, 1), ffi::SQLITE_OK);
        assert_eq!(first.lock_shared(slot), ffi::SQLITE_OK);
        assert_eq!(first.lock_shared(slot), ffi::SQLITE_OK, "again");
        assert_eq!(second.lock_shared(slot), ffi::SQLITE_OK);
        assert_eq!(first.unlock_shared(slot), ffi::SQLITE_OK);
        assert_eq!(first.lock_exclusive(slot, 1), ffi::SQLITE_BUSY, "exclusive over shared");
        assert_eq!(second.unlock_shared(slot), ffi::SQLITE_OK);
    }
    for slot in 0..8 {
        assert_eq!(first.unlock_shared(slot), ffi::SQLITE_OK, "nothing is held");
        assert_eq!(first.unlock_exclusive(slot, 1), ffi::SQLITE_OK);
    }
    for (first_slot, count) in [(0, 9), (8, 1), (-1, 1), (0, 0)] {
        assert_eq!(first.lock_exclusive(first_slot, count), ffi::SQLITE_IOERR_SHMLOCK);
    }
}

#[test]
fn checkpoint_recovery_and_restart_are_not_for_sqlite() {
    let (vfs, _) = setup();
    let connection = connect(&vfs, "db");
    let main = connection.main();
    assert_eq!(main.lock_exclusive(CHECKPOINT, 1), ffi::SQLITE_BUSY);
    assert_eq!(main.lock_exclusive(CHECKPOINT, 2), ffi::SQLITE_BUSY, "recovery");
    assert_eq!(main.lock_exclusive(READ0, 1), ffi::SQLITE_BUSY);
    assert_eq!(main.lock_exclusive(READ1, 4), ffi::SQLITE_BUSY, "restart");
    assert_eq!(main.lock_exclusive(0, 8), ffi::SQLITE_BUSY);
    assert_eq!(main.lock_shared(RECOVER), ffi::SQLITE_OK, "readers look whether a recovery runs");
    assert_eq!(main.unlock_shared(RECOVER), ffi::SQLITE_OK);
    connection.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
    let database = vfs.database(&name("db")).unwrap();
    let frames = database.wal_frames();
    assert_eq!(connection.exec("PRAGMA wal_checkpoint(TRUNCATE)"), Ok(()), "it answers busy in its row");
    assert_eq!(connection.exec("PRAGMA journal_mode=DELETE"), Err(ffi::SQLITE_BUSY));
    assert_eq!(database.wal_frames(), frames);
    assert_eq!(main.size(), 4096);
    assert_eq!(database.check(), Ok(()));
}

#[test]
fn a_reader_that_looks_at_a_torn_header_does_not_shut_out_writers() {
    let (vfs, _) = setup();
    let connection = connect(&vfs, "db");
    let main = connection.main();
    assert_eq!(main.lock_exclusive(WRITE, 1), ffi::SQLITE_BUSY, "it has no snapshot, so it is no writer");
    let (main, _) = writer(&connection);
    main.unlock_exclusive(WRITE, 1);
    main.unlock_shared(READ1);
}

#[test]
fn there_is_one_writer_and_its_lock_goes_with_its_file() {
    let (vfs, raw) = setup();
    let connection = connect(&vfs, "db");
    let handle = raw.open(Some("db"), MAIN).unwrap();
    assert_eq!(handle.lock_shared(READ1), ffi::SQLITE_OK);
    assert_eq!(handle.lock_exclusive(WRITE, 1), ffi::SQLITE_OK);
    assert_eq!(handle.lock_exclusive(WRITE, 1), ffi::SQLITE_OK, "again");
    assert_eq!(connection.exec("BEGIN IMMEDIATE"), Err(ffi::SQLITE_BUSY));
    drop(handle);
    assert_eq!(connection.exec("BEGIN IMMEDIATE; ROLLBACK"), Ok(()));
    let handle = raw.open(Some("db"), MAIN).unwrap();
    assert_eq!(handle.lock_shared(READ1), ffi::SQLITE_OK);
    assert_eq!(handle.lock_exclusive(WRITE, 1), ffi::SQLITE_OK);
    assert_eq!(handle.shm_unmap(), ffi::SQLITE_OK);
    assert_eq!(connection.exec("BEGIN IMMEDIATE; ROLLBACK"), Ok(()), "unmapping gives back as well");
}

#[test]
fn regions_are_shared_stay_where_they_are_and_grow_only_on_request() {
    let (vfs, raw) = setup();
    let (first, second) = (raw.open(Some("db"), MAIN | CREATE).unwrap(), raw.open(Some("db"), MAIN).unwrap());
    let region = first.shm_map(0, 32768, false).unwrap();
    assert!(!region.is_null(), "the index is valid from the start");
    assert_eq!(second.shm_map(0, 32768, true), Ok(region));
    assert_eq!(first.shm_map(1, 32768, false), Ok(std::ptr::null_mut()));
    let next = first.shm_map(1, 32768, true).unwrap();
    assert!(!next.is_null());
    assert_eq!(second.shm_map(1, 32768, false), Ok(next));
    assert_eq!(first.shm_map(0, 4096, true), Err(ffi::SQLITE_IOERR_SHMMAP));
    assert_eq!(first.shm_map(-1, 32768, true), Err(ffi::SQLITE_IOERR_SHMMAP));
    assert_eq!(first.shm_unmap(), ffi::SQLITE_OK);
    assert_eq!(second.shm_map(0, 32768, false), Ok(region));
    drop(vfs);
}

#[test]
fn fetched_pages_stay_what_they_were_and_have_zeros_behind_them() {
    const BEHIND: usize = 256;
    let (vfs, _) = setup();
    let connection = connect(&vfs, "db");
    let database = vfs.database(&name("db")).unwrap();
    let main = connection.main();
    let offset = 2 * i64::try_from(PAGE).unwrap();
    let fetch_after = |sql: &str| {
        connection.exec(sql).unwrap();
        commit_all(&database);
        assert!(database.backfill().unwrap() > 0, "the page is in the main file");
        main.fetch(offset, c_int::try_from(PAGE).unwrap())
    };
    let bytes_at = |page: *const u8| {
        assert!(!page.is_null());
        // SAFETY: a page and what is behind it, which are there until it is given back.
        unsafe { std::slice::from_raw_parts(page, PAGE + BEHIND) }.to_vec()
    };
    let first = fetch_after("CREATE TABLE t(a); INSERT INTO t VALUES(randomblob(10000))");
    let seen = bytes_at(first);
    assert_eq!(seen[..PAGE], main.read(offset, PAGE).1);
    assert_eq!(seen[PAGE..], [0; BEHIND]);
    let second = fetch_after("UPDATE t SET a = randomblob(10000)");
    assert_ne!(second, first);
    assert_eq!(bytes_at(second)[..PAGE], main.read(offset, PAGE).1);
    assert_ne!(bytes_at(second), seen);
    assert_eq!(bytes_at(first), seen, "whatever becomes of the database");
    for page in [first, second] {
        // SAFETY: each is given back once.
        unsafe { main.unfetch(offset, page) };
    }
    for (offset, len) in
        [(offset, 100), (offset + 1, 4096), (-1, 4096), (main.size(), 4096), (0, 8192), (0, -1)]
    {
        assert!(main.fetch(offset, len).is_null(), "{offset} {len}");
    }
    // SAFETY: null stands for all that is not in use.
    unsafe { main.unfetch(0, std::ptr::null()) };
}

#[test]
fn file_controls_answer_what_they_know() {
    let (_vfs, raw) = setup();
    let file = raw.open(Some("db"), MAIN | CREATE).unwrap();
    assert_eq!(file.control(ffi::SQLITE_FCNTL_PERSIST_WAL, 0).0, ffi::SQLITE_MISUSE);
    assert_eq!(file.control(ffi::SQLITE_FCNTL_PERSIST_WAL, -1), (ffi::SQLITE_OK, 1));
    assert_eq!(file.control(ffi::SQLITE_FCNTL_PERSIST_WAL, 1), (ffi::SQLITE_OK, 1));
    for op in
        [ffi::SQLITE_FCNTL_LOCK_TIMEOUT, ffi::SQLITE_FCNTL_SIZE_HINT, ffi::SQLITE_FCNTL_BUSYHANDLER, 9999]
    {
        assert_eq!(file.control(op, 5), (ffi::SQLITE_NOTFOUND, 5), "{op}");
    }
    assert_eq!(file.methods().iVersion, 3, "pages can be fetched");
    // SAFETY: the file is open.
    let characteristics = unsafe { file.methods().xDeviceCharacteristics.unwrap()(std::ptr::null_mut()) };
    assert_ne!(characteristics & ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE, 0, "or commits would be padded");
    assert_ne!(characteristics & ffi::SQLITE_IOCAP_SEQUENTIAL, 0, "or the WAL header would be synced");
}

#[test]
fn loading_extensions_is_not_supported_in_any_room() {
    let (_vfs, raw) = setup();
    assert_eq!(raw.dl_error(100), "Loadable extensions are not supported");
    assert_eq!(raw.dl_error(9), "Loadable");
    assert_eq!(raw.dl_error(1), "");
}

struct Twin;

impl Environment for Twin {
    fn randomness(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }

    fn now_ms(&self) -> i64 {
        86_400_000
    }

    fn sleep(&self, duration: Duration) {
        assert_eq!(duration, Duration::from_micros(123));
    }
}

#[test]
fn time_and_randomness_come_from_the_environment() {
    let mut options = Options::default();
    options.environment = Arc::new(Twin);
    let vfs = Vfs::register_with(options).unwrap();
    let raw = RawVfs::of(&vfs);
    assert_eq!(raw.randomness(5), [7; 5]);
    assert_eq!(raw.sleep(123), 123);
    let (day, milliseconds) = raw.time();
    assert!((day - 2_440_588.5).abs() < 1e-9);
    assert_eq!(milliseconds, 210_866_760_000_000 + 86_400_000);
    let mut connection = vfs.open(&name("db")).unwrap();
    assert_eq!(rows(&mut connection, "SELECT datetime('now')"), ["1970-01-02 00:00:00"]);

    let (_system, raw) = setup();
    assert_ne!(raw.randomness(32), raw.randomness(32));
    assert!(raw.time().1 > 210_866_760_000_000 + 1_700_000_000_000);
}

#[test]
fn the_default_vfs_and_its_connections_are_left_alone() {
    // SAFETY: null asks for the default.
    let before = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    let (vfs, raw) = setup();
    // SAFETY: null asks for the default.
    let after = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    assert_eq!(before, after);
    assert_ne!(after, raw.pointer());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ordinary");
    for name in [path.to_str().unwrap(), "", ":memory:"] {
        let connection = RawConnection::open(name, None).unwrap();
        connection.exec("CREATE TABLE t(a); INSERT INTO t VALUES(1); PRAGMA journal_mode=WAL").unwrap();
        connection.exec("PRAGMA wal_checkpoint; ATTACH ':memory:' AS more").unwrap();
    }
    drop(vfs);
}

#[test]
fn a_vfs_stays_registered_until_its_last_connection_is_gone() {
    let vfs = Vfs::register().unwrap();
    let name_of_vfs = vfs.name().to_owned();
    let mut connection = vfs.open(&name("db")).unwrap();
    drop(vfs);
    exec(&mut connection, "CREATE TABLE t(a)");
    // SAFETY: a C string.
    assert!(!unsafe { ffi::sqlite3_vfs_find(name_of_vfs.as_ptr()) }.is_null());
    drop(connection);
    // SAFETY: a C string.
    assert!(unsafe { ffi::sqlite3_vfs_find(name_of_vfs.as_ptr()) }.is_null());
}

#[test]
fn the_first_page_is_the_one_sqlite_makes() {
    let (vfs, raw) = setup();
    let directory = tempfile::tempdir().unwrap();
    let reference = reference::Reference::open(&directory.path().join("reference"));
    let expected = reference.image();
    let file = raw.open(Some("db"), MAIN | CREATE).unwrap();
    let (_, page) = file.read(0, PAGE);
    assert_eq!(page.len(), expected.len());
    let differing: Vec<usize> = (0..PAGE).filter(|at| page[*at] != expected[*at]).collect();
    // The change counter and its copy count how often SQLite touched the page while it made it.
    assert!(differing.iter().all(|at| (24..28).contains(at) || (92..96).contains(at)), "{differing:?}");
    drop(vfs);
}

//! Every large allocation whose size a client decides fails: the client is told, and the node lives.
//!
//! An allocator of this program refuses the k-th allocation of at least a MiB or so that a thread of the node makes, alone or
//! with all that follow, for each k until a request makes no k-th one. Where one is made without a way to fail, this program ends with "memory allocation of
//! ... bytes failed". SQLite has an allocator of its own and is not touched.
//!
//! Not covered: what a committed transaction takes on its way through the log.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use server::Node;
use server::client::{Client, ClientError};
use wire_protocol::{Request, Value};

/// From this size on an allocation counts, bytes. The node's own pieces of fixed size are smaller.
const LARGE: usize = 1_200_000;
const NOMEM: u64 = 7;

/// How many more large allocations of the node succeed, plus one; 0 for all, or for none once one has failed.
static COUNTDOWN: AtomicUsize = AtomicUsize::new(0);
/// Whether all that follow a refused one are refused as well.
static LASTING: AtomicBool = AtomicBool::new(false);
/// Whether one was refused.
static FAILED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The thread of the test, whose allocations never fail.
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

struct Failing;

impl Failing {
    /// Whether this allocation is the one that fails.
    fn refuses(size: usize) -> bool {
        if size < LARGE || EXEMPT.try_with(Cell::get).unwrap_or(true) {
            return false;
        }
        let counted =
            COUNTDOWN.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
        if counted == Ok(1) {
            FAILED.store(true, Ordering::SeqCst);
            return true;
        }
        FAILED.load(Ordering::SeqCst) && LASTING.load(Ordering::SeqCst)
    }
}

// SAFETY: everything is the system's, but for null, which every caller has to expect.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: by the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() && Self::refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

type Conversation = fn(&mut Client) -> Result<(), ClientError>;

fn long_text(len: usize) -> String {
    "x".repeat(len)
}

/// What clients may ask for, of some MiB.
const CONVERSATIONS: [(&str, Conversation); 9] = [
    ("a long row", |client| client.query_sql("SELECT zeroblob(9000000), 1, 'a'", &[]).map(drop)),
    ("long values that come back", |client| {
        let values = [Value::Blob(vec![7; 3_000_000].into()), Value::Text(long_text(3_000_000).into())];
        client.query_sql("SELECT ?, ?, ?1", &values).map(drop)
    }),
    ("a long value bound to a kept statement", |client| {
        let statement = client.prepare("SELECT length(?)")?;
        let result = client.query(statement, &[Value::Blob(vec![7; 5_000_000].into())]);
        client.finalize(statement)?;
        result.map(drop)
    }),
    ("rows of a write", |client| {
        client.exec_sql("BEGIN", &[])?;
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 40) \
                   INSERT INTO t SELECT randomblob(200000) FROM n RETURNING a";
        let result = client.query_sql(sql, &[]);
        // A statement that failed in its middle has taken the transaction with it.
        let _ = client.exec_sql("ROLLBACK", &[]);
        result.map(drop)
    }),
    ("a long name of a column", |client| {
        client.query_sql(&format!("SELECT 1 AS \"{}\"", long_text(4_000_000)), &[]).map(drop)
    }),
    ("a long text", |client| {
        client.exec_sql(&format!("/* {} */ SELECT 1 WHERE 0", long_text(6_000_000)), &[]).map(drop)
    }),
    ("a long text that makes no sense", |client| match client.exec_sql(&long_text(4_000_000), &[]) {
        Err(ClientError::Failure { code: 1, .. }) => Ok(()),
        other => other.map(drop),
    }),
    ("many short rows in a sorted answer", |client| {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) \
                   SELECT i, 'abcdefghijklmnopqrstuvwxyz' FROM n ORDER BY -i";
        client.query_sql(sql, &[]).map(drop)
    }),
    ("a long address", |client| {
        let request = Request::Add { id: server::NodeId(9), address: long_text(3_000_000) };
        match client.call(&request) {
            Err(ClientError::Failure { code: 1005, .. }) => Ok(()),
            other => other.map(drop),
        }
    }),
];

#[test]
fn every_large_allocation_may_fail_and_the_client_is_told() {
    EXEMPT.with(|exempt| exempt.set(true));
    let directory = tempfile::tempdir().unwrap();
    let address = format!("@ffi-allocations-{}", std::process::id());
    let mut node = Node::create(1, address.clone(), directory.path().to_owned()).unwrap();
    node.bind(&address).unwrap();
    node.start().unwrap();
    let open = || {
        let mut client = Client::connect(&address, Duration::from_secs(30)).unwrap();
        client.open("test").unwrap();
        client
    };
    let mut honest = open();
    honest.exec_sql("CREATE TABLE t (a)", &[]).unwrap();
    let mut refusals = 0;
    for (what, conversation) in CONVERSATIONS {
        let mut client = open();
        // Each with those that follow, then each alone.
        let mut lasting = true;
        let mut nth = 0;
        loop {
            nth += 1;
            assert!(nth < 200, "{what}: there is no end of large allocations");
            LASTING.store(lasting, Ordering::SeqCst);
            COUNTDOWN.store(nth, Ordering::SeqCst);
            let result = conversation(&mut client);
            COUNTDOWN.store(0, Ordering::SeqCst);
            if !FAILED.swap(false, Ordering::SeqCst) {
                result.unwrap_or_else(|error| panic!("{what}, without a failure: {error}"));
                if std::mem::replace(&mut lasting, false) {
                    nth = 0;
                    continue;
                }
                break;
            }
            match result {
                Err(ClientError::Failure { code: NOMEM, message }) => {
                    assert!(message.contains("memory"), "{what}: {message}");
                    refusals += 1;
                }
                // A smaller block did, or the same one at another try.
                Ok(()) => {}
                other => panic!("{what}, large allocation {nth}: {other:?}"),
            }
            conversation(&mut client).unwrap_or_else(|error| panic!("{what}, after {nth}: {error}"));
            let count = honest.query_sql("SELECT count(*) FROM t", &[]).unwrap();
            assert_eq!(count.rows, [[Value::Integer(0)]], "{what}");
        }
    }
    assert!(refusals >= 8, "{refusals} refusals only: is LARGE too large?");
    node.stop().unwrap();
}

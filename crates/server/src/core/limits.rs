//! Every bound the server puts on what a client, a peer or a host can make it hold.

/// Largest body of one client request, bytes. SQLite itself refuses texts and blobs of more than 10^9 bytes.
pub const MAX_REQUEST_LEN: usize = 512 * 1024 * 1024;

/// Descriptors of the process that connections must leave to the log, to peers and to the host; a quarter of what the
/// process may open, if that is less. Otherwise the number of connections is not limited.
pub const RESERVED_DESCRIPTORS: i32 = 64;

/// Requests of one client that may wait behind the running one before its socket is no longer read.
pub const MAX_INBOX_FRAMES: usize = 64;

/// Bytes of such waiting requests.
pub const MAX_INBOX_BYTES: usize = 1024 * 1024;

/// A ROWS message is closed once it holds this many bytes; rows are never split, so it may be longer by one row.
pub const ROWS_BATCH_LEN: usize = 32 * 1024;

/// Longest row, bytes. One value of SQLite's default maximum of 10^9 bytes fits.
pub const MAX_ROW_LEN: usize = 1024 * 1024 * 1024;

/// Rows that a writing statement (`INSERT ... RETURNING`) may produce, bytes. They are held back until the
/// transaction is committed by the cluster, so they must fit in memory.
pub const MAX_RETURNING_LEN: usize = 64 * 1024 * 1024;

/// What an opened connection keeps for its next reply, bytes. A longer reply gives its memory back.
pub const REPLY_BUFFER_LEN: usize = 4096;

/// Prepared statements of one connection.
pub const MAX_STATEMENTS: usize = 16 * 1024;

/// Transactions of one database that may be captured but not yet committed; further writers wait in the lane.
pub const MAX_SPECULATIVE_TRANSACTIONS: usize = 1024;

/// Bytes of such transactions.
pub const MAX_SPECULATIVE_BYTES: u64 = 64 * 1024 * 1024;

/// Frames of a WAL, 4 GiB of pages, after which writers pause until everything is committed, once, so that it can start
/// again. Frame numbers end at 2^32, and a cluster under constant load has no such moment by itself.
pub const MAX_WAL_FRAMES: u32 = 1 << 20;

/// Page bytes of captured transactions that are merged into one log entry. One transaction may be larger.
pub const MAX_MERGED_LEN: usize = 1024 * 1024;

/// How long captured transactions wait while more writers wait in the lane than were captured, milliseconds.
pub const GROWTH_MS: u64 = 2;

/// Bytes of a DUMP handed to the socket at a time.
pub const DUMP_CHUNK_LEN: usize = 1024 * 1024;

/// How long one statement goes on for a client that closed its sending half, milliseconds. It is probably gone altogether,
/// of which TCP tells no more than this; with the tick that notices, the statement ends within a second.
pub const EOF_GRACE_MS: u64 = 500;

/// Heartbeat timeout announced in WELCOME, milliseconds. Nothing depends on it; clients expect C's value.
pub const ANNOUNCED_HEARTBEAT_TIMEOUT_MS: u64 = 15_000;

/// Bytes of one kind that a client may hold without being counted in the node's budget.
pub const BUDGET_GRAIN: u64 = 64 * 1024;

/// Jobs of a connection, beside one for each of its statements, after which what SQLite keeps for it is looked at again.
pub const JOBS_BETWEEN_LOOKS: usize = 32;

/// Least that a node holds on behalf of its clients, bytes, however little memory there is.
pub const MIN_CLIENT_MEMORY: u64 = 64 * 1024 * 1024;

/// The part of the machine's memory, or of the limit of the process's control group, that a node holds on behalf of its
/// clients when nobody chose another: one in so many.
pub const CLIENT_MEMORY_SHARE: u64 = 4;

/// The part of the budget that one read transaction may keep from being freed for longer than [`READER_AGE_MS`]: one in so
/// many, but at least [`MIN_READER_BYTES`].
pub const READER_SHARE: u64 = 64;

/// See [`READER_SHARE`]. Bytes.
pub const MIN_READER_BYTES: u64 = 32 * 1024 * 1024;

/// How long a read transaction may keep more than its part, milliseconds.
pub const READER_AGE_MS: u64 = 10_000;

/// How long a client may hold the writer lane of a database without a request, once others wait for it, milliseconds.
pub const IDLE_WRITER_MS: u64 = 60_000;

/// Threads that statements which take long may occupy beside the configured number, in each of the pools for readers, for
/// writers, and for what only compiles. With all of them occupied, and the configured ones too, further statements of that
/// kind wait until one of those ends.
pub const MAX_LONG_STATEMENTS: usize = 64;

/// A statement that has run for so long occupies its thread, milliseconds: if others wait, another thread is added.
pub const OCCUPIED_MS: u64 = 5;

/// A statement that goes on for so long after it was cancelled, milliseconds, is where SQLite cannot be interrupted. Its
/// thread gets the lowest priority.
pub const UNSTOPPABLE_MS: u64 = 1_000;

//! Transactions from a leader's connections to a follower's pages.

mod common;

use common::*;
use vfs::Position;

#[test]
fn a_committed_transaction_reaches_the_follower() {
    let pair = pair();
    let mut connection = pair.open();
    exec(&mut connection, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 'x')");
    assert_eq!(pair.leader.committed(), Position(0));
    assert_eq!(pair.leader.speculative_len(), 2);
    assert_eq!(connection.gate(), pair.leader.captured());
    assert_eq!(replicate(&pair.leader, &pair.follower), 2);
    assert_eq!(pair.leader.committed(), pair.leader.captured());
    assert_same_image(&pair.leader, &pair.follower);
    let mut reader = pair.open_follower();
    assert_eq!(rows(&mut reader, "SELECT * FROM t; PRAGMA integrity_check"), ["1|x", "ok"]);
}

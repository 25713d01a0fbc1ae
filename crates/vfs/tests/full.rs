//! Random SQL where transactions fail for lack of room at any frame: what is committed stays sound and reaches followers.
#![allow(clippy::unwrap_used, reason = "a failure of a helper is a failure of the test")]

mod common;

use common::rng::Rng;
use common::sql::{Flavour, preamble, statement};
use common::*;
use libsqlite3_sys as ffi;
use vfs::{Options, PAGE_SIZE, Vfs};

#[test]
fn transactions_that_find_no_room_leave_a_sound_database() {
    let mut full = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut options = Options::default();
        options.max_transaction_bytes = rng.pick(&[4, 10, 30, 100]) * PAGE_SIZE as u64;
        let vfs = Vfs::register_with(options).unwrap();
        let (leader, follower) = (vfs.get_or_create(&name("leader")), vfs.get_or_create(&name("follower")));
        let mut connection = vfs.open(leader.name()).unwrap();
        let flavour = rng.pick(&[Flavour::Spills, Flavour::Mixed]);
        let mut statements = preamble(&mut rng, flavour);
        statements.extend((0..80).map(|_| statement(&mut rng, flavour)));
        for sql in statements {
            match query(&mut connection, &sql) {
                Err(error) if error.code == ffi::SQLITE_FULL => full += 1,
                Ok(_) | Err(_) => {}
            }
            replicate(&leader, &follower);
            assert_same_image(&leader, &follower);
            if rng.once_in(5) {
                leader.maintain_with(1).unwrap();
                let mut other = vfs.open(follower.name()).unwrap();
                assert_eq!(rows(&mut other, "PRAGMA integrity_check"), ["ok"], "seed {seed} after {sql}");
            }
        }
        // What the connection sees within its transaction is sound as well.
        assert_eq!(rows(&mut connection, "PRAGMA integrity_check"), ["ok"], "seed {seed}");
        if connection.in_transaction() {
            exec(&mut connection, "ROLLBACK");
        }
        let mut other = vfs.open(leader.name()).unwrap();
        assert_eq!(rows(&mut other, "PRAGMA integrity_check"), ["ok"], "seed {seed}");
    }
    println!("{full} statements found no room");
    assert!(full > 100);
}

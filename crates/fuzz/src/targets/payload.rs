//! The content of a snapshot: whatever it is, restoring it is refused or gives databases whose pages can be read.

use bytes::Bytes;
use server::core::restore_payload;
use vfs::Vfs;

/// See [`super::ALL`].
pub(super) fn run(data: &[u8]) {
    let vfs = Vfs::register().expect("SQLite takes another VFS");
    // What is wrong with it is for people; here only that nothing panics, and that what was taken is sound.
    drop(restore_payload(&vfs, &Bytes::copy_from_slice(data)));
    for database in vfs.databases() {
        if let Err(reason) = database.check() {
            panic!("database {:?}: {reason}", database.name());
        }
        let Ok(mut connection) = vfs.open(database.name()) else { continue };
        drop(connection.prepare(b"SELECT count(*) FROM sqlite_master"));
    }
}

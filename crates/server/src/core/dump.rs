//! DUMP: the committed image of a database, in pieces, so that a large one never stands in memory as a whole.

use bytes::{BufMut, Bytes, BytesMut};
use vfs::{DatabaseName, PAGE_SIZE};
use wire_protocol::files::{encode_file_header, encode_files_header};

use super::client::{Dump, RequestState};
use super::codes;
use super::{ClientId, Core, Output, limits};

impl Core {
    /// Answers with two files, the image and an empty WAL. Works on any node, from what it has committed.
    pub(super) fn dump_request(&mut self, client: ClientId, name: &Bytes, now_ms: u64) {
        let database = DatabaseName::replicated(name).ok().and_then(|name| self.vfs.database(&name));
        let Some(database) = database else {
            return self.refuse(client, codes::DQLITE_NOT_FOUND, "database does not exists", now_ms);
        };
        let snapshot = database.snapshot();
        let image_len = u64::from(snapshot.page_count()) * PAGE_SIZE as u64;
        let mut main = BytesMut::new();
        encode_file_header(name, image_len, &mut main);
        let mut trailer = BytesMut::new();
        let wal_name = [name.as_ref(), b"-wal"].concat();
        encode_file_header(&wal_name, 0, &mut trailer);
        let mut bytes = BytesMut::new();
        let content_len = main.len() as u64 + image_len + trailer.len() as u64;
        if encode_files_header(2, content_len, &mut bytes).is_err() {
            return self.refuse(client, codes::ERROR, "database is too large for one message", now_ms);
        }
        bytes.put(main);
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.request = RequestState::Dumping(Dump { snapshot, next_page: 1, trailer: trailer.freeze() });
        self.outputs.push_back(Output::Reply { client, bytes: bytes.freeze() });
    }

    /// The socket took the last piece: give it the next.
    pub(super) fn continue_dump(&mut self, client: ClientId, now_ms: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let RequestState::Dumping(dump) = &mut state.request else { return };
        let mut bytes = BytesMut::with_capacity(limits::DUMP_CHUNK_LEN);
        while dump.next_page <= dump.snapshot.page_count() && bytes.len() < limits::DUMP_CHUNK_LEN {
            bytes.put_slice(&dump.snapshot.page(dump.next_page)[..]);
            dump.next_page += 1;
        }
        if dump.next_page <= dump.snapshot.page_count() {
            self.outputs.push_back(Output::Reply { client, bytes: bytes.freeze() });
            return;
        }
        bytes.put_slice(&dump.trailer);
        self.respond(client, bytes.freeze(), now_ms);
        self.close_if_dead(client);
    }
}

//! When commits are refused: while leadership is being handed over, and while the disk is nearly full.
//!
//! A disk that is nearly full still takes what was accepted, so that replies which wait for it leave, reads go on, and a
//! snapshot can make room. Everything is as before when there is space again.

use raft_glue::disk::Space;
use vfs::Veto;

use super::Core;

impl Core {
    /// The log has run out of space for more, or has found it again.
    pub(super) fn space_changed(&mut self, space: Space) {
        self.space = space;
        match space {
            Space::Low => {
                tracing::error!("the disk is nearly full; writes are refused until there is space again")
            }
            Space::Ample => {
                tracing::info!("the disk has space again; writes are accepted");
                self.replica.retry_snapshot();
            }
        }
        self.enforce_veto();
    }

    /// Refuses commits for the reason that holds now, or lets them pass. A veto ends with the generation of a database,
    /// and new databases have none, so it is repeated as long as it lasts.
    pub(super) fn enforce_veto(&mut self) {
        let veto = if self.replica.transfer_pending() {
            // Nothing can be proposed meanwhile, so nothing may be captured either.
            Some(Veto::TransferPending)
        } else {
            (self.space == Space::Low).then_some(Veto::Full)
        };
        if veto.is_none() && self.veto.is_none() {
            return;
        }
        self.veto = veto;
        for state in self.databases.iter() {
            state.database.set_veto(veto);
        }
    }
}

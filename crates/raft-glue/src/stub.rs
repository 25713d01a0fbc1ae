#![allow(missing_docs, clippy::all)]
use crate::*; use bytes::Bytes; use wire_protocol::rpc;
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)] pub struct RequestId(pub u64);
#[derive(Clone, Debug)] pub struct ReadEntries { pub first: LogIndex }
#[derive(Debug)] pub struct Replica { c: Configuration }
#[derive(Debug)] pub enum Output { Persist(Persist), Transmit { to: NodeId, address: String, message: rpc::Message }, Apply(Committed), Restore(InstalledSnapshot), ReadSnapshot { to: NodeId, metadata: SnapshotMetadata }, ReadEntries(ReadEntries), BecameLeader { term: Term }, LostLeadership, RequestDone { request: RequestId, result: Result<(), ChangeError> }, Failed(String) }
impl Replica {
 pub fn handle_message(&mut self, _: NodeId, _: &str, _: rpc::Message, _: u64) {}
 pub fn handle_tick(&mut self, _: u64) {} pub fn handle_persisted(&mut self, _: u64) {} pub fn handle_persist_failed(&mut self) {}
 pub fn handle_unreachable(&mut self, _: NodeId, _: bool) {} pub fn handle_restored(&mut self, _: LogIndex) {} pub fn handle_applied(&mut self, _: LogIndex) {}
 pub fn handle_snapshot_taken(&mut self, _: &SnapshotMetadata) {} pub fn handle_snapshot_failed(&mut self) {}
 pub fn handle_snapshot_read(&mut self, _: NodeId, _: &SnapshotMetadata, _: Result<Bytes, ()>) {} pub fn handle_entries_read(&mut self, _: &ReadEntries, _: Result<Vec<Entry>, ()>) {}
 pub fn propose(&mut self, _: Bytes) -> Result<LogIndex, ProposeError> { Err(ProposeError::NotLeader) }
 pub fn add(&mut self, _: RequestId, _: NodeId, _: String) -> Result<(), ChangeError> { Ok(()) } pub fn assign(&mut self, _: RequestId, _: NodeId, _: Role) -> Result<(), ChangeError> { Ok(()) } pub fn remove(&mut self, _: RequestId, _: NodeId) -> Result<(), ChangeError> { Ok(()) }
 pub fn transfer(&mut self, _: RequestId, _: Option<NodeId>, _: u64) -> Result<(), ChangeError> { Ok(()) } pub fn transfer_pending(&self) -> bool { false }
 pub fn poll_output(&mut self, _: u64) -> Option<Output> { None } pub fn serving(&self) -> bool { false } pub fn is_leader(&self) -> bool { false } pub fn leader(&self) -> Option<(NodeId, String)> { None }
 pub fn configuration(&self) -> &Configuration { &self.c } pub fn wants_snapshot(&self) -> Option<SnapshotMetadata> { None } pub fn quorum_contact_age_ms(&self, _: u64) -> u64 { 0 } pub fn tick_interval_ms(&self) -> u64 { 1 }
}

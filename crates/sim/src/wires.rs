//! What nodes send to each other, and what becomes of it on the way.

use bytes::{Bytes, BytesMut};
use raft_glue::{NodeId, StreamId};
use server::core::Input;
use wire_protocol::rpc::{self, RpcDecoder, RpcLimits};

use crate::machines::brief;
use crate::network::{Parcel, Sent};
use crate::scenario::MILLISECOND;
use crate::trace::hash_bytes;
use crate::world::{Event, World};

impl World {
    /// Whoever lives at the address gets it, also if that is not who is meant.
    pub(crate) fn transmit(&mut self, node: usize, to: NodeId, address: &str, message: &rpc::Message) {
        let Some(peer) = self.machines.iter().position(|machine| machine.address == address) else { return };
        let mut bytes = BytesMut::with_capacity(message.encoded_len());
        message.encode(&mut bytes);
        let parcel =
            Parcel { bytes: bytes.freeze(), snapshot: matches!(message, rpc::Message::InstallSnapshot(_)) };
        if parcel.snapshot {
            self.stats.count("snapshot sent");
        }
        let hash = hash_bytes(to.0, &parcel.bytes);
        self.note(node, "sends", [to.0, hash], || format!("to {to}: {}", brief(message)));
        self.delay_timeout_now(node, peer, message);
        self.send_parcel(node, peer, parcel);
    }

    /// Sends a message, or what waited for the end of a cut.
    pub(crate) fn send_parcel(&mut self, from: usize, to: usize, parcel: Parcel) {
        let faults = if self.is_hostile() { self.scenario.messages } else { Default::default() };
        if self.random.per_million(faults.loss) {
            self.stats.count("message lost");
            return;
        }
        if self.random.per_million(faults.broken_stream) {
            self.stats.count("stream broken");
            return self.break_stream(from, to, parcel.snapshot);
        }
        if self.random.per_million(faults.corruption) {
            self.stats.count("message corrupted");
            self.corrupt(&parcel.bytes);
            return self.break_stream(from, to, parcel.snapshot);
        }
        let up = self.machines[to].process.is_some();
        match self.network.send(from, to, &parcel, up, self.now_us, &mut self.random) {
            Sent::Held => {}
            Sent::Lost => self.report_unreachable(from, to, parcel.snapshot),
            Sent::Arrives(at_us, stream) => {
                if self.random.per_million(faults.duplication) {
                    self.stats.count("message duplicated");
                    let later_us = at_us + self.random.around(self.scenario.latency_us);
                    let parcel = parcel.clone();
                    self.plan_at(later_us, Event::Parcel { from, to, stream, parcel });
                }
                let mut at_us = at_us;
                if self.random.per_million(faults.delay) {
                    self.stats.count("message delayed");
                    at_us += self.random.around(500 * MILLISECOND);
                } else if self.random.per_million(faults.reorder) {
                    self.stats.count("message reordered");
                    at_us = self.now_us + self.random.below(self.scenario.latency_us);
                }
                self.plan_at(at_us, Event::Parcel { from, to, stream, parcel });
            }
        }
    }

    /// What the receiver makes of a message with a changed byte: whatever it is, it does not panic, and it is not used,
    /// since a real stream is checked below us.
    fn corrupt(&mut self, bytes: &Bytes) {
        let mut damaged = BytesMut::from(&bytes[..]);
        let place = self.random.index(damaged.len().min(256));
        damaged[place] ^= 1 << self.random.below(8);
        let mut decoder = RpcDecoder::new(RpcLimits::default());
        let mut outcome = 0;
        while let Ok(Some(_)) = decoder.decode(&mut damaged) {
            outcome += 1;
        }
        self.note_world("corrupted", [place as u64, outcome], String::new);
    }

    pub(crate) fn break_stream(&mut self, from: usize, to: usize, snapshot: bool) {
        self.network.link(from, to).break_stream();
        self.report_unreachable(from, to, snapshot);
    }

    fn report_unreachable(&mut self, from: usize, to: usize, snapshot: bool) {
        let epoch = self.machines[from].epoch;
        let wait_us = self.network.latency(0, &mut self.random);
        self.plan(wait_us, Event::Unreachable { node: from, epoch, peer: to, snapshot });
    }

    pub(crate) fn unreachable(&mut self, node: usize, epoch: u64, peer: usize, snapshot: bool) {
        let to = self.machines[peer].id;
        self.feed(node, epoch, Input::PeerUnreachable { to, snapshot });
    }

    pub(crate) fn parcel_arrives(&mut self, from: usize, to: usize, stream: u64, parcel: Parcel) {
        if self.network.link(from, to).stream != stream || self.machines[to].process.is_none() {
            return;
        }
        let mut buffer = BytesMut::from(&parcel.bytes[..]);
        let decoded = RpcDecoder::new(RpcLimits::default()).decode(&mut buffer);
        let message = decoded.ok().flatten().expect("what was encoded can be decoded");
        let sender = &self.machines[from];
        let (id, address) = (sender.id, sender.address.clone());
        let stream = StreamId(stream * self.machines.len() as u64 + from as u64);
        self.open_stream(from, to, stream);
        let input = Input::PeerMessage { stream, from: id, address, message };
        let epoch = self.machines[to].epoch;
        self.feed(to, epoch, input);
    }

    /// The first message of a stream arrives: the receiver has read what its dialler says of itself, and has heard of the
    /// end of the stream before.
    fn open_stream(&mut self, from: usize, to: usize, stream: StreamId) {
        let Some(dialler) = self.machines[from].process.as_ref() else { return };
        let announcement = Some(dialler.core.replica().announcement());
        let id = self.machines[from].id;
        let epoch = self.machines[to].epoch;
        let Some(process) = self.machines[to].process.as_mut() else { return };
        let before = process.streams.insert(from, (stream, id));
        if before == Some((stream, id)) {
            return;
        }
        if let Some((stream, from)) = before {
            self.feed(to, epoch, Input::PeerStreamEnded { stream, from });
        }
        self.feed(to, epoch, Input::PeerStreamOpened { stream, from: id, announcement });
    }

    /// Sends what waited for a node or for the end of a cut.
    pub(crate) fn resend(&mut self, from: usize, to: usize) {
        if self.machines[to].process.is_some() {
            for parcel in self.network.take_held(from, to) {
                self.send_parcel(from, to, parcel);
            }
        }
    }
}

//! What nodes do: the turns of their loops, their disks, their SQL, their snapshots.

use raft_glue::disk::{self, Fault};
use server::core::{DiskDone, DiskJob, Input, Output};
use server::log_worker::{LogJob, LogOutcome};
use server::snapshot_work;
use wire_protocol::{Configuration, Role, Server};

use crate::archive::Archive;
use crate::network::redial_us;
use crate::node::{Sql, StartError};
use crate::oracle::{Oracle, Violation};
use crate::scenario::{MILLISECOND, Nemesis, SECOND};
use crate::world::{Event, World};

/// How often a full disk is tried again, as in the real disk thread.
const NO_SPACE_RETRY_US: u64 = 500 * MILLISECOND;
/// The loop turns this long after something woke it, microseconds; whatever else happens until then goes with it.
const TURN_US: u64 = 40;
/// The file that tells a log that it was damaged.
pub(crate) const MARKER: &str = "catch-up-needed";

impl World {
    /// All nodes begin as voters of one cluster, some with what C dqlite left.
    pub(crate) fn found_cluster(&mut self) {
        let servers = self
            .machines
            .iter()
            .map(|machine| Server { id: machine.id, address: machine.address.clone(), role: Role::Voter })
            .collect();
        let configuration = Configuration { servers };
        let archive = self.scenario.archive.map(Archive::unpack);
        if let Some(archive) = &archive {
            self.stats.count("cluster began with a directory of C");
            self.note_world("begins", [0, 0], || archive.name.to_owned());
        }
        for machine in &self.machines {
            match &archive {
                Some(archive) => archive.fill(&machine.disk, &configuration),
                None => disk::bootstrap(&machine.disk, &configuration)
                    .expect("an empty disk without faults takes it"),
            }
        }
    }

    /// Starts a node, if it does not run.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let Self { machines, scenario, random, oracle, now_us, .. } = self;
        let machine = &mut machines[node];
        machine.starting = false;
        if machine.process.is_some() {
            return Ok(());
        }
        let id = machine.id;
        let mut is_foreign = machine.foreign;
        let foreign = &mut is_foreign;
        let mut violation = None;
        let mut last = 0;
        let started = machine.start(scenario, *now_us, random, |loaded| {
            last = loaded.first_index.0 + loaded.entries.len() as u64;
            // It may have been moving its log aside when it ended.
            *foreign &= last > 1;
            if *foreign {
                oracle.loaded_foreign(id, loaded.hard_state);
                return Ok(());
            }
            oracle.loaded(id, loaded).map_err(|wrong| {
                let text = wrong.to_string();
                violation = Some(wrong);
                text
            })
        });
        machine.foreign = is_foreign;
        match started {
            Ok(()) => {}
            Err(StartError::Wrong(text)) => {
                return Err(violation.unwrap_or_else(|| Violation::new("start", text)));
            }
            Err(StartError::Refused(reason)) => return self.start_refused(node, reason),
        }
        let names = self.machines[node].disk.names();
        self.note(node, "started", [last, 0], || {
            format!("with entries up to {}: {}", last.saturating_sub(1), names.join(" "))
        });
        self.wake(node);
        for other in 0..self.machines.len() {
            if other != node {
                let wait_us = redial_us(&mut self.random);
                self.plan(wait_us, Event::Resend { from: other, to: node });
            }
        }
        Ok(())
    }

    fn start_refused(&mut self, node: usize, reason: String) -> Result<(), Violation> {
        self.note(node, "does not start", [0, 0], || reason.clone());
        self.stats.count("node does not start");
        if self.machines[node].damaged.is_some() {
            self.ruined(node);
            return Ok(());
        }
        if self.is_hostile() && self.has_disk_faults() {
            // A host tries again, and what failed once may work then.
            self.machines[node].starting = true;
            let wait_us = SECOND + self.random.around(5 * SECOND);
            self.plan(wait_us, Event::Start { node });
            return Ok(());
        }
        Err(Violation::new("nodes start", format!("node {}: {reason}", self.machines[node].id)))
    }

    /// The loop of a node has something to do: it turns soon.
    pub(crate) fn wake(&mut self, node: usize) {
        let machine = &self.machines[node];
        let at_us = (self.now_us + machine.slow.apply(TURN_US, self.now_us)).max(machine.paused_until_us);
        self.turn_at(node, at_us);
    }

    fn turn_at(&mut self, node: usize, at_us: u64) {
        let machine = &mut self.machines[node];
        let epoch = machine.epoch;
        let Some(process) = machine.process.as_mut() else { return };
        if process.turn_at_us.is_some_and(|planned| planned <= at_us) {
            return;
        }
        process.turn_at_us = Some(at_us);
        self.plan_at(at_us, Event::Turn { node, epoch });
    }

    /// One turn of a node's loop: everything that has come goes into the core, then everything it wants is done.
    pub(crate) fn turn(&mut self, node: usize, epoch: u64) -> Result<(), Violation> {
        if !self.lives(node, epoch) {
            return Ok(());
        }
        let now_us = self.now_us;
        let machine = &mut self.machines[node];
        let paused_until_us = machine.paused_until_us;
        let Some(process) = machine.process.as_mut() else { return Ok(()) };
        if process.turn_at_us != Some(now_us) {
            return Ok(());
        }
        process.turn_at_us = None;
        if paused_until_us > now_us {
            self.turn_at(node, paused_until_us);
            return Ok(());
        }
        process.surroundings.set_now_us(now_us);
        let now_ms = process.clock.now_ms(now_us);
        let inputs = std::mem::take(&mut process.inputs);
        for input in &inputs {
            self.note_heard(node, input);
        }
        let Some(process) = self.machines[node].process.as_mut() else { return Ok(()) };
        for input in inputs {
            process.core.handle(input, now_ms);
        }
        let due = process.core.next_deadline_ms().is_some_and(|deadline| deadline <= now_ms);
        if process.next_tick_ms <= now_ms {
            let interval = process.core.tick_interval_ms().max(1);
            process.next_tick_ms = (process.next_tick_ms + interval).max(now_ms + 1);
            process.core.handle(Input::Tick, now_ms);
            if let Some(manners) = self.scenario.manners {
                process.excesses.check(&process.vfs, manners, now_ms)?;
            }
        } else if due {
            process.core.handle(Input::Tick, now_ms);
        }
        while let Some(output) =
            self.machines[node].process.as_mut().and_then(|process| process.core.poll_output(now_ms))
        {
            self.perform(node, output)?;
        }
        self.observe(node)?;
        self.check_roles(node)?;
        self.plan_next_turn(node);
        Ok(())
    }

    fn plan_next_turn(&mut self, node: usize) {
        let Some(process) = self.machines[node].process.as_ref() else { return };
        let deadline_ms = process.core.next_deadline_ms().unwrap_or(u64::MAX).min(process.next_tick_ms);
        let at_us = process.clock.when(deadline_ms, self.now_us + 1);
        self.turn_at(node, at_us);
    }

    fn perform(&mut self, node: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Reply { client, bytes } => self.reply(client.0, bytes),
            Output::CloseClient { client } => self.close_by_server(client.0),
            Output::AbortClient { client } => {
                self.stats.count("client ended for memory");
                self.close_by_server(client.0);
            }
            Output::RefuseInput { .. } => {}
            Output::PauseClient { client } => self.pause_socket(client.0),
            Output::ResumeClient { client } => self.resume_socket(client.0),
            // No simulated client says CONNECT.
            Output::BecomePeer { client, .. } => self.close_by_server(client.0),
            Output::ClosePeerStream { from, .. } => self.closes_stream(node, from)?,
            Output::Announce => {
                for peer in (0..self.machines.len()).filter(|peer| *peer != node) {
                    self.network.link(node, peer).break_stream();
                }
            }
            Output::Sql(job) => self.run_sql(node, job),
            Output::Disk(job) => {
                if matches!(job, DiskJob::MoveAside) {
                    self.oracle.moves_aside(self.machines[node].id)?;
                }
                if let DiskJob::Persist(step) = &job {
                    self.oracle.issued(self.machines[node].id, step)?;
                }
                self.submit_to_disk(node, LogJob::Answered(job));
            }
            Output::Snapshot(job) => {
                let slow = self.machines[node].slow_disk;
                let wait_us = slow.apply(self.random.around(20 * self.scenario.sync_us), self.now_us);
                let epoch = self.machines[node].epoch;
                if let Some(process) = self.machines[node].process.as_mut() {
                    process.snapshots.push_back(job);
                }
                self.plan(wait_us, Event::Snapshot { node, epoch });
            }
            Output::AskPeer { ask, to, address, request, timeout_ms } => {
                Oracle::asks(self.machines[node].id, &request)?;
                self.ask_peer(node, ask, (to, &address), request, timeout_ms);
            }
            Output::HandoverDone { handover, result } => self.handed_over(node, handover, &result),
            Output::Transmit { to, address, message } => {
                let Self { machines, oracle, .. } = self;
                if let Some(process) = &machines[node].process {
                    let commit = process.core.replica().commit_index();
                    oracle.promises(machines[node].id, to, commit, &message)?;
                }
                self.answers_stranger(to);
                self.transmit(node, to, &address, &message);
            }
            Output::Stopped => {}
            Output::Failed(reason) => self.node_failed(node, &reason)?,
        }
        Ok(())
    }

    /// What can be seen of a node after each turn.
    fn observe(&mut self, node: usize) -> Result<(), Violation> {
        if self.machines[node].foreign {
            return self.check_foreign(node);
        }
        self.check_strangers(node)?;
        let Self { machines, oracle, .. } = self;
        let machine = &mut machines[node];
        let id = machine.id;
        let Some(process) = machine.process.as_mut() else { return Ok(()) };
        let replica = process.core.replica();
        if replica.is_leader() {
            oracle.leads(id, replica.term())?;
        }
        let (commit, applied) = (replica.commit_index(), replica.applied_index());
        let (commit_term, withheld) = (replica.commit_term(), replica.vote_withheld_until());
        oracle.commits(id, commit)?;
        if !process.failed {
            oracle.stands(id, applied, replica.configuration())?;
        }
        if applied > process.observed && !process.failed {
            process.observed = applied;
            oracle.applied(id, applied, &process.vfs)?;
        }
        // As long as its log says so a node that comes back does not vote, even if it has everything again.
        let caught_up = machine.damaged.is_some_and(|index| applied.0 >= index);
        if caught_up && !process.is_vote_withheld && machine.disk.content(MARKER).is_none() {
            machine.damaged = None;
        }
        if process.is_vote_withheld && withheld.is_none() {
            process.is_vote_withheld = false;
            if commit < process.no_vote_until {
                self.stats.count("caught up by a later term");
            }
            self.submit_to_disk(node, LogJob::Committed(commit, commit_term));
        }
        Ok(())
    }

    fn node_failed(&mut self, node: usize, reason: &str) -> Result<(), Violation> {
        self.note(node, "failed", [0, 0], || reason.to_owned());
        self.stats.count("node failed");
        if let Some(process) = self.machines[node].process.as_mut() {
            process.failed = true;
        }
        // No fault of a disk makes committed entries impossible to apply.
        let machine = &self.machines[node];
        // Lack of space, of whatever kind, is no failure.
        if (machine.faulted || machine.damaged.is_some()) && !reason.starts_with("applying") {
            if !self.is_hostile() {
                // The core heard late of a fault from before; its host starts it again, as `heal` does.
                self.kill(node);
            }
            return Ok(());
        }
        Err(Violation::new("nodes do not fail", format!("node {}: {reason}", self.machines[node].id)))
    }

    /// Whether disks do what makes nodes refuse to start.
    fn has_disk_faults(&self) -> bool {
        [Nemesis::FailedWrite, Nemesis::FailedSync, Nemesis::NoSpace, Nemesis::BitRot, Nemesis::LostFiles]
            .iter()
            .any(|fault| self.suffers(*fault))
    }

    // ---- disk ----

    fn submit_to_disk(&mut self, node: usize, job: LogJob) {
        let Some(process) = self.machines[node].process.as_mut() else { return };
        process.worker.push(job);
        if !process.disk_busy {
            process.disk_busy = true;
            self.plan_disk(node);
        }
    }

    /// The disk has space again, which its log looks for now and then.
    pub(crate) fn space_returns(&mut self, node: usize) {
        self.machines[node].disk.set_capacity(None);
        self.submit_to_disk(node, LogJob::Tend);
    }

    fn plan_disk(&mut self, node: usize) {
        let machine = &self.machines[node];
        let usual_us = self.random.around(self.scenario.sync_us);
        let wait_us = machine.slow_disk.apply(usual_us, self.now_us) + 20;
        self.plan(wait_us, Event::Disk { node, epoch: machine.epoch });
    }

    /// The disk does the next thing. The loop hears of it at once or some time later, so that a crash finds both
    /// what is done but not told and what is asked for but not done.
    pub(crate) fn disk_works(&mut self, node: usize, epoch: u64) -> Result<(), Violation> {
        if !self.lives(node, epoch) {
            return Ok(());
        }
        let now_us = self.now_us;
        let Self { machines, oracle, .. } = self;
        let machine = &mut machines[node];
        if machine.paused_until_us > now_us {
            let at_us = machine.paused_until_us;
            self.plan_at(at_us, Event::Disk { node, epoch });
            return Ok(());
        }
        let id = machine.id;
        let fails = machine.fails_in_write.take();
        if let Some(operations) = fails {
            machine.disk.inject(Fault::PowerOff(operations));
        }
        let Some(process) = machine.process.as_mut() else { return Ok(()) };
        process.worker.next_steps().iter().for_each(|step| oracle.writing(id, step));
        let steps = process.worker.next_steps().to_vec();
        let outcome = process.worker.run_next();
        if matches!(outcome, Some(LogOutcome::Done(DiskDone::Persisted(Ok(_))))) {
            oracle.persisted(id, &steps);
        }
        if fails.is_some() {
            self.stats.count("power failure during a write");
            self.power_failure(node);
            return Ok(());
        }
        match outcome {
            None => process.disk_busy = false,
            Some(LogOutcome::Silent) => self.plan_disk(node),
            Some(LogOutcome::NoSpace(error)) => {
                self.stats.count("write without space");
                self.note(node, "no space", [0, 0], || error.to_string());
                self.plan(NO_SPACE_RETRY_US, Event::Disk { node, epoch });
            }
            Some(LogOutcome::Done(done)) => {
                let usual_us = if self.random.percent(50) { 0 } else { self.random.around(500) };
                let at_us = now_us + usual_us + self.preempted();
                let Some(process) = self.machines[node].process.as_mut() else { return Ok(()) };
                // The thread of the disk tells in order, and "space is low" must not come behind the end of that.
                process.disk_told_us = process.disk_told_us.max(at_us);
                let at_us = process.disk_told_us;
                self.plan_at(at_us, Event::DiskDone { node, epoch, done });
                self.plan_disk(node);
            }
        }
        Ok(())
    }

    pub(crate) fn disk_done(&mut self, node: usize, epoch: u64, done: DiskDone) {
        let number = match &done {
            DiskDone::Persisted(Ok(number)) => *number,
            _ => 0,
        };
        if let DiskDone::MovedAside(Ok(moved)) = &done
            && self.lives(node, epoch)
        {
            self.stats.count("log moved aside");
            self.machines[node].foreign &= !*moved;
            self.oracle.moved_aside(self.machines[node].id, *moved);
            if let Some(process) = self.machines[node].process.as_mut().filter(|_| *moved) {
                process.observed = raft_glue::LogIndex(0);
            }
        }
        self.note(node, "disk", [number, 0], || brief(&done));
        self.feed(node, epoch, Input::DiskDone(done));
    }

    /// Something for the next turn of a node's loop.
    pub(crate) fn feed(&mut self, node: usize, epoch: u64, input: Input) {
        if !self.lives(node, epoch) {
            return;
        }
        if let Some(process) = self.machines[node].process.as_mut() {
            process.inputs.push_back(input);
        }
        self.wake(node);
    }

    /// How much longer something takes because its thread is not scheduled, microseconds.
    fn preempted(&mut self) -> u64 {
        if !self.is_hostile() || !self.random.per_million(self.scenario.preemption) {
            return 0;
        }
        self.stats.count("thread not scheduled");
        self.random.around(2 * SECOND)
    }

    // ---- SQL and snapshots ----

    fn run_sql(&mut self, node: usize, job: server::core::SqlJob) {
        let machine = &mut self.machines[node];
        let (epoch, slow) = (machine.epoch, machine.slow);
        let Some(process) = machine.process.as_mut() else { return };
        let job = process.keep_job(job);
        let wait_us = slow.apply(self.random.around(self.scenario.sql_us), self.now_us) + self.preempted();
        self.plan(wait_us, Event::SqlRuns { node, epoch, job });
    }

    pub(crate) fn sql_runs(&mut self, node: usize, epoch: u64, job: u64) {
        if !self.lives(node, epoch) {
            return;
        }
        let (now_us, paused) = (self.now_us, self.machines[node].paused_until_us);
        if paused > now_us {
            return self.plan_at(paused, Event::SqlRuns { node, epoch, job });
        }
        let Some(process) = self.machines[node].process.as_mut() else { return };
        process.surroundings.set_now_us(now_us);
        if let Some(Sql::Waiting(sql)) = process.jobs.remove(&job) {
            process.jobs.insert(job, Sql::Done(sql.run()));
        }
        let usual_us = if self.random.percent(50) { 0 } else { self.random.around(self.scenario.sql_us) };
        let wait_us = usual_us + self.preempted();
        self.plan(wait_us, Event::SqlDone { node, epoch, job });
    }

    pub(crate) fn sql_done(&mut self, node: usize, epoch: u64, job: u64) {
        if !self.lives(node, epoch) {
            return;
        }
        let Some(process) = self.machines[node].process.as_mut() else { return };
        if let Some(Sql::Done(done)) = process.jobs.remove(&job) {
            self.feed(node, epoch, Input::SqlDone(done));
        }
    }

    pub(crate) fn snapshot_works(&mut self, node: usize, epoch: u64) {
        if !self.lives(node, epoch) {
            return;
        }
        let machine = &mut self.machines[node];
        let fails = self.random.percent(20).then(|| machine.fails_in_write.take()).flatten();
        if let Some(operations) = fails {
            machine.disk.inject(Fault::PowerOff(operations));
        }
        let Some(process) = machine.process.as_mut() else { return };
        let Some(job) = process.snapshots.pop_front() else { return };
        let timestamp_ms = process.surroundings.wall_clock_ms();
        let done = snapshot_work::run(&machine.disk, job, process.compression, timestamp_ms, || true);
        if fails.is_some() {
            self.stats.count("power failure during a snapshot");
            return self.power_failure(node);
        }
        self.stats.count("snapshot file written or read");
        self.note(node, "snapshot", [0, 0], || brief(&done));
        self.feed(node, epoch, Input::SnapshotDone(done));
    }

    // ---- ends ----

    /// A node loses power, and comes back some time later.
    pub(crate) fn power_failure(&mut self, node: usize) {
        self.note(node, "loses power", [0, 0], String::new);
        let mut random = self.random.fork();
        self.machines[node].lose_power(&mut random);
        self.gone(node, true);
    }

    /// The process of a node ends, and another one is started some time later.
    pub(crate) fn kill(&mut self, node: usize) {
        self.note(node, "is killed", [0, 0], String::new);
        self.machines[node].kill();
        self.gone(node, false);
    }

    fn gone(&mut self, node: usize, silently: bool) {
        self.network.reset(node);
        self.sockets_of_dead(node, silently);
        if !self.machines[node].starting {
            self.machines[node].starting = true;
            // A voter that is back before a lease has ended that it granted must not vote at once.
            let at_once = self.random.percent(30);
            let wait_us = self.random.around(if at_once { 300 * MILLISECOND } else { 5 * SECOND });
            self.plan(wait_us, Event::Start { node });
        }
    }
}

/// A value for a person to read, not too long.
pub(crate) fn brief(value: &impl std::fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    if text.len() > 160 {
        let end = (0..=160).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

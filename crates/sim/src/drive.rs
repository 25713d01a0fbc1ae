//! What clients do next: after an answer, after the end of a connection, when they have waited long enough.

use bytes::Bytes;
use wire_protocol::{Request, Response, Rows, RowsEnd, Value};

use crate::client::Stage;
use crate::history::{Ending, Operation, Transaction as Recorded};
use crate::marks::{Mark, Sight};
use crate::oracle::Violation;
use crate::scenario::{MILLISECOND, SECOND};
use crate::workload::{
    BANK, BANK_TOTAL, Effect, LEADERSHIP_LOST, LISTS, NOT_LEADER, Reading, Transaction, create, exec_sql,
    parse_list,
};
use crate::world::{Event, Phase, World};

/// How long a client waits for an answer.
const PATIENCE_US: u64 = 10 * SECOND;
/// What an interrupted request fails with.
const INTERRUPTED: u64 = 9;
/// Low byte of the codes of violated constraints.
const CONSTRAINT: u64 = 19;

impl World {
    /// A client goes on after this time, unless something happens before.
    pub(crate) fn wake_client(&mut self, client: usize, after_us: u64) {
        self.clients[client].alarm += 1;
        let alarm = self.clients[client].alarm;
        self.plan(after_us, Event::Alarm { client, alarm });
    }

    pub(crate) fn alarm(&mut self, client: usize, alarm: u64) {
        if self.clients[client].alarm != alarm || self.clients[client].retired {
            return;
        }
        if std::mem::take(&mut self.clients[client].dallies) {
            return self.send_step(client);
        }
        match self.clients[client].stage {
            Stage::Away => self.come_back(client),
            Stage::Thinking => self.begin(client),
            _ => {
                self.stats.count("client gave up waiting");
                self.leave(client, None);
            }
        }
    }

    fn come_back(&mut self, client: usize) {
        if self.clients[client].errands.is_some() && !self.has_errand(client) {
            return;
        }
        let nodes = self.machines.len();
        let node = self.clients[client].target.take().unwrap_or_else(|| self.random.index(nodes));
        let Some(socket) = self.connect(client, node) else {
            return self.go_away(client);
        };
        self.clients[client].connection = Some(socket);
        if self.clients[client].errands.is_some() {
            return self.run_errand(client);
        }
        self.clients[client].stage = Stage::Opening;
        let bank = self.scenario.workloads[self.random.index(self.scenario.workloads.len())].is_bank();
        self.clients[client].bank = bank;
        let name = Bytes::from_static(database(bank).as_bytes());
        self.ask(client, &Request::Open { name, flags: 0, vfs: Bytes::new() });
    }

    fn go_away(&mut self, client: usize) {
        self.clients[client].stage = Stage::Away;
        let wait_us = 50 * MILLISECOND + self.random.around(300 * MILLISECOND);
        self.wake_client(client, wait_us);
    }

    /// Sends a request and begins to wait.
    pub(crate) fn ask(&mut self, client: usize, request: &Request) {
        let Some(socket) = self.clients[client].connection else { return };
        self.send_request(socket, request);
        self.clients[client].rows = None;
        let patience_us = PATIENCE_US / 2 + self.random.below(PATIENCE_US);
        self.wake_client(client, patience_us);
        if self.is_hostile() && self.random.per_million(self.scenario.client_quits) {
            self.stats.count("client quits in a request");
            return self.leave(client, None);
        }
        // The answers to FINALIZE and to INTERRUPT look the same.
        let runs = matches!(self.clients[client].stage, Stage::Running(_))
            && !matches!(request, Request::Finalize { .. });
        if runs && self.is_hostile() && self.random.per_million(self.scenario.interrupts) {
            self.stats.count("interrupt");
            self.clients[client].interrupting = true;
            self.send_request(socket, &Request::Interrupt);
        }
    }

    fn begin(&mut self, client: usize) {
        if self.phase == Phase::Settling {
            return self.retire(client);
        }
        let bank = self.clients[client].bank;
        let candidates: Vec<_> =
            self.scenario.workloads.iter().copied().filter(|workload| workload.is_bank() == bank).collect();
        let workload = *self.random.pick(&candidates);
        let mut transaction = self.author.write(workload, &mut self.random);
        transaction.start_us = self.now_us;
        self.clients[client].stage = Stage::Running(Box::new(transaction));
        self.run_step(client);
    }

    pub(crate) fn retire(&mut self, client: usize) {
        self.clients[client].retired = true;
        if let Some(socket) = self.clients[client].connection.take() {
            self.close_by_client(socket);
        }
    }

    fn run_step(&mut self, client: usize) {
        if !self.dallies(client) {
            self.send_step(client);
        }
    }

    fn send_step(&mut self, client: usize) {
        let Stage::Running(transaction) = &self.clients[client].stage else { return };
        match transaction.request() {
            Some(request) => self.ask(client, &request),
            None => {
                let ending = transaction.ending(None);
                self.finished(client, ending);
            }
        }
    }

    /// An answer has come.
    pub(crate) fn answered(&mut self, client: usize, response: Response) -> Result<(), Violation> {
        if self.clients[client].retired {
            return Ok(());
        }
        let response = match response {
            Response::Rows(rows) => match self.gather(client, rows) {
                Some(rows) => Response::Rows(rows),
                None => return Ok(()),
            },
            other => other,
        };
        self.note_world("answer", [client as u64, u64::from(response.kind())], || {
            format!("to client {client}: {response:?}")
        });
        if self.clients[client].interrupting {
            return self.interrupted(client, response);
        }
        self.react(client, response)
    }

    /// An answer after INTERRUPT was sent: that to the request, if there is one, comes first.
    fn interrupted(&mut self, client: usize, response: Response) -> Result<(), Violation> {
        let last = matches!(response, Response::Empty);
        let state = &mut self.clients[client];
        if !last {
            state.deferred = Some(response);
            return Ok(());
        }
        state.interrupting = false;
        // Without an answer of its own a query was cut off before its end.
        let cut_off = Response::failure(INTERRUPTED, "interrupted");
        let deferred = state.deferred.take().unwrap_or(cut_off);
        self.react(client, deferred)
    }

    fn react(&mut self, client: usize, response: Response) -> Result<(), Violation> {
        match &self.clients[client].stage {
            Stage::Away | Stage::Thinking => self.leave(client, None),
            Stage::Opening => match response {
                Response::Database { .. } => self.create(client),
                Response::Failure { code: NOT_LEADER, .. } => self.look_for_leader(client),
                _ => self.leave(client, None),
            },
            Stage::Asking => {
                if let Response::Server { id, .. } = response {
                    let leader = self.machines.iter().position(|machine| machine.id == id);
                    self.clients[client].target = leader;
                }
                self.leave(client, None);
            }
            Stage::Creating | Stage::RollingBack => match response {
                Response::Result { .. } => self.think(client),
                _ => self.leave(client, None),
            },
            Stage::Running(_) => self.step_answered(client, &response)?,
            Stage::Administering => self.errand_answered(client, &response),
        }
        Ok(())
    }

    pub(crate) fn look_for_leader(&mut self, client: usize) {
        self.clients[client].stage = Stage::Asking;
        self.ask(client, &Request::Leader);
    }

    /// Puts the parts of an answer together.
    fn gather(&mut self, client: usize, part: Rows) -> Option<Rows> {
        let end = part.end;
        let gathered = &mut self.clients[client].rows;
        match gathered {
            None => *gathered = Some(part),
            Some(whole) => {
                self.stats.count("answer in several messages");
                whole.rows.extend(part.rows);
            }
        }
        if end == RowsEnd::Done { gathered.take() } else { None }
    }

    fn create(&mut self, client: usize) {
        self.clients[client].stage = Stage::Creating;
        let sql = create(database(self.clients[client].bank));
        self.ask(client, &exec_sql(&sql, &[]));
    }

    fn think(&mut self, client: usize) {
        self.clients[client].stage = Stage::Thinking;
        let wait_us = self.random.around(self.scenario.think_us);
        self.wake_client(client, wait_us);
    }

    fn step_answered(&mut self, client: usize, response: &Response) -> Result<(), Violation> {
        let Stage::Running(transaction) = &mut self.clients[client].stage else { return Ok(()) };
        match response {
            Response::Failure { code, message } => {
                let text = String::from_utf8_lossy(message).into_owned();
                return self.step_failed(client, *code, &text);
            }
            Response::Rows(rows) => {
                let reading = transaction.step().map_or(Reading::Nothing, |step| step.reading);
                read(transaction, reading, rows)?;
            }
            Response::Statement { statement, .. } => transaction.statement = Some(*statement),
            _ => {}
        }
        transaction.note_changes();
        transaction.next += 1;
        self.run_step(client);
        Ok(())
    }

    fn step_failed(&mut self, client: usize, code: u64, text: &str) -> Result<(), Violation> {
        self.stats.count(&format!("answer {code}"));
        let Stage::Running(transaction) = &mut self.clients[client].stage else { return Ok(()) };
        transaction.note_changes();
        if code & 0xff == CONSTRAINT {
            for (mark, _) in &transaction.marks {
                if matches!(mark, Mark::Unique(_)) {
                    self.marks.seen(*mark);
                }
            }
        }
        // What clients send is right, so these can only come from a state that never was.
        let impossible = ["malformed", "no such table", "no such column", "already exists", "corrupt"];
        if impossible.iter().any(|sign| text.contains(sign)) {
            let text = format!("client {client} was told {text:?} (code {code})");
            return Err(Violation::new("answers make sense", text));
        }
        let ending = transaction.ending(Some(code));
        let explicit = transaction.explicit;
        // Some keep their connection for a while, in case the leader comes back. Nothing must have begun on it.
        let begun = transaction.next > 0
            || (explicit && transaction.step().is_some_and(|step| step.effect == Effect::Commit));
        let patient = code == NOT_LEADER && !begun && client % 2 == 1 && self.is_hostile();
        let stays = patient && self.random.percent(90);
        if !stays && (code == NOT_LEADER || code == LEADERSHIP_LOST || self.random.percent(30)) {
            self.leave(client, Some(ending));
            return Ok(());
        }
        self.record(client, ending);
        if explicit && !stays {
            self.clients[client].stage = Stage::RollingBack;
            self.ask(client, &exec_sql("ROLLBACK", &[]));
        } else {
            self.think(client);
        }
        Ok(())
    }

    fn finished(&mut self, client: usize, ending: Ending) {
        self.record(client, ending);
        if ending == Ending::Committed {
            self.stats.committed += 1;
            self.clients[client].committed += 1;
        }
        self.think(client);
    }

    /// The connection is gone.
    pub(crate) fn hung_up(&mut self, client: usize) {
        self.clients[client].connection = None;
        self.leave(client, None);
    }

    /// A client gives its connection up, whatever it was doing.
    pub(crate) fn leave(&mut self, client: usize, ending: Option<Ending>) {
        if let Stage::Running(transaction) = &mut self.clients[client].stage {
            let ending = ending.unwrap_or_else(|| {
                transaction.note_changes();
                transaction.ending(None)
            });
            self.record(client, ending);
        }
        let state = &mut self.clients[client];
        state.interrupting = false;
        state.dallies = false;
        state.deferred = None;
        if let Some(socket) = state.connection.take() {
            self.close_by_client(socket);
        }
        if self.clients[client].retired || self.phase == Phase::Settling {
            return self.retire(client);
        }
        self.go_away(client);
    }

    /// Writes down what became of the transaction of a client.
    fn record(&mut self, client: usize, ending: Ending) {
        let stage = std::mem::replace(&mut self.clients[client].stage, Stage::Thinking);
        let Stage::Running(transaction) = stage else { return };
        let Transaction { operations, marks, start_us, apart, .. } = *transaction;
        for (mark, sight) in marks {
            let sight: Sight = sight;
            self.marks.ended(mark, sight, ending);
        }
        if operations.is_empty() {
            return;
        }
        let end_us = self.now_us;
        let recorded = |operations, ending| Recorded { start_us, end_us, ending, operations };
        let history = &mut self.history.transactions;
        if apart {
            history.extend(operations.into_iter().map(|read| recorded(vec![read], Ending::Committed)));
            return;
        }
        if ending == Ending::Refused {
            history.push(recorded(reads_of_others(&operations), Ending::Committed));
        }
        history.push(recorded(operations, ending));
    }
}

fn database(bank: bool) -> &'static str {
    if bank { BANK } else { LISTS }
}

/// What a refused transaction read was committed all the same, but for its own appends.
fn reads_of_others(operations: &[Operation]) -> Vec<Operation> {
    let own = |value: &u64| {
        operations
            .iter()
            .any(|operation| matches!(operation, Operation::Append { value: other, .. } if other == value))
    };
    let reads = operations.iter().filter_map(|operation| match operation {
        Operation::Read { key, values } => {
            let values = values.iter().copied().filter(|value| !own(value)).collect();
            Some(Operation::Read { key: *key, values })
        }
        Operation::Append { .. } => None,
    });
    reads.collect()
}

/// Notes what a step has read.
fn read(transaction: &mut Transaction, reading: Reading, rows: &Rows) -> Result<(), Violation> {
    match reading {
        Reading::Nothing => {}
        Reading::List(key) => {
            let values = rows.rows.first().and_then(|row| row.first()).map_or_else(Vec::new, parse_list);
            transaction.operations.push(Operation::Read { key, values });
        }
        Reading::Lists(first) => {
            let mut expected = first;
            for row in &rows.rows {
                let [Value::Integer(key), list, ..] = row.as_slice() else { continue };
                let key = u64::try_from(*key).unwrap_or(u64::MAX);
                if key < expected {
                    return Err(Violation::new(
                        "rows come in order",
                        format!("list {key} behind {expected}"),
                    ));
                }
                // Lists that are not there were empty at that moment.
                for missing in expected..key {
                    transaction.operations.push(Operation::Read { key: missing, values: Vec::new() });
                }
                transaction.operations.push(Operation::Read { key, values: parse_list(list) });
                expected = key + 1;
            }
        }
        Reading::Total => {
            let total = rows.rows.first().and_then(|row| row.first());
            if total != Some(&Value::Integer(BANK_TOTAL)) {
                let text = format!("all accounts together hold {total:?} instead of {BANK_TOTAL}");
                return Err(Violation::new("money is neither made nor lost", text));
            }
        }
    }
    Ok(())
}

//! What clients do next: after an answer, after the end of a connection, when they have waited long enough.

use bytes::Bytes;
use wire_protocol::{Request, Response, Rows, RowsEnd};

use crate::client::Stage;
use crate::history::{Ending, Operation, Transaction as Recorded};
use crate::oracle::Violation;
use crate::scenario::{MILLISECOND, SECOND};
use crate::workload::{CREATE_LISTS, LEADERSHIP_LOST, LISTS, NOT_LEADER, Transaction, exec_sql};
use crate::world::{Event, Phase, World};

/// How long a client waits for an answer.
const PATIENCE_US: u64 = 10 * SECOND;

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
        let nodes = self.machines.len();
        let node = self.clients[client].target.take().unwrap_or_else(|| self.random.index(nodes));
        let Some(socket) = self.connect(client, node) else {
            return self.go_away(client);
        };
        self.clients[client].connection = Some(socket);
        self.clients[client].stage = Stage::Opening;
        let name = Bytes::from_static(LISTS.as_bytes());
        self.ask(client, &Request::Open { name, flags: 0, vfs: Bytes::new() });
    }

    fn go_away(&mut self, client: usize) {
        self.clients[client].stage = Stage::Away;
        let wait_us = 50 * MILLISECOND + self.random.around(300 * MILLISECOND);
        self.wake_client(client, wait_us);
    }

    /// Sends a request and begins to wait.
    fn ask(&mut self, client: usize, request: &Request) {
        if let Some(socket) = self.clients[client].connection {
            self.send_request(socket, request);
        }
        self.clients[client].rows = None;
        let patience_us = PATIENCE_US / 2 + self.random.below(PATIENCE_US);
        self.wake_client(client, patience_us);
    }

    fn begin(&mut self, client: usize) {
        if self.phase == Phase::Settling {
            return self.retire(client);
        }
        let workload = *self.random.pick(&self.scenario.workloads);
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
        let Stage::Running(transaction) = &self.clients[client].stage else { return };
        let Some(step) = transaction.step() else { return self.finished(client, Ending::Committed) };
        let request = step.request.clone();
        self.ask(client, &request);
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
        match &self.clients[client].stage {
            Stage::Away | Stage::Thinking => self.leave(client, None),
            Stage::Opening => match response {
                Response::Database { .. } => self.create(client),
                Response::Failure { code: NOT_LEADER, .. } => {
                    self.clients[client].stage = Stage::Asking;
                    self.ask(client, &Request::Leader);
                }
                _ => self.leave(client, None),
            },
            Stage::Asking => {
                if let Response::Server { id, .. } = response {
                    let leader = self.machines.iter().position(|machine| machine.id == id);
                    self.clients[client].target = leader;
                }
                self.leave(client, None);
            }
            Stage::Creating => match response {
                Response::Result { .. } => self.think(client),
                _ => self.leave(client, None),
            },
            Stage::RollingBack => match response {
                Response::Result { .. } => self.think(client),
                _ => self.leave(client, None),
            },
            Stage::Running(_) => self.step_answered(client, &response),
        }
        Ok(())
    }

    /// Puts the parts of an answer together.
    fn gather(&mut self, client: usize, part: Rows) -> Option<Rows> {
        let end = part.end;
        let gathered = &mut self.clients[client].rows;
        match gathered {
            None => *gathered = Some(part),
            Some(whole) => whole.rows.extend(part.rows),
        }
        if end == RowsEnd::Done { gathered.take() } else { None }
    }

    fn create(&mut self, client: usize) {
        self.clients[client].stage = Stage::Creating;
        self.ask(client, &exec_sql(CREATE_LISTS, &[]));
    }

    fn think(&mut self, client: usize) {
        self.clients[client].stage = Stage::Thinking;
        let wait_us = self.random.around(self.scenario.think_us);
        self.wake_client(client, wait_us);
    }

    fn step_answered(&mut self, client: usize, response: &Response) {
        let Stage::Running(transaction) = &mut self.clients[client].stage else { return };
        match response {
            Response::Rows(rows) => transaction.succeeded(Some(rows)),
            Response::Result { .. } => transaction.succeeded(None),
            Response::Failure { code, .. } => {
                let code = *code;
                let broken = code == NOT_LEADER || code == LEADERSHIP_LOST;
                self.stats.count(&format!("answer {code}"));
                let explicit = transaction.explicit;
                transaction.note_append();
                let ending = transaction.ending(Some(code));
                if broken || self.random.percent(30) {
                    return self.leave(client, Some(ending));
                }
                self.record(client, ending);
                if !explicit {
                    return self.think(client);
                }
                self.clients[client].stage = Stage::RollingBack;
                return self.ask(client, &exec_sql("ROLLBACK", &[]));
            }
            _ => {}
        }
        self.run_step(client);
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
                transaction.note_append();
                transaction.ending(None)
            });
            self.record(client, ending);
        }
        if let Some(socket) = self.clients[client].connection.take() {
            self.close_by_client(socket);
        }
        if self.clients[client].retired || self.phase == Phase::Settling {
            return self.retire(client);
        }
        self.go_away(client);
    }

    /// Writes into the history what became of the transaction of a client.
    fn record(&mut self, client: usize, ending: Ending) {
        let stage = std::mem::replace(&mut self.clients[client].stage, Stage::Thinking);
        let Stage::Running(transaction) = stage else { return };
        let Transaction { operations, start_us, apart, .. } = *transaction;
        if operations.is_empty() {
            return;
        }
        let end_us = self.now_us;
        if apart {
            let ending = Ending::Committed;
            let single = |operation| Recorded { start_us, end_us, ending, operations: vec![operation] };
            self.history.transactions.extend(operations.into_iter().map(single));
            return;
        }
        if ending == Ending::Refused {
            // What it read was committed all the same, but for its own appends.
            let own: Vec<u64> = operations
                .iter()
                .filter_map(|operation| match operation {
                    Operation::Append { value, .. } => Some(*value),
                    Operation::Read { .. } => None,
                })
                .collect();
            let reads = operations
                .iter()
                .filter_map(|operation| match operation {
                    Operation::Read { key, values } => {
                        let values = values.iter().copied().filter(|value| !own.contains(value)).collect();
                        Some(Operation::Read { key: *key, values })
                    }
                    Operation::Append { .. } => None,
                })
                .collect();
            let ending = Ending::Committed;
            self.history.transactions.push(Recorded { start_us, end_us, ending, operations: reads });
        }
        self.history.transactions.push(Recorded { start_us, end_us, ending, operations });
    }
}

//! Keeps `node-store` up to date while the server runs. It changes nothing else.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use wire_protocol::Server;

use super::files;
use super::join::Seeker;
use crate::connector::Connect;
use crate::dialer;
use crate::threads;

/// How often the members are looked up.
const INTERVAL: Duration = Duration::from_secs(30);
/// Longest wait for one exchange with another server. A stop may have to wait for as long.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread.
pub(super) struct Refresher {
    shared: Arc<Shared>,
    connect: Arc<dyn Connect>,
    /// Is disconnected when the thread is at its end.
    ended: Receiver<Never>,
    thread: JoinHandle<()>,
}

/// Is never sent.
enum Never {}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    stopping: bool,
    members: Vec<Server>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refresher {
    pub(super) fn start(path: PathBuf, seeker: Seeker, members: Vec<Server>) -> io::Result<Self> {
        let state = Mutex::new(State { stopping: false, members });
        let shared = Arc::new(Shared { state, woken: Condvar::new() });
        let connect = Arc::clone(&seeker.connect);
        let running = Arc::clone(&shared);
        let (alive, ended) = crossbeam_channel::bounded(0);
        let thread = threads::spawn("dqlite-refresh", move || {
            run(&path, seeker, &running);
            drop(alive);
        })?;
        Ok(Self { shared, connect, ended, thread })
    }

    pub(super) fn members(&self) -> Vec<Server> {
        self.shared.lock().members.clone()
    }

    /// Ends the thread. A connect function of the host that blocks is waited for as long as the node waits for those it has
    /// called itself; then the thread is left behind, and touches the directory no more.
    pub(super) fn stop(self) {
        self.shared.lock().stopping = true;
        self.shared.woken.notify_all();
        self.connect.cancel();
        if self.ended.recv_timeout(dialer::PATIENCE).is_err_and(|error| error.is_timeout()) {
            tracing::warn!("a connect function of the host goes on behind the stop of its server");
        } else if self.thread.join().is_err() {
            tracing::error!("the thread that refreshes the node store panicked");
        }
    }
}

fn run(path: &std::path::Path, seeker: Seeker, shared: &Shared) {
    loop {
        let state = shared.lock();
        // The flag is looked at before the wait, so no wake-up is lost.
        let waited = shared.woken.wait_timeout_while(state, INTERVAL, |state| !state.stopping);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            return;
        }
        let known = state.members.clone();
        drop(state);
        let goes_on = || !shared.lock().stopping;
        let Some(members) = seeker.look_up_members(&known, EXCHANGE_TIMEOUT, goes_on) else { continue };
        if members == known || members.is_empty() {
            continue;
        }
        // Held meanwhile: behind a stop the directory may be another server's.
        let mut state = shared.lock();
        if state.stopping {
            return;
        }
        if let Err(error) = files::write_node_store(path, &members) {
            tracing::warn!(%error, "the members of the cluster are not remembered");
        }
        state.members = members;
    }
}

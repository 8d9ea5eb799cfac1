//! Making commits durable: while one is on its way to the disk, the next is decided.
//!
//! SQLite writes a commit into its log without waiting for the disk. A thread of its own has the
//! log flushed (`fdatasync`), and only then lets readers see the commit and answers its callers.
//! The writer goes on meanwhile, on top of what that commit has changed ([`Carried`]). One commit
//! is on its way at most: the slower the disk, the more goes into the next.
//!
//! What the disk refused to flush may be lost though the system shows it, and a second try would
//! not say so. After one refusal nothing is taken on any more until the store is opened again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use trueup_core::{Org, Sku, book::Entries};

use super::behind::Keys;
use super::writer::{AfterCommit, Replies, Shared};
use crate::port::{Change, StoreError};

/// What one commit has changed of an org.
#[derive(Debug, Default)]
pub(super) struct CarriedOrg {
    pub(super) entries: Entries,
    /// The newest lines of SKUs that got some.
    pub(super) lines: FxHashMap<Sku, i64>,
}

/// What the newest commit has changed, which memory may not have yet.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) orgs: FxHashMap<Org, CarriedOrg>,
    /// Digests and numbers of recorded answers.
    pub(super) answers: Vec<(i64, i64)>,
}

/// A commit that SQLite has and the disk may not have.
pub(super) struct Commit {
    pub(super) number: u64,
    pub(super) carried: Arc<Carried>,
    /// What is found by digests from now on.
    pub(super) found: Option<Keys>,
    /// SKUs that channels are to be told of.
    pub(super) dirty: Vec<(Org, Sku)>,
    pub(super) changes: Vec<Change>,
    pub(super) oversold: u64,
    pub(super) answers: Answers,
}

/// Whoever waits for a commit.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) outcomes: Replies,
    pub(super) after: Vec<AfterCommit>,
    pub(super) waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Answers {
    /// Tells everybody that nothing came of it.
    pub(super) fn refuse(self, refusal: &StoreError) {
        // Whoever has stopped listening needs no answer.
        for (reply, _) in self.outcomes {
            drop(reply.send(Err(refusal.clone())));
        }
        for after in self.after {
            after(Err(refusal.clone()));
        }
        for reply in self.waiting {
            drop(reply.send(Err(refusal.clone())));
        }
    }
}

/// The writer's end.
pub(super) struct Syncer {
    shared: Arc<Shared>,
    commits: SyncSender<Commit>,
    done: Receiver<()>,
    is_out: bool,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread; `file` is the store's file.
    pub(super) fn start(shared: Arc<Shared>, file: &Path) -> std::io::Result<Self> {
        let (commits, received) = sync_channel(1);
        let (finished, done) = sync_channel(1);
        let mut log = file.as_os_str().to_owned();
        log.push("-wal");
        let mut disk = Disk { log: PathBuf::from(log), open: None };
        let kept = shared.clone();
        let thread =
            std::thread::Builder::new().name("ledger-syncer".to_owned()).spawn(move || {
                while let Ok(commit) = received.recv() {
                    make_durable(&shared, &mut disk, commit);
                    if finished.send(()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { shared: kept, commits, done, is_out: false, thread: Some(thread) })
    }

    /// Returns whether a commit is still on its way.
    pub(super) fn is_one_out(&mut self) -> bool {
        if self.is_out {
            match self.done.try_recv() {
                Ok(()) => self.is_out = false,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    self.lose();
                    self.is_out = false;
                }
            }
        }
        self.is_out
    }

    /// Waits until the commit that is on its way has become durable or was refused.
    pub(super) fn wait(&mut self) {
        if self.is_out {
            if self.done.recv().is_err() {
                self.lose();
            }
            self.is_out = false;
        }
    }

    /// Sends a commit on its way, once the one before it has arrived.
    pub(super) fn send(&mut self, commit: Commit) {
        self.wait();
        match self.commits.send(commit) {
            Ok(()) => self.is_out = true,
            Err(unsent) => {
                self.lose();
                unsent.0.answers.refuse(&self.shared.refusal());
            }
        }
    }

    /// Without its thread nothing becomes durable any more, and nobody may wait for it.
    fn lose(&self) {
        self.shared.lose("the thread that makes commits durable is gone".to_owned());
        self.shared.durable.send_replace(u64::MAX);
    }

    /// Ends the thread, once it has nothing left.
    pub(super) fn stop(mut self) {
        self.wait();
        drop(self.commits);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// SQLite's log as this thread sees it.
struct Disk {
    log: PathBuf,
    open: Option<File>,
}

impl Disk {
    /// Has everything that was written to the log flushed.
    fn flush(&mut self) -> std::io::Result<()> {
        if let Some(file) = &self.open {
            return file.sync_data();
        }
        // From here on it stays, for as long as the store is open; so must its name.
        let file = File::open(&self.log)?;
        file.sync_all()?;
        if let Some(dir) = self.log.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.open = Some(file);
        Ok(())
    }
}

fn make_durable(shared: &Shared, disk: &mut Disk, commit: Commit) {
    let number = commit.number;
    if !shared.is_lost() {
        match disk.flush() {
            Ok(()) => shared.publish(commit),
            Err(error) => {
                let why = format!("the disk refused to flush the log: {error}; start it again");
                shared.lose(why);
                commit.answers.refuse(&shared.refusal());
            }
        }
    } else {
        commit.answers.refuse(&shared.refusal());
    }
    shared.durable.send_replace(number);
}

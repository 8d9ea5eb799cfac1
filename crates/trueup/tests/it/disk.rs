//! The disk beneath the embedded store refuses, is full, cannot be written, or loses its power.
//!
//! Faults come from `disk.c`, a library of ours that is compiled when the tests run and is loaded
//! beneath the server. Where there is no C compiler the tests print `SKIPPED` and pass, or fail with
//! `TRUEUP_REQUIRE_CC` set.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::load::Load;
use crate::process::{Client, Server, run, token};

const DATABASE: u32 = 1;
const LOG: u32 = 2;

const WRITE: u32 = 1;
const SYNC: u32 = 2;
const TRUNCATE: u32 = 4;
const TORN: u32 = 8;
const LIE: u32 = 16;

const EIO: u32 = 5;
const ENOSPC: u32 = 28;

#[allow(clippy::print_stdout, reason = "whoever runs the tests should know")]
fn say(words: &str) {
    println!("{words}");
}

/// Returns the library, once it was compiled.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let made = LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/disk.c");
        let made = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .status();
        match made {
            Ok(status) => {
                assert!(status.success(), "disk.c is compiled");
                Some((dir, library))
            }
            Err(error) => {
                let is_required = std::env::var_os("TRUEUP_REQUIRE_CC").is_some();
                assert!(!is_required, "there is no C compiler: {error}");
                say(&format!("SKIPPED: there is no C compiler: {error}"));
                None
            }
        }
    });
    made.as_ref().map(|(_, library)| library.as_path())
}

/// A directory on a disk whose faults are the test's to choose.
struct Disk {
    library: &'static Path,
    dir: TempDir,
    control: File,
}

impl Disk {
    fn new() -> Option<Self> {
        let library = library()?;
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let control =
            OpenOptions::new().create_new(true).read(true).write(true).open(control).unwrap();
        control.set_len(4_096).unwrap();
        Some(Self { library, dir, control })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Starts a server on it; every write is noted from here on.
    fn start(&self) -> Server {
        drop(fs::remove_file(self.journal()));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (data, library) = (text(&self.data()), text(self.library));
        let (control, journal) = (text(&self.dir.path().join("control")), text(&self.journal()));
        let environment = [
            ("LD_PRELOAD", library.as_str()),
            ("TRUEUP_DISK_CONTROL", &control),
            ("TRUEUP_DISK_JOURNAL", &journal),
        ];
        Server::start_with(&["--data-dir", &data], &environment)
    }

    /// Lets calls on files fail, after so many that do not.
    fn fail(&self, files: u32, calls: u32, error: u32, after: u32) {
        let words = [files, calls, error, after, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.control.write_all_at(&bytes, 0).unwrap();
    }

    fn mend(&self) {
        self.control.write_all_at(&[0; 16], 0).unwrap();
    }

    /// Returns how many calls have failed.
    fn hits(&self) -> u32 {
        let mut word = [0; 4];
        self.control.read_exact_at(&mut word, 16).unwrap();
        u32::from_ne_bytes(word)
    }

    /// Leaves of the files what a disk may have after a power cut: what was flushed, and of what was
    /// not the sectors that are kept.
    fn cut(&self, mut keeps: impl FnMut() -> bool) {
        let notes = notes(&fs::read(self.journal()).unwrap());
        for (file, name) in [(DATABASE, "trueup.db"), (LOG, "trueup.db-wal")] {
            let path = self.data().join(name);
            let Ok(now) = fs::read(&path) else { continue };
            fs::write(&path, after_cut(now, file, &notes, &mut keeps)).unwrap();
        }
        drop(fs::remove_file(self.data().join("trueup.db-shm")));
    }

    fn verify(&self) {
        let verified =
            run(&["verify", "--data-dir", self.data().to_str().unwrap(), "--org", "acme"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// What the journal says.
#[derive(Debug)]
enum Note {
    Write { offset: usize, size_before: usize, before: Vec<u8>, bytes: Vec<u8> },
    Truncate { size: usize, size_before: usize, before: Vec<u8> },
    Flushed { upto: usize },
    Lost { upto: usize },
}

/// Reads a journal: where each note begins, which file it is about, and what it says.
fn notes(journal: &[u8]) -> Vec<(usize, u32, Note)> {
    const HEAD: usize = 40;
    let mut notes = Vec::new();
    let mut at = 0;
    while let Some(head) = journal.get(at..at + HEAD) {
        let half = |from: usize| u32::from_ne_bytes(head[from..from + 4].try_into().unwrap());
        let word = |from: usize| {
            let word = u64::from_ne_bytes(head[from..from + 8].try_into().unwrap());
            usize::try_from(word).unwrap()
        };
        let (offset, length, size_before, had) = (word(8), word(16), word(24), word(32));
        let before = at + HEAD;
        let (bytes, end) = (before + had, before + had + length);
        // The last one may be cut off, by a kill: its write was not made.
        if journal.len() < end {
            break;
        }
        let before = journal[before..bytes].to_vec();
        let note = match half(0) {
            1 => Note::Write { offset, size_before, before, bytes: journal[bytes..end].to_vec() },
            2 => Note::Truncate { size: offset, size_before, before },
            3 => Note::Flushed { upto: offset },
            _ => Note::Lost { upto: offset },
        };
        notes.push((at, half(4), note));
        at = end;
    }
    notes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Durable,
    Lost,
}

fn after_cut(
    mut content: Vec<u8>,
    file: u32,
    notes: &[(usize, u32, Note)],
    keeps: &mut impl FnMut() -> bool,
) -> Vec<u8> {
    let of_file: Vec<(usize, &Note)> =
        notes.iter().filter(|note| note.1 == file).map(|(at, _, note)| (*at, note)).collect();
    let mut changes: Vec<(usize, &Note, State)> = Vec::new();
    for (at, note) in of_file {
        let (upto, becomes) = match note {
            Note::Write { .. } | Note::Truncate { .. } => {
                changes.push((at, note, State::Pending));
                continue;
            }
            Note::Flushed { upto } => (*upto, State::Durable),
            Note::Lost { upto } => (*upto, State::Lost),
        };
        let pending =
            changes.iter_mut().filter(|(at, _, state)| *at < upto && *state == State::Pending);
        pending.for_each(|(_, _, state)| *state = becomes);
    }
    for (_, note, _) in changes.iter().rev() {
        match note {
            Note::Write { offset, size_before, before, .. } => {
                // A write that a kill kept from being made leaves nothing to take back.
                let end = (offset + before.len()).min(content.len());
                let length = end.saturating_sub(*offset);
                content[*offset..*offset + length].copy_from_slice(&before[..length]);
                content.truncate(*size_before);
            }
            Note::Truncate { size, size_before, before } => {
                content.truncate(*size);
                content.extend_from_slice(before);
                content.resize(*size_before, 0);
            }
            Note::Flushed { .. } | Note::Lost { .. } => {}
        }
    }
    for (_, note, state) in changes {
        match note {
            Note::Write { offset, bytes, .. } => {
                for (number, sector) in bytes.chunks(512).enumerate() {
                    if state == State::Durable || (state == State::Pending && keeps()) {
                        let from = offset + number * 512;
                        content.resize(content.len().max(from + sector.len()), 0);
                        content[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            Note::Truncate { size, .. } => {
                if state == State::Durable || (state == State::Pending && keeps()) {
                    content.resize(*size, 0);
                }
            }
            Note::Flushed { .. } | Note::Lost { .. } => {}
        }
    }
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_refuses_is_not_acknowledged_and_no_number_is_wrong() {
    let Some(disk) = Disk::new() else { return };
    let token = token("acme");
    let mut load = Load::new(8);
    for (number, (files, calls, error)) in [
        (LOG, WRITE, ENOSPC),
        (LOG, WRITE, EIO),
        (LOG, WRITE | TORN, EIO),
        (LOG, WRITE | TORN, ENOSPC),
        (LOG, SYNC, EIO),
        (LOG, SYNC, ENOSPC),
        (LOG | DATABASE, SYNC | TRUNCATE, EIO),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("case {number}");
        let server = disk.start();
        let client = Client::new(&server.url, &token);
        if number == 0 {
            load.stock(&client).await;
        }
        assert_eq!(load.ask_again(&client).await, 0, "{case}");
        assert_eq!(load.compare(&client, true).await, [""; 0], "{case}");
        let mut working = load.begin(&client);
        let enough = load.memory.lock().acknowledged() + 100;
        working.until(enough).await;
        disk.fail(files, calls, error, 20);
        load.end(working).await;
        assert!(disk.hits() > 0, "{case}: nothing failed");
        assert!(!client.is_ready().await, "{case}: it says that it does not acknowledge");
        assert_eq!(load.compare_numbers(&client).await, [""; 0], "{case}: while it fails");
        assert!(load.ask_again(&client).await > 0, "{case}: nothing is acknowledged");
        disk.mend();
        if calls & SYNC == 0 {
            // Nothing is lost: it goes on by itself.
            assert_eq!(load.ask_again(&client).await, 0, "{case}: mended");
            assert!(client.is_ready().await, "{case}: mended");
            assert_eq!(load.compare(&client, true).await, [""; 0], "{case}: mended");
            let mut working = load.begin(&client);
            let enough = load.memory.lock().acknowledged() + 50;
            working.until(enough).await;
            server.kill();
            load.end(working).await;
        } else {
            // What the disk has is not known until the next start.
            let waiting = load.ask_again(&client).await;
            assert!(waiting > 0, "{case}: a flush that failed is final");
            server.kill();
        }
        disk.cut(|| false);
    }
    let server = disk.start();
    let client = Client::new(&server.url, &token);
    assert_eq!(load.ask_again(&client).await, 0);
    assert_eq!(load.compare(&client, true).await, [""; 0]);
    // It stops all the same where its log cannot be moved into the file; nothing is lost.
    disk.fail(DATABASE, WRITE, ENOSPC, 3);
    assert!(!server.terminate(), "it says that it could not stop in order");
    assert!(disk.hits() > 0);
    disk.mend();
    disk.cut(|| false);
    let server = disk.start();
    let client = Client::new(&server.url, &token);
    assert_eq!(load.compare(&client, true).await, [""; 0]);
    assert!(server.terminate());
    disk.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    const CUTS: u64 = 12;
    let Some(disk) = Disk::new() else { return };
    let token = token("acme");
    let mut load = Load::new(8);
    for cut in 0..=CUTS {
        let server = disk.start();
        let client = Client::new(&server.url, &token);
        if cut == 0 {
            load.stock(&client).await;
        }
        assert_eq!(load.ask_again(&client).await, 0, "cut {cut}");
        assert_eq!(load.compare(&client, true).await, [""; 0], "cut {cut}");
        if cut == CUTS {
            assert!(server.terminate());
            break;
        }
        let mut working = load.begin(&client);
        let enough = load.memory.lock().acknowledged() + 40 + cut * 13;
        working.until(enough).await;
        if cut % 4 == 3 {
            // While it stops, its log is moved into the file.
            server.signal("TERM");
            load.end(working).await;
            server.kill();
        } else {
            server.kill();
            load.end(working).await;
        }
        // Of what was not flushed nothing, everything or any sector is there.
        let mut chance = StdRng::seed_from_u64(cut);
        let share = [0.0, 0.5, 1.0, 0.9][usize::try_from(cut % 4).unwrap()];
        disk.cut(|| chance.random_bool(share));
    }
    disk.verify();
}

/// Without flushes there must be something to be found, or the test before would show nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_lies_about_flushes_is_found_out() {
    let Some(disk) = Disk::new() else { return };
    let token = token("acme");
    let mut load = Load::new(4);
    let server = disk.start();
    load.stock(&Client::new(&server.url, &token)).await;
    assert!(server.terminate());
    disk.fail(LOG | DATABASE, LIE, 0, 0);
    let server = disk.start();
    let mut working = load.begin(&Client::new(&server.url, &token));
    working.until(100).await;
    server.kill();
    load.end(working).await;
    assert!(disk.hits() > 0);
    disk.mend();
    disk.cut(|| false);
    let server = disk.start();
    let client = Client::new(&server.url, &token);
    assert!(load.compare(&client, true).await.len() > 10, "what was acknowledged is gone");
    assert!(server.terminate());
}

/// Where the log cannot be flushed into the file, what was moved of it may be lost with the power:
/// the log must stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_the_file_that_fails_keeps_the_log() {
    const SKUS: usize = 5_000;
    const CALLERS: usize = 4;
    const ROUNDS_MAX: u64 = 80;
    let Some(disk) = Disk::new() else { return };
    let token = token("acme");
    let server = disk.start();
    let client = Client::new(&server.url, &token);
    // Several at once, so that the log grows while it is moved.
    let call = |caller: usize| {
        let client = client.clone();
        async move {
            let mut told = 0;
            for round in 1..=ROUNDS_MAX {
                let name = |n: usize| format!("SKU-{caller}-{n}");
                let items: Vec<Value> =
                    (0..SKUS).map(|n| json!({ "sku": name(n), "quantity": round })).collect();
                let body = Some(json!({ "items": items }));
                match client.call("PUT", "/inventory/bulk/update", body).await {
                    Some((200, answer)) => assert_eq!(answer["failed"], 0, "{answer}"),
                    Some((503, _)) => break,
                    other => panic!("{other:?}"),
                }
                told = round;
            }
            told
        }
    };
    disk.fail(DATABASE, SYNC, EIO, 0);
    let callers: Vec<_> = (0..CALLERS).map(|caller| tokio::spawn(call(caller))).collect();
    let mut told = Vec::new();
    for caller in callers {
        told.push(caller.await.unwrap());
    }
    assert!(disk.hits() > 0, "the log was not moved");
    assert!(!client.is_ready().await, "a flush that failed is final");
    // Mended, as it seems: the system has forgotten what it could not write.
    disk.mend();
    assert!(!server.terminate());
    disk.cut(|| false);
    let server = disk.start();
    let client = Client::new(&server.url, &token);
    for (caller, told) in told.into_iter().enumerate() {
        for n in [0, 1, SKUS / 2, SKUS - 1] {
            let path = format!("/inventory/SKU-{caller}-{n}");
            let found = client.must("GET", &path, None).await;
            let quantity = found["quantity"].as_u64().unwrap();
            assert!(quantity >= told, "{path}: {quantity}, {told} was told");
        }
    }
    assert!(server.terminate());
    disk.verify();
}

/// A small file system in memory, where the system lets us mount one.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"], dir.path());
        if !mounted {
            say("SKIPPED: no file system can be mounted here");
        }
        mounted.then_some(Self(dir))
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], self.0.path()), "{how}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.0.path()).status());
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(args).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_until_there_is_room_and_a_read_only_one_is_named() {
    let Some(small) = Small::mount() else { return };
    let at = |name: &str| small.0.path().join(name);
    let token = token("acme");
    let mut load = Load::new(8);
    let server = Server::start(&at("data"));
    let client = Client::new(&server.url, &token);
    load.stock(&client).await;
    let mut working = load.begin(&client);
    working.until(100).await;
    // Everything that is left.
    let ballast = File::create(at("ballast")).unwrap();
    for piece in 0..8_192 {
        let Err(error) = ballast.write_all_at(&[7; 4_096], piece * 4_096) else { continue };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        break;
    }
    load.end(working).await;
    assert!(!client.is_ready().await);
    assert_eq!(load.compare_numbers(&client).await, [""; 0]);
    ballast.set_len(0).unwrap();
    drop(ballast);
    assert_eq!(load.ask_again(&client).await, 0, "there is room again");
    assert!(client.is_ready().await);
    assert_eq!(load.compare(&client, true).await, [""; 0]);
    server.kill();
    let data = at("data");
    let data = data.to_str().unwrap();
    small.remount("ro");
    let refused = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("Read-only file system"), "{said}");
    small.remount("rw");
    let server = Server::start(&at("data"));
    let client = Client::new(&server.url, &token);
    assert_eq!(load.compare(&client, true).await, [""; 0]);
    assert!(server.terminate());
}

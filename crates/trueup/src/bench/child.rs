//! The processes that are measured, and the directory that they work in. Both end with us.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::BenchError;

/// How long a process may take until it listens.
const START_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long a killed process may take to be gone.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a process that was asked to end in order may take.
const ORDERLY_WAIT_MAX: Duration = Duration::from_secs(120);
/// How much of what a process says is kept.
const TALK_BYTES_MAX: usize = 8 * 1024;
/// What a process says before its address.
const LISTENING: &str = "listening on http://";

/// A process of this same program that serves HTTP on loopback; killed when dropped.
pub(super) struct Served {
    pub(super) addr: SocketAddr,
    process: tokio::process::Child,
    reading: JoinHandle<Talk>,
}

impl Served {
    /// Starts this program with these arguments and nothing else in its environment, so that
    /// settings of the caller do not change what is measured.
    pub(super) async fn start(
        name: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        dir: &Path,
    ) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Spawn { name, source };
        let mut process = Command::new(std::env::current_exe().map_err(failed)?)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stderr = process.stderr.take().expect("stderr is piped just above");
        let mut talk = Talk { from: stderr, said: Vec::new() };
        let addr = timeout(START_WAIT_MAX, talk.until_listening()).await.ok().flatten();
        let Some(addr) = addr.filter(|addr| addr.ip().is_loopback()) else {
            return Err(BenchError::NotListening { name, said: talk.words() });
        };
        Ok(Self { addr, process, reading: tokio::spawn(talk.until_closed()) })
    }

    /// Returns the resident memory of the process, in MiB.
    pub(super) fn memory(&self) -> Result<f64, BenchError> {
        self.status("VmRSS:")
    }

    /// Returns the largest resident memory since it was last forgotten, in MiB.
    pub(super) fn peak_memory(&self) -> Result<f64, BenchError> {
        self.status("VmHWM:")
    }

    /// Lets the peak of resident memory begin anew (proc(5), `clear_refs`).
    pub(super) fn forget_peak(&self) -> Result<(), BenchError> {
        let path = self.proc_file("clear_refs")?;
        fs::write(&path, "5").map_err(|source| BenchError::Memory { path, source })
    }

    fn status(&self, name: &str) -> Result<f64, BenchError> {
        let path = self.proc_file("status")?;
        let text = fs::read_to_string(&path);
        let text = text.map_err(|source| BenchError::Memory { path: path.clone(), source })?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        let missing = || io::Error::other("the line is missing");
        let kib = kib.ok_or_else(|| BenchError::Memory { path, source: missing() })?;
        Ok(kib / 1_024.0)
    }

    fn proc_file(&self, name: &str) -> Result<PathBuf, BenchError> {
        let gone = || BenchError::Late("the server is gone");
        let id = self.process.id().ok_or_else(gone)?;
        Ok(PathBuf::from(format!("/proc/{id}/{name}")))
    }

    /// Kills the process, waits until it is gone, and returns the last that it said.
    pub(super) async fn stop(mut self) -> String {
        // An error means that it is gone already.
        drop(timeout(END_WAIT_MAX, self.process.kill()).await);
        match timeout(END_WAIT_MAX, &mut self.reading).await {
            Ok(Ok(talk)) => talk.words(),
            Ok(Err(_)) | Err(_) => String::new(),
        }
    }

    /// Asks the process to end in order, and waits until it has.
    pub(super) async fn terminate(mut self) -> Result<(), BenchError> {
        let gone = || BenchError::Late("the server is gone");
        let id = self.process.id().ok_or_else(gone)?.to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await;
        asked.map_err(|source| BenchError::Spawn { name: "kill", source })?;
        let ended = timeout(ORDERLY_WAIT_MAX, self.process.wait()).await;
        if matches!(ended, Ok(Ok(status)) if status.success()) {
            return Ok(());
        }
        let how = ended.map_or_else(|_| "not in time".to_owned(), how);
        Err(BenchError::NotEnded { how, said: self.stop().await })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn how(ended: io::Result<ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// What a process says on stderr. It is read to the end, or the process would block.
struct Talk {
    from: ChildStderr,
    said: Vec<u8>,
}

impl Talk {
    async fn until_listening(&mut self) -> Option<SocketAddr> {
        while self.read_some().await {
            let addr = listening_on(&self.words());
            if addr.is_some() {
                return addr;
            }
        }
        None
    }

    async fn until_closed(mut self) -> Self {
        while self.read_some().await {}
        self
    }

    /// Reads what there is and keeps the last of it; false at the end.
    async fn read_some(&mut self) -> bool {
        let mut chunk = [0; 1024];
        let count = self.from.read(&mut chunk).await.unwrap_or(0);
        self.said.extend_from_slice(&chunk[..count]);
        let surplus = self.said.len().saturating_sub(TALK_BYTES_MAX);
        self.said.drain(..surplus);
        count > 0
    }

    fn words(&self) -> String {
        String::from_utf8_lossy(&self.said).trim_end_matches(' ').to_owned()
    }
}

/// Finds the address in what a process says; its line must be whole, or a digit may be missing.
fn listening_on(said: &str) -> Option<SocketAddr> {
    let (_, rest) = said.split_once(LISTENING)?;
    let (line, _) = rest.split_once('\n')?;
    let end = line.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f' | '.' | ':' | '[' | ']'));
    line[..end.unwrap_or(line.len())].parse().ok()
}

/// A directory of our own that is removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh directory under another.
    pub(super) fn make(under: &Path) -> io::Result<Self> {
        let path = under.join(format!("trueup-bench-{}", uuid::Uuid::new_v4().simple()));
        DirBuilder::new().mode(0o700).create(&path)?;
        // A process with another working directory must find it too.
        Ok(Self(fs::canonicalize(path)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            crate::cli::say::say(format_args!("remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_once_its_line_is_whole() {
        let check = |said: &str, expected: Option<&str>| {
            assert_eq!(listening_on(said), expected.map(|addr| addr.parse().unwrap()), "{said:?}");
        };
        check("listening on http://127.0.0.1:80", None);
        check("listening on http://127.0.0.1:8080\n", Some("127.0.0.1:8080"));
        check("12:00 INFO \u{1b}[2mlistening on http://[::1]:9\u{1b}[0m\nready\n", Some("[::1]:9"));
        check("listening on http://127.0.0.1:8080/ (org demo)\r\n", Some("127.0.0.1:8080"));
        check("listening on http://nowhere\n", None);
        check("error: the directory is in use\n", None);
    }

    #[test]
    fn a_scratch_directory_goes_with_its_owner() {
        let scratch = Scratch::make(&std::env::temp_dir()).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}

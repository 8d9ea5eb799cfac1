//! A PostgreSQL of the run's own: for `--vs postgres`, the same reservation asked by PostgreSQL's
//! load generator, pgbench; and for `--store postgres`, the servers' data.
//!
//! The cluster is made for the run in a temporary directory, listens on a socket in it and is gone
//! with it. It is as durable as it comes; nothing is asked of it that it does not need: SKUs are
//! numbers, orders have no index, and there is no HTTP, no token and no JSON.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::child::Scratch;
use super::load::{Load, latencies, note};
use super::report::{Figures, median};
use super::{BenchError, STOCK, excerpt, scratch_under};

/// What is needed of PostgreSQL.
const TOOLS: [&str; 5] = ["initdb", "pg_ctl", "postgres", "psql", "pgbench"];
/// Where distributions put them, in a directory for each version.
const VERSIONED: [&str; 2] = ["/usr/lib/postgresql", "/usr/local/pgsql"];
/// Who may run the server where we are root, which it refuses to run as.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// The superuser of the cluster, its first database, and what the tools connect to.
const NAME: &str = "postgres";
/// Connections beside pgbench's own and those of servers.
const SPARE_CONNECTIONS: u32 = 16;
/// The most connections of a server: its pool, its leases, and what it listens on.
const SERVER_CONNECTIONS: u32 = 40;
/// The database of the servers.
const SERVED: &str = "trueup";
/// How long one of the tools may take, beside the time that it is told to.
const TOOL_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long the server may take to start or stop, in seconds, as its tools are told.
const SERVER_WAIT_SECONDS: &str = "60";

const TABLES: &str = "
CREATE TABLE level (
  sku bigint PRIMARY KEY,
  on_hand bigint NOT NULL,
  reserved bigint NOT NULL,
  CHECK (reserved <= on_hand)
) WITH (fillfactor = 50);
CREATE TABLE reservation (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sku bigint NOT NULL,
  quantity bigint NOT NULL,
  status text NOT NULL DEFAULT 'active',
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day'
);
CREATE TABLE movement (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sku bigint NOT NULL,
  kind text NOT NULL,
  delta bigint NOT NULL,
  reserved_after bigint NOT NULL,
  reservation bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
";

const TRANSACTION: &str = "
BEGIN;
UPDATE level SET reserved = reserved + 1
WHERE sku = :sku AND on_hand - reserved >= 1
RETURNING reserved AS after \\gset
INSERT INTO reservation (sku, quantity) VALUES (:sku, 1) RETURNING id AS held \\gset
INSERT INTO movement (sku, kind, delta, reserved_after, reservation)
VALUES (:sku, 'reserve', 1, :after, :held);
COMMIT;
";

const STATEMENT: &str = "
WITH taken AS (
  UPDATE level SET reserved = reserved + 1
  WHERE sku = :sku AND on_hand - reserved >= 1
  RETURNING sku, reserved
), held AS (
  INSERT INTO reservation (sku, quantity) SELECT sku, 1 FROM taken RETURNING id, sku
)
INSERT INTO movement (sku, kind, delta, reserved_after, reservation)
SELECT sku, 'reserve', 1, taken.reserved, held.id FROM taken JOIN held USING (sku);
";

/// How a reservation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A transaction of three statements.
    Transaction,
    /// One statement, the best that pgbench can ask for.
    Statement,
}

impl Form {
    const ALL: [Self; 2] = [Self::Transaction, Self::Statement];

    fn script(self) -> &'static str {
        match self {
            Self::Transaction => TRANSACTION,
            Self::Statement => STATEMENT,
        }
    }

    /// Returns its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresRow {
    /// How a reservation was written.
    pub form: Form,
    /// The load that it stands beside.
    pub load: &'static str,
    /// How many callers asked.
    pub connections: u32,
    /// Medians over the rounds.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What one load did in all rounds, in each form.
pub(super) struct Compared {
    pub(super) load: Load,
    pub(super) connections: u32,
    /// One for each round: the figures of [`Form::ALL`].
    rounds: Vec<[Figures; 2]>,
}

impl Compared {
    /// Returns what stands beside a load, if anything does.
    pub(super) fn beside(load: Load, connections: u32) -> Option<Self> {
        match load {
            Load::ReserveSpread | Load::ReserveHot => {
                Some(Self { load, connections, rounds: Vec::new() })
            }
            Load::Floor | Load::ReserveCommit | Load::ReserveBatch | Load::Read | Load::Mixed => {
                None
            }
        }
    }

    /// Returns the rate of one form in each round.
    pub(super) fn of(&self, form: Form) -> impl Iterator<Item = f64> {
        let index = Form::ALL.iter().position(|one| *one == form).unwrap_or(0);
        self.rounds.iter().map(move |round| round[index].per_second)
    }

    /// Returns the rate of the better form in each round.
    pub(super) fn best(&self) -> impl Iterator<Item = f64> {
        let best = |[one, other]: &[Figures; 2]| one.per_second.max(other.per_second);
        self.rounds.iter().map(best)
    }

    pub(super) fn rows(&self) -> [PostgresRow; 2] {
        let row = |index: usize, form: Form| {
            let all: Vec<Figures> = self.rounds.iter().map(|round| round[index]).collect();
            let figures = Figures::medians(&all);
            PostgresRow { form, load: self.load.name(), connections: self.connections, figures }
        };
        let [first, second] = Form::ALL;
        [row(0, first), row(1, second)]
    }
}

/// Where PostgreSQL's tools are.
#[derive(Debug)]
pub(super) struct Tools(PathBuf);

impl Tools {
    /// Finds them where they were said to be, or where they usually are; newer versions first.
    pub(super) async fn find(named: Option<&Path>) -> Result<Self, BenchError> {
        let places = match named {
            Some(named) => vec![named.to_owned()],
            None => usual_places().await,
        };
        let missing = |place: &Path| TOOLS.into_iter().find(|tool| !place.join(tool).is_file());
        let found = places.iter().find(|place| missing(place).is_none());
        found.cloned().map(Self).ok_or_else(|| BenchError::NoPostgres {
            tool: places.iter().find_map(|place| missing(place)).unwrap_or(TOOLS[0]),
        })
    }
}

async fn usual_places() -> Vec<PathBuf> {
    let asked = Command::new("pg_config").arg("--bindir").kill_on_drop(true).output();
    let told = timeout(TOOL_WAIT_MAX, asked).await.ok().and_then(Result::ok);
    let told = told.and_then(|told| String::from_utf8(told.stdout).ok());
    let mut places: Vec<PathBuf> = told.map(|told| told.trim().into()).into_iter().collect();
    for under in VERSIONED {
        let entries = fs::read_dir(under).into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
        places.extend(versions.into_iter().map(|version| version.join("bin")));
        places.push(Path::new(under).join("bin"));
    }
    places
}

fn version(path: &Path) -> u32 {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// A user and group of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    user: u32,
    group: u32,
}

/// Finds a user in what `/etc/passwd` says.
fn user_named(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let (user, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(User { user, group })
}

/// A cluster of our own that is stopped and removed when dropped.
#[derive(Debug)]
pub(super) struct Cluster {
    tools: Tools,
    /// Whom the server runs as, where it is not us.
    user: Option<User>,
    skus: u32,
    measures: u32,
    /// Reservations that pgbench counted.
    done: u64,
    // Dropped after the server was stopped.
    home: Scratch,
}

impl Cluster {
    /// Makes a cluster with its tables and SKUs, and starts it.
    pub(super) async fn start(
        tools: Tools,
        dir: Option<&Path>,
        skus: u32,
        connections_max: u32,
        servers: u32,
    ) -> Result<Self, BenchError> {
        let home = scratch_under(dir)?;
        let path = home.path().to_owned();
        let failed = |source| BenchError::Dir { path: path.clone(), source };
        let user = server_user().map_err(failed)?;
        if let Some(User { user, group }) = user {
            chown(home.path(), Some(user), Some(group)).map_err(failed)?;
        }
        let cluster = Self { tools, user, skus, measures: 0, done: 0, home };
        let arguments =
            ["-D", "data", "-U", NAME, "--auth=trust", "--encoding=UTF8", "--locale=C", "-N"];
        cluster.run("initdb", &arguments, Duration::ZERO).await?;
        let connections = connections_max + servers * SERVER_CONNECTIONS + SPARE_CONNECTIONS;
        let settings = format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\n\
             unix_socket_permissions = 0700\nmax_connections = {connections}\n\
             shared_buffers = '256MB'\nmax_wal_size = '4GB'\n",
            cluster.home.path().display()
        );
        cluster.append("data/postgresql.conf", &settings).map_err(failed)?;
        let wait = ["start", "-D", "data", "-w", "-s", "-l", "log", "-t", SERVER_WAIT_SECONDS];
        cluster.run("pg_ctl", &wait, Duration::ZERO).await?;
        cluster.sql(&format!("CREATE DATABASE {SERVED}")).await?;
        cluster.sql(TABLES).await?;
        let fill = format!(
            "INSERT INTO level SELECT sku, {STOCK}, 0 FROM generate_series(0, {skus}) AS sku;"
        );
        cluster.sql(&fill).await?;
        cluster.sql("VACUUM ANALYZE level").await?;
        Ok(cluster)
    }

    /// Returns how servers reach their database.
    pub(super) fn url(&self) -> String {
        format!("postgres:///{SERVED}?host={}&user={NAME}", self.home.path().display())
    }

    /// Runs both forms of a load and keeps what was found.
    pub(super) async fn measure(
        &mut self,
        into: &mut Compared,
        seconds: u32,
    ) -> Result<(), BenchError> {
        let [first, second] = Form::ALL;
        let first = self.pgbench(first, into, seconds).await?;
        into.rounds.push([first, self.pgbench(second, into, seconds).await?]);
        Ok(())
    }

    async fn pgbench(
        &mut self,
        form: Form,
        load: &Compared,
        seconds: u32,
    ) -> Result<Figures, BenchError> {
        self.measures += 1;
        let name = format!("measure-{}", self.measures);
        // Number 0 is the SKU that everybody wants.
        let (least, most) = if load.load == Load::ReserveHot { (0, 0) } else { (1, self.skus) };
        let script = format!("\\set sku random({least}, {most}){}", form.script());
        let script_file = format!("{name}.sql");
        self.append(&script_file, &script).map_err(|source| self.failed(source))?;
        let callers = load.connections.to_string();
        let threads = load.connections.min(2).to_string();
        let (length, prefix) = (seconds.to_string(), format!("--log-prefix={name}"));
        let seed = format!("--random-seed={}", self.measures);
        let arguments = [
            "-n",
            "-M",
            "prepared",
            "-c",
            &callers,
            "-j",
            &threads,
            "-T",
            &length,
            "-f",
            &script_file,
            "-l",
            &prefix,
            &seed,
            NAME,
        ];
        let said = self.run("pgbench", &arguments, Duration::from_secs(seconds.into())).await?;
        let unread = || BenchError::Postgres { tool: "pgbench", said: excerpt(&said) };
        let per_second = rate(&said).ok_or_else(unread)?;
        if !said.contains("number of failed transactions: 0 ") {
            return Err(unread());
        }
        let took = self.logged(&name).map_err(|source| self.failed(source))?;
        self.done += took.len();
        Ok(Figures { per_second, ..Figures::of_latencies(&took) })
    }

    /// Reads how long each transaction took from pgbench's logs, one of each thread.
    fn logged(&self, prefix: &str) -> io::Result<hdrhistogram::Histogram<u64>> {
        let mut took = latencies();
        let prefix = format!("{prefix}.");
        for entry in fs::read_dir(self.home.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(&prefix) || name.ends_with(".sql") {
                continue;
            }
            for micros in fs::read_to_string(entry.path())?.lines().filter_map(logged_micros) {
                note(&mut took, Duration::from_micros(micros));
            }
            fs::remove_file(entry.path())?;
        }
        Ok(took)
    }

    /// Returns what is wrong when the tables do not hold exactly what pgbench counted.
    pub(super) async fn check(&self) -> Result<Option<String>, BenchError> {
        let sums = "SELECT (SELECT sum(reserved) FROM level), (SELECT count(*) FROM reservation), \
                    (SELECT count(*) FROM movement)";
        let said = self.sql(sums).await?;
        let expected = [self.done.to_string(), self.done.to_string(), self.done.to_string()];
        let found = said.trim();
        let words = || format!("PostgreSQL holds {found}, pgbench counted {}", self.done);
        Ok((found != expected.join("|")).then(words))
    }

    async fn sql(&self, text: &str) -> Result<String, BenchError> {
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", NAME, "-c", text];
        self.run("psql", &arguments, Duration::ZERO).await
    }

    /// Runs one of the tools to its end and returns what it wrote.
    async fn run(
        &self,
        tool: &'static str,
        arguments: &[&str],
        length: Duration,
    ) -> Result<String, BenchError> {
        let mut command = Command::from(self.command(tool));
        // What the server inherits from `pg_ctl start` would be kept open: it writes to its log.
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let late = |_| BenchError::Late("one of PostgreSQL's tools did not end in time");
        let output = timeout(length + TOOL_WAIT_MAX, command.output()).await.map_err(late)?;
        let output = output.map_err(|source| BenchError::Spawn { name: tool, source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(BenchError::Postgres { tool, said: excerpt(&text(&output.stderr)) })
    }

    fn command(&self, tool: &str) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(self.tools.0.join(tool));
        command
            .current_dir(self.home.path())
            .env_clear()
            .env("LC_ALL", "C")
            .env("PGHOST", self.home.path())
            .env("PGUSER", NAME)
            .stdin(Stdio::null());
        if let Some(User { user, group }) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn append(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.home.path().join(name);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        match self.user {
            Some(User { user, group }) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    fn failed(&self, source: io::Error) -> BenchError {
        BenchError::Dir { path: self.home.path().to_owned(), source }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.home.path().join("data/postmaster.pid").exists() {
            return;
        }
        // `immediate` waits for nothing, and nothing of it is kept.
        let stop = ["stop", "-D", "data", "-m", "immediate", "-w", "-s", "-t"];
        let mut command = self.command("pg_ctl");
        command.args(stop).arg(SERVER_WAIT_SECONDS).stdout(Stdio::null()).stderr(Stdio::null());
        if !command.status().is_ok_and(|status| status.success()) {
            crate::cli::say::say(format_args!(
                "PostgreSQL in {} could not be stopped",
                self.home.path().display()
            ));
        }
    }
}

/// Returns whom the server is to run as: it refuses to be root.
fn server_user() -> io::Result<Option<User>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let user = USERS.into_iter().find_map(|name| user_named(&passwd, name));
    user.map(Some).ok_or_else(|| io::Error::other("there is no user to run PostgreSQL as"))
}

/// Finds the transactions per second in what pgbench says.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

/// Reads one line of pgbench's log: client, number, microseconds, script, and when.
fn logged_micros(line: &str) -> Option<u64> {
    line.split(' ').nth(2)?.parse().ok()
}

/// Returns the median of a load's rates ÷ those of the same rounds.
pub(super) fn ratio_to(rates: impl Iterator<Item = f64>, beside: impl Iterator<Item = f64>) -> f64 {
    median(rates.zip(beside).map(|(rate, beside)| super::report::ratio(rate, beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/x\npostgres:x:112:120::/:";
        let check = |name: &str, expected: Option<(u32, u32)>| {
            let expected = expected.map(|(user, group)| User { user, group });
            assert_eq!(user_named(passwd, name), expected, "{name}");
        };
        check("postgres", Some((112, 120)));
        check("root", Some((0, 0)));
        check("nobody", None);
        check("post", None);
    }

    #[test]
    fn what_pgbench_says_is_read() {
        let said = "number of failed transactions: 0 (0.000%)\ninitial connection time = 2.1 ms\n\
                    tps = 4551.25 (without initial connection time)\n";
        assert_eq!(rate(said), Some(4551.25));
        assert_eq!(rate("tps = (nan)"), None);
        assert_eq!(logged_micros("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(logged_micros("0 199"), None);
    }

    #[test]
    fn the_better_form_is_what_a_load_is_compared_with() {
        let figures = |per_second| Figures { per_second, p50_ms: 1.0, p99_ms: 2.0 };
        let mut beside = Compared::beside(Load::ReserveHot, 8).unwrap();
        beside.rounds = vec![[figures(10.0), figures(20.0)], [figures(40.0), figures(20.0)]];
        let rates = || [40.0, 40.0].into_iter();
        assert!((ratio_to(rates(), beside.best()) - 1.5).abs() < 1e-9);
        assert!((ratio_to(rates(), beside.of(Form::Transaction)) - 2.5).abs() < 1e-9);
        let [transaction, statement] = beside.rows();
        assert!((transaction.figures.per_second - 25.0).abs() < 1e-9);
        assert!((statement.figures.per_second - 20.0).abs() < 1e-9);
        assert!(Compared::beside(Load::Read, 8).is_none());
    }
}

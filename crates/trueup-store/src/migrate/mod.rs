//! Moving orgs out of a directory into a database: copied in pieces, compared row by row, opened.
//!
//! Whoever is killed at any moment goes on where it was: the target knows how far each table has
//! come. The source is never changed but for its mark, which keeps servers from selling on what
//! has moved; the target refuses everybody until an org has been compared whole.

pub(crate) mod tables;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::path::Path;

use trueup_core::Org;
use uuid::Uuid;

use crate::embedded;
use crate::embedded::departure::{Departure, Mark, Source};
use crate::encoding::at_most;
use crate::port::{SealedText, StoreError, Verification};
use crate::postgres;
use crate::postgres::arrival::{Standing, Target};
use tables::{TABLES, Table};
use value::Value;

/// The most rows that are copied or compared at once.
const PIECE_ROWS_MAX: usize = 5_000;
/// The most differences that are named.
const FAULTS_MAX: usize = 20;

/// Why a move does not come to its end. What was copied stays, refused to everybody.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The directory cannot be read.
    #[error(transparent)]
    Source(#[from] embedded::OpenError),
    /// The database cannot be used.
    #[error(transparent)]
    Target(#[from] postgres::OpenError),
    /// One of the two stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing of it in the directory.
    #[error("there is nothing of the org {0} in the directory")]
    NoSuchOrg(Org),
    /// Another move has taken it, or is taking it.
    #[error("{what} has moved to {to} already, or is being moved there")]
    Departed {
        /// What.
        what: String,
        /// Where to.
        to: String,
    },
    /// The org is in the database, and this move has not brought it.
    #[error("the org {org} is in the database already: there is a {table} of it")]
    Taken {
        /// The org.
        org: Org,
        /// A table that holds something of it.
        table: &'static str,
    },
    /// Another move has begun to bring the org.
    #[error("another move has begun to bring the org {0} and has not ended")]
    OfAnother(Org),
    /// What was copied is not what there was.
    #[error("the org {org} is not the same on both sides: {}", faults.join("; "))]
    Differs {
        /// The org.
        org: Org,
        /// The first differences.
        faults: Vec<String>,
    },
    /// The ledger that was copied does not add up.
    #[error("the ledger of the org {org} does not add up: {}", faults.join("; "))]
    DoesNotAddUp {
        /// The org.
        org: Org,
        /// The first faults.
        faults: Vec<String>,
    },
}

/// What is done with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// They are copied.
    Copy,
    /// Both sides are read and compared.
    Compare,
}

/// Rows with which something was done.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Whose they are.
    pub org: &'a Org,
    /// Of which table.
    pub table: &'static str,
    /// What was done.
    pub stage: Stage,
    /// How many.
    pub rows: u64,
}

/// Who is told how far a move has come.
pub type Tell<'a> = &'a mut (dyn for<'b> FnMut(Progress<'b>) + Send);

/// What moves of an org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgPlan {
    /// The org.
    pub org: Org,
    /// The rows of each table that has some.
    pub tables: Vec<(&'static str, u64)>,
}

impl OrgPlan {
    /// Returns how many rows there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|(_, rows)| rows).sum()
    }
}

/// A table that is the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Its name.
    pub table: &'static str,
    /// How many rows.
    pub rows: u64,
    /// BLAKE3 over the rows in key order, in hexadecimal.
    pub digest: String,
}

/// An org that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgReport {
    /// The org.
    pub org: Org,
    /// What was compared; empty where it had been opened before.
    pub tables: Vec<TableReport>,
    /// Units on hand over all SKUs, of both sides.
    pub on_hand: i64,
    /// Units reserved over all SKUs, of both sides.
    pub reserved: i64,
    /// What adding up the ledger in the target found; `None` where it had been opened before.
    pub verification: Option<Verification>,
}

/// A move out of a directory into a database, which both are open for it.
pub struct Migration {
    source: Source,
    target: Target,
    what: Option<Org>,
    mark: Mark,
    departure: Departure,
    plan: Vec<OrgPlan>,
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Migration {
    /// Opens both sides and looks at what is to be moved: an org, or everything. Nothing is changed.
    ///
    /// # Errors
    /// When one of the two cannot be opened, or what is to be moved is not there or has moved.
    pub async fn open(from: &Path, to: &str, what: Option<Org>) -> Result<Self, MigrateError> {
        let target = Target::connect(to)?;
        let path = from.to_owned();
        let opened = tokio::task::spawn_blocking(move || Source::open(&path)).await;
        let source = opened.map_err(|error| StoreError::Failed(error.to_string()))??;
        let mark = Mark::read(from)?;
        let departure = departure(&mark, what.as_ref(), target.shown())?;
        let counts = source.counts().await?;
        let plan = plan(counts, what.as_ref(), &mark)?;
        Ok(Self { source, target, what, mark, departure, plan })
    }

    /// Returns what moves.
    #[must_use]
    pub fn plan(&self) -> &[OrgPlan] {
        &self.plan
    }

    /// Returns where to, without a password.
    #[must_use]
    pub fn to(&self) -> &str {
        &self.departure.to
    }

    /// Returns everything sealed that moves: the target's keys must open it.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub async fn sealed(&self) -> Result<Vec<SealedText>, MigrateError> {
        let mut sealed = self.source.sealed().await?;
        sealed.retain(|text| self.plan.iter().any(|plan| plan.org == text.org));
        Ok(sealed)
    }

    /// Looks whether the target takes what moves; changes nothing.
    ///
    /// # Errors
    /// When an org is there already, or another move brings it.
    pub async fn check(&self) -> Result<(), MigrateError> {
        if !self.target.has_tables().await? {
            return Ok(());
        }
        for OrgPlan { org, .. } in &self.plan {
            self.accept(org, self.target.standing(org, &self.departure.id).await?)?;
        }
        Ok(())
    }

    /// Removes what earlier moves have copied of what moves, but for orgs that were opened.
    ///
    /// # Errors
    /// When the target fails.
    pub async fn forget(&self) -> Result<(), MigrateError> {
        if self.target.has_tables().await? {
            self.target.prepare().await?;
            for OrgPlan { org, .. } in &self.plan {
                self.target.forget(org).await?;
            }
        }
        Ok(())
    }

    /// Moves it, and goes on where an earlier run of the same move has ended. Dropped or killed at
    /// any moment it may be run again.
    ///
    /// # Errors
    /// [`MigrateError`]; every org that was not opened is refused to everybody in the target.
    pub async fn run(&mut self, tell: Tell<'_>) -> Result<Vec<OrgReport>, MigrateError> {
        self.target.prepare().await?;
        self.check().await?;
        self.write_mark()?;
        let mut reports = Vec::with_capacity(self.plan.len());
        for plan in &self.plan {
            reports.push(self.bring(plan, tell).await?);
        }
        self.target.analyze().await?;
        self.departure.complete = true;
        self.write_mark()?;
        Ok(reports)
    }

    /// Lets go of both sides.
    pub fn close(self) {
        self.target.close();
    }

    /// Says in the source where it goes: before anything is copied, so that nobody sells on what
    /// has been copied, and once all of it is there.
    fn write_mark(&mut self) -> Result<(), MigrateError> {
        let departure = self.departure.clone();
        match &self.what {
            Some(org) => drop(self.mark.orgs.insert(org.as_str().to_owned(), departure)),
            None => self.mark.everything = Some(departure),
        }
        Ok(self.mark.write(self.source.path())?)
    }

    fn accept(&self, org: &Org, standing: Standing) -> Result<(), MigrateError> {
        match standing {
            Standing::Absent if self.departure.complete => Err(MigrateError::Departed {
                what: format!("the org {org}"),
                to: self.departure.to.clone(),
            }),
            Standing::Absent | Standing::Begun | Standing::Open => Ok(()),
            Standing::OfAnother => Err(MigrateError::OfAnother(org.clone())),
            Standing::Taken(table) => Err(MigrateError::Taken { org: org.clone(), table }),
        }
    }

    /// Brings an org, compares it and opens it.
    async fn bring(&self, plan: &OrgPlan, tell: Tell<'_>) -> Result<OrgReport, MigrateError> {
        let org = &plan.org;
        let found = self.target.begin(org, &self.departure.id).await?;
        if found == Standing::Open {
            return Ok(was_open(org));
        }
        self.accept(org, found)?;
        for table in &TABLES {
            self.copy(org, table, tell).await?;
        }
        let report = self.compare(org, tell).await?;
        self.target.admit(org, &self.departure.id).await?;
        Ok(report)
    }

    async fn copy(
        &self,
        org: &Org,
        table: &'static Table,
        tell: Tell<'_>,
    ) -> Result<(), MigrateError> {
        let (mut after, copied) = self.target.progress(org, table).await?;
        let mut told = |rows| tell(Progress { org, table: table.name, stage: Stage::Copy, rows });
        told(copied);
        let mut rows = self.source.rows(org, table, after.clone(), PIECE_ROWS_MAX).await?;
        while let Some(last) = rows.last().map(|row| key(table, row)) {
            // The next piece is read while this one is written.
            let (to, next) = futures::join!(
                self.target.copy(org, table, after.as_ref(), &rows),
                self.source.rows(org, table, Some(last.clone()), PIECE_ROWS_MAX),
            );
            after = to?;
            told(count(rows.len()));
            rows = match &after {
                Some(to) if *to == last => next?,
                _ => self.source.rows(org, table, after.clone(), PIECE_ROWS_MAX).await?,
            };
        }
        Ok(())
    }

    /// Reads both sides of every table and adds up the ledger.
    async fn compare(&self, org: &Org, tell: Tell<'_>) -> Result<OrgReport, MigrateError> {
        let mut report = was_open(org);
        let mut faults = Vec::new();
        for table in &TABLES {
            let compared = self.compare_table(&mut report, table, tell).await?;
            faults.extend(compared);
            faults.truncate(FAULTS_MAX);
        }
        let unasked = self.target.unasked(org).await?;
        if unasked > 0 {
            faults.push(format!("{unasked} reservations are not found by their SKUs"));
        }
        if !faults.is_empty() {
            return Err(MigrateError::Differs { org: org.clone(), faults });
        }
        let mut verification = self.target.verify(org).await?;
        if !verification.faults.is_empty() {
            verification.faults.truncate(FAULTS_MAX);
            let faults = verification.faults;
            return Err(MigrateError::DoesNotAddUp { org: org.clone(), faults });
        }
        report.verification = Some(verification);
        Ok(report)
    }

    /// Compares a table piece by piece up to the first one that differs; returns the differences.
    async fn compare_table(
        &self,
        report: &mut OrgReport,
        table: &'static Table,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, MigrateError> {
        let org = report.org.clone();
        let mut hasher = blake3::Hasher::new();
        let (mut after, mut compared) = (None, 0);
        loop {
            let here = self.source.rows(&org, table, after.clone(), PIECE_ROWS_MAX).await?;
            // One more than there should be shows what is too much.
            let there = self.target.rows(&org, table, after.as_ref(), here.len().max(1)).await?;
            if here != there {
                return Ok(differences(table, &here, &there));
            }
            let Some(last) = here.last() else { break };
            after = Some(key(table, last));
            add_up(report, table, &here);
            let hashed = serde_json::to_writer(&mut hasher, &here);
            hashed.map_err(|error| StoreError::Failed(error.to_string()))?;
            compared += count(here.len());
            let rows = count(here.len());
            tell(Progress { org: &org, table: table.name, stage: Stage::Compare, rows });
        }
        let counted = self.target.count(&org, table).await?;
        if counted != compared {
            return Ok(vec![format!("{}: {compared} rows became {counted}", table.name)]);
        }
        if compared > 0 {
            let digest = hasher.finalize().to_hex().to_string();
            report.tables.push(TableReport { table: table.name, rows: compared, digest });
        }
        Ok(Vec::new())
    }
}

/// Decides which move it is: one that is under way, or a new one.
fn departure(mark: &Mark, what: Option<&Org>, to: String) -> Result<Departure, MigrateError> {
    let name = what.map_or_else(|| "all of it".to_owned(), |org| format!("the org {org}"));
    let known = match (what, &mark.everything) {
        (None, known) => known.as_ref(),
        (Some(org), None) => mark.orgs.get(org.as_str()),
        (Some(_), Some(whole)) => {
            return Err(MigrateError::Departed {
                what: "all of it".to_owned(),
                to: whole.to.clone(),
            });
        }
    };
    match known {
        None => Ok(Departure { id: Uuid::now_v7().simple().to_string(), to, complete: false }),
        Some(known) if known.to == to => Ok(known.clone()),
        Some(known) => Err(MigrateError::Departed { what: name, to: known.to.clone() }),
    }
}

/// Returns what moves; what has moved by itself before is passed over.
fn plan(
    counts: BTreeMap<Org, Vec<u64>>,
    what: Option<&Org>,
    mark: &Mark,
) -> Result<Vec<OrgPlan>, MigrateError> {
    let mut plans = Vec::new();
    for (org, rows) in counts {
        if what.is_some_and(|wanted| *wanted != org) {
            continue;
        }
        match mark.orgs.get(org.as_str()).filter(|_| what.is_none()) {
            Some(gone) if gone.complete => continue,
            Some(Departure { to, .. }) => {
                let (what, to) = (format!("the org {org}"), to.clone());
                return Err(MigrateError::Departed { what, to });
            }
            None => {}
        }
        let tables = TABLES.iter().zip(rows).filter(|(_, rows)| *rows > 0);
        let tables = tables.map(|(table, rows)| (table.name, rows)).collect();
        plans.push(OrgPlan { org, tables });
    }
    match what {
        Some(org) if plans.is_empty() => Err(MigrateError::NoSuchOrg(org.clone())),
        Some(_) | None => Ok(plans),
    }
}

fn was_open(org: &Org) -> OrgReport {
    OrgReport { org: org.clone(), tables: Vec::new(), on_hand: 0, reserved: 0, verification: None }
}

fn count(rows: usize) -> u64 {
    at_most(rows).unsigned_abs()
}

fn key(table: &Table, row: &[Value]) -> Vec<Value> {
    row.iter().take(table.key).cloned().collect()
}

/// Adds the units of SKUs up.
fn add_up(report: &mut OrgReport, table: &Table, rows: &[Vec<Value>]) {
    if table.name != "sku" {
        return;
    }
    let sum = |name: &str| -> i64 {
        let at = table.columns.iter().position(|column| column.name == name);
        let values = rows.iter().filter_map(|row| row.get(at?));
        values.map(|value| if let Value::Int(units) = value { *units } else { 0 }).sum()
    };
    report.on_hand = report.on_hand.saturating_add(sum("on_hand"));
    report.reserved = report.reserved.saturating_add(sum("reserved"));
}

/// Names rows that differ: by their keys and columns, without what stands in them.
fn differences(table: &Table, here: &[Vec<Value>], there: &[Vec<Value>]) -> Vec<String> {
    let words = |key: &[Value]| key.iter().map(Value::words).collect::<Vec<_>>().join(", ");
    let by_key = |rows: &[Vec<Value>]| -> Vec<(Vec<Value>, Vec<Value>)> {
        rows.iter().map(|row| (key(table, row), row.clone())).collect()
    };
    let (here, there) = (by_key(here), by_key(there));
    let mut faults = Vec::new();
    for (key, row) in &here {
        let Some((_, other)) = there.iter().find(|(known, _)| known == key) else {
            faults.push(format!("{} {}: not in the target", table.name, words(key)));
            continue;
        };
        let columns = table.columns.iter().zip(row.iter().zip(other));
        for (column, _) in columns.filter(|(_, (one, other))| one != other) {
            faults.push(format!("{} {}: {} differs", table.name, words(key), column.name));
        }
    }
    for (key, _) in there.iter().filter(|(key, _)| !here.iter().any(|(known, _)| known == key)) {
        faults.push(format!("{} {}: not in the source", table.name, words(key)));
    }
    faults.truncate(FAULTS_MAX);
    faults
}

//! What outlasts a restart: bans, and what is known. Names of accounts are there as fingerprints only, but for those
//! that a ban shows.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::bans::{Ban, SECONDS_MAX, Subject};
use super::{AccountKey, Guard, GuessingSettings, Login, State};
use crate::clock::Now;
use crate::diagnostic::Finding;
use crate::event::limit_key;
use crate::kept::{Kept, damaged};

/// The name of the file, in the queue directory.
pub const GUESSING_FILE: &str = "guessing.json";
/// The version of the file that this program writes.
const FILE_VERSION: u32 = 1;
/// Octets in the key of the fingerprints.
pub(super) const KEY_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct GuessingFile {
    version: u32,
    /// In base64.
    key: String,
    bans: Vec<BanRecord>,
    known: Vec<KnownRecord>,
}

#[derive(Serialize, Deserialize)]
struct BanRecord {
    network: IpNet,
    /// The fingerprint of the account, where the ban is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Box<str>>,
    since: i64,
    until: i64,
    forgiven: i64,
    earlier: u32,
    failures: u32,
    refused: u64,
}

#[derive(Serialize, Deserialize)]
struct KnownRecord(IpAddr, String, i64);

/// A new key. Without randomness it is nobody's secret, and nothing worse: fingerprints are not shown to anybody.
pub(super) fn fresh_key() -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if getrandom::fill(key.as_mut_slice()).is_err() {
        key.fill(0);
    }
    key
}

impl Guard {
    /// Takes up what an earlier process left in the file at `path`, if there is one. A file that cannot be read is put
    /// aside as `guessing.json.broken` (after its own name) and reported in a warning. Blocks on the disk.
    pub fn open(path: &Path, settings: GuessingSettings, now: Now) -> (Self, Vec<Finding>) {
        let (guard, finding) = Self::look_into(path, settings, now);
        let finding = finding.map(|finding| guard.kept.put_aside(finding));
        (guard, finding.into_iter().collect())
    }

    /// The same for whoever only looks: nothing on the disk is touched.
    pub fn look_into(path: &Path, settings: GuessingSettings, now: Now) -> (Self, Option<Finding>) {
        let loss = "cannot read who is banned and who is known, both begin anew";
        let fresh = || State::new(fresh_key());
        let restored = |file| restore(file, now);
        let (kept, finding) = Kept::look_into(path, FILE_VERSION, loss, fresh, restored);
        (Self::new(kept, settings, now), finding)
    }

    /// Writes bans and what is known to the file, if anything changed since the last time, and says whether it did.
    /// After an error the next call tries again. Blocks on the disk.
    pub fn save(&self, now: Now) -> io::Result<bool> {
        let (settings, moment) = (self.settings.load_full(), self.moment(now));
        self.kept.save(|state| {
            state.forget(&settings, moment);
            content(state)
        })
    }
}

fn content(state: &State) -> GuessingFile {
    let ban = |(subject, ban): (&Subject, &Ban)| BanRecord {
        network: subject.network(),
        login: match subject {
            Subject::Network(_) => None,
            Subject::Login(login) => Some(BASE64_STANDARD_NO_PAD.encode(login.account)),
        },
        account: ban.account.clone(),
        since: ban.since,
        until: ban.until,
        forgiven: ban.forgiven,
        earlier: ban.earlier,
        failures: ban.failures,
        refused: ban.refused,
    };
    let known = |(login, last): (&Login, i64)| {
        let account = BASE64_STANDARD_NO_PAD.encode(login.account);
        KnownRecord(login.source, account, last)
    };
    GuessingFile {
        version: FILE_VERSION,
        key: BASE64_STANDARD_NO_PAD.encode(state.key.as_slice()),
        bans: state.bans.iter().map(ban).collect(),
        known: state.known.iter().map(known).collect(),
    }
}

/// What no guard could have written is left out: it comes from damage, or from a clock that was wrong.
fn restore(file: GuessingFile, now: Now) -> io::Result<State> {
    let key = Zeroizing::new(
        BASE64_STANDARD_NO_PAD
            .decode(file.key.as_bytes())
            .map_err(|_| damaged("its key is not base64"))?,
    );
    let key = <[u8; KEY_BYTES]>::try_from(key.as_slice())
        .map_err(|_| damaged("its key is of another length"))?;
    let mut state = State::new(Zeroizing::new(key));
    let wall = now.wall.as_second();
    let mut known = file.known;
    known.sort_by_key(|KnownRecord(_, _, last)| *last);
    for KnownRecord(source, account, last) in known {
        if let Some(account) = account_key(&account)
            && last <= wall
        {
            let source = limit_key(source);
            state.known.add(Login { source, account }, last);
        }
    }
    for record in file.bans {
        let network = record.network.trunc();
        let subject = match record.login.as_deref().map(account_key) {
            None => Subject::Network(network),
            Some(Some(account)) => Subject::Login(Login {
                source: limit_key(network.addr()),
                account,
            }),
            Some(None) => continue,
        };
        let ban = Ban {
            since: record.since,
            until: record.until,
            forgiven: record.forgiven,
            earlier: record.earlier,
            failures: record.failures,
            account: record.account,
            refused: record.refused,
            ..Ban::default()
        };
        let sound = (0..=SECONDS_MAX).contains(&ban.until.saturating_sub(ban.since))
            && (0..=SECONDS_MAX).contains(&ban.forgiven.saturating_sub(ban.until))
            && ban.since <= wall
            && network.prefix_len() > 0;
        if sound && !ban.is_forgiven(wall) {
            *state.bans.entry(subject, 0, Ban::default, |_, _| {}) = ban;
        }
    }
    Ok(state)
}

fn account_key(text: &str) -> Option<AccountKey> {
    let octets = BASE64_STANDARD_NO_PAD.decode(text).ok()?;
    AccountKey::try_from(octets).ok()
}

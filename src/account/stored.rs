//! What a password is compared with, whatever made it.
//!
//! Each kind says what one comparison costs, so that it can be paid for before it begins. No kind shows any part of
//! itself.

use std::sync::Arc;

use argon2::Block;

use super::foreign::{ForeignError, ForeignHash};
use super::identity::Prepared;
use super::password::{HashError, HashingFailed, Parameters, PasswordHash};
use crate::sasl::scram::Verifier;
use crate::secret::Secret;

/// A stored secret of an account, within the ceilings of its kind.
#[derive(Clone, Debug)]
pub enum Stored {
    /// argon2; argon2id is what gatepost makes.
    Argon2(PasswordHash),
    /// What another program has made.
    Foreign(ForeignHash),
    /// SCRAM keys, for an account that has nothing else.
    Scram(Arc<Verifier>),
}

/// Memory in KiB below which OWASP has no choice of parameters for argon2 any more.
const WEAK_MEMORY_KIB: u32 = 7 << 10;

/// Why a text cannot be compared with. The text itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// It is an argon2 hash.
    #[error(transparent)]
    Argon2(#[from] HashError),
    /// It is something else.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}

/// What one comparison costs. Two secrets with equal costs cannot be told apart by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Cost {
    /// PBKDF2 with so many iterations.
    Iterations(std::num::NonZeroU32),
    /// argon2.
    Argon2(Parameters),
}

impl Stored {
    /// Reads a stored text, with Dovecot's `{SCHEME}` in front or without; `memory_kib_max` is what one check may take.
    pub fn parse(text: &str, memory_kib_max: u32) -> Result<Self, StoredError> {
        let bare = match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
            Some((scheme, rest)) if is_argon2_scheme(scheme) => rest,
            _ => text,
        };
        if bare.starts_with("$argon2") {
            return Ok(Self::Argon2(PasswordHash::parse(bare, memory_kib_max)?));
        }
        Ok(Self::Foreign(ForeignHash::parse(text, memory_kib_max)?))
    }

    /// What a comparison costs, where that can be imitated.
    pub(super) fn cost(&self) -> Option<Cost> {
        match self {
            Self::Argon2(hash) => Some(Cost::Argon2(hash.parameters())),
            Self::Foreign(_) => None,
            Self::Scram(verifier) => Some(Cost::Iterations(verifier.iterations())),
        }
    }

    /// What is weak about it, if whoever steals it can guess against it cheaply.
    pub fn weakness(&self) -> Option<&'static str> {
        match self {
            // SCRAM keys are what they have to be.
            Self::Scram(_) => None,
            Self::Argon2(hash) if hash.parameters().memory_kib < WEAK_MEMORY_KIB => {
                Some("argon2 with less than 7 MiB")
            }
            Self::Argon2(_) => None,
            Self::Foreign(hash) => hash.weakness(),
        }
    }

    /// Whether a hash of our own is better than this one: it is another kind, or weak.
    pub(super) fn is_outdated(&self) -> bool {
        match self {
            Self::Argon2(hash) => !hash.is_argon2id() || self.weakness().is_some(),
            Self::Foreign(_) => true,
            Self::Scram(_) => false,
        }
    }

    /// What it is compared with: our own hashes are of the prepared password, those of other programs of what was
    /// typed.
    pub(super) fn candidate<'p>(&self, password: &'p Prepared) -> &'p Secret {
        match self {
            Self::Argon2(hash) if hash.is_argon2id() => &password.prepared,
            Self::Scram(_) => &password.prepared,
            Self::Argon2(_) | Self::Foreign(_) => &password.typed,
        }
    }

    /// A secret that costs so much and belongs to nobody, for the time that a comparison takes.
    pub(super) fn dummy(cost: Cost) -> Option<Self> {
        match cost {
            Cost::Argon2(parameters) => PasswordHash::dummy(parameters).ok().map(Self::Argon2),
            Cost::Iterations(iterations) => Some(Self::Scram(Arc::new(Verifier::nobodys(
                vec![0; super::scram::SALT_BYTES],
                iterations,
            )))),
        }
    }

    /// Memory that a comparison holds, in KiB.
    pub fn memory_kib(&self) -> u32 {
        match self {
            Self::Argon2(hash) => hash.parameters().memory_kib,
            Self::Foreign(hash) => hash.memory_kib(),
            Self::Scram(_) => 0,
        }
    }

    /// How many blocks of it [`matches`](Self::matches) is to be given.
    pub fn block_count(&self) -> usize {
        match self {
            Self::Argon2(hash) => hash.block_count(),
            Self::Foreign(_) | Self::Scram(_) => 0,
        }
    }

    /// Whether `password`, prepared, is the one that is stored. `memory` holds at least
    /// [`block_count`](Self::block_count) blocks; what is in them does not matter.
    pub fn matches(&self, password: &[u8], memory: &mut [Block]) -> Result<bool, HashingFailed> {
        match self {
            Self::Argon2(hash) => hash.matches(password, memory),
            Self::Foreign(hash) => hash.matches(password),
            Self::Scram(verifier) => Ok(verifier.matching_password(password).is_some()),
        }
    }

    /// Whether both are the same stored text, in effect.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Argon2(one), Self::Argon2(other)) => one.same_as(other),
            (Self::Foreign(one), Self::Foreign(other)) => one.same_as(other),
            (Self::Scram(one), Self::Scram(other)) => one.same_as(other),
            (Self::Argon2(_) | Self::Foreign(_) | Self::Scram(_), _) => false,
        }
    }

    /// Gives all that makes this secret the one that it is, piece by piece.
    pub(super) fn each_part(&self, mut take: impl FnMut(&[u8])) {
        match self {
            Self::Argon2(hash) => {
                take(b"argon2");
                hash.each_part(take);
            }
            Self::Foreign(hash) => {
                take(b"foreign");
                take(hash.as_bytes());
            }
            Self::Scram(verifier) => {
                take(b"scram");
                verifier.each_part(take);
            }
        }
    }
}

fn is_argon2_scheme(scheme: &str) -> bool {
    ["ARGON2I", "ARGON2ID", "ARGON2D", "CRYPT"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
}

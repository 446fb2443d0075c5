//! What a password is compared with, whatever made it.
//!
//! Each kind says what one comparison costs, so that it can be paid for before it begins. No kind shows any part of
//! itself.

use std::sync::Arc;

use argon2::Block;

use super::password::{HashingFailed, Parameters, PasswordHash};
use crate::sasl::scram::Verifier;

/// A stored secret of an account, within the ceilings of its kind.
#[derive(Clone, Debug)]
pub enum Stored {
    /// argon2id, which is what gatepost makes.
    Argon2id(PasswordHash),
    /// SCRAM keys, for an account that has nothing else.
    Scram(Arc<Verifier>),
}

/// What one comparison costs. Two secrets with equal costs cannot be told apart by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Cost {
    /// PBKDF2 with so many iterations.
    Iterations(std::num::NonZeroU32),
    /// argon2id.
    Argon2id(Parameters),
}

impl Stored {
    /// What a comparison costs.
    pub(super) fn cost(&self) -> Cost {
        match self {
            Self::Argon2id(hash) => Cost::Argon2id(hash.parameters()),
            Self::Scram(verifier) => Cost::Iterations(verifier.iterations()),
        }
    }

    /// A secret that costs so much and belongs to nobody, for the time that a comparison takes.
    pub(super) fn dummy(cost: Cost) -> Option<Self> {
        match cost {
            Cost::Argon2id(parameters) => PasswordHash::dummy(parameters).ok().map(Self::Argon2id),
            Cost::Iterations(iterations) => Some(Self::Scram(Arc::new(Verifier::nobodys(
                vec![0; super::scram::SALT_BYTES],
                iterations,
            )))),
        }
    }

    /// Memory that a comparison holds, in KiB.
    pub(super) fn memory_kib(&self) -> u32 {
        match self {
            Self::Argon2id(hash) => hash.parameters().memory_kib,
            Self::Scram(_) => 0,
        }
    }

    /// How many blocks of it [`matches`](Self::matches) is to be given.
    pub(super) fn block_count(&self) -> usize {
        match self {
            Self::Argon2id(hash) => hash.block_count(),
            Self::Scram(_) => 0,
        }
    }

    /// Whether `password`, prepared, is the one that is stored. `memory` holds at least
    /// [`block_count`](Self::block_count) blocks; what is in them does not matter.
    pub(super) fn matches(
        &self,
        password: &[u8],
        memory: &mut [Block],
    ) -> Result<bool, HashingFailed> {
        match self {
            Self::Argon2id(hash) => hash.matches(password, memory),
            Self::Scram(verifier) => Ok(verifier.matching_password(password).is_some()),
        }
    }

    /// Whether both are the same stored text, in effect.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Argon2id(one), Self::Argon2id(other)) => one.same_as(other),
            (Self::Scram(one), Self::Scram(other)) => one.same_as(other),
            (Self::Argon2id(_) | Self::Scram(_), _) => false,
        }
    }

    /// Gives all that makes this secret the one that it is, piece by piece.
    pub(super) fn each_part(&self, mut take: impl FnMut(&[u8])) {
        match self {
            Self::Argon2id(hash) => {
                take(b"argon2id");
                hash.each_part(take);
            }
            Self::Scram(verifier) => {
                take(b"scram");
                verifier.each_part(take);
            }
        }
    }
}

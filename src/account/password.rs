//! Password hashes: argon2 (RFC 9106) in the PHC string format, read and compared; of its kinds, argon2id is made.
//!
//! Verification obeys the parameters in the stored string, so their ceilings are checked when the string is read: no
//! line in a file can make a login cost gigabytes or minutes. Nothing here prepares passwords (that is
//! [`identity`](super::identity)) or decides when and where a hash is computed (that is `hashing`). No error shows any
//! part of the string.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, PasswordHasher as _, Version};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use password_hash::phc;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Memory that any one hash may take, whatever the configuration says, in KiB: 4 GiB.
pub const MEMORY_KIB_MAX: u32 = 4 << 20;
/// Passes over the memory. At 64 even a small hash costs more than it protects.
pub const PASSES_MAX: u32 = 64;
/// Lanes. More than the cores of a mail server brings its attackers only.
pub const LANES_MAX: u32 = 16;
/// Octets in a salt (RFC 9106 section 3.1 recommends 16). The upper end is that of the PHC string format.
pub const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=phc::Salt::MAX_LENGTH;
/// Octets in a hash's output.
pub const OUTPUT_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// What a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Parameters {
    /// Memory in KiB: `m`.
    pub memory_kib: u32,
    /// Passes over it: `t`.
    pub passes: u32,
    /// Lanes: `p`.
    pub lanes: u32,
}

impl Default for Parameters {
    /// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Self {
            memory_kib: 19456,
            passes: 2,
            lanes: 1,
        }
    }
}

/// A stored password hash, within its ceilings.
#[derive(Clone)]
pub struct PasswordHash {
    algorithm: Algorithm,
    version: Version,
    parameters: Parameters,
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// Why a text is not a hash that a login could be checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Another algorithm, another version, or plain text.
    #[error("is not an argon2 hash (`$argon2id$v=19$m=..,t=..,p=..$salt$hash`)")]
    NotArgon2,
    /// It begins as one but cannot be read.
    #[error("is a damaged argon2 hash")]
    Malformed,
    /// More memory than all checks together may hold.
    #[error(
        "takes {memory_kib} KiB of memory for one check, more than the {allowed_kib} KiB allowed"
    )]
    TooMuchMemory {
        /// Its `m`.
        memory_kib: u32,
        /// `hash_memory`, or [`MEMORY_KIB_MAX`].
        allowed_kib: u32,
    },
    /// Less memory than argon2 works with: 8 KiB for each lane.
    #[error("takes less than 8 KiB of memory for each lane")]
    TooLittleMemory,
    /// `t` out of its range.
    #[error("makes {0} passes: 1 to 64 are allowed")]
    Passes(u32),
    /// `p` out of its range.
    #[error("has {0} lanes: 1 to 16 are allowed")]
    Lanes(u32),
    /// The salt is too short or too long.
    #[error("has a salt of {0} octets: 8 to 48 are allowed")]
    Salt(usize),
    /// The output is too short or too long.
    #[error("has an output of {0} octets: 16 to 64 are allowed")]
    Output(usize),
}

/// A hash could not be computed: a fault of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password hash could not be computed")]
pub struct HashingFailed;

impl PasswordHash {
    /// Reads a PHC string; `memory_kib_max` is what one check may take.
    pub fn parse(text: &str, memory_kib_max: u32) -> Result<Self, HashError> {
        let algorithm = match text.strip_prefix('$').and_then(|text| text.split_once('$')) {
            Some(("argon2id", _)) => Algorithm::Argon2id,
            Some(("argon2i", _)) => Algorithm::Argon2i,
            Some(("argon2d", _)) => Algorithm::Argon2d,
            _ => return Err(HashError::NotArgon2),
        };
        let hash = phc::PasswordHash::new(text).map_err(|_| HashError::Malformed)?;
        let version = match hash.version {
            Some(19) => Version::V0x13,
            // Of before 2016, when the text did not always say so, and argon2id was not there yet.
            None | Some(16) if algorithm != Algorithm::Argon2id => Version::V0x10,
            _ => return Err(HashError::NotArgon2),
        };
        let (mut memory_kib, mut passes, mut lanes) = (None, None, None);
        for (name, value) in hash.params.iter() {
            let place = match name.as_str() {
                "m" => &mut memory_kib,
                "t" => &mut passes,
                "p" => &mut lanes,
                _ => return Err(HashError::Malformed),
            };
            let number = value.decimal().map_err(|_| HashError::Malformed)?;
            if place.replace(number).is_some() {
                return Err(HashError::Malformed);
            }
        }
        let (Some(memory_kib), Some(passes), Some(lanes)) = (memory_kib, passes, lanes) else {
            return Err(HashError::Malformed);
        };
        let (Some(salt), Some(output)) = (hash.salt, hash.hash) else {
            return Err(HashError::Malformed);
        };
        let parameters = Parameters {
            memory_kib,
            passes,
            lanes,
        };
        parameters.check(memory_kib_max)?;
        if !SALT_BYTES.contains(&salt.len()) {
            return Err(HashError::Salt(salt.len()));
        }
        if !OUTPUT_BYTES.contains(&output.len()) {
            return Err(HashError::Output(output.len()));
        }
        Self::assemble(
            (algorithm, version),
            parameters,
            salt.to_vec(),
            output.as_bytes().to_vec(),
        )
    }

    /// A hash that costs what others with these parameters cost and belongs to nobody. Whoever compares a password
    /// with it does so for the time that it takes.
    pub fn dummy(parameters: Parameters) -> Result<Self, HashError> {
        parameters.check(MEMORY_KIB_MAX)?;
        Self::assemble(
            (Algorithm::Argon2id, Version::V0x13),
            parameters,
            vec![0; phc::Salt::RECOMMENDED_LENGTH],
            vec![0; Params::DEFAULT_OUTPUT_LEN],
        )
    }

    /// What it costs.
    pub fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Whether it is argon2id, of the kinds that there are.
    pub fn is_argon2id(&self) -> bool {
        self.algorithm == Algorithm::Argon2id
    }

    /// How many blocks of memory [`matches`](Self::matches) needs.
    pub fn block_count(&self) -> usize {
        self.argon2.params().block_count()
    }

    /// Whether `password`, prepared, is the one that was hashed. `memory` holds at least
    /// [`block_count`](Self::block_count) blocks; what is in them does not matter.
    pub fn matches(&self, password: &[u8], memory: &mut [Block]) -> Result<bool, HashingFailed> {
        let mut output = Zeroizing::new(vec![0; self.output.len()]);
        self.argon2
            .hash_password_into_with_memory(password, &self.salt, &mut output, memory)
            .map_err(|_| HashingFailed)?;
        Ok(output.ct_eq(&self.output).into())
    }

    /// Whether both are the same stored string, in effect.
    pub fn same_as(&self, other: &Self) -> bool {
        self.parameters == other.parameters
            && (self.algorithm, self.version) == (other.algorithm, other.version)
            && self.salt == other.salt
            && bool::from(self.output.ct_eq(&other.output))
    }

    /// Gives all that makes this hash the one that it is, piece by piece.
    pub(super) fn each_part(&self, mut take: impl FnMut(&[u8])) {
        let Parameters {
            memory_kib,
            passes,
            lanes,
        } = self.parameters;
        for number in [memory_kib, passes, lanes] {
            take(&number.to_le_bytes());
        }
        take(self.algorithm.as_str().as_bytes());
        take(&u32::from(self.version).to_le_bytes());
        take(&self.salt);
        take(&self.output);
    }

    fn assemble(
        (algorithm, version): (Algorithm, Version),
        parameters: Parameters,
        salt: Vec<u8>,
        output: Vec<u8>,
    ) -> Result<Self, HashError> {
        let Parameters {
            memory_kib,
            passes,
            lanes,
        } = parameters;
        let params = Params::new(memory_kib, passes, lanes, Some(output.len()))
            .map_err(|_| HashError::Malformed)?;
        Ok(Self {
            algorithm,
            version,
            parameters,
            argon2: Argon2::new(algorithm, version, params),
            salt,
            output,
        })
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?}, ..)", self.parameters)
    }
}

impl Parameters {
    fn check(self, memory_kib_max: u32) -> Result<(), HashError> {
        let allowed_kib = memory_kib_max.min(MEMORY_KIB_MAX);
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(HashError::Lanes(self.lanes));
        }
        if !(1..=PASSES_MAX).contains(&self.passes) {
            return Err(HashError::Passes(self.passes));
        }
        if self.memory_kib > allowed_kib {
            return Err(HashError::TooMuchMemory {
                memory_kib: self.memory_kib,
                allowed_kib,
            });
        }
        if self.memory_kib < 8 * self.lanes {
            return Err(HashError::TooLittleMemory);
        }
        Ok(())
    }
}

/// Hashes `password`, which is prepared, with a fresh salt, and gives the PHC string.
pub fn make(password: &Secret, parameters: Parameters) -> Result<String, HashingFailed> {
    parameters
        .check(MEMORY_KIB_MAX)
        .map_err(|_| HashingFailed)?;
    let params = Params::new(
        parameters.memory_kib,
        parameters.passes,
        parameters.lanes,
        None,
    )
    .map_err(|_| HashingFailed)?;
    let hash: phc::PasswordHash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.expose())
        .map_err(|_| HashingFailed)?;
    Ok(hash.to_string())
}

/// The same in `memory`, which holds at least as many blocks as the parameters have KiB.
pub(super) fn make_in(
    memory: &mut [Block],
    password: &Secret,
    parameters: Parameters,
) -> Result<String, HashingFailed> {
    let mut salt = [0; phc::Salt::RECOMMENDED_LENGTH];
    getrandom::fill(&mut salt).map_err(|_| HashingFailed)?;
    let Parameters {
        memory_kib,
        passes,
        lanes,
    } = parameters;
    let params = Params::new(memory_kib, passes, lanes, None).map_err(|_| HashingFailed)?;
    let mut output = Zeroizing::new([0; Params::DEFAULT_OUTPUT_LEN]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.expose(), &salt, output.as_mut_slice(), memory)
        .map_err(|_| HashingFailed)?;
    Ok(format!(
        "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}",
        BASE64_STANDARD_NO_PAD.encode(salt),
        BASE64_STANDARD_NO_PAD.encode(output.as_slice())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGON2_I_AND_D: [&str; 4] = [
        "$argon2i$v=16$m=64,t=2,p=1$c29tZXNhbHQ$VAqdkApx3AhiPRSTfpL/UVT4CtcTp+/C",
        "$argon2i$v=19$m=64,t=2,p=1$c29tZXNhbHQ$6IcN/6/mCIDg4uOMuzcHVMh8xpQAz3du",
        "$argon2d$m=64,t=2,p=1$c29tZXNhbHQ$VZmrenFz2sc3vEXLhKGkiruiI939SpxS",
        "$argon2d$v=19$m=64,t=2,p=1$c29tZXNhbHQ$8aQcrxV/tyjlDCv6g6rbD4hWi/eIjCFf",
    ];

    const CHEAP: Parameters = Parameters {
        memory_kib: 16,
        passes: 1,
        lanes: 1,
    };

    fn matches(hash: &PasswordHash, password: &str) -> bool {
        let mut memory = vec![Block::new(); hash.block_count()];
        hash.matches(password.as_bytes(), &mut memory).unwrap()
    }

    #[test]
    fn what_is_made_can_be_checked() {
        let text = make(&Secret::from("correct horse"), CHEAP).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=16,t=1,p=1$"), "{text}");
        let hash = PasswordHash::parse(&text, 16).unwrap();
        assert_eq!(hash.parameters(), CHEAP);
        assert!(matches(&hash, "correct horse"));
        assert!(!matches(&hash, "correct horse "));
        let again = make(&Secret::from("correct horse"), CHEAP).unwrap();
        assert_ne!(text, again, "each hash has its own salt");
        assert!(!hash.same_as(&PasswordHash::parse(&again, 16).unwrap()));
    }

    #[test]
    fn what_is_made_in_given_memory_can_be_checked() {
        let mut memory = vec![Block::new(); 16];
        let text = make_in(&mut memory, &Secret::from("correct horse"), CHEAP).unwrap();
        let hash = PasswordHash::parse(&text, 16).unwrap();
        assert!(matches(&hash, "correct horse") && !matches(&hash, "correct horsE"));
        let again = make_in(&mut memory, &Secret::from("correct horse"), CHEAP).unwrap();
        assert_ne!(text, again, "each hash has its own salt");
    }

    #[test]
    fn dirty_memory_does_not_matter() {
        let mut memory = vec![Block::new(); 64];
        for password in ["one", "two"] {
            let text = make(&Secret::from(password), CHEAP).unwrap();
            let hash = PasswordHash::parse(&text, 16).unwrap();
            assert!(hash.matches(password.as_bytes(), &mut memory).unwrap());
            assert!(!hash.matches(b"three", &mut memory).unwrap());
        }
    }

    #[test]
    fn the_reference_vector() {
        // Made by the reference implementation: echo -n password | argon2 somesalt -id -t 2 -m 8 -p 1 -l 32
        let text =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let hash = PasswordHash::parse(text, 256).unwrap();
        assert!(matches(&hash, "password"));
    }

    #[test]
    fn the_other_kinds() {
        // Made by the reference implementation: echo -n "correct horse" | argon2 somesalt -i -v 10 -t 2 -k 64 -l 24
        for text in ARGON2_I_AND_D {
            let hash = PasswordHash::parse(text, 1024).unwrap();
            assert!(!hash.is_argon2id());
            assert!(matches(&hash, "correct horse"), "{text}");
            assert!(!matches(&hash, "correct horsE"), "{text}");
        }
    }

    #[test]
    fn ceilings() {
        let salt = "c29tZXNhbHRzb21lc2FsdA";
        let output = "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let phc = |parameters: &str| format!("$argon2id$v=19${parameters}${salt}${output}");
        for (text, error) in [
            (String::new(), HashError::NotArgon2),
            ("hunter2".to_owned(), HashError::NotArgon2),
            (
                phc("m=16,t=1,p=1").replace("argon2id", "argon2x"),
                HashError::NotArgon2,
            ),
            (
                phc("m=129,t=1,p=1").replace("argon2id", "argon2d"),
                HashError::TooMuchMemory {
                    memory_kib: 129,
                    allowed_kib: 128,
                },
            ),
            (
                phc("m=16,t=1,p=1").replace("v=19", "v=16"),
                HashError::NotArgon2,
            ),
            (
                format!("$argon2id$m=16,t=1,p=1${salt}${output}"),
                HashError::NotArgon2,
            ),
            ("$argon2id$v=19".to_owned(), HashError::Malformed),
            (
                format!("$argon2id$v=19$m=16,t=1,p=1${salt}"),
                HashError::Malformed,
            ),
            (phc("m=16,t=1"), HashError::Malformed),
            (phc("m=16,t=1,p=1,data=AAAA"), HashError::Malformed),
            (phc("m=x,t=1,p=1"), HashError::Malformed),
            (
                phc("m=129,t=1,p=1"),
                HashError::TooMuchMemory {
                    memory_kib: 129,
                    allowed_kib: 128,
                },
            ),
            (
                phc("m=4294967295,t=1,p=1"),
                HashError::TooMuchMemory {
                    memory_kib: u32::MAX,
                    allowed_kib: 128,
                },
            ),
            (phc("m=7,t=1,p=1"), HashError::TooLittleMemory),
            (phc("m=15,t=1,p=2"), HashError::TooLittleMemory),
            (phc("m=16,t=0,p=1"), HashError::Passes(0)),
            (phc("m=16,t=65,p=1"), HashError::Passes(65)),
            (phc("m=16,t=1,p=0"), HashError::Lanes(0)),
            (phc("m=128,t=1,p=17"), HashError::Lanes(17)),
            (
                format!("$argon2id$v=19$m=16,t=1,p=1${salt}$c29tZXNhbHRzb21lc2E"),
                HashError::Output(14),
            ),
        ] {
            assert_eq!(
                PasswordHash::parse(&text, 128).unwrap_err(),
                error,
                "{text}"
            );
        }
        assert!(PasswordHash::parse(&phc("m=128,t=64,p=16"), 128).is_ok());
        let enormous = phc("m=4194305,t=1,p=1");
        assert_eq!(
            PasswordHash::parse(&enormous, u32::MAX).unwrap_err(),
            HashError::TooMuchMemory {
                memory_kib: 4194305,
                allowed_kib: MEMORY_KIB_MAX
            }
        );
    }
}

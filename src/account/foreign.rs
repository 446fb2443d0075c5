//! Password hashes of other programs, so that people can move in with the passwords that they have: crypt(3)'s bcrypt,
//! SHA-crypt and yescrypt, scrypt and PBKDF2 in PHC and Modular Crypt Format, and digests with Dovecot's `{SCHEME}`.
//!
//! They are compared, never made. The ceilings of what each may cost are checked when the text is read, and so is
//! everything that the comparison relies on: a text that is accepted here can be wrong, but not broken. No error shows
//! any part of the text. What costs a guesser next to nothing is told by [`ForeignHash::weakness`]; what is broken for
//! good (MD5, DES) is refused.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use aws_lc_rs::{digest, pbkdf2};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::prelude::BASE64_STANDARD_NO_PAD;
use password_hash::PasswordVerifier as _;
use sha_crypt::ShaCrypt;
use subtle::ConstantTimeEq as _;
use yescrypt::Yescrypt;
use zeroize::Zeroizing;

use super::password::HashingFailed;

/// Octets in a stored text that is read at all.
const TEXT_BYTES_MAX: usize = 1024;
/// bcrypt's cost, the binary logarithm of its rounds. 15 takes some three seconds.
const BCRYPT_COST: RangeInclusive<u32> = 4..=15;
/// Rounds of SHA-crypt. A million takes a second.
const SHA_CRYPT_ROUNDS: RangeInclusive<u32> = 1000..=1_000_000;
/// Iterations of PBKDF2. Five million take seconds.
const PBKDF2_ITERATIONS: RangeInclusive<u32> = 1..=5_000_000;
/// scrypt's `r` and `p`; the memory that its `N` and `r` take is bounded by `hash_memory`.
const SCRYPT_R: RangeInclusive<u32> = 1..=64;
const SCRYPT_P: RangeInclusive<u32> = 1..=16;
/// scrypt's and yescrypt's `N` as a binary logarithm.
const LOG_N: RangeInclusive<u8> = 1..=22;
/// Octets in the output of scrypt and PBKDF2. A short one would match too much.
const OUTPUT_BYTES: RangeInclusive<usize> = 16..=64;
/// Octets of yescrypt's output: crypt(3) makes no other.
const YESCRYPT_OUTPUT_CHARACTERS: usize = 43;

/// Base64 with `.` in the place of `+`, as passlib writes it.
const DOTTED: GeneralPurpose = GeneralPurpose::new(
    &match alphabet::Alphabet::new(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./",
    ) {
        Ok(alphabet) => alphabet,
        Err(_) => panic!("these are 64 characters"),
    },
    NO_PAD,
);
/// Base64 with its padding or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// A password hash that another program made, within its ceilings.
#[derive(Clone)]
pub struct ForeignHash {
    kind: Kind,
    /// As it is stored, without a `{SCHEME}`.
    text: Zeroizing<String>,
}

#[derive(Clone)]
enum Kind {
    Bcrypt {
        cost: u32,
    },
    ShaCrypt {
        rounds: u32,
    },
    Yescrypt {
        memory_kib: u32,
    },
    Scrypt {
        parameters: scrypt::Params,
        memory_kib: u32,
        salt: Vec<u8>,
        output: Vec<u8>,
    },
    Pbkdf2 {
        function: Function,
        iterations: NonZeroU32,
        salt: Vec<u8>,
        output: Vec<u8>,
    },
    /// One digest over the password and the salt behind it.
    Digest {
        function: Function,
        salt: Vec<u8>,
        output: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Sha1,
    Sha256,
    Sha512,
}

/// Why a text is no hash of another program that could be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignError {
    /// Nothing that is known.
    #[error(
        "is not a password hash that can be checked (argon2, bcrypt, SHA-crypt, yescrypt, scrypt, PBKDF2, {{SSHA}})"
    )]
    Unknown,
    /// It begins like a known one.
    #[error("is a damaged {0} hash")]
    Malformed(&'static str),
    /// It is broken for good.
    #[error("is a hash of {0}, which protects nothing any more")]
    Broken(&'static str),
    /// It is the password itself.
    #[error("is the password itself: `gatepost account import` hashes it")]
    PlainText,
    /// It would take too long.
    #[error("takes {rounds} {unit}: at most {allowed} are allowed")]
    TooSlow {
        /// How many.
        rounds: u32,
        /// Of what.
        unit: &'static str,
        /// How many it may take.
        allowed: u32,
    },
    /// It would take too much memory.
    #[error(
        "takes {memory_kib} KiB of memory for one check, more than the {allowed_kib} KiB allowed"
    )]
    TooMuchMemory {
        /// What it takes.
        memory_kib: u64,
        /// `hash_memory`.
        allowed_kib: u32,
    },
}

impl ForeignHash {
    /// Reads a stored text; `memory_kib_max` is what one check may take.
    pub fn parse(text: &str, memory_kib_max: u32) -> Result<Self, ForeignError> {
        if text.len() > TEXT_BYTES_MAX || !text.is_ascii() {
            return Err(ForeignError::Unknown);
        }
        match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
            Some((scheme, rest)) => Self::with_scheme(scheme, rest, memory_kib_max),
            None => Self::crypt(text, memory_kib_max),
        }
    }

    /// `{SCHEME}rest`, as Dovecot and LDAP servers write it. The scheme may say how what follows is encoded.
    fn with_scheme(scheme: &str, rest: &str, memory_kib_max: u32) -> Result<Self, ForeignError> {
        let upper = scheme.to_ascii_uppercase();
        let (name, encoding) = match upper.split_once('.') {
            Some((name, encoding)) => (name, Some(encoding)),
            None => (upper.as_str(), None),
        };
        let (function, salted) = match name {
            "SHA" | "SHA1" => (Function::Sha1, false),
            "SHA256" => (Function::Sha256, false),
            "SHA512" => (Function::Sha512, false),
            "SSHA" => (Function::Sha1, true),
            "SSHA256" => (Function::Sha256, true),
            "SSHA512" => (Function::Sha512, true),
            "BLF-CRYPT" | "SHA256-CRYPT" | "SHA512-CRYPT" | "CRYPT" => {
                return Self::crypt(rest, memory_kib_max);
            }
            "PBKDF2" => return Self::dovecot_pbkdf2(rest),
            "PLAIN" | "CLEARTEXT" | "CLEAR" => return Err(ForeignError::PlainText),
            "MD5" | "MD5-CRYPT" | "PLAIN-MD5" | "LDAP-MD5" | "SMD5" | "CRAM-MD5" | "HMAC-MD5"
            | "DIGEST-MD5" => return Err(ForeignError::Broken("MD5")),
            "DES-CRYPT" => return Err(ForeignError::Broken("DES")),
            _ => return Err(ForeignError::Unknown),
        };
        let octets = match encoding {
            Some("HEX") => decode_hex(rest),
            None | Some("B64" | "BASE64") => LENIENT.decode(rest).ok(),
            Some(_) => None,
        };
        let octets = octets
            .filter(|octets| match salted {
                true => octets.len() > function.output_bytes(),
                false => octets.len() == function.output_bytes(),
            })
            .ok_or(ForeignError::Malformed("SHA"))?;
        let (output, salt) = octets.split_at(function.output_bytes());
        let kind = Kind::Digest {
            function,
            salt: salt.to_vec(),
            output: output.to_vec(),
        };
        Ok(Self::new(kind, &format!("{{{name}}}{rest}")))
    }

    /// `$id$...`
    fn crypt(text: &str, memory_kib_max: u32) -> Result<Self, ForeignError> {
        let rest = text.strip_prefix('$').ok_or(ForeignError::Unknown)?;
        let (id, rest) = rest.split_once('$').ok_or(ForeignError::Unknown)?;
        let kind = match id {
            "2a" | "2b" | "2y" => bcrypt_kind(text)?,
            "5" => sha_crypt_kind(rest, 43)?,
            "6" => sha_crypt_kind(rest, 86)?,
            "y" => yescrypt_kind(rest, memory_kib_max)?,
            "scrypt" => scrypt_kind(rest, memory_kib_max)?,
            "pbkdf2" => pbkdf2_kind(Function::Sha1, rest)?,
            "pbkdf2-sha256" => pbkdf2_kind(Function::Sha256, rest)?,
            "pbkdf2-sha512" => pbkdf2_kind(Function::Sha512, rest)?,
            "1" | "apr1" | "md5" => return Err(ForeignError::Broken("MD5")),
            _ => return Err(ForeignError::Unknown),
        };
        Ok(Self::new(kind, text))
    }

    /// `$1$salt$iterations$output`, the output in hexadecimal; the salt is its text.
    fn dovecot_pbkdf2(text: &str) -> Result<Self, ForeignError> {
        let malformed = ForeignError::Malformed("PBKDF2");
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "1", salt, iterations, output] = parts.as_slice() else {
            return Err(malformed);
        };
        let output = decode_hex(output).filter(|output| OUTPUT_BYTES.contains(&output.len()));
        let kind = Kind::Pbkdf2 {
            function: Function::Sha1,
            iterations: bounded_iterations(iterations)?,
            salt: salt.as_bytes().to_vec(),
            output: output.ok_or(malformed)?,
        };
        Ok(Self::new(kind, text))
    }

    fn new(kind: Kind, text: &str) -> Self {
        Self {
            kind,
            text: Zeroizing::new(text.to_owned()),
        }
    }

    /// Memory that a comparison holds, in KiB.
    pub(super) fn memory_kib(&self) -> u32 {
        match &self.kind {
            Kind::Yescrypt { memory_kib } | Kind::Scrypt { memory_kib, .. } => *memory_kib,
            Kind::Bcrypt { .. }
            | Kind::ShaCrypt { .. }
            | Kind::Pbkdf2 { .. }
            | Kind::Digest { .. } => 0,
        }
    }

    /// What is weak about it, if whoever steals it can guess against it cheaply.
    pub fn weakness(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Digest { salt, .. } if salt.is_empty() => Some("a single digest without salt"),
            Kind::Digest { .. } => Some("a single digest"),
            Kind::Bcrypt { cost } if *cost < 10 => Some("bcrypt with a cost below 10"),
            Kind::ShaCrypt { rounds } if *rounds < 100_000 => {
                Some("SHA-crypt with less than 100000 rounds")
            }
            Kind::Pbkdf2 { iterations, .. } if iterations.get() < 100_000 => {
                Some("PBKDF2 with less than 100000 iterations")
            }
            Kind::Scrypt { memory_kib, .. } | Kind::Yescrypt { memory_kib }
                if *memory_kib < 4096 =>
            {
                Some("scrypt or yescrypt with less than 4 MiB")
            }
            Kind::Bcrypt { .. }
            | Kind::ShaCrypt { .. }
            | Kind::Yescrypt { .. }
            | Kind::Scrypt { .. }
            | Kind::Pbkdf2 { .. } => None,
        }
    }

    /// Whether `password` is the one that was hashed.
    pub(super) fn matches(&self, password: &[u8]) -> Result<bool, HashingFailed> {
        let text = self.text.as_str();
        match &self.kind {
            Kind::Bcrypt { .. } => bcrypt::verify(password, text).map_err(|_| HashingFailed),
            // A wrong password, and whatever else they may find wrong, is an error to these two.
            Kind::ShaCrypt { .. } => {
                Ok(ShaCrypt::default().verify_password(password, text).is_ok())
            }
            Kind::Yescrypt { .. } => {
                Ok(Yescrypt::default().verify_password(password, text).is_ok())
            }
            Kind::Scrypt {
                parameters,
                salt,
                output,
                ..
            } => {
                let mut computed = Zeroizing::new(vec![0; output.len()]);
                scrypt::scrypt(password, salt, parameters, &mut computed)
                    .map_err(|_| HashingFailed)?;
                Ok(computed.ct_eq(output).into())
            }
            Kind::Pbkdf2 {
                function,
                iterations,
                salt,
                output,
            } => {
                let algorithm = match function {
                    Function::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
                    Function::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
                    Function::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
                };
                let mut computed = Zeroizing::new(vec![0; output.len()]);
                pbkdf2::derive(algorithm, *iterations, salt, password, &mut computed);
                Ok(computed.ct_eq(output).into())
            }
            Kind::Digest {
                function,
                salt,
                output,
            } => {
                let mut context = digest::Context::new(function.digest());
                context.update(password);
                context.update(salt);
                Ok(context.finish().as_ref().ct_eq(output).into())
            }
        }
    }

    /// Whether both are the same stored text.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.text.as_bytes().ct_eq(other.text.as_bytes()).into()
    }

    /// All that makes it the one that it is.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for ForeignHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Bcrypt { .. } => "ForeignHash(bcrypt, ..)",
            Kind::ShaCrypt { .. } => "ForeignHash(SHA-crypt, ..)",
            Kind::Yescrypt { .. } => "ForeignHash(yescrypt, ..)",
            Kind::Scrypt { .. } => "ForeignHash(scrypt, ..)",
            Kind::Pbkdf2 { .. } => "ForeignHash(PBKDF2, ..)",
            Kind::Digest { .. } => "ForeignHash(digest, ..)",
        })
    }
}

impl Function {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn output_bytes(self) -> usize {
        self.digest().output_len()
    }
}

/// `$2b$05$`, 22 characters of salt, 31 of output.
fn bcrypt_kind(text: &str) -> Result<Kind, ForeignError> {
    let parts: bcrypt::HashParts = text
        .parse()
        .map_err(|_| ForeignError::Malformed("bcrypt"))?;
    let cost = parts.get_cost();
    if cost > *BCRYPT_COST.end() {
        return Err(ForeignError::TooSlow {
            rounds: cost,
            unit: "as bcrypt's cost",
            allowed: *BCRYPT_COST.end(),
        });
    }
    match BCRYPT_COST.contains(&cost) {
        true => Ok(Kind::Bcrypt { cost }),
        false => Err(ForeignError::Malformed("bcrypt")),
    }
}

/// `[rounds=N$]salt$output`
fn sha_crypt_kind(rest: &str, output_characters: usize) -> Result<Kind, ForeignError> {
    let malformed = ForeignError::Malformed("SHA-crypt");
    let (rounds, rest) = match rest
        .strip_prefix("rounds=")
        .and_then(|rest| rest.split_once('$'))
    {
        Some((rounds, rest)) => (number(rounds).ok_or(malformed)?, rest),
        None => (sha_crypt::Params::RECOMMENDED_ROUNDS, rest),
    };
    let (salt, output) = rest.split_once('$').ok_or(malformed)?;
    if rounds > *SHA_CRYPT_ROUNDS.end() {
        return Err(ForeignError::TooSlow {
            rounds,
            unit: "rounds",
            allowed: *SHA_CRYPT_ROUNDS.end(),
        });
    }
    let well_formed = SHA_CRYPT_ROUNDS.contains(&rounds)
        && (1..=16).contains(&salt.len())
        && salt.bytes().all(is_crypt_character)
        && output.len() == output_characters
        && output.bytes().all(is_crypt_character);
    match well_formed {
        true => Ok(Kind::ShaCrypt { rounds }),
        false => Err(malformed),
    }
}

/// `parameters$salt$output`; the parameters in the one form that crypt(3) makes: flavour, `N`, `r`, nothing else.
fn yescrypt_kind(rest: &str, memory_kib_max: u32) -> Result<Kind, ForeignError> {
    let malformed = ForeignError::Malformed("yescrypt");
    let parts: Vec<&str> = rest.split('$').collect();
    let [parameters, salt, output] = parts.as_slice() else {
        return Err(malformed);
    };
    let read: yescrypt::Params = parameters.parse().map_err(|_| malformed)?;
    let (n, r) = (read.n(), read.r());
    let plain = yescrypt::Params::new(yescrypt::Mode::default(), n, r, 1).map_err(|_| malformed)?;
    let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
    let well_formed = read == plain
        && n.is_power_of_two()
        && LOG_N.contains(&log_n)
        && SCRYPT_R.contains(&r)
        && (1..=86).contains(&salt.len())
        && salt.bytes().all(is_crypt_character)
        && output.len() == YESCRYPT_OUTPUT_CHARACTERS
        && output.bytes().all(is_crypt_character);
    if !well_formed {
        return Err(malformed);
    }
    let memory_kib = bounded_memory(log_n, r, memory_kib_max)?;
    Ok(Kind::Yescrypt { memory_kib })
}

/// `ln=N,r=R,p=P$salt$output`
fn scrypt_kind(rest: &str, memory_kib_max: u32) -> Result<Kind, ForeignError> {
    let malformed = ForeignError::Malformed("scrypt");
    let parts: Vec<&str> = rest.split('$').collect();
    let [parameters, salt, output] = parts.as_slice() else {
        return Err(malformed);
    };
    let parameters: Vec<&str> = parameters.split(',').collect();
    let [log_n, r, p] = parameters.as_slice() else {
        return Err(malformed);
    };
    let value = |text: &str, key: &str| text.strip_prefix(key).and_then(number).ok_or(malformed);
    let (log_n, r, p) = (value(log_n, "ln=")?, value(r, "r=")?, value(p, "p=")?);
    let log_n = u8::try_from(log_n).map_err(|_| malformed)?;
    if !(LOG_N.contains(&log_n) && SCRYPT_R.contains(&r) && SCRYPT_P.contains(&p)) {
        return Err(malformed);
    }
    let memory_kib = bounded_memory(log_n, r, memory_kib_max)?;
    let decode = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| malformed);
    let (salt, output) = (decode(salt)?, decode(output)?);
    if salt.is_empty() || !OUTPUT_BYTES.contains(&output.len()) {
        return Err(malformed);
    }
    Ok(Kind::Scrypt {
        parameters: scrypt::Params::new(log_n, r, p).map_err(|_| malformed)?,
        memory_kib,
        salt,
        output,
    })
}

/// `iterations$salt$output` in passlib's base64, or `i=N,l=L$salt$output` in that of the PHC format.
fn pbkdf2_kind(function: Function, rest: &str) -> Result<Kind, ForeignError> {
    let malformed = ForeignError::Malformed("PBKDF2");
    let parts: Vec<&str> = rest.split('$').collect();
    let [parameters, salt, output] = parts.as_slice() else {
        return Err(malformed);
    };
    let phc = parameters.strip_prefix("i=");
    let iterations = match phc {
        Some(text) => text
            .split_once(",l=")
            .map_or(text, |(iterations, _)| iterations),
        None => parameters,
    };
    let decode = |text: &str| match phc {
        Some(_) => BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| malformed),
        None => DOTTED.decode(text).map_err(|_| malformed),
    };
    let (salt, output) = (decode(salt)?, decode(output)?);
    if salt.is_empty() || !OUTPUT_BYTES.contains(&output.len()) {
        return Err(malformed);
    }
    Ok(Kind::Pbkdf2 {
        function,
        iterations: bounded_iterations(iterations)?,
        salt,
        output,
    })
}

fn bounded_iterations(text: &str) -> Result<NonZeroU32, ForeignError> {
    let iterations = number(text).ok_or(ForeignError::Malformed("PBKDF2"))?;
    if iterations > *PBKDF2_ITERATIONS.end() {
        return Err(ForeignError::TooSlow {
            rounds: iterations,
            unit: "iterations",
            allowed: *PBKDF2_ITERATIONS.end(),
        });
    }
    NonZeroU32::new(iterations).ok_or(ForeignError::Malformed("PBKDF2"))
}

/// What `N` blocks of `r` times 128 octets take.
fn bounded_memory(log_n: u8, r: u32, memory_kib_max: u32) -> Result<u32, ForeignError> {
    let memory_kib = ((u64::from(r) * 128) << log_n) >> 10;
    u32::try_from(memory_kib)
        .ok()
        .filter(|kib| *kib <= memory_kib_max)
        .ok_or(ForeignError::TooMuchMemory {
            memory_kib,
            allowed_kib: memory_kib_max,
        })
}

fn is_crypt_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"./".contains(&byte)
}

/// A number without sign, blanks or zeros in front.
fn number(text: &str) -> Option<u32> {
    let well_formed = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| well_formed)
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let octet = |[high, low]: &[u8; 2]| u8::try_from((digit(high)? << 4) | digit(low)?).ok();
    pairs
        .iter()
        .map(octet)
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "correct horse": made by crypt(3) of libxcrypt and by Python's hashlib.
    const HASHES: [(&str, bool); 24] = [
        (
            "$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
            true,
        ),
        (
            "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
            true,
        ),
        (
            "$2a$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
            true,
        ),
        (
            "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
            true,
        ),
        (
            "$6$saltstring$.r0X7ub5wGR2v4Xz7svCIozfnlorFh19V89t8KC9Umd81uGhFgsyTRNyzQDXDIm17fFcR9z3z7oBNdsyYBbtm/",
            true,
        ),
        (
            "{SHA512-CRYPT}$6$rounds=1500$saltstring$RhZq6/mcJWFyZQR.a/UKNEOAfBmEJDsptLR3/GTkHCT83PNdNkHNY2FzNAWgPwBAmNccxC/Og4oBy6yiwqlke1",
            true,
        ),
        (
            "$5$saltstring$vc6YOOogU4kWVvwga8e9zTFgKcy4tb5LaPxIiPJzqEC",
            true,
        ),
        (
            "{SHA256-CRYPT}$5$rounds=1500$salt$WLmCiJuVdOs6P9l9Zrrob7ASuOj5U8SyccQe1oswKb3",
            true,
        ),
        (
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79",
            false,
        ),
        (
            "{CRYPT}$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79",
            false,
        ),
        (
            "$scrypt$ln=10,r=8,p=1$c2FsdCBvZiAxNiBieXRlcw$BHc/cXoolV5334IG/A3i9ewt5JlwLulMwaUAokA+V8s",
            true,
        ),
        (
            "$pbkdf2$1000$c2FsdCBvZiAxNiBieXRlcw$So2zoiNbzhIrgLP/jYvdJvnDXg0",
            true,
        ),
        (
            "$pbkdf2-sha256$1000$c2FsdCBvZiAxNiBieXRlcw$gjAg4G0o3A6i2kepk4hz39M5y0pP5Xcc9Mfg/CFmTt8",
            true,
        ),
        (
            "$pbkdf2-sha256$i=1000,l=32$c2FsdCBvZiAxNiBieXRlcw$gjAg4G0o3A6i2kepk4hz39M5y0pP5Xcc9Mfg/CFmTt8",
            true,
        ),
        (
            "$pbkdf2-sha512$1000$c2FsdCBvZiAxNiBieXRlcw$I5boQTRH3rzfyZo5nPHPTxH4agIHHE7FLtXxRw4M72coUhF5WUqlWLKuR6w7/iMrpO8a53jB.V9muXBXOo7KEg",
            true,
        ),
        (
            "$pbkdf2-sha512$i=1000,l=64$c2FsdCBvZiAxNiBieXRlcw$I5boQTRH3rzfyZo5nPHPTxH4agIHHE7FLtXxRw4M72coUhF5WUqlWLKuR6w7/iMrpO8a53jB+V9muXBXOo7KEg",
            true,
        ),
        (
            "{PBKDF2}$1$abcdefgh$5000$6d70aecd0318c531fdfa63564f9c318b4fbddc22",
            true,
        ),
        ("{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=", true),
        ("{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0", true),
        (
            "{ssha.hex}2e12ab90cf45cbece5b2d8dd0fb2afdace90be1073616c74",
            true,
        ),
        ("{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE=", true),
        (
            "{SSHA256}n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdApzYWx0",
            true,
        ),
        (
            "{SHA512}VraY3v7bWkNbY0r+MyC7rz/c2SC2xQOkRvx7endrKY1HnRumqLYXgI6wv1ec6aldZoNHvKtxSQhayTyyeZUZew==",
            true,
        ),
        (
            "{SSHA512.b64}MObRFvUHqU5pLIXjc0HkeJH+PKVdEQk34oSyXkDftCxTU6Fk9rWjilWA553MtCFyazGhAOPiDyO1Rv1hndA96XNhbHQ",
            true,
        ),
    ];

    #[test]
    fn hashes_of_other_programs() {
        for (text, weak) in HASHES {
            let hash =
                ForeignHash::parse(text, 1 << 15).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(hash.matches(b"correct horse"), Ok(true), "{text}");
            assert_eq!(hash.matches(b"correct horsE"), Ok(false), "{text}");
            assert_eq!(hash.matches(b""), Ok(false), "{text}");
            assert_eq!(hash.weakness().is_some(), weak, "{text}");
            assert!(hash.same_as(&hash.clone()));
            assert!(!format!("{hash:?}").contains("salt"));
        }
    }

    /// A text that has lost its end is refused, or lets nobody in who does not know the password.
    #[test]
    fn damaged_hashes() {
        for (text, _) in HASHES {
            for cut in 0..text.len() {
                let Ok(hash) = ForeignHash::parse(&text[..cut], 1 << 15) else {
                    continue;
                };
                // What is left of a salt that stands at the end, of padding, or of an output that is long enough.
                let salt_at_end = text.to_ascii_uppercase().starts_with("{SSHA");
                let padding = text.trim_end_matches('=').len() <= cut;
                let long_output =
                    text.contains("$scrypt$") || text.to_lowercase().contains("pbkdf2");
                assert!(salt_at_end || padding || long_output, "{}", &text[..cut]);
                for wrong in [&b""[..], b"correct hors"] {
                    assert_eq!(hash.matches(wrong), Ok(false), "{}", &text[..cut]);
                }
            }
        }
    }

    #[test]
    fn what_is_refused() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let too_slow = |rounds, unit, allowed| ForeignError::TooSlow {
            rounds,
            unit,
            allowed,
        };
        for (text, error) in [
            ("", ForeignError::Unknown),
            ("hunter2", ForeignError::Unknown),
            ("{PLAIN}hunter2", ForeignError::PlainText),
            ("{CLEARTEXT}hunter2", ForeignError::PlainText),
            (
                "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
                ForeignError::Broken("MD5"),
            ),
            (
                "$apr1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
                ForeignError::Broken("MD5"),
            ),
            ("{MD5}qjXMvbEw8oaL", ForeignError::Broken("MD5")),
            ("{DES-CRYPT}ab01FAX.bQRSU", ForeignError::Broken("DES")),
            ("ab01FAX.bQRSU", ForeignError::Unknown),
            (
                "{NTLM}31d6cfe0d16ae931b73c59d7e0c089c0",
                ForeignError::Unknown,
            ),
            ("$7$DU..../....$x", ForeignError::Unknown),
            (
                "{SSHA}L55TUjtiq8FBorTWAZ0jy6g129A=",
                ForeignError::Malformed("SHA"),
            ),
            (
                "{SHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0",
                ForeignError::Malformed("SHA"),
            ),
            (
                "$2b$16$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
                too_slow(16, "as bcrypt's cost", 15),
            ),
            (
                "$2b$03$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
                ForeignError::Malformed("bcrypt"),
            ),
            (
                "$2x$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
                ForeignError::Unknown,
            ),
            (
                "$5$rounds=1000001$salt$WLmCiJuVdOs6P9l9Zrrob7ASuOj5U8SyccQe1oswKb3",
                too_slow(1_000_001, "rounds", 1_000_000),
            ),
            (
                "$5$rounds=10$salt$WLmCiJuVdOs6P9l9Zrrob7ASuOj5U8SyccQe1oswKb3",
                ForeignError::Malformed("SHA-crypt"),
            ),
            (
                "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$",
                ForeignError::Malformed("yescrypt"),
            ),
            (
                "$y$jzT$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79",
                ForeignError::Malformed("yescrypt"),
            ),
            (
                "$scrypt$ln=20,r=8,p=1$c2FsdA$BHc/cXoolV5334IG/A3i9ewt5JlwLulMwaUAokA+V8s",
                ForeignError::TooMuchMemory {
                    memory_kib: 1 << 20,
                    allowed_kib: 1 << 15,
                },
            ),
            (
                "$scrypt$ln=63,r=8,p=1$c2FsdA$BHc/cXoolV5334IG/A3i9ewt5JlwLulMwaUAokA+V8s",
                ForeignError::Malformed("scrypt"),
            ),
            (
                "$scrypt$ln=10,r=4294967295,p=4294967295$c2FsdA$BHc/cXoolV5334IG/A3i9ewt5JlwLulMwaUAokA+V8s",
                ForeignError::Malformed("scrypt"),
            ),
            (
                "$scrypt$ln=10,r=8,p=1$c2FsdA$",
                ForeignError::Malformed("scrypt"),
            ),
            (
                "$pbkdf2-sha256$0$c2FsdA$gjAg4G0o3A6i2kepk4hz39M5y0pP5Xcc9Mfg/CFmTt8",
                ForeignError::Malformed("PBKDF2"),
            ),
            (
                "$pbkdf2-sha256$5000001$c2FsdA$gjAg4G0o3A6i2kepk4hz39M5y0pP5Xcc9Mfg/CFmTt8",
                too_slow(5_000_001, "iterations", 5_000_000),
            ),
            (
                "$pbkdf2-sha256$1000$c2FsdA$",
                ForeignError::Malformed("PBKDF2"),
            ),
            (&long, ForeignError::Unknown),
        ] {
            assert_eq!(
                ForeignHash::parse(text, 1 << 15).unwrap_err(),
                error,
                "{text}"
            );
        }
    }
}

//! Addresses of the envelope: mailboxes, reverse-paths and forward-paths (RFC 5321 section 4.1.2).
//!
//! ```text
//! Reverse-path  = Path / "<>"                   Forward-path = Path / "<Postmaster>"
//! Path          = "<" [ A-d-l ":" ] Mailbox ">"
//! Mailbox       = Local-part "@" ( Domain / address-literal )
//! Local-part    = Dot-string / Quoted-string
//! ```
//!
//! Text becomes a type here and stays one. A source route (`A-d-l`) is accepted and dropped (RFC 5321 section 4.1.1.3
//! and appendix C). Atoms, quoted strings and domains may hold UTF-8 (RFC 6531 section 3.3); whether that is allowed
//! depends on the message, so whoever takes an address asks [`Mailbox::is_ascii`].
//!
//! An address is kept as it was written, and compared by its meaning: a domain by its A-labels, a local part in
//! normalization form C.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick};

/// RFC 5321 section 4.5.3.1.1: octets in a local part, as written.
const LOCAL_PART_BYTES_MAX: usize = 64;
/// RFC 5321 section 4.5.3.1.2: octets in a domain.
const DOMAIN_BYTES_MAX: usize = 255;
/// RFC 1035 section 2.3.4: octets in one label of a domain.
const LABEL_BYTES_MAX: usize = 63;
/// RFC 5321 section 4.5.3.1.3: octets in a path, brackets and source route included.
const PATH_BYTES_MAX: usize = 256;

/// Why a piece of text is not an address. The text is for the client's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `<...>` around a path, or something behind it.
    #[error("the address belongs in <angle brackets>")]
    Brackets,
    /// Nothing between the brackets where a mailbox is needed.
    #[error("the address is empty")]
    Empty,
    /// The local part is not a dot-string or a quoted string.
    #[error("bad local part")]
    LocalPart,
    /// No `@`, or nothing behind it.
    #[error("the address has no domain")]
    MissingDomain,
    /// The domain is neither a name nor an address literal.
    #[error("bad domain")]
    Domain,
    /// One of the bounds of RFC 5321 section 4.5.3.1.
    #[error("the address is too long")]
    TooLong,
    /// Octets that are not UTF-8.
    #[error("the address is neither ASCII nor UTF-8")]
    NotUtf8,
    /// A source route that does not parse.
    #[error("bad source route")]
    SourceRoute,
}

/// The part before the `@`, without the quoting of its written form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalPart(String);

impl LocalPart {
    /// The meaning, without quotes and backslashes: `"a b"` in quotes is `a b` here.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The meaning in Unicode's normalization form C, in which local parts are compared (RFC 6532 section 3.1): how a
    /// keyboard puts an accent on a letter makes no other mailbox.
    pub fn normalized(&self) -> Cow<'_, str> {
        match is_nfc_quick(self.0.chars()) {
            IsNormalized::Yes => Cow::Borrowed(&self.0),
            IsNormalized::No | IsNormalized::Maybe => Cow::Owned(self.0.nfc().collect()),
        }
    }

    /// Whether both are the same mailbox name for certain: to the letter, case included.
    pub fn same_as(&self, other: &Self) -> bool {
        self.normalized() == other.normalized()
    }
}

impl fmt::Display for LocalPart {
    /// The written form: as a dot-string where that is possible, else quoted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.0) {
            return f.write_str(&self.0);
        }
        f.write_str("\"")?;
        for character in self.0.chars() {
            if matches!(character, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{character}")?;
        }
        f.write_str("\"")
    }
}

/// The part behind the `@`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `[192.0.2.1]`, `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
    /// A name, its labels as given: letters, digits and hyphens in any case, A-labels among them, or U-labels.
    Name(String),
}

impl Domain {
    /// Parses a domain name or an address literal, as a mailbox has it.
    pub fn parse(text: &[u8]) -> Result<Self, AddressError> {
        if text.len() > DOMAIN_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| AddressError::NotUtf8)?;
        if !text.is_ascii() {
            let well_formed = text.split('.').all(is_international_label)
                && idna::domain_to_ascii_strict(text).is_ok();
            return if well_formed {
                Ok(Self::Name(text.to_owned()))
            } else {
                Err(AddressError::Domain)
            };
        }
        if let Some(literal) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return parse_literal(literal)
                .map(Self::Literal)
                .ok_or(AddressError::Domain);
        }
        // An A-label stays as it is written: whoever looks the name up in the DNS finds it under just these octets.
        if text.split('.').all(is_label) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(AddressError::Domain)
        }
    }

    /// Parses a domain that may be written in Unicode (configuration, accounts) and gives its A-label form.
    pub fn parse_international(text: &str) -> Result<Self, AddressError> {
        if text.is_ascii() {
            return Self::parse(text.as_bytes());
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?;
        Self::parse(ascii.as_bytes())
    }

    /// Whether both mean the same: names without regard to case, U-labels and their A-labels alike.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(this), Self::Literal(other)) => this == other,
            (Self::Name(this), Self::Name(other)) if this.is_ascii() && other.is_ascii() => {
                this.eq_ignore_ascii_case(other)
            }
            (Self::Name(this), Self::Name(other)) => a_labels(this) == a_labels(other),
            _ => false,
        }
    }

    /// Whether it holds no U-label.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Literal(_) => true,
            Self::Name(name) => name.is_ascii(),
        }
    }
}

/// A name as the DNS has it, in lower case. A name that [`Domain::parse`] let pass always has this form.
fn a_labels(name: &str) -> String {
    idna::domain_to_ascii(name).unwrap_or_else(|_| name.to_ascii_lowercase())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Self::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `local-part@domain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    local_part: LocalPart,
    domain: Domain,
}

impl Mailbox {
    /// Parses exactly one mailbox and nothing around it.
    pub fn parse(text: &[u8]) -> Result<Self, AddressError> {
        let (local_part, rest) = parse_local_part(text)?;
        let domain = rest.strip_prefix(b"@").ok_or(AddressError::MissingDomain)?;
        if domain.is_empty() {
            return Err(AddressError::MissingDomain);
        }
        Ok(Self {
            local_part,
            domain: Domain::parse(domain)?,
        })
    }

    /// Parses a mailbox from configuration, where the domain may be written in Unicode.
    pub fn parse_international(text: &str) -> Result<Self, AddressError> {
        let (local_part, domain) = text.rsplit_once('@').ok_or(AddressError::MissingDomain)?;
        let domain = Domain::parse_international(domain)?;
        Self::parse(format!("{local_part}@{domain}").as_bytes())
    }

    /// Whether both are the same mailbox for certain.
    pub fn same_as(&self, other: &Self) -> bool {
        self.local_part.same_as(&other.local_part) && self.domain.same_as(&other.domain)
    }

    /// Whether it can go where SMTPUTF8 does not reach.
    pub fn is_ascii(&self) -> bool {
        self.local_part.0.is_ascii() && self.domain.is_ascii()
    }

    /// The part before the `@`.
    pub fn local_part(&self) -> &LocalPart {
        &self.local_part
    }

    /// The part behind the `@`.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local_part, self.domain)
    }
}

/// Where failures are reported to: a mailbox, or nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// An ordinary sender.
    Mailbox(Mailbox),
    /// `<>`: a message that must not cause another one (RFC 5321 section 4.5.5).
    Null,
}

impl ReversePath {
    /// Parses `<...>` as MAIL has it, source route dropped.
    pub fn parse(text: &[u8]) -> Result<Self, AddressError> {
        match parse_path(text)? {
            b"" => Ok(Self::Null),
            inner => Mailbox::parse(inner).map(Self::Mailbox),
        }
    }

    /// Whether it can go where SMTPUTF8 does not reach.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
            Self::Null => true,
        }
    }
}

impl fmt::Display for ReversePath {
    /// The mailbox without brackets; the null reverse-path is the empty text, as in the envelope.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(mailbox) => mailbox.fmt(f),
            Self::Null => Ok(()),
        }
    }
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// An ordinary recipient.
    Mailbox(Mailbox),
    /// `<Postmaster>` without a domain, in any case of letters (RFC 5321 section 4.1.1.3).
    Postmaster,
}

impl ForwardPath {
    /// Parses `<...>` as RCPT has it, source route dropped.
    pub fn parse(text: &[u8]) -> Result<Self, AddressError> {
        match parse_path(text)? {
            b"" => Err(AddressError::Empty),
            inner if inner.eq_ignore_ascii_case(b"postmaster") => Ok(Self::Postmaster),
            inner => Mailbox::parse(inner).map(Self::Mailbox),
        }
    }

    /// Whether it can go where SMTPUTF8 does not reach.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
            Self::Postmaster => true,
        }
    }

    /// Whether both are the same recipient for certain.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mailbox(this), Self::Mailbox(other)) => this.same_as(other),
            (this, other) => this == other,
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(mailbox) => mailbox.fmt(f),
            Self::Postmaster => f.write_str("postmaster"),
        }
    }
}

/// How many octets the path takes at the start of `text`, up to and including the `>` that ends it.
///
/// A `>` inside a quoted local part does not end it. `None` if there is no path, or no end to it.
pub fn path_length(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'<') {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    for (index, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// What is between the brackets, without a source route.
fn parse_path(text: &[u8]) -> Result<&[u8], AddressError> {
    if text.len() > PATH_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    if path_length(text) != Some(text.len()) {
        return Err(AddressError::Brackets);
    }
    let inner = &text[1..text.len() - 1];
    if inner.first() != Some(&b'@') {
        return Ok(inner);
    }
    // A-d-l = At-domain *( "," At-domain ), then ":"
    let colon = inner
        .iter()
        .position(|&byte| byte == b':')
        .ok_or(AddressError::SourceRoute)?;
    // An IPv6 literal holds colons too, but a source route of address literals is nothing that exists.
    for hop in inner[..colon].split(|&byte| byte == b',') {
        let domain = hop.strip_prefix(b"@").ok_or(AddressError::SourceRoute)?;
        Domain::parse(domain).map_err(|_| AddressError::SourceRoute)?;
    }
    match &inner[colon + 1..] {
        b"" => Err(AddressError::Empty),
        mailbox => Ok(mailbox),
    }
}

/// The local part at the start of `text`, and what follows it.
fn parse_local_part(text: &[u8]) -> Result<(LocalPart, &[u8]), AddressError> {
    let (meaning, written) = match text.first() {
        None => return Err(AddressError::Empty),
        Some(b'"') => parse_quoted_string(text)?,
        Some(_) => {
            let end = text
                .iter()
                .position(|&byte| byte == b'@')
                .unwrap_or(text.len());
            let atoms = std::str::from_utf8(&text[..end]).map_err(|_| AddressError::NotUtf8)?;
            if !is_dot_string(atoms) {
                return Err(AddressError::LocalPart);
            }
            (text[..end].to_vec(), end)
        }
    };
    if written > LOCAL_PART_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    let meaning = String::from_utf8(meaning).map_err(|_| AddressError::NotUtf8)?;
    if !meaning.chars().all(|c| c.is_ascii() || is_utf8_text(c)) {
        return Err(AddressError::LocalPart);
    }
    Ok((LocalPart(meaning), &text[written..]))
}

/// `Quoted-string = DQUOTE *QcontentSMTP DQUOTE`: its meaning, and how many octets it took.
fn parse_quoted_string(text: &[u8]) -> Result<(Vec<u8>, usize), AddressError> {
    let mut meaning = Vec::new();
    let mut index = 1;
    loop {
        match text.get(index) {
            Some(b'"') => return Ok((meaning, index + 1)),
            Some(b'\\') => {
                index += 1;
                match text.get(index) {
                    Some(&byte @ b' '..=b'~') => meaning.push(byte),
                    _ => return Err(AddressError::LocalPart),
                }
            }
            Some(&byte @ (b' '..=b'~' | 0x80..)) => meaning.push(byte),
            _ => return Err(AddressError::LocalPart),
        }
        index += 1;
    }
}

/// `Dot-string = Atom *("." Atom)`, with `atext =/ UTF8-non-ascii` (RFC 6531 section 3.3).
fn is_dot_string(text: &str) -> bool {
    let is_atom_character = |c: char| match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => is_atext(byte),
        _ => is_utf8_text(c),
    };
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atom_character))
}

/// Whether a character beyond ASCII may stand in a local part.
///
/// RFC 6531 lets all of them in. But who could send as an address that holds what nobody can see (controls, separators,
/// blanks, changes of direction), could make people read another one. The joiners of Arabic and Indic scripts stay.
fn is_utf8_text(c: char) -> bool {
    let invisible = matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !invisible && !c.is_control() && !c.is_whitespace()
}

/// RFC 5322 section 3.2.3.
pub fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// A label of letters, digits and inner hyphens. An underscore is no letter of a host name, but domains with one send
/// and receive mail every day, so it passes.
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// A label that may be a U-label (RFC 5890 section 2.3.2.1): it becomes an A-label and comes back as what it was, but for
/// the letters' case. What IDNA's mapping would quietly turn into something else (invisible characters, full-width
/// letters, other kinds of full stop) is none.
fn is_international_label(label: &str) -> bool {
    if label.is_ascii() {
        return is_label(label);
    }
    idna::domain_to_ascii_strict(label).is_ok_and(|a_label| {
        let (back, errors) = idna::domain_to_unicode(&a_label);
        errors.is_ok() && back == label.to_lowercase()
    })
}

/// The inside of `[...]`: an IPv4 address, or `IPv6:` and an IPv6 address (RFC 5321 section 4.1.3).
fn parse_literal(text: &str) -> Option<IpAddr> {
    let tag = "IPv6:";
    match text.get(..tag.len()) {
        Some(start) if start.eq_ignore_ascii_case(tag) => {
            text[tag.len()..].parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths() {
        for (text, canonical) in [
            ("<alice@example.org>", "alice@example.org"),
            ("<a.b+c@EXAMPLE.org>", "a.b+c@EXAMPLE.org"),
            ("<\"a b\"@example.org>", "\"a b\"@example.org"),
            ("<\"ab\"@example.org>", "ab@example.org"),
            (
                "<\"a\\\"b\\\\c\"@example.org>",
                "\"a\\\"b\\\\c\"@example.org",
            ),
            ("<\"a>b@c\"@example.org>", "\"a>b@c\"@example.org"),
            ("<\"\"@example.org>", "\"\"@example.org"),
            ("<x@[192.0.2.1]>", "x@[192.0.2.1]"),
            ("<x@[IPv6:2001:db8::1]>", "x@[IPv6:2001:db8::1]"),
            ("<x@[ipv6:2001:DB8:0::1]>", "x@[IPv6:2001:db8::1]"),
            (
                "<@hub.example,@relay.example:x@example.org>",
                "x@example.org",
            ),
            ("<x@xn--bcher-kva.example>", "x@xn--bcher-kva.example"),
            ("<x@localhost>", "x@localhost"),
            ("<x@_dmarc.example.org>", "x@_dmarc.example.org"),
            (
                "<\u{fc}ser@b\u{fc}cher.example>",
                "\u{fc}ser@b\u{fc}cher.example",
            ),
            ("<\"\u{fc} b\"@example.org>", "\"\u{fc} b\"@example.org"),
            ("<\"\u{fc}b\"@example.org>", "\u{fc}b@example.org"),
            (
                "<\u{7528}\u{6237}@\u{4f8b}\u{5b50}.example>",
                "\u{7528}\u{6237}@\u{4f8b}\u{5b50}.example",
            ),
            ("<x@B\u{dc}CHER.example>", "x@B\u{dc}CHER.example"),
            (
                "<x@b\u{fc}cher.xn--bcher-kva.example>",
                "x@b\u{fc}cher.xn--bcher-kva.example",
            ),
            ("<@b\u{fc}cher.example:x@example.org>", "x@example.org"),
            ("<POSTmaster>", "postmaster"),
            ("<postmaster@example.org>", "postmaster@example.org"),
        ] {
            let path = ForwardPath::parse(text.as_bytes())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(path.to_string(), canonical, "{text}");
        }
        assert_eq!(ReversePath::parse(b"<>"), Ok(ReversePath::Null));
        for text in [
            &b"<\xe9@example.org>"[..],
            b"<\"\xff\"@example.org>",
            b"<a@b\xfccher.example>",
        ] {
            assert_eq!(ForwardPath::parse(text), Err(AddressError::NotUtf8));
        }
    }

    #[test]
    fn what_needs_smtputf8() {
        for (text, ascii) in [
            ("<alice@example.org>", true),
            ("<alice@xn--bcher-kva.example>", true),
            ("<alice@b\u{fc}cher.example>", false),
            ("<\u{e9}@example.org>", false),
            ("<\"\u{e9}\"@example.org>", false),
            ("<x@[192.0.2.1]>", true),
            ("<postmaster>", true),
        ] {
            let path = ForwardPath::parse(text.as_bytes()).unwrap();
            assert_eq!(path.is_ascii(), ascii, "{text}");
        }
        assert!(ReversePath::Null.is_ascii());
    }

    #[test]
    fn addresses_are_compared_by_their_meaning() {
        for (this, other, same) in [
            ("a@example.org", "a@EXAMPLE.org", true),
            ("a@example.org", "A@example.org", false),
            ("a@b\u{fc}cher.example", "a@xn--bcher-kva.example", true),
            ("a@B\u{dc}CHER.example", "a@XN--BCHER-KVA.Example", true),
            ("a@b\u{fc}cher.example", "a@bucher.example", false),
            // Two letters, and two domains: the sharp s is no spelling of ss.
            ("a@fa\u{df}.example", "a@fass.example", false),
            ("a@fa\u{df}.example", "a@xn--fa-hia.example", true),
            // An accent in one character or in two.
            ("r\u{e9}my@example.org", "re\u{301}my@example.org", true),
            ("r\u{e9}my@example.org", "remy@example.org", false),
            ("r\u{e9}my@example.org", "R\u{c9}MY@example.org", false),
            // A ligature is another name, though it looks like one: compatibility is not asked for.
            ("\u{fb01}@example.org", "fi@example.org", false),
            // The Cyrillic a is another letter.
            ("\u{430}@example.org", "a@example.org", false),
            ("a@\u{430}.example", "a@a.example", false),
        ] {
            let parse = |text: &str| Mailbox::parse(text.as_bytes()).unwrap();
            assert_eq!(parse(this).same_as(&parse(other)), same, "{this} {other}");
            assert_eq!(parse(other).same_as(&parse(this)), same, "{other} {this}");
        }
    }

    #[test]
    fn bad_paths() {
        use AddressError::*;
        let long_local = format!("<{}@example.org>", "a".repeat(65));
        let long_label = format!("<a@{}.org>", "b".repeat(64));
        let long_path = format!("<a@{}org>", "b.".repeat(130));
        // 33 characters, 66 octets.
        let long_utf8_local = format!("<{}@example.org>", "\u{e9}".repeat(33));
        // As a U-label it would fit.
        let long_utf8_label = format!("<a@{}.org>", "\u{10d0}".repeat(20) + &"x".repeat(40));
        for (text, error) in [
            ("alice@example.org", Brackets),
            ("<alice@example.org", Brackets),
            ("<alice@example.org>>", Brackets),
            ("<alice@example.org> ", Brackets),
            ("", Brackets),
            ("<>", Empty),
            ("<alice>", MissingDomain),
            ("<alice@>", MissingDomain),
            ("<@example.org>", SourceRoute),
            ("<@:x@example.org>", SourceRoute),
            ("<@a.example:>", Empty),
            ("<.a@example.org>", LocalPart),
            ("<a..b@example.org>", LocalPart),
            ("<a b@example.org>", LocalPart),
            ("<a@b@example.org>", Domain),
            ("<\"a\x01\"@example.org>", LocalPart),
            ("<a@-example.org>", Domain),
            ("<a@example..org>", Domain),
            ("<a@.org>", Domain),
            ("<a@exam ple.org>", Domain),
            ("<a@[300.1.1.1]>", Domain),
            ("<a@[IPv6:zz]>", Domain),
            ("<a@[2001:db8::1]>", Domain),
            ("<a@[]>", Domain),
            ("<a\u{85}@example.org>", LocalPart),
            ("<a\u{a0}b@example.org>", LocalPart),
            ("<\"a\u{202e}b\"@example.org>", LocalPart),
            ("<\"a\u{2028}b\"@example.org>", LocalPart),
            ("<a\u{200b}b@example.org>", LocalPart),
            ("<\u{e9}\u{e9}..x@example.org>", LocalPart),
            ("<a@exam\u{ad}ple.org>", Domain),
            ("<a@\u{ff45}xample.org>", Domain),
            ("<a@b\u{fc}cher\u{3002}example>", Domain),
            ("<a@-b\u{fc}cher.example>", Domain),
            ("<a@bu\u{308}cher.example>", Domain),
            ("<a@b\u{fc}cher_x.example>", Domain),
            ("<a@\u{627}1\u{61}.example>", Domain),
            (&long_utf8_local, TooLong),
            (&long_utf8_label, Domain),
            (&long_local, TooLong),
            (&long_label, Domain),
            (&long_path, TooLong),
        ] {
            assert_eq!(ForwardPath::parse(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn international_domains_become_a_labels() {
        let local = Mailbox::parse_international("\u{fc}@b\u{fc}cher.example").unwrap();
        assert_eq!(local.to_string(), "\u{fc}@xn--bcher-kva.example");
        let mailbox = Mailbox::parse_international("info@b\u{fc}cher.example").unwrap();
        assert_eq!(mailbox.to_string(), "info@xn--bcher-kva.example");
        assert!(
            mailbox
                .domain()
                .same_as(&Domain::Name("XN--BCHER-KVA.example".to_owned()))
        );
    }

    #[test]
    fn a_path_ends_at_its_own_bracket() {
        assert_eq!(path_length(b"<a@b> SIZE=1"), Some(5));
        assert_eq!(path_length(b"<\"a>\\\"\"@b> X"), Some(10));
        assert_eq!(path_length(b"<\"a>b"), None);
        assert_eq!(path_length(b"a@b>"), None);
    }
}

//! The addresses of From and Sender (RFC 5322 section 3.4, RFC 6854 for groups).
//!
//! This is a gate, not a reader: it must find every address that any mail program might show, and refuse what it
//! cannot be sure of. So an unquoted display name that is an address counts as an address too
//! (`a@b.example <c@d.example>` names two), while comments and quoted strings, which no program takes for an
//! address, are passed over. Octets above 127 may stand in display names, and in addresses that are UTF-8 (RFC 6532);
//! whether the message may have such addresses is for others to say.

use crate::smtp::address::{Mailbox, is_atext};

/// How deep comments may be nested.
const COMMENT_DEPTH_MAX: usize = 32;
/// How many addresses one field may name.
const ADDRESSES_MAX: usize = 100;
/// Octets in one field: so many addresses, each as long as it may be. What is read of it takes some forty times its size.
const VALUE_BYTES_MAX: usize = 32 << 10;

/// Why a From or Sender field is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorError {
    /// No address in it.
    #[error("no address")]
    NoAddress,
    /// An address that is none.
    #[error("malformed address")]
    Address,
    /// Quotes, brackets or comments that do not close, or stand where they may not.
    #[error("malformed")]
    Syntax,
    /// More addresses than anybody reads.
    #[error("too many addresses")]
    TooMany,
}

/// All addresses in the value of a From or Sender field, in their order.
pub fn parse_author(value: &[u8]) -> Result<Vec<Mailbox>, AuthorError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(AuthorError::TooMany);
    }
    let tokens = tokens(value)?;
    let mut addresses = Vec::new();
    let mut in_group = false;
    let mut rest = &tokens[..];
    // One turn of this loop reads one member of the list, up to its comma.
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|token| matches!(token, Token::Special(b',' | b':' | b';')))
            .unwrap_or(rest.len());
        let (member, tail) = rest.split_at(end);
        let ended_by = tail.first();
        rest = tail.get(1..).unwrap_or_default();
        match ended_by {
            Some(Token::Special(b':')) => {
                // group = display-name ":" [group-list] ";"
                if in_group || member.is_empty() || !member.iter().all(Token::is_word_or_period) {
                    return Err(AuthorError::Syntax);
                }
                in_group = true;
                continue;
            }
            Some(Token::Special(b';')) => {
                if !in_group {
                    return Err(AuthorError::Syntax);
                }
                in_group = false;
            }
            _ => {}
        }
        parse_member(member, &mut addresses)?;
        if addresses.len() > ADDRESSES_MAX {
            return Err(AuthorError::TooMany);
        }
    }
    if in_group {
        return Err(AuthorError::Syntax);
    }
    if addresses.is_empty() {
        Err(AuthorError::NoAddress)
    } else {
        Ok(addresses)
    }
}

/// `mailbox = [display-name] "<" addr-spec ">" / addr-spec`; nothing at all is allowed (obsolete empty members).
fn parse_member(member: &[Token], addresses: &mut Vec<Mailbox>) -> Result<(), AuthorError> {
    let Some(open) = member
        .iter()
        .position(|token| *token == Token::Special(b'<'))
    else {
        if member.is_empty() {
            return Ok(());
        }
        // Without brackets all of it is the address.
        addresses.push(address(member)?);
        return Ok(());
    };
    let (name, bracketed) = member.split_at(open);
    let [Token::Special(b'<'), inner @ .., Token::Special(b'>')] = bracketed else {
        return Err(AuthorError::Syntax);
    };
    // A display name that is an address counts as one: it is what some programs show alone.
    if name.contains(&Token::Special(b'@')) {
        addresses.push(address(name)?);
    }
    if name
        .iter()
        .any(|token| matches!(token, Token::Special(b'>') | Token::Literal(_)))
    {
        return Err(AuthorError::Syntax);
    }
    addresses.push(address(inner)?);
    Ok(())
}

/// `addr-spec = local-part "@" domain`, its tokens put together without the blanks and comments that obsolete syntax
/// allows between them.
fn address(tokens: &[Token]) -> Result<Mailbox, AuthorError> {
    let mut text = Vec::new();
    let mut previous_is_word = false;
    for token in tokens {
        let is_word = matches!(token, Token::Atom(_) | Token::Quoted(_));
        // Two words without a period between are two things.
        if is_word && previous_is_word {
            return Err(AuthorError::Address);
        }
        previous_is_word = is_word;
        match token {
            Token::Atom(bytes) | Token::Quoted(bytes) | Token::Literal(bytes) => {
                text.extend_from_slice(bytes)
            }
            Token::Special(byte) => text.push(*byte),
        }
    }
    Mailbox::parse(&text).map_err(|_| AuthorError::Address)
}

/// A lexical token (RFC 5322 section 3.2), comments and blanks gone.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A run of atext, or of octets above 127.
    Atom(Vec<u8>),
    /// `[...]`, brackets included.
    Literal(Vec<u8>),
    /// `"..."`, quotes and backslashes included.
    Quoted(Vec<u8>),
    /// One of `<>@,;:.`
    Special(u8),
}

impl Token {
    fn is_word_or_period(&self) -> bool {
        matches!(self, Self::Atom(_) | Self::Quoted(_) | Self::Special(b'.'))
    }
}

fn tokens(value: &[u8]) -> Result<Vec<Token>, AuthorError> {
    let mut tokens = Vec::new();
    let mut rest = value;
    while let Some(&byte) = rest.first() {
        let length = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => 1,
            b'(' => comment_length(rest)?,
            b'"' => {
                let length = quoted_length(rest)?;
                tokens.push(Token::Quoted(unfold(&rest[..length])));
                length
            }
            b'[' => {
                let length = rest
                    .iter()
                    .position(|&byte| byte == b']')
                    .ok_or(AuthorError::Syntax)?
                    + 1;
                tokens.push(Token::Literal(rest[..length].to_vec()));
                length
            }
            b'<' | b'>' | b'@' | b',' | b';' | b':' | b'.' => {
                tokens.push(Token::Special(byte));
                1
            }
            _ if is_atom_octet(byte) => {
                let length = rest
                    .iter()
                    .position(|&byte| !is_atom_octet(byte))
                    .unwrap_or(rest.len());
                tokens.push(Token::Atom(rest[..length].to_vec()));
                length
            }
            _ => return Err(AuthorError::Syntax),
        };
        rest = &rest[length..];
    }
    Ok(tokens)
}

fn is_atom_octet(byte: u8) -> bool {
    is_atext(byte) || byte >= 128
}

/// A folded quoted string means the same without the line break.
fn unfold(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect()
}

/// Octets of the quoted string that `text` begins with, both quotes included.
fn quoted_length(text: &[u8]) -> Result<usize, AuthorError> {
    let mut index = 1;
    while let Some(&byte) = text.get(index) {
        match byte {
            b'"' => return Ok(index + 1),
            b'\\' => index += 2,
            _ => index += 1,
        }
    }
    Err(AuthorError::Syntax)
}

/// Octets of the comment that `text` begins with, both parentheses included.
fn comment_length(text: &[u8]) -> Result<usize, AuthorError> {
    let (mut depth, mut index) = (0, 0);
    while let Some(&byte) = text.get(index) {
        match byte {
            b'(' => {
                depth += 1;
                if depth > COMMENT_DEPTH_MAX {
                    return Err(AuthorError::Syntax);
                }
            }
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(index + 1);
                }
            }
            b'\\' => index += 1,
            _ => {}
        }
        index += 1;
    }
    Err(AuthorError::Syntax)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_found() {
        for (value, expected) in [
            (" alice@example.org", "alice@example.org"),
            ("Alice <alice@example.org>", "alice@example.org"),
            ("<alice@example.org>", "alice@example.org"),
            (
                "\"Alice, <boss@example.org>\" <alice@example.org>",
                "alice@example.org",
            ),
            (
                "=?utf-8?q?Al=C3=AFce?= <alice@example.org>",
                "alice@example.org",
            ),
            (
                "Al\u{ef}ce M\u{fc}ller <alice@example.org>",
                "alice@example.org",
            ),
            ("J. R. Hacker <alice@example.org>", "alice@example.org"),
            ("alice@example.org (boss@example.org)", "alice@example.org"),
            (
                "(a (nested \\) one)) alice (x) @ example.org",
                "alice@example.org",
            ),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("a@b.example, C <c@d.example>", "a@b.example c@d.example"),
            ("a@b.example,, ,c@d.example,", "a@b.example c@d.example"),
            (
                "Team: a@b.example, C <c@d.example>;",
                "a@b.example c@d.example",
            ),
            ("Team: a@b.example;, c@d.example", "a@b.example c@d.example"),
            ("\u{e9}@example.org", "\u{e9}@example.org"),
            (
                "M\u{fc}ller <\u{e9}@b\u{fc}cher.example>",
                "\u{e9}@b\u{fc}cher.example",
            ),
            (
                "\"\u{e9} x\" (\u{e9}@x.example) <\"a \u{e9}\"@b.example>",
                "\"a \u{e9}\"@b.example",
            ),
            (
                "\u{e9}@x.example <a@b.example>",
                "\u{e9}@x.example a@b.example",
            ),
            // The display name is what some programs show alone.
            (
                "boss@example.org <alice@example.org>",
                "boss@example.org alice@example.org",
            ),
            ("\r\n Alice\r\n\t<alice@example.org>", "alice@example.org"),
            (
                "\"Alice\r\n Example\" <alice@example.org>",
                "alice@example.org",
            ),
        ] {
            let found =
                parse_author(value.as_bytes()).unwrap_or_else(|error| panic!("{value}: {error}"));
            let found: Vec<String> = found.iter().map(Mailbox::to_string).collect();
            assert_eq!(found.join(" "), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_sure_is_refused() {
        use AuthorError::*;
        for (value, error) in [
            ("", NoAddress),
            ("  ", NoAddress),
            ("undisclosed:;", NoAddress),
            ("alice", Address),
            ("<>", Address),
            ("Alice <alice>", Address),
            ("Alice <alice@example.org", Syntax),
            ("Mr boss@example.org <alice@example.org>", Address),
            ("Alice <alice@example.org> <boss@example.org>", Address),
            ("<alice@example.org> boss@example.org", Syntax),
            ("[x] <alice@example.org>", Syntax),
            ("alice@example.org boss@example.org", Address),
            ("alice boss@example.org", Address),
            ("a@b@c.example", Address),
            ("\"open <alice@example.org>", Syntax),
            ("(open alice@example.org", Syntax),
            ("Team: a@b.example", Syntax),
            ("a@b.example;", Syntax),
            ("T: U: a@b.example;;", Syntax),
            ("\u{e9}\u{202e}@example.org", Address),
            ("<alice@exam\u{ad}ple.org>", Address),
            ("alice\u{ff20}example.org", Address),
            ("alice@example.org\u{a0}", Address),
            ("\u{e9}@x.example\u{3000}<a@b.example>", Address),
            ("bo\u{1}ss <a@b.example>", Syntax),
            ("a\\@b <a@b.example>", Syntax),
            ("x@y <a@b.example", Syntax),
            ("<@hub.example:a@b.example>", Syntax),
        ] {
            assert_eq!(parse_author(value.as_bytes()), Err(error), "{value}");
        }
        // Latin-1 is no UTF-8.
        assert_eq!(parse_author(b"\xe9@example.org"), Err(Address));
        assert!(parse_author(b"\xe9 <a@example.org>").is_ok());
        let many = "a@b.example,".repeat(101);
        assert_eq!(parse_author(many.as_bytes()), Err(TooMany));
        let long = format!("\"{}\" <a@b.example>", "x".repeat(VALUE_BYTES_MAX));
        assert_eq!(parse_author(long.as_bytes()), Err(TooMany));
        let deep = format!("{}a@b.example", "(".repeat(10_000));
        assert_eq!(parse_author(deep.as_bytes()), Err(Syntax));
    }
}

//! xtext: octets in a parameter's value that could not stand there as they are (RFC 3461 section 4), and the form that
//! it has for addresses in UTF-8 (RFC 6533 section 3).

/// `xtext = *( xchar / hexchar )`, `hexchar = "+" 2(%x30-39 / %x41-46)`: the octets that it means.
pub fn decode_xtext(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push((digit(bytes.next()?)? << 4) | digit(bytes.next()?)?),
            b'!'..=b'~' if byte != b'=' => decoded.push(byte),
            _ => return None,
        }
    }
    Some(decoded)
}

/// The xtext of nothing but printable ASCII: all that the reports of RFC 3461 sections 4.2 and 4.4 can repeat.
pub(super) fn decode_printable(text: &str) -> Option<String> {
    let decoded = decode_xtext(text)?;
    let printable = decoded.iter().all(|byte| (b' '..=b'~').contains(byte));
    String::from_utf8(decoded).ok().filter(|_| printable)
}

/// `utf-8-addr-xtext / utf-8-addr-unitext`: what it means, `\x{...}` resolved. Control characters mean nothing in an
/// address.
///
/// It is not xtext: `+` and `=` stand in it as `\x{2B}` and `\x{3D}`.
pub(super) fn decode_utf8_address(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let (meaning, length) = match character {
            '\\' => {
                let inside = rest.strip_prefix("\\x{")?;
                let digits = &inside[..inside.find('}')?];
                let hexadecimal = (2..=6).contains(&digits.len())
                    && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let point = u32::from_str_radix(digits, 16)
                    .ok()
                    .filter(|_| hexadecimal)?;
                (char::from_u32(point)?, "\\x{}".len() + digits.len())
            }
            '+' | '=' | ' ' => return None,
            other => (other, other.len_utf8()),
        };
        if meaning.is_control() {
            return None;
        }
        decoded.push(meaning);
        rest = &rest[length..];
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets() {
        for (text, decoded) in [
            ("", Some(&b""[..])),
            ("QQ314159", Some(b"QQ314159")),
            ("a+2Bb+3Dc", Some(b"a+b=c")),
            ("+00+FF", Some(b"\0\xff")),
            ("~!", Some(b"~!")),
            ("+2b", None),
            ("+2", None),
            ("+", None),
            ("a=b", None),
            ("a b", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(decode_xtext(text).as_deref(), decoded, "{text}");
        }
        assert_eq!(
            decode_printable("a+20b+2B").as_deref(),
            Some("a b+"),
            "white space is fit for a report"
        );
        assert_eq!(decode_printable("a+0Ab"), None);
        assert_eq!(decode_printable("+C3+A9"), None);
    }

    #[test]
    fn addresses_in_utf8() {
        for (text, decoded) in [
            (r"r\x{E9}my@example.net", Some("r\u{e9}my@example.net")),
            ("r\u{e9}my@example.net", Some("r\u{e9}my@example.net")),
            (r"a\x{2B}b\x{3D}c\x{5C}d", Some(r"a+b=c\d")),
            (r"\x{1F600}", Some("\u{1f600}")),
            (r"a+2Bb", None),
            (r"a=b", None),
            (r"a\b", None),
            (r"\x{D800}", None),
            (r"\x{110000}", None),
            (r"\x{0000041}", None),
            (r"\x{+41}", None),
            (r"\x{0A}", None),
            (r"\x{}", None),
            (r"\x{41", None),
            ("a\u{85}b", None),
        ] {
            assert_eq!(decode_utf8_address(text).as_deref(), decoded, "{text}");
        }
    }
}

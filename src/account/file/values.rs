//! The values of an account's keys: TOML to what they mean, with what is wrong with each.

use std::num::NonZeroU64;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Reader;
use crate::decision::{Limit, Origin, OverLimit, SenderPattern};

/// A number that is not 0, or `"unlimited"`.
pub(super) fn limit_of(value: &Spanned<DeValue<'_>>) -> Option<Limit> {
    match value.get_ref() {
        DeValue::String(text) if text == "unlimited" => Some(Limit::Unlimited),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| u64::try_from(number).ok())
            .and_then(NonZeroU64::new)
            .map(Limit::AtMost),
        _ => None,
    }
}

impl Reader<'_> {
    pub(super) fn send_as(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<(SenderPattern, Origin)> {
        let shape = "send_as = [\"alice@example.org\", \"*@lists.example.org\"]";
        let empty = "leave it out for the account's own name, or say disabled = true";
        self.patterns(
            label,
            "send_as",
            value,
            (shape, empty),
            SenderPattern::parse,
        )
    }

    /// A list of patterns. `shape` shows one, `empty` says what to do in place of an empty one.
    pub(super) fn patterns<T, E: std::fmt::Display>(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        (shape, empty): (&str, &str),
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<(T, Origin)> {
        let texts = self.texts(label, key, value, shape);
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            self.notes
                .error(&value.span(), format!("{label}: {key} is empty"))
                .hint = Some(empty.to_owned());
        }
        let mut patterns = Vec::with_capacity(texts.len());
        for (text, span) in texts {
            match parse(&text) {
                Ok(pattern) => patterns.push((pattern, self.notes.origin(&span))),
                Err(error) => {
                    self.notes.error(&span, format!("{label}: {error}")).hint =
                        Some(shape.to_owned());
                }
            }
        }
        patterns
    }

    pub(super) fn networks(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Vec<IpNet> {
        const SHAPE: &str = "allow_from = [\"192.0.2.0/24\", \"2001:db8::1\"]";
        let texts = self.texts(label, "allow_from", value, SHAPE);
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            self.notes
                .error(&value.span(), format!("{label}: allow_from is empty"))
                .hint =
                Some("leave it out to allow every address, or say disabled = true".to_owned());
        }
        let mut networks = Vec::with_capacity(texts.len());
        for (text, span) in texts {
            let address = text.parse::<std::net::IpAddr>();
            match (text.parse::<IpNet>(), address) {
                (Ok(network), _) => {
                    if network.trunc() != network {
                        self.notes.warning(
                            &span,
                            format!("{label}: `{text}` means the network {}", network.trunc()),
                        );
                    }
                    networks.push(network.trunc());
                }
                (_, Ok(address)) => networks.push(address.to_canonical().into()),
                _ => {
                    self.notes
                        .error(
                            &span,
                            format!("{label}: `{text}` is neither a network nor an address"),
                        )
                        .hint = Some(SHAPE.to_owned());
                }
            }
        }
        networks
    }

    pub(super) fn texts(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        shape: &str,
    ) -> Vec<(String, Range<usize>)> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(label, key, value, "a list of texts", shape);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(list.len());
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => self.wrong_type(label, key, item, "a list of texts", shape),
            }
        }
        texts
    }

    pub(super) fn boolean(&mut self, label: &str, key: &str, value: &Spanned<DeValue<'_>>) -> bool {
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(label, key, value, "true or false", &format!("{key} = true"));
            false
        })
    }

    /// A limit of its own, and where it is written.
    pub(super) fn own_limit(
        &mut self,
        label: &str,
        key: &str,
        table: &DeTable<'_>,
    ) -> Option<(Limit, Origin)> {
        let value = table.get(key)?;
        let origin = self.notes.origin(&value.span());
        self.limit(label, key, value).map(|limit| (limit, origin))
    }

    /// What becomes of its messages over its limits, and where that is written.
    pub(super) fn over_limit(
        &mut self,
        label: &str,
        table: &DeTable<'_>,
    ) -> Option<(OverLimit, Origin)> {
        let value = table.get("over_limit")?;
        let text = value.get_ref().as_str();
        let mut words = OverLimit::WORDS.into_iter();
        let Some((_, over_limit)) = words.find(|(word, _)| Some(*word) == text) else {
            let wanted = "\"refuse\" or \"hold\"";
            self.wrong_type(label, "over_limit", value, wanted, "over_limit = \"hold\"");
            return None;
        };
        Some((over_limit, self.notes.origin(&value.span())))
    }

    pub(super) fn note(&mut self, label: &str, table: &DeTable<'_>) -> Option<String> {
        let value = table.get("note")?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(label, "note", value, "a text", "note = \"2nd floor\"");
        }
        text.map(str::to_owned)
    }

    fn limit(&mut self, label: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Limit> {
        let limit = limit_of(value);
        if limit.is_none() {
            self.notes
                .error(
                    &value.span(),
                    format!("{label}: {key} is not a positive integer or \"unlimited\""),
                )
                .hint = Some(format!(
                "{key} = 50; to stop the account, say disabled = true"
            ));
        }
        limit
    }

    pub(super) fn wrong_type(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        shape: &str,
    ) {
        self.notes
            .error(&value.span(), format!("{label}: {key} is not {wanted}"))
            .hint = Some(shape.to_owned());
    }
}

//! The names of the configuration: every key that there is, in one table.
//!
//! The reader refuses to read a key that is not in it, unknown keys take their hints from it, and a test compares it
//! with `config/gatepost.toml`.

use crate::diagnostic::nearest;

/// Every key, by its full name, in the order of `config/gatepost.toml`.
pub const KEYS: &[&str] = &[
    "hostname",
    "user",
    "group",
    "sandbox",
    "listen.address",
    "listen.tls",
    "listen.proxy_protocol",
    "listen.proxies",
    "certificate.chain",
    "certificate.key",
    "client_ca.file",
    "client_ca.crl",
    "tls.minimum_version",
    "tls.handshake_timeout",
    "auth.mechanisms",
    "auth.hash_memory",
    "auth.hash_queue",
    "auth.cache_for",
    "auth.upgrade_hashes",
    "token_issuer.issuer",
    "token_issuer.audience",
    "token_issuer.jwks",
    "token_issuer.refresh",
    "token_issuer.stale",
    "token_issuer.algorithms",
    "token_issuer.introspection",
    "token_issuer.client_id",
    "token_issuer.client_secret_file",
    "token_issuer.cache_for",
    "token_issuer.account_claim",
    "token_issuer.scope",
    "token_issuer.leeway",
    "token_issuer.timeout",
    "token_issuer.ca",
    "guessing.mode",
    "guessing.exempt",
    "guessing.failures_per_address",
    "guessing.failures_per_login",
    "guessing.failures_per_account",
    "guessing.window",
    "guessing.delay_max",
    "guessing.ban_for",
    "guessing.ban_max",
    "guessing.known_for",
    "extensions.withhold",
    "extensions.future_release_max",
    "extensions.deliver_by_minimum",
    "extensions.priority_max",
    "accounts.file",
    "queue.directory",
    "queue.minimum_free",
    "queue.journal_size",
    "queue.commit_timeout",
    "queue.duplicate_window",
    "limits.message_size",
    "limits.header_size",
    "limits.recipients_per_message",
    "limits.messages_per_connection",
    "limits.received_fields",
    "limits.connections",
    "limits.connections_per_address",
    "limits.idle_timeout",
    "limits.login_timeout",
    "limits.data_timeout",
    "limits.shutdown_timeout",
    "limits.errors_per_connection",
    "limits.failed_logins_per_connection",
    "limits.account.messages_per_hour",
    "limits.account.recipients_per_day",
    "limits.account.over_limit",
    "limits.account.held_messages",
    "tripwires.mode",
    "tripwires.exempt",
    "tripwires.messages_per_10_minutes",
    "tripwires.new_recipients_per_hour",
    "tripwires.networks_per_hour",
    "tripwires.refused_recipients_per_hour",
    "alert.command",
    "alert.timeout",
    "alert.to",
    "alert.from",
    "message.reveal_client",
    "message.trace_token",
    "log.format",
    "log.level",
    "log.strangers_per_minute",
];

/// The tables that may be there several times, written `[[name]]`.
const REPEATED: &[&str] = &["listen", "certificate", "client_ca", "token_issuer"];

/// Names that are kept for what comes, so that nobody takes them for a slip of the pen.
const RESERVED: &[&str] = &["onward", "status"];

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A key with a value.
    Key,
    /// A table, `[name]` or `[[name]]`.
    Table,
    /// Nothing.
    Unknown,
}

/// What `name`, a full name with dots, stands for.
pub(super) fn meaning(name: &str) -> Meaning {
    if KEYS.contains(&name) {
        Meaning::Key
    } else if KEYS.iter().any(|key| within(key, name).is_some()) {
        Meaning::Table
    } else {
        Meaning::Unknown
    }
}

/// The hint for a name that stands for nothing: `name`, found in the table `table` (empty for the top of the file).
pub(super) fn hint_for_unknown(table: &str, name: &str) -> String {
    let full = join(table, name);
    if RESERVED.contains(&full.as_str()) {
        return "it is not available in this version".to_owned();
    }
    let siblings: Vec<&str> = siblings(table);
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return match meaning(&join(table, near)) {
            Meaning::Table => format!("did you mean {}?", bracketed(&join(table, near))),
            Meaning::Key | Meaning::Unknown => format!("did you mean `{near}`?"),
        };
    }
    // A good name in the wrong table is the usual mistake of those who have just moved a line.
    if let Some(key) = KEYS.iter().find(|key| key.rsplit('.').next() == Some(name)) {
        return match key.rsplit_once('.') {
            Some((home, _)) => format!("`{name}` belongs in {}", bracketed(home)),
            None => format!("`{name}` belongs at the top of the file, before the first table"),
        };
    }
    let place = if table.is_empty() {
        "the file".to_owned()
    } else {
        bracketed(table)
    };
    let names: Vec<String> = siblings
        .iter()
        .map(|sibling| match meaning(&join(table, sibling)) {
            Meaning::Table => bracketed(&join(table, sibling)),
            Meaning::Key | Meaning::Unknown => (*sibling).to_owned(),
        })
        .collect();
    format!("{place} has: {}", names.join(", "))
}

/// `name` as its header is written: `[limits]`, `[[listen]]`.
pub(super) fn bracketed(name: &str) -> String {
    if REPEATED.contains(&name) {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    }
}

/// The full name of `name` in `table`.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

/// The names of what stands in `table`, keys and tables, without repetition.
fn siblings(table: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| within(key, table))
        .filter_map(|rest| rest.split('.').next())
        .collect();
    names.dedup();
    names
}

/// What remains of `key` inside `table`.
fn within<'k>(key: &'k str, table: &str) -> Option<&'k str> {
    if table.is_empty() {
        Some(key)
    } else {
        key.strip_prefix(table)?.strip_prefix('.')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        assert_eq!(meaning("hostname"), Meaning::Key);
        assert_eq!(meaning("limits"), Meaning::Table);
        assert_eq!(meaning("limits.account"), Meaning::Table);
        assert_eq!(meaning("limit"), Meaning::Unknown);
        assert_eq!(meaning("limits.acc"), Meaning::Unknown);
    }

    #[test]
    fn hints() {
        for (table, name, hint) in [
            ("", "hostnam", "did you mean `hostname`?"),
            ("", "limit", "did you mean [limits]?"),
            ("", "certificates", "did you mean [[certificate]]?"),
            ("limits", "acount", "did you mean [limits.account]?"),
            ("", "directory", "`directory` belongs in [queue]"),
            (
                "log",
                "hostname",
                "`hostname` belongs at the top of the file, before the first table",
            ),
            (
                "log",
                "colour_of_lines",
                "[log] has: format, level, strangers_per_minute",
            ),
            ("", "onward", "it is not available in this version"),
            ("", "guesing", "did you mean [guessing]?"),
        ] {
            assert_eq!(hint_for_unknown(table, name), hint, "{table} {name}");
        }
    }
}

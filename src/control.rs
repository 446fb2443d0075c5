//! What an operator's command asks of a running daemon, and what it hears: one line of JSON each, over a socket in the
//! queue directory ([`SOCKET`]). Both ends are the same program; other programs use the commands and their `--json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the socket, in the queue directory.
pub const SOCKET: &str = "control";

/// A question to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Request {
    /// Who is banned.
    Bans,
    /// Lift bans.
    LiftBans {
        /// Of whom: an address, a network, or `all`.
        of: String,
    },
    /// How it is.
    Status,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What was asked for.
    Done(Value),
    /// Why it could not be done, for the operator to read.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree() {
        let line = serde_json::to_string(&Request::Status).unwrap();
        assert_eq!(line, r#"{"ask":"status"}"#);
        assert_eq!(
            serde_json::from_str::<Request>(&line).unwrap(),
            Request::Status
        );
        for answer in [
            Answer::Done(serde_json::json!({"a": 1})),
            Answer::Failed("no".to_owned()),
        ] {
            let line = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
        }
    }
}

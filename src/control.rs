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
    /// Contain an account, or one of its credentials.
    Contain {
        /// The account, in its compared form.
        account: String,
        /// The credential; `None`: all of the account.
        credential: Option<String>,
    },
    /// Who is contained.
    Contained,
    /// How it is.
    Status,
    /// Tell the operator, as of an incident, that there is none.
    TestAlert,
    /// End a containment.
    Uncontain {
        /// The account, in its compared form.
        account: String,
        /// The credential; `None`: all of the account.
        credential: Option<String>,
        /// What becomes of the messages that were held for it.
        held: HeldMail,
    },
}

/// What becomes of messages that were held because their sender was contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldMail {
    /// They stay held, as if the operator had held them.
    Keep,
    /// They go on their way.
    Release,
    /// They are removed.
    Remove,
}

/// Somebody is contained: the answer to [`Request::Contain`], and an entry of that to [`Request::Contained`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainedLogin {
    /// The account.
    pub account: String,
    /// The credential; `None`: all of the account.
    pub credential: Option<String>,
    /// Since when, RFC 3339.
    pub since: String,
    /// Who wanted it: `operator` or `tripwire`.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What the containment of a login has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainReport {
    /// Who it is.
    #[serde(flatten)]
    pub login: ContainedLogin,
    /// Whether it was contained before already.
    pub already: bool,
    /// Its sessions that were ended.
    #[serde(default)]
    pub sessions: u64,
    /// Messages that it handed in lately, as far as they are remembered.
    pub accepted: u64,
    /// Their recipients.
    pub recipients: u64,
    /// All of its messages that are held now, the oldest first.
    pub held: Vec<String>,
    /// Those that it handed in lately and that are not in the queue any more, the oldest first.
    pub left: Vec<String>,
    /// Their recipients.
    pub left_recipients: u64,
}

/// What the end of a containment has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncontainReport {
    /// Who is not contained any more.
    pub ended: Vec<ContainedLogin>,
    /// What became of the messages below.
    pub held: HeldMail,
    /// The messages that were held for it, the oldest first.
    pub messages: Vec<String>,
}

/// What became of [`Request::TestAlert`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertReport {
    /// Of `alert.command`; `None`: there is none.
    pub command: Option<CommandAlert>,
    /// Of the mail to `alert.to`; `None`: there is nobody.
    pub mail: Option<MailAlert>,
}

/// What became of the alert command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAlert {
    /// Why it did not end well.
    pub error: Option<String>,
}

/// What became of an alert by mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailAlert {
    /// Who gets it.
    pub to: Vec<String>,
    /// Its name in the queue, if it got there.
    pub id: Option<String>,
    /// Why not.
    pub error: Option<String>,
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

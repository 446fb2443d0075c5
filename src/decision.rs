//! What a decision is made on, and what it says: accounts and claims of who one is, questions and verdicts.
//!
//! The session asks in these words, the account store and the policy answer in them. A refusal has two audiences: the
//! client hears `reply`, the operator reads `reason`. An `Err` always means "could not tell": a wrong password is an
//! answer, not an error.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use crate::clock::Timestamp;
use crate::sasl::external::Certificate;
use crate::sasl::scram::Proof;
use crate::secret::Secret;
use crate::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath};
use crate::smtp::reply::Reply;

/// A place in a configuration file: what `explain` and warnings point at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as configured.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A limit that can be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most so many.
    AtMost(NonZeroU64),
    /// No limit; written `"unlimited"`.
    Unlimited,
}

/// What becomes of a message that is over a limit of its account: `over_limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverLimit {
    /// It is accepted, and held until the limit has room for it.
    Hold,
    /// It is refused, and its client tries again.
    #[default]
    Refuse,
}

impl OverLimit {
    /// The words that the configuration has for them.
    pub const WORDS: [(&str, Self); 2] = [("refuse", Self::Refuse), ("hold", Self::Hold)];

    /// The word that the configuration has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Refuse => "refuse",
        }
    }
}

/// One entry of `send_as`: which addresses an account may send as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// `alice@example.org`, and by that `alice+anything@example.org`.
    Address(Mailbox),
    /// `*`: any mailbox.
    Any,
    /// `*@example.org`: any mailbox of exactly this domain.
    Domain(Domain),
    /// `<>`: the null reverse-path.
    Null,
}

/// Why a text is not a [`SenderPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address, `*@domain`, `*` or `<>`")]
pub struct SenderPatternError(pub String);

impl SenderPattern {
    /// Parses an entry of `send_as`. Domains may be written in Unicode.
    pub fn parse(text: &str) -> Result<Self, SenderPatternError> {
        let error = || SenderPatternError(text.to_owned());
        match text {
            "*" => Ok(Self::Any),
            "<>" => Ok(Self::Null),
            _ => match text.strip_prefix("*@") {
                Some(domain) => Domain::parse_international(domain)
                    .map(Self::Domain)
                    .map_err(|_| error()),
                None => Mailbox::parse_international(text)
                    .map(Self::Address)
                    .map_err(|_| error()),
            },
        }
    }

    /// Whether the pattern allows `mailbox`.
    ///
    /// Local parts are compared without regard to the case of ASCII letters: RFC 5321 section 2.4 discourages relying
    /// on it, and people write their own address in either. Other letters are compared in normalization form C, case
    /// included: what the case of a letter is depends on the language. What follows a `+` is the owner's own business
    /// (RFC 5233). Domains are the same in A-labels and in U-labels.
    pub fn allows(&self, mailbox: &Mailbox) -> bool {
        match self {
            Self::Address(own) => {
                let own_local = own.local_part().normalized();
                let local = mailbox.local_part().normalized();
                let base = local.split_once('+').map_or(&*local, |(base, _)| base);
                own.domain().same_as(mailbox.domain())
                    && (own_local.eq_ignore_ascii_case(&local)
                        || own_local.eq_ignore_ascii_case(base))
            }
            Self::Any => true,
            Self::Domain(domain) => domain.same_as(mailbox.domain()),
            Self::Null => false,
        }
    }

    /// Whether the pattern allows the reverse-path.
    pub fn allows_reverse_path(&self, path: &ReversePath) -> bool {
        match path {
            ReversePath::Mailbox(mailbox) => self.allows(mailbox),
            ReversePath::Null => *self == Self::Null,
        }
    }
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without quotes it would read as the whole domain.
            Self::Address(mailbox) if mailbox.local_part().as_str() == "*" => {
                write!(f, "\"*\"@{}", mailbox.domain())
            }
            Self::Address(mailbox) => mailbox.fmt(f),
            Self::Any => f.write_str("*"),
            Self::Domain(domain) => write!(f, "*@{domain}"),
            Self::Null => f.write_str("<>"),
        }
    }
}

/// One entry of `rcpt_allow`: whom one may send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientPattern(SenderPattern);

/// Why a text is not a [`RecipientPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address, `*@domain` or `*`")]
pub struct RecipientPatternError(pub String);

impl RecipientPattern {
    /// Parses an entry of `rcpt_allow`. Domains may be written in Unicode.
    pub fn parse(text: &str) -> Result<Self, RecipientPatternError> {
        match SenderPattern::parse(text) {
            Ok(SenderPattern::Null) | Err(_) => Err(RecipientPatternError(text.to_owned())),
            Ok(pattern) => Ok(Self(pattern)),
        }
    }

    /// Whether the pattern allows the forward-path. `<postmaster>` without a domain is allowed by `*` alone.
    pub fn allows(&self, path: &ForwardPath) -> bool {
        match path {
            ForwardPath::Mailbox(mailbox) => self.0.allows(mailbox),
            ForwardPath::Postmaster => self.0 == SenderPattern::Any,
        }
    }
}

impl fmt::Display for RecipientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the further secrets of an account, for one device or program, and what a login with it may do. It narrows
/// what the account may and never widens it: wherever it says something, both must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name within the account.
    pub name: String,
    /// From when on it is good for nothing.
    pub expires: Option<Timestamp>,
    /// From which networks; empty narrows nothing.
    pub allow_from: Vec<IpNet>,
    /// As whom it may send, each with its place in the file; empty narrows nothing.
    pub send_as: Vec<(SenderPattern, Origin)>,
    /// Whom it may send to, each with its place in the file; empty narrows nothing.
    pub rcpt_allow: Vec<(RecipientPattern, Origin)>,
    /// A limit beside that of the account, and where it is written.
    pub messages_per_hour: Option<(Limit, Origin)>,
    /// Likewise.
    pub recipients_per_day: Option<(Limit, Origin)>,
    /// The operator's own remark.
    pub note: Option<String>,
    /// Where it stands in the accounts file.
    pub origin: Origin,
}

/// One account, as the accounts file describes it, without its secrets; and as what somebody is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What the client logs in as, in its compared form (SASLprep, domain part in lower case).
    pub name: String,
    /// Whether it may log in at all.
    pub enabled: bool,
    /// From which networks it may log in; empty means from everywhere.
    pub allow_from: Vec<IpNet>,
    /// What it may send as, each with its place in the file. Never empty unless its own name is no address.
    pub send_as: Vec<(SenderPattern, Origin)>,
    /// Its own limit and where that is written; `None`: what `[limits.account]` says.
    pub messages_per_hour: Option<(Limit, Origin)>,
    /// Likewise.
    pub recipients_per_day: Option<(Limit, Origin)>,
    /// What it says of its own trip wires; `None`: nothing.
    pub tripwires: Option<Arc<OwnTripwires>>,
    /// What becomes of its messages over these limits, and where that is written; `None`: what `[limits.account]` says.
    pub over_limit: Option<(OverLimit, Origin)>,
    /// The operator's own remark.
    pub note: Option<String>,
    /// Where it stands in the accounts file.
    pub origin: Origin,
    /// The credential that was used to log in; `None` for the account's own password.
    pub credential: Option<Arc<Credential>>,
    /// The token that was used to log in; `None` for anything else.
    pub grant: Option<Grant>,
}

/// Whether an account is watched by trip wires, and what follows; the weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TripwireMode {
    /// Nothing is counted.
    Off,
    /// It is only said.
    DryRun,
    /// Who trips is contained.
    On,
}

impl TripwireMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::DryRun, Self::On];

    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DryRun => "dry-run",
            Self::On => "on",
        }
    }
}

/// What an account says of its own trip wires, each with its place in the file; `None`: what `[tripwires]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTripwires {
    /// Whether it is watched; where `[tripwires]` says something weaker, that holds.
    pub mode: Option<(TripwireMode, Origin)>,
    /// Messages in ten minutes.
    pub messages_per_10_minutes: Option<(Limit, Origin)>,
    /// Recipients in an hour that it never wrote to.
    pub new_recipients_per_hour: Option<(Limit, Origin)>,
    /// Networks in an hour.
    pub networks_per_hour: Option<(Limit, Origin)>,
    /// Recipients refused for good in an hour.
    pub refused_recipients_per_hour: Option<(Limit, Origin)>,
}

/// What a token says of a login: who vouches for it, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who issued the token, as the configuration names it.
    pub issuer: Arc<str>,
    /// From when on it is good for nothing, the leeway for clocks included; `None` if it does not say.
    pub expires: Option<Timestamp>,
}

impl Grant {
    /// Whether it is good for nothing any more.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

impl Account {
    /// The name of the credential that was used to log in.
    pub fn credential_name(&self) -> Option<&str> {
        self.credential.as_ref().map(|credential| &*credential.name)
    }

    /// Whether a login may come from there.
    pub fn allows_from(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let allows = |networks: &[IpNet]| {
            networks.is_empty() || networks.iter().any(|network| network.contains(&client))
        };
        allows(&self.allow_from)
            && self
                .credential
                .as_ref()
                .is_none_or(|credential| allows(&credential.allow_from))
    }

    /// Where it is written that it may send as whom `allows` knows: the narrowest place, if all that say anything about
    /// it allow it. Else the place that does not.
    pub fn sender_origin(
        &self,
        allows: impl Fn(&SenderPattern) -> bool,
    ) -> Result<&Origin, &Origin> {
        let find = |patterns: &'_ [(SenderPattern, Origin)]| {
            patterns.iter().position(|(pattern, _)| allows(pattern))
        };
        let own = match find(&self.send_as) {
            Some(index) => &self.send_as[index].1,
            None => {
                return Err(self
                    .send_as
                    .first()
                    .map_or(&self.origin, |(_, origin)| origin));
            }
        };
        match self
            .credential
            .as_deref()
            .map(|credential| &*credential.send_as)
        {
            None | Some([]) => Ok(own),
            Some(patterns @ [(_, first), ..]) => match find(patterns) {
                Some(index) => Ok(&patterns[index].1),
                None => Err(first),
            },
        }
    }

    /// Where it is written that it may send to `path`; `Ok(None)` if nothing is said about that.
    pub fn recipient_origin(&self, path: &ForwardPath) -> Result<Option<&Origin>, &Origin> {
        match self
            .credential
            .as_deref()
            .map(|credential| &*credential.rcpt_allow)
        {
            None | Some([]) => Ok(None),
            Some(patterns @ [(_, first), ..]) => patterns
                .iter()
                .find(|(pattern, _)| pattern.allows(path))
                .map(|(_, origin)| Some(origin))
                .ok_or(first),
        }
    }
}

/// Who makes a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The client's address.
    pub address: IpAddr,
    /// What is known of it.
    pub standing: Standing,
}

/// What is known of a client that wants to log in as somebody: who goes first when not all can be served at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// This account has logged in from there not long ago.
    Known,
    /// Nothing speaks for or against it.
    New,
    /// Logins from there have failed.
    Suspect,
}

impl Standing {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Known, Self::New, Self::Suspect];
}

/// Who a client claims to be: what a finished SASL exchange has to say.
#[derive(Clone, Debug)]
pub enum Claim {
    /// A certificate whose key the client has (EXTERNAL, RFC 4422 appendix A).
    Certificate {
        /// Whom the client wants to act for; empty means for whom the certificate is.
        authorization_identity: String,
        /// What it has shown.
        certificate: Arc<Certificate>,
    },
    /// A name and a password (PLAIN, RFC 4616; LOGIN).
    Password {
        /// Whom the client wants to act for; empty means for itself.
        authorization_identity: String,
        /// Whose password it brings. Any text: not prepared yet.
        authentication_identity: String,
        /// The password, as octets.
        password: Secret,
    },
    /// A name and a proof that its secret is known (SCRAM, RFC 5802).
    Scram {
        /// Whom the client wants to act for; empty means for itself.
        authorization_identity: String,
        /// Whose secret it is. Any text: not prepared yet.
        authentication_identity: String,
        /// What it was checked against, and whether it holds.
        proof: Proof,
    },
    /// A token that somebody else has issued, and that says itself whose it is (OAUTHBEARER, RFC 7628; XOAUTH2).
    Token {
        /// Whom the client wants to act for; empty means for whom the token names.
        authorization_identity: String,
        /// The token. It can be empty: a client that wants to be told where to get one.
        token: Secret,
    },
}

/// The answer to a [`Claim`].
#[derive(Clone, Debug)]
pub enum Authentication {
    /// It is who it claims to be.
    Accept(Arc<Account>),
    /// It is not, or may not.
    Refuse {
        /// For the operator; the client hears the same for all.
        reason: RefusedLogin,
        /// The name to put into the log: an account that exists, or a name that is plainly a slip of the pen for one.
        /// Any other text stays out, because people type passwords into the wrong field.
        name: Option<String>,
        /// The credential whose secret it was, where it was one.
        credential: Option<String>,
        /// Who issued the token, where there was one of a known issuer.
        issuer: Option<Arc<str>>,
    },
}

/// Why a login was refused. Its text is the `reason` of `auth.refused` and stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedLogin {
    /// The client's address is in none of `allow_from`.
    #[error("address not in allow_from")]
    AddressNotAllowed,
    /// The authorization identity is not the account's own name.
    #[error("authorization identity is not the login")]
    AuthorizationIdentity,
    /// EXTERNAL, with a certificate outside its validity.
    #[error("certificate is not valid now")]
    CertificateNotValid,
    /// The account, or its credential, is contained.
    #[error("contained")]
    Contained,
    /// `disabled = true`.
    #[error("account is disabled")]
    Disabled,
    /// The credential's `expires` has come.
    #[error("credential has expired")]
    Expired,
    /// SCRAM, for an account that has a password and no SCRAM keys.
    #[error("account has no SCRAM keys")]
    NoScramKeys,
    /// EXTERNAL, with a certificate that names several accounts, and the client did not say which.
    #[error("certificate is for several accounts")]
    SeveralAccounts,
    /// EXTERNAL, with a certificate that is nobody's.
    #[error("no account has this certificate")]
    UnknownCertificate,
    /// The token is not good.
    #[error(transparent)]
    Token(TokenFault),
    /// No account of this name.
    #[error("no such account")]
    UnknownAccount,
    /// The name or the password holds what SASLprep forbids, or is empty.
    #[error("name or password is empty or holds forbidden characters")]
    Unusable,
    /// The password does not match.
    #[error("wrong password")]
    WrongPassword,
}

/// What is wrong with a token. Its text is a `reason` of `auth.refused` and stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// The claim that names the account is not there, or is no text that could be a name.
    #[error("token names no account")]
    Account,
    /// Signed with an algorithm that is not in `algorithms`, or that the key is not for.
    #[error("token has an algorithm that is not allowed")]
    Algorithm,
    /// It is for somebody else.
    #[error("token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// The issuer says that it is good for nothing (RFC 7662 section 2.2).
    #[error("token is not active")]
    Inactive,
    /// It says that it is from somebody who is not among `[[token_issuer]]`, or from nobody.
    #[error("token is from an unknown issuer")]
    Issuer,
    /// The issuer has no such key.
    #[error("token is signed with an unknown key")]
    Key,
    /// It is no signed JWT (RFC 7519), or says something twice, or not in the way in which it is said.
    #[error("token is malformed")]
    Malformed,
    /// Its time has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// It does not give the right that is wanted.
    #[error("token lacks the scope")]
    Scope,
    /// It was not made by the issuer, or was changed.
    #[error("token has a wrong signature")]
    Signature,
    /// It names the account by an e-mail address which the issuer says is not verified.
    #[error("token has an unverified e-mail address")]
    Unverified,
}

/// The credentials could not be checked: a fault or an overload of ours, never the client's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// What the session asks the policy.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// After the header section: may the message say that it is from these?
    Author {
        /// All addresses of the From field.
        from: &'a [Mailbox],
        /// The address of the Sender field, where there is one.
        sender: Option<&'a Mailbox>,
    },
    /// After the whole message, right before the commit: does it fit the account's limits? `Allow` uses them up, `Hold`
    /// takes a place in the line of those who wait for room.
    Message {
        /// How many recipients it has.
        recipients: u64,
    },
    /// RCPT.
    Recipient {
        /// Who is to get it.
        forward_path: &'a ForwardPath,
        /// How many recipients the message has already.
        accepted: u64,
    },
    /// MAIL.
    Sender {
        /// Who it is from.
        reverse_path: &'a ReversePath,
    },
}

/// Which rule decided, and where it is written. `explain` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its configuration key, or a short name for a rule that has none.
    pub name: &'static str,
    /// Where it is configured; `None` for a default or a rule that is built in.
    pub origin: Option<Origin>,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, by this rule.
    Allow(Rule),
    /// Yes, but later. Only the answer to [`Question::Message`].
    Hold(Postponement),
    /// No.
    Refuse(Refusal),
}

/// A yes that takes its time: the message is held until a limit has room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postponement {
    /// Which rule wants it held.
    pub rule: Rule,
    /// For the operator: what leaves no room.
    pub reason: String,
    /// When it is likely to leave, as things stand.
    pub leaves_about: Timestamp,
}

/// A no: what the client hears and what the operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the client.
    pub reply: Reply,
    /// For the operator: what exactly was wrong. Goes into the log as `reason`, escaped there.
    pub reason: String,
    /// Which rule refused.
    pub rule: Option<Rule>,
}

impl Refusal {
    /// A refusal by no configured rule.
    pub fn new(reply: Reply, reason: impl Into<String>) -> Self {
        Self {
            reply,
            reason: reason.into(),
            rule: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let mailbox = |text: &str| Mailbox::parse(text.as_bytes()).unwrap();
        for (pattern, address, allowed) in [
            ("alice@example.org", "alice@example.org", true),
            ("alice@example.org", "Alice@EXAMPLE.org", true),
            ("alice@example.org", "alice+lists@example.org", true),
            ("alice@example.org", "alice+@example.org", true),
            ("alice@example.org", "+alice@example.org", false),
            ("alice@example.org", "alicex@example.org", false),
            ("alice@example.org", "alice@sub.example.org", false),
            ("alice@example.org", "alice@[192.0.2.1]", false),
            ("alice+work@example.org", "alice+work@example.org", true),
            ("alice+work@example.org", "alice@example.org", false),
            ("alice+work@example.org", "alice+work+2@example.org", false),
            ("*@example.org", "bob@example.org", true),
            ("*@example.org", "bob@sub.example.org", false),
            ("*@b\u{fc}cher.example", "bob@xn--bcher-kva.example", true),
            ("*@b\u{fc}cher.example", "bob@B\u{dc}CHER.example", true),
            ("*@xn--bcher-kva.example", "bob@b\u{fc}cher.example", true),
            ("*@b\u{fc}cher.example", "bob@bucher.example", false),
            ("r\u{e9}my@example.org", "R\u{e9}MY@example.org", true),
            ("r\u{e9}my@example.org", "re\u{301}my+x@example.org", true),
            ("re\u{301}my@example.org", "r\u{e9}my@example.org", true),
            ("r\u{e9}my@example.org", "remy@example.org", false),
            ("r\u{e9}my@example.org", "r\u{c9}my@example.org", false),
            ("alice@example.org", "\u{430}lice@example.org", false),
            ("alice@example.org", "alice@ex\u{430}mple.org", false),
            // The Kelvin sign would become a k in a case fold, and in form C it is one.
            ("\u{212a}@example.org", "k@example.org", true),
            ("alice@example.org", "al\u{131}ce@example.org", false),
            ("*", "anybody@anywhere.example", true),
            ("<>", "bob@example.org", false),
        ] {
            let parsed = SenderPattern::parse(pattern).unwrap();
            assert_eq!(
                parsed.allows(&mailbox(address)),
                allowed,
                "{pattern} {address}"
            );
        }
        // The one address that looks like a pattern: listed without its quotes, it seemed to allow the whole domain.
        let star = SenderPattern::parse("\"*\"@example.org").unwrap();
        assert!(!star.allows(&mailbox("bob@example.org")));
        assert_eq!(star.to_string(), "\"*\"@example.org");
        assert_eq!(SenderPattern::parse(&star.to_string()), Ok(star));
        assert!(SenderPattern::Null.allows_reverse_path(&ReversePath::Null));
        assert!(!SenderPattern::Any.allows_reverse_path(&ReversePath::Null));
        for bad in [
            "",
            "alice",
            "*@",
            "@example.org",
            "*@*",
            "*.example.org",
            "a b@example.org",
            "*@a..b",
        ] {
            assert!(SenderPattern::parse(bad).is_err(), "{bad}");
        }
    }
}

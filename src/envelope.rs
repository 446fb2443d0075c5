//! The envelope of a message (RFC 5598 section 4.1): who it is from, who shall get it, how it came to us.
//!
//! Its JSON form, version 1, is part of the contract with whoever sees the message onward: fields are only ever added,
//! and absent means not given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::message::Fingerprint;

/// The version that this program writes.
pub const ENVELOPE_VERSION: u32 = 1;

/// The name of a message in the queue: 26 characters that sort by time of acceptance.
///
/// It is a UUID version 7 (RFC 9562 section 5.7) in Crockford's base 32, lower case: 48 bits of milliseconds, then a
/// counter and chance. Parsing accepts exactly this form, so an id is always safe as part of a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

/// A text that is not a [`MessageId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: an id is 26 characters of 0-9 and a-z without i, l, o, u")]
pub struct MessageIdError;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 26;

impl MessageId {
    /// The id that 128 bits stand for. Greater numbers sort behind smaller ones.
    pub fn from_bits(bits: u128) -> Self {
        let digit = |index: usize| {
            char::from(ALPHABET[(bits >> (5 * (ID_LENGTH - 1 - index))) as usize & 31])
        };
        Self((0..ID_LENGTH).map(digit).collect())
    }

    /// The 128 bits that it stands for.
    pub fn bits(&self) -> u128 {
        let value = |digit: u8| ALPHABET.iter().position(|known| *known == digit);
        self.0.bytes().fold(0, |bits, digit| {
            bits << 5 | value(digit).unwrap_or_default() as u128
        })
    }

    /// When it was given, in milliseconds since 1970: the first 48 bits, as in a UUID of version 7 (RFC 9562 section
    /// 5.7).
    pub fn milliseconds(&self) -> i64 {
        (self.bits() >> 80) as i64
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, MessageIdError> {
        let well_formed =
            text.len() == ID_LENGTH && text.bytes().all(|byte| ALPHABET.contains(&byte));
        // 26 digits hold 130 bits: the first one has only three of its five.
        if well_formed && text.as_bytes()[0] <= b'7' {
            Ok(Self(text.to_owned()))
        } else {
            Err(MessageIdError)
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is known of a message beside its content.
///
/// Addresses are kept as text in the form that SMTP writes; they came from parsed paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`ENVELOPE_VERSION`].
    pub version: u32,
    /// The message's name in the queue.
    #[serde(with = "id_text")]
    pub id: MessageId,
    /// When DATA, or the first BDAT, was accepted.
    #[serde(with = "milliseconds")]
    pub received_at: Timestamp,
    /// Which account sent it; empty for what gatepost itself has written.
    pub account: String,
    /// With which of its credentials; `None` for the account's own password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The reverse-path without brackets; empty for the null one.
    pub reverse_path: String,
    /// Who shall get it; never empty.
    pub recipients: Vec<Recipient>,
    /// Octets in the `.eml`. The queue fills it in when it commits.
    pub size: u64,
    /// BODY= of RFC 6152 and RFC 3030.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// RET= of RFC 3461 section 4.3: how much of the message a failure report returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Return>,
    /// ENVID= of RFC 3461 section 4.4, decoded: at most 100 printable ASCII characters, which reports repeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// SMTPUTF8 of RFC 6531.
    #[serde(default)]
    pub smtputf8: bool,
    /// AUTH= of RFC 4954 section 5, decoded: who is said to have first submitted it; `<>` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// HOLDFOR= or HOLDUNTIL= of RFC 4865: the message was not to be sent before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "milliseconds_or_none"
    )]
    pub release_at: Option<Timestamp>,
    /// What was asked for, as a report about the message repeats it: `for;` and seconds, or `until;` and a time (RFC 4865,
    /// the field Future-Release-Request).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_request: Option<String>,
    /// Why the message is withheld, and until when. One with this is put into `hold/` when it is accepted. It says
    /// nothing once the message is in `ready/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// BY= of RFC 2852: by when it is to be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_by: Option<DeliverBy>,
    /// MT-PRIORITY= of RFC 6710 as it was granted, from -9 to 9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// REQUIRETLS of RFC 8689: no server gets it but under TLS, with a name that was proven, and if it offers REQUIRETLS
    /// itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_tls: bool,
    /// By what it is known if its client sends it again, where it has a Message-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Who handed it to us, and how.
    pub client: Client,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Envelope {
    /// An envelope without sender and recipients, and with nothing that is optional: what struct literals begin with,
    /// so that a new field changes no place but this.
    pub fn new(id: MessageId, received_at: Timestamp, client: Client) -> Self {
        Self {
            version: ENVELOPE_VERSION,
            id,
            received_at,
            account: String::new(),
            credential: None,
            reverse_path: String::new(),
            recipients: Vec::new(),
            size: 0,
            body: None,
            ret: None,
            envid: None,
            smtputf8: false,
            auth: None,
            release_at: None,
            release_request: None,
            hold: None,
            deliver_by: None,
            priority: None,
            require_tls: false,
            fingerprint: None,
            client,
        }
    }

    /// Whether gatepost itself wrote the message. No account has an empty name.
    pub fn is_own(&self) -> bool {
        self.account.is_empty()
    }
}

/// One recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path without brackets and source route.
    pub forward_path: String,
    /// NOTIFY= of RFC 3461 section 4.1, each word once and in the order of [`Notify`]; empty if it was not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Notify>,
    /// ORCPT= of RFC 3461 section 4.2, decoded: the address type, `;`, and the address that the sender used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
}

impl Recipient {
    /// A recipient of whom nothing else is said.
    pub fn new(forward_path: impl Into<String>) -> Self {
        Self {
            forward_path: forward_path.into(),
            ..Self::default()
        }
    }
}

/// What the client said of the body's octets (RFC 6152, RFC 3030 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Any octets at all: the body need not consist of lines, and it may hold NUL, bare CR and bare LF.
    #[serde(rename = "BINARYMIME")]
    Binary,
    /// Octets above 127 may occur.
    #[serde(rename = "8BITMIME")]
    EightBitMime,
    /// Octets above 127 do not occur, said the client; we do not look.
    #[serde(rename = "7BIT")]
    SevenBit,
}

impl Body {
    /// The word that SMTP has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "BINARYMIME",
            Self::EightBitMime => "8BITMIME",
            Self::SevenBit => "7BIT",
        }
    }
}

/// When a report about a recipient is wanted (RFC 3461 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Notify {
    /// Under no circumstances. Stands alone.
    Never,
    /// When it was delivered.
    Success,
    /// When it could not be delivered.
    Failure,
    /// When its delivery takes unusually long.
    Delay,
}

impl Notify {
    /// The word that SMTP has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "NEVER",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Delay => "DELAY",
        }
    }
}

/// Why a message is withheld, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// When it goes on its way by itself; `None`: not before somebody lets it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "milliseconds_or_none"
    )]
    pub until: Option<Timestamp>,
    /// Why it was withheld before it was [contained](HoldReason::Contained), which is how it goes on afterwards; until
    /// then `until` does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<HoldReason>,
}

impl Hold {
    /// Withheld for this reason, until that time if there is one.
    pub fn new(reason: HoldReason, until: Option<Timestamp>) -> Self {
        Self {
            reason,
            until,
            before: None,
        }
    }

    /// When the message goes on its way by itself, as things stand.
    pub fn releases_at(&self) -> Option<Timestamp> {
        match self.reason {
            // They go by something else than the time; what is over a limit goes by that first.
            HoldReason::Contained | HoldReason::OverLimit => None,
            HoldReason::FutureRelease | HoldReason::Operator | HoldReason::Other => self.until,
        }
    }
}

/// Why a message is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldReason {
    /// Who sent it is contained.
    Contained,
    /// Its sender wanted it so (RFC 4865).
    FutureRelease,
    /// The operator wants it so.
    Operator,
    /// A limit of its account has no room for it yet. It leaves when there is, and not before `until`.
    OverLimit,
    /// Something that another version of gatepost knows.
    #[serde(other)]
    Other,
}

impl HoldReason {
    /// The word that the envelope and the log have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Contained => "contained",
            Self::FutureRelease => "future-release",
            Self::Operator => "operator",
            Self::OverLimit => "over-limit",
            Self::Other => "other",
        }
    }
}

/// By when a message is to be delivered, and what if it is not (RFC 2852 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverBy {
    /// The end of its time. It may lie in the past where the mode is [`DeliverByMode::Notify`].
    #[serde(with = "milliseconds")]
    pub at: Timestamp,
    /// What happens then.
    pub mode: DeliverByMode,
    /// Whether each server on the way is to report that it has passed the message on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trace: bool,
}

/// What happens to a message that was not delivered by its time (RFC 2852 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliverByMode {
    /// The sender hears of the delay, and delivery goes on.
    #[serde(rename = "N")]
    Notify,
    /// It goes back undelivered.
    #[serde(rename = "R")]
    Return,
}

impl DeliverByMode {
    /// The letter that SMTP has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "N",
            Self::Return => "R",
        }
    }
}

/// How much of the message a failure report returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Return {
    /// All of it.
    #[serde(rename = "FULL")]
    Full,
    /// Its header section.
    #[serde(rename = "HDRS")]
    Headers,
}

impl Return {
    /// The word that SMTP has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

/// The other end of the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What it called itself in EHLO or HELO. Nobody checks it.
    pub name: String,
    /// The SASL mechanism that it used.
    pub mechanism: String,
    /// The TLS version, as `TLSv1.3`.
    pub tls: String,
    /// The cipher suite.
    pub cipher: String,
}

impl Client {
    /// The client of what nobody handed in: an address that no client has, and our own name.
    pub fn nobody(hostname: &str) -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
            name: hostname.to_owned(),
            mechanism: String::new(),
            tls: String::new(),
            cipher: String::new(),
        }
    }
}

/// The proof that a message is on stable storage. The queue's commit makes it, and nothing else leads to a 250.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's name in the queue.
    pub id: MessageId,
    /// Octets in the `.eml`.
    pub size: u64,
    /// The message was queued before, and its client cannot know: now nothing was.
    pub repeated: bool,
}

impl Receipt {
    /// The receipt of a message that was queued now.
    pub fn new(id: MessageId, size: u64) -> Self {
        Self {
            id,
            size,
            repeated: false,
        }
    }
}

mod milliseconds {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::clock::{Timestamp, rfc3339_milliseconds};

    pub(super) fn serialize<S: Serializer>(
        time: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339_milliseconds(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

mod milliseconds_or_none {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::clock::Timestamp;

    /// The form of a time in an envelope.
    #[derive(Deserialize)]
    struct Written(#[serde(with = "super::milliseconds")] Timestamp);

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::milliseconds::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(|Written(time)| time))
    }
}

mod id_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::MessageId;

    pub(super) fn serialize<S: Serializer>(
        id: &MessageId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<MessageId, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_their_numbers_do() {
        let ids = [0, 1, 31, 32, u128::from(u64::MAX), u128::MAX].map(MessageId::from_bits);
        assert!(ids.is_sorted());
        for id in ids {
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
            assert_eq!(MessageId::from_bits(id.bits()), id);
        }
        for bad in [
            "",
            "short",
            "../../../../etc/passwd.....",
            "0123456789abcdefghjkmnpqri",
            "80000000000000000000000000",
        ] {
            assert_eq!(bad.parse::<MessageId>(), Err(MessageIdError), "{bad}");
        }
    }

    #[test]
    fn the_json_of_version_1() {
        let client = Client {
            address: "203.0.113.7".parse().unwrap(),
            port: 50123,
            name: "laptop.lan".to_owned(),
            mechanism: "PLAIN".to_owned(),
            tls: "TLSv1.3".to_owned(),
            cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        };
        let envelope = Envelope {
            account: "alice@example.org".to_owned(),
            recipients: vec![Recipient::new("bob@example.net")],
            size: 1234,
            body: Some(Body::EightBitMime),
            ..Envelope::new(
                MessageId::from_bits(7),
                "2026-11-21T09:30:00.123Z".parse().unwrap(),
                client,
            )
        };
        let json = serde_json::to_string(&envelope).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"version":1,"id":"00000000000000000000000007","received_at":"2026-11-21T09:30:00.123Z","#,
                r#""account":"alice@example.org","reverse_path":"","recipients":[{"forward_path":"bob@example.net"}],"#,
                r#""size":1234,"body":"8BITMIME","smtputf8":false,"client":{"address":"203.0.113.7","port":50123,"#,
                r#""name":"laptop.lan","mechanism":"PLAIN","tls":"TLSv1.3","cipher":"TLS13_AES_256_GCM_SHA384"}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap(), envelope);
        // What was asked for goes along, under its name in the contract.
        let asked = Envelope {
            recipients: vec![Recipient {
                notify: vec![Notify::Success, Notify::Failure],
                orcpt: Some("rfc822;bob@example.net".to_owned()),
                ..Recipient::new("bob@example.net")
            }],
            ret: Some(Return::Headers),
            envid: Some("QQ314159".to_owned()),
            release_at: Some("2026-11-22T08:00:00Z".parse().unwrap()),
            release_request: Some("for;81000".to_owned()),
            hold: Some(Hold::new(
                HoldReason::FutureRelease,
                Some("2026-11-22T08:00:00Z".parse().unwrap()),
            )),
            deliver_by: Some(DeliverBy {
                at: "2026-11-22T09:00:00.5Z".parse().unwrap(),
                mode: DeliverByMode::Return,
                trace: true,
            }),
            priority: Some(-4),
            require_tls: true,
            ..envelope.clone()
        };
        let text = serde_json::to_string(&asked).unwrap();
        for part in [
            r#""recipients":[{"forward_path":"bob@example.net","notify":["SUCCESS","FAILURE"],"orcpt":"rfc822;bob@example.net"}]"#,
            r#""body":"8BITMIME","ret":"HDRS","envid":"QQ314159","smtputf8":false"#,
            r#""release_at":"2026-11-22T08:00:00.000Z""#,
            r#""deliver_by":{"at":"2026-11-22T09:00:00.500Z","mode":"R","trace":true}"#,
            r#""priority":-4,"require_tls":true"#,
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(serde_json::from_str::<Envelope>(&text).unwrap(), asked);
        // A field of a later version does not confuse this one.
        let later = json.replacen('{', r#"{"some_day":3,"#, 1);
        assert_eq!(serde_json::from_str::<Envelope>(&later).unwrap(), envelope);
    }
}

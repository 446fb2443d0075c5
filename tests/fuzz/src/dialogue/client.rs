//! What the client does and what happens to it, read from an input.

use std::fmt::Write as _;
use std::time::Duration;

use gatepost::sasl::{Mechanism, encode_challenge};

use super::super::{Script, scram_answer};

/// The octets that are said in one plan, at most, so that no input takes long.
const SAID_BYTES_MAX: usize = 24 << 10;
/// How many verdicts there are; they go round.
const VERDICTS: usize = 16;

/// Who there is: names and passwords.
pub(super) const ACCOUNTS: [(&str, &str); 2] = [
    ("alice@example.org", "secret"),
    ("bob@example.net", "geheim"),
];
/// The nonces of SCRAM's server.
pub(super) const SERVER_NONCE: &str = "server";
/// The salt of the keys of SCRAM.
pub(super) const SALT: &[u8] = b"01234567";
/// The token that is alice's.
pub(super) const TOKEN: &str = "good";
/// The exporter of TLS, to which SCRAM binds.
pub(super) const EXPORTER: [u8; 32] = [7; 32];

/// A plan: how the connection is, how the world answers, and what is done one after the other.
#[derive(Debug)]
pub(super) struct Plan {
    /// Bits that say how the connection is: 1 plaintext at first, 2 with a certificate, 4 Received reveals the client,
    /// 8 tokens in Received, 16 no CHUNKING, 32 two errors are too many, 64 PLAIN and LOGIN only, 128 turned away.
    pub(super) shape: u8,
    /// The lengths of the pieces of the third run.
    pub(super) lengths: [u8; 3],
    verdicts: [u8; VERDICTS],
    pub(super) acts: Vec<Act>,
}

/// One thing that happens.
#[derive(Debug)]
pub(super) enum Act {
    /// The client is gone.
    Leave,
    /// Time goes by.
    Pass(Duration),
    /// The client says something, all at once.
    Say(Vec<u8>),
    /// The server wants to stop.
    Shutdown,
    /// The server stops.
    Stop,
    /// The account is contained.
    Withdraw,
}

/// What the world says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Yes.
    Allow,
    /// Yes; but of a message, that it was queued before.
    AllowRepeated,
    /// It could not be told.
    Fault,
    /// The client leaves while it is open.
    Leave,
    /// No.
    Refuse,
    /// Not now.
    RefuseForNow,
    /// The server wants to stop while it is open; then yes.
    Shutdown,
    /// The server stops while it is open.
    Stop,
    /// No, and that is the end.
    TurnAway,
    /// The account is contained while it is open.
    Withdraw,
}

impl Plan {
    /// Reads a plan: the shape, three lengths, sixteen verdicts, acts. In letters: `E` EHLO, `H` HELO, `A` AUTH with
    /// mechanism and variant, `M` MAIL and `R` RCPT with a variant, `D` DATA, `T` a text with a variant and its end,
    /// `W` a line of text, `Z` the final dot, `B` BDAT with size and variant, `S` STARTTLS, `N` NOOP, `V` VRFY and its
    /// like, `X` RSET, `Q` QUIT, `G` a browser, `L` a line and `F` octets of the input, `O` a line too long, `U`
    /// changes what was said last; `P` ends what is said at once, `I` lets time pass, `C` leaves, `K` contains, `J`
    /// and `Y` stop the server.
    pub(super) fn read(script: &mut Script<'_>) -> Self {
        let shape = script.octet();
        let lengths = [script.octet(), script.octet(), script.octet()];
        let verdicts = std::array::from_fn(|_| script.octet());
        let mut client = Client::default();
        let mut said = 0;
        while !script.is_used_up() && said <= SAID_BYTES_MAX {
            let octets = client.act(script);
            said += octets.len();
            client.say(octets);
        }
        client.pause();
        Self {
            shape,
            lengths,
            verdicts,
            acts: client.acts,
        }
    }

    /// How many octets the client says.
    pub(super) fn said_bytes(&self) -> usize {
        let said = self.acts.iter().map(|act| match act {
            Act::Say(octets) => octets.len(),
            _ => 0,
        });
        said.sum()
    }

    /// What the world says to a question of this kind that is asked behind so many replies: the same in each run.
    pub(super) fn fate(&self, replies: usize, kind: usize) -> Fate {
        let verdict = self.verdicts[(replies + kind) % VERDICTS];
        match verdict & 15 {
            0..=7 if verdict & 0x40 != 0 => Fate::AllowRepeated,
            0..=7 => Fate::Allow,
            8 => Fate::Refuse,
            9 => Fate::RefuseForNow,
            10 => Fate::TurnAway,
            11 => Fate::Fault,
            12 => Fate::Withdraw,
            13 => Fate::Leave,
            14 => Fate::Stop,
            _ => Fate::Shutdown,
        }
    }

    /// How many octets of a draft that is begun behind so many replies fit onto the disk.
    pub(super) fn disk(&self, replies: usize) -> usize {
        match self.verdicts[(replies + VERDICTS / 2) % VERDICTS] {
            verdict if verdict & 15 == 11 => 100 * usize::from(verdict >> 4),
            _ => usize::MAX,
        }
    }
}

/// The plan as it grows.
#[derive(Default)]
struct Client {
    acts: Vec<Act>,
    /// What is said at once and not finished.
    saying: Vec<u8>,
    /// What was said last.
    last: Vec<u8>,
    /// How much of the message that is sent in chunks has been.
    chunked: usize,
}

impl Client {
    fn say(&mut self, octets: Vec<u8>) {
        if !octets.is_empty() {
            self.saying.extend_from_slice(&octets);
            self.last = octets;
        }
    }

    fn pause(&mut self) {
        if !self.saying.is_empty() {
            let saying = std::mem::take(&mut self.saying);
            self.acts.push(Act::Say(saying));
        }
    }

    fn happens(&mut self, act: Act) -> Vec<u8> {
        self.pause();
        self.acts.push(act);
        Vec::new()
    }

    /// The next act; what is said in it.
    fn act(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        match script.octet() & 31 {
            // A
            1 => authenticate(script.octet(), script.octet()),
            // B
            2 => {
                let (size, variant) = (usize::from(script.octet()), script.octet());
                self.chunk(size, variant, script)
            }
            // C
            3 => self.happens(Act::Leave),
            // D
            4 => b"DATA\r\n".to_vec(),
            // E
            5 => b"EHLO x\r\n".to_vec(),
            // F
            6 => {
                let length = usize::from(script.octet());
                script.take(length).to_vec()
            }
            // G
            7 => b"GET / HTTP/1.1\r\n".to_vec(),
            // H
            8 => b"HELO x\r\n".to_vec(),
            // I
            9 => {
                let seconds = 10 * u64::from(script.octet());
                self.happens(Act::Pass(Duration::from_secs(seconds)))
            }
            // J
            10 => self.happens(Act::Shutdown),
            // K
            11 => self.happens(Act::Withdraw),
            // L
            12 => {
                let length = usize::from(script.octet());
                [script.take(length), b"\r\n"].concat()
            }
            // M
            13 => {
                self.chunked = 0;
                MAIL[script.below(MAIL.len())].to_vec()
            }
            // N
            14 => b"NOOP\r\n".to_vec(),
            // O
            15 => {
                let verb: &[u8] =
                    [&b"NOOP "[..], b"AUTH PLAIN ", b"MAIL FROM:<", b""][script.below(4)];
                let length = 64 * usize::from(script.octet());
                [verb, &vec![b'A'; length], b"\r\n"].concat()
            }
            // P
            16 => {
                self.pause();
                Vec::new()
            }
            // Q
            17 => b"QUIT\r\n".to_vec(),
            // R
            18 => RCPT[script.below(RCPT.len())].to_vec(),
            // S
            19 => b"STARTTLS\r\n".to_vec(),
            // T
            20 => [&text(script.octet())[..], b".\r\n"].concat(),
            // U
            21 => {
                self.change(script);
                Vec::new()
            }
            // V
            22 => {
                [&b"VRFY alice\r\n"[..], b"EXPN staff\r\n", b"HELP\r\n"][script.below(3)].to_vec()
            }
            // W
            23 => {
                let length = script.below(64);
                [script.take(length), b"\r\n"].concat()
            }
            // X
            24 => b"RSET\r\n".to_vec(),
            // Y
            25 => self.happens(Act::Stop),
            // Z
            26 => b".\r\n".to_vec(),
            // What was said last, again.
            _ => self.last.clone(),
        }
    }

    /// BDAT. Of the variant: 1 it is the last, 2 its octets are of the input, 4 something stands behind, 8 too few octets
    /// come (which makes it swallow what follows), 16 no size, 32 with octets that no text has.
    fn chunk(&mut self, size: usize, variant: u8, script: &mut Script<'_>) -> Vec<u8> {
        let size = size * if variant & 64 != 0 { 16 } else { 1 };
        let last = if variant & 1 != 0 { " LAST" } else { "" };
        let behind = if variant & 4 != 0 { " x" } else { "" };
        let announced = size + if variant & 8 != 0 { 7 } else { 0 };
        let mut said = match variant & 16 {
            0 => format!("BDAT {announced}{last}{behind}\r\n").into_bytes(),
            _ => format!("bdat {announced}x{last}\r\n").into_bytes(),
        };
        let octets: Vec<u8> = match variant & 2 {
            0 => {
                let message = text(0)
                    .into_iter()
                    .chain(b"a line\r\n".iter().copied().cycle());
                let octets = message.skip(self.chunked).take(size).collect();
                self.chunked += size;
                octets
            }
            _ => script.take(size).to_vec(),
        };
        let mut octets = octets;
        octets.resize(size, if variant & 32 != 0 { b'\n' } else { b'x' });
        if variant & 1 != 0 {
            self.chunked = 0;
        }
        said.extend_from_slice(&octets);
        said
    }

    /// Changes what was said last: one octet is another, is gone, comes twice, or everything behind it is gone.
    fn change(&mut self, script: &mut Script<'_>) {
        let (how, place, octet) = (script.octet(), usize::from(script.octet()), script.octet());
        let length = self.last.len().min(self.saying.len());
        if length == 0 {
            return;
        }
        let start = self.saying.len() - length;
        // Where the words are, or the end.
        let place = match how & 4 {
            0 => start + place % length,
            _ => self.saying.len() - 1 - place % length,
        };
        match how & 3 {
            0 => self.saying[place] = octet,
            1 => drop(self.saying.remove(place)),
            2 => self.saying.insert(place, octet),
            _ => self.saying.truncate(place),
        }
        self.last = self.saying[start.min(self.saying.len())..].to_vec();
    }
}

const MAIL: [&[u8]; 16] = [
    b"MAIL FROM:<alice@example.org>\r\n",
    b"MAIL FROM:<alice@example.org> SIZE=500 BODY=8BITMIME\r\n",
    b"MAIL FROM:<alice@example.org> BODY=BINARYMIME\r\n",
    b"MAIL FROM:<alice@example.org> SIZE=2001\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<alice@example.org> SMTPUTF8\r\n",
    b"MAIL FROM:<\xc3\xa4@example.org> SMTPUTF8\r\n",
    b"MAIL FROM:<\xc3\xa4@example.org>\r\n",
    b"MAIL FROM:<alice@example.org> RET=HDRS ENVID=a+2Bb AUTH=<>\r\n",
    b"MAIL FROM:<alice@example.org> HOLDFOR=60 BY=120;R MT-PRIORITY=9\r\n",
    b"MAIL FROM:<alice@example.org> HOLDFOR=120 BY=60;R\r\n",
    b"MAIL FROM:<alice@example.org> REQUIRETLS AUTH=bob@example.net\r\n",
    b"MAIL FROM:<alice@example.org> X=1\r\n",
    b"mail from: <alice@example.org> size=1 \r\n",
    b"MAIL FROM:alice\r\n",
    b"MAIL\r\n",
];

const RCPT: [&[u8]; 10] = [
    b"RCPT TO:<bob@example.net>\r\n",
    b"RCPT TO:<carol@example.net>\r\n",
    b"RCPT TO:<dave@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;d+2Bx@example.net\r\n",
    b"RCPT TO:<erin@example.net>\r\n",
    b"RCPT TO:<BOB@EXAMPLE.NET>\r\n",
    b"RCPT TO:<postmaster>\r\n",
    b"RCPT TO:<\xc3\xb6@example.net>\r\n",
    b"RCPT TO:<bob@example.net> NOTIFY=NEVER,DELAY\r\n",
    b"RCPT TO:bob\r\n",
    b"RCPT TO:<>\r\n",
];

/// A message, without the line that ends it.
fn text(variant: u8) -> Vec<u8> {
    let message: &[u8] = match variant % 12 {
        0 => b"From: alice@example.org\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n..dot\r\n",
        1 => b"Subject: x\r\n\r\nhello\r\n",
        2 => b"Received: a\r\nReceived: b\r\nReceived: c\r\nFrom: alice@example.org\r\n\r\nround\r\n",
        3 => b"From: bob@example.net, \"x\" <alice@example.org>\r\nSender: alice@example.org\r\n\r\n\r\n",
        4 => b"From: alice@example.org\r\nBcc: x@example.net,\r\n y@example.net\r\n\r\nblind\r\n",
        5 => b"From: alice@example.org\r\n\r\nbare\n.\nMAIL FROM:<>\r\n",
        6 => b"From: alice@example.org\r\n\r\nnul\0\rcr\r\n",
        7 => b"From: alice@example.org\r\n\r\n\n.\r\nNOOP\r\n",
        8 => b"",
        9 => b"no field\r\n",
        10 => b"From: alice@example.org\r\n\r\n",
        _ => b"X: y\r\n",
    };
    let mut text = message.to_vec();
    // A long body, or, behind the beginning of a field, a long header section.
    for _ in 0..8 * usize::from(variant / 16) {
        text.extend_from_slice(if variant % 12 == 11 {
            b" folded line\r\n"
        } else {
            b"a long line.\r\n"
        });
    }
    text
}

/// AUTH and its responses, all that the exchange can need. Of the variant: 3 is 0 the right secret, 1 a wrong one,
/// 2 to cancel, 3 no base64; 4 no initial response; 8 a response too long; 16 bob; 32 to act for alice.
fn authenticate(mechanism: u8, variant: u8) -> Vec<u8> {
    let mechanism = Mechanism::ALL[usize::from(mechanism) % Mechanism::ALL.len()];
    let (name, right) = ACCOUNTS[usize::from(variant & 16 != 0)];
    let secret = if variant & 3 == 1 { "wrong" } else { right };
    let token = if variant & 3 == 1 { "bad" } else { TOKEN };
    let authorization = if variant & 32 != 0 { ACCOUNTS[0].0 } else { "" };
    let in_base64 = |text: String| encode_challenge(text.as_bytes());
    let scram = |plus: bool| {
        let header = match (plus, authorization) {
            (true, "") => "p=tls-exporter,,".to_owned(),
            (false, "") => "n,,".to_owned(),
            (true, name) => format!("p=tls-exporter,a={name},"),
            (false, name) => format!("n,a={name},"),
        };
        let bare = format!("n={name},r=client");
        let salt = encode_challenge(SALT);
        let server_first = format!("r=client{SERVER_NONCE},s={salt},i=1");
        let binding = if plus { &EXPORTER[..] } else { &[] };
        let (last, _) = scram_answer(
            secret.as_bytes(),
            SALT,
            &header,
            binding,
            &bare,
            &server_first,
        );
        vec![
            in_base64(format!("{header}{bare}")),
            in_base64(last),
            String::new(),
        ]
    };
    let mut responses = match mechanism {
        Mechanism::External => vec![match authorization {
            "" => "=".to_owned(),
            name => in_base64(name.to_owned()),
        }],
        Mechanism::Login => vec![in_base64(name.to_owned()), in_base64(secret.to_owned())],
        Mechanism::OauthBearer => vec![match authorization {
            "" => in_base64(format!("n,,\x01auth=Bearer {token}\x01\x01")),
            name => in_base64(format!("n,a={name},\x01auth=Bearer {token}\x01\x01")),
        }],
        Mechanism::Plain => vec![in_base64(format!("{authorization}\0{name}\0{secret}"))],
        Mechanism::ScramSha256 => scram(false),
        Mechanism::ScramSha256Plus => scram(true),
        Mechanism::Xoauth2 => vec![in_base64(format!(
            "user={name}\x01auth=Bearer {token}\x01\x01"
        ))],
    };
    if mechanism.takes_token() && secret == "wrong" {
        responses.push("AQ==".to_owned());
    }
    let place = usize::from(variant >> 6) % responses.len();
    match variant & 3 {
        2 => responses[place] = "*".to_owned(),
        3 => responses[place] = "?".to_owned(),
        _ => {}
    }
    if variant & 8 != 0 {
        responses[place] = "A".repeat(12_292);
    }
    let mut said = format!("AUTH {}", mechanism.name());
    let separator = if variant & 4 == 0 { " " } else { "\r\n" };
    for (index, response) in responses.iter().enumerate() {
        let separator = if index == 0 { separator } else { "\r\n" };
        let _ = write!(said, "{separator}{response}");
    }
    said.push_str("\r\n");
    said.into_bytes()
}

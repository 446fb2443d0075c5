//! How each client is told to submit one message, and what it makes of it on the way.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport as _};
use serde_json::{Value, json};

use super::{Listener, Outcome, Submission, without_bcc};

/// What every client calls itself.
pub(super) const CLIENT_NAME: &str = "laptop.example.org";
/// How long a client may take, in seconds. It bounds a failing test, nothing else.
const PATIENCE_SECONDS: u64 = 120;

/// A client that submits one message.
pub(super) type Client = fn(&Submission<'_>) -> Outcome;

/// The clients that are programs of their own.
pub(super) const PROGRAMS: [(&str, Client); 6] = [
    ("curl", curl),
    ("exim", exim),
    ("msmtp", msmtp),
    ("s-nail", s_nail),
    ("smtplib", smtplib),
    ("swaks", swaks),
];

/// Those of them that log in with a certificate of their own. (swaks shows one, and has no EXTERNAL.)
pub(super) const EXTERNAL_PROGRAMS: [(&str, Client); 4] = [
    ("curl", curl),
    ("msmtp", msmtp),
    ("s-nail", s_nail),
    ("smtplib", smtplib),
];

pub(super) fn lettre(submission: &Submission<'_>) -> Outcome {
    let pem = std::fs::read(&submission.certificate).unwrap();
    let parameters = TlsParameters::builder("localhost".to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(Certificate::from_pem(&pem).unwrap())
        .build()
        .unwrap();
    let tls = match submission.listener {
        Listener::Implicit => Tls::Wrapper(parameters),
        Listener::StartTls => Tls::Required(parameters),
    };
    let mechanism = match submission.mechanism {
        "LOGIN" => Mechanism::Login,
        "XOAUTH2" => Mechanism::Xoauth2,
        _ => Mechanism::Plain,
    };
    let transport = SmtpTransport::builder_dangerous("localhost")
        .port(submission.port())
        .tls(tls)
        .hello_name(ClientId::Domain(CLIENT_NAME.to_owned()))
        .authentication(vec![mechanism])
        .credentials(Credentials::new(
            submission.account.to_owned(),
            submission.password.to_owned(),
        ))
        .timeout(Some(Duration::from_secs(PATIENCE_SECONDS)))
        .build();
    let addresses = submission.recipients.iter();
    let envelope = lettre::address::Envelope::new(
        Some(submission.reverse_path.parse().unwrap()),
        addresses.map(|address| address.parse().unwrap()).collect(),
    )
    .unwrap();
    // It ends the last line itself, also where the message has done so.
    let given = submission.message.strip_suffix(b"\r\n").unwrap();
    let (accepted, said) = match transport.send_raw(&envelope, given) {
        Ok(response) => (true, response.message().collect()),
        // Code and text of a reply come apart in its errors.
        Err(error) => {
            let code = error.status().map(|code| format!("{code} "));
            let text = std::error::Error::source(&error).map(ToString::to_string);
            (false, code.unwrap_or_default() + &text.unwrap_or_default())
        }
    };
    Outcome {
        accepted,
        said,
        sent: submission.message.to_vec(),
        body: (!submission.message.is_ascii()).then_some("8BITMIME"),
    }
}

pub(super) fn curl(submission: &Submission<'_>) -> Outcome {
    let (scheme, port) = (
        match submission.listener {
            Listener::Implicit => "smtps",
            Listener::StartTls => "smtp",
        },
        submission.port(),
    );
    let mut call = Call::new("curl");
    // Verbose, since it tells the server's answers nowhere else.
    call.arguments(&["--disable", "--silent", "--show-error", "--verbose"]);
    call.arguments(&[
        "--url",
        &format!("{scheme}://localhost:{port}/{CLIENT_NAME}"),
    ]);
    call.arguments(&["--ssl-reqd", "--cacert", submission.certificate_text()]);
    if matches!(submission.mechanism, "OAUTHBEARER" | "XOAUTH2") {
        call.arguments(&["--user", &format!("{}:", submission.account)]);
        call.arguments(&["--oauth2-bearer", submission.password]);
    } else {
        let user = format!("{}:{}", submission.account, submission.password);
        call.arguments(&["--user", &user]);
    }
    call.arguments(&["--login-options", &format!("AUTH={}", submission.mechanism)]);
    if let Some(own) = submission.own {
        call.arguments(&["--cert", &own.certificate, "--key", &own.key]);
    }
    call.arguments(&["--mail-from", submission.reverse_path]);
    for recipient in submission.recipients {
        call.arguments(&["--mail-rcpt", recipient]);
    }
    let file = call.write("message.eml", submission.message);
    call.arguments(&["--upload-file", file.to_str().unwrap()]);
    call.run(&[]).sent(submission.message)
}

/// As a machine of its own that has us for its smarthost. It sends by BDAT where that is offered, and pipelines it.
fn exim(submission: &Submission<'_>) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let mut call = Call::new("/usr/sbin/exim4");
    let folder = call.folder.path().to_owned();
    // Given a configuration, it gives up being root, and is another user then.
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&folder, 0o755);
    for name in ["spool", "log"] {
        std::fs::create_dir(folder.join(name)).unwrap();
        open(&folder.join(name), 0o777);
    }
    let certificate = std::fs::read(&submission.certificate).unwrap();
    open(&call.write("certificate.pem", &certificate), 0o644);
    let [user, password] = [submission.account, submission.password].map(|text| {
        let escaped = |c: char| matches!(c, '\\' | '$' | '{' | '}').then_some('\\');
        let characters = text.chars().flat_map(|c| escaped(c).into_iter().chain([c]));
        characters.collect::<String>().replace(':', "::")
    });
    let send = match submission.mechanism {
        "LOGIN" => format!(": {user} : {password}"),
        _ => format!("^{user}^{password}"),
    };
    let config = format!(
        "primary_hostname = {CLIENT_NAME}\nspool_directory = {folder}/spool\nlog_file_path = {folder}/log/%s\n\
         log_selector = +smtp_confirmation\nkeep_environment =\naccept_8bitmime\n\
         no_local_from_check\nuntrusted_set_sender = *\nreceived_header_text =\nacl_not_smtp_start = as_it_is\n\
         begin acl\nas_it_is:\n  accept control = suppress_local_fixups\n\
         begin routers\n\
         reports:\n  driver = redirect\n  senders = :\n  data = :blackhole:\n\
         smarthost:\n  driver = manualroute\n  transport = gatepost\n  self = send\n\
         \x20 route_list = * localhost::{port} byname\n\
         begin transports\n\
         gatepost:\n  driver = smtp\n  protocol = {protocol}\n  message_linelength_limit = 1000000\n\
         \x20 hosts_require_auth = *\n  hosts_require_tls = *\n  hosts_try_chunking = *\n\
         \x20 tls_verify_certificates = {folder}/certificate.pem\n\
         \x20 tls_verify_hosts = *\n  tls_verify_cert_hostnames = *\n\
         begin authenticators\n\
         gatepost:\n  driver = plaintext\n  public_name = {mechanism}\n  client_send = {send}\n",
        folder = folder.display(),
        port = submission.port(),
        protocol = match submission.listener {
            Listener::Implicit => "smtps",
            Listener::StartTls => "smtp",
        },
        mechanism = submission.mechanism,
    );
    let file = call.write("exim.conf", config.as_bytes());
    open(&file, 0o644);
    call.arguments(&["-C", file.to_str().unwrap(), "-odf", "-oi"]);
    call.arguments(&["-f", submission.reverse_path, "--"]);
    call.arguments(submission.recipients);
    let ran = call.run(&lines_with(b"\n", submission.message));
    // What became of it is in its log alone: `=>` and `->` for a delivery, `==` and `**` for none; K for chunks.
    let log = std::fs::read_to_string(folder.join("log/main")).unwrap_or_default();
    let has = |mark: &str| log.contains(mark);
    let accepted = ran.accepted && has(" => ") && !has(" == ") && !has(" ** ");
    assert!(
        !accepted || has(" K C=\"250 2.0.0 queued as "),
        "no chunks: {log}"
    );
    Outcome {
        accepted,
        said: ran.said + &log,
        sent: submission.message.to_vec(),
        body: None,
    }
}

pub(super) fn msmtp(submission: &Submission<'_>) -> Outcome {
    msmtp_with(submission, &[])
}

/// With more arguments than it needs.
pub(super) fn msmtp_with(submission: &Submission<'_>, more: &[&str]) -> Outcome {
    let mut call = Call::new("msmtp");
    let password = match submission.mechanism {
        // A line of its configuration is shorter than tokens are.
        "OAUTHBEARER" | "XOAUTH2" => {
            let file = call.write("token", submission.password.as_bytes());
            format!("passwordeval cat \"{}\"", file.display())
        }
        _ => format!("password \"{}\"", submission.password),
    };
    // A value may stand in quotes, and that is all the quoting there is.
    let mut config = format!(
        "account default\nhost localhost\nport {}\ndomain {CLIENT_NAME}\n\
         tls on\ntls_starttls {}\ntls_trust_file \"{}\"\n\
         auth {}\nuser \"{}\"\n{}\n\
         set_from_header off\nset_date_header off\nset_msgid_header off\nremove_bcc_headers off\n",
        submission.port(),
        match submission.listener {
            Listener::Implicit => "off",
            Listener::StartTls => "on",
        },
        submission.certificate_text(),
        submission.mechanism.to_ascii_lowercase(),
        submission.account,
        password,
    );
    if let Some(own) = submission.own {
        config += &format!(
            "tls_cert_file \"{}\"\ntls_key_file \"{}\"\n",
            own.certificate, own.key
        );
    }
    let file = call.write("msmtprc", config.as_bytes());
    call.arguments(&["--file", file.to_str().unwrap()]);
    call.arguments(more);
    call.arguments(&["--from", submission.reverse_path, "--"]);
    for recipient in submission.recipients {
        call.arguments(&[recipient]);
    }
    call.run(submission.message).sent(submission.message)
}

/// It logs in and leaves; a message is not what it is for. It ends well only if the server has proven itself, too.
pub(super) fn gsasl(submission: &Submission<'_>) -> Outcome {
    let mut call = Call::new("gsasl");
    let trusted = format!("--x509-ca-file={}", submission.certificate_text());
    call.arguments(&["--smtp", "--starttls", "--verbose", &trusted]);
    call.arguments(&["--mechanism", submission.mechanism]);
    if submission.mechanism == "SCRAM-SHA-256" {
        // Where it could bind, it does not log in unbound.
        call.arguments(&["--no-cb"]);
    }
    if let Some(own) = submission.own {
        call.arguments(&[
            &format!("--x509-cert-file={}", own.certificate),
            &format!("--x509-key-file={}", own.key),
        ]);
    }
    call.arguments(&["--authentication-id", submission.account]);
    call.arguments(&["--authorization-id", "", "--password", submission.password]);
    call.arguments(&["localhost", &submission.port().to_string()]);
    call.run(b"").sent(b"")
}

/// It writes the message itself and is given the body alone. What it sent it also files away.
fn s_nail(submission: &Submission<'_>) -> Outcome {
    let mut call = Call::new("s-nail");
    let scheme = match submission.listener {
        Listener::Implicit => "smtps",
        Listener::StartTls => "smtp",
    };
    let record = call.folder.path().join("record");
    let (record, dead) = (record.to_str().unwrap(), call.folder.path().join("dead"));
    let (user, password) = (
        percent_encoded(submission.account),
        percent_encoded(submission.password),
    );
    // No start-up files.
    call.arguments(&["-:/"]);
    for (name, value) in [
        ("hostname", CLIENT_NAME),
        (
            "mta",
            &format!(
                "{scheme}://{user}:{password}@localhost:{}",
                submission.port()
            ),
        ),
        ("smtp-auth", &submission.mechanism.to_ascii_lowercase()),
        ("tls-ca-file", submission.certificate_text()),
        ("tls-verify", "strict"),
        ("from", submission.reverse_path),
        ("ttycharset", "utf-8"),
        ("sendcharsets", "utf-8"),
        ("mime-encoding", "8bit"),
        ("record", record),
        // It looks the home directory up elsewhere.
        ("DEAD", dead.to_str().unwrap()),
    ] {
        call.arguments(&[&format!("-S{name}={value}")]);
    }
    call.arguments(&["-Sv15-compat", "-Stls-ca-no-defaults"]);
    if submission.listener == Listener::StartTls {
        call.arguments(&["-Ssmtp-use-starttls"]);
    }
    if let Some(own) = submission.own {
        let pairs = format!("Certificate={},PrivateKey={}", own.certificate, own.key);
        call.arguments(&[&format!("-Stls-config-pairs={pairs}")]);
    }
    call.arguments(&["-s", "hello"]);
    let (visible, hidden) = match submission.recipients {
        // Somebody has to be named for others to be hidden from.
        [all @ .., last] if without_bcc(submission.message) != submission.message => {
            (all, Some(last))
        }
        all => (all, None),
    };
    if let Some(hidden) = hidden {
        call.arguments(&["-b", hidden]);
    }
    for recipient in visible {
        call.arguments(&[recipient]);
    }
    let text = submission.message;
    let body = text
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|blank| text[blank + 4..].to_vec())
        .unwrap();
    let outcome = call.run(&lines_with(b"\n", &body));
    // An mbox: a line that separates, the message, an empty line.
    let filed = std::fs::read(record).unwrap_or_default();
    let sent = filed
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|end| &filed[end + 1..])
        .and_then(|message| message.strip_suffix(b"\n"))
        .unwrap_or_default();
    outcome.sent(&lines_with(b"\r\n", sent))
}

fn smtplib(submission: &Submission<'_>) -> Outcome {
    let more = match submission.message.is_ascii() {
        true => json!({}),
        false => json!({"mail_options": ["BODY=8BITMIME"]}),
    };
    Outcome {
        body: (!submission.message.is_ascii()).then_some("8BITMIME"),
        ..smtplib_with(submission, more)
    }
}

/// With these parameters of MAIL and RCPT, and in chunks if so wanted: `mail_options`, `rcpt_options`, `chunk_size`.
pub(super) fn smtplib_with(submission: &Submission<'_>, more: Value) -> Outcome {
    let mut call = Call::new("python3");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/clients/smtplib_client.py"
    );
    let mut job = json!({
        "listener": match submission.listener {
            Listener::Implicit => "implicit",
            Listener::StartTls => "starttls",
        },
        "port": submission.port(),
        "certificate": submission.certificate_text(),
        "client_name": CLIENT_NAME,
        "mechanism": submission.mechanism,
        "account": submission.account,
        "password": submission.password,
        "reverse_path": submission.reverse_path,
        "recipients": submission.recipients,
    });
    if let Some(own) = submission.own {
        job["own"] = json!([own.certificate, own.key]);
    }
    for (name, value) in more.as_object().into_iter().flatten() {
        job[name] = value.clone();
    }
    call.arguments(&[script, &job.to_string()]);
    call.run(submission.message).sent(submission.message)
}

fn swaks(submission: &Submission<'_>) -> Outcome {
    let mut call = Call::new("swaks");
    let port = submission.port().to_string();
    call.arguments(&["--server", "localhost", "--port", &port]);
    call.arguments(&[match submission.listener {
        Listener::Implicit => "--tls-on-connect",
        Listener::StartTls => "--tls",
    }]);
    let certificate = submission.certificate_text();
    call.arguments(&["--tls-verify", "--tls-ca-path", certificate]);
    call.arguments(&["--auth", submission.mechanism]);
    call.arguments(&["--auth-user", submission.account]);
    call.arguments(&["--auth-password", submission.password]);
    call.arguments(&["--ehlo", CLIENT_NAME, "--from", submission.reverse_path]);
    call.arguments(&["--to", &submission.recipients.join(",")]);
    // It takes a line with a dot for the end of the data, and writes an end behind whatever else it is given.
    let ended = [submission.message, b".\r\n"].concat();
    let file = call.write("message.eml", &ended);
    call.arguments(&["--data", &format!("@{}", file.display()), "--suppress-data"]);
    call.run(&[]).sent(submission.message)
}

/// One run of a program, in a folder of its own that is also its home: it finds no settings of whoever runs the tests.
struct Call {
    command: Command,
    folder: tempfile::TempDir,
}

impl Call {
    fn new(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("timeout");
        command
            .arg(PATIENCE_SECONDS.to_string())
            .arg(program)
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("LC_ALL", "C.UTF-8");
        Self { command, folder }
    }

    fn arguments(&mut self, arguments: &[&str]) {
        self.command.args(arguments);
    }

    /// Writes a file that only its owner can read: msmtp insists.
    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.folder.path().join(name);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(content).unwrap();
        path
    }

    fn run(&mut self, input: &[u8]) -> Ran {
        let mut process = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut standard_input = process.stdin.take().unwrap();
        let input = input.to_vec();
        // A client that was refused does not read the rest.
        let writer = std::thread::spawn(move || {
            let _ = standard_input.write_all(&input);
        });
        let output = process.wait_with_output().unwrap();
        writer.join().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let status = output.status.code();
        assert!(
            status != Some(127) && status != Some(124),
            "{:?} is missing or does not end:\n{said}",
            self.command
        );
        Ran {
            accepted: output.status.success(),
            said,
        }
    }
}

/// What became of a run.
struct Ran {
    accepted: bool,
    said: String,
}

impl Ran {
    fn sent(self, sent: &[u8]) -> Outcome {
        Outcome {
            accepted: self.accepted,
            said: self.said,
            sent: sent.to_vec(),
            body: None,
        }
    }
}

/// What needs no escape must not have one: s-nail insists.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// `text` with other line ends.
fn lines_with(end: &[u8], text: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                result.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                result.extend_from_slice(end);
            }
            None => result.extend_from_slice(line),
        }
    }
    result
}

/// A command line to paste, run by a shell in `folder`; what it wrote, if it succeeded.
pub(super) fn pasted(folder: &Path, line: &str) -> String {
    let output = Command::new("timeout")
        .arg(PATIENCE_SECONDS.to_string())
        .args(["bash", "-c", line])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let written = crate::daemon::succeeded(&[line], output);
    String::from_utf8_lossy(&written).into_owned()
}

//! The mail that tells the operator of an incident, and how much of it there is.
//!
//! It is a message like any other: it goes into the queue by the same steps, is durable there, and whoever sees messages
//! onward takes it. But nobody has sent it: its envelope names no account, so no limit counts it, no trip wire watches
//! it, and no containment holds it; and its reverse-path is null, so that nothing comes back (RFC 3834 section 3.3).
//!
//! What holds it up, as a full disk, is said in the log and told later; containing anybody never waits for it.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::{Alerts, Incident};
use crate::clock::{Now, Timestamp};
use crate::control::{ContainReport, MailAlert};
use crate::envelope::{Client, Envelope, MessageId, Recipient};
use crate::message::Notice;
use crate::policy::tripwire::{Trip, Wire};
use crate::queue::QueueError;
use crate::server::Services;
use crate::smtp::address::Mailbox;

/// Mails about one incident each, in any hour that begins with one. What is more than that is told together when the
/// hour is over: a wave of incidents is no wave of mail.
pub const MAILS_PER_HOUR_MAX: u32 = 20;
/// The hour.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Accounts that are named of those that are told together.
const NAMED_MAX: usize = 100;
/// Messages that are named of those that have left.
const LEFT_IDS_MAX: usize = 100;
/// Where the commands look for the configuration if they are not told.
const USUAL_CONFIG: &str = "/etc/gatepost/gatepost.toml";

/// `alert.to` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailSettings {
    /// Who gets it; of ASCII, and not nobody.
    pub to: Vec<Mailbox>,
    /// Whose address stands in From; of ASCII.
    pub from: Mailbox,
    /// Our own name.
    pub hostname: String,
    /// The configuration that commands are to be given with.
    pub config: PathBuf,
}

/// How much mail there was lately, and what it did not tell.
#[derive(Debug, Default)]
pub(super) struct Ration {
    /// Since when it is counted.
    begun: Option<Instant>,
    mails: u32,
    untold: Untold,
}

/// Incidents that no mail has told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Untold {
    count: u64,
    /// When the first was.
    since: Option<Timestamp>,
    /// Whom they were about, up to [`NAMED_MAX`], each once.
    accounts: Vec<String>,
}

/// A mail that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There may be more.
    One,
    /// The next one is when the hour is over.
    Last,
}

impl Ration {
    /// Whether there may be a mail about an incident of this account. If not, it is told later.
    fn take(&mut self, account: &str, now: Now) -> Option<Turn> {
        if self.is_over(now) {
            (self.begun, self.mails) = (None, 0);
        }
        if self.mails >= MAILS_PER_HOUR_MAX {
            self.leave_out(account, now);
            return None;
        }
        self.begun.get_or_insert(now.instant);
        self.mails += 1;
        Some(match self.mails == MAILS_PER_HOUR_MAX {
            true => Turn::Last,
            false => Turn::One,
        })
    }

    /// It could not be told.
    fn leave_out(&mut self, account: &str, now: Now) {
        let Untold {
            count,
            since,
            accounts,
        } = &mut self.untold;
        *count += 1;
        since.get_or_insert(now.wall);
        if accounts.len() < NAMED_MAX && !accounts.iter().any(|known| known == account) {
            accounts.push(account.to_owned());
        }
    }

    /// What is to be told together, when the hour is over, or at once if there will be no other time. It counts as told.
    fn take_untold(&mut self, now: Now, is_last_chance: bool) -> Option<Untold> {
        if self.untold.count == 0 || !(is_last_chance || self.is_over(now)) {
            return None;
        }
        (self.begun, self.mails) = (Some(now.instant), 1);
        Some(std::mem::take(&mut self.untold))
    }

    /// It could not be told after all.
    fn put_back(&mut self, untold: Untold) {
        let later = std::mem::replace(&mut self.untold, untold);
        self.untold.count += later.count;
        for account in later.accounts {
            if self.untold.accounts.len() < NAMED_MAX && !self.untold.accounts.contains(&account) {
                self.untold.accounts.push(account);
            }
        }
    }

    fn is_over(&self, now: Now) -> bool {
        let begun = self.begun.unwrap_or(now.instant);
        now.instant.saturating_duration_since(begun) >= HOUR
    }
}

impl Alerts {
    fn ration(&self) -> std::sync::MutexGuard<'_, Ration> {
        self.ration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Services {
    /// Puts a mail about it into the queue, if there is somebody to get it, and says in the log what became of it.
    pub(super) async fn mail_alert(&self, incident: &Incident) -> Option<MailAlert> {
        let generation = self.generation.load_full();
        let settings = generation.alert_mail.as_ref()?;
        let account = incident.account();
        let turn = match incident {
            Incident::Test => Turn::One,
            Incident::Contained { .. } | Incident::Tripped { .. } => {
                let turn = self.alerts.ration().take(account, Now::read());
                let Some(turn) = turn else {
                    tracing::warn!(event = "alert.deferred", account);
                    return None;
                };
                turn
            }
        };
        let (subject, mut text) = settings.words(incident);
        if turn == Turn::Last {
            text.push_str(&format!(
                "\nThis is mail number {MAILS_PER_HOUR_MAX} in an hour. What else there is will be told together when \
                 the hour is over;\nthe log has all of it at once (event=tripwire).\n"
            ));
        }
        let queued = self.queue_notice(settings, &subject, &text).await;
        if queued.is_err() && !matches!(incident, Incident::Test) {
            self.alerts.ration().leave_out(account, Now::read());
        }
        Some(reported(settings, account, 1, queued))
    }

    /// Tells of what was left out, if it is time for that; at a stop, of all that there is.
    pub async fn mail_untold(&self, is_last_chance: bool) {
        let generation = self.generation.load_full();
        let untold = self
            .alerts
            .ration()
            .take_untold(Now::read(), is_last_chance);
        // Without anybody to get it, it is forgotten.
        let (Some(untold), Some(settings)) = (untold, &generation.alert_mail) else {
            return;
        };
        let (subject, text) = settings.words_of_untold(&untold);
        let queued = self.queue_notice(settings, &subject, &text).await;
        let is_lost = queued.is_err();
        reported(settings, "", untold.count, queued);
        if is_lost {
            self.alerts.ration().put_back(untold);
        }
    }

    /// Whether [`mail_untold`](Self::mail_untold) has anything to tell. Does not block.
    pub fn is_untold_due(&self) -> bool {
        let ration = self.alerts.ration();
        ration.untold.count > 0 && ration.is_over(Now::read())
    }

    async fn queue_notice(
        &self,
        settings: &MailSettings,
        subject: &str,
        text: &str,
    ) -> Result<MessageId, QueueError> {
        let now = Now::read();
        let id = self.spool.next_id(now);
        let message = Notice {
            id: &id,
            time: now.wall,
            hostname: &settings.hostname,
            from: &settings.from,
            to: &settings.to,
            subject,
            text,
        }
        .to_text();
        let mut draft = self.spool.begin(envelope(settings, id, now)).await?;
        draft.append(message.as_bytes()).await?;
        Ok(draft.commit().await?.id)
    }
}

/// What is known of a message that we have written: no account, the null reverse-path, and nobody for a client.
fn envelope(settings: &MailSettings, id: MessageId, now: Now) -> Envelope {
    let recipients = settings.to.iter().map(Mailbox::to_string);
    Envelope {
        recipients: recipients.map(Recipient::new).collect(),
        ..Envelope::new(id, now.wall, Client::nobody(&settings.hostname))
    }
}

/// Says in the log what became of a mail about so many incidents.
fn reported(
    settings: &MailSettings,
    account: &str,
    incidents: u64,
    queued: Result<MessageId, QueueError>,
) -> MailAlert {
    let to: Vec<String> = settings.to.iter().map(Mailbox::to_string).collect();
    let account = Some(account).filter(|account| !account.is_empty());
    match queued {
        Ok(id) => {
            let (id, shown) = (id.to_string(), to.join(","));
            tracing::info!(event = "alert.queued", account, id, to = shown, incidents);
            MailAlert {
                to,
                id: Some(id),
                error: None,
            }
        }
        Err(error) => {
            let error = format!("cannot queue the mail: {error}");
            tracing::error!(event = "alert.failed", account, error);
            MailAlert {
                to,
                id: None,
                error: Some(error),
            }
        }
    }
}

impl MailSettings {
    /// Subject and text about an incident.
    fn words(&self, incident: &Incident) -> (String, String) {
        let host = &self.hostname;
        match incident {
            Incident::Contained {
                trip,
                credential,
                reason: _,
                report,
            } => {
                let account = &trip.account;
                let subject = format!("[{host}] account {} is contained", shown(account));
                let mut text = format!(
                    "gatepost on {host} has contained an account: somebody else seems to use it.\n\n"
                );
                text.push_str(&facts(trip, credential));
                text.push_str(&done(report));
                text.push_str(&self.commands(
                    "To look:",
                    &[
                        ("contain --list", None),
                        ("account show", Some(account)),
                        ("queue list", None),
                    ],
                ));
                if report.is_err() {
                    text.push_str(&self.commands(
                        "To do what could not be done:",
                        &[("contain", Some(account))],
                    ));
                }
                text.push_str(&self.commands(
                    "To undo it, give it another password first; its held messages go on their way then:",
                    &[
                        ("account password", Some(account)),
                        ("uncontain", Some(account)),
                    ],
                ));
                text.push_str(&self.commands(
                    "The same, but its held messages stay held, or are removed:",
                    &[
                        ("uncontain --keep-held", Some(account)),
                        ("uncontain --remove-held", Some(account)),
                    ],
                ));
                (subject, text)
            }
            Incident::Tripped {
                trip,
                credential,
                reason: _,
            } => {
                let account = &trip.account;
                let subject = format!(
                    "[{host}] dry run: account {} would be contained",
                    shown(account)
                );
                let mut text = format!(
                    "An account of gatepost on {host} did more than [tripwires] allows. This is a dry run: nothing was \
                     done\nabout it. With mode = \"on\" it would be contained now.\n\n"
                );
                text.push_str(&facts(trip, credential));
                text.push_str(&self.commands("To look:", &[("account show", Some(account))]));
                text.push_str(&self.commands(
                    "To contain it (uncontain undoes that):",
                    &[("contain", Some(account)), ("uncontain", Some(account))],
                ));
                (subject, text)
            }
            Incident::Test => {
                let text = format!(
                    "gatepost on {host} would tell you of an account that somebody else seems to use, by mail to this\n\
                     address. Nothing has happened: somebody has given the command `gatepost alert test`.\n"
                );
                (format!("[{host}] a test of alerts"), text)
            }
        }
    }

    /// Subject and text about what was left out.
    fn words_of_untold(&self, untold: &Untold) -> (String, String) {
        let host = &self.hostname;
        let plural = if untold.count == 1 { "" } else { "s" };
        let since = untold
            .since
            .map_or(String::new(), |since| format!(" since {since:.0}"));
        let mut text = format!(
            "gatepost on {host} has not told of {count} incident{plural}{since}, because there were too many for a mail \
             each, or\nbecause the queue did not take it. The log has each (event=tripwire). They were about:\n\n",
            count = untold.count
        );
        for account in &untold.accounts {
            text.push_str(&format!("  {}\n", shown(account)));
        }
        if untold.accounts.len() >= NAMED_MAX {
            text.push_str("  and perhaps others\n");
        }
        text.push_str(&self.commands(
            "To look:",
            &[("contain --list", None), ("queue list", None)],
        ));
        let subject = format!("[{host}] {} more incident{plural}", untold.count);
        (subject, text)
    }

    /// Commands to paste, each on a line of its own.
    fn commands(&self, heading: &str, commands: &[(&str, Option<&String>)]) -> String {
        let config = match self.config == Path::new(USUAL_CONFIG) {
            true => String::new(),
            false => format!(" -c {}", quoted(&self.config.to_string_lossy())),
        };
        let mut text = format!("\n{heading}\n\n");
        for (command, account) in commands {
            let account = match account {
                Some(account) if account.starts_with('-') => format!(" -- {}", quoted(account)),
                Some(account) => format!(" {}", quoted(account)),
                None => String::new(),
            };
            text.push_str(&format!("  gatepost{config} {command}{account}\n"));
        }
        text
    }
}

/// Who did what.
fn facts(trip: &Trip, credential: &Option<String>) -> String {
    let Trip {
        account,
        wire,
        count,
        allowed,
        mode: _,
    } = trip;
    let what = match wire {
        Wire::Messages => "messages in ten minutes",
        Wire::Networks => "networks in an hour that it came from",
        Wire::NewRecipients => "recipients in an hour that it never wrote to before",
        Wire::RefusedRecipients => "refused recipients in an hour",
    };
    let credential = credential.as_ref().map_or(String::new(), |credential| {
        format!("credential  {}\n", shown(credential))
    });
    format!(
        "account     {}\n{credential}trip wire   {}\ncounted     {count} {what}\nallowed     {allowed}\n",
        shown(account),
        wire.name()
    )
}

/// What was done about it.
fn done(report: &Result<Box<ContainReport>, String>) -> String {
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            return format!(
                "\nIt is contained as long as gatepost runs, but not all of that could be done:\n{}\n",
                shown(error)
            );
        }
    };
    let mut text = format!(
        "since       {}\n\n\
         Its sessions were ended, its logins are refused, and its messages are held.\n\n\
         sessions ended        {}\n\
         accepted in 24 hours  {} to {} recipients\n\
         held now              {}\n\
         left already          {} to {} recipients\n",
        report.login.since,
        report.sessions,
        report.accepted,
        report.recipients,
        report.held.len(),
        report.left.len(),
        report.left_recipients,
    );
    for id in report.left.iter().take(LEFT_IDS_MAX) {
        text.push_str(&format!("  {id}\n"));
    }
    if let Some(more) = report.left.len().checked_sub(LEFT_IDS_MAX + 1) {
        text.push_str(&format!("  and {} more\n", more + 1));
    }
    text
}

/// A name as it can be read: what is no letter, digit or ASCII character is escaped, so that nothing hides in it.
fn shown(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    for character in name.chars() {
        match character.is_alphanumeric() || matches!(character, ' '..='~') {
            true => shown.push(character),
            false => shown.extend(character.escape_unicode()),
        }
    }
    shown
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let harmless =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '+' | '-' | '/');
    match !word.is_empty() && word.chars().all(harmless) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ContainedLogin;
    use crate::policy::tripwire::Mode;

    const MINUTE: Duration = Duration::from_secs(60);

    fn trip(account: &str) -> Trip {
        Trip {
            account: account.to_owned(),
            wire: Wire::NewRecipients,
            count: 12,
            allowed: 10,
            mode: Mode::On,
        }
    }

    fn settings(config: &str) -> MailSettings {
        let mailbox = |text: &str| Mailbox::parse(text.as_bytes()).unwrap();
        MailSettings {
            to: vec![mailbox("postmaster@example.org")],
            from: mailbox("postmaster@mail.example.org"),
            hostname: "mail.example.org".to_owned(),
            config: config.into(),
        }
    }

    fn contained(account: &str, report: Result<Box<ContainReport>, String>) -> Incident {
        Incident::Contained {
            trip: trip(account),
            credential: Some("phone".to_owned()),
            reason: String::new(),
            report,
        }
    }

    fn report(left: usize) -> Box<ContainReport> {
        Box::new(ContainReport {
            login: ContainedLogin {
                account: "alice@example.org".to_owned(),
                credential: None,
                since: "2026-11-21T09:30:00.123Z".to_owned(),
                by: "tripwire".to_owned(),
                reason: String::new(),
            },
            already: false,
            sessions: 4,
            accepted: 7,
            recipients: 9,
            held: vec!["x".to_owned(); 2],
            left: (0..left).map(|number| format!("id-{number}")).collect(),
            left_recipients: 3,
        })
    }

    #[test]
    fn a_wave_of_incidents_is_no_wave_of_mail() {
        let (mut ration, now) = (Ration::default(), Now::read());
        for number in 1..MAILS_PER_HOUR_MAX {
            assert_eq!(ration.take("a", now), Some(Turn::One), "{number}");
        }
        assert_eq!(ration.take("a", now), Some(Turn::Last));
        assert_eq!(ration.take_untold(now, true), None);
        for account in ["b", "c", "b"] {
            assert_eq!(ration.take(account, now.after(MINUTE)), None);
        }
        assert_eq!(ration.take_untold(now.after(59 * MINUTE), false), None);
        let later = now.after(60 * MINUTE);
        let untold = ration.take_untold(later, false).unwrap();
        assert_eq!(untold.count, 3);
        assert_eq!(untold.accounts, ["b", "c"]);
        assert_eq!(untold.since, Some(now.after(MINUTE).wall));
        // That was one of the next hour.
        for _ in 2..MAILS_PER_HOUR_MAX {
            assert_eq!(ration.take("d", later), Some(Turn::One));
        }
        assert_eq!(ration.take("d", later), Some(Turn::Last));
        assert_eq!(ration.take("e", later), None);
        assert_eq!(
            ration.take_untold(later, true).unwrap().accounts,
            ["e"],
            "at a stop at once"
        );
        // A quiet hour later there is nothing to tell, and all turns are there again.
        let quiet = later.after(60 * MINUTE);
        assert_eq!(ration.take_untold(quiet, false), None);
        assert_eq!(ration.take("f", quiet), Some(Turn::One));
    }

    #[test]
    fn what_the_queue_refuses_is_told_later() {
        let (mut ration, now) = (Ration::default(), Now::read());
        assert_eq!(ration.take("a", now), Some(Turn::One));
        ration.leave_out("a", now);
        assert_eq!(ration.take_untold(now, false), None);
        let later = now.after(60 * MINUTE);
        let untold = ration.take_untold(later, false).unwrap();
        ration.leave_out("b", later);
        ration.put_back(untold);
        assert_eq!(ration.take_untold(later, false), None, "not at once again");
        let untold = ration.take_untold(later.after(60 * MINUTE), false).unwrap();
        assert_eq!((untold.count, untold.since), (2, Some(now.wall)));
        assert_eq!(untold.accounts, ["a", "b"]);
        for number in 0..2 * NAMED_MAX {
            ration.leave_out(&number.to_string(), later);
        }
        let untold = ration.take_untold(later, true).unwrap();
        assert_eq!((untold.count, untold.accounts.len()), (200, NAMED_MAX));
    }

    #[test]
    fn the_words_of_an_incident() {
        let settings = settings("/etc/gatepost/gatepost.toml");
        let (subject, text) = settings.words(&contained("alice@example.org", Ok(report(1))));
        assert_eq!(
            subject,
            "[mail.example.org] account alice@example.org is contained"
        );
        assert_eq!(
            text,
            "\
gatepost on mail.example.org has contained an account: somebody else seems to use it.

account     alice@example.org
credential  phone
trip wire   new_recipients_per_hour
counted     12 recipients in an hour that it never wrote to before
allowed     10
since       2026-11-21T09:30:00.123Z

Its sessions were ended, its logins are refused, and its messages are held.

sessions ended        4
accepted in 24 hours  7 to 9 recipients
held now              2
left already          1 to 3 recipients
  id-0

To look:

  gatepost contain --list
  gatepost account show alice@example.org
  gatepost queue list

To undo it, give it another password first; its held messages go on their way then:

  gatepost account password alice@example.org
  gatepost uncontain alice@example.org

The same, but its held messages stay held, or are removed:

  gatepost uncontain --keep-held alice@example.org
  gatepost uncontain --remove-held alice@example.org
"
        );
        let (_, text) = settings.words(&contained("a", Ok(report(LEFT_IDS_MAX))));
        assert!(
            text.contains("  id-99\n") && !text.contains("more"),
            "{text}"
        );
        let (_, text) = settings.words(&contained("a", Ok(report(LEFT_IDS_MAX + 2))));
        assert!(text.contains("  id-99\n  and 2 more\n"), "{text}");
        let (_, text) = settings.words(&contained("a", Err("no disk".to_owned())));
        assert!(text.contains("\nno disk\n"), "{text}");
        assert!(text.contains("\n  gatepost contain a\n"), "{text}");
    }

    #[test]
    fn a_dry_run_says_that_it_is_one() {
        let tripped = Incident::Tripped {
            trip: trip("alice@example.org"),
            credential: None,
            reason: String::new(),
        };
        let (subject, text) = settings("/etc/gatepost/gatepost.toml").words(&tripped);
        assert_eq!(
            subject,
            "[mail.example.org] dry run: account alice@example.org would be contained"
        );
        assert!(
            text.contains("This is a dry run: nothing was done"),
            "{text}"
        );
        assert!(!text.contains("held"), "{text}");
    }

    #[test]
    fn commands_can_be_pasted() {
        let of = |config: &str, account: &str| {
            let account = account.to_owned();
            let text = settings(config).commands("Do:", &[("uncontain", Some(&account))]);
            text.lines().last().unwrap().to_owned()
        };
        for (config, account, line) in [
            (
                USUAL_CONFIG,
                "a+b@example.org",
                "  gatepost uncontain a+b@example.org",
            ),
            (
                "/srv/my mail.toml",
                "a",
                "  gatepost -c '/srv/my mail.toml' uncontain a",
            ),
            (
                USUAL_CONFIG,
                "$(id); it's",
                r"  gatepost uncontain '$(id); it'\''s'",
            ),
            (USUAL_CONFIG, "--list", "  gatepost uncontain -- --list"),
        ] {
            assert_eq!(of(config, account), line);
        }
        assert_eq!(shown("a\u{202e}b\u{e9}\u{7f}"), "a\\u{202e}b\u{e9}\\u{7f}");
    }
}

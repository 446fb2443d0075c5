//! Who is delayed and banned, and who is spared.

use super::*;

const ALICE: &str = "alice@example.org";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A guard and its clock.
struct World {
    guard: Guard,
    now: Now,
    /// So that no two guesses are the same.
    guesses: u32,
}

impl World {
    fn new() -> Self {
        Self::with(GuessingSettings::default())
    }

    fn with(settings: GuessingSettings) -> Self {
        let now = Now::read();
        Self {
            guard: Guard::in_memory(settings, now),
            now,
            guesses: 0,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn try_secret(&self, client: &str, name: &str, secret: &str) -> Consequence {
        let secret = Some(secret.as_bytes());
        let attempt = self.guard.attempt(address(client), name, secret);
        self.guard.refused(&attempt, Some(name), self.now)
    }

    /// A wrong password that nobody has tried.
    fn guess(&mut self, client: &str, name: &str) -> Consequence {
        self.guesses += 1;
        self.try_secret(client, name, &format!("guess {}", self.guesses))
    }

    /// So many of them; who is banned for it.
    fn guess_often(&mut self, times: usize, client: &str, name: &str) -> Vec<String> {
        let mut banned = Vec::new();
        for _ in 0..times {
            banned.extend(banned_in(&self.guess(client, name).events));
        }
        banned
    }

    fn succeed(&self, client: &str, name: &str) {
        self.guard.accepted(address(client), name, self.now);
    }

    fn before(&self, client: &str, name: &str) -> Result<Standing, TurnedAway> {
        let attempt = self.guard.attempt(address(client), name, Some(b"secret"));
        self.guard.before(&attempt, self.now)
    }

    fn standing(&self, client: &str, name: &str) -> Standing {
        self.before(client, name).unwrap()
    }

    fn comes_in(&self, client: &str) -> bool {
        self.guard.admit(address(client), self.now).is_ok()
    }

    fn bans(&self) -> Vec<String> {
        let bans = self.guard.bans(self.now).into_iter();
        bans.map(|ban| format!("{} {}", ban.kind, ban.network))
            .collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn banned_in(events: &[ServerEvent]) -> Vec<String> {
    let banned = events.iter().filter_map(|event| match event {
        ServerEvent::Banned {
            network,
            is_login,
            seconds,
            enforced,
            ..
        } => {
            let kind = if *is_login { "login" } else { "network" };
            let not = if *enforced { "" } else { " not enforced" };
            Some(format!("{kind} {network} for {seconds}{not}"))
        }
        _ => None,
    });
    banned.collect()
}

#[test]
fn each_further_failure_waits_longer() {
    let mut world = World::new();
    let mut waits = |times: usize, client: &str, name: &str| -> Vec<u128> {
        let wait = |_| world.guess(client, name).delay.as_millis();
        (0..times).map(wait).collect()
    };
    let rising = [0, 250, 500, 1000, 2000, 4000, 5000, 5000];
    assert_eq!(waits(8, "192.0.2.1", ALICE), rising);
    // One password for many accounts, too.
    let mut spraying = Vec::new();
    for number in 0..8 {
        spraying.extend(waits(1, "192.0.2.2", &format!("user{number}")));
    }
    assert_eq!(spraying, rising);
    assert_eq!(waits(1, "192.0.2.3", ALICE), [0]);
    // What has succeeded does not wait for what others at that address do.
    world.succeed("192.0.2.1", "bob");
    let mut waits = |name: &str| world.guess("192.0.2.1", name).delay.as_millis();
    assert_eq!([waits("bob"), waits("bob")], [0, 250]);
    assert_eq!(waits("carol"), 5000);
    let mut world = World::with(GuessingSettings {
        delay_max: None,
        ..GuessingSettings::default()
    });
    for _ in 0..9 {
        assert_eq!(world.guess("192.0.2.1", ALICE).delay, Duration::ZERO);
    }
}

#[test]
fn too_many_guesses_are_banned() {
    let mut world = World::new();
    let client = "192.0.2.1";
    assert_eq!(world.guess_often(9, client, ALICE), [""; 0]);
    assert_eq!(world.standing(client, ALICE), Standing::Suspect);
    assert_eq!(
        world.guess_often(1, client, ALICE),
        ["login 192.0.2.1 for 600"]
    );
    let turned_away = world.before(client, ALICE).unwrap_err();
    assert_eq!(
        turned_away.reason,
        "this account is banned from this address"
    );
    // Others at that address may still try.
    assert!(world.comes_in(client));
    assert_eq!(world.standing(client, "bob"), Standing::Suspect);
    assert_eq!(
        world.guess_often(10, client, "bob"),
        // Alice's guesses count for the address, the one that was turned away among them.
        ["network 192.0.2.1 for 600", "login 192.0.2.1 for 600"]
    );
    assert!(!world.comes_in(client));
    assert!(!world.comes_in("::ffff:192.0.2.1"));
    assert_eq!(
        world.before(client, "carol").unwrap_err().reason,
        "this address is banned"
    );
    assert!(world.comes_in("192.0.2.2"));
    assert_eq!(world.bans().len(), 3);
    world.pass(10 * MINUTE - Duration::from_secs(1));
    assert!(!world.comes_in(client));
    world.pass(Duration::from_secs(1));
    assert!(world.comes_in(client));
    assert_eq!(world.standing(client, ALICE), Standing::Suspect);
    assert_eq!(world.bans(), [""; 0]);
}

#[test]
fn failures_far_apart_are_no_attack() {
    let mut world = World::new();
    for _ in 0..100 {
        assert_eq!(world.guess_often(9, "192.0.2.1", ALICE), [""; 0]);
        world.pass(60 * MINUTE);
        assert_eq!(world.guess("192.0.2.1", "bob").delay, Duration::ZERO);
        world.pass(60 * MINUTE);
    }
}

#[test]
fn the_same_wrong_password_counts_once() {
    let world = World::new();
    let phone = "192.0.2.1";
    for round in 0..1000 {
        let consequence = world.try_secret(phone, ALICE, "the old password");
        assert_eq!(consequence.events, []);
        // It is slowed down all the same.
        assert!(consequence.delay <= Duration::from_secs(5));
        assert_eq!(consequence.delay.is_zero(), round == 0);
        assert!(world.before(phone, ALICE).is_ok());
    }
    // For another account, or from elsewhere, it is another guess.
    for number in 0..18 {
        let name = format!("user{number}");
        assert_eq!(
            world.try_secret(phone, &name, "the old password").events,
            []
        );
    }
    assert_eq!(
        banned_in(&world.try_secret(phone, "last", "the old password").events),
        ["network 192.0.2.1 for 600"]
    );
}

#[test]
fn tries_that_cannot_be_told_apart_all_count() {
    let world = World::new();
    let scram = world.guard.attempt(address("192.0.2.1"), ALICE, None);
    for _ in 0..9 {
        assert_eq!(world.guard.refused(&scram, None, world.now).events, []);
    }
    let events = world.guard.refused(&scram, None, world.now).events;
    assert_eq!(banned_in(&events), ["login 192.0.2.1 for 600"]);
}

#[test]
fn what_others_do_does_not_lock_out_those_who_are_known() {
    let mut world = World::new();
    let home = "192.0.2.1";
    world.succeed(home, ALICE);
    // At the same address...
    world.guess_often(100, home, "bob");
    assert_eq!(world.bans(), ["network 192.0.2.1", "login 192.0.2.1"]);
    assert!(world.comes_in(home), "who it is shows later");
    assert_eq!(world.standing(home, ALICE), Standing::Known);
    assert!(world.before(home, "carol").is_err());
    // ...and from all over the world.
    for number in 0..1000_u32 {
        let stranger = IpAddr::from([203, 0, (number >> 8) as u8, number as u8]).to_string();
        world.guess_often(4, &stranger, ALICE);
    }
    assert_eq!(world.standing(home, ALICE), Standing::Known);
    assert_eq!(world.guess(home, ALICE).delay, Duration::ZERO);
    // Nor is the account closed to its owner on a journey.
    assert_eq!(world.standing("198.51.100.7", ALICE), Standing::New);
    // What is known is forgotten in the end.
    world.pass(31 * DAY);
    assert_eq!(world.standing(home, ALICE), Standing::New);
}

#[test]
fn own_failures_count_for_those_who_are_known() {
    let mut world = World::new();
    let home = "192.0.2.1";
    world.succeed(home, ALICE);
    world.guess(home, ALICE);
    assert_eq!(world.standing(home, ALICE), Standing::New);
    world.guess_often(2, home, ALICE);
    assert_eq!(world.standing(home, ALICE), Standing::Suspect);
    // Whoever shares the address does not begin anew when the owner logs in.
    world.guess_often(6, home, ALICE);
    world.succeed(home, ALICE);
    assert_eq!(world.guess(home, ALICE).delay, Duration::ZERO);
    assert_eq!(world.bans(), ["login 192.0.2.1"]);
    assert!(world.before(home, ALICE).is_err());
}

#[test]
fn strangers_may_try_a_hunted_account_three_times_each() {
    let mut world = World::new();
    for number in 0..33_u8 {
        world.guess_often(3, &format!("198.51.{number}.1"), ALICE);
    }
    assert_eq!(world.bans(), [""; 0]);
    let stranger = "203.0.113.1";
    assert_eq!(world.guess_often(2, stranger, ALICE), [""; 0]);
    assert_eq!(
        world.guess_often(1, stranger, ALICE),
        ["login 203.0.113.1 for 600"]
    );
    // Another account may be tried as often as ever.
    assert_eq!(world.guess_often(9, "203.0.113.2", "bob"), [""; 0]);
    // Whoever is known there may make more mistakes.
    world.succeed("203.0.113.3", ALICE);
    assert_eq!(world.guess_often(9, "203.0.113.3", ALICE), [""; 0]);
}

#[test]
fn bans_become_longer_and_are_forgiven() {
    let mut world = World::new();
    let client = "192.0.2.1";
    let mut lengths = Vec::new();
    for _ in 0..10 {
        // Everything about it is tried anew as soon as it may.
        for number in 0..20 {
            let banned = world.guess_often(1, client, &format!("user{number}"));
            lengths.extend(banned);
        }
        assert!(!world.comes_in(client));
        let ban = world.guard.bans(world.now).remove(0);
        let until: Timestamp = ban.until.parse().unwrap();
        world.pass((until - world.now.wall).try_into().unwrap());
        assert!(world.comes_in(client));
    }
    let minutes = [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440];
    let expected = minutes.map(|minutes| format!("network 192.0.2.1 for {}", minutes * 60));
    assert_eq!(lengths, expected);
    world.pass(DAY);
    for number in 0..20 {
        world.guess(client, &format!("user{number}"));
    }
    let ban = world.guard.bans(world.now).remove(0);
    assert_eq!((ban.earlier, ban.failures), (0, 20));
}

#[test]
fn who_goes_on_when_banned_is_banned_further() {
    let mut world = World::new();
    let client = "192.0.2.1";
    world.guess_often(10, client, ALICE);
    let try_again = |world: &World, secret: &str| {
        let attempt = world
            .guard
            .attempt(address(client), ALICE, Some(secret.as_bytes()));
        banned_in(&world.guard.before(&attempt, world.now).unwrap_err().events)
    };
    // A phone that does not know better is left alone.
    for _ in 0..100 {
        assert_eq!(try_again(&world, "guess 3"), [""; 0]);
    }
    for number in 0..9 {
        assert_eq!(try_again(&world, &format!("more {number}")), [""; 0]);
    }
    assert_eq!(try_again(&world, "last"), ["network 192.0.2.1 for 600"]);
    assert!(!world.comes_in(client));
}

#[test]
fn networks_of_ipv6() {
    let mut world = World::new();
    // One customer has a /64, and nothing is gained by moving within it.
    for number in 0..20 {
        world.guess(&format!("2001:db8:1:1::{number}"), &format!("user{number}"));
    }
    assert_eq!(world.bans(), ["network 2001:db8:1:1::/64"]);
    assert!(!world.comes_in("2001:db8:1:1:ffff::"));
    assert!(world.comes_in("2001:db8:1:2::"));
    // Many of them side by side are one customer, too.
    for number in 0..180 {
        let client = format!("2001:db8:1:{:x}::1", 16 + number % 60);
        world.guess(&client, &format!("user{number}"));
    }
    assert_eq!(
        world.bans(),
        ["network 2001:db8:1::/48", "network 2001:db8:1:1::/64"]
    );
    assert!(!world.comes_in("2001:db8:1:ffff::1"));
    assert!(world.comes_in("2001:db8:2::1"));
    // IPv4 addresses stand for themselves, but their neighbours go last.
    for number in 0..200 {
        let client = format!("192.0.2.{number}");
        world.guess(&client, &format!("user{number}"));
    }
    assert!(world.comes_in("192.0.2.254"));
    assert_eq!(world.standing("192.0.2.254", ALICE), Standing::Suspect);
    assert_eq!(world.standing("192.0.3.1", ALICE), Standing::New);
}

#[test]
fn exempt_networks_are_left_alone() {
    let mut world = World::with(GuessingSettings {
        exempt: vec!["192.0.2.0/24".parse().unwrap()],
        ..GuessingSettings::default()
    });
    for _ in 0..100 {
        assert_eq!(world.guess("192.0.2.1", ALICE), Consequence::default());
    }
    assert!(world.comes_in("192.0.2.1") && world.comes_in("::ffff:192.0.2.1"));
    assert_eq!(world.standing("192.0.2.1", ALICE), Standing::New);
    // Whoever was banned before is let in again.
    world.guess_often(20, "198.51.100.1", "bob");
    let exempt = vec!["198.51.100.1/32".parse().unwrap()];
    world.guard.apply(GuessingSettings {
        exempt,
        ..GuessingSettings::default()
    });
    assert!(world.before("198.51.100.1", "bob").is_ok());
}

#[test]
fn log_only_says_and_does_nothing() {
    let mut world = World::with(GuessingSettings {
        mode: Mode::LogOnly,
        ..GuessingSettings::default()
    });
    let client = "192.0.2.1";
    let mut banned = Vec::new();
    for _ in 0..100 {
        let consequence = world.guess(client, ALICE);
        assert_eq!(consequence.delay, Duration::ZERO);
        banned.extend(banned_in(&consequence.events));
    }
    assert_eq!(
        banned,
        [
            "login 192.0.2.1 for 600 not enforced",
            "network 192.0.2.1 for 600 not enforced"
        ]
    );
    assert!(world.comes_in(client) && world.before(client, ALICE).is_ok());
    assert!(!world.guard.bans(world.now)[0].enforced);
    // From one moment to the next it is meant.
    world.guard.apply(GuessingSettings::default());
    assert!(!world.comes_in(client) && world.before(client, ALICE).is_err());
    world.guard.apply(GuessingSettings {
        mode: Mode::Off,
        ..GuessingSettings::default()
    });
    assert!(world.comes_in(client) && world.before(client, ALICE).is_ok());
    assert_eq!(world.guess(client, "bob"), Consequence::default());
}

#[test]
fn a_proxy_that_most_clients_share_is_not_banned() {
    for (proxy, here, elsewhere, shared) in [
        ("10.0.0.1", 1, 0, false),
        ("10.0.0.1", 2, 0, true),
        ("10.0.0.1", 4, 1, true),
        ("10.0.0.1", 3, 1, false),
        ("203.0.113.9", 4, 0, false),
        ("203.0.113.9", 5, 0, true),
        ("203.0.113.9", 5, 2, false),
    ] {
        let what = format!("{proxy} {here} {elsewhere}");
        let mut world = World::new();
        for number in 0..here {
            world.succeed(proxy, &format!("user{number}@example.org"));
        }
        for number in 0..elsewhere {
            world.succeed("198.51.100.1", &format!("user{number}@example.org"));
        }
        let mut events = Vec::new();
        for number in 0..60 {
            let name = format!("stranger{number}@example.org");
            events.extend(world.guess(proxy, &name).events);
        }
        let told = events
            .iter()
            .filter(|event| matches!(event, ServerEvent::SharedAddress { .. }));
        assert_eq!(told.count(), usize::from(shared), "{what}: {events:?}");
        let banned = banned_in(&events);
        assert!(!banned.is_empty());
        let in_earnest = |one: &String| !one.ends_with("not enforced");
        assert_eq!(banned.iter().any(in_earnest), !shared, "{what}");
        let stranger = world.before(proxy, "stranger@example.org");
        assert_eq!(stranger.is_ok(), shared, "{what}");
        let summary = world.guard.summary(world.now);
        assert_eq!(summary.shared, shared.then(|| proxy.to_owned()));
        // Not even the account that is guessed at is shut out.
        world.guess_often(20, proxy, "user0@example.org");
        let owner = world.before(proxy, "user0@example.org");
        assert_eq!(owner.is_ok(), shared, "{what}");
        // Anybody else is banned as ever.
        world.guess_often(20, "198.51.100.2", "user0@example.org");
        assert!(world.before("198.51.100.2", "user0@example.org").is_err());
    }
}

#[test]
fn the_door_reports_now_and_then() {
    let mut world = World::new();
    let client = "192.0.2.1";
    for number in 0..20 {
        world.guess(client, &format!("user{number}"));
    }
    let mut reports = Vec::new();
    for second in 0..180 {
        for _ in 0..10 {
            let shut = world.guard.admit(address(client), world.now).unwrap_err();
            reports.extend(shut.report.map(|count| (second, count)));
        }
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(reports, [(0, 1), (60, 600), (120, 600)]);
    assert_eq!(world.guard.bans(world.now)[0].refused, 1800);
}

#[test]
fn memory_is_bounded_and_the_worst_are_remembered() {
    let mut world = World::new();
    let guesser = "192.0.2.1";
    world.guess_often(8, guesser, ALICE);
    let banned = "192.0.2.2";
    for number in 0..20 {
        world.guess(banned, &format!("user{number}"));
    }
    world.succeed("192.0.2.3", ALICE);
    for number in 0..100_000_u32 {
        let client = match number % 2 {
            0 => IpAddr::V4((0x0a00_0000 + number).into()),
            _ => IpAddr::V6(((0x2001_u128 << 112) + (u128::from(number) << 80)).into()),
        };
        let secret = number.to_le_bytes();
        let attempt = world
            .guard
            .attempt(client, &format!("user{number}"), Some(&secret));
        assert!(world.guard.before(&attempt, world.now).is_ok());
        world.guard.refused(&attempt, None, world.now);
    }
    {
        let state = world.guard.kept.lock();
        assert!(state.addresses.len() <= PLACES_MAX);
        assert!(state.around.len() <= PLACES_MAX);
        assert!(state.logins.len() <= PLACES_MAX);
        assert!(state.accounts.len() <= ACCOUNTS_MAX);
        assert!(state.addresses.len() > PLACES_MAX / 2);
    }
    assert_eq!(world.guess_often(2, guesser, ALICE).len(), 1);
    assert!(!world.comes_in(banned));
    assert_eq!(world.standing("192.0.2.3", ALICE), Standing::Known);
    // Bans have a bound as well; those that end first make room.
    let moment = world.guard.moment(world.now.after(MINUTE));
    let settings = GuessingSettings::default();
    for number in 0..BANS_MAX as u32 + 10 {
        let source = IpAddr::V4((0x0b00_0000 + number).into());
        let subject = Subject::Network(own(source));
        let mut state = world.guard.kept.lock();
        state.ban(subject, 1, None, source, &settings, moment);
        assert!(state.is_banned(&subject, moment));
    }
    assert!(world.guard.kept.lock().bans.len() <= BANS_MAX);
    assert!(world.comes_in(banned));
}

/// What the tables take when they are full, as hash maps do: a power of two of entries, each with an octet more.
#[test]
fn the_tables_take_what_is_said() {
    fn octets<K, V>(max: usize) -> usize {
        (max * 8 / 7).next_power_of_two() * (size_of::<(K, V)>() + 1)
    }
    let taken = octets::<IpAddr, Count>(PLACES_MAX)
        + octets::<IpNet, Count>(PLACES_MAX)
        + octets::<AccountKey, Count>(ACCOUNTS_MAX)
        + octets::<Login, Tries>(PLACES_MAX)
        + octets::<Subject, Ban>(BANS_MAX)
        + octets::<Login, i64>(known::KNOWN_MAX)
        + octets::<IpAddr, usize>(known::KNOWN_MAX);
    assert!(taken < 13 << 20, "{} KiB", taken >> 10);
}

#[test]
fn a_restart_forgets_no_ban_and_nobody_who_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(GUESSING_FILE);
    let settings = GuessingSettings::default();
    let restarted = |now: Now| {
        let (guard, finding) = Guard::look_into(&path, settings.clone(), now);
        assert_eq!(finding, None);
        World {
            guard,
            now,
            guesses: 1000,
        }
    };
    let mut world = restarted(Now::read());
    let (home, guesser) = ("192.0.2.1", "2001:db8::1");
    world.succeed(home, ALICE);
    world.guess_often(20, guesser, ALICE);
    for number in 0..20 {
        world.guess(guesser, &format!("user{number}"));
    }
    let bans = world.guard.bans(world.now);
    assert_eq!(bans.len(), 2);
    assert!(world.guard.save(world.now).unwrap());
    assert!(!world.guard.save(world.now).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("guess "), "{text}");

    world = restarted(world.now.after(MINUTE));
    assert_eq!(world.guard.bans(world.now), bans);
    assert!(!world.comes_in(guesser) && world.before(guesser, ALICE).is_err());
    assert_eq!(world.standing(home, ALICE), Standing::Known);
    assert_eq!(world.standing(home, "bob"), Standing::New);
    // The next ban is longer.
    world.pass(10 * MINUTE);
    assert!(world.comes_in(guesser));
    let longer = world.guess_often(10, guesser, ALICE);
    assert_eq!(longer, ["login 2001:db8::/64 for 1200"]);
    // What has no consequence any more is not kept.
    world.guard.save(world.now).unwrap();
    world = restarted(world.now.after(31 * DAY));
    assert_eq!(world.standing(home, ALICE), Standing::New);
    assert_eq!(world.guard.remembered_bans(), 0);
}

#[test]
fn what_no_guard_has_written_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(GUESSING_FILE);
    let now = Now::read();
    let wall = now.wall.as_second();
    let look = |bans: &str, known: &str| {
        let key = "A".repeat(43);
        let text =
            format!(r#"{{"version": 1, "key": "{key}", "bans": [{bans}], "known": [{known}]}}"#);
        std::fs::write(&path, text).unwrap();
        let (guard, finding) = Guard::look_into(&path, GuessingSettings::default(), now);
        assert_eq!(finding, None);
        let summary = guard.summary(now);
        (summary.bans, summary.known)
    };
    let ban = |network: &str, since: i64, until: i64| {
        format!(
            r#"{{"network": "{network}", "since": {since}, "until": {until}, "forgiven": {until},
                "earlier": 0, "failures": 1, "refused": 0}}"#
        )
    };
    let account = "A".repeat(22);
    let known = |last: i64| format!(r#"["192.0.2.1", "{account}", {last}]"#);
    assert_eq!(
        look(&ban("192.0.2.1/32", wall, wall + 60), &known(wall)),
        (1, 1)
    );
    for (network, since, until) in [
        ("0.0.0.0/0", wall, wall + 60),
        ("192.0.2.1/32", wall, i64::MAX),
        ("192.0.2.1/32", i64::MIN, i64::MAX),
        ("192.0.2.1/32", wall, wall + 400 * 86_400),
        ("192.0.2.1/32", wall + 3600, wall + 7200),
        ("192.0.2.1/32", wall + 60, wall),
    ] {
        assert_eq!(look(&ban(network, since, until), ""), (0, 0), "{network}");
    }
    assert_eq!(look("", &known(wall + 3600)), (0, 0));
    assert_eq!(look("", r#"["192.0.2.1", "short", 1]"#), (0, 0));
    for key in ["", "short", &"A".repeat(44), "!"] {
        let text = format!(r#"{{"version": 1, "key": "{key}", "bans": [], "known": []}}"#);
        std::fs::write(&path, text).unwrap();
        let (_, finding) = Guard::look_into(&path, GuessingSettings::default(), now);
        assert!(finding.is_some(), "{key}");
    }
}

#[test]
fn an_operator_lifts_bans() {
    let banned = || {
        let mut world = World::new();
        for (client, count) in [
            ("192.0.2.1", 20),
            ("192.0.2.2", 20),
            ("198.51.100.1", 20),
            ("2001:db8:1:1::1", 20),
        ] {
            for number in 0..count {
                world.guess(client, &format!("user{number}"));
            }
        }
        world.guess_often(10, "192.0.2.3", ALICE);
        assert_eq!(world.bans().len(), 5);
        world
    };
    for (wanted, lifted) in [
        ("192.0.2.1", 1),
        ("192.0.2.3", 1),
        ("192.0.2.0/24", 3),
        ("2001:db8:1:1:ffff::", 1),
        ("2001:db8::/32", 1),
        ("203.0.113.1", 0),
        ("all", 5),
    ] {
        let world = banned();
        let lift = wanted.parse().unwrap();
        let gone = world.guard.lift(&lift, world.now);
        assert_eq!(gone.len(), lifted, "{wanted}");
        assert_eq!(world.bans().len(), 5 - lifted, "{wanted}");
    }
    let mut world = banned();
    world.guard.lift(&"all".parse().unwrap(), world.now);
    assert!(world.comes_in("192.0.2.1"));
    // It begins anew, with its first ban.
    assert_eq!(world.standing("192.0.2.1", ALICE), Standing::New);
    assert_eq!(world.guess_often(9, "192.0.2.3", ALICE), [""; 0]);
    assert_eq!(
        world.guess_often(1, "192.0.2.3", ALICE),
        ["login 192.0.2.3 for 600"]
    );
    // So does what has not come to a ban yet.
    let mut world = World::new();
    world.guess_often(9, "192.0.2.1", ALICE);
    for number in 0..10 {
        world.guess("192.0.2.1", &format!("user{number}"));
    }
    world.guard.lift(&"192.0.2.1".parse().unwrap(), world.now);
    assert_eq!(world.guess_often(9, "192.0.2.1", ALICE), [""; 0]);
    assert_eq!("mail.example.org".parse::<Lift>(), Err(NotLiftable));
}

#[test]
fn a_ban_can_be_foreseen() {
    let mut world = World::new();
    let client = "192.0.2.1";
    world.succeed(client, "bob");
    for number in 0..20 {
        world.guess(client, &format!("user{number}"));
    }
    let foresee = |world: &World, name: &str| {
        let ban = world.guard.foresee(address(client), name, world.now);
        ban.map(|ban| ban.kind)
    };
    assert_eq!(foresee(&world, ALICE), Some("network"));
    assert_eq!(foresee(&world, "bob"), None);
    world.guess_often(10, client, "bob");
    assert_eq!(foresee(&world, "bob"), Some("login"));
    world.guard.apply(GuessingSettings {
        mode: Mode::LogOnly,
        ..GuessingSettings::default()
    });
    assert_eq!(foresee(&world, ALICE), None);
}

#[test]
fn nothing_shows_a_secret() {
    let world = World::new();
    let attempt = world
        .guard
        .attempt(address("192.0.2.1"), ALICE, Some(b"correct horse"));
    let shown = format!("{attempt:?}");
    assert!(
        !shown.contains("correct") && !shown.contains("alice"),
        "{shown}"
    );
    // The fingerprint of a secret is worth nothing to another process.
    let other = Guard::in_memory(GuessingSettings::default(), world.now);
    let again = other.attempt(address("192.0.2.1"), ALICE, Some(b"correct horse"));
    assert_ne!(attempt.secret, again.secret);
}

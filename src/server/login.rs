//! Logins: the guard is asked before the accounts are, and hears how it ended.

use std::time::Duration;

use super::{Generation, Services};
use crate::account::identity::prepare_name;
use crate::clock::Now;
use crate::decision::{Authentication, Caller, Claim, Standing};
use crate::event::{Scope, ServerEvent};
use crate::guard::TurnedAway;
use crate::secret::Secret;
use crate::session::{AuthAsk, LookUpAsk};

/// How long the answer waits that a login cannot be checked now: whoever tries again at once would keep a processor busy
/// with being turned away.
const UNAVAILABLE_DELAY: Duration = Duration::from_secs(1);
const TOO_MANY_WAIT: &str = "too many failed logins wait for their answer";

/// Has a claim checked, if the guard lets it, and lets the answer to a failure wait.
pub(super) async fn check(
    services: &Services,
    generation: &Generation,
    scope: &Scope,
    ask: AuthAsk<'_>,
) {
    let (guard, address) = (&services.guard, scope.client.ip().to_canonical());
    let attempt = |name: &str, secret: Option<&Secret>| {
        let secret = secret.map(Secret::expose);
        Some(guard.attempt(address, &counted_name(name), secret))
    };
    let (attempt, can_be_guessed) = match ask.claim() {
        // A key that the client has proven to have. Somebody who cannot log in with it has guessed nothing.
        Claim::Certificate { .. } => (None, false),
        Claim::Password {
            authentication_identity,
            password,
            ..
        } => (attempt(authentication_identity, Some(password)), true),
        Claim::Scram {
            authentication_identity,
            ..
        } => (attempt(authentication_identity, None), true),
        // A client that wants to be told where to get one.
        Claim::Token { token, .. } if token.is_empty() => (None, false),
        // Nobody guesses one, and it says itself whose it is: so no ban of others is held against it here. Whoever
        // tries many is banned at the door all the same.
        Claim::Token {
            authorization_identity,
            token,
        } => (attempt(authorization_identity, Some(token)), false),
    };
    let standing = match &attempt {
        Some(attempt) if can_be_guessed => match guard.before(attempt, Now::read()) {
            Ok(standing) => standing,
            Err(TurnedAway { reason, events }) => {
                report(services, scope, &events);
                return ask.turn_away(reason);
            }
        },
        _ => Standing::New,
    };
    let caller = Caller { address, standing };
    let answer = generation.accounts.check(ask.claim(), caller).await;
    match &answer {
        Ok(Authentication::Accept(account)) => {
            guard.accepted(address, &account.name, Now::read());
        }
        Ok(Authentication::Refuse { name, .. }) => {
            let Some(attempt) = attempt else {
                return ask.answer(answer);
            };
            let consequence = guard.refused(&attempt, name.as_deref(), Now::read());
            report(services, scope, &consequence.events);
            if !services.delay(consequence.delay).await {
                return ask.turn_away(TOO_MANY_WAIT);
            }
        }
        Err(_) => {
            if !services.delay(UNAVAILABLE_DELAY).await {
                return ask.turn_away(TOO_MANY_WAIT);
            }
        }
    }
    ask.answer(answer);
}

/// Has the keys of a name looked up, if the guard lets it.
pub(super) async fn look_up(
    services: &Services,
    generation: &Generation,
    scope: &Scope,
    ask: LookUpAsk<'_>,
) {
    let name = counted_name(ask.name());
    let attempt = services.guard.attempt(scope.client.ip(), &name, None);
    if let Err(TurnedAway { reason, events }) = services.guard.before(&attempt, Now::read()) {
        report(services, scope, &events);
        return ask.turn_away(reason);
    }
    let answer = generation.accounts.scram_offer(ask.name()).await;
    ask.answer(answer);
}

/// A name as failures are counted for it: one account is one, however it is written.
fn counted_name(typed: &str) -> String {
    prepare_name(typed).unwrap_or_else(|_| typed.to_owned())
}

fn report(services: &Services, scope: &Scope, events: &[ServerEvent]) {
    for event in events {
        services.audit.server(scope, event);
    }
}

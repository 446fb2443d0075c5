//! `[[token_issuer]]`: whose tokens are taken, and how each is checked.
//!
//! Addresses are looked at, not asked: nothing here touches a network or a file.

use std::path::PathBuf;
use std::time::Duration;

use super::quantity::{Bounds, Problem, Wait};
use super::reader::{Document, Located, Section};
use crate::account::token::{
    ALGORITHMS, Algorithm, IssuerSettings, TokenCheck, USUAL_ALGORITHMS, WebAddress,
    WebAddressError,
};
use crate::diagnostic::{Finding, nearest};
use crate::sasl::Mechanism;
use crate::sasl::bearer::Hint;

/// Octets of all scopes of one issuer: clients are told of them in one line.
const SCOPE_BYTES_MAX: usize = 512;

const ACCOUNT_CLAIM: &str = "email";
const LEEWAY: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(60 * 60);
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
const CACHE_FOR: Duration = Duration::from_secs(60);

/// More would be a clock that is wrong, and tokens that live longer than their issuer wants.
const LEEWAY_BOUNDS: Bounds<Wait> =
    Bounds::new(Wait(Duration::ZERO), Wait(Duration::from_secs(5 * 60)));
/// A mail program waits no longer than a minute, and its user less.
const TIMEOUT_BOUNDS: Bounds<Wait> =
    Bounds::new(Wait(Duration::from_secs(1)), Wait(Duration::from_secs(60)));
const REFRESH_BOUNDS: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(60)),
    Wait(Duration::from_secs(7 * 24 * 60 * 60)),
)
.because("providers publish keys long before they use them");
/// A key that its issuer has taken back is good for so long.
const STALE_BOUNDS: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(60)),
    Wait(Duration::from_secs(30 * 24 * 60 * 60)),
);
/// A token that its issuer has taken back is good for so long.
const CACHE_FOR_BOUNDS: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(1)),
    Wait(Duration::from_secs(60 * 60)),
);

const ISSUER_EXAMPLE: &str =
    "write what `iss` has in its tokens, to the letter: issuer = \"https://id.example.org\"";
const AUDIENCE_EXAMPLE: &str =
    "write what `aud` has in the tokens that are for this server: audience = \"smtp\"";
const JWKS_EXAMPLE: &str =
    "write an address or a file: jwks = \"https://id.example.org/keys\", jwks = \"keys.json\"";
const INTROSPECTION_EXAMPLE: &str =
    "write an address: introspection = \"https://id.example.org/introspect\"";
const CLIENT_ID_EXAMPLE: &str =
    "write what this server is called at the issuer: client_id = \"gatepost\"";
const SECRET_EXAMPLE: &str =
    "name a file with this server's secret at the issuer: client_secret_file = \"issuer.secret\"";

/// All `[[token_issuer]]`.
pub(super) fn issuers(document: &Document<'_>) -> Vec<IssuerSettings> {
    let mut issuers: Vec<IssuerSettings> = Vec::new();
    for section in document.sections("token_issuer") {
        let Some(settings) = issuer(document, &section) else {
            continue;
        };
        let asked = |one: &IssuerSettings| matches!(one.check, TokenCheck::Introspection { .. });
        if issuers.iter().any(|one| one.issuer == settings.issuer) {
            let text = "is here twice";
            section.report("issuer", section.span(), Problem::new(text, "remove one"));
        }
        if asked(&settings) && issuers.iter().any(asked) {
            let text = "is here for a second issuer";
            let hint = "a token that is no JWT does not say whose it is, and would have to be shown to both; \
                        check the JWTs of one of them by `jwks`";
            section.report("introspection", section.span(), Problem::new(text, hint));
        }
        issuers.push(settings);
    }
    issuers
}

/// A token without somebody whose tokens are taken is good for nothing, and so is somebody whose tokens nobody can bring.
pub(super) fn report_mismatch(
    document: &Document<'_>,
    auth: &Section<'_>,
    mechanisms: &[Mechanism],
) {
    let by_token = mechanisms.iter().find(|mechanism| mechanism.takes_token());
    match (by_token, document.lacks("token_issuer")) {
        (Some(mechanism), true) => {
            let span = auth.span_of("mechanisms").unwrap_or(auth.span());
            let text = format!("has {}, and there is no [[token_issuer]]", mechanism.name());
            let hint = "say whose tokens are taken: [[token_issuer]] with issuer = \"https://id.example.org\" and \
                        audience = \"smtp\"";
            auth.report("mechanisms", span, Problem::new(text, hint));
        }
        (None, false) => {
            let text = "nobody can bring a token: there is a [[token_issuer]], and auth.mechanisms names neither \
                        OAUTHBEARER nor XOAUTH2";
            let hint = "add \"OAUTHBEARER\" and, for clients that know nothing else, \"XOAUTH2\" to auth.mechanisms";
            document.report_whole(Finding::warning(text).hint(hint));
        }
        _ => {}
    }
}

/// What clients are told whose token was refused. Of several issuers nobody knows which the client could ask.
pub(super) fn hint(issuers: &[IssuerSettings]) -> Hint {
    let [issuer] = issuers else {
        return Hint::default();
    };
    let discovered = matches!(issuer.check, TokenCheck::FetchedKeys { address: None, .. });
    let configuration = issuer.configuration().ok().filter(|_| discovered);
    Hint {
        scope: (!issuer.scope.is_empty()).then(|| issuer.scope.join(" ")),
        openid_configuration: configuration.map(|address| address.to_string()),
    }
}

/// One of them; `None` if it has no usable name.
fn issuer(document: &Document<'_>, section: &Section<'_>) -> Option<IssuerSettings> {
    if !section.has("issuer") {
        section.report_missing("issuer", ISSUER_EXAMPLE);
    }
    let name = section.text("issuer", ISSUER_EXAMPLE);
    let audience = section.texts("audience", AUDIENCE_EXAMPLE);
    let check = check(document, section);
    let by_introspection = section.has("introspection");
    if !section.has("audience") && !by_introspection {
        section.report_missing("audience", AUDIENCE_EXAMPLE);
    }
    let in_file = matches!(check, TokenCheck::KeyFile(_)) && !by_introspection;
    if by_introspection {
        misplaced(
            section,
            &["algorithms"],
            "the issuer looks at the signature itself",
        );
    }
    if in_file {
        misplaced(
            section,
            &["timeout", "ca"],
            "nobody is asked where the keys are in a file",
        );
    }
    let claim_example = "write the name of a claim: account_claim = \"email\"";
    let settings = IssuerSettings {
        issuer: String::new(),
        audience: audience.iter().map(|one| one.value.to_owned()).collect(),
        check,
        account_claim: section
            .text("account_claim", claim_example)
            .map_or(ACCOUNT_CLAIM, |claim| claim.value)
            .to_owned(),
        scope: scopes(section),
        algorithms: algorithms(section),
        leeway: section.duration("leeway", LEEWAY, LEEWAY_BOUNDS),
        timeout: section.duration("timeout", TIMEOUT, TIMEOUT_BOUNDS),
        ca: section.path(
            "ca",
            "name a PEM file with the certificates to trust: ca = \"ca.pem\"",
        ),
    };
    let Located { value, span } = name?;
    if value.is_empty() {
        section.report("issuer", span, Problem::new("is empty", ISSUER_EXAMPLE));
        return None;
    }
    let settings = IssuerSettings {
        issuer: value.to_owned(),
        ..settings
    };
    if let TokenCheck::FetchedKeys { address: None, .. } = settings.check {
        match settings.configuration() {
            Ok(address) => warn_if_plain(document, &address, span),
            Err(error) => {
                let hint = "its keys are looked for at this address; if they are elsewhere, say where: jwks = \"...\"";
                section.report("issuer", span, unusable(value, error, hint));
            }
        }
    }
    Some(settings)
}

/// How its tokens are checked.
fn check(document: &Document<'_>, section: &Section<'_>) -> TokenCheck {
    let client_id = section.text("client_id", CLIENT_ID_EXAMPLE);
    let client_secret_file = section.path("client_secret_file", SECRET_EXAMPLE);
    let cache_for = section.duration_or_off("cache_for", Some(CACHE_FOR), CACHE_FOR_BOUNDS);
    let refresh = section.duration("refresh", REFRESH, REFRESH_BOUNDS);
    let stale = section.duration("stale", STALE, STALE_BOUNDS);
    let jwks = section.text("jwks", JWKS_EXAMPLE);
    let introspection = section.text("introspection", INTROSPECTION_EXAMPLE);

    if let Some(Located { value, span }) = introspection {
        if let Some(Located { span, .. }) = jwks {
            let text = "is here beside `introspection`";
            let hint = "tokens are checked by the issuer's keys or by asking it: remove one";
            section.report("jwks", span, Problem::new(text, hint));
        }
        misplaced(
            section,
            &["refresh", "stale"],
            "nothing is fetched where the issuer is asked",
        );
        for (key, hint) in [
            ("client_id", CLIENT_ID_EXAMPLE),
            ("client_secret_file", SECRET_EXAMPLE),
        ] {
            if !section.has(key) {
                section.report_missing(key, hint);
            }
        }
        return match WebAddress::parse(value) {
            Ok(address) => {
                warn_if_plain(document, &address, span);
                TokenCheck::Introspection {
                    address,
                    client_id: client_id.map_or("", |client| client.value).to_owned(),
                    client_secret_file: client_secret_file.unwrap_or_default(),
                    cache_for,
                }
            }
            Err(error) => {
                let problem = unusable(value, error, INTROSPECTION_EXAMPLE);
                section.report("introspection", span, problem);
                TokenCheck::KeyFile(PathBuf::new())
            }
        };
    }
    misplaced(
        section,
        &["client_id", "client_secret_file", "cache_for"],
        "it is for `introspection`",
    );
    let address = match jwks {
        None => None,
        Some(Located { value, span }) if value.contains("://") => match WebAddress::parse(value) {
            Ok(address) => {
                warn_if_plain(document, &address, span);
                Some(address)
            }
            Err(error) => {
                section.report("jwks", span, unusable(value, error, JWKS_EXAMPLE));
                None
            }
        },
        Some(_) => {
            misplaced(
                section,
                &["refresh", "stale"],
                "a file is read when it changes",
            );
            let path = section.path("jwks", JWKS_EXAMPLE);
            return TokenCheck::KeyFile(path.unwrap_or_default());
        }
    };
    if stale < refresh
        && let Some(span) = section
            .span_of("stale")
            .or_else(|| section.span_of("refresh"))
    {
        let text = format!(
            "cannot be shorter than `refresh`: {} and {}",
            Wait(stale),
            Wait(refresh)
        );
        let hint = "keys are fetched anew after `refresh`, and used up to `stale` if that fails";
        section.report("stale", span, Problem::new(text, hint));
    }
    TokenCheck::FetchedKeys {
        address,
        refresh,
        stale,
    }
}

/// Reports keys that mean nothing beside the others.
fn misplaced(section: &Section<'_>, keys: &[&'static str], why: &str) {
    for &key in keys {
        if let Some(span) = section.span_of(key) {
            section.report(
                key,
                span,
                Problem::new("means nothing here", format!("{why}: remove it")),
            );
        }
    }
}

fn unusable(text: &str, error: WebAddressError, hint: &str) -> Problem {
    let hint = match error {
        WebAddressError::Malformed => hint,
        WebAddressError::NotSecure => {
            "write https://; http:// is only for this machine (127.0.0.1, ::1, localhost)"
        }
    };
    Problem::new(format!("{error}: \"{}\"", text.escape_debug()), hint)
}

fn warn_if_plain(document: &Document<'_>, address: &WebAddress, span: std::ops::Range<usize>) {
    if address.is_plain() {
        let text = "an issuer is asked without TLS, and whoever can take that port on this machine can log in as anybody";
        document.report(
            span,
            Finding::warning(text).hint("use it for tests, or write https://"),
        );
    }
}

/// `scope-token = 1*( %x21 / %x23-5B / %x5D-7E )` (RFC 6749 section 3.3)
fn scopes(section: &Section<'_>) -> Vec<String> {
    let example = "write the scopes that a token must have: scope = [\"smtp\"]";
    let mut scopes = Vec::new();
    let mut octets = 0;
    for Located { value, span } in section.texts_if_any("scope", example) {
        let is_good = |octet: u8| matches!(octet, b'!' | b'#'..=b'[' | b']'..=b'~');
        let words = || value.split(' ').filter(|word| !word.is_empty());
        octets += value.len() + 1;
        if words().next().is_none() || !words().all(|word| word.bytes().all(is_good)) {
            let text = format!("has what is no scope: \"{}\"", value.escape_debug());
            section.report("scope", span, Problem::new(text, example));
        } else if octets > SCOPE_BYTES_MAX {
            let text = format!("is longer than {SCOPE_BYTES_MAX} octets");
            section.report(
                "scope",
                span,
                Problem::new(text, "name what is needed for sending mail"),
            );
            break;
        }
        scopes.extend(words().map(str::to_owned));
    }
    scopes
}

fn algorithms(section: &Section<'_>) -> Vec<Algorithm> {
    if !section.has("algorithms") {
        return USUAL_ALGORITHMS.to_vec();
    }
    let names = || ALGORITHMS.iter().map(|(name, _)| *name);
    let example = format!("one or more of: {}", names().collect::<Vec<_>>().join(", "));
    let mut algorithms = Vec::new();
    for Located { value, span } in section.texts("algorithms", &example) {
        match ALGORITHMS.iter().find(|(name, _)| *name == value) {
            Some((_, algorithm)) => algorithms.push(*algorithm),
            None => {
                let hint = match nearest(value, names()) {
                    _ if value.eq_ignore_ascii_case("none") => {
                        "a token without a signature can be made by anybody".to_owned()
                    }
                    _ if value.starts_with("HS") => {
                        "whoever knows a shared secret can make tokens; use one with a public key"
                            .to_owned()
                    }
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => example.clone(),
                };
                let text = format!(
                    "has an algorithm that cannot be: \"{}\"",
                    value.escape_debug()
                );
                section.report("algorithms", span, Problem::new(text, hint));
            }
        }
    }
    algorithms
}

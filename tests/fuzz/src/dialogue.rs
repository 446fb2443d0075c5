//! A whole dialogue: a client that pipelines, breaks off and lies, a world that fails, and a second reading of it all.
//!
//! What `session` tries octet by octet, this tries act by act: `client` reads the input as a plan of what is said and
//! what happens, `world` carries it out, and `reading` knows, from what was said and the replies alone, which reply
//! belongs to which command, and what each needs to be a good one.

use super::Script;

mod client;
mod reading;
mod world;

use client::Plan;
use reading::{Kind, Said};
use world::{Run, Transcript};

/// The input: the profile and the link, lengths of pieces, verdicts, then acts, each an octet of which the lower five
/// bits count (so letters do), with what belongs to it (see [`Plan`]).
///
/// Every command has exactly one reply, in its place; what is positive stands on an answer that was, and what was answered
/// so is positive; nobody sends before AUTH under TLS, with a secret that is right; nothing of what was said before
/// TLS counts under it; refused data is read to its end; what is stored is what was sent; what is held of the client's
/// octets stays within [`gatepost::session::Session::held_bytes_max`]; and how the octets are cut, or whether asks are
/// dropped and asked again, changes nothing of that.
pub fn check_dialogue(data: &[u8]) {
    let plan = Plan::read(&mut Script(data));
    let whole = Run::new(&plan, &[], false).play();
    // A long line that comes octet by octet takes long to look through.
    let short = [if plan.said_bytes() > 4096 { 101 } else { 1 }];
    for (lengths, drops) in [(&short[..], false), (&plan.lengths, true)] {
        let cut = Run::new(&plan, lengths, drops).play();
        check_same(&whole, &cut);
    }
}

/// Two runs of one plan say the same. Of a message that is refused for several reasons, which of them was found first
/// depends on the pieces, and so does whether anything can be seen behind STARTTLS before TLS begins: what follows
/// such a reply is not compared.
fn check_same(whole: &Transcript, cut: &Transcript) {
    let said = whole.said.iter().zip(&cut.said);
    let same = said
        .take_while(|(one, other)| one.reply == other.reply)
        .count();
    let stored = whole.said[..same].iter().filter(|said| said.stored).count();
    assert_eq!(whole.stored[..stored], cut.stored[..stored]);
    let rest = (whole.said.get(same), cut.said.get(same));
    let is_refusal = |said: Option<&Said>| said.is_none_or(|said| !said.reply.is_positive());
    match rest {
        (None, None) => assert_eq!(whole.stored.len(), cut.stored.len()),
        (one, other)
            if is_refusal(one)
                && is_refusal(other)
                && [one, other]
                    .iter()
                    .flatten()
                    .any(|said| said.kind == Kind::Message) => {}
        (Some(one), other)
            if one.kind == Kind::StartTls
                && one.reply.code() == 501
                && other.is_some_and(|other| other.reply.code() == 220) => {}
        (one, other) => panic!("behind {same} replies: whole {one:?}, cut {other:?}"),
    }
}

//! The daemon as its users meet it: the real program as its own process, over real sockets, with real signals.
//!
//! The [`harness`] has the process and a mail client; everything else here is one chapter of behaviour each.

mod attacks;
mod bounds;
mod broken_input;
mod certificates;
mod confined;
mod containment;
mod control;
mod crash;
mod durability;
mod fair;
mod faults;
mod firewall;
mod foreign;
mod guessing;
mod harness;
mod later;
mod load;
mod log;
mod logins;
mod mounts;
mod over_limit;
mod proxied;
mod proxy_programs;
mod reload;
mod repetition;
mod sandbox;
mod secrets;
mod start;
mod stop;
mod tokens;
mod trace;
mod tripwires;

//! See `check_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::check_session(data));

//! See `check_framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::check_framing(data));

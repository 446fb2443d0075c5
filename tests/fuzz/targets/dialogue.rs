//! See `check_dialogue`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::check_dialogue(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sawmill::simulation::fuzz::index(bytes));

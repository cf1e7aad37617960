#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| omnirun_fuzz_targets::dns_query(data));

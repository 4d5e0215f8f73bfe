#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(why) = velo_core::testing::fuzz("elf", data) {
        panic!("{why}");
    }
});

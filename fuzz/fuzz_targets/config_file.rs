//! Any text as a configuration file: an error with a place, or a configuration that can be shown and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace::config::Layers;

fuzz_target!(|text: &str| {
    // A password file is another file, which the fuzzer might make /dev/zero.
    if text.contains("password_file") {
        return;
    }
    let layers = Layers::lay(Some("proxy.toml".into()), text.to_owned(), std::iter::empty());
    let checked = layers.and_then(|layers| layers.config().map(|_| layers));
    match checked {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(layers) => {
            let shown = layers.effective().expect("what was read can be written");
            let again = Layers::lay(None, shown.clone(), std::iter::empty()).expect("what was written can be read");
            assert_eq!(again.effective().expect("and written again"), shown);
        }
    }
});

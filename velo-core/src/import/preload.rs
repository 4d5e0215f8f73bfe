//! Libraries that the source's server loads at its start.

use super::auto_conf;
use super::bring::Import;
use super::remote::Facts;

/// The setting that names them.
const SETTING: &str = "shared_preload_libraries";

impl Import<'_> {
    /// Adds those to a copy's settings that the source's server was given on its command line, as containers and
    /// cluster managers give them; what its files say has come with these.
    pub(super) fn take_libraries(&mut self, facts: &Facts, text: &mut Vec<u8>) {
        match &facts.preload {
            Some(known) if known.on_command_line => {
                auto_conf::add(text, SETTING, &known.list);
                self.note(format!(
                    "{SETTING} is '{}', as the source's command line has it",
                    known.list
                ));
            }
            Some(_) => {}
            None => self.note(format!(
                "{SETTING} came only as far as the source's files have it: its role may not see it (GRANT \
                 pg_read_all_settings)"
            )),
        }
    }
}

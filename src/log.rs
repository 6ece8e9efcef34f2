//! What is said on stderr: lines for people, or with `--log-format json` objects for machines, one a
//! line. What a command was asked for goes to stdout and is not said here; bars are `progress`'s.
//!
//! Who says something names the event and gives its numbers as fields; text shows the message alone.

use std::io::{self, Write};
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::clock::rfc3339;
use crate::error::{Error, disarmed, in_words, leave};

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Chooses the format of all that is said. The first one stays.
pub fn set_format(format: LogFormat) {
    let _ = FORMAT.set(format);
}

static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// From here on says nothing but warnings and errors.
pub fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Whether machines read what is said.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Warning,
    Error,
}

/// Something to say.
#[must_use = "an event is said by `say`"]
#[derive(Debug, Clone)]
pub struct Event {
    level: Level,
    name: &'static str,
    message: String,
    fields: Map<String, Value>,
}

impl Event {
    /// How a command is getting on.
    pub fn info(name: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Info, name, message: message.into(), fields: Map::new() }
    }

    /// What a person should look at, some day.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::info("warning", message) }
    }

    /// Why the command ends, or something of it.
    fn error(name: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::info(name, message) }
    }

    /// With a field more, which text does not show.
    pub fn with(mut self, key: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("fields are plain data");
        self.fields.insert(key.to_owned(), value);
        self
    }

    /// With a path as a field; what of it is not UTF-8 becomes U+FFFD.
    pub fn with_path(self, key: &str, path: &Path) -> Self {
        self.with(key, path.to_string_lossy())
    }

    /// Says it, in one write: lines of two threads or processes do not mix. A closed or full stderr
    /// must not end a run.
    pub fn say(self) {
        if self.level == Level::Info && IS_QUIET.load(Ordering::Relaxed) {
            return;
        }
        let line = match is_json() {
            true => self.json(SystemTime::now()),
            false => self.text(),
        };
        let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
    }

    /// Says it to machines: where text has it elsewhere.
    pub fn say_in_json(self) {
        if is_json() {
            self.say();
        }
    }

    /// Says it to people: where machines are told otherwise.
    pub fn say_in_text(self) {
        if !is_json() {
            self.say();
        }
    }

    fn text(&self) -> String {
        let level = match self.level {
            Level::Info => "",
            Level::Warning => "warning: ",
            Level::Error => "error: ",
        };
        format!("{level}{}", disarmed(&self.message))
    }

    /// As machines read it.
    pub(crate) fn json(self, at: SystemTime) -> String {
        let mut line = json!({
            "time": rfc3339(at),
            "level": self.level,
            "event": self.name,
            "message": self.message,
        });
        if let Value::Object(line) = &mut line {
            line.extend(self.fields);
        }
        line.to_string()
    }
}

/// Says why a command ends.
pub fn error(error: &Error) {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        causes.push(source.to_string());
        cause = source.source();
    }
    let event = Event::error("error", in_words(error)).with("causes", causes);
    event.with("exit_code", error.exit_code()).say();
}

/// Says to machines what is wrong with a command line, as clap words it.
pub fn usage(said: &str, exit_code: i32) {
    let message = said.trim().trim_start_matches("error: ");
    let event = Event::error("error", message).with("causes", Vec::<String>::new());
    event.with("exit_code", exit_code).say();
}

/// Who wants to know of an error that ends the process from where nobody can return it.
type AtExit = Box<dyn FnOnce(&Error) + Send>;

static AT_EXIT: Mutex<Option<AtExit>> = Mutex::new(None);

/// Has `tell` called before [`exit`] ends the process.
pub fn at_exit(tell: impl FnOnce(&Error) + Send + 'static) {
    *AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
}

/// Ends the process with an error while other threads may be in the middle of anything.
pub fn exit(why: &Error) -> ! {
    error(why);
    let tell = AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(tell) = tell {
        tell(why);
    }
    leave(i32::from(why.exit_code()))
}

/// Says panics to machines as events, and prints them to people as before. Called once by `main`.
pub fn say_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| match is_json() {
        true => Event::error("panic", info.to_string()).say(),
        false => print(info),
    }));
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let hostile = "two\nlines \u{1b}[2J \"quoted\" \u{0}";
        let event = Event::warning(hostile).with("path", hostile).with("rows", 3_u64);
        assert_eq!(
            event.text(),
            "warning: two\nlines \\u{1b}[2J \"quoted\" \\u{0}",
            "control characters are shown, not obeyed"
        );
        let line = event.json(UNIX_EPOCH);
        assert!(!line.chars().any(char::is_control), "{line}");
        let read: Value = serde_json::from_str(&line).expect("JSON");
        let expected = json!({
            "time": "1970-01-01T00:00:00.000Z", "level": "warning", "event": "warning",
            "message": hostile, "path": hostile, "rows": 3,
        });
        assert_eq!(read, expected);
    }
}

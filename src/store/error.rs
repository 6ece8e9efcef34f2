//! What a store answers, in the words of `std::io`, so that an object that cannot be read or written
//! is told like a file. Whether it may go better later is `crate::error::passes`'s to say, by the kind.

use std::error::Error as StdError;
use std::io;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

const REFUSED: &str = "the store refuses access, check its credentials in the environment";

/// An error of the store as one of a disk.
pub fn in_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            let why = format!("{REFUSED}: {}", in_words(&error));
            return io::Error::new(io::ErrorKind::PermissionDenied, why);
        }
        Error::Precondition { .. } => {
            return io::Error::new(io::ErrorKind::InvalidData, "it was changed while it was read");
        }
        Error::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
        // Where machines of the clouds learn their credentials, when the environment has none.
        Error::Generic { .. } if format!("{error:?}").contains("169.254.") => {
            let why = format!("no credentials in the environment, and {}", in_words(&error));
            return io::Error::new(io::ErrorKind::PermissionDenied, why);
        }
        Error::Generic { .. } if is_away(&error) => io::ErrorKind::HostUnreachable,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, in_words(&error))
}

/// Whether the store gave no answer, or one that may pass.
fn is_away(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return !matches!(error.kind(), HttpErrorKind::Decode | HttpErrorKind::Unknown);
        }
        // Its type is the library's own; it says what the server answered.
        let words = error.to_string();
        if words.contains("Server returned error response") {
            return true;
        }
        if let Some((_, answer)) = words.split_once("non-2xx status code: ") {
            return matches!(answer.get(..3), Some("408" | "429" | "500" | "502" | "503" | "504"));
        }
        cause = error.source();
    }
    false
}

/// The error's own words and its last cause's, without those between, which repeat each other.
fn in_words(error: &Error) -> String {
    let mut last: &(dyn StdError + 'static) = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let (words, last) = (error.to_string(), last.to_string());
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    // How often it may be tried is no news to anybody.
    let words = match words.split_once(", max_retries: ") {
        Some((before, after)) => {
            let after = after.split_once(" - ").map_or(after, |(_, after)| after);
            format!("{before}: {after}")
        }
        None => words,
    };
    if words.contains(&last) { words } else { format!("{words}: {last}") }
}

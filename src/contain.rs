//! Calling code that may panic on bytes from strangers: the panic becomes a value, quietly.
//!
//! For other people's decoders and readers alone. A panic of clipmill's own is a defect and stays
//! loud.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `call`, or `None` if it panicked.
pub fn contain<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(before);
    result.ok()
}

/// Keeps contained panics off stderr; all others are printed as before. Called once by `main`.
pub fn quiet_contained_panics() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CONTAINED.get() {
            loud(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::panic, reason = "the panic is what is tested")]
    fn a_panic_is_none_and_what_follows_is_loud_again() {
        assert_eq!(contain(|| 1), Some(1));
        assert_eq!(contain(|| -> i32 { panic!("contained") }), None);
        assert!(!CONTAINED.get());
    }
}

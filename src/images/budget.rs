//! The memory that all images may take that are being decoded at once.
//!
//! Large images wait for one another; an image that is larger than the whole budget waits until it
//! is alone. A thread holds one permit at most, so nobody waits for a thread that waits.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes to be shared by those who decode.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    state: Mutex<State>,
    returned: Condvar,
}

/// Who is served, and what is out.
#[derive(Debug, Default)]
struct State {
    used: u64,
    /// The next one who comes, and whose turn it is: a large image is not passed by for ever.
    next: u64,
    turn: u64,
}

/// Some of a budget's bytes, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Waits until there are so many bytes, or all that there are.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Permit {
        let bytes = bytes.min(self.bytes);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.next;
        state.next += 1;
        let wait = |state: &mut State| state.turn != mine || state.used + bytes > self.bytes;
        let state = self.returned.wait_while(state, wait);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.used += bytes;
        state.turn += 1;
        self.returned.notify_all();
        Permit { budget: self.clone(), bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.state.lock().unwrap_or_else(PoisonError::into_inner).used -= self.bytes;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn no_more_is_out_than_there_is_and_everybody_gets_a_turn() {
        let budget = Arc::new(Budget::new(100));
        let (out, most, turns) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (budget, out, most, turns) = (&budget, &out, &most, &turns);
                scope.spawn(move || {
                    for turn in 0..200 {
                        // Up to more than there is.
                        let bytes = (thread * 31 + turn * 7) % 130;
                        let permit = budget.take(bytes);
                        let now = out.fetch_add(permit.bytes, Ordering::SeqCst) + permit.bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        out.fetch_sub(permit.bytes, Ordering::SeqCst);
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 1_600);
        let most = most.into_inner();
        assert!((50..=100).contains(&most), "{most}");
        assert_eq!(budget.state.lock().expect("nobody panicked").used, 0);
    }
}

//! What Ctrl-C and SIGTERM do to a job: end the process at once with 130 or 143, and while parts are
//! being made ask the stages to come to an end.
//!
//! At once is safe at any time: files are published whole. Other commands are ended by the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};

use crate::error::Error;
use crate::run::Stop;

/// The signals of this process, from here on.
pub struct Signals {
    stop: Arc<Stop>,
    /// Whether the next signal ends the process.
    at_once: Arc<AtomicBool>,
}

impl Signals {
    pub fn listen() -> Result<Self, Error> {
        let (stop, at_once) = (Stop::default(), Arc::new(AtomicBool::new(true)));
        for signal in [SIGINT, SIGTERM] {
            // In this order: a signal that finds the flag down only raises it, for the next one.
            register_conditional_shutdown(signal, 128 + signal, at_once.clone())
                .and_then(|_| register(signal, at_once.clone()))
                .and_then(|_| register_usize(signal, stop.0.clone(), signal as usize))
                .map_err(|source| Error::Thread { stage: "signal", source })?;
        }
        Ok(Self { stop: Arc::new(stop), at_once })
    }

    /// Does work that can come to an end by itself. The first signal asks it to, a second one ends
    /// the process.
    pub fn gently<T>(&self, work: impl FnOnce(&Arc<Stop>) -> T) -> T {
        self.at_once.store(false, Ordering::Relaxed);
        let done = work(&self.stop);
        self.at_once.store(true, Ordering::Relaxed);
        done
    }

    /// The signal that came while work was done which ended well all the same.
    pub fn raised(&self) -> Option<i32> {
        self.stop.signal()
    }
}

//! What Ctrl-C and SIGTERM do to a job: end the process at once with 130 or 143, and while parts are
//! being made ask the stages to come to an end.
//!
//! At once is safe at any time: files are published whole. Other commands are ended by the system.
//! Where somebody is to hear of the end, the first signal leaves that much time; the second never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};

use crate::error::{Error, leave};
use crate::run::Stop;

/// How often who waits for a signal looks whether one came.
const TICK: Duration = Duration::from_millis(100);

/// The signals of this process, from here on.
pub struct Signals {
    stop: Arc<Stop>,
    /// Whether the next signal ends the process.
    at_once: Arc<AtomicBool>,
    /// Whether the first signal is the work's to answer.
    is_gentle: Arc<AtomicBool>,
    /// Whether somebody is to hear of the first signal otherwise.
    is_told: AtomicBool,
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
        let (is_gentle, is_told) = (Arc::default(), AtomicBool::new(false));
        Ok(Self { stop: Arc::new(stop), at_once, is_gentle, is_told })
    }

    /// From here on the first signal waits for [`Signals::tell`] or for work that comes to an end.
    pub fn hold(&self) {
        self.is_told.store(true, Ordering::Relaxed);
        self.at_once.store(false, Ordering::Relaxed);
    }

    /// Has `tell` called with the first signal, which is on hold, where no work is asked to come to an
    /// end by itself; ends the process with the exit code that it gives.
    pub fn tell(&self, tell: impl FnOnce(i32) -> i32 + Send + 'static) -> Result<(), Error> {
        let (stop, is_gentle) = (self.stop.clone(), self.is_gentle.clone());
        let wait = move || {
            loop {
                match stop.signal() {
                    Some(signal) if !is_gentle.load(Ordering::Relaxed) => {
                        leave(tell(signal));
                    }
                    _ => std::thread::sleep(TICK),
                }
            }
        };
        let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
        spawned.map(drop).map_err(|source| Error::Thread { stage: "signal", source })
    }

    /// Does work that can come to an end by itself. The first signal asks it to, a second one ends
    /// the process.
    pub fn gently<T>(&self, work: impl FnOnce(&Arc<Stop>) -> T) -> T {
        self.is_gentle.store(true, Ordering::Relaxed);
        self.at_once.store(false, Ordering::Relaxed);
        let done = work(&self.stop);
        // A signal that came stays the work's, however it ended.
        let came = self.raised().is_some();
        self.is_gentle.store(came, Ordering::Relaxed);
        self.at_once.store(came || !self.is_told.load(Ordering::Relaxed), Ordering::Relaxed);
        done
    }

    /// The signal that came while work was done which ended well all the same.
    pub fn raised(&self) -> Option<i32> {
        self.stop.signal()
    }
}

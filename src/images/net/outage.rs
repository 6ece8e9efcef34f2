//! When it is not the images that fail but the host, or the network: then the run ends.
//!
//! A row counts as silent if it came to nothing for reasons that may pass, through all its tries,
//! while its host gave no other row an answer either. The rule: the run ends when
//!
//! - so many rows of one host in a row were silent, and at least half of all rows so far were of
//!   that host: a job of one server, or of one bucket; or
//! - so many different hosts in a row were silent, with no answer of any between: the network.
//!
//! A dead host among many is neither; its rows are data. Any answer counts, a 404 as well.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Hosts that are remembered. Beyond, counts are halved and hosts that come to nothing forgotten.
const MOST_HOSTS: usize = 4096;

/// Who does not answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Outage {
    /// The host, or that it is all of them.
    pub host: String,
    /// Silent rows, or hosts, in a row.
    pub in_a_row: usize,
    /// What the last of them met.
    pub last: String,
}

/// Counts rows that came to nothing, and says when it is enough.
#[derive(Debug)]
pub struct Outages {
    /// 0: never.
    enough: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hosts: HashMap<String, Host>,
    rows: u64,
    silent_hosts: HashSet<String>,
    answered: Option<Instant>,
    outage: Option<Arc<Outage>>,
}

#[derive(Debug, Default)]
struct Host {
    rows: u64,
    silent: usize,
    answered: Option<Instant>,
}

impl Outages {
    pub fn new(enough: usize) -> Self {
        Self { enough, state: Mutex::default() }
    }

    /// The outage, once there is one.
    pub fn found(&self) -> Option<Arc<Outage>> {
        self.state().outage.clone()
    }

    /// A host has answered, whatever it said.
    pub fn answered(&self, host: &str) {
        let mut state = self.state();
        let now = Instant::now();
        state.silent_hosts.clear();
        state.answered = Some(now);
        let host = state.count(host);
        host.silent = 0;
        host.answered = Some(now);
    }

    /// A row's last try has failed too. Its first was at `began`.
    pub fn silent(&self, name: &str, began: Instant, last: &str) {
        let mut state = self.state();
        if self.enough == 0 || state.outage.is_some() {
            return;
        }
        let host = state.count(name);
        if host.answered.is_some_and(|at| at > began) {
            return;
        }
        host.silent += 1;
        let (silent, of_host) = (host.silent, host.rows);
        let alone = silent >= self.enough && 2 * of_host >= state.rows;
        if state.answered.is_none_or(|at| at < began) {
            state.silent_hosts.insert(name.to_owned());
        }
        let hosts = state.silent_hosts.len();
        if !alone && hosts < self.enough {
            return;
        }
        let (host, in_a_row) = match alone {
            true => (name.to_owned(), silent),
            false => ("any host".to_owned(), hosts),
        };
        state.outage = Some(Arc::new(Outage { host, in_a_row, last: last.to_owned() }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are whole whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a row of a host.
    fn count(&mut self, name: &str) -> &mut Host {
        if self.hosts.len() >= MOST_HOSTS && !self.hosts.contains_key(name) {
            self.hosts.values_mut().for_each(|host| host.rows /= 2);
            self.hosts.retain(|_, host| host.rows > 0);
            self.rows = self.hosts.values().map(|host| host.rows).sum();
        }
        self.rows += 1;
        let host = self.hosts.entry(name.to_owned()).or_default();
        host.rows += 1;
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_host_is_given_up_after_so_many_rows_in_a_row() {
        let outages = Outages::new(3);
        outages.answered("a");
        let began = Instant::now();
        outages.silent("a", began, "x");
        outages.silent("a", began, "x");
        outages.answered("a");
        // The host has answered since these began.
        (0..9).for_each(|_| outages.silent("a", began, "x"));
        let began = Instant::now();
        outages.silent("a", began, "x");
        outages.silent("a", began, "x");
        assert_eq!(outages.found(), None);
        outages.silent("a", began, "refused");
        let outage = Outage { host: "a".into(), in_a_row: 3, last: "refused".into() };
        assert_eq!(outages.found().as_deref(), Some(&outage));
    }

    #[test]
    fn a_dead_host_among_many_is_none_and_many_dead_hosts_are() {
        let outages = Outages::new(3);
        (0..50).for_each(|_| outages.answered("a"));
        let began = Instant::now();
        (0..20).for_each(|_| outages.silent("b", began, "x"));
        outages.silent("c", began, "x");
        assert_eq!(outages.found(), None);
        outages.silent("d", began, "x");
        assert_eq!(outages.found().map(|outage| outage.in_a_row), Some(3));
    }

    #[test]
    fn none_is_found_where_none_is_asked_for_and_memory_is_bounded() {
        let outages = Outages::new(0);
        let began = Instant::now();
        (0..3 * MOST_HOSTS).for_each(|host| outages.silent(&host.to_string(), began, "x"));
        assert_eq!(outages.found(), None);
        assert!(outages.state().hosts.len() <= MOST_HOSTS);
    }
}

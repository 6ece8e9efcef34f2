//! What is shipped for schedulers, the systemd units, the crontab, the Airflow DAG: held against systemd,
//! `sh`, and the program's own help.
//!
//! Not here: an Airflow that runs the DAG (`make test-airflow`), and clusters (`make test-cluster`).

use std::process::Command;

use crate::common::{oracle, scratch};

/// What `oracle/schedulers.py` says of them, on a machine that is a scratch folder.
fn check(what: &str) {
    let machine = scratch();
    let args = [what.as_ref(), env!("CARGO_BIN_EXE_clipmill").as_ref(), machine.path()];
    let _ = oracle("schedulers.py", args);
}

#[test]
fn systemd_takes_the_units_and_starts_them_at_three() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no systemd-analyze, so nobody reads the units");
        return;
    }
    check("units");
}

#[test]
fn the_crontabs_line_scores_what_is_new_and_never_twice_at_once() {
    check("cron");
}

#[test]
fn the_airflow_dag_says_what_the_program_understands() {
    check("dag");
}

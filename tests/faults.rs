//! What a run promises, held against faults: killed at every step, refused by the disk, raced by
//! other runs, given changed inputs, damaged outputs and images that kill their decoder.
//!
//! The faults come from outside (`faults/*.c`, put before libc by `LD_PRELOAD`), and each test
//! makes sure that its fault fired. What may be seen meanwhile is said by `faults/watch.py` and
//! `faults/trace.py`, which share no code with the program. The table of what was tried how often
//! is in `README.md`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::common::job::{
    Faulty, PARTS, args, assert_same, finalize, image_paths, images_with_killers, library, random,
    share, trace, undisturbed,
};
use crate::common::{clipmill, command, python, root, sample, scratch};

/// The independent checker, at work until it is asked for its opinion.
struct Watch(Option<Child>);

impl Watch {
    fn start(dir: &Path, outputs: &Path) -> Self {
        fs::create_dir_all(outputs).expect("a folder");
        let child = python().map(|python| {
            let mut command = Command::new(python);
            command.arg(root().join("tests/faults/watch.py"));
            command.arg(sample().join("captions.parquet"));
            command.args([dir.join("undisturbed"), outputs.to_owned()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("it starts")
        });
        Self(child)
    }

    fn finish(self) {
        let Some(mut child) = self.0 else { return };
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        println!("watched: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Runs that may be disturbed as often as `CLIPMILL_SOAK` says, or a little.
fn trials(few: usize) -> usize {
    std::env::var("CLIPMILL_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// Whether time does not matter.
fn is_soak() -> bool {
    std::env::var_os("CLIPMILL_SOAK").is_some()
}

#[test]
fn every_safeguard_can_be_taken_away_as_mutations_py_says() {
    let Some(python) = python() else { return };
    let script = root().join("tests/faults/mutations.py");
    let checked = Command::new(python).arg(script).arg("--check").output().expect("it starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_name_of_an_undisturbed_run_lasts_before_the_next_one_counts_on_it() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let (output, log) = (dir.path().join("out"), dir.path().join("log"));
    let run = Faulty { library: &library, output: &output, log: &log };
    assert!(run.run("", &args(&output)).status.success());
    // A part, a manifest for each, the first manifest, the report and the mark.
    assert!(run.events(Some("rename")) >= 2 * PARTS + 3 && run.events(Some("fsync")) >= 15);
    trace(&log, &["--complete"]);
    fs::remove_file(&log).expect("removed");
    let mut again = args(&output);
    again.extend(["--set", "sink.parquet.embeddings=f16", "--redo-changed"].map(str::to_owned));
    assert!(run.run("", &again).status.success());
    assert!(run.events(Some("rename")) >= 2 * PARTS + 3);
    trace(&log, &["--complete", "--had-success"]);

    // Seen from above: the folder itself, and those that had to be made for it.
    let (deep, log) = (dir.path().join("a/b/out"), dir.path().join("log-from-above"));
    let run = Faulty { library: &library, output: dir.path(), log: &log };
    assert!(run.run("", &args(&deep)).status.success());
    assert_eq!(run.events(Some("mkdir")), 3);
    trace(&log, &["--complete", "--mutable", "*log*"]);
}

#[test]
fn killed_at_every_step_and_again_while_it_recovers_a_run_ends_as_if_undisturbed() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let wanted = undisturbed(dir.path());
    let outputs = dir.path().join("outputs");
    let watch = Watch::start(dir.path(), &outputs);
    let (output, log) = (dir.path().join("counted"), dir.path().join("counted.log"));
    let counted = Faulty { library: &library, output: &output, log: &log };
    assert!(counted.run("", &args(&output)).status.success());
    let n_events = counted.events(None);
    assert!(n_events > 50, "{n_events} events");
    let again_every = if is_soak() { 1 } else { 4 };
    let again = (1..=n_events).into_par_iter().map(|event| {
        let (output, log) =
            (outputs.join(event.to_string()), dir.path().join(format!("{event}.log")));
        let run = Faulty { library: &library, output: &output, log: &log };
        let when = ["kill", "kill-after"][event % 2];
        let killed = run.run(&format!("{event}:{when}"), &args(&output));
        assert_eq!(killed.status.signal(), Some(9), "event {event}");
        assert_eq!(run.fired(), 1, "event {event}");
        // Recovering takes no more steps than the whole.
        let second = 1 + random(event as u64) as usize % n_events;
        if event % again_every == 0 {
            run.run(&format!("{second}:kill"), &args(&output));
        }
        let again = run.fired() - 1;
        let last = run.run("", &args(&output));
        assert!(last.status.success(), "{event}: {}", String::from_utf8_lossy(&last.stderr));
        assert_same(&output, &wanted, &format!("killed at {event} and {second}"));
        trace(&log, &["--complete"]);
        // What was complete was never made again.
        for part in 0..PARTS {
            let name = format!("part-{part:05}.parquet");
            assert_eq!(run.published(&name), 1, "killed at {event} and {second}: {name}");
        }
        again
    });
    let again: usize = again.sum();
    let tried = n_events / again_every;
    assert!(again > tried / 2, "{again} of {tried} recoveries were killed");
    watch.finish();
}

#[test]
fn killed_at_any_time_any_number_of_times_a_run_ends_as_if_undisturbed() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let outputs = dir.path().join("outputs");
    let watch = Watch::start(dir.path(), &outputs);
    let begun = Instant::now();
    clipmill(args(&dir.path().join("timed"))).ok();
    // The latest kill, in microseconds: later where most runs are killed, so that some come to their
    // end, and earlier where few are.
    let latest = AtomicU64::new(begun.elapsed().as_micros() as u64);
    let n = trials(48);
    // Several at a time; a complete one gets one more run, which has nothing to do, and is then
    // left for a new one.
    let at_work: Vec<_> = (0..8).map(|_| AtomicUsize::new(0)).collect();
    let killed: usize = (0..n as u64)
        .into_par_iter()
        .map(|trial| {
            let slot = trial as usize % at_work.len();
            let turn = at_work[slot].load(Ordering::Relaxed);
            let output = outputs.join(format!("{slot}-{turn}"));
            if output.join("_SUCCESS").exists() {
                at_work[slot].store(turn + 1, Ordering::Relaxed);
            }
            let mut child = command(args(&output));
            let child = child.stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = child.spawn().expect("it starts");
            let until = latest.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(random(trial) % until));
            child.kill().expect("killed, or done");
            let status = child.wait().expect("it ends");
            let is_killed = status.signal() == Some(9);
            let next = if is_killed { until + until / 32 } else { until - until / 10 };
            latest.store(next.max(1000), Ordering::Relaxed);
            // Two trials may meet in one output: the second is refused.
            assert!(is_killed || matches!(status.code(), Some(0 | 73)), "{status}");
            usize::from(is_killed)
        })
        .sum();
    assert!(killed > n / 2, "{killed} of {n} runs were killed");
    let outputs = fs::read_dir(&outputs).expect("outputs").map(|entry| entry.expect("one").path());
    let outputs: Vec<_> = outputs.collect();
    outputs.par_iter().for_each(|output| {
        if !output.join("_SUCCESS").exists() {
            clipmill(args(output)).ok();
        }
        assert_same(output, &wanted, &output.display().to_string());
    });
    let n_outputs = outputs.len();
    assert!(n_outputs > n / 20, "{n_outputs} outputs: runs were killed too early to end");
    watch.finish();
    println!("{killed} of {n} runs were killed, in {n_outputs} outputs");
}

#[test]
fn what_the_disk_refuses_is_named_can_be_tried_again_and_loses_nothing() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let wanted = undisturbed(dir.path());
    let (output, log) = (dir.path().join("counted"), dir.path().join("counted.log"));
    let counted = Faulty { library: &library, output: &output, log: &log };
    assert!(counted.run("", &args(&output)).status.success());
    let mut faults = Vec::new();
    for (call, actions) in [
        ("open", &["EMFILE", "EROFS"][..]),
        ("write", &["ENOSPC", "EDQUOT"]),
        ("fsync", &["EIO"]),
        ("rename", &["EIO", "done-EIO", "ENOSPC"]),
        ("unlink", &["EIO"]),
    ] {
        let n = counted.events(Some(call));
        assert!(n > 0, "no {call} to fail");
        for at in 1..=n {
            // Each call in one way, in a soak in all; writes are many and alike.
            let of_it = if is_soak() { actions } else { &actions[at % actions.len()..][..1] };
            if call != "write" || at % 3 == 1 {
                faults.extend(of_it.iter().map(|action| format!("{call}:{at}:{action}")));
            }
        }
    }
    faults.into_par_iter().for_each(|fault| {
        let name = fault.replace(':', "-");
        let (output, log) = (dir.path().join(&name), dir.path().join(format!("{name}.log")));
        let run = Faulty { library: &library, output: &output, log: &log };
        let refused = run.run(&fault, &args(&output));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(run.fired(), 1, "{fault}: {said}");
        assert!(!said.contains("panicked"), "{fault}: {said}");
        match refused.status.code() {
            Some(75) => assert!(said.contains(&name), "{fault} names no path: {said}"),
            // What is removed for tidiness may stay.
            Some(0) => assert!(fault.starts_with("unlink"), "{fault} went unnoticed"),
            other => unreachable!("{fault} ended with {other:?}: {said}"),
        }
        assert!(run.run("", &args(&output)).status.success(), "{fault}");
        assert_same(&output, &wanted, &fault);
        trace(&log, &["--complete"]);
    });
}

#[test]
fn a_disk_that_does_not_give_the_input_is_no_damaged_input() {
    let dir = scratch();
    let Some(library) = library("unreadable") else { return };
    let (output, log) = (dir.path().join("out"), dir.path().join("log"));
    let run = |after: usize, errno: i32| {
        let _ = fs::remove_file(&log);
        let mut command = command(args(&output));
        command.env("LD_PRELOAD", &library).env("CLIPMILL_UNREADABLE", "captions.parquet");
        command.env("CLIPMILL_UNREADABLE_AFTER", after.to_string());
        command.env("CLIPMILL_UNREADABLE_ERRNO", errno.to_string());
        let ran = command.env("CLIPMILL_UNREADABLE_LOG", &log).output().expect("it starts");
        (ran, fs::read_to_string(&log).unwrap_or_default().lines().count())
    };
    let (ran, fired) = run(usize::MAX, 0);
    assert!(ran.status.success() && fired == 0);
    fs::remove_dir_all(&output).expect("removed");
    // Magic, footer, pages; EIO, ESTALE.
    let mut refused = 0;
    for after in (0..).map(|step| step * step) {
        let errno = [5, 116][refused % 2];
        let (ran, fired) = run(after, errno);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let _ = fs::remove_dir_all(&output);
        if fired == 0 {
            assert!(ran.status.success(), "{after}: {said}");
            break;
        }
        refused += 1;
        assert_eq!(ran.status.code(), Some(75), "read {after}, errno {errno}: {said}");
        assert!(said.contains("captions.parquet"), "{said}");
    }
    assert!(refused >= 4, "{refused} reads were refused");
}

#[test]
fn a_full_disk_keeps_the_parts_that_fit_and_goes_on_when_there_is_room() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("a folder");
    let mount = |size: &str| {
        Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&disk).output()
    };
    if !mount("size=16k").is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED: a small disk cannot be mounted here");
        return;
    }
    let output = disk.join("out");
    let (mut full, mut kept) = (0, 0);
    for kib in (16..=400).step_by(16) {
        let size = format!("remount,size={kib}k");
        let grown = Command::new("mount").args(["-o", &size]).arg(&disk).output();
        assert!(grown.expect("mount is there").status.success());
        let ran = clipmill(args(&output));
        if ran.code == 0 {
            break;
        }
        assert_eq!(ran.code, 75, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("No space left") && ran.stderr.contains("out"),
            "{}",
            ran.stderr
        );
        full += 1;
        kept = kept.max(
            (0..PARTS).filter(|n| output.join(format!("part-{n:05}.parquet")).exists()).count(),
        );
    }
    let same = std::panic::catch_unwind(|| assert_same(&output, &wanted, "a disk that was full"));
    let unmounted = Command::new("umount").arg(&disk).status();
    assert!(unmounted.expect("umount is there").success());
    assert!(same.is_ok() && full > 2 && kept > 0, "full {full} times, {kept} parts kept");
}

#[test]
fn of_runs_on_one_output_at_once_one_works_and_the_others_are_told_so() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let mut refused = 0;
    // Where the machine has other work, all of two may get a turn: then once more.
    for race in 0..10 {
        let output = dir.path().join(format!("race-{race}"));
        let start = |_| {
            let mut command = command(args(&output));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts")
        };
        let runs: Vec<_> = (0..[2, 8][race % 2]).map(start).collect();
        let ended = runs.into_iter().map(|run| run.wait_with_output().expect("it ends"));
        let codes: Vec<_> = ended
            .map(|ended| {
                let said = String::from_utf8_lossy(&ended.stderr);
                let code = ended.status.code();
                assert!(code != Some(73) || said.contains("is being written by process"), "{said}");
                code
            })
            .collect();
        assert!(codes.contains(&Some(0)), "{codes:?}");
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 73))), "{codes:?}");
        assert_same(&output, &wanted, "raced");
        refused += codes.iter().filter(|code| **code == Some(73)).count();
        if race >= 1 && refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "no two runs met");
}

#[test]
fn parts_done_by_several_processes_make_the_output_of_one() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("out");
    let plan =
        clipmill([&["plan".to_owned()], &args(&output)[1..], &["--json".to_owned()]].concat());
    let plan: serde_json::Value = serde_json::from_str(&plan.ok().stdout).expect("JSON");
    assert_eq!(plan["parts"].as_array().map(Vec::len), Some(PARTS));
    let share = |parts: &str| share(&output, parts);
    let finalize = || clipmill(finalize(&output));
    let (none, was_there) = (finalize(), output.exists());
    assert!(none.stderr.contains("3 of 3 parts are missing") && !was_there, "{}", none.stderr);
    let refused = clipmill(share("3"));
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("there is no part 3"), "{}", refused.stderr);
    let shares: Vec<_> = ["0", "2"]
        .map(|parts| command(share(parts)).stdout(Stdio::null()).spawn().expect("it starts"))
        .into();
    for mut share in shares {
        assert!(share.wait().expect("it ends").success());
    }
    let early = finalize();
    assert_eq!(early.code, 1);
    assert!(
        early.stderr.contains("1 of 3 parts are missing or not whole (part-00001.parquet)"),
        "{}",
        early.stderr
    );
    assert!(!output.join("_SUCCESS").exists());
    clipmill(share("1-2")).ok();
    finalize().ok();
    assert_same(&output, &wanted, "done in shares");
    // Again is no work, and a part that changed since is found.
    finalize().ok();
    let part = output.join("part-00002.parquet");
    let whole = fs::read(&part).expect("a part");
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 4;
    fs::write(&part, flipped).expect("written");
    let refused = finalize();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("part-00002.parquet is damaged"), "{}", refused.stderr);
    assert!(!output.join("_SUCCESS").exists(), "it is not complete any more");
    clipmill(args(&output)).ok();
    assert_same(&output, &wanted, "mended");
}

#[test]
fn a_manifest_with_any_byte_changed_is_made_again_and_said_to_be() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("undisturbed");
    let manifest = output.join("_manifest.json");
    let whole = fs::read(&manifest).expect("a manifest");
    let mut noticed = 0;
    let positions = (0..trials(12) as u64).map(|trial| random(trial) as usize % whole.len());
    for at in positions {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        // White space and the like may be as good as before.
        fs::write(&manifest, &flipped).expect("written");
        let harmless = clipmill(["verify".to_owned(), output.display().to_string()]).code == 0;
        let ran = clipmill(args(&output)).ok();
        assert!(
            harmless || ran.stderr.contains("made again: 3 of 3 parts are whole"),
            "byte {at}: {}",
            ran.stderr
        );
        if !harmless {
            noticed += 1;
            assert_same(&output, &wanted, &format!("byte {at}"));
        }
        fs::write(&manifest, &whole).expect("written");
    }
    assert!(noticed > trials(12) / 2, "{noticed} changes mattered");
    // Gone with everything but the parts.
    for name in ["_manifest.json", "_SUCCESS", "run_report.json"] {
        fs::remove_file(output.join(name)).expect("removed");
    }
    clipmill(args(&output)).ok();
    assert_same(&output, &wanted, "without a manifest");
    // And of another job's parts nothing is made.
    fs::remove_file(&manifest).expect("removed");
    let mut other = args(&output);
    other.extend(["--set", "sink.parquet.embeddings=f16"].map(str::to_owned));
    let refused = clipmill(&other);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("came from another input, model or setting"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_changed_is_named_and_only_that_is_done_again_when_asked() {
    let dir = scratch();
    let inputs = dir.path().join("inputs");
    fs::create_dir(&inputs).expect("a folder");
    let input = |name: &str| inputs.join(name);
    let whole = fs::read(sample().join("captions.parquet")).expect("the sample");
    for name in ["a.parquet", "b.parquet"] {
        fs::write(input(name), &whole).expect("written");
    }
    let output = dir.path().join("out");
    let run = |more: &[&str]| {
        let mut args = vec!["run".to_owned(), "pipelines/sample.toml".to_owned()];
        args.extend(["--input".to_owned(), inputs.display().to_string()]);
        args.extend(["--output".to_owned(), output.display().to_string()]);
        args.extend(["--set", "sink.parquet.rows_per_part=200"].map(str::to_owned));
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        clipmill(args)
    };
    run(&[]).ok();
    let parts = || -> Vec<_> {
        let made = |n: usize| fs::metadata(output.join(format!("part-{n:05}.parquet"))).ok();
        (0..4).map(|n| made(n).and_then(|made| made.modified().ok())).collect()
    };
    let before = parts();
    assert!(before.iter().all(Option::is_some));
    // The same bytes, written again: size and footer agree, and the rows between need not.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(input("b.parquet"), &whole).expect("written");
    let refused = run(&[]);
    assert_eq!(refused.code, 2);
    for says in ["b.parquet", "written", "--redo-changed"] {
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    assert_eq!(parts(), before);
    run(&["--redo-changed"]).ok();
    let after = parts();
    assert_eq!(after[..2], before[..2], "the first file's parts stay");
    assert!(after[2] != before[2] && after[3] != before[3], "the second file's are made again");
    // A setting concerns every part; a limit those that it cuts off or through.
    let refused = run(&["--set", "sink.parquet.embeddings=f16"]);
    assert!(refused.code == 2 && refused.stderr.contains("sink.parquet.embeddings"));
    run(&["--limit", "300", "--redo-changed"]).ok();
    let limited = parts();
    assert_eq!(limited[..2], after[..2]);
    assert!(limited[2] != after[2] && limited[3].is_none(), "{limited:?}");
    clipmill(["verify".to_owned(), output.display().to_string()]).ok();
}

#[test]
fn an_image_that_kills_its_decoder_does_so_once_and_is_a_row_then() {
    let dir = scratch();
    let Some(library) = library("killer") else { return };
    for (how, code, signal, death) in [
        ('A', None, Some(6), "it aborted (signal 6)"),
        ('S', None, Some(11), "a segmentation fault (signal 11)"),
        ('H', Some(75), None, "it took more than 2 s"),
    ] {
        let root = dir.path().join(how.to_string());
        // Two rows of different parts have it, the second under another name.
        let images = image_paths();
        let (first, second) = (&images[5], &images[150]);
        images_with_killers(&root, how, &[first, second]);
        let output = dir.path().join(format!("out-{how}"));
        let run = || {
            let mut command = command(["run", "pipelines/sample.toml", "--quiet"]);
            command.arg("--output").arg(&output);
            command.arg("--set").arg(format!("image.path.root={:?}", root.display().to_string()));
            command.args(["--set", "sink.parquet.rows_per_part=100"]);
            command.args(["--set", "run.decode_timeout=2"]);
            command.env("LD_PRELOAD", &library).output().expect("it starts")
        };
        let died = run();
        let said = String::from_utf8_lossy(&died.stderr).into_owned();
        assert_eq!((died.status.code(), died.status.signal()), (code, signal), "{how}: {said}");
        assert!(how != 'H' || said.contains("decode_timeout"), "{said}");
        let went_on = run();
        let said = String::from_utf8_lossy(&went_on.stderr).into_owned();
        assert!(went_on.status.success(), "{how}: {said}");
        assert!(said.contains(death), "{how}: {said}");
        let report = fs::read_to_string(output.join("run_report.json")).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["rows"], 269);
        let rows_of = |name: &String| images.iter().filter(|image| *image == name).count();
        assert_eq!(report["failed"]["decoder_crash"], rows_of(first) + rows_of(second), "{how}");
    }
}

"""Takes each safeguard of publishing away in turn, and makes sure that a test notices.

Run by `make mutations`, in a checkout without changes to `src`. For each mutant: edits one file,
builds, runs the tests that should fail, and puts the file back. Prints a table; exits with 1 if a
mutant survives, or does not build.
"""
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What is taken away, the file, what stands there, what is put there, the tests that must notice.
MUTANTS = [
    ("fsync of a file", "files.rs",
     'file.sync_all().map_err(Error::io("flush to disk", &temporary))?;', "",
     "every_name_of_an_undisturbed_run"),
    ("fsync of the folder after a rename", "files.rs",
     "    // Without this the rename itself can be lost with the power.\n"
     "    sync_folder(folder_of(path))", "    Ok(())",
     "every_name_of_an_undisturbed_run"),
    ("fsync of the folder above a new output", "files.rs",
     "try_for_each(|path| sync_folder(folder_of(path)))", "try_for_each(|_| Ok(()))",
     "every_name_of_an_undisturbed_run"),
    ("fsync of what a dead run left", "files.rs",
     "dir)?;\n        sync_folder(dir)?;\n        Ok(Self { _files: vec![lock] })",
     "dir)?;\n        Ok(Self { _files: vec![lock] })",
     "what_the_disk_refuses"),
    ("fsync after a removal", "files.rs",
     "Ok(()) => sync_folder(folder_of(path)),", "Ok(()) => Ok(()),",
     "every_name_of_an_undisturbed_run"),
    ("the rename: written under the final name", "files.rs",
     'path.with_file_name(format!(".{name}{TEMPORARY}"))',
     'path.with_file_name(format!("{name}"))',
     "every_name_of_an_undisturbed_run"),
    ("the lock", "files.rs",
     "match flock(&file, how) {",
     "match flock(&file, how).or(Ok::<(), Errno>(())) {",
     "of_runs_on_one_output_at_once"),
    ("the manifest's checksum", "manifest.rs",
     "match checked.manifest.checksum() == checked.sha256 {", "match true {",
     "a_manifest_with_any_byte_changed"),
    ("the removal of _SUCCESS", "plan/resume.rs",
     "Manifest::mark_incomplete(dir)?;", "",
     "every_name_of_an_undisturbed_run"),
    ("a part's seal", "sink/seal.rs",
     "(digest.finish().as_bytes() == seal).then(|| whole.finish())",
     "{ let _ = (digest, seal); Some(whole.finish()) }",
     "parts_done_by_several_processes"),
    ("a part's key", "plan/resume.rs",
     ".filter(|record| record.about.key == *key)", ".filter(|_| true)",
     "what_changed_is_named"),
    ("the digest in verify", "command/verify.rs",
     "Ok(_) if digest::of_file(path)? != record.sha256 => {", "Ok(_) if false => {",
     "verify_finds_a_flipped_bit"),
    ("the count of a part's rows", "write.rs",
     "if rows_in != part.rows {", "if false {",
     "a_source_that_ends_early"),
    ("the journal of rows in flight", "prepare.rs",
     "self.journal.as_ref().map(|journal| journal.enter(id));",
     "self.journal.as_ref().filter(|_| false).map(|journal| journal.enter(id));",
     "an_image_that_kills_its_decoder"),
]


def survives(path, before, after, tests):
    text = path.read_text()
    assert text.count(before) == 1, f"{path}: {before!r} is there {text.count(before)} times"
    path.write_text(text.replace(before, after))
    try:
        cargo = ["cargo", "nextest", "run", "--release", "--locked"]
        built = subprocess.run([*cargo, "--no-run"], cwd=ROOT, capture_output=True, text=True)
        if built.returncode != 0:
            return f"does not build: {built.stderr[-800:]}"
        ran = subprocess.run([*cargo, tests], cwd=ROOT, capture_output=True, text=True)
        if "0 tests run" in ran.stderr or "no tests to run" in ran.stderr:
            return f"no test is called {tests}"
        return None if ran.returncode != 0 else "SURVIVED"
    finally:
        path.write_text(text)


wrong = 0
for name, file, before, after, tests in MUTANTS:
    begun = time.monotonic()
    outcome = survives(ROOT / "src" / file, before, after, tests)
    wrong += outcome is not None
    seconds = time.monotonic() - begun
    print(f"{name:45} {tests:35} {outcome or 'noticed'} ({seconds:.0f} s)", flush=True)
sys.exit(wrong > 0)

"""Takes each safeguard of publishing away in turn, and makes sure that a test notices.

Run by `make mutations`, in a checkout where nobody edits `src` meanwhile. Edits `src` once, so that
each mutant is a branch that `CLIPMILL_MUTANT` chooses, builds that, and puts `src` back (a build after
this one begins anew). Then runs the tests that are named here, which have to pass with no mutant
chosen, and for each mutant the test that has to fail with it. Prints a table; exits with 1 if a mutant survives. Arguments: words of the
names of those to try, else all; --check only looks whether every mutant can be made.
"""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What is taken away, the file in src, what stands there, what is put there (MUTANT: whether it is
# this one), and who must notice: the test's module (None: those in src) and its name.
#
# Left out, because nothing changes that can be seen: the magic and the sizes that `seal::check` and
# `verify` look at before the digest, which covers them; that a seal is blank before it is filled
# in, which the writer has just made so.
MUTANTS = [
    # Each fsync, and the order around them.
    ("fsync of a file", "files.rs",
     'file.sync_all().map_err(Error::io("flush to disk", &temporary))?;',
     'if !MUTANT { file.sync_all().map_err(Error::io("flush to disk", &temporary))?; }',
     "faults", "every_name_of_an_undisturbed_run"),
    ("fsync of the folder after a rename", "files.rs",
     "    // Without this the rename itself can be lost with the power.\n"
     "    sync_folder(folder_of(path))", "    if MUTANT { Ok(()) } else { sync_folder(folder_of(path)) }",
     "faults", "every_name_of_an_undisturbed_run"),
    ("fsync of the folder above a new output", "files/scratch.rs",
     "try_for_each(|path| sync_folder(folder_of(path)))",
     "try_for_each(|path| if MUTANT { Ok(()) } else { sync_folder(folder_of(path)) })",
     "faults", "every_name_of_an_undisturbed_run"),
    ("fsync of what a dead run left", "files/lock.rs",
     "sync_folder(&here)?;\n        Ok(Self {", "if !MUTANT { sync_folder(&here)?; }\n        Ok(Self {",
     "resume", "a_run_or_share_killed_after_any_rename"),
    ("fsync of what a dead share left", "files/lock.rs",
     "sync_folder(&here)?;\n        let scope", "if !MUTANT { sync_folder(&here)?; }\n        let scope",
     "resume", "a_run_or_share_killed_after_any_rename"),
    ("fsync after a removal", "files.rs",
     "Ok(()) => sync_folder(folder_of(path)),",
     "Ok(()) if MUTANT => Ok(()),\nOk(()) => sync_folder(folder_of(path)),",
     "faults", "every_name_of_an_undisturbed_run"),
    ("the fsync in sync_folder", "files.rs",
     'folder.sync_all().map_err(Error::io("flush to disk", dir))',
     'if MUTANT { Ok(()) } else { folder.sync_all().map_err(Error::io("flush to disk", dir)) }',
     "faults", "every_name_of_an_undisturbed_run"),
    ("the rename: written under the final name", "files.rs",
     "false => path.with_file_name(name),",
     "false if MUTANT => path.to_owned(),\n        false => path.with_file_name(name),",
     "faults", "every_name_of_an_undisturbed_run"),
    ("the removal of _SUCCESS", "plan/resume.rs",
     "Manifest::mark_incomplete(dir)?;", "if !MUTANT { Manifest::mark_incomplete(dir)?; }",
     "faults", "every_name_of_an_undisturbed_run"),
    # Each lock.
    ("the lock", "files/lock.rs",
     "match flock(&file, how) {",
     "match flock(&file, how).or_else(|error| if MUTANT { Ok(()) } else { Err(error) }) {",
     "faults", "of_runs_on_one_output_at_once"),
    ("the lock of a part", "files/lock.rs",
     "let exclusive = FlockOperation::NonBlockingLockExclusive;",
     "let exclusive = if MUTANT { FlockOperation::NonBlockingLockShared } "
     "else { FlockOperation::NonBlockingLockExclusive };",
     None, "parts_are_locked_one_by_one"),
    ("the folder's lock beside those of parts", "files/lock.rs",
     "vec![lock(&here, LOCK, FlockOperation::NonBlockingLockShared, dir)?]",
     "if MUTANT { Vec::new() } "
     "else { vec![lock(&here, LOCK, FlockOperation::NonBlockingLockShared, dir)?] }",
     None, "parts_are_locked_one_by_one"),
    ("the manifest's lock", "files/lock.rs",
     "let file = lock(&local(dir), &name, FlockOperation::LockExclusive, dir)?;",
     "let how = if MUTANT { FlockOperation::LockShared } else { FlockOperation::LockExclusive };\n"
     "let file = lock(&local(dir), &name, how, dir)?;",
     "resume", "while_one_share_replaces_the_manifest"),
    ("the lock of a journal", "crash.rs",
     "Err(Errno::WOULDBLOCK) => continue,",
     "Err(Errno::WOULDBLOCK) if MUTANT => {}\nErr(Errno::WOULDBLOCK) => continue,",
     None, "a_journal_tells_what_was_in_flight"),
    # Each digest, seal, size and key.
    ("the manifest's checksum", "manifest.rs",
     "match checked.manifest.checksum() == checked.sha256 {",
     "match MUTANT || checked.manifest.checksum() == checked.sha256 {",
     "faults", "a_manifest_with_any_byte_changed"),
    ("the size of a recorded part", "plan/resume.rs",
     "there.get(&name) == Some(&Some(record.bytes))",
     "(MUTANT && there.contains_key(&name) || there.get(&name) == Some(&Some(record.bytes)))",
     "resume", "a_recorded_part_that_was_cut"),
    ("whether a recorded part is there", "plan/resume.rs",
     "let record = known.filter(|record| ", "let record = known.filter(|record| MUTANT || ",
     "run", "a_part_redone_is_the_same_bytes"),
    ("a part's seal", "sink/seal.rs",
     "(digest.finish().as_bytes() == seal).then(|| whole.finish())",
     "(MUTANT || digest.finish().as_bytes() == seal).then(|| whole.finish())",
     "faults", "parts_done_by_several_processes"),
    ("that the seal is the last of its kind", "sink/seal.rs",
     "let found = bytes.windows(before.len()).rposition(|window| window == before)?;",
     "let mut windows = bytes.windows(before.len());\n"
     "let found = if MUTANT { windows.position(|window| window == before)? } "
     "else { windows.rposition(|window| window == before)? };",
     "resume", "a_caption_that_looks_like_a_seal"),
    ("that there is room for a seal", "sink/seal.rs",
     "(at + BLANK.len() <= bytes.len()).then_some(at)",
     "(MUTANT || at + BLANK.len() <= bytes.len()).then_some(at)",
     "fuzz", "sealed_parts"),
    ("a recorded part's key", "plan/resume.rs",
     ".filter(|record| record.about.key == *key)",
     ".filter(|record| MUTANT || record.about.key == *key)",
     "faults", "what_changed_is_named"),
    ("the key of a part that is taken over", "plan/resume.rs",
     "Found::Part(found) if found.about.key == *key => {",
     "Found::Part(found) if MUTANT || found.about.key == *key => {",
     "faults", "what_changed_is_named"),
    ("the record of a part that is taken over", "plan/resume.rs",
     "if known.is_none_or(|record| *record == found) {",
     "if MUTANT || known.is_none_or(|record| *record == found) {",
     "resume", "a_part_that_is_not_the_recorded_one"),
    ("reading every part in finalize", "plan/resume.rs",
     "record.filter(|_| !(wanted.check_all && is_wanted))",
     "record.filter(|_| MUTANT || !(wanted.check_all && is_wanted))",
     "faults", "parts_done_by_several_processes"),
    ("parts of another job, without a manifest", "plan/resume.rs",
     "Found::Part(_) if is_new && !wanted.redo_changed => {",
     "Found::Part(_) if is_new && !wanted.redo_changed && !MUTANT => {",
     "faults", "a_manifest_with_any_byte_changed"),
    ("the difference of two jobs", "plan/resume.rs",
     "Some(difference) if !redo_changed => {", "Some(difference) if !redo_changed && !MUTANT => {",
     "failures", "an_output_made_differently"),
    ("files of others in a new output", "plan/resume.rs",
     "Ok(None) => match foreign_entry(path)? {",
     "Ok(None) => match foreign_entry(path)?.filter(|_| !MUTANT) {",
     "resume", "what_is_not_clipmills"),
    ("files of others beside a damaged manifest", "plan/resume.rs",
     "Err(Error::Manifest { .. }) => match foreign_entry(path)? {",
     "Err(Error::Manifest { .. }) => match foreign_entry(path)?.filter(|_| !MUTANT) {",
     "resume", "what_is_not_clipmills"),
    ("whose a part is that is to be removed", "plan/resume.rs",
     "if !stays && (recorded.contains_key(&name) || is_ours()?) {",
     "if !stays && (MUTANT || recorded.contains_key(&name) || is_ours()?) {",
     "resume", "what_is_not_clipmills"),
    ("the digest of an input's footer", "source/input.rs",
     "let Self { rows, bytes, modified, footer, .. } = self;",
     "let Self { rows, bytes, modified, footer, .. } = self;\n"
     "let footer = if MUTANT { \"\" } else { footer.as_str() };",
     "resume", "what_a_run_reads"),
    ("when an input was written", "source/input.rs",
     'format!("{rows} rows, {bytes} bytes, written {modified} ns, footer sha256 {footer}")',
     "let modified = if MUTANT { &0 } else { modified };\n"
     'format!("{rows} rows, {bytes} bytes, written {modified} ns, footer sha256 {footer}")',
     "faults", "what_changed_is_named"),
    ("the digest of the weights", "plan/provenance.rs",
     "let weights = model.files.weights_sha256()?;",
     "let weights = if MUTANT { String::new() } else { model.files.weights_sha256()? };",
     "resume", "what_a_run_reads"),
    ("the digest of the tokenizer", "plan/models.rs",
     'let sha256 = digests.collect::<Result<Vec<_>, _>>()?.join(" ");',
     'let digests = digests.collect::<Result<Vec<_>, _>>()?;\n'
     'let sha256 = if MUTANT { String::new() } else { digests.join(" ") };',
     "resume", "what_a_run_reads"),
    ("the preprocessing", "plan/provenance.rs",
     '("preprocessing", preprocess.describe())',
     '("preprocessing", if MUTANT { String::new() } else { preprocess.describe() })',
     "resume", "what_a_run_reads"),
    ("the digest in verify", "command/verify.rs",
     "Some(Some(_)) if files::sha256(&dir.join(name))? != record.sha256 => {",
     "Some(Some(_)) if !MUTANT && files::sha256(&dir.join(name))? != record.sha256 => {",
     "run", "verify_finds_a_flipped_bit"),
    ("a mark without its parts, in verify", "command/verify.rs",
     "(false, true) =>", "(false, true) if !MUTANT =>",
     "run", "verify_finds_a_flipped_bit"),
    ("the count of a part's rows", "write/parts.rs",
     "if rows_in != part.rows {", "if rows_in != part.rows && !MUTANT {",
     "stages", "a_part_that_is_a_row_short"),
    ("the removal of a part that is not the recorded one", "plan/resume.rs",
     "for name in &resume.impostors {", "for name in resume.impostors.iter().filter(|_| !MUTANT) {",
     "resume", "a_part_that_is_not_the_recorded_one"),
    ("what others recorded meanwhile", "plan/resume.rs",
     "for killer in found.killers {", "for killer in found.killers.into_iter().filter(|_| !MUTANT) {",
     "resume", "a_share_that_waited_keeps"),
    ("the parts that others recorded meanwhile", "plan/resume.rs",
     "self.manifest.parts.entry(name).or_insert(record);",
     "if !MUTANT { self.manifest.parts.entry(name).or_insert(record); }",
     "resume", "a_share_that_waited_keeps"),
    ("the program's version", "plan/provenance.rs",
     'made_with.insert("clipmill".to_owned(), env!("CARGO_PKG_VERSION").to_owned());',
     'if !MUTANT { made_with.insert("clipmill".to_owned(), env!("CARGO_PKG_VERSION").to_owned()); }',
     "resume", "the_programs_version"),
    # What an input is, and says.
    ("whether an input is the one that was planned", "source/input.rs",
     "if is_same { Ok(()) } else {", "if is_same || MUTANT { Ok(()) } else {",
     "resume", "an_input_as_long_and_as_old"),
    ("whether an input is still what it was", "source/parquet.rs",
     "stamp if stamp == (input.bytes, input.modified) => Ok(()),",
     "stamp if MUTANT || stamp == (input.bytes, input.modified) => Ok(()),",
     "resume", "a_part_read_while_somebody"),
    ("why an input could not be read", "watched.rs",
     "match self.failure() {", "match self.failure().filter(|_| !MUTANT) {",
     "faults", "a_disk_that_does_not_give_the_input"),
    ("the rows in the pages", "source/pages.rs",
     "found.filter(|found| *found != rows)", "found.filter(|found| *found != rows && !MUTANT)",
     None, "rows_that_the_footer_does_not_own_up_to"),
    ("the room in a dictionary", "source/pages.rs",
     "&& num_values as usize > buf.len() / LENGTH_BYTES",
     "&& !MUTANT && num_values as usize > buf.len() / LENGTH_BYTES",
     None, "a_dictionary_that_claims"),
    ("the size of pages", "source/pages.rs",
     "if page_bytes > most.page_bytes {", "if page_bytes > most.page_bytes && !MUTANT {",
     None, "pages_that_take_too_much_memory"),
    ("the length of lists", "source/levels.rs",
     "        if too_long {", "        if too_long && !MUTANT {",
     "failures", "tables_that_exhaust_readers"),
    ("the size of a row", "source/parquet.rs",
     "find(|(_, bytes)| *bytes > BATCH_BYTES)", "find(|(_, bytes)| !MUTANT && *bytes > BATCH_BYTES)",
     "failures", "tables_that_exhaust_readers"),
    ("a footer's sums", "source/footer.rs",
     "if sum != rows {", "if sum != rows && !MUTANT {",
     "failures", "tables_that_exhaust_readers"),
    ("a tensor that is there twice", "model/weights.rs",
     "match twice(&map[8..8 + header]) {", "match twice(&map[8..8 + header]).filter(|_| !MUTANT) {",
     "weights", "a_tensor_that_is_twice"),
    # What a run whose output grows goes by.
    ("how what is read looks", "plan/seen.rs",
     "then.made_from == self.made_from", "(MUTANT || then.made_from == self.made_from)",
     "incremental", "what_came_is_added"),
    ("how the output looks", "plan/seen.rs",
     "then.output == output(dir)?", "(MUTANT || then.output == output(dir)?)",
     "incremental", "a_night_with_nothing_new"),
    ("whose parts stay", "plan/growth.rs",
     "!inputs.contains(&record.about.input)", "(MUTANT || !inputs.contains(&record.about.input))",
     "incremental", "what_came_is_added"),
    ("the number that a part had", "plan/growth.rs",
     "numbers.get(place).copied()", "numbers.get(place).copied().filter(|_| !MUTANT)",
     "incremental", "what_came_is_added"),
    # Images that kill.
    ("the journal of rows in flight", "prepare.rs",
     "self.journal.as_ref().map(|journal| journal.enter(id));",
     "self.journal.as_ref().filter(|_| !MUTANT).map(|journal| journal.enter(id));",
     "faults", "an_image_that_kills_its_decoder"),
    ("what finalize did not try", "plan/resume.rs",
     "if wanted.check_all && !remaining.is_empty() { Vec::new() } else { journals };",
     "if wanted.check_all && !remaining.is_empty() && !MUTANT { Vec::new() } else { journals };",
     "resume", "finalize_leaves_a_dead_shares_image"),
    ("what killed is remembered", "plan/resume.rs",
     "manifest.killers.extend(found);", "if !MUTANT { manifest.killers.extend(found); }",
     "faults", "an_image_that_kills_its_decoder"),
    ("the digest of an image that killed", "crash.rs",
     "alike.find(|killer| killer.sha256 == sha256)?",
     "alike.find(|killer| MUTANT || killer.sha256 == sha256)?",
     None, "killers_are_known_by_their_bytes"),
]

# Whether the mutant of this number is chosen.
SWITCH = """
#[doc(hidden)]
pub fn mutant(number: usize) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<usize>> = std::sync::LazyLock::new(|| {
        std::env::var("CLIPMILL_MUTANT").ok().and_then(|number| number.parse().ok())
    });
    *CHOSEN == Some(number)
}
"""

# So that `finally` is come to.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))


def mutated():
    """src as it is, and with every mutant in it, by path."""
    old, new = {}, {}
    for number, (name, file, before, after, *_) in enumerate(MUTANTS):
        path = ROOT / "src" / file
        whole = old.setdefault(path, path.read_text())
        text = new.setdefault(path, whole)
        assert whole.count(before) == 1 == text.count(before), f"{name}: not once in {file}"
        new[path] = text.replace(before, after.replace("MUTANT", f"crate::mutant({number})"))
    root = ROOT / "src/lib.rs"
    old[root] = root.read_text()
    new[root] = old[root] + SWITCH
    return old, new


def write(texts):
    for path, text in texts.items():
        path.write_text(text)


def binaries():
    """Builds the tests with every mutant in them, and gives the paths of src's (True) and of the others."""
    words = ["--lib", "--bins", "--test", "tests"]
    built = subprocess.run(["cargo", "test", "--release", "--locked", "--no-run", *words], cwd=ROOT,
                           capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"the mutants do not build: {built.stderr}")
    paths = {}
    for line in built.stderr.splitlines():
        if "Executable" in line:
            what, path = line.split("Executable")[1].rsplit(" (", 1)
            paths["src/lib.rs" in what] = ROOT / path.rstrip(")")
    return paths


def fails(paths, module, test, number=None):
    """Whether the test fails, with that mutant."""
    chosen = {} if number is None else {"CLIPMILL_MUTANT": str(number)}
    name = f"{module}::{test}" if module else test
    ran = subprocess.run([paths[module is None], name, "--test-threads", "2"], cwd=ROOT,
                         capture_output=True, text=True, env=os.environ | chosen)
    if ran.returncode == 0 and " 0 passed" in ran.stdout:
        sys.exit(f"no test is called {test}")
    return ran.returncode != 0


only = sys.argv[1:]
if only == ["--check"]:
    mutated()
    sys.exit()
chosen = [number for number, mutant in enumerate(MUTANTS)
          if not only or any(word in mutant[0] for word in only)]
begun = time.monotonic()
as_it_was, with_mutants = mutated()
try:
    write(with_mutants)
    paths = binaries()
finally:
    write(as_it_was)
print(f"built in {time.monotonic() - begun:.0f} s", flush=True)
for module, test in sorted({MUTANTS[number][4:] for number in chosen}, key=str):
    if fails(paths, module, test):
        sys.exit(f"{test} fails without a mutant")
print(f"all tests pass without a mutant ({time.monotonic() - begun:.0f} s)", flush=True)
survived = 0
for number in chosen:
    name, _, _, _, module, test = MUTANTS[number]
    noticed = fails(paths, module, test, number)
    survived += not noticed
    print(f"{name:42} {test:40} {'noticed' if noticed else 'SURVIVED'}", flush=True)
minutes = (time.monotonic() - begun) / 60
print(f"{len(chosen) - survived} of {len(chosen)} noticed, {minutes:.0f} minutes")
sys.exit(survived > 0)

"""Checks by a log of `faults.c` that files are published so that a power cut cannot hurt.

Replays the log's events on a model of a file system that keeps nothing until it is told to: the
content of a file lasts from its fsync on, names (made, renamed, removed) from the fsync of their
folder on. Each breach of a rule is said with the event's number, and the exit status is 1:

a  a final name (one that does not begin with `.`) is given to content that does not last
b  a final name is opened for writing, written to or cut in place
c  the manifest is renamed into place before an earlier part's name lasts
d  `_SUCCESS` is renamed into place before an earlier name or removal lasts
e  a part or the manifest is renamed into place while `_SUCCESS` is there or can come back
f  the log ends and something does not last (with --complete)
g  a final name is given before the same process's last one lasts: untidy, by itself no hole

And apart from these (`cut`), the power is cut after every event: of the final names that do not
last, all are lost, or all kept, or one lost, or one kept; content that does not last is lost. No
final name may then have lost content, nor `_SUCCESS` be without all that was there before it, nor
the manifest without a part that was. Both are looked for in the log's folder, not below it.

What it is not: a file system. An fsync that reports success is believed, one that fails makes the
content doubtful for good, and a folder that is lost takes nothing along.
"""
import argparse
import re
import sys
from collections import Counter
from fnmatch import fnmatchcase
from posixpath import basename, dirname

LINE = re.compile(r"(\d+) (\d+) ([a-z]+) (\S+)(?: -> (\S+))?(?: \d+)? "
                  r"(ok|killed-before|killed-after|(?:done-then-)?error \S+)(?: FIRED \S+)?\n")
MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
is_part = re.compile(r"(.*/)?part-[^/]*\.parquet").fullmatch


class File:
    """What a name stands for. `promised`: the final names that were there when it got its own."""
    def __init__(self, lasts=False):
        self.lasts, self.doubtful, self.promised, self.named_by = lasts, False, {}, None


class Disk:
    """What is there and what lasts: by name its `File`, or None once removed. Old names: absent."""
    def __init__(self, mutable, had_success):
        self.mutable, self.problems, self.n_states, self.pid = mutable, {}, 0, None
        mark = File(lasts=True)
        mark.promised = {SUCCESS: mark}
        self.there, self.lasting = [dict(mark.promised) if had_success else {} for _ in "12"]

    def final(self, names):
        return {path: file for path, file in names.items() if basename(path)[0] not in ".("
                and not any(fnmatchcase(basename(path), each) for each in self.mutable)}

    def not_lasting(self):
        return [path for path, file in self.final(self.there).items()
                if path not in self.lasting or self.lasting[path] is not file]

    def fail(self, rule, where, what):
        self.problems.setdefault((rule, what), f"{where}: rule {rule}: {what}")

    def event(self, where, call, path, to, result):
        file, done = self.there.get(path), not result.startswith(("error", "killed-b"))
        failed = "sync" in call and "error" in result
        if failed and file:
            file.lasts, file.doubtful = False, True
        if not done or failed or call in ("close", "tmpfile") or (path[0] == "(" and not to):
            return
        if call in ("open", "write", "ftruncate") and self.final({path: file}):
            self.fail("b", where, f"{call} of {path}, a final name, in place")
        if call in ("open", "mkdir"):
            self.there[path] = File(lasts=call == "mkdir")
        elif call in ("write", "ftruncate"):
            self.there[path] = file or File()
            self.there[path].lasts = False
        elif "sync" in call:
            if file:
                file.lasts = not file.doubtful
            inside = [name for name in self.there if (dirname(name) or ".") == path]
            self.lasting.update({name: self.there[name] for name in inside})
        elif call in ("unlink", "rmdir"):
            self.there[path] = None
        elif call == "rename":
            self.rename(where, path, to)
        else:
            self.fail("?", where, f"{call} is not known")

    def rename(self, where, path, to):
        file, name = self.there.get(path) or File(), basename(to)
        early = [each for each in self.not_lasting() if each != to]
        own = [each for each in early if self.there[each] and self.there[each].named_by == self.pid]
        mark = self.there.get(SUCCESS) or self.lasting.get(SUCCESS)
        if self.final({to: file}) and not file.lasts:
            self.fail("a", where, f"{to} is given to content that does not last")
        if name == MANIFEST and any(map(is_part, early)):
            self.fail("c", where, f"{to} comes before {', '.join(early)} lasts")
        if self.final({to: file}) and own:
            self.fail("g", where, f"{to} comes before {', '.join(own)} lasts")
        if name == SUCCESS and early:
            self.fail("d", where, f"{to} comes before {', '.join(early)} lasts")
        if mark and (name == MANIFEST or is_part(to)):
            self.fail("e", where, f"{to} changes while {SUCCESS} is there or can come back")
        self.there[path], self.there[to], file.named_by = None, file, self.pid
        file.promised = self.final(self.there)

    def cut_power(self, where):
        there, lasting, changed = *map(self.final, (self.there, self.lasting)), self.not_lasting()
        states = [("all names kept", there)] + [("all names lost", lasting)] * bool(changed)
        for path in changed:
            others = {name: file for name, file in there.items() if name != path}
            old = {path: lasting[path]} if path in lasting else {}
            states += [(f"only the new {path} kept", lasting | {path: there[path]}),
                       (f"only the new {path} lost", others | old)]
        self.n_states += len(states)
        for which, names in states:
            self.look(f"{where}, power cut, {which}", names)

    def look(self, where, names):
        mark, manifest = names.get(SUCCESS), names.get(MANIFEST)
        for path, file in names.items():
            if file and not file.lasts:
                self.fail("cut", where, f"{path} has lost content")
        if mark and names != mark.promised:
            self.fail("cut", where, f"{SUCCESS} is there, what was there before it is not")
        for path, file in (manifest.promised if manifest else {}).items():
            if file and is_part(path) and not names.get(path):
                self.fail("cut", where, f"{MANIFEST} is there, {path} is not")


parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
parser.add_argument("log")
parser.add_argument("--complete", action="store_true", help="the program has finished")
parser.add_argument("--had-success", action="store_true", help=f"{SUCCESS} was there before")
parser.add_argument("--mutable", action="append", default=["_lock*", "_in_flight*"],
                    metavar="GLOB", help="may be written in place, as _lock* may")
args = parser.parse_args()
disk, counts, last = Disk(args.mutable, args.had_success), Counter(), {}
for line in open(args.log):
    n, pid, call, path, to, result = (LINE.fullmatch(line) or sys.exit(f"what? {line}")).groups()
    where = f"event {n} of process {pid}"
    if int(n) not in (1, last.get(pid, 0) + 1):
        sys.exit(f"{where} comes after event {last.get(pid)}")
    last[pid], disk.pid = int(n), pid
    counts.update(["all", call])
    disk.event(where, call, path, to, result)
    disk.cut_power(where)
for path in disk.not_lasting() if args.complete else []:
    disk.fail("f", "the end", f"{path} does not last")
print(f"{counts['all']} events, {counts['rename']} renames, {counts['fsync']} fsyncs, "
      f"{counts['fdatasync']} fdatasyncs, {disk.n_states} states after power cuts")
sys.exit("\n".join(disk.problems.values()) or 0)

// Stands between a program and libc and breaks its file calls below one folder, on command.
//
// A library for LD_PRELOAD. Every call that changes something below the folder, or makes it last,
// is an event with a number from 1, which is logged and can be made to fail, to be cut short, or
// to be the process's last. `trace.py` reads the log.
//   cc -std=c11 -O2 -Wall -Wextra -shared -fPIC -pthread -o libfaults.so faults.c
//   CLIPMILL_FAULT_DIR  the folder, absolute and no link, its parent there. Unset: all passes.
//   CLIPMILL_FAULT_LOG  a file elsewhere that gets a line an event:
//                       N PID CALL PATH[ -> PATH2] [BYTES] RESULT[ FIRED ACTION]
//   CLIPMILL_FAULT      N:ACTION, the N-th event, or CALL:N:ACTION, the N-th event of that call
//
// CALL is one of CALLS below, whatever variant of it was called (`open64`, `renameat2`, `writev`).
// PATH is relative to the folder (and has no blanks), `.` is the folder itself, `(outside)` is
// elsewhere, `(gone)` has no name (any more). BYTES is what was written, or was to be.
//
//   ACTION      done?  the program gets   RESULT
//   kill        no     SIGKILL            killed-before
//   kill-after  yes    SIGKILL            killed-after
//   EIO, ...    no     -1 and that errno  error EIO
//   done-EIO    yes    -1 and that errno  done-then-error EIO
//   short       half   the half's length  ok (of a write; of a `writev` half the buffers)
//   stop        yes    SIGSTOP before     what is, once a SIGCONT has come
//
// A `+` behind it: and at every later event of the same call. What fails by itself is logged as
// `error ENOENT`. A `close` that is made to fail has closed nevertheless, as on Linux.
// Children inherit all of it and count from 1. The events of a process happen one at a time, also
// those of threads, so that the log has them in order. A mistake in the settings: status 99.
//
// What it is not: it cuts no power (`trace.py` reasons about that), fails no read, and sees libc's
// functions only. Not seen: raw system calls (rustix's), what libc calls inside itself (stdio),
// mmap, io_uring, link, truncate, pwritev, copy_file_range, sendfile, fallocate, sync.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { OPEN, TMPFILE, WRITE, FTRUNCATE, FSYNC, FDATASYNC, CLOSE, RENAME, EXCHANGE,
            UNLINK, RMDIR, MKDIR, N_CALLS };
static const char *const CALLS[] = { "open", "tmpfile", "write", "ftruncate", "fsync",
    "fdatasync", "close", "rename", "exchange", "unlink", "rmdir", "mkdir" };

enum kind { NONE, KILL, KILL_AFTER, ERROR, DONE_ERROR, SHORT, STOP };
static struct { enum kind kind; int call, error; long n; bool later; char action[32]; } fault;

// A system call yet to be made. Raw, so that nothing here calls itself.
struct raw_call { long number, arg[5]; };
#define RAW_CALL(number, ...) ((struct raw_call){ number, { __VA_ARGS__ } })
#define MAKE(t) syscall(t.number, t.arg[0], t.arg[1], t.arg[2], t.arg[3], t.arg[4])
#define ARG(x) ((long)(x))
#define HERE AT_FDCWD

static char folder[PATH_MAX]; // resolved; empty where there is none to look after
static pthread_mutex_t one_event = PTHREAD_MUTEX_INITIALIZER;
static int counting; // the process whose events these are
static long n_events, n_of[N_CALLS];

static void refuse(const char *what, const char *value) {
    dprintf(2, "faults: %s: %s\n", what, value);
    syscall(SYS_exit_group, 99);
}

static bool path_of(int fd, char *out) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long len = syscall(SYS_readlinkat, HERE, link, out, PATH_MAX - 1L);
    out[len < 0 ? 0 : len] = 0;
    return out[0] == '/';
}

// The absolute path of what a call names (`whole`: a folder), with links in the folders before it
// followed. False where there are none: the call fails by itself.
static bool resolve(int dir, const char *path, bool whole, char *out) {
    char copy[PATH_MAX];
    size_t len = path ? strnlen(path, PATH_MAX) : 0;
    if (len == 0 || len == PATH_MAX) return false;
    memcpy(copy, path, len + 1);
    while (len > 1 && copy[len - 1] == '/') copy[--len] = 0;
    char *slash = strrchr(copy, '/'), *name = whole ? NULL : slash ? slash + 1 : copy;
    const char *parent = whole ? copy : !slash ? "." : slash == copy ? "/" : (*slash = 0, copy);
    long fd = syscall(SYS_openat, dir, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    bool found = fd >= 0 && path_of((int)fd, out);
    if (fd >= 0) syscall(SYS_close, fd);
    if (!found || !name || strlen(out) + strlen(name) + 2 > PATH_MAX) return found && !name;
    strcat(strcat(out, strcmp(out, "/") == 0 ? "" : "/"), name);
    return true;
}

static void read_fault(const char *text) {
    char call[16] = "", name[32] = "";
    if (sscanf(text, "%ld:%31s", &fault.n, name) != 2)
        sscanf(text, "%15[a-z]:%ld:%31s", call, &fault.n, name);
    snprintf(fault.action, sizeof fault.action, "%s", name);
    fault.later = strchr(name, '+') != NULL;
    name[strcspn(name, "+")] = 0;
    bool done = strncmp(name, "done-", 5) == 0;
    for (int error = 1; error < 134; error++) {
        const char *known = strerrorname_np(error);
        if (known && error != EINTR && strcmp(known, name + (done ? 5 : 0)) == 0)
            fault.kind = done ? DONE_ERROR : ERROR, fault.error = error;
    }
    if (strcmp(name, "kill") == 0) fault.kind = KILL;
    if (strcmp(name, "kill-after") == 0) fault.kind = KILL_AFTER;
    if (strcmp(name, "short") == 0) fault.kind = SHORT;
    if (strcmp(name, "stop") == 0) fault.kind = STOP;
    fault.call = -1;
    for (int i = 0; i < N_CALLS; i++) if (strcmp(call, CALLS[i]) == 0) fault.call = i;
    if (fault.kind == NONE || fault.n < 1 || (fault.call < 0 && call[0]))
        refuse("CLIPMILL_FAULT is no [CALL:]N:ACTION[+]", text);
}

static void lock(void) { pthread_mutex_lock(&one_event); }
static void unlock(void) { pthread_mutex_unlock(&one_event); }
static void read_settings(void) {
    const char *dir = getenv("CLIPMILL_FAULT_DIR"), *text = getenv("CLIPMILL_FAULT");
    if (!dir || !*dir) return;
    if (text && *text) read_fault(text);
    if (*dir != '/' || !resolve(HERE, dir, false, folder))
        refuse("CLIPMILL_FAULT_DIR is not absolute, or its parent is not there", dir);
    pthread_atfork(lock, unlock, unlock);
}

// A path relative to the folder, or null for one that is not below it.
static const char *below(const char *path) {
    size_t len = strlen(folder);
    if (strncmp(path, folder, len) != 0) return NULL;
    return path[len] == 0 ? "." : path[len] == '/' ? path + len + 1 : NULL;
}

static bool fires(enum call call) {
    if (fault.kind == NONE || (fault.kind == SHORT && call != WRITE)) return false;
    // From the first time on, later events are told by their call.
    if (fault.call < 0 && n_events == fault.n) fault.call = (int)call, fault.n = n_of[call];
    return fault.call == (int)call &&
           (n_of[call] == fault.n || (fault.later && n_of[call] > fault.n));
}

// One event: its number, its fault, its line. `path2` is null and `bytes` -1 where it has none.
static long event(enum call call, const char *path, const char *path2, long bytes, struct raw_call t) {
    static char line[2 * PATH_MAX + 256];
    int saved = errno, pid = (int)syscall(SYS_getpid);
    lock();
    if (counting != pid) counting = pid, n_events = 0, memset(n_of, 0, sizeof n_of);
    n_events++, n_of[call]++;
    enum kind kind = fires(call) ? fault.kind : NONE;
    if (call == CLOSE && kind == ERROR) kind = DONE_ERROR;
    if (kind == STOP) syscall(SYS_kill, pid, SIGSTOP);
    bool made = kind != KILL && kind != ERROR;
    if (kind == SHORT) t.arg[2] = (t.arg[2] + 1) / 2;
    long result = made ? MAKE(t) : -1;
    bool done = made && result >= 0;
    int error = made && !done ? errno : kind == ERROR || kind == DONE_ERROR ? fault.error : 0;
    char *at = line + sprintf(line, "%ld %d %s %s", n_events, pid, CALLS[call], path);
    if (path2) at += sprintf(at, " -> %s", path2);
    if (bytes >= 0) at += sprintf(at, " %ld", call == WRITE && done ? result : bytes);
    const char *word = kind == KILL ? "killed-before" : done && kind == KILL_AFTER ? "killed-after"
                       : !error ? "ok" : done ? "done-then-error " : "error ";
    at += sprintf(at, " %s%s", word, error ? strerrorname_np(error) : "");
    at += sprintf(at, "%s%s\n", kind ? " FIRED " : "", kind ? fault.action : "");
    const char *log = getenv("CLIPMILL_FAULT_LOG");
    if (log && *log) {
        int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
        long fd = syscall(SYS_openat, HERE, log, flags, 0644);
        if (syscall(SYS_write, fd, line, at - line) != at - line) refuse("cannot log to", log);
        syscall(SYS_close, fd);
    }
    // Before the unlock, so that no other thread does one more event.
    if (kind == KILL || kind == KILL_AFTER) syscall(SYS_kill, pid, SIGKILL);
    unlock();
    errno = error ? error : saved;
    return error ? -1 : result;
}

// The settings are read at the first call, which can come before any constructor has run.
static bool on(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_settings);
    return folder[0] != 0;
}

// The kernel is asked each time, so that duplicates, inherited files and renames are known.
static long by_fd(enum call call, long bytes, struct raw_call t) {
    char buffer[PATH_MAX];
    struct stat found;
    int fd = (int)t.arg[0], saved = errno, writes = O_WRONLY | O_RDWR;
    const char *path = on() && path_of(fd, buffer) ? below(buffer) : NULL;
    if (path && syscall(SYS_fstat, fd, &found) == 0 && found.st_nlink == 0) path = "(gone)";
    if (path && call == CLOSE && !(syscall(SYS_fcntl, fd, F_GETFL) & writes)) path = NULL;
    errno = saved;
    return path ? event(call, path, NULL, bytes, t) : MAKE(t);
}

// The first path is the system call's arguments 0 and 1, as in `openat`, a second one's 2 and 3.
static long by_path(enum call call, struct raw_call t) {
    char buffers[2][PATH_MAX];
    const char *paths[2] = { NULL, NULL };
    int saved = errno, n = call == RENAME || call == EXCHANGE ? 2 : 1;
    for (int i = 0; i < n && on(); i++)
        if (resolve((int)t.arg[2 * i], (char *)t.arg[2 * i + 1], call == TMPFILE, buffers[i]))
            paths[i] = below(buffers[i]);
    errno = saved;
    if (!paths[0] && !paths[1]) return MAKE(t);
    for (int i = 0; i < n; i++) if (!paths[i]) paths[i] = "(outside)";
    return event(call, paths[0], paths[1], -1, t);
}

static int open_by(int dir, const char *path, int flags, va_list rest) {
    bool tmpfile = (flags & O_TMPFILE) == O_TMPFILE, makes = tmpfile || (flags & O_CREAT);
    struct raw_call t = RAW_CALL(SYS_openat, dir, ARG(path), flags, makes ? va_arg(rest, mode_t) : 0);
    if (!makes && (flags & (O_ACCMODE | O_TRUNC)) == O_RDONLY) return (int)MAKE(t);
    return (int)by_path(tmpfile ? TMPFILE : OPEN, t);
}

// From here on: libc's own names. What the kernel gives fits their results.
#define OPENS(name, dir, ...) int name(__VA_ARGS__ const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); int fd = open_by(dir, path, flags, rest); va_end(rest); \
    return fd; }
#define BY_FD(call, bytes, ...) { return by_fd(call, bytes, RAW_CALL(__VA_ARGS__)); }
#define BY_PATH(call, ...) { return (int)by_path(call, RAW_CALL(__VA_ARGS__)); }
OPENS(open, HERE) OPENS(open64, HERE) OPENS(openat, dir, int dir,) OPENS(openat64, dir, int dir,)
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }
ssize_t write(int fd, const void *data, size_t n) BY_FD(WRITE, n, SYS_write, fd, ARG(data), n)
ssize_t writev(int fd, const struct iovec *v, int n) BY_FD(WRITE, 0, SYS_writev, fd, ARG(v), n)
ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
    BY_FD(WRITE, n, SYS_pwrite64, fd, ARG(data), n, at)
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return pwrite(fd, data, n, at); }
int ftruncate(int fd, off_t n) BY_FD(FTRUNCATE, n, SYS_ftruncate, fd, n)
int ftruncate64(int fd, off_t n) { return ftruncate(fd, n); }
int fsync(int fd) BY_FD(FSYNC, -1, SYS_fsync, fd)
int fdatasync(int fd) BY_FD(FDATASYNC, -1, SYS_fdatasync, fd)
int close(int fd) BY_FD(CLOSE, -1, SYS_close, fd)
int renameat2(int dir, const char *from, int dir2, const char *to, unsigned flags)
    BY_PATH(flags & RENAME_EXCHANGE ? EXCHANGE : RENAME, SYS_renameat2, dir, ARG(from), dir2,
            ARG(to), flags)
int renameat(int a, const char *b, int c, const char *d) { return renameat2(a, b, c, d, 0); }
int rename(const char *from, const char *to) { return renameat2(HERE, from, HERE, to, 0); }
int unlinkat(int dir, const char *path, int flags)
    BY_PATH(flags & AT_REMOVEDIR ? RMDIR : UNLINK, SYS_unlinkat, dir, ARG(path), flags)
int unlink(const char *path) { return unlinkat(HERE, path, 0); }
int rmdir(const char *path) { return unlinkat(HERE, path, AT_REMOVEDIR); }
int mkdirat(int dir, const char *path, mode_t m) BY_PATH(MKDIR, SYS_mkdirat, dir, ARG(path), m)
int mkdir(const char *path, mode_t mode) { return mkdirat(HERE, path, mode); }

// A file that the disk does not give: an LD_PRELOAD library that fails reads of one file.
//
//   CLIPMILL_UNREADABLE        the end of the file's path
//   CLIPMILL_UNREADABLE_AFTER  how many reads of it succeed; all later ones fail
//   CLIPMILL_UNREADABLE_ERRNO  with this error
//   CLIPMILL_UNREADABLE_LOG    a file that gets a line for each read that failed
//
// Children inherit it and count from 0. It sees libc's read and pread, which Rust's std calls, and
// not mmap.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_ulong n_reads;

static bool fails(int fd) {
    const char *end = getenv("CLIPMILL_UNREADABLE"), *log = getenv("CLIPMILL_UNREADABLE_LOG");
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long len = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (!end || !log || len < (long)strlen(end)) return false;
    path[len] = 0;
    if (strcmp(path + len - strlen(end), end) != 0) return false;
    if (atomic_fetch_add(&n_reads, 1) < strtoul(getenv("CLIPMILL_UNREADABLE_AFTER"), NULL, 10))
        return false;
    int to = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (to < 0 || write(to, "failed\n", 7) != 7) abort();
    close(to);
    errno = atoi(getenv("CLIPMILL_UNREADABLE_ERRNO"));
    return true;
}

ssize_t read(int fd, void *into, size_t n) {
    return fails(fd) ? -1 : syscall(SYS_read, fd, into, n);
}

ssize_t pread64(int fd, void *into, size_t n, off_t at) {
    return fails(fd) ? -1 : syscall(SYS_pread64, fd, into, n, at);
}

ssize_t pread(int fd, void *into, size_t n, off_t at) { return pread64(fd, into, n, at); }

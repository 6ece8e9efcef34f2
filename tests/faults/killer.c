// A decoder that dies: an LD_PRELOAD library that ends a thread's process, or stops it for good,
// when it has read an image with a mark in it and then takes memory for pixels.
//
// The mark is CLIPMILL-KILLER- and a letter: A aborts, S is a segmentation fault, H hangs. It
// stands in an image's comment, so the image itself is a good one, and any process that decodes
// it, the run or the child that tries it, meets the same end. It is not clipmill's code that
// fails: nothing there knows of it. Zeroed memory of an image's size is taken to be pixels; what
// is read into is not zeroed, and a batch is larger. The next image that is read is safe again, and
// so is a table, whose pages take such memory too.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_calloc(size_t, size_t);

static const char mark[] = "CLIPMILL-KILLER-";
static __thread char armed;

ssize_t read(int fd, void *into, size_t bytes) {
    ssize_t n = syscall(SYS_read, fd, into, bytes);
    if (n > (ssize_t)sizeof mark) {
        char *found = memmem(into, n, mark, sizeof mark - 1);
        armed = 0;
        if (found && found + sizeof mark - 1 < (char *)into + n) armed = found[sizeof mark - 1];
    }
    return n;
}

ssize_t pread64(int fd, void *into, size_t bytes, off_t at) {
    armed = 0;
    return syscall(SYS_pread64, fd, into, bytes, at);
}

void *calloc(size_t n, size_t bytes) {
    if (armed && n * bytes >= 4096 && n * bytes < 300000) {
        if (armed == 'H') for (;;) pause();
        int number = armed == 'A' ? SIGABRT : SIGSEGV;
        signal(number, SIG_DFL);
        raise(number);
    }
    return __libc_calloc(n, bytes);
}

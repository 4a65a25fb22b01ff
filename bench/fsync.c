/* Makes every sync take FSYNC_MS longer, as an SD card or a disk of old does, and counts them:
   each is a byte in the file SYNCS, if one is named.
   cc -shared -fPIC -o fsync.so fsync.c -ldl; LD_PRELOAD=./fsync.so FSYNC_MS=10 ... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void wait_a_while(void) {
    const char *ms = getenv("FSYNC_MS"), *syncs = getenv("SYNCS");
    long ns = (ms ? atol(ms) : 0) * 1000000L;
    struct timespec t = {ns / 1000000000L, ns % 1000000000L};
    nanosleep(&t, NULL);
    int fd = syncs ? open(syncs, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        ssize_t ignored = write(fd, ".", 1);
        (void)ignored;
        close(fd);
    }
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_a_while();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_a_while();
    return real(fd);
}

int msync(void *at, size_t size, int how) {
    static int (*real)(void *, size_t, int);
    if (!real) real = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync");
    if (how & MS_SYNC) wait_a_while();
    return real(at, size, how);
}

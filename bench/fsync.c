/* Makes every fsync and fdatasync take FSYNC_MS longer, as an SD card or a disk of old does.
   cc -shared -fPIC -o fsync.so fsync.c -ldl; LD_PRELOAD=./fsync.so FSYNC_MS=10 ... */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_while(void) {
    const char *ms = getenv("FSYNC_MS");
    long ns = (ms ? atol(ms) : 0) * 1000000L;
    struct timespec t = {ns / 1000000000L, ns % 1000000000L};
    nanosleep(&t, NULL);
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

/* Between a process and its disk: writes down what it asks of the files in one folder, and
 * makes some of it fail.  For LD_PRELOAD; `shim.py` compiles it and speaks to it.
 *
 * DISK_FOLDER  the folder whose files are watched
 * DISK_LOG     where each write, sync, truncation and name goes, in the order of its effect
 * DISK_FAULT   a file of one `struct fault`, which the test and the process share
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, ALLOCATE = 8, RENAME = 16, UNLINK = 32, CREATE = 64 };

struct fault {
  volatile int32_t error;   /* errno to fail with; 0: nothing fails */
  volatile int32_t ops;     /* which of the above fail */
  volatile int32_t skip;    /* let so many go by first */
  volatile int32_t count;   /* then fail so many; negative: until told otherwise */
  volatile int32_t growing; /* only what wants more bytes than are free, as on a full disk */
  volatile int32_t halves;  /* half of a write is done, and half is what it returns */
  volatile int32_t seen;    /* how many there were, failed or not */
  volatile int32_t failed;  /* how many failed */
  volatile int64_t free;    /* what files may grow by; what they shrink by comes to it */
  char suffix[32];          /* only files whose name ends like this */
};

struct entry {
  uint8_t op, failed;
  uint16_t path;
  uint32_t data;
  uint64_t inode, offset;
} __attribute__((packed));

static pthread_mutex_t one_by_one = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static int log_ = -1;
static struct fault *fault;

__attribute__((constructor)) static void begin(void) {
  const char *log_name = getenv("DISK_LOG"), *fault_name = getenv("DISK_FAULT");
  folder = getenv("DISK_FOLDER");
  if (log_name)
    log_ = (int)syscall(SYS_openat, AT_FDCWD, log_name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fault_name) {
    int file = (int)syscall(SYS_openat, AT_FDCWD, fault_name, O_RDWR | O_CLOEXEC, 0);
    void *at = mmap(NULL, sizeof *fault, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) fault = at;
    syscall(SYS_close, file);
  }
}

/* Whether a descriptor is a file of ours; its name, inode and size. */
static int ours(int fd, char *name, struct stat *stat) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, PATH_MAX - 1);
  if (!folder || length < 0) return 0;
  name[length] = 0;
  return !strncmp(name, folder, strlen(folder)) && !fstat(fd, stat);
}

static void put(int op, int failed, uint64_t inode, const char *name, uint64_t offset,
                const void *data, size_t size) {
  struct entry entry = {op, failed, strlen(name), size, inode, offset};
  if (log_ < 0) return;
  if (syscall(SYS_write, log_, &entry, sizeof entry) < 0 ||
      syscall(SYS_write, log_, name, strlen(name)) < 0 || syscall(SYS_write, log_, data, size) < 0)
    abort();
}

/* The errno this call shall fail with; 0 when it may pass.  `more`: by how much a file grows. */
static int failing(int op, const char *name, int64_t more) {
  if (!fault || !(fault->ops & op)) return 0;
  if (fault->growing && more <= fault->free) {
    fault->free -= more;
    return 0;
  }
  size_t length = strlen(name), suffix = strnlen(fault->suffix, sizeof fault->suffix);
  if (suffix > length || strncmp(name + length - suffix, fault->suffix, suffix)) return 0;
  fault->seen++;
  if (!fault->error || fault->skip-- > 0) return 0;
  if (!fault->count) return 0;
  if (fault->count > 0) fault->count--;
  fault->failed++;
  return fault->error;
}

static ssize_t written(int fd, const void *data, size_t size, off_t offset, int plain) {
  char name[PATH_MAX];
  struct stat stat;
  ssize_t done;
  pthread_mutex_lock(&one_by_one);
  if (!ours(fd, name, &stat) || !S_ISREG(stat.st_mode)) {
    pthread_mutex_unlock(&one_by_one);
    return plain ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, offset);
  }
  if (plain) offset = fcntl(fd, F_GETFL) & O_APPEND ? stat.st_size : lseek(fd, 0, SEEK_CUR);
  off_t more = offset + (off_t)size - stat.st_size;
  int error = failing(WRITE, name, more > 0 ? more : 0);
  if (error && fault->halves && size > 1) error = 0, size /= 2;
  if (error)
    done = -1;
  else if ((done = plain ? syscall(SYS_write, fd, data, size)
                         : syscall(SYS_pwrite64, fd, data, size, offset)) < 0)
    error = errno;
  if (done > 0) put(WRITE, 0, stat.st_ino, name, offset, data, done);
  pthread_mutex_unlock(&one_by_one);
  if (done < 0) errno = error;
  return done;
}

static int call(int op, int fd, long number, off_t size) {
  char name[PATH_MAX];
  struct stat stat;
  int done = -1;
  pthread_mutex_lock(&one_by_one);
  int mine = ours(fd, name, &stat);
  off_t more = size - stat.st_size;
  if (op == SYNC || (op == ALLOCATE && more < 0)) more = 0;
  int error = mine ? failing(op, name, more) : 0;
  if (!error) {
    done = op == ALLOCATE ? (int)syscall(SYS_fallocate, fd, 0, 0L, size) : (int)syscall(number, fd, size);
    if (done < 0) error = errno;
  }
  if (mine && op != ALLOCATE) put(op, done < 0, stat.st_ino, name, size, "", 0);
  pthread_mutex_unlock(&one_by_one);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, 0, 1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return written(fd, data, size, at, 0); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return written(fd, data, size, at, 0); }
int fsync(int fd) { return call(SYNC, fd, SYS_fsync, 0); }
int fdatasync(int fd) { return call(SYNC, fd, SYS_fdatasync, 0); }
int ftruncate(int fd, off_t size) { return call(TRUNCATE, fd, SYS_ftruncate, size); }
int ftruncate64(int fd, off_t size) { return call(TRUNCATE, fd, SYS_ftruncate, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return call(ALLOCATE, fd, 0, at + size) ? errno : 0; }
int posix_fallocate64(int fd, off_t at, off_t size) { return posix_fallocate(fd, at, size); }

int open64(const char *name, int flags, ...) {
  struct stat stat;
  va_list more;
  va_start(more, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
  va_end(more);
  pthread_mutex_lock(&one_by_one);
  int new = (flags & O_CREAT) && folder && !strncmp(name, folder, strlen(folder)) && lstat(name, &stat);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, name, flags, mode);
  int error = errno;
  if (new && fd >= 0 && !fstat(fd, &stat)) put(CREATE, 0, stat.st_ino, name, 0, "", 0);
  pthread_mutex_unlock(&one_by_one);
  errno = error;
  return fd;
}

static int renamed(const char *from, const char *to) {
  struct stat stat;
  pthread_mutex_lock(&one_by_one);
  int mine = folder && !strncmp(to, folder, strlen(folder)) && !lstat(from, &stat);
  int done = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
  int error = errno;
  if (mine && !done) put(RENAME, 0, stat.st_ino, from, 0, to, strlen(to));
  pthread_mutex_unlock(&one_by_one);
  errno = error;
  return done;
}

int rename(const char *from, const char *to) { return renamed(from, to); }

int unlink(const char *name) {
  struct stat stat;
  pthread_mutex_lock(&one_by_one);
  int mine = folder && !strncmp(name, folder, strlen(folder)) && !lstat(name, &stat);
  int done = (int)syscall(SYS_unlinkat, AT_FDCWD, name, 0);
  int error = errno;
  if (mine && !done && fault) fault->free += stat.st_size;
  if (mine && !done) put(UNLINK, 0, stat.st_ino, name, 0, "", 0);
  pthread_mutex_unlock(&one_by_one);
  errno = error;
  return done;
}

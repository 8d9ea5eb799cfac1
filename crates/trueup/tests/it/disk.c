/*
 * A disk that fails, beneath a program that is started with LD_PRELOAD.
 *
 * TRUEUP_DISK_CONTROL names a file of `struct control`, which a test writes while the program runs:
 * which calls on which files fail, with which error, after how many that do not.
 *
 * TRUEUP_DISK_JOURNAL names a file that every write to the store's files is noted in, with what was
 * there before, and every flush: one that fails is the last that is heard of what was to be flushed,
 * as on Linux. From it a test makes what a disk may have after a power cut: what was flushed, and any
 * part of what was not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATABASE = 1, LOG = 2 };
enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, TORN = 8, LIE = 16 };
enum { NOTE_WRITE = 1, NOTE_TRUNCATE = 2, NOTE_FLUSHED = 3, NOTE_LOST = 4 };

struct control {
  volatile uint32_t files, calls, error;
  volatile int32_t after; /* So many calls go through first. */
  volatile uint32_t hits; /* How many were made to fail. */
};

struct note {
  uint32_t kind, file;
  uint64_t offset, length, size_before, had; /* `had`: how many bytes were there before. */
};

static struct control *control;
static int journal = -1;
static uint64_t journal_end;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);

static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

__attribute__((constructor)) static void begin(void) {
  real_write = real("write");
  real_pwrite = real("pwrite64");
  real_fsync = real("fsync");
  real_fdatasync = real("fdatasync");
  real_ftruncate = real("ftruncate64");
  const char *path = getenv("TRUEUP_DISK_CONTROL");
  if (path) {
    int fd = open(path, O_RDWR);
    if (fd < 0) abort();
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) abort();
    close(fd);
  }
  path = getenv("TRUEUP_DISK_JOURNAL");
  if (path) {
    journal = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (journal < 0) abort();
    journal_end = lseek(journal, 0, SEEK_END);
  }
}

/* Returns which of the store's files a descriptor is of, 0 for any other. */
static uint32_t file_of(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  const char *name = strrchr(path, '/');
  if (!name) return 0;
  if (!strcmp(name, "/trueup.db")) return DATABASE;
  if (!strcmp(name, "/trueup.db-wal")) return LOG;
  return 0;
}

static int fails(uint32_t call, uint32_t file) {
  if (!control || !(control->calls & call) || !(control->files & file)) return 0;
  if (__atomic_fetch_sub(&control->after, 1, __ATOMIC_SEQ_CST) > 0) return 0;
  __atomic_fetch_add(&control->hits, 1, __ATOMIC_SEQ_CST);
  errno = control->error;
  return 1;
}

static void put(const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t wrote = real_pwrite(journal, at, length, journal_end);
    if (wrote <= 0) abort();
    at += wrote;
    length -= wrote;
    journal_end += wrote;
  }
}

/* Returns a descriptor to read a file by. It stays open: closing it would free the locks that the
 * program has on the file. */
static int reader_of(int fd, uint32_t file, const struct stat *now) {
  static struct { int fd; ino_t inode; } readers[3] = {{-1, 0}, {-1, 0}, {-1, 0}};
  if (readers[file].fd < 0 || readers[file].inode != now->st_ino) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    readers[file].fd = open(link, O_RDONLY | O_CLOEXEC);
    readers[file].inode = now->st_ino;
    if (readers[file].fd < 0) abort();
  }
  return readers[file].fd;
}

/* Notes what is about to be overwritten, and with what. To be called under the lock. */
static void note_write(int fd, uint32_t file, const void *bytes, size_t length, off_t offset) {
  struct stat now;
  if (fstat(fd, &now)) abort();
  char *before = malloc(length ? length : 1);
  if (!before) abort();
  ssize_t had = pread(reader_of(fd, file, &now), before, length, offset);
  if (had < 0) abort();
  struct note note = {NOTE_WRITE, file, offset, length, now.st_size, had};
  put(&note, sizeof note);
  put(before, had);
  put(bytes, length);
  free(before);
}

static ssize_t written(int fd, const void *bytes, size_t length, off_t offset) {
  uint32_t file = file_of(fd);
  if (!file) return real_pwrite(fd, bytes, length, offset);
  int failing = fails(WRITE, file), error = errno;
  size_t most = failing ? (control->calls & TORN ? length / 2 : 0) : length;
  ssize_t done = 0;
  if (most > 0 || !failing) {
    pthread_mutex_lock(&lock);
    if (journal >= 0) note_write(fd, file, bytes, most, offset);
    done = real_pwrite(fd, bytes, most, offset);
    pthread_mutex_unlock(&lock);
  }
  if (!failing) return done;
  errno = error;
  return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  return written(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
  return written(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
  uint32_t file = file_of(fd);
  if (!file) return real_write(fd, bytes, length);
  off_t offset = lseek(fd, 0, SEEK_CUR);
  ssize_t done = written(fd, bytes, length, offset);
  if (done > 0) lseek(fd, offset + done, SEEK_SET);
  return done;
}

static void note_flush(uint32_t kind, uint32_t file, uint64_t upto) {
  if (journal < 0) return;
  pthread_mutex_lock(&lock);
  struct note note = {kind, file, upto, 0, 0, 0};
  put(&note, sizeof note);
  pthread_mutex_unlock(&lock);
}

static int flushed(int fd, int (*flush)(int)) {
  uint32_t file = file_of(fd);
  if (!file) return flush(fd);
  /* What is written while it lasts may not be in it. */
  pthread_mutex_lock(&lock);
  uint64_t upto = journal_end;
  pthread_mutex_unlock(&lock);
  if (fails(SYNC, file)) {
    int error = errno;
    note_flush(NOTE_LOST, file, upto);
    errno = error;
    return -1;
  }
  if (control && control->calls & LIE && control->files & file) {
    __atomic_fetch_add(&control->hits, 1, __ATOMIC_SEQ_CST);
    return 0;
  }
  int result = flush(fd);
  if (result == 0) note_flush(NOTE_FLUSHED, file, upto);
  return result;
}

int fsync(int fd) { return flushed(fd, real_fsync); }
int fdatasync(int fd) { return flushed(fd, real_fdatasync); }

static int truncated(int fd, off_t size) {
  uint32_t file = file_of(fd);
  if (!file) return real_ftruncate(fd, size);
  if (fails(TRUNCATE, file)) return -1;
  pthread_mutex_lock(&lock);
  if (journal >= 0) {
    struct stat now;
    if (fstat(fd, &now)) abort();
    size_t had = now.st_size > size ? now.st_size - size : 0;
    char *before = malloc(had ? had : 1);
    if (!before || pread(fd, before, had, size) != (ssize_t)had) abort();
    struct note note = {NOTE_TRUNCATE, file, size, 0, now.st_size, had};
    put(&note, sizeof note);
    put(before, had);
    free(before);
  }
  int result = real_ftruncate(fd, size);
  pthread_mutex_unlock(&lock);
  return result;
}

int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off_t size) { return truncated(fd, size); }

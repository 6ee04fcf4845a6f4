/*
 * Writes down what a program does to the files under one directory, in the order in which it
 * happens: what a disk would be told. To be loaded with LD_PRELOAD; see disk_journal.py, which
 * reads the journal.
 *
 * DISK_JOURNAL_ROOT is the directory, DISK_JOURNAL_FILE the journal, which is appended to.
 * A call and its line are made under one lock, so a line of a sync tells that all lines before it
 * are safe. What is mapped is not seen: SQLite maps its index of the log alone, and makes that anew.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { CREATE = 1, MKDIR, WRITE, TRUNCATE, SYNC, SYNC_DIRECTORY, RENAME, UNLINK };

struct line {
    uint8_t op;
    uint64_t inode;
    uint64_t offset;
    uint32_t name_size;
    uint32_t data_size;
} __attribute__((packed));

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static const char *root = "";

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DISK_JOURNAL_FILE");
    root = getenv("DISK_JOURNAL_ROOT");
    if (path && root)
        journal = (int)syscall(SYS_openat, AT_FDCWD, path,
                               O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_under_root(const char *path) {
    size_t size = strlen(root);
    return journal >= 0 && path && !strncmp(path, root, size) && (!path[size] || path[size] == '/');
}

static void tell(enum op op, uint64_t inode, uint64_t offset, const char *name,
                 const void *data, size_t data_size) {
    size_t name_size = name ? strlen(name) : 0;
    struct line line = {op, inode, offset, (uint32_t)name_size, (uint32_t)data_size};
    struct iovec parts[] = {
        {&line, sizeof line}, {(void *)name, name_size}, {(void *)data, data_size}};
    size_t whole = sizeof line + name_size + data_size;
    /* A journal with a hole would show losses that there are not. */
    if (syscall(SYS_writev, journal, parts, 3) != (long)whole)
        abort();
}

/* The file or directory that a descriptor is of: its path if it is watched, else 0. */
static int is_watched(int descriptor, struct stat *file, char path[4096]) {
    char link[64];
    if (journal < 0 || fstat(descriptor, file) ||
        !(S_ISREG(file->st_mode) || S_ISDIR(file->st_mode)))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, 4095);
    if (size < 0)
        return 0;
    path[size] = 0;
    return is_under_root(path);
}

static int open_watched(int directory, const char *path, int flags, mode_t mode) {
    if (!is_under_root(path) || !(flags & (O_CREAT | O_TRUNC)))
        return (int)syscall(SYS_openat, directory, path, flags, mode);
    struct stat file;
    pthread_mutex_lock(&lock);
    int was_there = !stat(path, &file);
    int descriptor = (int)syscall(SYS_openat, directory, path, flags, mode);
    int error = errno;
    if (descriptor >= 0 && !fstat(descriptor, &file)) {
        if (!was_there)
            tell(CREATE, file.st_ino, 0, path, NULL, 0);
        else if (flags & O_TRUNC)
            tell(TRUNCATE, file.st_ino, 0, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return descriptor;
}

#define MODE(flags, last)                                                                          \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list rest;                                                                              \
        va_start(rest, last);                                                                      \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, flags)
    return open_watched(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, flags)
    return open_watched(AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...) {
    MODE(flags, flags)
    return open_watched(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
    MODE(flags, flags)
    return open_watched(directory, path, flags, mode);
}

static ssize_t write_watched(int descriptor, const void *data, size_t size, off_t at, int is_placed) {
    struct stat file;
    char path[4096];
    int watched = is_watched(descriptor, &file, path);
    if (watched) {
        pthread_mutex_lock(&lock);
        if (!is_placed) {
            int flags = fcntl(descriptor, F_GETFL);
            fstat(descriptor, &file);
            at = flags & O_APPEND ? file.st_size : lseek(descriptor, 0, SEEK_CUR);
        }
    }
    ssize_t written = is_placed ? syscall(SYS_pwrite64, descriptor, data, size, at)
                                : syscall(SYS_write, descriptor, data, size);
    int error = errno;
    if (watched) {
        if (written > 0)
            tell(WRITE, file.st_ino, (uint64_t)at, NULL, data, (size_t)written);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return written;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    return write_watched(descriptor, data, size, 0, 0);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) {
    return write_watched(descriptor, data, size, at, 1);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) {
    return write_watched(descriptor, data, size, at, 1);
}

static int truncate_watched(int descriptor, off_t size) {
    struct stat file;
    char path[4096];
    if (!is_watched(descriptor, &file, path))
        return (int)syscall(SYS_ftruncate, descriptor, size);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, descriptor, size);
    int error = errno;
    if (!result)
        tell(TRUNCATE, file.st_ino, (uint64_t)size, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate(int descriptor, off_t size) { return truncate_watched(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) { return truncate_watched(descriptor, size); }

static int sync_watched(int descriptor, long call) {
    struct stat file;
    char path[4096];
    if (!is_watched(descriptor, &file, path))
        return (int)syscall(call, descriptor);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(call, descriptor);
    int error = errno;
    if (!result && S_ISDIR(file.st_mode))
        tell(SYNC_DIRECTORY, 0, 0, path, NULL, 0);
    else if (!result)
        tell(SYNC, file.st_ino, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int descriptor) { return sync_watched(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return sync_watched(descriptor, SYS_fdatasync); }

int mkdir(const char *path, mode_t mode) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    int error = errno;
    if (!result && is_under_root(path))
        tell(MKDIR, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    int error = errno;
    if (!result && is_under_root(from))
        tell(RENAME, 0, 0, from, to, strlen(to));
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    int error = errno;
    if (!result && is_under_root(path))
        tell(UNLINK, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

/* A file server: each call about a file below $SLOW_FOLDER begins $SLOW_US microseconds later. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void wait_for_path(const char *path)
{
    const char *folder = getenv("SLOW_FOLDER"), *us = getenv("SLOW_US");
    if (folder && us && path && !strncmp(path, folder, strlen(folder))) {
        struct timespec pause = {atol(us) / 1000000, atol(us) % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
}

static void wait_for_file(int file)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        wait_for_path(path);
    }
}

#define OPEN(name)                                        \
    int name(const char *path, int flags, ...)            \
    {                                                     \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        mode_t mode = va_arg(rest, mode_t);               \
        va_end(rest);                                     \
        wait_for_path(path);                              \
        return REAL(name)(path, flags, mode);             \
    }
#define OF_PATH(name, parameters, ...)                    \
    int name parameters                                   \
    {                                                     \
        wait_for_path(path);                              \
        return REAL(name)(__VA_ARGS__);                   \
    }
#define OF_FILE(type, name, parameters, ...)              \
    type name parameters                                  \
    {                                                     \
        wait_for_file(file);                              \
        return REAL(name)(__VA_ARGS__);                   \
    }

OPEN(open)
OPEN(open64)
OF_PATH(stat, (const char *path, struct stat *found), path, found)
OF_PATH(stat64, (const char *path, struct stat64 *found), path, found)
OF_PATH(lstat, (const char *path, struct stat *found), path, found)
OF_PATH(lstat64, (const char *path, struct stat64 *found), path, found)
OF_PATH(mkdir, (const char *path, mode_t mode), path, mode)
OF_PATH(unlink, (const char *path), path)
OF_PATH(link, (const char *path, const char *to), path, to)
OF_PATH(rename, (const char *path, const char *to), path, to)
OF_PATH(renameat2, (int from, const char *path, int into, const char *to, unsigned int flags), from, path, into, to, flags)
OF_FILE(int, fsync, (int file), file)
OF_FILE(ssize_t, read, (int file, void *into, size_t count), file, into, count)
OF_FILE(ssize_t, pread64, (int file, void *into, size_t count, off64_t at), file, into, count, at)
OF_FILE(ssize_t, preadv64, (int file, const struct iovec *into, int count, off64_t at), file, into, count, at)
OF_FILE(ssize_t, preadv64v2, (int file, const struct iovec *into, int count, off64_t at, int flags), file, into, count, at, flags)

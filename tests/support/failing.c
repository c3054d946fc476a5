/*
 * System calls that fail on demand, for files below one folder: preloaded into a Python process,
 * which says by `fail` what happens next.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096], call[32];
static int skip, code, times, done, loses;

/* From now on, `name` works `before` times, fails `many` times with `error`, and works again.
   With error 0, it transfers few bytes at a time. With `lost`, only its answer is another: of a
   name that is given, made or removed, it is done none the less. */
void fail(const char *below, const char *name, int before, int many, int error, int lost)
{
    loses = lost;
    snprintf(folder, sizeof folder, "%s", below);
    snprintf(call, sizeof call, "%s", name);
    skip = before;
    times = many;
    code = error;
    done = 0;
}

/* How often something else than usual was done. */
int failed(void) { return done; }

static int due(const char *name, const char *path)
{
    if (!*call || strcmp(name, call) || strncmp(path, folder, strlen(folder)))
        return 0;
    if (skip > 0) {
        skip--;
        return 0;
    }
    if (times == 0)
        return 0;
    times--;
    done++;
    return 1;
}

static int due_of(const char *name, int descriptor)
{
    char link[64], path[4096];
    if (!*call || strcmp(name, call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return due(name, path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define ON_PATH(name, symbol, parameters, arguments, path) \
    int symbol parameters \
    { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #symbol); \
        if (due(name, path)) { \
            if (loses) real arguments; \
            errno = code; \
            return -1; \
        } \
        return real arguments; \
    }

ON_PATH("mkdir", mkdir, (const char *path, mode_t mode), (path, mode), path)
ON_PATH("unlink", unlink, (const char *path), (path), path)

static int links = 1, renames = 1;

/* Whether the file system knows links, and to rename only to a name that is free. */
void know(int those, int these) { links = those; renames = these; }

int link(const char *from, const char *to)
{
    REAL(int, "link", const char *, const char *);
    if (!strncmp(to, folder, strlen(folder)) && (!links || due("link", to))) {
        if (links && loses) real(from, to);
        errno = links ? code : EPERM;
        return -1;
    }
    return real(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    if (!strncmp(to, folder, strlen(folder)) && (!renames || due("renameat2", to))) {
        if (renames && loses) real(from_folder, from, to_folder, to, flags);
        errno = renames ? code : EINVAL;
        return -1;
    }
    return real(from_folder, from, to_folder, to, flags);
}

ON_PATH("rename", rename, (const char *from, const char *to), (from, to), to)

static int real_close(int descriptor)
{
    REAL(int, "close", int);
    return real(descriptor);
}

#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) \
    { \
        REAL(int, #symbol, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        const char *name = flags & O_CREAT ? "create" : flags & O_DIRECTORY ? "open folder" : "open"; \
        if (due(name, path)) { \
            if (loses && flags & O_CREAT) real_close(real(path, flags, mode)); \
            errno = code; \
            return -1; \
        } \
        return real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

#define SYNC(symbol) \
    int symbol(int descriptor) \
    { \
        REAL(int, #symbol, int); \
        struct stat status; \
        const char *name = !fstat(descriptor, &status) && S_ISDIR(status.st_mode) ? "fsync folder" : "fsync"; \
        if (due_of(name, descriptor)) { errno = code; return -1; } \
        return real(descriptor); \
    }

SYNC(fsync)
SYNC(fdatasync)

int close(int descriptor)
{
    int fails = due_of("close", descriptor);
    int result = real_close(descriptor); /* as Linux does: it is closed all the same */
    if (fails) { errno = code; return -1; }
    return result;
}

ssize_t write(int descriptor, const void *data, size_t nbytes)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (due_of("write", descriptor)) {
        if (code) { errno = code; return -1; }
        nbytes = nbytes > 7 ? nbytes / 3 : 1;
    }
    return real(descriptor, data, nbytes);
}

ssize_t read(int descriptor, void *data, size_t nbytes)
{
    REAL(ssize_t, "read", int, void *, size_t);
    if (due_of("read", descriptor)) {
        if (code) { errno = code; return -1; }
        nbytes = nbytes > 7 ? nbytes / 3 : 1;
    }
    return real(descriptor, data, nbytes);
}

#define PREADV(symbol, offset_type, more_parameters, more_arguments) \
    ssize_t symbol(int descriptor, const struct iovec *parts, int count, offset_type position \
                   more_parameters) \
    { \
        REAL(ssize_t, #symbol, int, const struct iovec *, int, offset_type more_parameters); \
        if (due_of("read", descriptor)) { \
            if (code) { errno = code; return -1; } \
            struct iovec one = parts[0]; \
            one.iov_len = one.iov_len > 7 ? one.iov_len / 3 : 1; \
            return real(descriptor, &one, 1, position more_arguments); \
        } \
        return real(descriptor, parts, count, position more_arguments); \
    }
#define FLAGS , int flags
#define PASSED , flags

PREADV(preadv, off_t, , )
PREADV(preadv64, off64_t, , )
PREADV(preadv2, off_t, FLAGS, PASSED)
PREADV(preadv64v2, off64_t, FLAGS, PASSED)

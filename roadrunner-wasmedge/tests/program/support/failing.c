/* Lets one call of the system fail: loaded in front of the C library (LD_PRELOAD, ld.so(8)) into every process of a run.
 *
 * ROADRUNNER_FAIL="CALL NTH ERRNO ONCE": the NTH of these calls, counted from 0 in each process, fails; all that follow, too,
 * if ONCE is 0. ROADRUNNER_COUNTS=FILE: each process adds a line "CALL COUNT" for each call when it ends.
 *
 * Only calls of the program itself count: what WasmEdge does without memory is not looked at here. A hole in a memory that
 * cannot be closed ends the process, as it should: no call with MAP_FIXED fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>

long syscall(long number, ...);

enum { MMAP, MREMAP, MADVISE, MEMFD, TRUNCATE, SOCKETPAIR, PIPE, SPLICE, VMSPLICE, SENDMSG, RECVMSG, EVENTFD, THREAD, CALLS };
static const char *const names[CALLS] = {"mmap", "mremap", "madvise", "memfd_create", "ftruncate", "socketpair", "pipe2",
                                         "splice", "vmsplice", "sendmsg", "recvmsg", "eventfd", "pthread_create"};
static atomic_long counts[CALLS];
static int chosen = -1, error_number, once;
static long nth;
static void *program;

__attribute__((constructor)) static void begin(void) {
    Dl_info info;
    const char *plan = getenv("ROADRUNNER_FAIL");
    char name[32];
    if (dladdr((void *)getauxval(AT_PHDR), &info))
        program = info.dli_fbase;
    if (plan && sscanf(plan, "%31s %ld %d %d", name, &nth, &error_number, &once) == 4)
        for (int call = 0; call < CALLS; call++)
            if (!strcmp(names[call], name))
                chosen = call;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("ROADRUNNER_COUNTS");
    FILE *file = path ? fopen(path, "a") : NULL;
    for (int call = 0; file && call < CALLS; call++)
        fprintf(file, "%s %ld\n", names[call], atomic_load(&counts[call]));
    if (file)
        fclose(file);
}

/* How the program ends, without destructors. */
void _exit(int status) {
    end();
    syscall(SYS_exit_group, status);
    __builtin_unreachable();
}

static int fails(int call, void *caller) {
    Dl_info info;
    if (!program || !dladdr(caller, &info) || info.dli_fbase != program)
        return 0;
    long number = atomic_fetch_add(&counts[call], 1);
    if (call != chosen || (once ? number != nth : number < nth))
        return 0;
    errno = error_number;
    return 1;
}

/* Neither puts something in the place of what is there, nor is a stack for signals: without that the standard library lets no
 * thread run. */
static int is_ours(size_t len, int flags) { return !(flags & MAP_FIXED) && len >= 1 << 16; }

#define FAILS(call) fails(call, __builtin_return_address(0))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    return is_ours(len, flags) && FAILS(MMAP) ? MAP_FAILED : REAL(mmap)(at, len, prot, flags, fd, offset);
}
void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    return is_ours(len, flags) && FAILS(MMAP) ? MAP_FAILED : REAL(mmap)(at, len, prot, flags, fd, offset);
}
void *mremap(void *at, size_t len, size_t new_len, int flags, ...) {
    va_list list;
    va_start(list, flags);
    void *to = va_arg(list, void *);
    va_end(list);
    return FAILS(MREMAP) ? MAP_FAILED : REAL(mremap)(at, len, new_len, flags, to);
}
long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_mremap && FAILS(MREMAP))
        return -1;
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
int madvise(void *at, size_t len, int advice) { return FAILS(MADVISE) ? -1 : REAL(madvise)(at, len, advice); }
int memfd_create(const char *name, unsigned flags) { return FAILS(MEMFD) ? -1 : REAL(memfd_create)(name, flags); }
int ftruncate(int fd, off_t len) { return FAILS(TRUNCATE) ? -1 : REAL(ftruncate)(fd, len); }
int ftruncate64(int fd, off_t len) { return FAILS(TRUNCATE) ? -1 : REAL(ftruncate)(fd, len); }
int socketpair(int domain, int type, int protocol, int fds[2]) {
    return FAILS(SOCKETPAIR) ? -1 : REAL(socketpair)(domain, type, protocol, fds);
}
extern int pipe2(int fds[2], int flags);
int pipe2(int fds[2], int flags) { return FAILS(PIPE) ? -1 : REAL(pipe2)(fds, flags); }
extern ssize_t splice(int in, off_t *from, int out, off_t *to, size_t len, unsigned flags);
ssize_t splice(int in, off_t *from, int out, off_t *to, size_t len, unsigned flags) {
    return FAILS(SPLICE) ? -1 : REAL(splice)(in, from, out, to, len, flags);
}
struct iovec;
extern ssize_t vmsplice(int fd, const struct iovec *parts, size_t count, unsigned flags);
ssize_t vmsplice(int fd, const struct iovec *parts, size_t count, unsigned flags) {
    return FAILS(VMSPLICE) ? -1 : REAL(vmsplice)(fd, parts, count, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return FAILS(SENDMSG) ? -1 : REAL(sendmsg)(fd, message, flags);
}
ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    return FAILS(RECVMSG) ? -1 : REAL(recvmsg)(fd, message, flags);
}
extern int eventfd(unsigned count, int flags);
int eventfd(unsigned count, int flags) { return FAILS(EVENTFD) ? -1 : REAL(eventfd)(count, flags); }
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) {
    return FAILS(THREAD) ? error_number : REAL(pthread_create)(thread, how, run, with);
}

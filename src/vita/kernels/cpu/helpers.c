/* Helper threads for the GEMVs of a decode step on cores that other processes use.
 *
 * An OpenMP barrier waits for all threads, also for one that the kernel has taken from its core for some milliseconds.
 * Here a GEMV waits for no helper. The output channels are split into chunks, and the calling thread and the helpers take
 * chunks from a shared counter. A helper computes into memory of its own, and copies the result to y unless the caller
 * has taken the chunk back by then. When all chunks are taken, the caller computes those again that helpers have not
 * finished. A channel is computed in the same order by whoever does it, so results are equal to the bit.
 *
 * A helper that was taken back may go on reading weights for a while. So the caller brackets its GEMVs by
 * vita_helpers_begin and vita_helpers_end, which waits for it, and weights stay where they are in between. x is copied.
 */
#define _GNU_SOURCE
#include "helpers.h"
#include <string.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define PAUSE() _mm_pause()
#else
#define PAUSE() ((void)0)
#endif

#define MAX_HELPERS 63
#define MAX_CHUNKS 64
#define CHUNK_BYTES (256 * 1024) /* of weights, at least: some 20 us */
/* A helper waits awake for so long. Where the caller itself has lost its core, an idle core is what the kernel moves it
 * to, and an awake helper is in its way: with 200 us a step beside a busy process took 1.1 times as long. */
#define SPIN_NS 60000

/* The shared counter: generation of the GEMV (32 bits), its chunks (16), the next chunk (16). */
#define COUNTER(generation, chunks) ((uint64_t)(generation) << 32 | (uint64_t)(chunks) << 16)
#define GENERATION(counter) ((uint32_t)((counter) >> 32))
#define CHUNKS(counter) ((int64_t)((counter) >> 16 & 0xFFFF))
#define NEXT(counter) ((int64_t)((counter) & 0xFFFF))
/* The status of a chunk: generation and one of these. */
enum { OPEN, COPYING, DONE };
#define STATUS(generation, state) ((uint64_t)(generation) << 2 | (state))

typedef struct {
    int inside; /* may read weights */
    void *y;    /* its results */
    size_t y_bytes;
    pthread_t thread;
} Helper;

static struct {
    int owned;        /* a thread is between begin and end */
    int open;         /* helpers may take chunks */
    int started;      /* helpers that run */
    int sleepers;     /* helpers that wait for `epoch` to change */
    uint32_t epoch;   /* changes when there is something to do */
    int64_t wanted;   /* helpers that may take chunks: the first so many */
    int64_t computed; /* chunks that helpers have computed for a caller */
    uint64_t counter;
    uint64_t status[MAX_CHUNKS];
    Gemv gemv; /* of the present generation */
    void *x;   /* its x, of x_bytes */
    size_t x_bytes;
    Helper helpers[MAX_HELPERS];
} pool;
static __thread int has_helpers; /* the calling thread is between begin and end */

#define LOAD(variable) __atomic_load_n(&(variable), __ATOMIC_SEQ_CST)
#define STORE(variable, value) __atomic_store_n(&(variable), value, __ATOMIC_SEQ_CST)
#define REPLACE(variable, old, value) \
    __atomic_compare_exchange_n(&(variable), &(old), value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* Takes the next chunk of the present GEMV. Returns its number, or -1 if none is left; `gemv` is valid with a number
 * only: it is copied before the counter moves on, which fails if the GEMV has changed meanwhile. */
static int64_t take(Gemv *gemv, uint64_t *counter) {
    *counter = LOAD(pool.counter);
    while (NEXT(*counter) < CHUNKS(*counter)) {
        if (gemv) *gemv = pool.gemv;
        if (REPLACE(pool.counter, *counter, *counter + 1)) return NEXT(*counter);
    }
    return -1;
}

static int64_t border(const Gemv *gemv, int64_t chunk, int64_t chunks) { return gemv->channels * chunk / chunks; }

static size_t size_of_value(const Gemv *gemv) { return gemv->is_bf16 ? sizeof(uint16_t) : sizeof(float); }

/* Copies channels `first` to `last` of all streams and rows. */
static void copy_channels(const Gemv *gemv, char *to, const char *from, int64_t first, int64_t last) {
    const size_t size = size_of_value(gemv);
    for (int64_t r = 0; r < gemv->rows; r++)
        for (int64_t s = 0; s < gemv->streams; s++) {
            const size_t at = (size_t)(r * gemv->n_out + s * gemv->apart + first) * size;
            memcpy(to + at, from + at, (size_t)(last - first) * size);
        }
}

/* Makes a buffer hold `bytes`; its contents are lost. Returns 0 if there is no memory. */
static int grow(void **buffer, size_t *size, size_t bytes) {
    if (bytes <= *size) return 1;
    free(*buffer);
    *buffer = aligned_alloc(64, (bytes + 63) / 64 * 64); /* loads of 64 bytes stay within a cache line */
    *size = *buffer ? bytes : 0;
    return *buffer != NULL;
}

static void help(Helper *me) {
    Gemv gemv;
    uint64_t counter;
    for (int64_t chunk; LOAD(pool.open) && (chunk = take(&gemv, &counter)) >= 0;) {
        const int64_t first = border(&gemv, chunk, CHUNKS(counter)), last = border(&gemv, chunk + 1, CHUNKS(counter));
        const size_t bytes = (size_t)(gemv.rows * gemv.n_out) * size_of_value(&gemv);
        if (!grow(&me->y, &me->y_bytes, bytes)) return; /* out of memory: the caller takes the chunk back */
        gemv.compute(&gemv, me->y, first, last);
        uint64_t open = STATUS(GENERATION(counter), OPEN);
        if (!REPLACE(pool.status[chunk], open, STATUS(GENERATION(counter), COPYING))) continue;
        copy_channels(&gemv, gemv.y, me->y, first, last);
        STORE(pool.status[chunk], STATUS(GENERATION(counter), DONE));
        __atomic_add_fetch(&pool.computed, 1, __ATOMIC_RELAXED);
    }
}

static void *run_helper(void *argument) {
    Helper *me = argument;
    for (uint32_t seen = 0;;) {
        for (int64_t until = now_ns() + SPIN_NS; LOAD(pool.epoch) == seen && now_ns() < until;)
            for (int k = 0; k < 8; k++) PAUSE();
        __atomic_add_fetch(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
        while (LOAD(pool.epoch) == seen) syscall(SYS_futex, &pool.epoch, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        __atomic_sub_fetch(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
        seen = LOAD(pool.epoch);
        STORE(me->inside, 1); /* before `open` is read: vita_helpers_end closes first and looks then */
        if (me - pool.helpers < LOAD(pool.wanted)) help(me);
        STORE(me->inside, 0);
    }
    return NULL;
}

/* In a forked process: it has no helpers, and nothing of the GEMV that was computed when it was forked is left. Buffers
 * are not freed, since another thread may just have been doing so. */
static void after_fork(void) {
    pool.owned = pool.open = pool.started = pool.sleepers = has_helpers = 0;
    pool.counter = COUNTER(GENERATION(pool.counter) + 1, 0);
    pool.x = NULL;
    pool.x_bytes = 0;
    memset(pool.helpers, 0, sizeof(pool.helpers));
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork); }

/* Helpers that have a core of their own beside the calling thread's. */
static int64_t most_helpers(void) {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof(cores), &cores)) return MAX_HELPERS;
    return CPU_COUNT(&cores) - 1 < MAX_HELPERS ? CPU_COUNT(&cores) - 1 : MAX_HELPERS;
}

/* Starts helpers until there are `count`. Returns how many there are. */
static int64_t start_helpers(int64_t count) {
    static pthread_once_t watched = PTHREAD_ONCE_INIT;
    pthread_once(&watched, watch_forks);
    sigset_t others, before; /* helpers take the signals of their own faults only, others are for Python's threads */
    sigfillset(&others);
    for (int k = 0; k < 4; k++) sigdelset(&others, ((int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL})[k]);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    while (pool.started < count) {
        Helper *helper = &pool.helpers[pool.started];
        helper->inside = 0;
        if (pthread_create(&helper->thread, NULL, run_helper, helper)) break;
        pthread_detach(helper->thread);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.started < count ? pool.started : count;
}

/* From now on `count` helpers share the GEMVs of the calling thread. Returns how many there are; none while another
 * thread has them. */
int64_t vita_helpers_begin(int64_t count) {
    int unowned = 0;
    if (count < 1 || !REPLACE(pool.owned, unowned, 1)) return 0;
    const int64_t started = start_helpers(count < most_helpers() ? count : most_helpers());
    has_helpers = started > 0;
    STORE(pool.wanted, started);
    STORE(pool.open, has_helpers);
    if (!has_helpers) STORE(pool.owned, 0);
    return started;
}

/* Returns when no helper reads weights any more. */
static void wait_for_helpers(void) {
    for (int k = 0; k < pool.started; k++)
        while (LOAD(pool.helpers[k].inside)) sched_yield();
}

/* The calling thread's GEMVs are its own again, and its weights may be freed. */
void vita_helpers_end(void) {
    if (!has_helpers) return;
    STORE(pool.open, 0);
    wait_for_helpers();
    has_helpers = 0;
    STORE(pool.owned, 0);
}

/* Chunks that helpers have computed for a caller. */
int64_t vita_helpers_chunks(void) { return LOAD(pool.computed); }

/* Makes `gemv` the present one, in so many chunks, and wakes the helpers. */
static int publish(const Gemv *gemv, int64_t chunks) {
    if ((size_t)gemv->x_bytes > pool.x_bytes) wait_for_helpers(); /* one may still read the last x */
    if (!grow(&pool.x, &pool.x_bytes, (size_t)gemv->x_bytes)) return 0;
    const uint32_t generation = GENERATION(pool.counter) + 1;
    memcpy(pool.x, gemv->x, (size_t)gemv->x_bytes); /* a helper that reads it now was taken back */
    pool.gemv = *gemv;
    pool.gemv.x = pool.x;
    for (int64_t c = 0; c < chunks; c++) STORE(pool.status[c], STATUS(generation, OPEN));
    STORE(pool.counter, COUNTER(generation, chunks));
    __atomic_add_fetch(&pool.epoch, 1, __ATOMIC_SEQ_CST);
    if (LOAD(pool.sleepers)) syscall(SYS_futex, &pool.epoch, FUTEX_WAKE_PRIVATE, MAX_HELPERS, NULL, NULL, 0);
    return 1;
}

int share_gemv(const Gemv *gemv, int64_t weight_bytes) {
    int64_t chunks = weight_bytes / CHUNK_BYTES;
    if (chunks > MAX_CHUNKS) chunks = MAX_CHUNKS;
    if (chunks > gemv->channels) chunks = gemv->channels;
    if (!has_helpers || chunks < 2 || !publish(gemv, chunks)) return 0;
    const uint32_t generation = GENERATION(pool.counter);
    const int64_t begun = now_ns();
    uint64_t counter, mine = 0;
    int64_t count = 0;
    for (int64_t chunk; (chunk = take(NULL, &counter)) >= 0; count++, mine |= (uint64_t)1 << chunk)
        gemv->compute(gemv, gemv->y, border(gemv, chunk, chunks), border(gemv, chunk + 1, chunks));
    /* A helper that computes is done within the time of a chunk. */
    const int64_t until = now_ns() + (count ? (now_ns() - begun) / count : SPIN_NS);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        if (mine >> chunk & 1) continue;
        while (LOAD(pool.status[chunk]) != STATUS(generation, DONE)) {
            uint64_t open = STATUS(generation, OPEN);
            if (now_ns() < until) {
                PAUSE();
                continue;
            }
            if (!REPLACE(pool.status[chunk], open, STATUS(generation, DONE))) {
                sched_yield(); /* it is copying, which takes a microsecond; it may need this core for it */
                continue;
            }
            gemv->compute(gemv, gemv->y, border(gemv, chunk, chunks), border(gemv, chunk + 1, chunks));
        }
    }
    return 1;
}
#else
int64_t vita_helpers_begin(int64_t count) {
    (void)count;
    return 0;
}
void vita_helpers_end(void) {}
int64_t vita_helpers_chunks(void) { return 0; }
int share_gemv(const Gemv *gemv, int64_t weight_bytes) {
    (void)gemv, (void)weight_bytes;
    return 0;
}
#endif

/* Who leads: of the threads that receive requests one waits for the next and sees it through, and one
 * watches it. When the leader has been away for AWAY_NS, the watcher leads; the other waits with those
 * that follow when it is done (leader and followers; Schmidt et al., POSA 2, 2000).
 *
 * What it costs: nothing for a request as long as the watcher is awake, which it is for RESTLESS_NS
 * after the last; a wakeup of it for the next. All of it runs without the GIL. */
#define _GNU_SOURCE
#include "crew.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    AWAY_NS = 1000000,     /* so long the leader may be away */
    RESTLESS_NS = 5000000, /* so long an idle leader is watched before the watcher sleeps */
    SPARE = 4,             /* threads that stay when they are not needed */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t stir;  /* the leader went to work, or it is the end */
    pthread_cond_t spare; /* there is no watcher */
    int64_t busy_since;   /* 0 while the leader waits for a request */
    uint64_t term;        /* a number for each leader */
    bool is_led, is_watched, is_asleep, is_ended;
    unsigned followers;
    int end_fd; /* can be read when is_ended */
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER, .spare = PTHREAD_COND_INITIALIZER, .end_fd = -1};

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void wait_until(pthread_cond_t *condition, int64_t end)
{
    struct timespec limit = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    pthread_cond_timedwait(condition, &crew.lock, &limit);
}

/* Watch the leader until it is away, or there is none. The lock is held. */
static void watch(void)
{
    int64_t idle_since = 0;
    while (!crew.is_ended && crew.is_led) {
        int64_t begun = crew.busy_since, now = now_ns();
        if (begun && now - begun >= AWAY_NS)
            return;
        if (begun) {
            idle_since = 0;
            wait_until(&crew.stir, begun + AWAY_NS);
        } else if (!idle_since || now - idle_since < RESTLESS_NS) {
            idle_since = idle_since ? idle_since : now;
            wait_until(&crew.stir, now + AWAY_NS);
        } else {
            crew.is_asleep = true;
            pthread_cond_wait(&crew.stir, &crew.lock);
            crew.is_asleep = false;
        }
    }
}

/* Wait until this thread is to lead; returns its term, or 0 if the thread is to end. */
uint64_t crew_follow(void)
{
    uint64_t term = 0;
    pthread_mutex_lock(&crew.lock);
    if (crew.followers < SPARE || !crew.is_led) {
        crew.followers++;
        while (!crew.is_ended && crew.is_watched)
            pthread_cond_wait(&crew.spare, &crew.lock);
        crew.is_watched = true;
        watch();
        crew.is_watched = false;
        pthread_cond_signal(&crew.spare);
        if (!crew.is_ended) {
            crew.is_led = true;
            crew.busy_since = 0;
            term = ++crew.term;
        }
        crew.followers--;
    }
    pthread_mutex_unlock(&crew.lock);
    return term;
}

/* The leader has a request. */
void crew_begin_work(void)
{
    pthread_mutex_lock(&crew.lock);
    crew.busy_since = now_ns();
    if (crew.is_asleep)
        pthread_cond_signal(&crew.stir);
    pthread_mutex_unlock(&crew.lock);
}

/* Returns whether the leader of this term still leads. */
bool crew_end_work(uint64_t term)
{
    pthread_mutex_lock(&crew.lock);
    bool leads = crew.term == term && !crew.is_ended;
    if (leads)
        crew.busy_since = 0;
    pthread_mutex_unlock(&crew.lock);
    return leads;
}

/* All threads are to end as soon as they are idle. */
void crew_end(void)
{
    pthread_mutex_lock(&crew.lock);
    crew.is_ended = true;
    if (crew.end_fd >= 0)
        (void)!write(crew.end_fd, &(uint64_t){1}, sizeof(uint64_t));
    pthread_cond_broadcast(&crew.stir);
    pthread_cond_broadcast(&crew.spare);
    pthread_mutex_unlock(&crew.lock);
}

/* A new session begins. */
void crew_reset(void)
{
    static bool is_set_up;
    pthread_mutex_lock(&crew.lock);
    if (!is_set_up) {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&crew.stir, &attributes);
        is_set_up = true;
    }
    if (crew.end_fd >= 0)
        close(crew.end_fd);
    crew.end_fd = eventfd(0, EFD_CLOEXEC);
    crew.is_ended = crew.end_fd < 0;
    crew.is_led = false;
    crew.busy_since = 0;
    pthread_mutex_unlock(&crew.lock);
}

/* Can be read when all are to end. */
int crew_end_fd(void)
{
    return crew.end_fd;
}

bool crew_is_ended(void)
{
    return crew.is_ended;
}

/* Whether no thread could take over. */
bool crew_is_alone(void)
{
    return !crew.followers;
}

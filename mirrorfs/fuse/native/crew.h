/* Which of the threads that receive requests leads; see crew.c. */
#ifndef CREW_H
#define CREW_H

#include <stdbool.h>
#include <stdint.h>

int64_t now_ns(void);
void crew_reset(void);
uint64_t crew_follow(void);
bool crew_is_alone(void);
void crew_begin_work(void);
bool crew_end_work(uint64_t term);
void crew_end(void);
bool crew_is_ended(void);
int crew_end_fd(void);

#endif

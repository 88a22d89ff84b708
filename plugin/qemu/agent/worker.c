// SPDX-License-Identifier: MIT
/*
 * Commands in threads of their own, so that one can be held in the kernel (by GDB, from outside)
 * while others run. Each worker stays on a processor of its own: who is held keeps it busy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define WORKER_SECONDS 40
#define WORDS 8192

static struct worker {
	pthread_t thread;
	int made;		/* the thread is there, and stays */
	sem_t start;
	int busy;		/* begun, and its end not yet told */
	int ended;
	int vcpu;
	time_t since;
	struct command command;
	char words[WORDS];
	struct captured answer;
} workers[MAX_WORKERS];
static int count;

static void stay_on(pthread_t thread, int first, int last)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int cpu = first; cpu <= last; cpu++)
		CPU_SET(cpu, &set);
	pthread_setaffinity_np(thread, sizeof(set), &set);
}

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void *work(void *argument)
{
	struct worker *w = argument;
	const char *verb;

	stay_on(pthread_self(), w->vcpu + 1, w->vcpu + 1);
	reply_capture(&w->answer);
	for (;;) {
		while (sem_wait(&w->start))
			;
		verb = w->command.argv[0];
		if (!strcmp(verb, "hcall") || !strcmp(verb, "enter"))
			call_held(&w->command, w->vcpu);
		else if (!strcmp(verb, "adopt"))
			vcpu_adopt(w->vcpu);
		else
			execute(&w->command);
		__atomic_store_n(&w->ended, 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/*
 * begin WORKER COMMAND ...: start a command; `hcall` and `enter` on the vCPU of that number.
 * `adopt` makes that vCPU the thread's own: in another thread KVM_RUN waits for an RCU grace
 * period first, and there is none while somebody is held.
 */
void do_begin(const struct command *c)
{
	int bad = 0, last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	uint64_t number_of = number(c, 1, &bad);
	struct worker *w = &workers[bad || number_of >= MAX_WORKERS ? 0 : number_of];

	if (bad || number_of >= MAX_WORKERS || c->argc < 3 ||
	    command_keep(&w->command, w->words, sizeof(w->words), c)) {
		reply_error("arguments", EINVAL);
		return;
	}
	if (w->busy || (int)number_of + 1 > last) {
		reply_error(w->busy ? "worker-busy" : "too-few-processors", EBUSY);
		return;
	}
	if (!count++)
		stay_on(pthread_self(), 0, 0); /* not behind somebody who is held */
	w->busy = 1;
	w->ended = 0;
	w->vcpu = number_of;
	w->since = seconds();
	w->answer.used = 0;
	if (!w->made && (sem_init(&w->start, 0, 0) || pthread_create(&w->thread, NULL, work, w)))
		_exit(1);
	w->made = 1;
	sem_post(&w->start);
	reply("ok");
}

/* ended WORKER: `ok running=1`, or the reply of the command that has ended. */
void do_ended(const struct command *c)
{
	int bad = 0, last = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	uint64_t number_of = number(c, 1, &bad);
	struct worker *w = &workers[bad || number_of >= MAX_WORKERS ? 0 : number_of];

	if (bad || number_of >= MAX_WORKERS || !w->busy) {
		reply_error("no-worker", EINVAL);
		return;
	}
	if (!__atomic_load_n(&w->ended, __ATOMIC_ACQUIRE)) {
		if (seconds() - w->since > WORKER_SECONDS)
			vcpu_interrupt(w->thread);
		reply("ok running=1");
		return;
	}
	w->busy = 0;
	if (!--count)
		stay_on(pthread_self(), 0, last);
	reply_raw(w->answer.bytes, w->answer.used);
}

// SPDX-License-Identifier: MIT
/*
 * Interrupts between processors while the VMM works, so that some arrive while the kernel
 * holds a spinlock: each writes to the interrupt controller, and the unlock must order it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

static pid_t child;

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

static int membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

/* A barrier on every processor that runs a registered process: an interrupt to the VMM's. */
static void interrupt_for_ever(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pin(1))
		_exit(1);
	while (!membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED))
		;
	_exit(1);
}

static void end_storm(void)
{
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = 0;
}

/* storm ON: processor 1 interrupts processor 0, where the VMM stays, until `storm 0`. */
void do_storm(const struct command *c)
{
	int bad = 0;
	uint64_t on = number(c, 1, &bad);

	if (bad) {
		reply_error("arguments", EINVAL);
		return;
	}
	end_storm();
	if (on) {
		if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
			reply_error("one-processor", ENODEV);
			return;
		}
		if (pin(0) || membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)) {
			reply_error("membarrier", errno);
			return;
		}
		child = fork();
		if (!child)
			interrupt_for_ever();
		if (child < 0) {
			reply_error("fork", errno);
			return;
		}
	}
	reply("ok");
}

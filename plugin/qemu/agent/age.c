// SPDX-License-Identifier: MIT
/*
 * Ageing: the host clears R of pages (`clear_young` of the MMU notifier).
 *
 * Kernels with DAMON (6.12 here) have it do that: one region of a page has only one page to
 * sample. Older ones do it when a page is to be
 * reclaimed: MADV_PAGEOUT asks who used it before it finds that there is no swap.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"

#define DAMON "/sys/kernel/mm/damon/admin/kdamonds"
#define CONTEXT DAMON "/0/contexts/0"
#define REGION CONTEXT "/targets/0/regions/0"
#define SAMPLE_US 2000
#define MAX_PAGES 64

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = write(fd, text, strlen(text)) < 0 ? -1 : 0;
	close(fd);
	return r;
}

static int put_number(const char *path, unsigned long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lu", value);
	return put(path, text);
}

int has_damon(void)
{
	return !access(DAMON, W_OK);
}

static int damon_setup(void)
{
	static int ready;

	if (ready)
		return 0;
	if (put(DAMON "/nr_kdamonds", "1") || put(DAMON "/0/contexts/nr_contexts", "1") ||
	    put(CONTEXT "/operations", "fvaddr") || put(CONTEXT "/targets/nr_targets", "1") ||
	    put_number(CONTEXT "/monitoring_attrs/intervals/sample_us", SAMPLE_US) ||
	    put_number(CONTEXT "/monitoring_attrs/intervals/aggr_us", 20 * SAMPLE_US) ||
	    put_number(CONTEXT "/monitoring_attrs/intervals/update_us", 1000000) ||
	    put_number(CONTEXT "/targets/0/pid_target", getpid()) ||
	    put(CONTEXT "/targets/0/regions/nr_regions", "1"))
		return -1;
	ready = 1;
	return 0;
}

/* DAMON passes over pages that are not on an LRU list yet: MADV_COLD begins with `lru_add_drain`. */
static void drain(void)
{
	static unsigned char unused[1 << 17];
	uintptr_t page = ((uintptr_t)unused + 0xffff) & ~0xffffUL;

	madvise((void *)page, sysconf(_SC_PAGESIZE), MADV_COLD);
}

/*
 * Several samples of the same page while nobody uses it leave what one leaves. Each is of a
 * random byte of the page, and the notifier is told a page from that byte on.
 */
static int damon_age(unsigned long start, unsigned long end)
{
	if (put_number(REGION "/start", start) || put_number(REGION "/end", end) ||
	    put(DAMON "/0/state", "on"))
		return -1;
	usleep(4 * SAMPLE_US);
	return put(DAMON "/0/state", "off");
}

/* age GPA LEN: at most 64 pages. ret */
void do_age(const struct command *c)
{
	unsigned long page = sysconf(_SC_PAGESIZE);
	int bad = 0, r = 0;
	uint64_t gpa = number(c, 1, &bad), length = number(c, 2, &bad);
	unsigned long at = bad ? 0 : (unsigned long)guest_memory(gpa, length);

	if (!at || length > MAX_PAGES * page) {
		reply_error(at || bad ? "arguments" : "no-slot", at || bad ? EINVAL : EFAULT);
		return;
	}
	if (!has_damon()) {
		reply_result(madvise((void *)at, length, MADV_PAGEOUT));
		return;
	}
	drain();
	r = damon_setup();
	for (uint64_t done = 0; !r && done < length; done += page)
		r = damon_age(at + done, at + done + page);
	reply_result(r);
}

// SPDX-License-Identifier: MIT
/* Huge pages that faults bring (transparent huge pages), where the VMM allows them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"


void tune(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		printf("nestscope-agent: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Faults since boot that found no memory for a huge page. */
static unsigned long refused(void)
{
	char name[64];
	unsigned long value;
	FILE *file = fopen("/proc/vmstat", "re");

	while (file && fscanf(file, "%63s %lu", name, &value) == 2) {
		if (!strcmp(name, "thp_fault_fallback")) {
			fclose(file);
			return value;
		}
	}
	if (file)
		fclose(file);
	return 0;
}

/*
 * Only what a trace says shall happen: khugepaged sleeps for days after the scan that its
 * first VMA starts at once, no fault moves pages out of the way, and a read of nothing
 * brings a page of its own instead of the huge zero page. Pages that were used wait in no
 * batch (as they do without the multi-generational LRU): a waiting page counts as shared, and
 * the first write after a fork would copy it.
 */
void thp_settle(void)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *first;

	tune(THP "khugepaged/scan_sleep_millisecs", "1000000000");
	tune(THP "defrag", "never");
	tune(THP "use_zero_page", "0");
	tune(LRU_GEN, "y");
	first = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (first == MAP_FAILED)
		return;
	madvise(first, page, MADV_HUGEPAGE);
	munmap(first, page);
}

/* thp GPA LEN ON: ret */
void do_thp(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), length = number(c, 2, &bad), on = number(c, 3, &bad);
	unsigned char *at = bad ? NULL : guest_memory(gpa, length);

	if (!at)
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
	else
		reply_result(madvise(at, length, on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
}

/* hugerefused: how many since this was last asked. */
void do_hugerefused(const struct command *c)
{
	static unsigned long before;
	unsigned long now = refused();

	(void)c;
	reply("ok count=%lu", now - before);
	before = now;
}

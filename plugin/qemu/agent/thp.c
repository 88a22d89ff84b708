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

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#define THP "/sys/kernel/mm/transparent_hugepage/"

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

/* The frame behind a page, 0 without one. */
static uint64_t frame_of(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)at / sysconf(_SC_PAGESIZE) * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1UL << 55) - 1) : 0;
}

/*
 * splitzero: a huge page, written to in its first part only, is split by the migration of that
 * part. zero=1 if the last part then is the zero page, which a read of fresh memory shows.
 */
void do_splitzero(const struct command *c)
{
	static uint64_t answer = 2;
	uint64_t size = 2UL << 20, page = sysconf(_SC_PAGESIZE);
	unsigned char *memory, *huge, *fresh;

	(void)c;
	if (answer < 2) {
		reply("ok zero=%lu", answer);
		return;
	}
	memory = mmap(NULL, 3 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		reply_error("memory", errno);
		return;
	}
	huge = (unsigned char *)(((uintptr_t)memory + size - 1) & -size);
	fresh = huge + size;
	madvise(huge, size, MADV_HUGEPAGE);
	madvise(fresh, page, MADV_NOHUGEPAGE);
	*(volatile unsigned char *)huge = 1;
	(void)*(volatile unsigned char *)fresh;
	madvise(huge, page, MADV_SOFT_OFFLINE);
	answer = frame_of(fresh) && frame_of(huge + size - page) == frame_of(fresh);
	munmap(memory, 3 * size);
	reply("ok zero=%lu", answer);
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

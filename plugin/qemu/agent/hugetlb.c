// SPDX-License-Identifier: MIT
/* Pages of hugetlbfs: the kernel's pools of them, and memory that has nothing else. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "agent.h"

#define POOL "/sys/kernel/mm/hugepages/hugepages-%lukB/%s"

static FILE *pool_file(unsigned int shift, const char *name, const char *mode)
{
	char path[128];

	snprintf(path, sizeof(path), POOL, 1UL << (shift - 10), name);
	return fopen(path, mode);
}

/* A number of the pool, -1 if the kernel has no such pages. */
static long pool(unsigned int shift, const char *name)
{
	long value = -1;
	FILE *file = pool_file(shift, name, "re");

	if (file && fscanf(file, "%ld", &value) != 1)
		value = -1;
	if (file)
		fclose(file);
	return value;
}

static long unused_pages(unsigned int shift)
{
	return pool(shift, "free_hugepages") - pool(shift, "resv_hugepages");
}

/* Have so many pages free in the pool: nothing but moving what is in the way makes them. */
int pool_reserve(unsigned int shift, long count)
{
	long missing = count - unused_pages(shift);
	FILE *file;

	if (pool(shift, "nr_hugepages") < 0) {
		errno = EINVAL;
		return -1;
	}
	if (missing > 0) {
		file = pool_file(shift, "nr_hugepages", "we");
		if (!file)
			return -1;
		fprintf(file, "%ld", pool(shift, "nr_hugepages") + missing);
		fclose(file);
	}
	if (unused_pages(shift) < count) {
		errno = ENOMEM;
		return -1;
	}
	return 0;
}

/* Fresh memory of such pages; at `at` instead of what is there, or anywhere. */
void *hugetlb_map(void *at, uint64_t length, unsigned int shift)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | shift << MAP_HUGE_SHIFT;

	if (pool_reserve(shift, length >> shift))
		return MAP_FAILED;
	return mmap(at, length, PROT_READ | PROT_WRITE, flags | (at ? MAP_FIXED : 0), -1, 0);
}

/* hugetlb GPA LEN SHIFT: ret */
void do_hugetlb(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), length = number(c, 2, &bad), shift = number(c, 3, &bad);
	unsigned char *at = bad || shift > 30 ? NULL : guest_memory(gpa, length);

	if (!at || shift < 12) {
		reply_error(bad || shift > 30 || shift < 12 ? "arguments" : "no-slot", EINVAL);
		return;
	}
	/* mmap would round the length up. */
	if (((uintptr_t)at | length) & ((1UL << shift) - 1))
		errno = EINVAL;
	else if (hugetlb_map(at, length, shift) != MAP_FAILED) {
		madvise(at, length, MADV_NOHUGEPAGE);
		reply_result(0);
		return;
	}
	reply_result(-1);
}

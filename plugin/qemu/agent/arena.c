// SPDX-License-Identifier: MIT
/*
 * Where the VMM has memory: anonymous, private, without huge pages unless asked for.
 * Memory outlives the slots over it, and slots may share it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "agent.h"

/* Below 64 TiB, where a kernel with 4K pages still maps at a hint; far from the agent itself. */
#define FIRST 0x100000000000UL
#define LAST 0x300000000000UL
#define ALIGN (1UL << 30)
#define MAX_AREAS 256

struct area {
	uint64_t start, end;
};

static struct area areas[MAX_AREAS];
static int count;
static uint64_t next_place = FIRST;

/* The area that holds `at`, or the next one above it; NULL without one. */
static struct area *area_from(uint64_t at)
{
	struct area *best = NULL;

	for (int i = 0; i < count; i++)
		if (areas[i].end > at && (!best || areas[i].start < best->start))
			best = &areas[i];
	return best;
}

static int add_area(uint64_t start, uint64_t end, int huge)
{
	void *at = (void *)start;

	if (count == MAX_AREAS) {
		errno = ENOSPC;
		return -1;
	}
	if (mmap(at, end - start, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
		 0) == MAP_FAILED)
		return -1;
	madvise(at, end - start, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	areas[count++] = (struct area){ start, end };
	return 0;
}

/* Map what is not mapped yet. What lies outside the arena stays as it is. */
int ensure_memory(uint64_t hva, uint64_t size, int huge)
{
	uint64_t end = hva + size;

	if (hva < FIRST || end > LAST || end < hva)
		return 0;
	while (hva < end) {
		struct area *found = area_from(hva);
		uint64_t gap_end = found && found->start < end ? found->start : end;

		if (found && found->start <= hva) {
			hva = found->end;
			continue;
		}
		if (add_area(hva, gap_end, huge))
			return -1;
		hva = gap_end;
	}
	if (end > next_place)
		next_place = (end + 2 * ALIGN - 1) & ~(ALIGN - 1);
	return 0;
}

/* Unmap exactly one area. */
int release_memory(uint64_t hva, uint64_t size)
{
	for (int i = 0; i < count; i++) {
		if (areas[i].start == hva && areas[i].end == hva + size) {
			areas[i] = areas[--count];
			return munmap((void *)hva, size);
		}
	}
	errno = ENOENT;
	return -1;
}

int has_memory(uint64_t hva, uint64_t size)
{
	uint64_t end = hva + size;

	while (hva < end) {
		struct area *found = area_from(hva);

		if (!found || found->start > hva)
			return 0;
		hva = found->end;
	}
	return 1;
}

/* A place of its own for a slot: congruent to the gpa, so that the host may use large pages. */
unsigned char *free_place(uint64_t gpa, uint64_t size)
{
	(void)size;
	return (unsigned char *)next_place + (gpa & (ALIGN - 1));
}

/* A page of hugetlbfs may lie in two areas that touch: they are unmapped at once. */
void free_memory(void)
{
	struct area *first;
	uint64_t start, end;

	while ((first = area_from(0))) {
		start = first->start;
		end = first->end;
		*first = areas[--count];
		while ((first = area_from(end)) && first->start == end) {
			end = first->end;
			*first = areas[--count];
		}
		munmap((void *)start, end - start);
	}
	next_place = FIRST;
}

// SPDX-License-Identifier: MIT
/*
 * How this kernel treats private pages where several ways are right. Each is tried out once, on
 * memory of the agent's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#define HUGE (2UL << 20)
#define AREA (3 * HUGE)

static uint64_t page;
static unsigned char *memory;

/* The frame behind a page, 0 without one. */
static uint64_t frame_of(const void *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)at / page * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry >> 63 ? entry & ((1UL << 55) - 1) : 0;
}

/*
 * A fresh huge page, of which `parts` base pages were written to (0: an empty place for
 * one); NULL without memory for it.
 */
static unsigned char *huge_page(unsigned int parts)
{
	unsigned char *at;

	memory = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	at = (unsigned char *)(((uintptr_t)memory + HUGE - 1) & -HUGE);
	if (!parts)
		return at;
	madvise(at, HUGE, MADV_HUGEPAGE);
	for (unsigned int i = 0; i < parts; i++)
		*(volatile unsigned char *)(at + i * page) = 1;
	if (frame_of(at + HUGE - page))
		return at;
	munmap(memory, AREA);
	errno = ENOMEM;
	return NULL;
}

static void forget(void)
{
	munmap(memory, AREA);
}

/* Map it by base pages: a VMA is cut out of it for a moment. */
static void split(unsigned char *at)
{
	madvise(at + page, page, MADV_DONTFORK);
	madvise(at + page, page, MADV_DOFORK);
}

/*
 * Whether a write needs a fault first. The kernel writes, through `get_user_pages`: for it
 * a PTE is good if it is writable, whoever sets C.
 */
static int needs_fault(unsigned char *at)
{
	struct rusage before, after;
	unsigned char byte = 1;
	struct iovec from = { &byte, 1 }, to = { at, 1 };

	getrusage(RUSAGE_THREAD, &before);
	if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) != 1)
		return -1;
	getrusage(RUSAGE_THREAD, &after);
	return after.ru_minflt != before.ru_minflt;
}

static int readonly_after_protect(unsigned char *at, uint64_t length)
{
	mprotect(at, length, PROT_READ);
	mprotect(at, length, PROT_READ | PROT_WRITE);
	return needs_fault(at);
}

/* Split by the migration of its first part: is the last part then the zero page? */
static int splits_to_zero_page(unsigned char *at)
{
	unsigned char *fresh = at + HUGE;

	madvise(fresh, page, MADV_NOHUGEPAGE);
	(void)*(volatile unsigned char *)fresh;
	madvise(at, page, MADV_SOFT_OFFLINE);
	return frame_of(fresh) && frame_of(at + HUGE - page) == frame_of(fresh);
}

static int split_cleans(unsigned char *at)
{
	split(at);
	return readonly_after_protect(at + 3 * page, page);
}

static int huge_stays_readonly(unsigned char *at)
{
	return readonly_after_protect(at, HUGE);
}

/*
 * Only the first parts are left, and shared with a child that is gone: is the frame of the very
 * first still the same after a write?
 */
static int reuses(unsigned char *at, unsigned int left)
{
	uint64_t before;
	pid_t child;

	split(at);
	madvise(at + left * page, HUGE - left * page, MADV_DONTNEED);
	before = frame_of(at);
	child = fork();
	if (!child)
		_exit(0);
	if (child < 0 || waitpid(child, NULL, 0) != child)
		return -1;
	*(volatile unsigned char *)at = 2;
	return before && frame_of(at) == before;
}

static int reuses_last_part(unsigned char *at)
{
	return reuses(at, 1);
}

static int reuses_parts(unsigned char *at)
{
	return reuses(at, 3);
}

/* The soft-dirty bits are cleared, and with them what else let mprotect make pages writable. */
static int split_sets_soft_dirty(unsigned char *at)
{
	if (clear_refs("4"))
		return -1;
	split(at);
	return !readonly_after_protect(at + 3 * page, page);
}

static int migration_sets_soft_dirty(unsigned char *at)
{
	madvise(at, page, MADV_NOHUGEPAGE);
	*(volatile unsigned char *)at = 1;
	if (clear_refs("4"))
		return -1;
	madvise(at, page, MADV_SOFT_OFFLINE);
	return !readonly_after_protect(at, page);
}

static const struct {
	int (*ask)(unsigned char *at);
	unsigned int parts;
} questions[] = {
	{ splits_to_zero_page, 1 },
	{ split_cleans, 4 },
	{ huge_stays_readonly, 1 },
	{ reuses_last_part, 1 },
	{ split_sets_soft_dirty, 4 },
	{ migration_sets_soft_dirty, 0 },
	{ reuses_parts, 3 },
};
#define COUNT (sizeof(questions) / sizeof(*questions))

/* habits: each 0 or 1; what concerns huge pages is 0 where there are none */
void do_habits(const struct command *c)
{
	static int answers[COUNT], known;
	int huge = !access(THP "enabled", F_OK);

	(void)c;
	page = sysconf(_SC_PAGESIZE);
	while (known < (int)COUNT) {
		unsigned char *at;

		if (!huge && questions[known].parts) {
			known++;
			continue;
		}
		at = huge_page(questions[known].parts);
		if (!at) {
			reply_error("no-huge-page", errno);
			return;
		}
		answers[known] = questions[known].ask(at);
		forget();
		if (answers[known] < 0) {
			reply_error("not-answered", errno);
			return;
		}
		known++;
	}
	reply("ok huge=%d zero=%d clean=%d readonly=%d last=%d softsplit=%d softmove=%d "
	      "parts=%d",
	      huge, answers[0], answers[1], answers[2], answers[3], answers[4], answers[5],
	      answers[6]);
}

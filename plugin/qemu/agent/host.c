// SPDX-License-Identifier: MIT
/*
 * What the host's memory management does to guest memory. Each command does it through a
 * system call that does nothing else, and replies `ok ret=N`: 0 or a negative errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

/* Guest memory at argv[1], of the length of argv[2]; NULL with the error already replied. */
static unsigned char *range(const struct command *c, uint64_t *length)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);
	unsigned char *at;

	*length = number(c, 2, &bad);
	at = bad ? NULL : guest_memory(gpa, *length);
	if (!at)
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
	return at;
}

/* The aligned block of 1 << argv[2] bytes that holds guest address argv[1]. */
static unsigned char *block(const struct command *c, uint64_t *size)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), shift = number(c, 2, &bad);
	unsigned char *at = bad || shift > 40 ? NULL : guest_memory(gpa, 1);

	if (!at) {
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
		return NULL;
	}
	*size = 1UL << shift;
	return (unsigned char *)((uintptr_t)at & -*size);
}

void do_discard(const struct command *c)
{
	uint64_t length;
	unsigned char *at = range(c, &length);

	if (at)
		reply_result(madvise(at, length, MADV_DONTNEED));
}

/* Only this block: memory around it stays without huge pages, so that no fault makes one. */
void do_collapse(const struct command *c)
{
	uint64_t size;
	unsigned char *at = block(c, &size);
	int r, err;

	if (!at)
		return;
	if (size == 1UL << 30) {
		reply_result(collapse_gigantic(at));
		return;
	}
	r = madvise(at, size, MADV_HUGEPAGE) ? -1 : madvise(at, size, MADV_COLLAPSE);
	err = errno;
	madvise(at, size, MADV_NOHUGEPAGE);
	errno = err;
	reply_result(r);
}

/*
 * A VMA that begins inside a huge page splits its mapping (`vma_adjust_trans_huge`), and
 * the flag that makes the VMA differ touches no page table.
 */
void do_split(const struct command *c)
{
	uint64_t size, page = sysconf(_SC_PAGESIZE);
	unsigned char *at = block(c, &size);
	int r;

	if (!at)
		return;
	r = madvise(at + page, page, MADV_DONTFORK);
	if (!r)
		r = madvise(at + page, page, MADV_DOFORK);
	reply_result(r);
}

/* protect GPA LEN WRITABLE */
void do_protect(const struct command *c)
{
	int bad = 0;
	uint64_t length, writable = number(c, 3, &bad);
	unsigned char *at = range(c, &length);

	if (!at)
		return;
	if (bad)
		reply_error("arguments", EINVAL);
	else
		reply_result(mprotect(at, length, PROT_READ | (writable ? PROT_WRITE : 0)));
}

/*
 * Page migration proper, as memory hotplug and compaction do it, page by page; the old frame
 * is not used again. `moved` has bit i set for page i; an absent page cannot be moved.
 */
void do_migrate(const struct command *c)
{
	uint64_t length, page = sysconf(_SC_PAGESIZE), moved = 0;
	unsigned char *at = range(c, &length);

	if (!at)
		return;
	if (length > 64 * page) {
		reply_error("arguments", E2BIG);
		return;
	}
	for (uint64_t i = 0; i * page < length; i++)
		if (!madvise(at + i * page, page, MADV_SOFT_OFFLINE))
			moved |= 1UL << i;
	reply("ok moved=%#lx", moved);
}

/* Other pages with the same contents are put in the place of these. */
void do_remap(const struct command *c)
{
	uint64_t length;
	unsigned char *at = range(c, &length), *fresh;

	if (!at)
		return;
	fresh = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fresh == MAP_FAILED) {
		reply_result(-1);
		return;
	}
	madvise(fresh, length, MADV_NOHUGEPAGE);
	memcpy(fresh, at, length);
	if (mremap(fresh, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) {
		int err = errno;

		munmap(fresh, length);
		errno = err;
		reply_result(-1);
		return;
	}
	reply_result(0);
}

/* fork: private pages are shared, and so read-only; when the child is gone they stay so. */
void do_fork(const struct command *c)
{
	pid_t child = fork();

	(void)c;
	if (!child)
		_exit(0);
	reply_result(child < 0 || waitpid(child, NULL, 0) != child ? -1 : 0);
}

int clear_refs(const char *what)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = write(fd, what, strlen(what)) < 0 ? -1 : 0;
	close(fd);
	return r;
}

/* clearrefs N: the word as it is. ret */
void do_clearrefs(const struct command *c)
{
	int bad = 0;

	number(c, 1, &bad);
	if (bad)
		reply_error("arguments", EINVAL);
	else
		reply_result(clear_refs(c->argv[1]));
}

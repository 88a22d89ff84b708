// SPDX-License-Identifier: MIT
/* Pages of 1 GiB, which only hugetlb has. The kernel must find that much in one piece. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"

#define SHIFT 30
#define PRESENT (1UL << 63)
#define ENTRIES 4096

/* Copy the pages of `from` that are there; the others are zero. */
static int copy_present(unsigned char *to, const unsigned char *from, uint64_t size)
{
	static uint64_t entries[ENTRIES];
	uint64_t page = sysconf(_SC_PAGESIZE), pages = size / page;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (uint64_t first = 0; fd >= 0 && first < pages; first += ENTRIES) {
		off_t place = ((uintptr_t)from / page + first) * sizeof(*entries);

		if (pread(fd, entries, sizeof(entries), place) != sizeof(entries)) {
			close(fd);
			return -1;
		}
		for (uint64_t i = 0; i < ENTRIES; i++)
			if (entries[i] & PRESENT)
				memcpy(to + (first + i) * page, from + (first + i) * page, page);
	}
	return fd < 0 ? -1 : close(fd);
}

/* Put one page of 1 GiB, with the same contents, in the place of those at `at`. */
int collapse_gigantic(unsigned char *at)
{
	uint64_t size = 1UL << SHIFT;
	unsigned char *huge;
	int err;

	huge = hugetlb_map(NULL, size, SHIFT);
	if (huge == MAP_FAILED)
		return -1;
	if (!copy_present(huge, at, size) &&
	    mremap(huge, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at)
		return 0;
	err = errno;
	munmap(huge, size);
	errno = err;
	return -1;
}

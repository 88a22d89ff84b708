// SPDX-License-Identifier: MIT
/*
 * What a command of the VMM needs before it can do anything. Alone a command looks for itself;
 * in a group (`together`) it must be known before the others run.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define MOST_PAGES 64

enum needs {
	NUMBERS, /* that its arguments are numbers */
	RANGE,	 /* and guest memory at argv[1], of the length of argv[2] */
	PAGES,	 /* the same, at most MOST_PAGES of the host's pages */
	BLOCK,	 /* guest memory at argv[1]; argv[2] is a shift */
	SLOT,	 /* that the memslot argv[1] exists */
	BYTES,	 /* guest memory at argv[1] for the hexadecimal bytes of argv[2] */
};

static const struct {
	const char *name;
	int arguments;
	enum needs needs;
} commands[] = {
	{ "write", 2, BYTES },	  { "discard", 2, RANGE },   { "collapse", 2, BLOCK },
	{ "split", 2, BLOCK },	  { "protect", 3, RANGE },   { "migrate", 2, PAGES },
	{ "remap", 2, RANGE },	  { "age", 2, PAGES },	     { "thp", 3, RANGE },
	{ "region", 5, NUMBERS }, { "move", 2, SLOT },	     { "flags", 2, SLOT },
	{ "dirtylog", 1, NUMBERS }, { "cleardirty", 3, NUMBERS }, { "fork", 0, NUMBERS },
	{ "hugetlb", 3, RANGE }, { "clearrefs", 1, NUMBERS },
};

static int bytes_refused(const struct command *c, uint64_t gpa)
{
	size_t digits = strlen(c->argv[2]);

	if (digits % 2 || strspn(c->argv[2], "0123456789abcdef") != digits)
		reply_error("hex", EINVAL);
	else if (!guest_memory(gpa, digits / 2))
		reply_error("no-slot", EFAULT);
	else
		return 0;
	return 1;
}

static int memory_refused(enum needs needs, const uint64_t *arguments)
{
	uint64_t most = MOST_PAGES * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t length = needs == BLOCK ? 1 : arguments[1];

	if (needs == BLOCK && arguments[1] > 40)
		reply_error("arguments", EINVAL);
	else if (needs == SLOT ? !slot_exists(arguments[0]) : !guest_memory(arguments[0], length))
		reply_error("no-slot", EFAULT);
	else if (needs == PAGES && length > most)
		reply_error("arguments", E2BIG);
	else
		return 0;
	return 1;
}

int vmm_refuses(const struct command *c)
{
	uint64_t arguments[MAX_ARGS] = { 0 };
	int bad = 0;

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		enum needs needs = commands[i].needs;

		if (strcmp(commands[i].name, c->argv[0]))
			continue;
		bad = c->argc != commands[i].arguments + 1;
		for (int at = 1; at < c->argc - (needs == BYTES); at++)
			arguments[at - 1] = number(c, at, &bad);
		if (bad) {
			reply_error("arguments", EINVAL);
			return 1;
		}
		if (needs == BYTES)
			return bytes_refused(c, arguments[0]);
		return needs != NUMBERS && memory_refused(needs, arguments);
	}
	reply_error("arguments", EINVAL);
	return 1;
}

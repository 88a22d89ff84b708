// SPDX-License-Identifier: MIT
/* Bytes of guest memory from the VMM's side. None of these touches the host tree by itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "agent.h"

#define MAX_TRANSFER 4096

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* write GPA HEX: at most 4 KiB. */
void do_write(const struct command *c)
{
	unsigned char bytes[MAX_TRANSFER], *to;
	size_t length;
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);

	if (bad || c->argc != 3 || (length = strlen(c->argv[2])) % 2 || length > 2 * MAX_TRANSFER) {
		reply_error("arguments", EINVAL);
		return;
	}
	length /= 2;
	for (size_t i = 0; i < length; i++) {
		int high = nibble(c->argv[2][2 * i]), low = nibble(c->argv[2][2 * i + 1]);

		if (high < 0 || low < 0) {
			reply_error("hex", EINVAL);
			return;
		}
		bytes[i] = high << 4 | low;
	}
	to = guest_memory(gpa, length);
	if (!to) {
		reply_error("no-slot", EFAULT);
		return;
	}
	/* An aligned word changes at once: a walker never sees half of a PTE. */
	if (length == 8 && gpa % 8 == 0) {
		uint64_t word;

		memcpy(&word, bytes, 8);
		*(volatile uint64_t *)to = word;
	} else {
		memcpy(to, bytes, length);
	}
	reply("ok");
}

/* read GPA LEN: at most 4 KiB. Untouched memory reads as zero. */
void do_read(const struct command *c)
{
	static const char digits[] = "0123456789abcdef";
	char hex[2 * MAX_TRANSFER];
	const unsigned char *from;
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), length = number(c, 2, &bad);

	if (bad || length > MAX_TRANSFER) {
		reply_error("arguments", EINVAL);
		return;
	}
	from = guest_memory(gpa, length);
	if (!from) {
		reply_error("no-slot", EFAULT);
		return;
	}
	for (size_t i = 0; i < length; i++) {
		hex[2 * i] = digits[from[i] >> 4];
		hex[2 * i + 1] = digits[from[i] & 15];
	}
	reply_raw("ok data=", 8);
	reply_raw(hex, 2 * length);
	reply_raw("\n", 1);
}

/* discard GPA LEN: give the host pages back; the kernel's MMU notifier runs. */
void do_discard(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), length = number(c, 2, &bad);
	unsigned char *at;

	if (bad) {
		reply_error("arguments", EINVAL);
		return;
	}
	at = guest_memory(gpa, length);
	if (!at)
		reply_error("no-slot", EFAULT);
	else if (madvise(at, length, MADV_DONTNEED))
		reply_error("madvise", errno);
	else
		reply("ok");
}

/* peek GPA: the VMM reads a byte (of a fresh page: the zero page appears). */
void do_peek(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);
	volatile unsigned char *at = bad ? NULL : guest_memory(gpa, 1);

	if (!at)
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
	else
		reply("ok value=%#x", *at);
}

/* poke GPA VALUE: the VMM writes a byte (a page of its own appears). */
void do_poke(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad), value = number(c, 2, &bad);
	volatile unsigned char *at = bad ? NULL : guest_memory(gpa, 1);

	if (!at) {
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
		return;
	}
	*at = value;
	reply("ok");
}

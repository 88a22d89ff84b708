// SPDX-License-Identifier: MIT
/* Bytes of guest memory from the VMM's side. None of these touches the host tree by itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "agent.h"

#define MAX_TRANSFER 4096
#define PAGE 4096 /* the smallest that any kernel here has */

static sigjmp_buf not_allowed;

static void on_fault(int number)
{
	siglongjmp(not_allowed, number);
}

/* Copy between guest memory and a buffer; -1 with EFAULT where the VMM may not. */
static int guarded_copy(unsigned char *to, const unsigned char *from, size_t length)
{
	struct sigaction guard = { .sa_handler = on_fault }, segv, bus;
	int r = -1;

	sigaction(SIGSEGV, &guard, &segv);
	sigaction(SIGBUS, &guard, &bus);
	if (!sigsetjmp(not_allowed, 1)) {
		/* An aligned word changes at once: a walker never sees half of a PTE. */
		if (length == 8 && !((uintptr_t)to % 8)) {
			uint64_t word;

			memcpy(&word, from, 8);
			*(volatile uint64_t *)to = word;
		} else {
			memcpy(to, from, length);
		}
		r = 0;
	}
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	if (r)
		errno = EFAULT;
	return r;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* write GPA HEX: at most 4 KiB. ret */
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
	/* Page by page: what lies before a page that is not writable is written. */
	for (size_t done = 0, part; done < length; done += part) {
		part = PAGE - ((uintptr_t)to + done) % PAGE;
		part = part < length - done ? part : length - done;
		if (guarded_copy(to + done, bytes + done, part)) {
			reply_result(-1);
			return;
		}
	}
	reply_result(0);
}

/* read GPA LEN: at most 4 KiB. Untouched memory reads as zero. */
void do_read(const struct command *c)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char bytes[MAX_TRANSFER], *from;
	char hex[2 * MAX_TRANSFER];
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
	if (guarded_copy(bytes, from, length)) {
		reply_error("read", errno);
		return;
	}
	for (size_t i = 0; i < length; i++) {
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	reply_raw("ok data=", 8);
	reply_raw(hex, 2 * length);
	reply_raw("\n", 1);
}

/* peek GPA: the VMM reads a byte (of a fresh page: the zero page appears). */
void do_peek(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);
	unsigned char byte, *at = bad ? NULL : guest_memory(gpa, 1);

	if (!at)
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
	else if (guarded_copy(&byte, at, 1))
		reply_error("read", errno);
	else
		reply("ok value=%#x", byte);
}

/* poke GPA VALUE: the VMM writes a byte (a page of its own appears). */
void do_poke(const struct command *c)
{
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);
	unsigned char value = number(c, 2, &bad), *at = bad ? NULL : guest_memory(gpa, 1);

	if (!at) {
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
		return;
	}
	if (guarded_copy(at, &value, 1))
		reply_error("write", errno);
	else
		reply("ok");
}

// SPDX-License-Identifier: MIT
/* Replies are collected and written in one go: the channel is slow to start, not to carry. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define BUFFER (64 * 1024)

static int out_fd = -1;
static char out[BUFFER];
static size_t out_used;
static __thread struct captured *captured;
static int failed;

void reply_begin(void)
{
	failed = 0;
}

int reply_failed(void)
{
	return failed;
}

void reply_open(int fd)
{
	out_fd = fd;
}

void reply_flush(void)
{
	size_t done = 0;

	while (done < out_used) {
		ssize_t n = write(out_fd, out + done, out_used - done);

		if (n > 0)
			done += n;
		else if (n < 0 && errno != EINTR && errno != EAGAIN)
			break; /* nobody listens: the program behind it is void */
		else
			usleep(1000);
	}
	out_used = 0;
}

void reply_capture(struct captured *into)
{
	captured = into;
}

void reply_raw(const void *bytes, size_t length)
{
	const char *from = bytes;

	if (captured) {
		size_t room = sizeof(captured->bytes) - captured->used;
		size_t n = length < room ? length : room;

		memcpy(captured->bytes + captured->used, bytes, n);
		captured->used += n;
		return;
	}
	while (length) {
		size_t room = BUFFER - out_used;
		size_t n = length < room ? length : room;

		memcpy(out + out_used, from, n);
		out_used += n;
		from += n;
		length -= n;
		if (out_used == BUFFER)
			reply_flush();
	}
}

void reply(const char *format, ...)
{
	char line[2048];
	va_list args;
	int n;

	failed |= !strncmp(format, "error", 5);
	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	reply_raw(line, n < (int)sizeof(line) ? n : (int)sizeof(line) - 1);
	reply_raw("\n", 1);
}

void reply_error(const char *what, int err)
{
	reply("error %s errno=%d", what, err);
}

void reply_result(int returned)
{
	reply("ok ret=%d", returned < 0 ? -errno : returned);
}

/* `ok bytes=N` and the N bytes of a file whose size is not known before it is read. */
void reply_file(const char *path)
{
	size_t size = 0, used = 0;
	char *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;

	if (fd < 0) {
		reply_error("open", errno);
		return;
	}
	for (;;) {
		ssize_t n;

		if (size - used < 65536) {
			char *more = realloc(text, size * 2 + 65536);

			if (!more) {
				err = ENOMEM;
				break;
			}
			text = more;
			size = size * 2 + 65536;
		}
		n = read(fd, text + used, size - used);
		if (n < 0)
			err = errno;
		if (n <= 0)
			break;
		used += n;
	}
	close(fd);
	if (err) {
		reply_error("read", err);
	} else {
		reply("ok bytes=%zu", used);
		reply_raw(text, used);
	}
	free(text);
}

int command_keep(struct command *copy, char *words, size_t room, const struct command *c)
{
	size_t used = 0;

	copy->argc = c->argc - 2;
	for (int i = 2; i < c->argc; i++) {
		size_t length = strlen(c->argv[i]) + 1;

		if (length > room - used)
			return -1;
		copy->argv[i - 2] = memcpy(words + used, c->argv[i], length);
		used += length;
	}
	return 0;
}

uint64_t number(const struct command *c, int i, int *bad)
{
	char *end;
	uint64_t value;

	if (i >= c->argc) {
		*bad = 1;
		return 0;
	}
	errno = 0;
	value = strtoull(c->argv[i], &end, 0);
	if (*end || errno || end == c->argv[i])
		*bad = 1;
	return value;
}

// SPDX-License-Identifier: MIT
/*
 * init of the outer kernel: starts an inner Linux in QEMU with KVM, as a guest.
 *
 * It loads the modules, says "nestscope-outer: ready" on the console, waits for a byte on
 * the machine's virtio port, runs /inner/command (one argument a line), and says
 * "nestscope-outer: inner ended STATUS" when that has ended.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGUMENTS 64

/* A virtio port reads as end of file until somebody connects to the other side. */
static void wait_for_go(void)
{
	static const char *const names[] = { "/dev/vport0p1", "/dev/vport1p1" };
	char byte;

	for (int tries = 0;; tries++) {
		int fd = open(names[tries % 2], O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			while (read(fd, &byte, 1) != 1)
				usleep(10000);
			close(fd);
			return;
		}
		usleep(10000);
	}
}

static char **read_command(void)
{
	static char text[8192], *arguments[MAX_ARGUMENTS + 1];
	int fd = open("/inner/command", O_RDONLY | O_CLOEXEC), count = 0;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *rest = text, *line;

	if (n < 0)
		n = 0;
	text[n] = 0;
	while ((line = strsep(&rest, "\n")) && count < MAX_ARGUMENTS)
		if (*line)
			arguments[count++] = line;
	return arguments;
}

int main(void)
{
	char **command;
	int status = 0;
	pid_t child;

	setbuf(stdout, NULL);
	mount_all();
	load_modules("nestscope-outer");
	printf("nestscope-outer: ready\n");
	wait_for_go();
	command = read_command();
	child = fork();
	if (!child) {
		setenv("LD_LIBRARY_PATH", "/lib", 1);
		execv(command[0], command);
		printf("nestscope-outer: %s: %s\n", command[0], strerror(errno));
		_exit(127);
	}
	waitpid(child, &status, 0);
	printf("nestscope-outer: inner ended %d\n",
	       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	for (;;)
		pause();
}

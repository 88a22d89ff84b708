// SPDX-License-Identifier: MIT
/*
 * The lab's guest agent: init of the host kernel in the QEMU machine, and a
 * VMM that does what it is told over a command channel.
 *
 * Protocol. One command a line, blanks between words, numbers in C notation.
 * Many lines may be sent at once; they run in order. Each is answered by one
 * line, in order:
 *     ok [key=value ...]                 numbers as 0x..., counts as decimals
 *     ok bytes=N                         for listing and dmesg: N raw bytes follow the line
 *     error WHAT errno=N [key=value ...]
 * `and COMMAND ...` is done only if the command before it was, else `error skipped`.
 *
 *     hello                              page_size pid nested_hv damon release
 *     vm                                 KVM_CREATE_VM with KVM_CAP_PPC_NESTED_HV
 *     slot ID GPA SIZE FLAGS [huge]      a memslot with memory of its own; hva. SIZE 0 deletes
 *     region ID GPA SIZE HVA FLAGS       any memslot over any memory, fresh where there is
 *                                        none: ret, as of all that follow here
 *     move ID GPA | flags ID FLAGS       change a memslot
 *     dirtylog ID                        KVM_GET_DIRTY_LOG: ret bytes=N and the bitmap
 *     cleardirty ID FIRST COUNT          KVM_CLEAR_DIRTY_LOG
 *     mmu FLAGS PROCESS_TABLE            KVM_PPC_CONFIGURE_V3_MMU
 *     htab ORDER                         KVM_PPC_ALLOCATE_HTAB
 *     vcpu [COUNT]                       vCPUs in PAPR mode; 1 by default
 *     stub CODE_GPA MAILBOX_GPA          the guest's hypercall loop
 *     payload GPA                        the nested guest's code, for nested real address 0
 *     write GPA HEX | read GPA LEN       at most 4096 bytes, through the VMM's mapping
 *     peek GPA | poke GPA VALUE          one byte
 *     discard GPA LEN                    madvise(MADV_DONTNEED); ret, as of all of host.c
 *     collapse GPA SHIFT | split GPA SHIFT
 *                                        a huge page comes, or becomes base pages
 *     thp GPA LEN ON                     madvise: allow huge pages, or forbid them
 *     clearrefs N                        write a number to /proc/self/clear_refs
 *     hugetlb GPA LEN SHIFT              fresh memory of hugetlbfs pages instead
 *     fork                               a child comes and goes: pages stay read-only
 *     habits                             how the kernel treats private pages: huge zero clean
 *                                        readonly last softsplit softmove, as habits.c says
 *     hugerefused                        count: faults since that found no huge page
 *     protect GPA LEN WRITABLE           mprotect
 *     migrate GPA LEN | remap GPA LEN    the same contents in other host pages
 *     age GPA LEN                        the host clears R (`clear_young`)
 *     hcall NR [A0 .. A6]                ret r4
 *     enter L1_LPID NIP R3 R4 R5 STATE_GPA
 *                                        H_ENTER_NESTED: ret (the trap) nip msr r3 r4 r5 r6
 *                                        hdar hdsisr asdr heir srr0 srr1
 *     queue VCPU hcall ... | enter ...   prepare a vCPU; vCPU n has its mailbox n * 0x100 on
 *     together [COMMAND ...]             run all that are prepared at the same time, and a
 *                                        command of the VMM meanwhile, whose reply it is; what
 *                                        cannot be done refuses the whole group, and nothing ran
 *     answer VCPU                        what `hcall` or `enter` would have replied
 *     begin WORKER COMMAND ...           start a command in a thread on processor 1 + WORKER,
 *                                        hcall and enter on the vCPU of that number
 *     ended WORKER                       running=1, or the command's reply
 *     listing                            the kernel's debugfs print of all radix trees
 *     destroy                            end the VM, free its memory
 *     dmesg                              the kernel log
 *     storm ON                           processor 1 interrupts this one all the time
 *     crash                              panic this kernel (to test the failure path)
 *
 * A KVM exit that is none of ours is `error unexpected-exit` with the exit
 * reason and registers; KVM_RUN longer than 5 s is `error run-timeout`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "init.h"

#define MAX_LINE 16384

static void do_crash(const struct command *c)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	(void)c;
	if (fd < 0 || write(fd, "c", 1) != 1)
		reply_error("sysrq", errno);
	else
		reply("ok");
}

static void do_dmesg(const struct command *c)
{
	int size = klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, NULL, 0);
	char *text = size > 0 ? malloc(size) : NULL;
	int n = text ? klogctl(3 /* SYSLOG_ACTION_READ_ALL */, text, size) : -1;

	(void)c;
	if (n < 0) {
		reply_error("klogctl", errno);
	} else {
		reply("ok bytes=%d", n);
		reply_raw(text, n);
	}
	free(text);
}

static const struct {
	const char *name;
	void (*run)(const struct command *c);
} commands[] = {
	{ "hello", do_hello }, { "vm", do_vm }, { "slot", do_slot },
	{ "region", do_region }, { "move", do_move }, { "flags", do_flags },
	{ "dirtylog", do_dirtylog }, { "cleardirty", do_cleardirty }, { "mmu", do_mmu },
	{ "htab", do_htab }, { "vcpu", do_vcpu }, { "stub", do_stub },
	{ "payload", do_payload }, { "write", do_write }, { "read", do_read },
	{ "peek", do_peek }, { "poke", do_poke }, { "discard", do_discard },
	{ "collapse", do_collapse }, { "split", do_split }, { "protect", do_protect },
	{ "migrate", do_migrate }, { "remap", do_remap }, { "age", do_age },
	{ "hcall", do_call }, { "enter", do_call },
	{ "queue", do_queue },
	{ "together", do_together }, { "answer", do_answer },
	{ "begin", do_begin }, { "ended", do_ended },
	{ "listing", do_listing }, { "destroy", do_destroy }, { "dmesg", do_dmesg },
	{ "crash", do_crash }, { "storm", do_storm }, { "thp", do_thp },
	{ "hugerefused", do_hugerefused }, { "habits", do_habits }, { "fork", do_fork },
	{ "hugetlb", do_hugetlb }, { "clearrefs", do_clearrefs },
};

void execute(const struct command *c)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (!strcmp(commands[i].name, c->argv[0])) {
			commands[i].run(c);
			return;
		}
	}
	reply_error("unknown-command", ENOSYS);
}

static void execute_line(char *line)
{
	struct command c = { 0 };
	char *rest = line, *word;

	while ((word = strsep(&rest, " \r"))) {
		if (!*word)
			continue;
		if (c.argc == MAX_ARGS) {
			reply_error("arguments", E2BIG);
			return;
		}
		c.argv[c.argc++] = word;
	}
	if (c.argc > 1 && !strcmp(c.argv[0], "and")) {
		if (reply_failed()) {
			reply_error("skipped", ECANCELED);
			return;
		}
		memmove(c.argv, c.argv + 1, --c.argc * sizeof(*c.argv));
	}
	reply_begin();
	if (c.argc)
		execute(&c);
}

static long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void serve(int fd)
{
	long flushed = 0;

	static char buffer[MAX_LINE];
	size_t used = 0;

	reply_open(fd);
	for (;;) {
		ssize_t n = read(fd, buffer + used, sizeof(buffer) - 1 - used);
		char *start = buffer, *end;

		if (n <= 0) {
			usleep(5000); /* a virtio port reads as end of file until QEMU's side is open */
			continue;
		}
		used += n;
		buffer[used] = 0;
		while ((end = memchr(start, '\n', buffer + used - start))) {
			*end = 0;
			execute_line(start);
			start = end + 1;
			/* A long program must not look like a hung agent. */
			if (milliseconds() - flushed > 200) {
				reply_flush();
				flushed = milliseconds();
			}
		}
		used -= start - buffer;
		memmove(buffer, start, used);
		if (used == sizeof(buffer) - 1) {
			reply_error("line-too-long", E2BIG);
			used = 0;
		}
		reply_flush();
	}
}

/* The virtio port of the machine; the driver may still be probing. */
static int open_channel(void)
{
	static const char *const names[] = { "/dev/vport0p1", "/dev/vport1p1" };

	for (int tries = 0; tries < 1000; tries++) {
		int fd = open(names[tries % 2], O_RDWR | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	return -1;
}

int main(void)
{
	setbuf(stdout, NULL);
	mount_all();
	load_modules("nestscope-agent");
	for (;;) {
		int status = 0;
		pid_t vmm = fork();

		if (!vmm) {
			int fd = open_channel();

			if (fd < 0) {
				printf("nestscope-agent: no command channel: %s\n", strerror(errno));
				_exit(1);
			}
			thp_settle();
			serve(fd);
		}
		waitpid(vmm, &status, 0);
		printf("nestscope-agent: the VMM ended with status %#x\n", status);
		pause();
	}
}

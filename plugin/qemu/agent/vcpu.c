// SPDX-License-Identifier: MIT
/* The vCPUs: how they are made, and how their hypercalls run, one alone or all at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define MSR_SF (1UL << 63)
#define MSR_ME (1UL << 12)
#define MSR_LE 1UL
#define RUN_SECONDS 5

static struct vcpu {
	int fd;
	size_t run_size;
	struct kvm_run *run;
	uint64_t mailbox;
	int lost;	/* the stub is somewhere else than before its first hypercall */
	int queued;
	int result, err; /* of KVM_RUN */
} vcpus[MAX_VCPUS];
static int count;
static uint64_t stub_gpa;
static int stub_ready;
static pthread_barrier_t start_line;

static void on_alarm(int number)
{
	(void)number;
	for (int i = 0; i < count; i++)
		if (vcpus[i].run)
			vcpus[i].run->immediate_exit = 1;
}

void vcpu_close(void)
{
	for (int i = 0; i < count; i++) {
		if (vcpus[i].run)
			munmap(vcpus[i].run, vcpus[i].run_size);
		close(vcpus[i].fd);
	}
	memset(vcpus, 0, sizeof(vcpus));
	count = 0;
	stub_ready = 0;
}

/* One more vCPU in PAPR mode; without that KVM_RUN is EINVAL (seen live). */
static const char *add_vcpu(int size)
{
	struct kvm_enable_cap papr = { .cap = KVM_CAP_PPC_PAPR };
	struct vcpu *v = &vcpus[count];
	void *run;

	v->fd = ioctl(vm_fd, KVM_CREATE_VCPU, count);
	if (v->fd < 0)
		return "create-vcpu";
	count++;
	if (ioctl(v->fd, KVM_ENABLE_CAP, &papr))
		return "enable-papr";
	v->run_size = size;
	run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return "mmap-run";
	v->run = run;
	return NULL;
}

/* vcpu [COUNT] */
void do_vcpu(const struct command *c)
{
	struct sigaction alarm_action = { .sa_handler = on_alarm };
	int kvm, size, bad = 0;
	uint64_t wanted = c->argc > 1 ? number(c, 1, &bad) : 1;
	const char *problem = NULL;

	if (vm_fd < 0 || count || bad || wanted > MAX_VCPUS) {
		reply_error(vm_fd < 0 ? "no-vm" : count ? "vcpu-exists" : "arguments", EINVAL);
		return;
	}
	sigaction(SIGALRM, &alarm_action, NULL);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	size = kvm < 0 ? -1 : ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (kvm >= 0)
		close(kvm);
	while (!problem && (uint64_t)count < wanted)
		problem = size < 0 ? "mmap-size" : add_vcpu(size);
	if (problem) {
		reply_error(problem, errno);
		vcpu_close();
		return;
	}
	reply("ok fd=%d", vcpus[0].fd);
}

static int start_stub(struct vcpu *v)
{
	struct kvm_regs regs = { .pc = stub_gpa, .msr = MSR_SF | MSR_ME | MSR_LE };

	regs.gpr[31] = v->mailbox;
	v->lost = 0;
	return ioctl(v->fd, KVM_SET_REGS, &regs);
}

/* stub CODE_GPA MAILBOX_GPA: the mailboxes of further vCPUs follow in the same page. */
void do_stub(const struct command *c)
{
	size_t length = guest_stub_end - guest_stub;
	int bad = 0;
	uint64_t code = number(c, 1, &bad), mailbox = number(c, 2, &bad);
	unsigned char *at = guest_memory(code, length);

	if (bad || !count || !at || !guest_memory(mailbox, MAX_VCPUS * MAILBOX_SIZE) ||
	    mailbox % 8) {
		reply_error(!count ? "no-vcpu" : "arguments", EINVAL);
		return;
	}
	memcpy(at, guest_stub, length);
	stub_gpa = code;
	for (int i = 0; i < count; i++) {
		vcpus[i].mailbox = mailbox + i * MAILBOX_SIZE;
		if (start_stub(&vcpus[i])) {
			reply_error("set-regs", errno);
			return;
		}
	}
	stub_ready = 1;
	reply("ok length=%zu", length);
}

static void reply_exit(struct vcpu *v, const char *what)
{
	struct kvm_regs g = { 0 };

	ioctl(v->fd, KVM_GET_REGS, &g);
	reply("error %s errno=%d exit_reason=%u pc=%#lx msr=%#lx srr0=%#lx srr1=%#lx lr=%#lx "
	      "r1=%#lx r3=%#lx r4=%#lx r5=%#lx r31=%#lx",
	      what, v->err, v->run->exit_reason, g.pc, g.msr, g.srr0, g.srr1, g.lr, g.gpr[1],
	      g.gpr[3], g.gpr[4], g.gpr[5], g.gpr[31]);
}

static void run(struct vcpu *v)
{
	do {
		v->result = ioctl(v->fd, KVM_RUN, 0);
		v->err = v->result < 0 ? errno : 0;
	} while (v->result < 0 && (v->err == EINTR || v->err == EAGAIN) && !v->run->immediate_exit);
}

/* The results r3 and r4 of a hypercall that has run; NULL with the error already replied. */
volatile uint64_t *vcpu_results(int vcpu)
{
	struct vcpu *v = &vcpus[vcpu];
	struct kvm_run *r = v->run;
	int hcall = v->result >= 0 && r->exit_reason == KVM_EXIT_PAPR_HCALL;

	if (hcall && r->papr_hcall.nr == HCALL_MAILBOX_DONE) {
		r->papr_hcall.ret = 0;
		return (volatile uint64_t *)guest_memory(v->mailbox + RESULTS, 16);
	}
	v->lost = 1;
	if (v->result < 0)
		reply_exit(v, v->err == EINTR ? "run-timeout" : "kvm-run");
	else
		reply_exit(v, hcall ? "unknown-hcall" : "unexpected-exit");
	return NULL;
}

/* Whether a vCPU cannot make hypercalls; the error is replied then. */
int vcpu_refuses(int vcpu)
{
	if (vcpu >= count || !stub_ready)
		reply_error(vcpu >= count ? "no-vcpu" : "no-stub", EINVAL);
	else if (!guest_memory(vcpus[vcpu].mailbox, MAILBOX_SIZE))
		reply_error("no-slot", EFAULT);
	else
		return 0;
	return 1;
}

/* Fill the mailbox of a vCPU that does not refuse. */
void vcpu_prepare(int vcpu, uint64_t nr, int arguments, const uint64_t *args)
{
	struct vcpu *v = &vcpus[vcpu];
	volatile uint64_t *mailbox =
		(volatile uint64_t *)guest_memory(v->mailbox, MAILBOX_SIZE);

	mailbox[0] = nr;
	for (int i = 0; i < 7; i++)
		mailbox[1 + i] = i < arguments ? args[i] : 0;
	if (v->lost)
		start_stub(v);
	v->run->immediate_exit = 0;
}

void vcpu_queue(int vcpu)
{
	vcpus[vcpu].queued = 1;
}

void vcpu_unqueue_all(void)
{
	for (int i = 0; i < count; i++)
		vcpus[i].queued = 0;
}

/* Run one vCPU that is prepared, and no other. */
void vcpu_run(int vcpu)
{
	struct itimerval limit = { .it_value = { .tv_sec = RUN_SECONDS } }, off = { 0 };

	setitimer(ITIMER_REAL, &limit, NULL);
	run(&vcpus[vcpu]);
	setitimer(ITIMER_REAL, &off, NULL);
}

/* Run one vCPU for as long as it is held by somebody who may `vcpu_interrupt` it. */
void vcpu_run_held(int vcpu)
{
	run(&vcpus[vcpu]);
}

/* KVM_RUN that ends at once: the vCPU belongs to this thread then. */
void vcpu_adopt(int vcpu)
{
	struct vcpu *v = &vcpus[vcpu];

	if (vcpu_refuses(vcpu))
		return;
	v->run->immediate_exit = 1;
	ioctl(v->fd, KVM_RUN, 0);
	v->run->immediate_exit = 0;
	reply("ok");
}

void vcpu_interrupt(unsigned long thread)
{
	on_alarm(0);
	pthread_kill(thread, SIGALRM);
}

static void *run_with_others(void *vcpu)
{
	pthread_barrier_wait(&start_line);
	run(vcpu);
	return NULL;
}

/*
 * together [COMMAND ...]: run every vCPU that has a queued hypercall, all at the same time,
 * and a command of the VMM meanwhile, whose reply is then the reply.
 */
void do_together(const struct command *c)
{
	struct command meanwhile = { .argc = c->argc - 1 };
	pthread_t threads[MAX_VCPUS];
	int ready = 0, ran = 0;
	struct timespec limit;

	memcpy(meanwhile.argv, c->argv + 1, sizeof(*c->argv) * (MAX_ARGS - 1));
	for (int i = 0; i < count; i++)
		ready += vcpus[i].queued;
	if (!ready) {
		reply_error("nothing-queued", EINVAL);
		return;
	}
	if (meanwhile.argc && vmm_refuses(&meanwhile)) {
		vcpu_unqueue_all();
		return;
	}
	for (int i = 0; i < count; i++)
		if (vcpus[i].queued)
			prepare_queued(i);
	pthread_barrier_init(&start_line, NULL, ready + !!meanwhile.argc);
	for (int i = 0; i < count; i++)
		if (vcpus[i].queued && pthread_create(&threads[i], NULL, run_with_others, &vcpus[i]))
			_exit(1); /* the others would wait for ever */
	if (meanwhile.argc) {
		pthread_barrier_wait(&start_line);
		execute(&meanwhile);
	}
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += RUN_SECONDS;
	for (int i = 0; i < count; i++) {
		if (!vcpus[i].queued)
			continue;
		while (pthread_timedjoin_np(threads[i], NULL, &limit)) {
			on_alarm(0);
			pthread_kill(threads[i], SIGALRM);
			limit.tv_sec++;
		}
		vcpus[i].queued = 0;
		ran++;
	}
	pthread_barrier_destroy(&start_line);
	if (!meanwhile.argc)
		reply("ok ran=%d", ran);
}

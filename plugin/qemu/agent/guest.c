// SPDX-License-Identifier: MIT
/* The vCPU: hypercalls for the guest, and entries into its nested guests. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
#include <fcntl.h>

#include "agent.h"

#define H_ENTER_NESTED 0xF804
#define MSR_SF (1UL << 63)
#define MSR_ME (1UL << 12)
#define MSR_LE 1UL
#define LPCR_ILE (1UL << 25)
#define TB_HZ 512000000UL
#define RUN_SECONDS 5
#define REGS_OFFSET 0x1000

/* struct hv_guest_state, version 2 (arch/powerpc/include/asm/hvcall.h). */
struct hv_guest_state {
	uint64_t version;
	uint32_t lpid, vcpu_token;
	uint64_t lpcr, pcr, amor, dpdes, hfscr;
	int64_t tb_offset;
	uint64_t dawr0, dawrx0, ciabr, hdec_expiry, purr, spurr, ic, vtb;
	uint64_t hdar, hdsisr, heir, asdr, srr0, srr1, sprg[4], pidr, cfar, ppr, dawr1, dawrx1;
};

/* struct pt_regs, the part that H_ENTER_NESTED copies. */
struct nested_regs {
	uint64_t gpr[32], nip, msr, orig_gpr3, ctr, link, xer, ccr, softe, trap, dar, dsisr, result;
};

static int vcpu_fd = -1;
static size_t run_size;
static struct kvm_run *run;
static uint64_t stub_gpa, mailbox_gpa;
static int stub_ready, stub_lost;

static void on_alarm(int number)
{
	(void)number;
	if (run)
		run->immediate_exit = 1;
}

void vcpu_close(void)
{
	if (run)
		munmap(run, run_size);
	if (vcpu_fd >= 0)
		close(vcpu_fd);
	run = NULL;
	vcpu_fd = -1;
	stub_ready = 0;
}

void do_vcpu(const struct command *c)
{
	struct kvm_enable_cap papr = { .cap = KVM_CAP_PPC_PAPR };
	struct sigaction alarm_action = { .sa_handler = on_alarm };
	int kvm, size;

	(void)c;
	if (vm_fd < 0 || vcpu_fd >= 0) {
		reply_error(vm_fd < 0 ? "no-vm" : "vcpu-exists", EINVAL);
		return;
	}
	sigaction(SIGALRM, &alarm_action, NULL);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	size = kvm < 0 ? -1 : ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (kvm >= 0)
		close(kvm);
	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (vcpu_fd < 0 || size < 0) {
		reply_error("create-vcpu", errno);
		vcpu_close();
		return;
	}
	/* Without it KVM_RUN is EINVAL (seen live). */
	if (ioctl(vcpu_fd, KVM_ENABLE_CAP, &papr)) {
		reply_error("enable-papr", errno);
		vcpu_close();
		return;
	}
	run_size = size;
	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED) {
		run = NULL;
		reply_error("mmap-run", errno);
		vcpu_close();
		return;
	}
	reply("ok fd=%d", vcpu_fd);
}

static int start_stub(void)
{
	struct kvm_regs regs = { .pc = stub_gpa, .msr = MSR_SF | MSR_ME | MSR_LE };

	regs.gpr[31] = mailbox_gpa;
	stub_lost = 0;
	return ioctl(vcpu_fd, KVM_SET_REGS, &regs);
}

/* stub CODE_GPA MAILBOX_GPA */
void do_stub(const struct command *c)
{
	size_t length = guest_stub_end - guest_stub;
	int bad = 0;
	uint64_t code = number(c, 1, &bad), mailbox = number(c, 2, &bad);
	unsigned char *at = guest_memory(code, length);

	if (bad || vcpu_fd < 0 || !at || !guest_memory(mailbox, 256) || mailbox % 8) {
		reply_error(vcpu_fd < 0 ? "no-vcpu" : "arguments", EINVAL);
		return;
	}
	memcpy(at, guest_stub, length);
	stub_gpa = code;
	mailbox_gpa = mailbox;
	if (start_stub()) {
		reply_error("set-regs", errno);
		return;
	}
	stub_ready = 1;
	reply("ok length=%zu", length);
}

/* payload GPA */
void do_payload(const struct command *c)
{
	size_t length = nested_payload_end - nested_payload;
	int bad = 0;
	uint64_t gpa = number(c, 1, &bad);
	unsigned char *at = guest_memory(gpa, length);

	if (bad || !at) {
		reply_error(bad ? "arguments" : "no-slot", bad ? EINVAL : EFAULT);
		return;
	}
	memcpy(at, nested_payload, length);
	reply("ok length=%zu", length);
}

static void reply_exit(const char *what, int err)
{
	struct kvm_regs g = { 0 };

	ioctl(vcpu_fd, KVM_GET_REGS, &g);
	reply("error %s errno=%d exit_reason=%u pc=%#lx msr=%#lx srr0=%#lx srr1=%#lx lr=%#lx "
	      "r1=%#lx r3=%#lx r4=%#lx r5=%#lx r31=%#lx",
	      what, err, run->exit_reason, g.pc, g.msr, g.srr0, g.srr1, g.lr, g.gpr[1], g.gpr[3],
	      g.gpr[4], g.gpr[5], g.gpr[31]);
}

/* Run the vCPU until the stub says done. 0, or -1 with the error already replied. */
static int run_stub(void)
{
	struct itimerval limit = { .it_value = { .tv_sec = RUN_SECONDS } }, off = { 0 };
	int r, err;

	if (stub_lost)
		start_stub();
	run->immediate_exit = 0;
	setitimer(ITIMER_REAL, &limit, NULL);
	do {
		r = ioctl(vcpu_fd, KVM_RUN, 0);
		err = errno;
	} while (r < 0 && (err == EINTR || err == EAGAIN) && !run->immediate_exit);
	setitimer(ITIMER_REAL, &off, NULL);

	if (r >= 0 && run->exit_reason == KVM_EXIT_PAPR_HCALL &&
	    run->papr_hcall.nr == HCALL_MAILBOX_DONE) {
		run->papr_hcall.ret = 0;
		return 0;
	}
	stub_lost = 1;
	if (r < 0)
		reply_exit(err == EINTR ? "run-timeout" : "kvm-run", err);
	else if (run->exit_reason == KVM_EXIT_PAPR_HCALL)
		reply_exit("unknown-hcall", 0);
	else
		reply_exit("unexpected-exit", 0);
	return -1;
}

/* One hypercall of the guest. The results are in mailbox[16] (r3) and mailbox[17] (r4). */
static volatile uint64_t *hypercall(uint64_t nr, int count, const uint64_t *args)
{
	volatile uint64_t *mailbox = (volatile uint64_t *)guest_memory(mailbox_gpa, 256);

	if (vcpu_fd < 0 || !stub_ready || !mailbox) {
		reply_error(vcpu_fd < 0 ? "no-vcpu" : "no-stub", EINVAL);
		return NULL;
	}
	mailbox[0] = nr;
	for (int i = 0; i < 7; i++)
		mailbox[1 + i] = i < count ? args[i] : 0;
	if (run_stub())
		return NULL;
	return (volatile uint64_t *)guest_memory(mailbox_gpa, 256);
}

/* hcall NR [A0 .. A6] */
void do_hcall(const struct command *c)
{
	volatile uint64_t *mailbox;
	uint64_t args[7] = { 0 }, nr;
	int bad = 0;

	nr = number(c, 1, &bad);
	for (int i = 0; i < 7 && i + 2 < c->argc; i++)
		args[i] = number(c, i + 2, &bad);
	if (bad || c->argc > 9) {
		reply_error("arguments", EINVAL);
		return;
	}
	mailbox = hypercall(nr, 7, args);
	if (mailbox)
		reply("ok ret=%#lx r4=%#lx", mailbox[16], mailbox[17]);
}

static uint64_t timebase(void)
{
	uint64_t tb;

	__asm__ volatile("mfspr %0, 268" : "=r"(tb));
	return tb;
}

/* enter L1_LPID NIP R3 R4 R5 STATE_GPA: hv_guest_state there, pt_regs 0x1000 further on. */
void do_enter(const struct command *c)
{
	struct hv_guest_state *hv;
	struct nested_regs *regs;
	volatile uint64_t *mailbox;
	int bad = 0;
	uint64_t lpid = number(c, 1, &bad), nip = number(c, 2, &bad), r3 = number(c, 3, &bad);
	uint64_t r4 = number(c, 4, &bad), r5 = number(c, 5, &bad), state = number(c, 6, &bad);
	uint64_t args[2] = { state, state + REGS_OFFSET };

	if (bad || state % 8) {
		reply_error("arguments", EINVAL);
		return;
	}
	hv = (void *)guest_memory(state, REGS_OFFSET + sizeof(*regs));
	if (!hv) {
		reply_error("no-slot", EFAULT);
		return;
	}
	regs = (void *)((unsigned char *)hv + REGS_OFFSET);
	memset(hv, 0, sizeof(*hv));
	memset(regs, 0, sizeof(*regs));
	hv->version = 2;
	hv->lpid = lpid;
	hv->lpcr = LPCR_ILE;
	hv->hdec_expiry = timebase() + TB_HZ; /* a hung nested guest comes back after 1 s */
	regs->gpr[3] = r3;
	regs->gpr[4] = r4;
	regs->gpr[5] = r5;
	regs->nip = nip;
	regs->msr = MSR_SF | MSR_ME | MSR_LE;
	mailbox = hypercall(H_ENTER_NESTED, 2, args);
	if (!mailbox)
		return;
	reply("ok ret=%#lx nip=%#lx msr=%#lx r3=%#lx r4=%#lx r5=%#lx r6=%#lx hdar=%#lx "
	      "hdsisr=%#lx asdr=%#lx heir=%#lx srr0=%#lx srr1=%#lx",
	      mailbox[16], regs->nip, regs->msr, regs->gpr[3], regs->gpr[4], regs->gpr[5],
	      regs->gpr[6], hv->hdar, hv->hdsisr, hv->asdr, hv->heir, hv->srr0, hv->srr1);
}

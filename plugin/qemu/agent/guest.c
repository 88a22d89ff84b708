// SPDX-License-Identifier: MIT
/* Hypercalls for the guest, and entries into its nested guests. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define H_ENTER_NESTED 0xF804
#define MSR_SF (1UL << 63)
#define MSR_ME (1UL << 12)
#define MSR_LE 1UL
#define LPCR_ILE (1UL << 25)
#define TB_HZ 512000000UL
#define NESTED_SECONDS 1
#define HELD_SECONDS 20 /* who is held meanwhile */
#define REGS_OFFSET 0x1000
#define ENTRY_SIZE (REGS_OFFSET + sizeof(struct nested_regs))

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

/* What each vCPU did last: an entry at this address, or (0) any hypercall. */
static uint64_t last_state[MAX_VCPUS];

/* What is queued for each vCPU, from `hcall` or `enter` on. */
static struct queued {
	struct command command;
	char words[512];
} queued[MAX_VCPUS];

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

static uint64_t timebase(void)
{
	uint64_t tb;

	__asm__ volatile("mfspr %0, 268" : "=r"(tb));
	return tb;
}

/* hcall NR [A0 .. A6] */
static void prepare_hcall(const struct command *c, int vcpu)
{
	uint64_t args[7] = { 0 };
	int bad = 0;

	for (int i = 0; i < 7 && i + 2 < c->argc; i++)
		args[i] = number(c, i + 2, &bad);
	last_state[vcpu] = 0;
	vcpu_prepare(vcpu, number(c, 1, &bad), 7, args);
}

/* enter L1_LPID NIP R3 R4 R5 STATE_GPA: hv_guest_state there, pt_regs 0x1000 further on. */
static void prepare_entry(const struct command *c, int vcpu, int seconds)
{
	struct hv_guest_state *hv;
	struct nested_regs *regs;
	int bad = 0;
	uint64_t lpid = number(c, 1, &bad), nip = number(c, 2, &bad), r3 = number(c, 3, &bad);
	uint64_t r4 = number(c, 4, &bad), r5 = number(c, 5, &bad), state = number(c, 6, &bad);
	uint64_t args[2] = { state, state + REGS_OFFSET };

	hv = (void *)guest_memory(state, ENTRY_SIZE);
	regs = (void *)((unsigned char *)hv + REGS_OFFSET);
	memset(hv, 0, sizeof(*hv));
	memset(regs, 0, sizeof(*regs));
	hv->version = 2;
	hv->lpid = lpid;
	hv->lpcr = LPCR_ILE;
	hv->hdec_expiry = timebase() + seconds * TB_HZ; /* then a hung nested guest comes back */
	regs->gpr[3] = r3;
	regs->gpr[4] = r4;
	regs->gpr[5] = r5;
	regs->nip = nip;
	regs->msr = MSR_SF | MSR_ME | MSR_LE;
	last_state[vcpu] = state;
	vcpu_prepare(vcpu, H_ENTER_NESTED, 2, args);
}

static int is_entry(const struct command *c)
{
	return !strcmp(c->argv[0], "enter");
}

/* Whether `hcall ...` or `enter ...` cannot be done; the error is replied then. */
static int guest_refuses(const struct command *c, int vcpu)
{
	int bad = is_entry(c) ? c->argc != 7 : c->argc < 2 || c->argc > 9;
	uint64_t last = 0;

	for (int i = 1; i < c->argc; i++)
		last = number(c, i, &bad);
	if (bad || (is_entry(c) && last % 8))
		reply_error("arguments", EINVAL);
	else if (is_entry(c) && !guest_memory(last, ENTRY_SIZE))
		reply_error("no-slot", EFAULT);
	else
		return vcpu_refuses(vcpu);
	return 1;
}

static void prepare(const struct command *c, int vcpu, int seconds)
{
	if (is_entry(c))
		prepare_entry(c, vcpu, seconds);
	else
		prepare_hcall(c, vcpu);
}

void prepare_queued(int vcpu)
{
	prepare(&queued[vcpu].command, vcpu, NESTED_SECONDS);
}

/* What became of the last hypercall of a vCPU. */
static void reply_answer(int vcpu)
{
	volatile uint64_t *results = vcpu_results(vcpu);
	struct hv_guest_state *hv;
	struct nested_regs *regs;

	if (!results)
		return;
	if (!last_state[vcpu]) {
		reply("ok ret=%#lx r4=%#lx", results[0], results[1]);
		return;
	}
	hv = (void *)guest_memory(last_state[vcpu], ENTRY_SIZE);
	if (!hv) {
		reply_error("no-slot", EFAULT);
		return;
	}
	regs = (void *)((unsigned char *)hv + REGS_OFFSET);
	reply("ok ret=%#lx nip=%#lx msr=%#lx r3=%#lx r4=%#lx r5=%#lx r6=%#lx hdar=%#lx "
	      "hdsisr=%#lx asdr=%#lx heir=%#lx srr0=%#lx srr1=%#lx",
	      results[0], regs->nip, regs->msr, regs->gpr[3], regs->gpr[4], regs->gpr[5],
	      regs->gpr[6], hv->hdar, hv->hdsisr, hv->asdr, hv->heir, hv->srr0, hv->srr1);
}

/* `hcall ...` and `enter ...` */
void do_call(const struct command *c)
{
	if (guest_refuses(c, 0))
		return;
	prepare(c, 0, NESTED_SECONDS);
	vcpu_run(0);
	reply_answer(0);
}

/* `hcall ...` or `enter ...` on any vCPU, in a thread of its own (worker.c) */
void call_held(const struct command *c, int vcpu)
{
	if (guest_refuses(c, vcpu))
		return;
	prepare(c, vcpu, HELD_SECONDS);
	vcpu_run_held(vcpu);
	reply_answer(vcpu);
}

/*
 * queue VCPU hcall ... | queue VCPU enter ...: for `together`. Nothing is touched yet: what is
 * refused takes back all that is queued.
 */
void do_queue(const struct command *c)
{
	int bad = 0;
	uint64_t vcpu = number(c, 1, &bad);

	if (bad || c->argc < 3 || vcpu >= MAX_VCPUS ||
	    command_keep(&queued[vcpu].command, queued[vcpu].words, sizeof(queued[vcpu].words), c)) {
		reply_error("arguments", EINVAL);
		vcpu_unqueue_all();
	} else if (guest_refuses(&queued[vcpu].command, vcpu)) {
		vcpu_unqueue_all();
	} else {
		vcpu_queue(vcpu);
		reply("ok");
	}
}

/* answer VCPU: what `hcall` or `enter` would have replied. */
void do_answer(const struct command *c)
{
	int bad = 0;
	uint64_t vcpu = number(c, 1, &bad);

	if (bad || vcpu >= MAX_VCPUS)
		reply_error("arguments", EINVAL);
	else
		reply_answer(vcpu);
}

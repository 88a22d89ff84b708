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

/* What is queued for each vCPU: an entry at `state`, or (0) any hypercall. */
static uint64_t queued_state[MAX_VCPUS];

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

/* hcall NR [A0 .. A6], from argv[first] on */
static int prepare_hcall(const struct command *c, int first, int vcpu)
{
	uint64_t args[7] = { 0 }, nr;
	int bad = 0;

	nr = number(c, first, &bad);
	for (int i = 0; i < 7 && i + first + 1 < c->argc; i++)
		args[i] = number(c, i + first + 1, &bad);
	if (bad || c->argc > first + 8) {
		reply_error("arguments", EINVAL);
		return -1;
	}
	queued_state[vcpu] = 0;
	return vcpu_prepare(vcpu, nr, 7, args);
}

/* enter L1_LPID NIP R3 R4 R5 STATE_GPA: hv_guest_state there, pt_regs 0x1000 further on. */
static int prepare_entry(const struct command *c, int first, int vcpu)
{
	struct hv_guest_state *hv;
	struct nested_regs *regs;
	int bad = 0;
	uint64_t lpid = number(c, first, &bad), nip = number(c, first + 1, &bad);
	uint64_t r3 = number(c, first + 2, &bad), r4 = number(c, first + 3, &bad);
	uint64_t r5 = number(c, first + 4, &bad), state = number(c, first + 5, &bad);
	uint64_t args[2] = { state, state + REGS_OFFSET };

	if (bad || state % 8) {
		reply_error("arguments", EINVAL);
		return -1;
	}
	hv = (void *)guest_memory(state, REGS_OFFSET + sizeof(*regs));
	if (!hv) {
		reply_error("no-slot", EFAULT);
		return -1;
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
	queued_state[vcpu] = state;
	return vcpu_prepare(vcpu, H_ENTER_NESTED, 2, args);
}

/* What became of the last hypercall of a vCPU. */
static void reply_answer(int vcpu)
{
	volatile uint64_t *results = vcpu_results(vcpu);
	struct hv_guest_state *hv;
	struct nested_regs *regs;

	if (!results)
		return;
	if (!queued_state[vcpu]) {
		reply("ok ret=%#lx r4=%#lx", results[0], results[1]);
		return;
	}
	hv = (void *)guest_memory(queued_state[vcpu], REGS_OFFSET + sizeof(*regs));
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

void do_hcall(const struct command *c)
{
	if (prepare_hcall(c, 1, 0))
		return;
	vcpu_run(0);
	reply_answer(0);
}

void do_enter(const struct command *c)
{
	if (prepare_entry(c, 1, 0))
		return;
	vcpu_run(0);
	reply_answer(0);
}

/* queue VCPU hcall ... | queue VCPU enter ...: for `together`. */
void do_queue(const struct command *c)
{
	int bad = 0, failed;
	uint64_t vcpu = number(c, 1, &bad);

	if (bad || c->argc < 3 || vcpu >= MAX_VCPUS) {
		reply_error("arguments", EINVAL);
		return;
	}
	failed = strcmp(c->argv[2], "enter") ? prepare_hcall(c, 3, vcpu) : prepare_entry(c, 3, vcpu);
	if (!failed)
		reply("ok");
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

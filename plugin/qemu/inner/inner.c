// SPDX-License-Identifier: MIT
/*
 * init of the inner kernel: runs guests of its own, which are nested guests of the outer one.
 *
 * Each guest has MEMORY bytes and writes to each of its pages. Then the inner kernel gives
 * half of them back, and the guest writes again. "nestscope-inner: guest N done", and at
 * the end "nestscope-inner: done"; then the inner machine powers off.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/reboot.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <unistd.h>

#define GUESTS 3
#define ROUNDS 3
#define MEMORY (8UL << 20)
#define ALIGN (2UL << 20)
#define MSR_SF (1UL << 63)
#define MSR_ME (1UL << 12)
#define MSR_LE 1UL

/* r3 first address, r4 end, r5 step: store there, then leave by an hcall that KVM lacks. */
__asm__(".balign 16\n"
	"touch:\n"
	"1:	std	3, 8(3)\n"
	"	add	3, 3, 5\n"
	"	cmpld	3, 4\n"
	"	blt	1b\n"
	"	li	3, 0x7ff0\n"
	"	sc	1\n"
	"	b	.\n"
	"touch_end:\n");
extern const char touch[], touch_end[];

static int fail(const char *what)
{
	printf("nestscope-inner: %s: %s\n", what, strerror(errno));
	return -1;
}

static int run_round(int vcpu, struct kvm_run *run, uint64_t step)
{
	struct kvm_regs regs = { .pc = 0, .msr = MSR_SF | MSR_ME | MSR_LE };

	regs.gpr[3] = step;
	regs.gpr[4] = MEMORY;
	regs.gpr[5] = step;
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		return fail("KVM_SET_REGS");
	/* On entry KVM puts this into r3, if the guest left by an hcall before. */
	run->papr_hcall.ret = step;
	do {
		if (ioctl(vcpu, KVM_RUN, 0) && errno != EINTR)
			return fail("KVM_RUN");
	} while (run->exit_reason == KVM_EXIT_INTR);
	if (run->exit_reason != KVM_EXIT_PAPR_HCALL) {
		printf("nestscope-inner: exit %u\n", run->exit_reason);
		return -1;
	}
	return 0;
}

static int run_guest(int kvm, int number)
{
	struct kvm_enable_cap papr = { .cap = KVM_CAP_PPC_PAPR };
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), page = sysconf(_SC_PAGESIZE);
	char *area = mmap(NULL, MEMORY + ALIGN, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *memory = (char *)(((uintptr_t)area + ALIGN - 1) & -ALIGN);
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY,
						    .userspace_addr = (uintptr_t)memory };
	int vm = ioctl(kvm, KVM_CREATE_VM, 0), vcpu, result = -1;
	struct kvm_run *run;

	if (area == MAP_FAILED || vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
		return fail("KVM_CREATE_VM");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0 || ioctl(vcpu, KVM_ENABLE_CAP, &papr))
		return fail("KVM_CREATE_VCPU");
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	memcpy(memory, touch, touch_end - touch);
	for (int round = 0; round < ROUNDS; round++) {
		result = run_round(vcpu, run, page);
		if (result)
			break;
		/* The upper half: its pages are other ones after this. */
		madvise(memory + MEMORY / 2, MEMORY / 2, MADV_DONTNEED);
	}
	munmap(run, size);
	close(vcpu);
	close(vm);
	munmap(area, MEMORY + ALIGN);
	if (!result)
		printf("nestscope-inner: guest %d done\n", number);
	return result;
}

int main(void)
{
	int kvm, failed = 0;

	setbuf(stdout, NULL);
	mount_all();
	load_modules("nestscope-inner");
	printf("nestscope-inner: in user space\n");
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		failed = fail("/dev/kvm");
	for (int i = 0; i < GUESTS && !failed; i++)
		failed = run_guest(kvm, i);
	printf("nestscope-inner: %s\n", failed ? "failed" : "done");
	reboot(LINUX_REBOOT_CMD_POWER_OFF);
	for (;;)
		pause();
}

// SPDX-License-Identifier: MIT
/* /dev/kvm, the VM, the mode of its MMU. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent.h"

#define H_RPT_INVALIDATE 0x448
#define HCALL_ENABLE 1

int vm_fd = -1;
static int kvm_fd = -1;

static int kvm_open(void)
{
	if (kvm_fd < 0)
		kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return kvm_fd;
}

void do_hello(const struct command *c)
{
	struct utsname name;

	(void)c;
	uname(&name);
	if (kvm_open() < 0) {
		reply_error("kvm", errno);
		return;
	}
	reply("ok page_size=%ld pid=%d nested_hv=%d damon=%d release=%s", sysconf(_SC_PAGESIZE),
	      getpid(), ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PPC_NESTED_HV), has_damon(),
	      name.release);
}

void do_vm(const struct command *c)
{
	struct kvm_enable_cap nested = { .cap = KVM_CAP_PPC_NESTED_HV, .args = { 1 } };
	struct kvm_enable_cap hcall = { .cap = KVM_CAP_PPC_ENABLE_HCALL,
					.args = { H_RPT_INVALIDATE, HCALL_ENABLE } };

	(void)c;
	if (vm_fd >= 0) {
		reply_error("vm-exists", EEXIST);
		return;
	}
	if (kvm_open() < 0) {
		reply_error("kvm", errno);
		return;
	}
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0) {
		reply_error("create-vm", errno);
		return;
	}
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &nested) || ioctl(vm_fd, KVM_ENABLE_CAP, &hcall)) {
		reply_error("enable-cap", errno);
		close(vm_fd);
		vm_fd = -1;
		return;
	}
	reply("ok fd=%d", vm_fd);
}

/* Let a WARN_ON_ONCE warn again, so that every VM begins with the same kernel. */
static void warn_again(void)
{
	int fd = open("/sys/kernel/debug/clear_warn_once", O_WRONLY | O_CLOEXEC);

	/* A kernel without debugfs warns once in a boot; there is nothing to be done. */
	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		printf("nestscope-agent: clear_warn_once: %s\n", strerror(errno));
	close(fd);
}

/* destroy: end the VM and free its memory, so that a clean one can be made. */
void do_destroy(const struct command *c)
{
	(void)c;
	warn_again();
	vcpu_close();
	if (vm_fd >= 0)
		close(vm_fd);
	vm_fd = -1;
	forget_slots();
	free_memory();
	reply("ok");
}

/* mmu FLAGS PROCESS_TABLE: KVM_PPC_CONFIGURE_V3_MMU; FLAGS 1 is radix, 2 GTSE. */
void do_mmu(const struct command *c)
{
	int bad = 0;
	struct kvm_ppc_mmuv3_cfg config = { .flags = number(c, 1, &bad),
					    .process_table = number(c, 2, &bad) };

	if (bad || vm_fd < 0)
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
	else
		reply_result(ioctl(vm_fd, KVM_PPC_CONFIGURE_V3_MMU, &config));
}

/* htab ORDER: KVM_PPC_ALLOCATE_HTAB, a hash page table of 1 << ORDER bytes. */
void do_htab(const struct command *c)
{
	int bad = 0;
	uint32_t order = number(c, 1, &bad);

	if (bad || vm_fd < 0)
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
	else
		reply_result(ioctl(vm_fd, KVM_PPC_ALLOCATE_HTAB, &order));
}

/* listing: the kernel's own print of the host tree and the shadow trees. */
void do_listing(const struct command *c)
{
	char path[128];

	(void)c;
	if (vm_fd < 0) {
		reply_error("no-vm", EINVAL);
		return;
	}
	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/radix", getpid(), vm_fd);
	reply_file(path);
}

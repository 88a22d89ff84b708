// SPDX-License-Identifier: MIT
/* /dev/kvm, the VM and its memslots. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent.h"

/* User addresses of slots: below 64 TiB, where a kernel with 4K pages still maps at a hint. */
#define HVA_FIRST 0x100000000000UL
#define HVA_ALIGN (1UL << 30)

int vm_fd = -1;
static int kvm_fd = -1;
static struct slot slots[MAX_SLOTS];
static uint64_t hva_next = HVA_FIRST;

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
	reply("ok page_size=%ld pid=%d nested_hv=%d release=%s", sysconf(_SC_PAGESIZE), getpid(),
	      ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PPC_NESTED_HV), name.release);
}

void do_vm(const struct command *c)
{
	struct kvm_enable_cap nested = { .cap = KVM_CAP_PPC_NESTED_HV, .args = { 1 } };

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
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &nested)) {
		reply_error("enable-nested-hv", errno);
		close(vm_fd);
		vm_fd = -1;
		return;
	}
	reply("ok fd=%d", vm_fd);
}

unsigned char *guest_memory(uint64_t gpa, uint64_t length)
{
	for (int i = 0; i < MAX_SLOTS; i++) {
		struct slot *s = &slots[i];

		if (s->size && gpa >= s->gpa && length <= s->size && gpa - s->gpa <= s->size - length)
			return s->hva + (gpa - s->gpa);
	}
	return NULL;
}

static int set_region(int id, const struct slot *s, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = s->gpa,
		.memory_size = s->size,
		.userspace_addr = (uint64_t)s->hva,
	};

	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Address space for a slot: congruent to the gpa, so that the host may use large pages. */
static unsigned char *map_memory(uint64_t gpa, uint64_t size, int huge)
{
	uint64_t hint = hva_next + (gpa & (HVA_ALIGN - 1));
	unsigned char *at = mmap((void *)hint, size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
				 -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	madvise(at, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	hva_next = (hint + size + 2 * HVA_ALIGN - 1) & ~(HVA_ALIGN - 1);
	return at;
}

/* slot ID GPA SIZE FLAGS [huge]: make, move, change the flags of, or (SIZE 0) delete a slot. */
void do_slot(const struct command *c)
{
	int bad = 0, fresh;
	uint64_t id = number(c, 1, &bad), gpa = number(c, 2, &bad);
	uint64_t size = number(c, 3, &bad), flags = number(c, 4, &bad);
	struct slot now, *old;

	if (bad || id >= MAX_SLOTS || vm_fd < 0) {
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
		return;
	}
	old = &slots[id];
	now = (struct slot){ .gpa = gpa, .size = size, .hva = old->hva };
	fresh = old->size == 0;
	if (!size) {
		if (set_region(id, &now, 0)) {
			reply_error("set-region", errno);
			return;
		}
		if (!fresh)
			munmap(old->hva, old->size);
		memset(old, 0, sizeof(*old));
		reply("ok");
		return;
	}
	if (fresh)
		now.hva = map_memory(gpa, size, c->argc > 5 && !strcmp(c->argv[5], "huge"));
	if (!now.hva) {
		reply_error("mmap", errno);
		return;
	}
	if (set_region(id, &now, flags)) {
		reply_error("set-region", errno);
		if (fresh)
			munmap(now.hva, size);
		return;
	}
	*old = now;
	reply("ok hva=%#lx", (unsigned long)now.hva);
}

/* destroy: end the VM and free its memory, so that a clean one can be made. */
void do_destroy(const struct command *c)
{
	(void)c;
	vcpu_close();
	if (vm_fd >= 0)
		close(vm_fd);
	vm_fd = -1;
	for (int i = 0; i < MAX_SLOTS; i++)
		if (slots[i].size)
			munmap(slots[i].hva, slots[i].size);
	memset(slots, 0, sizeof(slots));
	hva_next = HVA_FIRST;
	reply("ok");
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

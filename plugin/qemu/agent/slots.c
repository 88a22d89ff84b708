// SPDX-License-Identifier: MIT
/* Memslots, as KVM_SET_USER_MEMORY_REGION takes them, and their dirty logs. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

/* What the kernel has accepted. size == 0: not in use. */
static struct slot {
	uint32_t id;
	uint64_t gpa, size, hva;
	uint32_t flags;
} slots[MAX_SLOTS];

unsigned char *guest_memory(uint64_t gpa, uint64_t length)
{
	for (int i = 0; i < MAX_SLOTS; i++) {
		struct slot *s = &slots[i];
		uint64_t hva = s->hva + (gpa - s->gpa);

		if (s->size && gpa >= s->gpa && length <= s->size && gpa - s->gpa <= s->size - length)
			return has_memory(hva, length) ? (unsigned char *)hva : NULL;
	}
	return NULL;
}

void forget_slots(void)
{
	memset(slots, 0, sizeof(slots));
}

/* The slot of this id, or one that is free; NULL without either. */
static struct slot *find_slot(uint32_t id, int free_too)
{
	struct slot *unused = NULL;

	for (int i = 0; i < MAX_SLOTS; i++) {
		if (slots[i].size && slots[i].id == id)
			return &slots[i];
		if (!slots[i].size)
			unused = &slots[i];
	}
	return free_too ? unused : NULL;
}

int slot_exists(uint64_t id)
{
	return find_slot(id, 0) != NULL;
}

/* The ioctl; what it accepts is remembered. */
static int set_region(const struct slot *now)
{
	struct kvm_userspace_memory_region region = {
		.slot = now->id,
		.flags = now->flags,
		.guest_phys_addr = now->gpa,
		.memory_size = now->size,
		.userspace_addr = now->hva,
	};
	struct slot *kept = find_slot(now->id, now->size != 0);
	int r;

	if (!kept && now->size) {
		errno = ENOSPC;
		return -1;
	}
	r = ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
	if (!r && kept)
		*kept = *now;
	return r;
}

/* region ID GPA SIZE HVA FLAGS: any arguments; fresh memory where there is none. ret */
void do_region(const struct command *c)
{
	uint64_t page = sysconf(_SC_PAGESIZE);
	int bad = 0;
	struct slot now = { .id = number(c, 1, &bad),
			    .gpa = number(c, 2, &bad),
			    .size = number(c, 3, &bad),
			    .hva = number(c, 4, &bad),
			    .flags = number(c, 5, &bad) };

	if (bad || vm_fd < 0) {
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
		return;
	}
	if (!((now.hva | now.size) % page) && ensure_memory(now.hva, now.size, 0)) {
		reply_error("mmap", errno);
		return;
	}
	reply_result(set_region(&now));
}

/* move ID GPA: the same slot at another address. ret */
void do_move(const struct command *c)
{
	int bad = 0;
	struct slot *old = find_slot(number(c, 1, &bad), 0), now;
	uint64_t gpa = number(c, 2, &bad);

	if (bad || vm_fd < 0 || !old) {
		reply_error(bad ? "arguments" : "no-slot", EINVAL);
		return;
	}
	now = *old;
	now.gpa = gpa;
	reply_result(set_region(&now));
}

/* flags ID FLAGS: the same slot with other flags. ret */
void do_flags(const struct command *c)
{
	int bad = 0;
	struct slot *old = find_slot(number(c, 1, &bad), 0), now;
	uint64_t flags = number(c, 2, &bad);

	if (bad || vm_fd < 0 || !old) {
		reply_error(bad ? "arguments" : "no-slot", EINVAL);
		return;
	}
	now = *old;
	now.flags = flags;
	reply_result(set_region(&now));
}

/* slot ID GPA SIZE FLAGS [huge]: a slot with memory of its own, which goes with it (SIZE 0). */
void do_slot(const struct command *c)
{
	int bad = 0;
	struct slot now = { .id = number(c, 1, &bad),
			    .gpa = number(c, 2, &bad),
			    .size = number(c, 3, &bad),
			    .flags = number(c, 4, &bad) };
	struct slot *old = find_slot(now.id, 0), before = old ? *old : now;
	int huge = c->argc > 5 && !strcmp(c->argv[5], "huge");

	if (bad || vm_fd < 0 || now.id >= MAX_SLOTS) {
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
		return;
	}
	now.hva = old ? old->hva : (uint64_t)free_place(now.gpa, now.size);
	if (now.size && !old && ensure_memory(now.hva, now.size, huge)) {
		reply_error("mmap", errno);
		return;
	}
	if (set_region(&now)) {
		reply_error("set-region", errno);
		if (!old && now.size)
			release_memory(now.hva, now.size);
		return;
	}
	if (!now.size)
		release_memory(before.hva, before.size);
	reply("ok hva=%#lx", (unsigned long)now.hva);
}

/* dirtylog ID: the bitmap as raw bytes, or ret */
void do_dirtylog(const struct command *c)
{
	int bad = 0;
	struct kvm_dirty_log log = { .slot = number(c, 1, &bad) };
	struct slot *slot = find_slot(log.slot, 0);
	size_t pages = slot ? slot->size / sysconf(_SC_PAGESIZE) : 0;
	size_t bytes = (pages + 63) / 64 * 8;

	if (bad || vm_fd < 0) {
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
		return;
	}
	log.dirty_bitmap = calloc(1, bytes + 8);
	if (!log.dirty_bitmap) {
		reply_error("memory", ENOMEM);
		return;
	}
	if (ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log)) {
		reply_result(-1);
	} else {
		reply("ok ret=0 bytes=%zu", bytes);
		reply_raw(log.dirty_bitmap, bytes);
	}
	free(log.dirty_bitmap);
}

/* cleardirty ID FIRST COUNT: KVM_CLEAR_DIRTY_LOG with all bits set. ret */
void do_cleardirty(const struct command *c)
{
	int bad = 0;
	struct kvm_clear_dirty_log log = { .slot = number(c, 1, &bad) };
	size_t bytes;

	log.first_page = number(c, 2, &bad);
	log.num_pages = number(c, 3, &bad);
	bytes = ((uint64_t)log.num_pages + 63) / 64 * 8 + 8;
	if (bad || vm_fd < 0) {
		reply_error(vm_fd < 0 ? "no-vm" : "arguments", EINVAL);
		return;
	}
	log.dirty_bitmap = malloc(bytes);
	if (!log.dirty_bitmap) {
		reply_error("memory", ENOMEM);
		return;
	}
	memset(log.dirty_bitmap, 0xff, bytes);
	reply_result(ioctl(vm_fd, KVM_CLEAR_DIRTY_LOG, &log));
	free(log.dirty_bitmap);
}

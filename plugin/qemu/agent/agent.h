/* SPDX-License-Identifier: MIT */
/* What the files of the lab's guest agent share. */
#ifndef NESTSCOPE_AGENT_H
#define NESTSCOPE_AGENT_H

#include <stddef.h>
#include <stdint.h>

#define MAX_ARGS 24
#define MAX_SLOTS 64

/* One command line, split at blanks. argv[0] is the command's name. */
struct command {
	int argc;
	char *argv[MAX_ARGS];
};

/* reply.c: the agent's answers, one line for each command. */
void reply_open(int fd);
void reply_flush(void);
void reply_raw(const void *bytes, size_t length);
void reply(const char *format, ...) __attribute__((format(printf, 1, 2)));
void reply_error(const char *what, int err);
/* Whether a command was answered by `error` since the last `reply_begin`. */
void reply_begin(void);
int reply_failed(void);
/* `ok ret=N`: 0, or the negative errno of a system call that returned -1. */
void reply_result(int returned);
void reply_file(const char *path);

/* From now on what this thread replies is kept there, as far as there is room. */
struct captured {
	size_t used;
	char bytes[65536];
};
void reply_capture(struct captured *into);

/* main.c: run one command. */
void execute(const struct command *c);

/* Copy the words from argv[2] on, which are a command, into `room` bytes; -1 if they do not fit. */
int command_keep(struct command *copy, char *words, size_t room, const struct command *c);

/* Number in argv[i]; sets *bad when it is missing or malformed. */
uint64_t number(const struct command *c, int i, int *bad);

/* vm.c: /dev/kvm, the VM, the mode of its MMU. */
extern int vm_fd;
void do_hello(const struct command *c);
void do_vm(const struct command *c);
void do_destroy(const struct command *c);
void do_mmu(const struct command *c);
void do_htab(const struct command *c);
void do_listing(const struct command *c);

/* slots.c: memslots and their dirty logs. */
unsigned char *guest_memory(uint64_t gpa, uint64_t length);
int slot_exists(uint64_t id);
void forget_slots(void);
void do_slot(const struct command *c);
void do_region(const struct command *c);
void do_move(const struct command *c);
void do_flags(const struct command *c);
void do_dirtylog(const struct command *c);
void do_cleardirty(const struct command *c);

/* arena.c: where the VMM has memory. */
unsigned char *free_place(uint64_t gpa, uint64_t size);
int ensure_memory(uint64_t hva, uint64_t size, int huge);
int release_memory(uint64_t hva, uint64_t size);
int has_memory(uint64_t hva, uint64_t size);
void free_memory(void);

/* memory.c: bytes of guest memory, seen and changed from the VMM's side. */
void do_write(const struct command *c);
void do_read(const struct command *c);
void do_peek(const struct command *c);
void do_poke(const struct command *c);

/* host.c: what the host's memory management does to guest memory. */
void do_discard(const struct command *c);
void do_collapse(const struct command *c);
void do_split(const struct command *c);
void do_protect(const struct command *c);
void do_migrate(const struct command *c);
void do_remap(const struct command *c);
void do_fork(const struct command *c);
int clear_refs(const char *what);
void do_clearrefs(const struct command *c);

/* thp.c: huge pages that faults bring. */
#define THP "/sys/kernel/mm/transparent_hugepage/"
#define LRU_GEN "/sys/kernel/mm/lru_gen/enabled"
void tune(const char *path, const char *value);
void thp_settle(void);
void do_thp(const struct command *c);
void do_hugerefused(const struct command *c);

/* habits.c: what this kernel does where several ways are right. */
void do_habits(const struct command *c);

/* age.c: the host looks whether pages were used. */
int has_damon(void);
void do_age(const struct command *c);

/* vcpu.c: the vCPUs, and how their hypercalls run. */
#define MAX_VCPUS 4
#define MAILBOX_SIZE 0x100
#define RESULTS 0x80
void vcpu_close(void);
int vcpu_refuses(int vcpu);
void vcpu_queue(int vcpu);
void vcpu_unqueue_all(void);
void vcpu_prepare(int vcpu, uint64_t nr, int arguments, const uint64_t *args);
void vcpu_run(int vcpu);
volatile uint64_t *vcpu_results(int vcpu);
void do_vcpu(const struct command *c);
void do_stub(const struct command *c);
void do_together(const struct command *c);
void vcpu_run_held(int vcpu);
void vcpu_adopt(int vcpu);
void vcpu_interrupt(unsigned long thread);

/* refuse.c: whether a command of the VMM cannot be done at all, with the error replied. */
int vmm_refuses(const struct command *c);

/* guest.c: hypercalls, and entries into nested guests. */
void prepare_queued(int vcpu);
void do_payload(const struct command *c);
void do_call(const struct command *c);
void do_queue(const struct command *c);
void do_answer(const struct command *c);
void call_held(const struct command *c, int vcpu);

/* worker.c: commands in threads of their own. */
#define MAX_WORKERS 3
void do_begin(const struct command *c);
void do_ended(const struct command *c);

/* hugetlb.c: pages of hugetlbfs. */
int pool_reserve(unsigned int shift, long count);
void *hugetlb_map(void *at, uint64_t length, unsigned int shift);
void do_hugetlb(const struct command *c);

/* gigantic.c: pages of 1 GiB. */
int collapse_gigantic(unsigned char *at);

/* storm.c: interrupts all the time. */
void do_storm(const struct command *c);

/* payload.S */
extern const unsigned char guest_stub[], guest_stub_end[];
extern const unsigned char nested_payload[], nested_payload_end[];

/* The stub leaves to user space through an hcall number that KVM does not know. */
#define HCALL_MAILBOX_DONE 0x7ff0

#endif

/*
 * A TCG plugin that counts how often each instruction of the kernel's modules ran.
 *
 *   -plugin FILE,counters=FILE,ram=FILE
 *
 * `ram` is the file that backs the machine's RAM, `counters` a file with a counter
 * of 8 bytes (host order) for every 4 bytes of it: sparse, because only text of
 * modules is ever counted. Physical addresses are the index, so that a nested
 * guest's kernel, whose modules have the same virtual addresses, has other counters.
 *
 * The declarations are those of QEMU's plugin interface; its header is not part of
 * QEMU's binary packages. INTERFACE is its version: 1 (QEMU 4.2 to 8.2), where the
 * counting is compiled into the code, or 2 (since 9.0), where that can be done for
 * memory of QEMU's own only, so that a function is called.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, qemu_plugin_vcpu_tb_trans_cb_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, enum qemu_plugin_op,
						void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *,
					    void (*)(unsigned int, void *),
					    enum qemu_plugin_cb_flags, void *);

EXPORT int qemu_plugin_version = INTERFACE;

/* The kernel's vmalloc space, in which modules are loaded (asm/book3s/64/radix.h). */
#define VMALLOC_START 0xc008000000000000ULL
#define VMALLOC_END 0xc00a000000000000ULL

static char ram_path[PATH_MAX];
static uint8_t *ram;
static size_t ram_size;
static uint64_t *counters;

/* Where QEMU maps the RAM file; it does so after plugins are installed. */
static void find_ram(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[PATH_MAX + 128], path[PATH_MAX];
	uintptr_t start, end;
	uint64_t offset;

	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNx64 " %*s %*s %4095[^\n]", &start,
			   &end, &offset, path) == 4 &&
		    offset == 0 && strcmp(path, ram_path) == 0)
			ram = (uint8_t *)start;
	if (maps)
		fclose(maps);
	if (!ram) {
		fprintf(stderr, "coverage: the RAM file %s is not mapped\n", ram_path);
		exit(1);
	}
}

#if INTERFACE > 1
static void ran(unsigned int vcpu, void *counter)
{
	(void)vcpu;
	__atomic_fetch_add((uint64_t *)counter, 1, __ATOMIC_RELAXED);
}
#endif

static void count(struct qemu_plugin_insn *insn, uint64_t *counter)
{
#if INTERFACE > 1
	qemu_plugin_register_vcpu_insn_exec_cb(insn, ran, QEMU_PLUGIN_CB_NO_REGS, counter);
#else
	qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, counter, 1);
#endif
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	size_t insns = qemu_plugin_tb_n_insns(tb);
	(void)id;

	if (address < VMALLOC_START || address >= VMALLOC_END)
		return;
	if (!ram)
		find_ram();
	for (size_t i = 0; i < insns; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		size_t at = (uint8_t *)qemu_plugin_insn_haddr(insn) - ram;

		if (at < ram_size)
			count(insn, &counters[at / 4]);
	}
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	const char *path = NULL;
	struct stat status;
	int file;
	(void)info;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "counters=", 9) == 0)
			path = argv[i] + 9;
		else if (strncmp(argv[i], "ram=", 4) == 0)
			snprintf(ram_path, sizeof(ram_path), "%s", argv[i] + 4);
	}
	file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (file < 0 || fstat(file, &status) != 0) {
		fprintf(stderr, "coverage: the file for the counters cannot be opened\n");
		return -1;
	}
	ram_size = status.st_size / 2;
	counters = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	if (counters == MAP_FAILED) {
		fprintf(stderr, "coverage: the counters cannot be mapped\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}

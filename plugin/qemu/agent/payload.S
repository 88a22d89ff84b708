/* SPDX-License-Identifier: MIT */
/*
 * Two payloads, both position independent, little-endian, real mode.
 *
 * guest_stub runs in the guest: r31 is the mailbox (guest real address).
 *   mailbox + 0x00  hypercall number, then seven arguments (r4..r10)
 *   mailbox + 0x80  results r3, r4
 * It then leaves to the VMM through an hcall that KVM does not know.
 *
 * nested_payload runs in a nested guest, from nested real address 0:
 *   r3 address, r4 what (0 load, 1 store r5, 2 jump), 8 bytes wide.
 * It ends in `sc 1` with r3 = 0 (done) or the vector of the interrupt taken.
 * A loaded value is in r5. Code that is jumped to returns with blr.
 */
	.machine power9
	.section .rodata.payload, "a"

	.globl guest_stub, guest_stub_end
	.balign 16
guest_stub:
	ld	3, 0x00(31)
	ld	4, 0x08(31)
	ld	5, 0x10(31)
	ld	6, 0x18(31)
	ld	7, 0x20(31)
	ld	8, 0x28(31)
	ld	9, 0x30(31)
	ld	10, 0x38(31)
	sc	1
	std	3, 0x80(31)
	std	4, 0x88(31)
	li	3, 0x7ff0
	sc	1
	b	guest_stub
guest_stub_end:

	.globl nested_payload, nested_payload_end
	.balign 16
nested_payload:
	cmpdi	4, 1
	beq	1f
	bgt	2f
	ld	5, 0(3)
	b	3f
1:	std	5, 0(3)
	b	3f
2:	mtctr	3
	bctrl
3:	li	3, 0
	sc	1
	b	.
	/* Every interrupt of the nested guest ends in an exit, not in a hang. */
	.org	nested_payload + 0x100
	.set	vector, 0x100
	.rept	(0x1000 - 0x100) / 0x20
	li	3, vector
	sc	1
	b	.
	.org	nested_payload + vector + 0x20
	.set	vector, vector + 0x20
	.endr
nested_payload_end:
	.section .note.GNU-stack, "", @progbits

# A kernel: banner, notes, BTF, export tables, and the configuration that make-seeds packs (IKCONFIG). The
# beginning is that of an arm64 Image (Documentation/arch/arm64/booting.rst), if nothing is before it.
	.section .interp,"a"
	.fill 0x38
	.ascii "ARM\x64"
	.long 0
	.section .rodata,"a"
	.ascii "Linux version 6.1.0-56-cloud-amd64 (a@b) (gcc-12 (Debian 12.2.0) 12.2.0) #1 SMP x\n\0"
	.ascii "IKCFG_ST"
	.incbin "config.gz"
	.ascii "IKCFG_ED"
	.section .notes,"a",@note
	.long 4, 20, 3
	.asciz "GNU"
	.fill 20, 1, 0xab
	.long 6, 4, 0x100
	.asciz "Linux"
	.balign 4
	.ascii "salt"
	.section .BTF,"a"
	.incbin "types.btf"
# In their order: strings come behind what points to them.
	.irp table, __ksymtab, __ksymtab_gpl, __kcrctab, __kcrctab_gpl, __ksymtab_strings
	.section \table,"a"
	.balign 4
	.endr
# One part, so that distances in a file without sections are those in memory.
.macro export name
	.long start - ., 9f - ., 0
	.pushsection __ksymtab_strings,"a"
9:	.asciz "\name"
	.popsection
.endm
.macro exports letter
	.irp digit, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, a, b, c, d, e, f
	export \letter\digit
	.endr
.endm
	.section __ksymtab,"a"
	exports a
	exports b
	.section __ksymtab_gpl,"a"
	exports c
	.section __kcrctab,"a"
	.fill 32, 4, 0x11223344
	.section __kcrctab_gpl,"a"
	.fill 16, 4, 0x55667788
	.text
	.globl _start
_start:
start:
	ret

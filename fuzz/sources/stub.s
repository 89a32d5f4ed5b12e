# What stands for the boot stub of a unified kernel image.
	.globl _start
_start:
	ret
	.data
	.asciz "stub"

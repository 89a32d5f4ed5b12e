# A module as modpost links it: what module::Module reads, and the probe of sizes. Exports have
# CRCs, one by relocation; with NEW there are __version_ext_* and __kflagstab (Linux 6.14, 7.1).
	.section .modinfo,"a"
	.asciz "vermagic=6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions "
	.asciz "name=seed"
	.asciz "license=GPL"
	.asciz "version=2.3.2-1"
	.asciz "depends=spl,znvpair"
	.asciz "import_ns=CRYPTO_INTERNAL"
	.section __ksymtab_strings,"a"
1:	.asciz "seed_alpha"
2:	.asciz "seed_beta"
3:	.asciz "SEED_NS"
	.section __ksymtab,"a"
	.long alpha - ., 1b - ., 0
	.long beta - ., 2b - ., 3b - .
.if NEW
	.section __kflagstab,"a"
	.byte 0, 1
	.section __version_ext_crcs,"a"
	.long 0x12345678, 0x9abcdef0
	.section __version_ext_names,"a"
	.asciz "module_layout"
	.asciz "kmalloc"
.else
	.section __kcrctab,"a"
	.long 0x1c3a5e0b
	.long __crc_beta
	.set __crc_beta, 0x6f7a8b9c
	.section __versions,"a"
	.quad 0x12345678
	.asciz "module_layout"
	.balign 64
	.quad 0x9abcdef0
	.asciz "kmalloc"
	.balign 64
.endif
	.section .gnu.linkonce.this_module,"aw"
	.zero 24
	.quad init_module
	.zero 32
	.quad cleanup_module
	.zero 24
	.section .zfs_prefix_sizes,"a"
	.rept 35
	.quad 704
	.endr
	.text
	.globl init_module, cleanup_module, alpha, beta
init_module:
	call kmalloc
alpha:
cleanup_module:
beta:
	ret
	.weak perhaps
	.quad perhaps
